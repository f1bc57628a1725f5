"""Two groups of different rows by one metric: how far apart, with an interval and a test (paired: ``comparison``).

Rates of 0/1 row scores get Newcombe's interval for independent rates (Statistics in Medicine 17, 1998, p. 873, method
10), which Wilson's intervals of both make, and Fisher's exact test. Means of other row scores get a bootstrap interval
and Welch's t test; any other metric the bootstrap and a normal test with its standard error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.evaluation.intervals import (
    JACKKNIFE_ROWS,
    RESAMPLED_CELLS,
    Interval,
    Resampling,
    Taken,
    binary_scores,
    wilson,
)

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

    Table = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Contrast:
    """A metric of one group minus that of another, in the metric's unit."""

    difference: Interval
    p: float
    """Two-sided: the chance of such a difference, or a larger one, between groups that are alike; NaN: not known."""
    p_worse: float
    """One-sided: the same, of the first group being so much worse."""
    test: str
    """``fisher``, ``welch``, ``bootstrap``, or ``none`` (a group of fewer than two rows, or no value)."""


def contrast(metric: Metric, table: Table, one: np.ndarray, other: np.ndarray, how: Resampling) -> Contrast:
    """Compare two groups of rows of a table that have no row in common.

    Args:
        metric: what is compared.
        table: N rows.
        one: row numbers of the first group, int [K].
        other: row numbers of the second, int [L].
        how: level, resamples, seed.
    """
    scores = binary_scores(metric, table)
    if min(len(one), len(other)) < 2:
        return _nothing(math.nan)
    if scores is not None:
        return _rates(scores[one], scores[other], metric.greater_is_better, how.confidence)
    return _resampled(metric, table, one, other, how)


def newcombe(first: tuple[int, int], second: tuple[int, int], confidence: float) -> tuple[float, float]:
    """Return the interval of the difference of two independent rates, each as (successes, rows)."""
    rate1, rate2 = first[0] / first[1], second[0] / second[1]
    (low1, high1), (low2, high2) = wilson(*first, confidence), wilson(*second, confidence)
    difference = rate1 - rate2
    return difference - math.hypot(rate1 - low1, high2 - rate2), difference + math.hypot(high1 - rate1, rate2 - low2)


def _nothing(value: float) -> Contrast:
    return Contrast(Interval(value, math.nan, math.nan, "none"), math.nan, math.nan, "none")


def _rates(one: np.ndarray, other: np.ndarray, greater: bool, confidence: float) -> Contrast:
    from scipy.stats import fisher_exact

    counts = (int(one.sum()), len(one)), (int(other.sum()), len(other))
    low, high = newcombe(*counts, confidence)
    cells = [[right, rows - right] for right, rows in counts]
    both = float(fisher_exact(cells, alternative="two-sided").pvalue)
    worse = float(fisher_exact(cells, alternative="less" if greater else "greater").pvalue)
    return Contrast(Interval(float(one.mean() - other.mean()), low, high, "newcombe"), both, worse, "fisher")


def _resampled(metric: Metric, table: Table, one: np.ndarray, other: np.ndarray, how: Resampling) -> Contrast:
    from scipy import stats

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return float(metric.function(Taken(table, first)) - metric.function(Taken(table, second)))

    value = difference(one, other)
    if not math.isfinite(value):
        return _nothing(math.nan)
    low, high, error, method = bootstrapped(difference, one, other, how)
    if metric.per_row is not None:
        rows = metric.per_row(table)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # groups without any spread
            both = float(stats.ttest_ind(rows[one], rows[other], equal_var=False).pvalue)
        below, test = both / 2 if value < 0 else 1 - both / 2, "welch"
    elif error > 0:
        below = float(stats.norm.cdf(value / error))
        both, test = 2 * min(below, 1 - below), "bootstrap"
    else:
        below = both = math.nan
        test = "none"
    worse = below if metric.greater_is_better else 1 - below
    return Contrast(Interval(value, low, high, method), both, worse, test)


def bootstrapped(
    difference: Any, one: np.ndarray, other: np.ndarray, how: Resampling
) -> tuple[float, float, float, str]:
    """Resample both groups, each by its own rows; return low, high, standard error, method."""
    import numpy as np
    from scipy import stats

    rows = len(one) + len(other)
    bca = rows <= JACKKNIFE_ROWS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (one, other),
            difference,
            vectorized=False,
            n_resamples=how.resamples,
            batch=max(1, RESAMPLED_CELLS // rows),
            confidence_level=how.confidence,
            method="BCa" if bca else "percentile",
            rng=np.random.default_rng(how.seed),
        )
    low, high = (float(bound) for bound in found.confidence_interval)
    if math.isfinite(low) and math.isfinite(high):
        return low, high, float(found.standard_error), "bca" if bca else "percentile"
    tail = (1 - how.confidence) / 2
    drawn = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    if not len(drawn):
        return math.nan, math.nan, math.nan, "none"
    low, high = (float(bound) for bound in np.quantile(drawn, (tail, 1 - tail)))
    return low, high, float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan, "percentile"


__all__ = ["Contrast", "contrast", "newcombe"]
