"""Plot data by hand-made counts; pictures by their size, their bytes and the data behind them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from graft.errors import DataError
from graft.evaluation import plots

BINS = [
    {"confidence": 0.25, "accuracy": 0.5, "rows": 4},
    {"confidence": 0.9, "accuracy": 0.8, "rows": 6},
]


def size(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG from its header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def write_metrics(path: Path, *, validation: bool) -> Path:
    lines = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-3} for step in range(1, 41)]
    if validation:
        lines += [{"step": step, "validation_accuracy": step / 50, "validation_log_loss": 1.0} for step in (20, 40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_confusion_counts_match_scikit_learn() -> None:
    draw, labels = np.random.default_rng(0), ["a", "b", "c", "never"]
    pairs = [(labels[i], labels[j]) for i, j in draw.integers(0, 3, (50, 2))]
    actual, predicted = zip(*pairs, strict=True)
    expected = confusion_matrix(actual, predicted, labels=labels)
    np.testing.assert_array_equal(plots.confusion_counts(pairs, labels), expected)


def test_pictures_have_no_date_and_equal_bytes(tmp_path: Path) -> None:
    counts = np.array([[3, 1], [0, 2]])
    for name in ("one", "two"):
        plots.confusion(counts, ["yes", "no & maybe"], tmp_path / name / "confusion.png")
        plots.reliability(BINS, tmp_path / name / "reliability.png")
    for picture in ("confusion.png", "reliability.png"):
        content = (tmp_path / "one" / picture).read_bytes()
        assert content == (tmp_path / "two" / picture).read_bytes()
        assert b"tEXt" not in content


@pytest.mark.parametrize("label", ["$\\frac$", "$a_$", "5 $ to 10 $"])
def test_dollar_signs_of_labels_are_no_formula(label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.mathtext import MathTextParser

    def refused(*_: object) -> None:
        raise AssertionError("a label was read as a formula")

    monkeypatch.setattr(MathTextParser, "parse", refused)
    plots.confusion(np.eye(2, dtype=int), [label, "other"], tmp_path / "confusion.png")
    slices = [{"slice": f"label={label}", "value": 0.5, "low": 0.4, "high": 0.6, "worse": False}]
    plots.forest(slices, "accuracy", 0.5, tmp_path / "slices.png")


def test_many_labels_make_a_larger_picture_up_to_a_limit(tmp_path: Path) -> None:
    for labels in (2, 13, 40):
        names = [f"label {number}" for number in range(labels)]
        plots.confusion(np.eye(labels, dtype=int), names, tmp_path / f"{labels}.png")
    small, middle, large = (size(tmp_path / f"{labels}.png")[0] for labels in (2, 13, 40))
    assert small < middle < large <= 14 * plots.DOTS_PER_INCH


@pytest.mark.parametrize("validation", [True, False])
def test_learning_curve_has_a_second_panel_for_validation(tmp_path: Path, validation: bool) -> None:
    plots.learning_curve(write_metrics(tmp_path / "metrics.jsonl", validation=validation), tmp_path / "curve.png")
    width, height = size(tmp_path / "curve.png")
    assert (height > width * 0.6) is validation


def test_learning_curve_without_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "validation_accuracy": 0.5}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: no step has a loss"):
        plots.learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")


def test_csv_quotes_what_it_must(tmp_path: Path) -> None:
    plots.write_csv(tmp_path / "p" / "c.csv", [{"actual": "a, b", "predicted": 'say "x"'}])
    assert (tmp_path / "p" / "c.csv").read_bytes() == b'actual,predicted\n"a, b","say ""x"""\n'


def test_csv_of_no_rows_is_empty(tmp_path: Path) -> None:
    plots.write_csv(tmp_path / "c.csv", [])
    assert (tmp_path / "c.csv").read_bytes() == b""


def test_scatter_and_histogram_are_drawn_from_rows(tmp_path: Path) -> None:
    points = [{"reference": value, "prediction": value + 0.1} for value in (1.0, 2.0, 5.0)]
    plots.scatter(points, tmp_path / "scatter.png")
    plots.histogram([{"margin": -1.0, "rows": 3}, {"margin": 0.0, "rows": 9}], "margin", tmp_path / "histogram.png")
    assert size(tmp_path / "scatter.png") == (624, 576)
    assert size(tmp_path / "histogram.png") == (624, 432)
