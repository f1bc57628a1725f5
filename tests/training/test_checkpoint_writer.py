from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from graft.training.checkpoint_writer import CheckpointWriter
from graft.training.checkpoints import Checkpoint, Checkpoints
from graft.training.record import Record, last_step


class Held(Checkpoints):
    """Writes no checkpoint before ``go`` is set, and fails for the steps in ``failing``."""

    go = threading.Event()
    failing: ClassVar[dict[int, Exception]] = {}

    def save(self, checkpoint: Checkpoint) -> None:
        assert self.go.wait(60)
        if checkpoint.step in self.failing:
            raise self.failing[checkpoint.step]
        super().save(checkpoint)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Held]:
    Held.go, Held.failing = threading.Event(), {}
    yield Held(tmp_path / "key", "key", tmp_path / "metrics.jsonl")
    Held.go.set()


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "metrics.jsonl", 0) as record:
        yield record


def checkpoint(step: int, weights: object, best: object = None) -> Checkpoint:
    return Checkpoint(step, {"weights": {"a": weights}, "best": {"a": best} if best is not None else {}}, {})  # type: ignore[dict-item]


def test_training_goes_on_while_its_copy_is_written(store: Held, record: Record) -> None:
    import torch

    weights, best = torch.zeros(3), torch.ones(3)
    with CheckpointWriter(store, record) as writer:
        record.add({"step": 1})
        writer.save(checkpoint(1, weights, best))
        weights += 1  # the next step, with the write not even begun
        assert not store.folder.exists()
        assert last_step(record.path) == 1
        store.go.set()
    found = store.latest()
    assert found is not None
    assert found.tensors["weights"]["a"].tolist() == [0.0] * 3
    assert found.tensors["best"]["a"].tolist() == [1.0] * 3
    assert (writer.written_step, writer.failed, len(writer.blocked_seconds)) == (1, 0, 1)


def test_next_save_waits_for_the_one_before(store: Held, record: Record) -> None:
    import torch

    weights = torch.zeros(3)
    with CheckpointWriter(store, record) as writer:
        record.add({"step": 1})
        record.add({"step": 2})
        writer.save(checkpoint(1, weights))
        weights += 1
        second = threading.Thread(target=writer.save, args=(checkpoint(2, weights),))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        store.go.set()
        second.join(60)
        assert not second.is_alive()
    for step, value in ((2, 1.0), (1, 0.0)):
        place = store.folder / f"step-{step:08d}"
        assert store._read(place).tensors["weights"]["a"].tolist() == [value] * 3
    assert writer.blocked_seconds[1] > writer.blocked_seconds[0]


def test_what_cannot_be_written_is_said_once_and_tried_again(
    store: Held, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    store.go.set()
    for step in range(1, 6):
        record.add({"step": step})
    store.failing.update({step: OSError(28, "No space left on device") for step in (1, 2, 4)})
    with CheckpointWriter(store, record) as writer:
        for step in range(1, 6):
            writer.save(checkpoint(step, torch.zeros(3)))
            writer.flush()
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert [line.partition(" not written")[0] for line in said] == [
        f"train: warning: checkpoint of step {step}" for step in (1, 4)
    ]
    assert str(store.folder) in said[0]
    assert "No space left on device; training goes on" in said[0]
    assert (writer.failed, writer.written_step) == (3, 5)


def test_what_nobody_expected_is_raised(store: Held, record: Record) -> None:
    import torch

    store.go.set()
    store.failing[1] = ZeroDivisionError("no checkpoint's fault")
    with pytest.raises(ZeroDivisionError, match="fault"), CheckpointWriter(store, record) as writer:
        writer.save(checkpoint(1, torch.zeros(3)))
