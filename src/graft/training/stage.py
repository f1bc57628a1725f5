"""What stands around the loop: read the token tables, load the base, take the lock, write the two outputs."""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.adapters import AdapterConfig, AdapterSummary, attach, columns_of, describe, head_alone
from graft.artifact import (
    attention,
    begin_from,
    folder_of,
    pick_device,
    pinned,
    planned_identity,
    reproducible,
    save,
    verified,
)
from graft.base import BaseConfig, locked, quantization
from graft.errors import ConfigError, IntegrityError, TrainingDiverged
from graft.hardware import free_bytes, hardware
from graft.identity import digest_json, run_key
from graft.tasks import TaskConfig
from graft.tokenization import probe_rows, token_rows
from graft.training import profiling, throughput
from graft.training.checkpoints import Checkpoints, forget_leftovers
from graft.training.distributed import launch, processes_of, refuse_sharding
from graft.training.forward import efficient, set_dropout
from graft.training.frozen import Feed, above_frozen_layers
from graft.training.loop import Inputs, Outcome, fit
from graft.training.ranks import ALONE, Ranks
from graft.training.record import Record, Unwritten, lines
from graft.training.section import TrainingConfig
from graft.training.sharding import shard
from graft.training.signals import Stop
from graft.workspace import Workspace, read_json, replaced, write_json
from graft.workspace import locked as lock_held

if TYPE_CHECKING:
    import torch

LOCK_WAIT_SECONDS = 10.0
"""A training that was killed with its flow takes a moment to let go of its lock."""
CURVES = ("step", "loss", "learning_rate", "gradient_norm")
METRICS = "metrics.jsonl"
SEEDS_FILE = "seeds.json"
TRAIN = "train: "
"""How the stage's lines begin."""
DONE = ".done"
"""How the name of a folder in the store ends that holds a finished training, until all its seeds are."""


def run(
    workspace: Workspace,
    *,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    ranks: Ranks = ALONE,
) -> None:
    """Train once per seed, prepare the reload proofs' probes, and write the outputs.

    Each training has its own key, checkpoints and lock, and is put aside when it is done: a kill during the second
    costs nothing of the first. Where several processes are to train, this one starts and watches them; each of them
    comes here with its place among the ``ranks``.
    """
    refuse_sharding(base, adapter, training)
    processes = processes_of(training, pick_device(training.device))
    if processes > ranks.size:
        launch(workspace, task=task, base=base, adapter=adapter, training=training, processes=processes)
        return
    with reproducible(training.threads), Stop() as stop, contextlib.ExitStack() as locks:
        if ranks.size > 1:
            ranks.stop = stop
        done = []
        for seed in training.seeds:
            own, which = training.of_seed(seed), _which(training, seed)
            try:
                done.append(_trained(workspace, task, base, adapter, own, ranks, stop, locks, which))
            except TrainingDiverged as error:
                if not which:
                    raise
                raise TrainingDiverged(f"{which.removeprefix(TRAIN)}: {error}", problems=error.problems) from error
        if not ranks.is_first:
            return
        with (
            replaced(workspace.adapter) as folder,
            replaced(workspace.training) as beside,
            replaced(workspace.repeats) as others,
        ):
            shutil.copytree(done[0] / "adapter", folder, dirs_exist_ok=True)
            shutil.copytree(done[0] / "training", beside, dirs_exist_ok=True)
            write_json(others / SEEDS_FILE, {"seeds": list(training.seeds)})
            for seed, one in zip(training.seeds[1:], done[1:], strict=True):
                shutil.copytree(one / "adapter", others / f"seed-{seed}")
                shutil.copytree(one / "training", beside / f"seed-{seed}")
        for one in done:
            shutil.rmtree(one)
    shutil.rmtree(workspace.failed / "train", ignore_errors=True)


def _which(training: TrainingConfig, seed: int) -> str:
    """Return which of several trainings it is, for people; empty where there is one."""
    if training.repeats == 1:
        return ""
    return f"{TRAIN}seed {seed}, {training.seeds.index(seed) + 1} of {training.repeats}"


def _trained(
    workspace: Workspace,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    ranks: Ranks,
    stop: Stop,
    locks: contextlib.ExitStack,
    which: str,
) -> Path:
    """Train with one seed, from its newest checkpoint on; return the folder that holds ``adapter`` and ``training``."""
    device = pick_device(training.device)
    identity = planned_identity(workspace, task, base, adapter, training) | {"device": device}
    if ranks.size > 1:
        identity["processes"] = ranks.size
    key = digest_json(identity)[:32]
    if ranks.is_first:
        lock = lock_held(workspace.checkpoints / f"{key}.lock", purpose="training", wait_seconds=LOCK_WAIT_SECONDS)
        locks.enter_context(lock)
    done = workspace.checkpoints / f"{key}{DONE}"
    if which:
        print(which, flush=True)
    if ranks.first(_is_whole(done)):
        print("train: it was trained before this was interrupted", flush=True)
        return done
    live = workspace.live / run_key(identity) / METRICS
    checkpoints = Checkpoints(workspace.checkpoints / key, key, live)
    for leftover in forget_leftovers(checkpoints.folder) if ranks.is_first else ():
        print(f"train: removed {leftover.name}, which a killed process left unfinished", flush=True)
    inputs, new_modules, described = _inputs(workspace, task, base, adapter, training, identity, ranks)
    with (
        _report_on_divergence(workspace, ranks),
        _frozen(workspace, inputs, identity) as feed,
        efficient(inputs, feed),
        profiling.profiling(device, wanted=profiling.is_wanted() and ranks.is_first) as profiler,
    ):
        tried = inputs if feed else replace(inputs, free_bytes=_free_bytes(inputs))
        outcome = fit(
            tried,
            checkpoints,
            lambda step: Record(live, step) if ranks.is_first else Unwritten(),
            stop,
            profiler,
        )
    if not ranks.is_first:
        return done
    if ranks.sharded:
        inputs = _whole(inputs, workspace, task, base, adapter, training, identity)
    with replaced(done) as folder:
        (folder / "adapter").mkdir()
        (folder / "training").mkdir()
        save(inputs.model, folder / "adapter", identity, _probe(inputs, probe_rows(workspace.tokens)), new_modules)
        _write_training(folder / "training", live, inputs, outcome, run_key(identity), described, feed)
        if profiler is not None:
            profiler.write(folder / "training")
    checkpoints.remove()
    return done


def _is_whole(done: Path) -> bool:
    """Return whether a training lies here with every byte of its adapter."""
    if not done.is_dir():
        return False
    try:
        verified(done / "adapter")
    except (IntegrityError, ConfigError):
        return False
    return (done / "training" / "summary.json").is_file()


def _inputs(
    workspace: Workspace,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    identity: dict[str, Any],
    ranks: Ranks,
    *,
    beside: bool = False,
) -> tuple[Inputs, list[str], AdapterSummary]:
    """Load rows, base and adapter; the seed is set before any new weight is drawn.

    What is trained is described now: a method may change its ranks on the way, or its form at the end. ``beside``: the
    model is whole, and in host memory.
    """
    import torch

    device = identity["device"]

    manifest = read_json(workspace.tokens / "manifest.json")
    one, state = tasks.get(task.name), identity["task"]["state"]
    folder = locked(workspace, base).folder(workspace.root)
    torch.manual_seed(training.seed)
    model, new_modules = one.load_model(
        str(folder),
        task,
        state,
        dtype=getattr(torch, base.dtype),
        trust_remote_code=base.trust_remote_code,
        **attention(device, manifest["max_length_tokens"]),
        **quantization.arguments(base.quantization, device),
    )
    dropout = 0.0 if _head_alone(adapter, training) else training.base_dropout
    if dropout is not None:
        set_dropout(model, dropout)
    wrapped = attach(model, adapter, new_modules, unfreeze_patterns=training.unfreeze, columns=columns_of(task))
    start = pinned(workspace, training.init_from)
    if start is not None:
        said = begin_from(wrapped, folder_of(workspace, start), identity, new_modules)
        print("; ".join([f"train: starts from the adapter of {start}", *said]), flush=True)
    if ranks.sharded and not beside:
        shard(wrapped, device, ranks.size)
    else:
        wrapped = wrapped.to("cpu" if beside else device)
    summary = describe(wrapped)
    on = f" on {len(summary.modules)} modules" if summary.modules else ""
    where = f"{ranks.size} processes on {device}" if ranks.size > 1 else device
    print(f"train: {summary.method}{on}, {summary.counted}, {_type_of(base)} base, {where}", flush=True)
    inputs = Inputs(
        model=wrapped,
        task=one,
        task_config=task,
        state=state,
        train_rows=token_rows(workspace.tokens, "train"),
        validation_rows=token_rows(workspace.tokens, "validation"),
        pad_token_id=manifest["pad_token_id"],
        config=training,
        device=device,
        ranks=ranks,
    )
    return inputs, new_modules, summary


def _whole(
    inputs: Inputs,
    workspace: Workspace,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    identity: dict[str, Any],
) -> Inputs:
    """Return inputs with the trained adapter on a whole base, in place of one of which this rank has a part."""
    import torch

    with contextlib.redirect_stdout(None):  # what there is to say was said
        again, *_ = _inputs(workspace, task, base, adapter, training, identity, inputs.ranks, beside=True)
    places = dict(again.model.named_parameters())
    with torch.no_grad():
        for name, value in inputs.model.named_parameters():
            if value.requires_grad:
                places[name].copy_(value)
    return again


def _free_bytes(inputs: Inputs) -> int | None:
    """Return the memory that a step may take; None where params say what goes through the model at once."""
    config, ranks, device = inputs.config, inputs.ranks, inputs.device
    if config.micro_batch_rows or config.micro_batch_tokens or (device == "cpu" and ranks.sharded):
        return None
    return free_bytes(device) // (ranks.size if device == "cpu" else 1)


def _type_of(base: BaseConfig) -> str:
    if base.quantization is None:
        return base.dtype
    return "8-bit" if base.quantization.get("load_in_8bit") else "4-bit"


def _head_alone(adapter: AdapterConfig, training: TrainingConfig) -> bool:
    """Return whether nothing below the head is trained: then the base's dropout is off."""
    return head_alone(adapter.method) and not training.unfreeze


@contextlib.contextmanager
def _frozen(workspace: Workspace, inputs: Inputs, identity: dict[str, Any]) -> Iterator[Feed | None]:
    """Run the training from its lowest trained layer on, where layers lie below it.

    Not with a base in shards: all ranks must run its layers equally often, and one may have a row that another lacks.
    """
    import torch

    if inputs.ranks.sharded:
        yield None
        return

    names = ("task", "clean", "privacy", "max_length_tokens", "code", "threads", "versions", "device")
    made_of = {name: identity[name] for name in names if name in identity}
    card = torch.cuda.get_device_name() if inputs.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    splits = read_json(workspace.tokens / "manifest.json")["splits"]
    base = identity["base"]
    made_of |= {"base": base["digest"], "dtype": base["dtype"], "quantization": base.get("quantization"), "card": card}
    made_of |= {"rows": [splits[name]["digest"] for name in ("train", "validation")]}
    with above_frozen_layers(inputs, workspace.store / "frozen", made_of) as feed:
        yield feed


@contextlib.contextmanager
def _report_on_divergence(workspace: Workspace, ranks: Ranks) -> Any:
    try:
        yield
    except TrainingDiverged as error:
        if ranks.is_first:
            report = {"error": str(error), "rows": list(error.problems)}
            write_json(workspace.failed / "train" / "report.json", report)
        raise


def _probe(inputs: Inputs, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of token rows with the outputs of adapter and base on it, for the reload proof.

    Computed on the CPU in float32, wherever and in whatever type the adapter was trained: a proof that another
    machine can repeat must not depend on a GPU or on a processor's bfloat16 products.
    """
    import torch

    batch = inputs.task.collate(rows, inputs.pad_token_id, inputs.state)
    model = inputs.model.to("cpu").float().eval()
    with torch.inference_mode():
        found = {"adapter_outputs": inputs.task.outputs(inputs.task_config, model, batch)}
        with model.disable_adapter():
            found["base_outputs"] = inputs.task.outputs(inputs.task_config, model, batch)
    return {**batch, **found}


def _write_training(
    folder: Path, live: Path, inputs: Inputs, outcome: Outcome, key: str, summary: AdapterSummary, feed: Feed | None
) -> None:
    progress, plan = outcome.progress, outcome.plan
    shutil.copyfile(live, folder / METRICS)
    with (folder / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CURVES)
        writer.writerows([line[name] for name in CURVES] for line in lines(live) if "loss" in line)
    kept = progress.best_step if inputs.config.keep == "best" else progress.step
    facts: dict[str, Any] = {
        "run_key": key,
        "steps": progress.step,
        "epochs": round(progress.step / plan.steps_per_epoch, 4),
        "kept_step": kept,
        "best_step": progress.best_step,
        f"best_validation_{inputs.task.selecting.name}": progress.best_value,
        "rows": len(inputs.train_rows),
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": round(progress.tokens / progress.seconds, 1),
        "parameters_trained": summary.trainable_parameters,
        "parameters_total": summary.total_parameters,
        "device": inputs.device,
        "resumed_from_step": outcome.resumed_from_step,
        **throughput.summary(lines(live)),
        "stopped_early": progress.step < plan.steps,
        "skipped_steps": progress.skipped_steps,
        "memory_halvings": progress.halvings,
        "piece_tokens": progress.piece_tokens,
        "processes": inputs.ranks.size,
        "checkpoints_failed": outcome.checkpoints.failed,
        "checkpoint_blocked_seconds": [round(one, 6) for one in outcome.checkpoints.blocked_seconds],
    }
    if feed is not None:
        facts["frozen"] = feed.facts()
    write_json(folder / "summary.json", facts)
    write_json(folder / "hardware.json", hardware(inputs.device, inputs.config.threads) | outcome.meter.peak_facts())
