from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.errors import ResourceMissing
from graft.tracking.events import write_events

STEPS = [
    {"step": 1, "loss": 1.5, "tokens_per_second": 100.0, "memory_bytes": 1 << 40, "seconds": 0.5},
    {"step": 2, "loss": 0.25, "mfu": 0.5, "note": "no number", "seconds": 1.5},
    {"step": 2, "validation_accuracy": 0.75, "validation_auroc": None},
]


def training_of(folder: Path, steps: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return folder


def points_of(folder: Path) -> list[tuple[str, int, float]]:
    """Second route: the records of the file format itself (length, its checksum, message, checksum)."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

    def messages() -> Iterator[bytes]:
        (file,) = folder.glob("events.out.tfevents.*")
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield content[12 : 12 + length]
            content = content[16 + length :]

    events = [event_pb2.Event.FromString(one) for one in messages()]
    return [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]


def test_events_have_every_point_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    training = training_of(tmp_path / "training", STEPS)
    training_of(training / "seed-1", STEPS[:1])
    for _ in range(2):
        assert write_events(training, tmp_path / "events") == 9
    assert points_of(tmp_path / "events") == [
        ("training/loss", 1, 1.5),
        ("training/tokens_per_second", 1, 100.0),
        ("training/memory_bytes", 1, float(1 << 40)),
        ("training/loss", 2, 0.25),
        ("training/mfu", 2, 0.5),
        ("validation/accuracy", 2, 0.75),
    ]
    assert len(points_of(tmp_path / "events" / "seed-1")) == 3


def test_without_a_training_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResourceMissing, match=r"metrics\.jsonl: no such file; train first"):
        write_events(tmp_path, tmp_path / "events")


def test_without_the_writer_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ResourceMissing, match="tensorboardX is not installed"):
        write_events(training_of(tmp_path / "training", STEPS), tmp_path / "events")
