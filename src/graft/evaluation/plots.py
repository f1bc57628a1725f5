"""Pictures and plot data. PNG for the MLflow UI and for paper, CSV for ``dvc plots``; the report draws its own tables.

Drawn on a bare Agg canvas (no pyplot: no global state, no window system) and saved without the metadata that would tell
when and by which version, so equal data gives equal bytes on one set of library versions.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, ACCENT, WORSE = "#1f2937", "#9ca3af", "#0f766e", "#c2410c"
DOTS_PER_INCH = 120


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write equal-keyed rows as CSV with a header; no rows, an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def confusion_counts(pairs: Iterable[tuple[str, str]], labels: Sequence[str]) -> np.ndarray:
    """Return counts (int64 [C, C], row: actual, column: predicted) of pairs (actual, predicted) of labels."""
    import numpy as np

    number = {name: place for place, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for actual, predicted in pairs:
        counts[number[actual], number[predicted]] += 1
    return counts


def confusion(counts: np.ndarray, labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, shaded by the share of the actual class; the counts are written in the cells."""
    side = min(14.0, 3.2 + 0.5 * len(labels))
    figure, axes = _canvas(side, side)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [_short(label) for label in labels]
    axes.imshow(shares, cmap="GnBu", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="predicted", ylabel="actual", title="Confusion matrix (test rows)")
    axes.tick_params(length=0)
    if len(labels) <= 30:
        for (row, column), count in _cells(counts):
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def reliability(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw ``accuracy`` against ``confidence`` of each bin; the area of a point is its number of ``rows``."""
    figure, axes = _canvas(5.2, 4.6)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="perfectly calibrated")
    most = max(row["rows"] for row in rows)
    means = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
    axes.plot(*means, color=ACCENT, linewidth=1.2)
    axes.scatter(*means, s=[20 + 160 * row["rows"] / most for row in rows], color=ACCENT, label="test rows")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence of the prediction", ylabel="share that is right")
    axes.set_title("Reliability (test rows)")
    axes.legend(frameon=False, loc="upper left", markerscale=0.6)
    _plain(axes)
    _save(figure, path)


def forest(rows: Sequence[Mapping[str, Any]], metric: str, overall: float, path: Path) -> None:
    """Draw ``value`` with ``low`` and ``high`` of each ``slice``, one below the other; a line where ``overall`` is.

    A slice that is ``worse`` than the rest has a mark of another form and colour.
    """
    figure, axes = _canvas(7.2, 1.0 + 0.26 * len(rows))
    for place, row in enumerate(rows):
        colour, form = (WORSE, "D") if row["worse"] else (ACCENT, "o")
        if math.isfinite(row["low"]):
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
        axes.plot([row["value"]], [place], form, color=colour, markersize=5)
    axes.axvline(overall, color=FAINT, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [_short(str(row["slice"])) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(metric)
    _plain(axes)
    _save(figure, path)


def _short(name: str, characters: int = 44) -> str:
    """Return a name for an axis: cut, and with ``$`` as it is written, which would begin a formula."""
    cut = name if len(name) <= characters else f"{name[: characters - 1]}…"
    return cut.replace("$", r"\$")


def scatter(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw ``prediction`` against ``reference`` of each row, with the line on which both are equal."""
    figure, axes = _canvas(5.2, 4.8)
    values = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    ends = [min(map(min, values)), max(map(max, values))]
    axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle="--", label="predicted = actual")
    axes.scatter(*values, s=9, color=ACCENT, alpha=0.4, linewidths=0, label="test rows")
    axes.set(xlabel="actual", ylabel="predicted", title="Predicted against actual (test rows)")
    axes.legend(frameon=False, loc="upper left")
    _plain(axes)
    _save(figure, path)


def histogram(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    """Draw how many ``rows`` each bin has; ``name`` is the column of the bins' middles, in rising order."""
    figure, axes = _canvas(5.2, 3.6)
    middles = [row[name] for row in rows]
    widths = [right - left for left, right in itertools.pairwise(middles)] or [1.0]
    axes.bar(middles, [row["rows"] for row in rows], width=0.9 * min(widths), color=ACCENT)
    axes.set(xlabel=name.replace("_", " "), ylabel="test rows", title=f"Test rows by {name.replace('_', ' ')}")
    _plain(axes)
    _save(figure, path)


def learning_curve(metrics: Path, path: Path) -> None:
    """Draw training loss and the validation metrics over the steps of a ``metrics.jsonl``.

    Raises:
        DataError: the file has no step with a loss.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines() if line.strip()]
    losses = [(line["step"], line["loss"]) for line in lines if _number(line.get("loss"))]
    if not losses:
        raise DataError(f"{metrics}: no step has a loss; a learning curve needs at least one")
    validation = _validation(lines)
    figure, *panels = _canvas(8, 5.4 if validation else 3.4, rows=2 if validation else 1)
    steps, values = zip(*losses, strict=True)
    panels[0].plot(steps, values, color=FAINT, linewidth=0.8, label="each step")
    panels[0].plot(steps, _smoothed(values), color=ACCENT, linewidth=1.8, label="smoothed")
    panels[0].set(ylabel="training loss", title="Learning curve")
    for name, points in validation.items():
        panels[1].plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1.4, label=name)
    for axes in panels:
        axes.legend(frameon=False)
        _plain(axes)
    if validation:
        panels[1].set_ylabel("on validation rows")
    panels[-1].set_xlabel("optimizer step")
    _save(figure, path)


def _validation(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of every validation metric; losses and counts are left out: they share no axis with rates."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            metric = name.removeprefix("validation_")
            if metric != name and metric not in ("loss", "rows", "seconds") and _number(value):
                found.setdefault(metric, []).append((line["step"], value))
    return found


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, corrected for its start; its memory is a thirtieth of the curve."""
    keep = 1 - 1 / max(1.0, len(values) / 30)
    total = weight = 0.0
    smooth = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _cells(counts: np.ndarray) -> Iterable[tuple[tuple[int, int], int]]:
    rows, columns = counts.nonzero()
    return (((int(row), int(column)), int(counts[row, column])) for row, column in zip(rows, columns, strict=True))


def _canvas(width: float, height: float, rows: int = 1) -> tuple[Any, ...]:
    """Return a figure of ``width`` x ``height`` inches and its axes, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, *figure.subplots(rows, 1, squeeze=False, sharex=rows > 1)[:, 0]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
