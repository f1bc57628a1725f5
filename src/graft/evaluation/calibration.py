"""Calibration: are the adapter's scores probabilities? Where a task gives some, per row or per row and label.

Three numbers. ECE (expected calibration error; Guo et al., ICML 2017, equation 3) over 15 bins of equal width, and over
15 bins of equal mass (Nixon et al., CVPR workshops 2019, section 4), whose edges are the quantiles of the scores; and
the Brier score (1950), the mean squared distance of probabilities and answers, summed over labels, which also punishes
scores that say nothing. All have a bootstrap interval, in which the edges stay.

An ECE is above 0 by chance alone: on few rows, also a perfect model's shares are not its scores. So it is held against
what a model of these very scores would show if they were right (consistency resampling; Broecker and Smith, Weather and
Forecasting 22, 2007, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.evaluation.findings import percent
from graft.evaluation.intervals import Interval, Resampling, interval, rounded
from graft.evaluation.overview import format_cell
from graft.evaluation.probes import Finding
from graft.tasks import Metric

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.report import Drawing

    Table = Mapping[str, np.ndarray]

BINS = 15
CONSISTENT = 1000
"""How many answers are drawn for the same scores."""
CELLS = 1 << 24
"""How many drawn answers are held at once."""


@dataclass(frozen=True)
class Calibration:
    """How far scores are from being probabilities. ``equal_width``, ``equal_mass``: expected calibration errors."""

    rows: int
    per_label: bool
    """Whether every label of a row has a probability of its own, instead of the row's answer."""
    equal_width: Interval
    equal_mass: Interval
    brier: Interval
    by_chance: float
    """The mean equal-width error of perfectly calibrated scores like these."""
    p: float
    """The chance of such an equal-width error, or a larger one, if the scores are calibrated."""

    def as_json(self) -> dict[str, Any]:
        """Return what metrics.json holds."""
        return {
            "bins": BINS,
            "ece_equal_width": self.equal_width.as_json(),
            "ece_equal_mass": self.equal_mass.as_json(),
            "brier": self.brier.as_json(),
            "ece_by_chance": rounded(self.by_chance),
            "p_calibrated": rounded(self.p),
        }


def measure(table: Table, how: Resampling) -> Calibration | None:
    """Return the calibration of a prediction table's probabilities; None where it has none."""
    scores = events(table)
    if scores is None:
        return None
    confidence, outcome = scores
    columns = columns_of(table)
    by_chance, p = _consistent(confidence, outcome, how.seed)
    return Calibration(
        rows=len(confidence),
        per_label=confidence.shape[1] > 1 or "truth" in table,
        equal_width=interval(EQUAL_WIDTH, columns, how),
        equal_mass=interval(EQUAL_MASS, columns, how),
        brier=interval(BRIER, columns, how),
        by_chance=by_chance,
        p=p,
    )


def events(table: Table) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what was said to happen, and whether it did: float64 [N, K] each; None where no probability is said.

    One label per row: its highest probability and whether that label is right (K = 1). Several: every label's.
    """
    import numpy as np

    if "probabilities" not in table or table["probabilities"].ndim != 2:
        return None
    probabilities = table["probabilities"].astype(np.float64)
    if "truth" in table:
        return probabilities, table["truth"].astype(np.float64)
    if "prediction" not in table or "reference" not in table:
        return None
    right = (table["prediction"] == table["reference"]).astype(np.float64)
    return probabilities.max(axis=1, keepdims=True), right[:, None]


def columns_of(table: Table) -> dict[str, np.ndarray]:
    """Return the columns that the metrics below read of a table with probabilities.

    ``equal_width``, ``equal_mass``: what was said minus what was, by bin, float64 [N, BINS]; ``events``: how many there
    are in a row, [N]; ``brier``: float64 [N].
    """
    import numpy as np

    scores = events(table)
    if scores is None:
        raise ValueError("the table has no probabilities")
    confidence, outcome = scores
    edges = np.quantile(confidence, np.arange(1, BINS) / BINS)
    return {
        "equal_width": _by_bin(_width_bins(confidence), confidence - outcome),
        "equal_mass": _by_bin(np.searchsorted(edges, confidence), confidence - outcome),
        "events": np.full(len(confidence), confidence.shape[1]),
        "brier": brier_rows(table),
    }


def brier_rows(table: Table) -> np.ndarray:
    """Return each row's squared distance of probabilities and answers, summed over labels: float64 [N].

    0 to 2 where one label is right; for two labels twice what is often called the Brier score.
    """
    import numpy as np

    probabilities = table["probabilities"].astype(np.float64)
    if "truth" in table:
        truth = table["truth"].astype(np.float64)
    else:
        truth = (table["reference"][:, None] == np.arange(probabilities.shape[1])).astype(np.float64)
    distances: np.ndarray = ((probabilities - truth) ** 2).sum(axis=1)
    return distances


def _error(name: str) -> Metric:
    def error(table: Table) -> float:
        import numpy as np

        return float(np.abs(table[name].sum(axis=0)).sum() / table["events"].sum())

    return Metric(f"ece_{name}", error, greater_is_better=False)


EQUAL_WIDTH, EQUAL_MASS = _error("equal_width"), _error("equal_mass")
BRIER = Metric(
    "brier", lambda table: float(table["brier"].mean()), greater_is_better=False, per_row=lambda table: table["brier"]
)
"""Metrics over :func:`columns_of` a prediction table."""


def squared_error(table: Table) -> float:
    """Return the mean square of what was said minus what was, by bins of equal width, without what chance adds to it.

    The expected calibration error is above 0 by chance, and the more so the better the scores are calibrated: of two
    systems it flatters the worse. A bin's square from pairs of different answers has no such bias (Kumar, Liang and Ma,
    NeurIPS 2019, section 4). It may be below 0; bins of one answer say nothing.
    """
    import numpy as np

    scores = events(table)
    if scores is None:
        raise KeyError("probabilities")
    confidence, outcome = (values.ravel() for values in scores)
    bins, off = _width_bins(confidence), confidence - outcome
    counts, sums, squares = (
        np.bincount(bins, weights=weights, minlength=BINS) for weights in (np.ones(len(off)), off, off**2)
    )
    several = counts > 1
    return float(((sums**2 - squares)[several] / (counts[several] - 1)).sum() / len(off))


SQUARED = Metric("squared calibration error", squared_error, greater_is_better=False)
"""Over a prediction table with probabilities."""


def _width_bins(confidence: np.ndarray) -> np.ndarray:
    import numpy as np

    bins: np.ndarray = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return bins


def _by_bin(bins: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of each row's ``values`` [N, K] by bin: float64 [N, BINS]."""
    import numpy as np

    rows = len(values)
    cells = (np.arange(rows)[:, None] * BINS + bins).ravel()
    return np.bincount(cells, weights=values.ravel(), minlength=rows * BINS).reshape(rows, BINS)


def _consistent(confidence: np.ndarray, outcome: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the mean error of answers that are drawn by the scores, and how often it is as large as the one seen."""
    import numpy as np

    source, flat = np.random.default_rng(seed), confidence.ravel()
    bins = _width_bins(flat)
    seen = np.abs(np.bincount(bins, weights=flat - outcome.ravel(), minlength=BINS)).sum() / len(flat)
    draws = min(CONSISTENT, max(100, CELLS // len(flat)))
    errors = np.empty(draws)
    for number in range(draws):
        drawn = source.random(len(flat)) < flat
        errors[number] = np.abs(np.bincount(bins, weights=flat - drawn, minlength=BINS)).sum() / len(flat)
    return float(errors.mean()), float((np.sum(errors >= seen - 1e-12) + 1) / (draws + 1))


def finding(found: Calibration, drawings: Sequence[Drawing], how: Resampling) -> Finding:
    """Return the section of the report."""
    off = found.p <= 1 - how.confidence
    what = "it gives a label 80 %, is it there" if found.per_label else "it says 80 %, is it right"
    verdict = "more than chance makes" if off else "no more than chance may make"
    return Finding(
        title="Calibration",
        text=(
            f"When {what} in 80 % of the rows? The mean distance from that (expected calibration error, {BINS} bins of "
            f"equal width) is {found.equal_width.value:.3f}; perfect scores like these would show "
            f"{found.by_chance:.3f} on {found.rows} rows by chance: {verdict} (p {found.p:.4f})."
        ),
        values={},
        tables={
            "": [
                {"measure (smaller is better)": name, f"value, {percent(how.confidence)} interval": _cell(one)}
                for name, one in (
                    (f"ECE, {BINS} bins of equal width", found.equal_width),
                    (f"ECE, {BINS} bins of equal mass", found.equal_mass),
                    ("Brier score, summed over labels", found.brier),
                )
            ]
        },
        drawings=drawings,
        limits=[
            f"Its scores are off by {found.equal_width.value:.3f} on average (expected calibration error; chance alone "
            f"makes {found.by_chance:.3f}): do not read them as probabilities without calibration."
        ]
        if off
        else [],
    )


def _cell(one: Interval) -> str:
    return format_cell(*(rounded(number) for number in (one.value, one.low, one.high)))
