"""Batches that a thread makes ahead: the training is the same to the last bit, whatever happens to it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graft.errors import Interrupted, ResourceMissing
from graft.tokenization import lengths_of
from graft.training.batching import Plan
from graft.training.checkpoints import Checkpoints
from graft.training.record import Record, lines
from graft.training.signals import Stop
from tests.training.conftest import holding

Make = Callable[..., Any]
SETTINGS = {"dropout": 0.2, "evaluate_every_epochs": 0.5, "epochs": 2}
"""Twelve steps."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"micro_batch_rows": 3},
    "by_tokens": {"batch_tokens": 70, "micro_batch_tokens": 25},
}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name.startswith("collate")] == []


class Noting:
    """A task that notes each batch it collates, and by which thread."""

    def __init__(self, task: Any, most: int | None = None) -> None:
        self._task, self._most = task, most
        self.threads: set[str] = set()
        self.batches: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def collate(self, rows: Any, *others: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        self.batches.append([str(row["row"]) for row in rows])
        if self._most is not None and len(rows) > self._most:
            raise MemoryError(f"no room for {len(rows)} rows")
        return self._task.collate(rows, *others)


def run(inputs: Any, folder: Path, *, ahead: bool, stop: Stop | None = None, at: int = 0) -> Any:
    """Train in ``folder``; SIGTERM comes after step ``at``."""
    from graft.training.loop import fit

    class Signalling(Record):
        def add(self, line: dict[str, Any]) -> None:
            super().add(line)
            if line["step"] == at and "loss" in line:
                os.kill(os.getpid(), signal.SIGTERM)

    store = Checkpoints(folder / "checkpoints", "key", folder / "metrics.jsonl")
    return fit(inputs, store, lambda step: Signalling(folder / "metrics.jsonl", step), stop or Stop(), ahead=ahead)


def curves(folder: Path) -> list[dict[str, Any]]:
    timed = ("tokens_per_second", "mfu", "device_utilisation", "memory_bytes", "seconds")
    found = lines(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in timed} for line in found]


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.model.named_parameters(), other.model.named_parameters(), strict=True)
    return all(a[0] == b[0] and a[1].equal(b[1]) for a, b in pairs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_is_the_same_with_and_without(make_inputs: Make, tmp_path: Path, layout: str) -> None:
    found, noted = [], []
    for ahead in (False, True):
        inputs = make_inputs(**SETTINGS, **LAYOUTS[layout])
        noted.append(Noting(inputs.task))
        found.append(replace(inputs, task=noted[-1]))
        run(found[-1], tmp_path / str(ahead), ahead=ahead)
    assert same(*found)
    assert curves(tmp_path / "True") == curves(tmp_path / "False")
    training_rows = {str(row["row"]) for row in found[0].train_rows}
    batches = [[one for one in each.batches if one[0] in training_rows] for each in noted]
    assert batches[0] == batches[1]  # none is made twice, or for nothing
    main = threading.main_thread().name
    assert noted[0].threads == {main}
    assert noted[1].threads == {main, "collate_0"}  # validation rows are the training's own to wait for


def test_batch_of_the_next_step_is_there_when_a_step_ends(make_inputs: Make) -> None:
    from graft.training.supply import Cut, Supply

    inputs = make_inputs(**SETTINGS)
    noting = Noting(inputs.task)
    plan = Plan(lengths_of(inputs.train_rows), inputs.config)
    with Supply(replace(inputs, task=noting), plan, ahead=True) as supply:
        taken = supply.pieces(Cut(1))
        next(taken)
        while len(noting.batches) < 2:  # the test's limit of time ends it otherwise
            pass
        places = [str(inputs.train_rows[row]["row"]) for row in plan.rows(2)]
        assert noting.batches[1] == places
        assert list(taken) == []


def test_step_that_memory_does_not_hold(make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was made ahead of the halving is of no use after it; of the collating itself, memory is full too."""
    found, noted, said = [], [], []
    for ahead in (False, True):
        inputs = make_inputs(**SETTINGS)
        noted.append(Noting(inputs.task, 4))
        found.append(replace(inputs, task=noted[-1]))
        _, passes = holding(inputs, 3)
        outcome = run(found[-1], tmp_path / str(ahead), ahead=ahead)
        assert outcome.progress.halvings == 2
        assert passes[:2] == [4, 2]
        said.append([line for line in capsys.readouterr().out.splitlines() if "out of memory" in line])
    assert said[0] == said[1]
    assert ["no room for 8 rows" in line for line in said[0]] == [True, False]
    assert same(*found)
    assert curves(tmp_path / "True") == curves(tmp_path / "False")
    with pytest.raises(ResourceMissing, match=r"alone \(.* step 1\): no room for 1 rows"):
        run(replace(found[1], task=Noting(inputs.task, 0)), tmp_path / "none", ahead=True)


def test_error_of_a_row_comes_where_it_is_needed(make_inputs: Make, tmp_path: Path) -> None:
    said = []
    for ahead in (False, True):
        inputs = make_inputs(**SETTINGS)
        broken = Plan(lengths_of(inputs.train_rows), inputs.config).rows(4)[2]
        rows = [
            {**row, "label": "sailing"} if number == broken else row for number, row in enumerate(inputs.train_rows)
        ]
        with pytest.raises(Exception, match="sailing") as caught:
            run(replace(inputs, train_rows=rows), tmp_path / str(ahead), ahead=ahead)
        said.append((caught.type, str(caught.value)))
    assert said[0] == said[1]
    assert curves(tmp_path / "True") == curves(tmp_path / "False")
    assert curves(tmp_path / "True")[-1]["step"] == 3


@pytest.mark.parametrize("at", [5, 6, 7])
def test_stop_and_resume(make_inputs: Make, tmp_path: Path, at: int) -> None:
    """An epoch has six steps."""
    whole, rest = make_inputs(**SETTINGS), make_inputs(**SETTINGS)
    run(whole, tmp_path / "whole", ahead=False)
    with Stop() as stop, pytest.raises(Interrupted, match=f"after step {at} of 12; the same command resumes"):
        run(make_inputs(**SETTINGS), tmp_path / "parts", ahead=True, stop=stop, at=at)
    assert run(rest, tmp_path / "parts", ahead=True).resumed_from_step == at
    assert same(whole, rest)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
