from __future__ import annotations

from pathlib import Path

import pytest

from graft.training.record import Record, cut_after, lines


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
        record.tell({"step": step, "loss": 0.5, "tokens_per_second": 1234.4}, 10)
    record.close()
    assert capsys.readouterr().out == "train: step 10/10, loss 0.5000, 1,234 tokens/s, 0 s left\n"


def test_metric_that_is_not_defined_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = Record(path, 0)
    record.add({"step": 1, "validation_accuracy": 0.5, "validation_auroc": float("nan"), "other": float("inf")})
    record.close()
    assert list(lines(path)) == [{"step": 1, "validation_accuracy": 0.5, "validation_auroc": None, "other": None}]
