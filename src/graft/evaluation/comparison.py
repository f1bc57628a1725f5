"""Is one system better than another on the same rows? Paired tests over two prediction tables.

Where the metric is a mean of 0/1 row scores, only the rows on which the two differ say anything: McNemar's test in its
exact form (McNemar, Psychometrika 1947), with Newcombe's interval for the difference of paired rates (Statistics in
Medicine 17, 1998, p. 2635, method 10), which also holds when no row differs. Any other metric is resampled by rows,
both systems together; the p value is the share of resamples in which the candidate is not better (Efron and Tibshirani
1993, section 15.4), which costs no assumption about the metric but is an approximation on fewer than some 100 rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graft.errors import DataError, shown
from graft.evaluation.intervals import Resampling, Taken, binary_scores, resample, rounded, rows_in, wilson

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

Table = Mapping[str, "np.ndarray"]


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference by one metric on the same rows.

    ``difference`` and its interval are in the metric's unit, candidate minus reference, with the sign turned where a
    smaller metric is better: positive always speaks for the candidate.
    """

    metric: str
    rows: int
    candidate: float
    reference: float
    difference: float
    low: float
    high: float
    confidence: float
    standard_error: float
    p_better: float
    """One-sided: the chance of such a difference, or a larger one, if the candidate is not better."""
    p_worse: float
    """One-sided, the other way."""
    test: str
    """``mcnemar`` or ``paired bootstrap``."""
    only_candidate: int | None
    """McNemar: rows that the candidate alone has right."""
    only_reference: int | None
    """McNemar: rows that the reference alone has right."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits, null for NaN."""
        return {
            name: rounded(value) if isinstance(value, float) else value for name, value in sorted(asdict(self).items())
        }


def compare(metric: Metric, candidate: Table, reference: Table, how: Resampling) -> Comparison:
    """Compare two prediction tables of the same rows (in any order).

    Raises:
        DataError: the tables do not hold the same rows.
    """
    reference = aligned(candidate, reference)
    ours, theirs = binary_scores(metric, candidate), binary_scores(metric, reference)
    if ours is not None and theirs is not None:
        tested = _mcnemar(ours, theirs, 1 if metric.greater_is_better else -1, how.confidence)
    else:
        tested = _bootstrap(metric, candidate, reference, how)
    return Comparison(
        metric=metric.name,
        rows=rows_in(candidate),
        candidate=float(metric.function(candidate)),
        reference=float(metric.function(reference)),
        confidence=how.confidence,
        **tested,
    )


def aligned(table: Table, other: Table) -> Table:
    """Return ``other`` in the row order of ``table``.

    Raises:
        DataError: a row is missing, twice, or in one table only.
    """
    import numpy as np

    if rows_in(table) == rows_in(other) and bool(np.all(table["row"] == other["row"])):
        return other
    place = {row: number for number, row in enumerate(other["row"])}
    ours = set(table["row"])
    if len(place) != len(other["row"]) or len(ours) != len(table["row"]):
        raise DataError("prediction tables: a row is listed twice; score both systems again")
    if ours != place.keys():
        example = shown(sorted(ours ^ place.keys())[0])
        raise DataError(
            f"prediction tables: {len(ours - place.keys())} rows only in the first, {len(place.keys() - ours)} only in "
            f"the second, such as {example}; a paired test needs the same rows: score both on one test split"
        )
    return dict(Taken(other, np.array([place[row] for row in table["row"]])))


def _mcnemar(ours: np.ndarray, theirs: np.ndarray, sign: int, confidence: float) -> dict[str, Any]:
    """Return the test and interval of paired 0/1 scores [N]."""
    only_ours, only_theirs = int(((ours - theirs) > 0).sum()), int(((ours - theirs) < 0).sum())
    for_candidate, against = (only_ours, only_theirs) if sign > 0 else (only_theirs, only_ours)
    rows, both = len(ours), int((ours * theirs).sum())
    difference = (for_candidate - against) / rows
    low, high = paired_rates(both, only_ours, only_theirs, rows - both - only_ours - only_theirs, confidence)
    if sign < 0:
        low, high = -high, -low
    variance = (for_candidate + against) / rows - difference**2
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "standard_error": math.sqrt(max(0.0, variance) / rows),
        "p_better": _sign_test(for_candidate, against),
        "p_worse": _sign_test(against, for_candidate),
        "test": "mcnemar",
        "only_candidate": only_ours,
        "only_reference": only_theirs,
    }


def _sign_test(wins: int, losses: int) -> float:
    """Return P(at least ``wins`` of the rows that differ) if either side were equally likely to win each."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue) if wins + losses else 1.0


def paired_rates(both: int, first: int, second: int, neither: int, confidence: float) -> tuple[float, float]:
    """Return Newcombe's interval (method 10) for the difference of two paired rates.

    The four counts are rows that both, only the first, only the second and neither of the systems has right.
    """
    rows = both + first + second + neither
    rate1, rate2 = (both + first) / rows, (both + second) / rows
    low1, high1 = wilson(both + first, rows, confidence)
    low2, high2 = wilson(both + second, rows, confidence)
    product = float(both * neither - first * second)
    if product > 0:  # the continuity correction that makes it method 10
        product = max(product - rows / 2, 0.0)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = product / math.sqrt(margins) if margins else 0.0
    below = _distance(rate1 - low1, high2 - rate2, phi)
    above = _distance(high1 - rate1, rate2 - low2, phi)
    return rate1 - rate2 - below, rate1 - rate2 + above


def _distance(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))


def _bootstrap(metric: Metric, candidate: Table, reference: Table, how: Resampling) -> dict[str, Any]:
    """Return the test and interval of any metric: both tables resampled by the same rows."""
    import numpy as np

    sign = 1 if metric.greater_is_better else -1

    def difference(index: np.ndarray) -> float:
        return sign * float(metric.function(Taken(candidate, index)) - metric.function(Taken(reference, index)))

    everything = np.arange(rows_in(candidate))
    if len(everything) < 2:
        raise DataError("prediction tables: 1 row; a paired comparison needs at least 2")
    found = resample(difference, len(everything), how)
    drawn = len(found.distribution)
    # So few rows may all be better by chance: exchanging the systems row by row, no test can say less than this.
    least = 0.5 ** len(everything)
    return {
        "difference": difference(everything),
        "low": found.low,
        "high": found.high,
        "standard_error": found.standard_error,
        "p_better": max(least, float((found.distribution <= 0).sum() + 1) / (drawn + 1)),
        "p_worse": max(least, float((found.distribution >= 0).sum() + 1) / (drawn + 1)),
        "test": "paired bootstrap",
        "only_candidate": None,
        "only_reference": None,
    }
