from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import Interrupted, TrainingDiverged
from graft.training.batching import Plan
from graft.training.checkpoints import Checkpoints
from graft.training.forward import efficient
from graft.training.record import Record, lines
from graft.training.signals import Stop

Make = Callable[..., Any]


# All rows are learnt within a few steps, and equal scores do not replace the first: the best step is never the last,
# whatever the last bits of a processor's products are.
WORSENING = {"learning_rate": 0.03, "schedule": "constant", "epochs": 6, "evaluate_every_epochs": 0.5}


def weights_of(inputs: Any) -> dict[str, Any]:
    return {name: value for name, value in inputs.model.named_parameters() if value.requires_grad}


def copied(inputs: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in weights_of(inputs).items()}


def run(inputs: Any, folder: Path, stop: Stop | None = None) -> Any:
    from graft.training.loop import fit

    opener: Callable[[int], Record] = lambda step: Record(folder / "metrics.jsonl", step)  # noqa: E731
    return fit(inputs, Checkpoints(folder / "checkpoints", "key"), opener, stop or Stop())


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_steps_are_those_of_a_plain_loop(make_inputs: Make, tmp_path: Path) -> None:
    """Second route: mean loss, clip_grad_norm_, AdamW in its plain form, transformers' schedule."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import get_scheduler

    settings = {"weight_decay": 0.1, "max_gradient_norm": 0.5, "warmup_share": 0.2, "keep": "last"}
    ours, plain = make_inputs(**settings), make_inputs(**settings)
    assert equal(copied(ours), copied(plain))
    outcome = run(ours, tmp_path)
    plan, weights = Plan([len(row["input_ids"]) for row in plain.train_rows], plain.config), weights_of(plain)
    groups = [
        {"params": [value for value in weights.values() if (value.ndim > 1) is decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=False, foreach=False)
    schedule = get_scheduler("linear", optimizer, plan.warmup_steps, plan.steps + 1)
    plain.model.train()
    losses, norms = [], []
    for step in range(1, plan.steps + 1):
        optimizer.step()  # nothing to do yet: sets the schedule going without a warning
        schedule.step()
        batch = plain.task.collate([plain.train_rows[row] for row in plan.rows(step)], plain.pad_token_id, plain.state)
        labels = batch.pop("labels")
        loss = cross_entropy(plain.model(**batch).logits, labels)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), 0.5).item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    recorded = [line for line in lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert outcome.progress.step == plan.steps == len(recorded) == 12
    assert [line["loss"] for line in recorded] == pytest.approx(losses, rel=1e-4)
    assert [line["gradient_norm"] for line in recorded] == pytest.approx(norms, rel=1e-3)
    for name, value in weights.items():
        assert torch.allclose(weights_of(ours)[name], value, atol=1e-4), name


def test_micro_batches_give_the_same_gradient(make_inputs: Make) -> None:
    import torch

    from graft.training.loop import _backward
    from graft.training.throughput import Meter

    found = []
    for size in (None, 3, 1):
        inputs = make_inputs(micro_batch_rows=size)
        lengths = [len(row["input_ids"]) for row in inputs.train_rows]
        loss, items = _backward(inputs, Plan(lengths, inputs.config), 1, Meter(inputs))
        found.append((loss, items, {name: value.grad for name, value in weights_of(inputs).items()}))
    for loss, items, gradients in found[1:]:
        assert items == found[0][1] == 8
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, found[0][2][name], rtol=1e-5, atol=1e-6), name


def test_loss_falls_and_the_base_stays(make_inputs: Make, tmp_path: Path) -> None:
    inputs = make_inputs(dropout=0.1, epochs=12)
    before = {name: value.clone() for name, value in inputs.model.state_dict().items() if "lora_" not in name}
    outcome = run(inputs, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    assert outcome.progress.best_value >= 0.8
    after = inputs.model.state_dict()
    assert all(after[name].equal(value) for name, value in before.items() if "modules_to_save" not in name)
    assert not any(value.grad is not None for value in inputs.model.parameters())
    assert not inputs.model.training


def test_bfloat16_base_learns_too(make_inputs: Make, tmp_path: Path) -> None:
    run(make_inputs(dtype="bfloat16", epochs=12), tmp_path)
    losses = [line["loss"] for line in lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_record_holds_one_line_per_step_and_per_scoring(make_inputs: Make, tmp_path: Path) -> None:
    inputs = make_inputs()
    run(inputs, tmp_path)
    found = list(lines(tmp_path / "metrics.jsonl"))
    steps = [line for line in found if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["step"] for line in found if "validation_accuracy" in line] == [6, 12]
    assert steps[5]["tokens"] == sum(len(row["input_ids"]) for row in inputs.train_rows)
    assert steps[5]["epoch"] == 1.0
    names = {"step", "epoch", "loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second"}
    assert set(steps[0]) == names | {"mfu", "padding_share", "device_utilisation", "memory_bytes", "seconds"}
    assert all(math.isfinite(value) for line in found for value in line.values())


def test_keep_best_returns_the_best_weights(make_inputs: Make, tmp_path: Path) -> None:
    import torch

    best, last = make_inputs(keep="best", **WORSENING), make_inputs(keep="last", **WORSENING)
    outcome = run(best, tmp_path / "best")
    run(last, tmp_path / "last")
    scores = {
        line["step"]: line["validation_accuracy"]
        for line in lines(tmp_path / "best" / "metrics.jsonl")
        if "validation_accuracy" in line
    }
    assert outcome.progress.best_value == max(scores.values())
    assert outcome.progress.best_step == min(step for step, value in scores.items() if value == max(scores.values()))
    assert outcome.progress.best_step < outcome.progress.step
    assert equal(copied(best), outcome.progress.best_weights)
    assert not torch.equal(
        *(weights_of(one)["base_model.model.classifier.modules_to_save.default.weight"] for one in (best, last))
    )


@pytest.mark.parametrize("at", [4, 5, 6, 11])
def test_killed_training_resumes_bit_identically(make_inputs: Make, tmp_path: Path, at: int) -> None:
    settings = {"dropout": 0.2, "checkpoint_every_steps": 5, "evaluate_every_epochs": 0.5}
    whole = make_inputs(**settings)
    run(whole, tmp_path / "whole")

    class KilledError(Exception):
        pass

    class Killing(Record):
        def add(self, line: dict[str, Any]) -> None:
            if line["step"] > at:
                raise KilledError("at once")  # the loop has no handler: the same files lie there as after SIGKILL
            super().add(line)

    from graft.training.loop import fit

    store = Checkpoints(tmp_path / "parts" / "checkpoints", "key")
    with pytest.raises(KilledError, match="at once"):
        fit(make_inputs(**settings), store, lambda step: Killing(tmp_path / "parts" / "metrics.jsonl", step), Stop())
    rest = make_inputs(**settings)
    outcome = run(rest, tmp_path / "parts")
    assert outcome.resumed_from_step == at // 5 * 5
    assert equal(copied(rest), copied(whole))

    def stable(folder: str) -> list[dict[str, Any]]:
        timed = ("tokens_per_second", "mfu", "device_utilisation", "memory_bytes", "seconds")
        found = lines(tmp_path / folder / "metrics.jsonl")
        return [{name: value for name, value in line.items() if name not in timed} for line in found]

    assert stable("parts") == stable("whole")


def test_resume_remembers_the_best_weights_of_before(make_inputs: Make, tmp_path: Path) -> None:
    settings = WORSENING
    whole = make_inputs(**settings)
    best_step = run(whole, tmp_path / "whole").progress.best_step

    class Stopping(Record):
        def add(self, line: dict[str, Any]) -> None:
            super().add(line)
            if line["step"] == best_step + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    from graft.training.loop import fit

    store = Checkpoints(tmp_path / "parts" / "checkpoints", "key")
    with Stop() as stop, pytest.raises(Interrupted, match=f"after step {best_step + 1} of 36"):
        fit(make_inputs(**settings), store, lambda step: Stopping(tmp_path / "parts" / "metrics.jsonl", step), stop)
    rest = make_inputs(**settings)
    assert run(rest, tmp_path / "parts").progress.best_step == best_step
    assert equal(copied(rest), copied(whole))


def test_signal_leaves_a_checkpoint_of_the_last_step(make_inputs: Make, tmp_path: Path) -> None:
    whole = make_inputs(dropout=0.1)
    run(whole, tmp_path / "whole")

    class Signalling(Record):
        def add(self, line: dict[str, Any]) -> None:
            super().add(line)
            if line["step"] == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    from graft.training.loop import fit

    store, before = Checkpoints(tmp_path / "checkpoints", "key"), signal.getsignal(signal.SIGTERM)
    with (
        Stop() as stop,
        pytest.raises(Interrupted, match="stopped by SIGTERM after step 7 of 12; the same command") as caught,
    ):
        fit(make_inputs(dropout=0.1), store, lambda step: Signalling(tmp_path / "metrics.jsonl", step), stop)
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == before
    rest = make_inputs(dropout=0.1)
    assert run(rest, tmp_path).resumed_from_step == 7
    assert equal(copied(rest), copied(whole))


def test_divergence_names_step_rate_and_rows(make_inputs: Make, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"at step \d+ of 12 .*learning rate .*data/train/part-0000.jsonl:"
    ) as caught:
        run(make_inputs(learning_rate=1e30, warmup_share=0.0), tmp_path)
    assert len(caught.value.problems) == 8
    assert "; lower the learning rate" in str(caught.value)


def test_dropout_of_a_step_depends_on_seed_and_step_alone(make_inputs: Make, tmp_path: Path) -> None:
    import torch

    first, second = make_inputs(dropout=0.3, max_steps=3), make_inputs(dropout=0.3, max_steps=3)
    run(first, tmp_path / "1")
    torch.rand(1234)
    run(second, tmp_path / "2")
    assert equal(copied(first), copied(second))
    other = make_inputs(dropout=0.3, max_steps=3, seed=8)
    run(other, tmp_path / "3")
    assert not equal(copied(first), copied(other))


@pytest.mark.slow
def test_steps_are_those_of_transformers_trainer(make_inputs: Make, tmp_path: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    settings = {"keep": "last", "weight_decay": 0.0, "warmup_share": 0.0, "schedule": "constant", "epochs": 3}
    ours, theirs = make_inputs(**settings), make_inputs(**settings)
    with efficient(ours) as forward:
        assert forward.packed
        assert forward.fused_layers
        run(ours, tmp_path / "ours")
    plan = Plan([len(row["input_ids"]) for row in theirs.train_rows], theirs.config)
    order = [plan.rows(step) for step in range(1, plan.steps + 1)]

    class Batches(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(order)

        def __getitem__(self, index: int) -> list[Any]:
            return [theirs.train_rows[row] for row in order[index]]

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(Batches())

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        per_device_train_batch_size=1,  # one of our batches
        num_train_epochs=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=7,
    )
    trainer = InOrder(
        theirs.model,
        arguments,
        train_dataset=Batches(),
        data_collator=lambda batches: theirs.task.collate(batches[0], theirs.pad_token_id, theirs.state),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    recorded = [line["loss"] for line in lines(tmp_path / "ours" / "metrics.jsonl") if "loss" in line]
    assert recorded == pytest.approx(losses, abs=2e-4)  # theirs are rounded to four digits
    for name, value in weights_of(theirs).items():
        assert torch.allclose(weights_of(ours)[name], value, atol=1e-4), name
