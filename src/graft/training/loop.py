"""The one training loop, top to bottom.

A step's gradient is that of the *sum* of its losses over all micro-batches, divided once by the number of items that
the step sums over: how a step is cut into micro-batches, and long rows into windows, changes nothing but rounding, also
where rows have unequally many items (tokens). The step's loss in the record is that same quotient.

Gradients exist for what is trained alone: the base has ``requires_grad`` off but for the parts that
``training.unfreeze`` names, so nothing runs backward below the lowest trained layer.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.adapters import Procedure, procedure_of, unfrozen
from graft.artifact import answer_columns, judged
from graft.errors import IntegrityError, Interrupted, ResourceMissing, TrainingDiverged, shown
from graft.hardware import memory_bytes
from graft.tasks import State, Task, TaskConfig
from graft.tokenization import lengths_of
from graft.training.batching import Plan, mixed_seed
from graft.training.checkpoint_writer import CheckpointWriter
from graft.training.checkpoints import Checkpoint, Checkpoints
from graft.training.fitting import token_budget
from graft.training.loraplus import split_groups
from graft.training.memory import MemoryFullError, noticed, release
from graft.training.ranks import ALONE, Ranks
from graft.training.section import TrainingConfig
from graft.training.sharding import evened
from graft.training.signals import Stop
from graft.training.supply import Cut, Supply, most_lines
from graft.training.throughput import Meter

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel

    from graft.training.profiling import Profiler
    from graft.training.record import Record

    Weights = dict[str, torch.nn.Parameter]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
COUNTERS = (
    *("tokens", "seconds", "best_step", "best_value", "unimproved", "skipped_steps", "skipped_in_row", "halvings"),
    "piece_tokens",
)
"""What of a :class:`Progress` is a number in a checkpoint."""
TokenRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """What a training reads; nothing here changes but the adapter's weights in ``model``."""

    model: PeftModel
    task: Task
    task_config: TaskConfig
    state: State
    train_rows: TokenRows
    validation_rows: TokenRows
    pad_token_id: int
    config: TrainingConfig
    device: str
    ranks: Ranks = ALONE
    """The processes that train together."""
    free_bytes: int | None = None
    """The memory that a step may take; None: it is not tried out beforehand."""


@dataclass
class Progress:
    """What a training knows after a step, beside weights and moments: goes into checkpoints."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    unimproved: int = 0
    """How many scorings of the validation split there were since the best one."""
    skipped_steps: int = 0
    """Steps whose loss or gradient was no finite number: they moved nothing."""
    skipped_in_row: int = 0
    halvings: int = 0
    """How often the pieces of a step were halved because memory did not hold them."""
    piece_tokens: int | None = None
    """How many tokens go through the model at once, as a trial found before the first step; None: a whole step's."""


@dataclass(frozen=True)
class Outcome:
    """How a training went; the model holds the weights that ``training.keep`` asks for."""

    progress: Progress
    plan: Plan
    resumed_from_step: int
    checkpoints: CheckpointWriter
    """How often and how long it was held up by them."""
    meter: Meter
    """What measured its steps."""


def fit(
    inputs: Inputs,
    checkpoints: Checkpoints,
    open_record: Callable[[int], Record],
    stop: Stop,
    profiler: Profiler | None = None,
    *,
    ahead: bool | None = None,
) -> Outcome:
    """Train the adapter of ``inputs.model`` in place, from the newest checkpoint on.

    ``open_record(step)`` opens the :class:`Record` without what it holds of later steps; ``profiler`` looks at a few.
    ``ahead``: whether a thread makes what goes through the model next; None: not where that is the CPU.

    Raises:
        Interrupted: ``stop`` was asked for; a checkpoint of the last whole step is there, if it could be written.
        ResourceMissing: memory does not hold a single row, or the disk not the record.
        TrainingDiverged: loss or gradient became infinite or NaN, and stayed so.
    """
    config, model, ranks = inputs.config, inputs.model, inputs.ranks
    plan = Plan(lengths_of(inputs.train_rows), config)
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    own = base_weights(model, weights)
    optimizer = adamw(weights, config, own)
    if config.loraplus_lr_ratio is not None:
        split_groups(optimizer, weights, config.loraplus_lr_ratio, own)
    procedure = procedure_of(model)
    procedure.begin(plan.steps)
    progress = _resume(checkpoints.latest(), weights, optimizer, procedure)
    resumed, meter = progress.step, Meter(inputs)
    _refuse_unlike(ranks, resumed, weights)
    ahead = inputs.device != "cpu" if ahead is None else ahead
    with (
        open_record(resumed) as record,
        CheckpointWriter(checkpoints, record) as writer,
        Supply(inputs, plan, ahead=ahead) as supply,
    ):
        model.train()
        if not resumed and inputs.free_bytes is not None:
            progress.piece_tokens = token_budget(inputs, plan, inputs.free_bytes)
        for step in range(resumed + 1, plan.steps + 1):
            if profiler is not None:
                profiler.before(step, plan.steps)
            started = time.perf_counter()
            rate = plan.learning_rate(step)
            loss, items = _gradient(inputs, plan, step, progress, optimizer, weights, meter, supply)
            penalty = procedure.penalty()
            if penalty is not None:
                (penalty * items).backward()  # type: ignore[no-untyped-call]
            after_step = functools.partial(procedure.after_step, step)
            norm = _update(optimizer, weights, rate, loss, items, config.max_gradient_norm, after_step)
            _count_skipped(inputs, plan, step, loss, norm, progress)
            _advance(progress, plan, step, time.perf_counter() - started)
            line = _line(progress, plan, loss, rate, norm, time.perf_counter() - started, inputs.device, meter)
            record.add(line)
            record.tell(line, plan.steps)
            if plan.is_scored(step):
                record.add(_score(inputs, weights, progress))
                if config.patience is not None and progress.unimproved >= config.patience:
                    print(
                        f"train: ends after step {step}: {progress.unimproved} scorings without a better one",
                        flush=True,
                    )
                    break
            signal_name = ranks.stopped_by(stop)
            due = signal_name or (step % config.checkpoint_every_steps == 0 and step < plan.steps)
            if due and ranks.is_first:
                writer.save(_checkpoint(progress, weights, optimizer, procedure))
            if signal_name:
                raise _interrupted(signal_name, step, plan, writer)
    if config.keep == "best":
        _assign(weights, progress.best_weights)
    procedure.finish()
    model.eval()
    return Outcome(progress, plan, resumed, writer, meter)


def _refuse_unlike(ranks: Ranks, step: int, weights: Weights) -> None:
    """Refuse to begin where the ranks did not come to the same step and weights.

    Raises:
        IntegrityError: their checkpoints, bases or libraries differ.
    """
    if (
        ranks.size > 1
        and len(set(ranks.exchange(step, *(float(one.detach().double().sum()) for one in weights.values())))) > 1
    ):
        raise IntegrityError(
            f"training.processes: the {ranks.size} processes begin with different weights or at different steps; do "
            f"they read the same files, with the same libraries, on GPUs of one kind?"
        )


def _interrupted(signal_name: str, step: int, plan: Plan, writer: CheckpointWriter) -> Interrupted:
    """Return what says that a training can be resumed, and from where; its checkpoint has been written by then."""
    writer.flush()
    lost = "" if writer.written_step == step else f", from an earlier step: no checkpoint of step {step} was written"
    return Interrupted(
        f"train: stopped by {signal_name} after step {step} of {plan.steps}; the same command resumes{lost}"
    )


def base_weights(model: PeftModel, weights: Weights) -> frozenset[str]:
    """Return which of the trained ``weights`` are the base's own, by their names here."""
    own = {id(value) for value in unfrozen(model).values()}
    return frozenset(name for name, value in weights.items() if id(value) in own)


def adamw(weights: Weights, config: TrainingConfig, own: frozenset[str] = frozenset()) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019, algorithm 2) over the adapter; only matrices decay.

    A group's ``scale`` is its learning rate as a multiple of the adapter's; that of ``own``, weights of the base, is
    what ``training.unfreeze_learning_rate`` asks for.
    """
    import torch

    scale = (config.unfreeze_learning_rate or config.learning_rate) / config.learning_rate
    groups = [
        {
            "params": [one for name, one in weights.items() if (name in own) == of_base and (one.ndim >= 2) == decays],
            "weight_decay": config.weight_decay if decays else 0.0,
            "scale": scale if of_base else 1.0,
        }
        for of_base in (False, True)
        for decays in (True, False)
    ]
    # One kernel over all parameters: 2 ms a step instead of 15 for 75 small matrices.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True
    )


def _gradient(
    inputs: Inputs,
    plan: Plan,
    step: int,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    weights: Weights,
    meter: Meter,
    supply: Supply,
) -> tuple[float, int]:
    """Accumulate a step's gradient, in smaller pieces where memory does not hold it; each try begins from nothing.

    Several ranks add theirs. Returns the loss per item and the number of items.

    Raises:
        ResourceMissing: memory does not hold a single row.
    """
    import torch

    ranks = inputs.ranks
    own = (ranks.number,) if ranks.number else ()
    while True:
        torch.manual_seed(mixed_seed("dropout", inputs.config.seed, step, *own))
        rows: Sequence[int] = ()
        loss, items, reason = 0.0, 0, "on another rank"
        try:
            loss, items = _backward(inputs, plan, step, meter, progress.halvings, progress.piece_tokens, supply)
        except MemoryFullError as full:
            rows, reason = full.rows, full.reason
        told = ranks.exchange(loss, items, len(rows), rows[0] if rows else 0)
        full_at = [(int(count), int(row)) for _, _, count, row in told if count]
        if not full_at:
            ranks.add_gradients(weights)
            items = int(sum(one[1] for one in told))
            return sum(one[0] for one in told) / items, items
        optimizer.zero_grad(set_to_none=True)
        release()
        fewest, row = min(full_at)
        if ranks.sharded or (fewest == 1 and most_lines(inputs.config, progress.halvings) == 1):
            raise _too_large(inputs, plan, step, row, reason)
        progress.halvings += 1
        print(
            f"train: out of memory at step {step} with {fewest} rows at once ({reason}); going on with half as many "
            f"at a time, the rows of each step stay the same",
            flush=True,
        )


def _backward(
    inputs: Inputs,
    plan: Plan,
    step: int,
    meter: Meter,
    halvings: int = 0,
    piece_tokens: int | None = None,
    supply: Supply | None = None,
) -> tuple[float, int]:
    """Accumulate the gradient of this rank's summed loss; return that sum and the number of items in it.

    The losses are added where they are, in float64, which rounds none of them; a GPU is waited for once.
    """
    meter.begin()
    total: torch.Tensor | float = 0.0
    items = 0
    supply = supply or Supply(inputs, plan)
    pieces, spare = supply.pieces(Cut(step, halvings, piece_tokens)), supply.made(plan.rows(step)[:1], halvings)
    for (rows, piece), counts in evened(pieces, spare, inputs.ranks):
        with noticed(rows):
            here = {name: value.to(inputs.device, non_blocking=True) for name, value in piece.items()}
            with meter.watching():
                loss, count = inputs.task.loss(inputs.task_config, inputs.model, here)
            loss, count = (loss, count) if counts else (loss * 0, 0)
            loss.backward()  # type: ignore[no-untyped-call]
            meter.add(piece, count)
            total, items = total + loss.detach().double(), items + count
    return float(total), items


def _update(
    optimizer: torch.optim.Optimizer,
    weights: Weights,
    rate: float,
    loss: float,
    items: int,
    max_norm: float,
    after_step: Callable[[], None],
) -> float:
    """Scale the summed gradients to the mean, clip them, move the weights; return the norm before clipping.

    ``after_step`` is called while the gradients are there. With a loss or a norm that is not finite nothing moves.
    """
    import torch

    gradients = [value.grad for value in weights.values() if value.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients)) / items
    if math.isfinite(loss) and math.isfinite(norm):
        torch._foreach_mul_(gradients, min(1.0, max_norm / (norm + 1e-6)) / items)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.step()
        after_step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _count_skipped(inputs: Inputs, plan: Plan, step: int, loss: float, norm: float, progress: Progress) -> None:
    """Count a step that moved nothing because its loss or gradient is no finite number, and say so.

    Raises:
        TrainingDiverged: there were more in a row than ``training.max_skipped_steps``.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        progress.skipped_in_row = 0
        return
    progress.skipped_steps += 1
    progress.skipped_in_row += 1
    most = inputs.config.max_skipped_steps
    if progress.skipped_in_row > most:
        raise _diverged(inputs, plan, step, loss, norm, progress)
    what, where = _not_finite(inputs, plan, step, loss, norm)
    print(
        f"train: warning: step {step} skipped: {what}, {where}; {progress.skipped_in_row} of {most} in a row",
        flush=True,
    )


def _advance(progress: Progress, plan: Plan, step: int, seconds: float) -> None:
    progress.step = step
    progress.tokens += sum(plan.lengths[row] for row in plan.rows(step))
    progress.seconds += seconds


def _line(
    progress: Progress, plan: Plan, loss: float, rate: float, norm: float, seconds: float, device: str, meter: Meter
) -> dict[str, Any]:
    tokens = sum(plan.lengths[row] for row in plan.rows(progress.step))
    return {
        "step": progress.step,
        "epoch": round(progress.step / plan.steps_per_epoch, 4),
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        **({"skipped_steps": progress.skipped_steps} if progress.skipped_steps else {}),
        "tokens": progress.tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        **meter.facts(seconds),
        "memory_bytes": memory_bytes(device),
        "seconds": round(progress.seconds, 3),
    }


def _score(inputs: Inputs, weights: Weights, progress: Progress) -> dict[str, Any]:
    """Score the validation split, remember the weights if they are the best so far, return the record's line."""
    started, task = time.perf_counter(), inputs.task
    inputs.model.eval()
    table = judged(task, inputs.task_config, inputs.state, _answers(inputs, progress.halvings))
    inputs.model.train()
    values = {metric.name: metric.function(table) for metric in task.metrics if not metric.generated}
    selecting = task.selecting
    value, best = values[selecting.name], progress.best_value
    progress.unimproved += 1
    if best is None or (value > best if selecting.greater_is_better else value < best):
        progress.best_step, progress.best_value = progress.step, value
        progress.unimproved = 0
        progress.best_weights = {name: one.detach().clone() for name, one in weights.items()}
    progress.seconds += time.perf_counter() - started
    told = ", ".join(f"{name} {number:.4f}" for name, number in values.items())
    print(f"train: step {progress.step}, validation: {told}", flush=True)
    return {"step": progress.step} | {f"validation_{name}": float(number) for name, number in values.items()}


def _answers(inputs: Inputs, halvings: int) -> dict[str, np.ndarray]:
    """Return references and predictions of the validation rows; of several ranks each makes those of its share."""
    import numpy as np

    ranks, rows = inputs.ranks, inputs.validation_rows
    whole = ranks.sharded or len(rows) < ranks.size  # then each makes all of them
    share = range(len(rows)) if whole else ranks.share(range(len(rows)))
    table = answer_columns(
        inputs.model,
        inputs.task,
        inputs.task_config,
        inputs.state,
        rows if ranks.size == 1 else [rows[row] for row in share],
        processor=None,
        pad_token_id=inputs.pad_token_id,
        batch_rows=max(1, inputs.config.batch_rows >> halvings),
        device=inputs.device,
    )
    tables = ranks.gathered(table)
    if whole or len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate([range(number, len(rows), ranks.size) for number in range(ranks.size)]))
    return {name: np.concatenate([one[name] for one in tables])[order] for name in table}


def _checkpoint(
    progress: Progress, weights: Weights, optimizer: torch.optim.Optimizer, procedure: Procedure
) -> Checkpoint:
    moments = {
        kind: {name: optimizer.state[value][kind] for name, value in weights.items() if value in optimizer.state}
        for kind in MOMENTS
    }
    tensors: dict[str, Mapping[str, torch.Tensor]] = {
        "weights": {name: value.detach() for name, value in weights.items()},
        **moments,
        "best": progress.best_weights,
        "method": procedure.tensors(),
    }
    facts = {name: getattr(progress, name) for name in COUNTERS}
    return Checkpoint(progress.step, tensors, facts)


def _resume(
    found: Checkpoint | None, weights: Weights, optimizer: torch.optim.Optimizer, procedure: Procedure
) -> Progress:
    """Put a checkpoint's weights, moments and method state in place; return where it stood."""
    if found is None:
        return Progress()
    _assign(weights, found.tensors["weights"])
    for name, value in weights.items():
        if name in found.tensors["exp_avg"]:
            optimizer.state[value] = {kind: found.tensors[kind][name].to(value.device) for kind in MOMENTS}
    procedure.restore(found.tensors["method"])
    best = {name: value.to(weights[name].device) for name, value in found.tensors["best"].items()}
    print(f"train: going on from the checkpoint of step {found.step}", flush=True)
    return Progress(step=found.step, best_weights=best, **found.facts)


def _assign(weights: Weights, values: Mapping[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)


def _too_large(inputs: Inputs, plan: Plan, step: int, row: int, reason: str) -> ResourceMissing:
    return ResourceMissing(
        f"training: memory does not hold row {inputs.train_rows[row]['row']} alone ({plan.lengths[row]} tokens, step "
        f"{step}): {reason}; free memory, lower tokenization.max_length_tokens, or set base.dtype: bfloat16"
    )


def _not_finite(inputs: Inputs, plan: Plan, step: int, loss: float, norm: float) -> tuple[str, str]:
    """Return what is not finite at a step, and its learning rate and rows."""
    places = [str(inputs.train_rows[row]["row"]) for row in plan.rows(step)]
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
    listed = ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
    return what, f"learning rate {shown(plan.learning_rate(step))}, rows {listed}"


def _diverged(inputs: Inputs, plan: Plan, step: int, loss: float, norm: float, progress: Progress) -> TrainingDiverged:
    what, where = _not_finite(inputs, plan, step, loss, norm)
    before = progress.skipped_in_row - 1
    after = f", after {before} skipped steps in a row (training.max_skipped_steps)" if before else ""
    return TrainingDiverged(
        f"training.learning_rate: {what} at step {step} of {plan.steps} (epoch {step / plan.steps_per_epoch:.2f})"
        f"{after}, {where}; lower the learning rate or lengthen training.warmup_share, and look at these rows",
        problems=[str(inputs.train_rows[row]["row"]) for row in plan.rows(step)],
    )
