from __future__ import annotations

from pathlib import Path

import pytest

from graft.errors import ResourceMissing
from graft.training.record import Record, cut_after, last_step, lines


def write(path: Path, steps: list[int], tail: bytes = b"") -> None:
    path.write_bytes(b"".join(b'{"step": %d, "loss": 1.0}\n' % step for step in steps) + tail)


@pytest.mark.parametrize(
    ("steps", "tail", "after", "kept"),
    [
        ([1, 2, 3], b"", 2, [1, 2]),
        ([1, 2, 2, 3], b"", 2, [1, 2, 2]),
        ([1, 2, 3], b"", 0, []),
        ([1, 2], b'{"step": 3, "lo', 5, [1, 2]),
        ([1, 2], b'{"step": 2}', 5, [1, 2]),
        ([1, 2], b"\x00\x00\x00\n", 5, [1, 2]),
        ([1, 2], b"[]\n", 5, [1, 2]),
        ([], b"", 5, []),
    ],
)
def test_cut_after_keeps_whole_lines_up_to_the_step(
    tmp_path: Path, steps: list[int], tail: bytes, after: int, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, steps, tail)
    assert last_step(path) == max(steps, default=0)
    node = path.stat().st_ino
    cut_after(path, after)
    assert [line["step"] for line in lines(path)] == kept
    assert path.stat().st_ino == node  # whoever follows the file keeps it


def test_record_goes_on_after_the_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    for after in (0, 1):
        record = Record(path, after)
        record.add({"step": after + 1, "loss": float(after)})
        record.flush()
        assert [line["step"] for line in lines(path)] == list(range(1, after + 2))
        record.close()


def test_record_holds_null_for_a_metric_that_is_not_defined(tmp_path: Path) -> None:
    record = Record(tmp_path / "metrics.jsonl", 0)
    record.add({"step": 1, "validation_auroc": float("nan"), "validation_accuracy": 0.5})
    record.close()
    assert list(lines(tmp_path / "metrics.jsonl")) == [
        {"step": 1, "validation_auroc": None, "validation_accuracy": 0.5}
    ]


def test_tell_prints_the_last_step_and_few_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 11):
        record.tell({"step": step, "loss": 0.5, "tokens_per_second": 1234.4, "mfu": 0.456}, 10)
    record.close()
    assert capsys.readouterr().out == "train: step 10/10, loss 0.5000, 1,234 tokens/s, MFU 45.6%, 0 s left\n"


def test_metric_that_is_not_defined_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = Record(path, 0)
    record.add({"step": 1, "validation_accuracy": 0.5, "validation_auroc": float("nan"), "other": float("inf")})
    record.close()
    assert list(lines(path)) == [{"step": 1, "validation_accuracy": 0.5, "validation_auroc": None, "other": None}]


def test_lines_wait_where_the_disk_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "metrics.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Record(path, 0) as record:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            for step in range(1, 10):
                record.add({"step": step, "note": "x" * 3000})
                assert record.flush() == (step == 1)
            assert last_step(path) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        record.add({"step": 10, "loss": 1.0})
    assert [line["step"] for line in lines(path)] == list(range(1, 11))
    assert capsys.readouterr().out == f"train: warning: {path}: File too large; its lines wait in memory\n"


def test_record_that_stays_without_room_ends_a_training_that_ended_well(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = {"step": 1, "note": "x" * 5000}

    def written(error: Exception | None) -> None:
        with Record(tmp_path / "metrics.jsonl", 0) as record:
            record.add(line)
            if error:
                raise error

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ResourceMissing, match=r"metrics\.jsonl: the last metrics cannot be written; make room"):
            written(None)
        with pytest.raises(KeyError, match="why"):
            written(KeyError("why"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
