"""Intervals for any metric over a prediction table.

A rate of 0/1 row scores (accuracy) gets Wilson's score interval (Wilson, JASA 1927), which stays right at 0 %, at
100 % and on few rows. Every other metric is resampled by rows: the bootstrap with bias correction and acceleration
(BCa; Efron, JASA 1987, section 3). The acceleration needs the metric once per left-out row, so above
``JACKKNIFE_ROWS`` rows, where the correction is smaller than what an interval is read to, plain percentiles are used;
also where BCa is not defined (all resamples equal). The seed decides the resamples: equal tables, equal intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from graft.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

JACKKNIFE_ROWS = 5000
RESAMPLED_CELLS = 1 << 22
"""How many row numbers are drawn at once: bounds the memory of a large table (8 bytes each)."""


class Resampling(Protocol):
    """How intervals are made; the params section ``evaluation`` is one."""

    @property
    def confidence(self) -> float:
        """The level, 0-1."""

    @property
    def resamples(self) -> int:
        """How often the rows are drawn."""

    @property
    def seed(self) -> int:
        """Decides which."""


@dataclass(frozen=True)
class Drawn:
    """A :class:`Resampling` for callers without a params section."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; NaN where the metric is not defined."""

    value: float
    low: float
    high: float
    method: str
    """``wilson``, ``bca``, ``percentile``, or ``none`` (fewer than two rows, or an undefined metric)."""

    def as_json(self) -> dict[str, float | None]:
        """Return value, low and high rounded to 6 digits, null for NaN."""
        return {name: rounded(getattr(self, name)) for name in ("value", "low", "high")}


@dataclass(frozen=True)
class Resampled:
    """What resampling says about a statistic. ``distribution``: float64 [resamples]."""

    low: float
    high: float
    standard_error: float
    distribution: np.ndarray
    method: str


class Taken(Mapping[str, "np.ndarray"]):
    """Some rows of a table, each column taken only when a metric asks for it."""

    def __init__(self, table: Mapping[str, np.ndarray], index: np.ndarray) -> None:
        """Show the rows ``index`` (int [M]) of ``table``."""
        self._table, self._index = table, index

    def __getitem__(self, name: str) -> np.ndarray:
        taken: np.ndarray = self._table[name][self._index]
        return taken

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def rounded(value: float) -> float | None:
    """Return ``value`` as files hold it: 6 decimals, None for what is not finite."""
    return round(float(value), 6) + 0.0 if math.isfinite(value) else None


def rows_in(table: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows.

    Raises:
        DataError: there are none, or columns differ in length.
    """
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(f"prediction table: expected columns of one length, at least 1 row; got {lengths}")
    return next(iter(lengths.values()))


def binary_scores(metric: Metric, table: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the metric's row scores (float64 [N]) where all are 0 or 1, else None."""
    import numpy as np

    if metric.per_row is None:
        return None
    scores = np.asarray(metric.per_row(table), dtype=np.float64)
    return scores if bool(np.isin(scores, (0.0, 1.0)).all()) else None


def interval(metric: Metric, table: Mapping[str, np.ndarray], how: Resampling) -> Interval:
    """Return the metric over ``table`` with its two-sided interval.

    Raises:
        DataError: the table has no rows.
    """
    rows, value = rows_in(table), float(metric.function(table))
    scores = binary_scores(metric, table)
    if scores is not None:
        low, high = wilson(int(scores.sum()), rows, how.confidence)
        return Interval(value, low, high, "wilson")
    if rows < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, "none")
    found = resample(lambda index: float(metric.function(Taken(table, index))), rows, how)
    return Interval(value, found.low, found.high, found.method)


def wilson(successes: int, rows: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a rate."""
    from scipy.stats import binomtest

    found = binomtest(successes, rows).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def resample(statistic: Callable[[np.ndarray], float], rows: int, how: Resampling) -> Resampled:
    """Resample ``rows`` row numbers with replacement and describe ``statistic`` (row numbers int [rows] -> float)."""
    import numpy as np
    from scipy import stats

    settings: dict[str, Any] = {
        "data": (np.arange(rows),),
        "statistic": statistic,
        "vectorized": False,
        "n_resamples": how.resamples,
        "batch": max(1, RESAMPLED_CELLS // rows),
        "confidence_level": how.confidence,
        "rng": np.random.default_rng(how.seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # BCa divides by a zero spread; the result is tested below
        found = stats.bootstrap(**settings, method="BCa" if rows <= JACKKNIFE_ROWS else "percentile")
    method = "bca" if rows <= JACKKNIFE_ROWS else "percentile"
    low, high = (float(bound) for bound in found.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        tail = (1 - how.confidence) / 2
        low, high = (float(bound) for bound in np.quantile(found.bootstrap_distribution, (tail, 1 - tail)))
        method = "percentile" if math.isfinite(low) else "none"
    return Resampled(low, high, float(found.standard_error), found.bootstrap_distribution, method)
