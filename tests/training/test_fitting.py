"""How much goes through the model at once, tried out on the real model; only the free memory is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graft.training.batching import Plan
from graft.training.checkpoints import Checkpoints
from graft.training.fitting import SHARE, _used, token_budget
from graft.training.record import Record, lines
from graft.training.signals import Stop

Make = Callable[..., Any]
SETTINGS = {"batch_rows": 16, "checkpoint_every_steps": 2, "dropout": 0.0}


class EndedError(Exception):
    """Ends a training at once."""


def plan_of(inputs: Any) -> Plan:
    return Plan([len(row["input_ids"]) for row in inputs.train_rows], inputs.config)


def needed(inputs: Any) -> int:
    """Return the smallest free memory of which a whole step is said to fit, by bisection."""
    low, high = 1, 1 << 34
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if token_budget(inputs, plan_of(inputs), middle) is None else (middle, high)
    return high


def run(inputs: Any, folder: Path, end_at: int = 0) -> Any:
    from graft.training.loop import fit

    class Ending(Record):
        def add(self, line: dict[str, Any]) -> None:
            super().add(line)
            if line["step"] == end_at:
                raise EndedError("at once")

    record = folder / "metrics.jsonl"
    return fit(inputs, Checkpoints(folder / "checkpoints", "key", record), lambda step: Ending(record, step), Stop())


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder / "metrics.jsonl") if "loss" in line]


def test_what_goes_through_at_once_takes_no_more_than_is_free(
    make_inputs: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = make_inputs(**SETTINGS)
    plan, whole = plan_of(inputs), needed(inputs)
    largest = max(sum(plan.lengths[row] for row in plan.rows(step)) for step in range(1, plan.steps_per_epoch + 1))
    capsys.readouterr()
    assert token_budget(inputs, plan, whole) is None
    assert capsys.readouterr().out == ""
    for parts in (2, 4, 8):
        free = int(whole / parts * 1.02)
        budget = token_budget(inputs, plan, free)
        assert "the rows of each step stay the same" in capsys.readouterr().out
        assert budget in [-(-largest // size) for size in (parts, 2 * parts, 4 * parts)]
        for step in range(1, plan.steps_per_epoch + 1):
            for rows in plan.micro_batches(step, most_tokens=budget):
                assert _used(inputs, rows) <= free
    assert token_budget(inputs, plan, 1) == max(plan.lengths)  # a row that does not fit goes alone
    assert all(one.grad is None for one in inputs.model.parameters())


def test_estimate_covers_what_the_backward_pass_keeps(make_inputs: Make) -> None:
    """Second route: the inputs of all linear layers of the longest step, which a step of LoRA keeps at least."""
    import torch

    inputs = make_inputs(**SETTINGS)
    plan = plan_of(inputs)
    step = max(range(1, plan.steps_per_epoch + 1), key=lambda one: sum(plan.lengths[row] for row in plan.rows(one)))
    kept, estimated = 0, needed(inputs) * SHARE

    def note(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal kept
        kept += arguments[0].numel() * arguments[0].element_size()

    linear = [one for name, one in inputs.model.named_modules() if name.endswith(("lora_A.default", "lora_B.default"))]
    for one in linear:
        one.register_forward_pre_hook(note)
    rows = [inputs.train_rows[row] for row in plan.rows(step)]
    inputs.task.loss(inputs.task_config, inputs.model, inputs.task.collate(rows, inputs.pad_token_id, inputs.state))
    assert kept < estimated < 40 * kept


def test_pieces_change_nothing_but_rounding_and_are_kept_on_resume(
    make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_inputs(**SETTINGS)
    tight = needed(plain) // 3
    outcome = run(plain, tmp_path / "plain")
    assert outcome.progress.piece_tokens is None
    outcome = run(replace(make_inputs(**SETTINGS), free_bytes=tight), tmp_path / "cut")
    chosen = outcome.progress.piece_tokens
    assert chosen
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    with pytest.raises(EndedError, match="at once"):
        run(replace(make_inputs(**SETTINGS), free_bytes=tight), tmp_path / "parts", end_at=5)
    rest = replace(make_inputs(**SETTINGS), free_bytes=1 << 40)
    outcome = run(rest, tmp_path / "parts")
    assert (outcome.resumed_from_step, outcome.progress.piece_tokens) == (4, chosen)
    assert losses(tmp_path / "parts") == losses(tmp_path / "cut")
    assert "times the memory that is free" in capsys.readouterr().out
