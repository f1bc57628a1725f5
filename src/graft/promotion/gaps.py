"""Gaps between groups that the data names: is any group served less alike by the candidate than by the champion.

The largest gap itself makes a bad test: the difference of noisy means is larger than that of the true ones, the more so
the more alike the groups are, so a fair champion looks less fair than it is and an unfair candidate passes. So every
ordered pair of groups is tested. Write c and h for the candidate's and the champion's advantage of the first group over
the second. The pair is shown to be no worse by the margin m where ``c - h < m`` or ``c + h < m`` is (the champion's gap
counts whichever way it goes): the first at :data:`SAME_WAY` of the level, since the two answer alike on most rows and
their difference is known much better than their sum, the second at the rest. All pairs must be, which costs nothing
(intersection-union, as for all gates). It follows that the largest gap grew by less than m. The pair is shown to be
worse where both are shown to be above m; one pair is enough, and their number is paid for (Bonferroni).

Both are differences of means of different rows: Welch's test on rows of ``candidate - champion`` and ``candidate +
champion``. Where scores are 0 and 1 each group gets two rows more, one for and one against (Bonett and Price, British
Journal of Mathematical and Statistical Psychology 65, 2012): thirty rows on which nothing changed prove little. A
metric of the whole table is resampled within groups, with a normal test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from graft.errors import DataError
from graft.evaluation.comparison import is_binary, row_scores
from graft.evaluation.intervals import Resampling, Taken

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Table
    from graft.tasks import Metric


SAME_WAY = 0.9
"""The share of the level for the champion's gap going the same way as the candidate's. At half the level each, a
candidate as fair as a fair champion passed in 53 of 100 cases (two groups of 500 rows, margin 0.05), so in 60."""
DRAWS, CELLS = 2000, 1 << 22
"""How often groups are drawn to find the rows that decide, and how many pairs of them are held at once."""
MOST_TIMES = 1 << 20


@dataclass(frozen=True)
class Growth:
    """By how much more the candidate favours one group over another. Positive: less alike than with the champion."""

    favoured: str
    other: str
    candidate: float
    """The candidate's advantage of the first group over the second, greater scores being better."""
    champion: float
    """The champion's, whichever way it goes: never negative."""
    standard_error: float
    p_held: float
    """The chance of so little growth if it is the margin or more."""
    p_broken: float
    """The chance of so much growth if it is the margin or less."""

    @property
    def value(self) -> float:
        """How much the gap grew."""
        return self.candidate - self.champion


@dataclass(frozen=True)
class Growths:
    """Every ordered pair of groups, and what decides them all."""

    pairs: list[Growth]
    differences: list[_Mean]
    """Of each group: candidate minus champion."""
    margin: float

    def chance(self, times: float, level: float) -> float:
        """Return how often all pairs are held with so many times the rows, if groups differ as they were seen to.

        Groups are drawn from normal distributions, always the same draws; that the champion's gap may go the other way
        is left out, so the chance is a little larger.
        """
        import numpy as np
        from scipy.stats import norm

        means = np.array([one.mean for one in self.differences])
        plain, added = (np.array([getattr(one, name) for one in self.differences]) for name in ("plain", "added"))
        variances = plain / times + added / times**2
        draws = max(100, min(DRAWS, CELLS // len(means) ** 2))
        noise = np.random.default_rng(0).normal(size=(draws, len(means)))
        drawn = means + noise * np.sqrt(plain / times)
        limits = self.margin - norm.isf(level * SAME_WAY) * np.sqrt(variances[:, None] + variances)
        np.fill_diagonal(limits, np.inf)
        return float((drawn[:, :, None] - drawn[:, None, :] < limits).all(axis=(1, 2)).mean())

    def times_needed(self, level: float, power: float) -> float | None:
        """Return how many times the rows hold all pairs with chance ``power``; None where no number does."""
        low = high = 1.0
        while self.chance(high, level) < power:
            low, high = high, 2 * high
            if high > MOST_TIMES:
                return None
        while high / low > 1.005:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.chance(middle, level) >= power else (middle, high)
        return high


def growths(
    metric: Metric,
    candidate: Table,
    champion: Table,
    groups: Sequence[tuple[str, np.ndarray]],
    how: Resampling,
    margin: float,
) -> Growths:
    """Compare every ordered pair of groups.

    Args:
        metric: what is compared; means of row scores, or anything over a table.
        candidate: N rows.
        champion: the same rows in the same order.
        groups: name and row numbers (int [K], two or more) of each group; no row is in two.
        how: resamples and seed, for a metric without row scores.
        margin: what a gap may grow by.

    Raises:
        DataError: fewer than two groups, or the metric is not defined on one.
    """
    if len(groups) < 2:
        raise DataError(f"a gap needs two groups with enough rows, and there are {len(groups)}")
    sums, differences = _moments(metric, candidate, champion, [rows for _, rows in groups], how)
    for (name, _), one in zip(groups, differences, strict=True):
        if not math.isfinite(one.mean):
            raise DataError(f"{metric.name} is not defined on group {name}")
    places = dict(enumerate(name for name, _ in groups))
    pairs = [
        _growth((places[one], places[other]), (differences[one], differences[other]), (sums[one], sums[other]), margin)
        for one, other in permutations(places, 2)
    ]
    return Growths(pairs, differences, margin)


@dataclass(frozen=True)
class _Mean:
    """Of one group: a mean, the same as tested, its variance and the degrees of freedom of that."""

    mean: float
    tested: float
    variance: float
    freedom: float
    plain: float
    """The variance without the rows that are added for the test."""
    added: float
    """What those add to it; it falls with the square of the rows."""


def _growth(names: tuple[str, str], less: tuple[_Mean, _Mean], more: tuple[_Mean, _Mean], margin: float) -> Growth:
    """Return the growth of one pair: ``less`` is candidate - champion of both groups, ``more`` candidate + champion."""
    seen, turned = (one.mean - other.mean for one, other in (less, more))
    held, broken = zip(*(_tails(one, other, margin) for one, other in (less, more)), strict=True)
    error, _ = _error(*(less if seen <= turned else more))
    return Growth(
        favoured=names[0],
        other=names[1],
        candidate=(seen + turned) / 2,
        champion=abs(turned - seen) / 2,
        standard_error=error,
        p_held=min(1.0, held[0] / SAME_WAY, held[1] / (1 - SAME_WAY)),
        p_broken=max(broken),
    )


def _error(one: _Mean, other: _Mean) -> tuple[float, float]:
    """Return the standard error of a difference of means, and its degrees of freedom (Welch, Biometrika 34, 1947)."""
    total = one.variance + other.variance
    parts = one.variance**2 / one.freedom + other.variance**2 / other.freedom
    return math.sqrt(total), total**2 / parts if parts else math.inf


def _tails(one: _Mean, other: _Mean, margin: float) -> tuple[float, float]:
    """Return the chances of a difference as low, and as high, as that of two means if it is ``margin``."""
    import numpy as np
    from scipy.special import ndtr, stdtr

    error, freedom = _error(one, other)
    above = one.tested - other.tested - margin
    if not error:
        return (0.0 if above < 0 else 1.0), (0.0 if above > 0 else 1.0)
    both = np.array([above, -above]) / error
    below, beyond = ndtr(both) if math.isinf(freedom) else stdtr(freedom, both)
    return float(below), float(beyond)


def _moments(
    metric: Metric, candidate: Table, champion: Table, groups: Sequence[np.ndarray], how: Resampling
) -> tuple[list[_Mean], list[_Mean]]:
    """Return the sums and the differences of candidate and champion in each group, greater being better."""
    ours, theirs = row_scores(metric, candidate), row_scores(metric, champion)
    sign = 1 if metric.greater_is_better else -1
    if ours is None or theirs is None:
        return _resampled(metric, candidate, champion, groups, how, sign)
    binary = is_binary(ours) and is_binary(theirs)
    sums, differences = sign * (ours + theirs), sign * (ours - theirs)
    middle = float(sign)  # of a sum of two scores of 0 and 1
    return (
        [_of_rows(sums[rows], middle if binary else None) for rows in groups],
        [_of_rows(differences[rows], 0.0 if binary else None) for rows in groups],
    )


def _of_rows(values: np.ndarray, middle: float | None) -> _Mean:
    """Return the mean of row values [K]; with ``middle``, as tested with a row one below and one above it more."""
    import numpy as np

    tested = values if middle is None else np.concatenate([values, [middle - 1, middle + 1]])
    rows, own = len(tested), len(values)
    plain, added = float(values.var(ddof=1)) / own, (0.0 if middle is None else 2 / own**2)
    variance = float(tested.var(ddof=1)) / rows
    return _Mean(float(values.mean()), float(tested.mean()), variance, rows - 1, plain, added)


def _resampled(
    metric: Metric, candidate: Table, champion: Table, groups: Sequence[np.ndarray], how: Resampling, sign: int
) -> tuple[list[_Mean], list[_Mean]]:
    """Return the same of a metric of the whole table: both tables resampled by the same rows of a group."""
    import numpy as np

    source = np.random.default_rng(how.seed)
    sums, differences = list[_Mean](), list[_Mean]()
    for rows in groups:
        drawn = [rows, *(source.choice(rows, len(rows)) for _ in range(how.resamples))]
        values = np.array([[float(metric.function(Taken(one, at))) for one in (candidate, champion)] for at in drawn])
        for found, weights in ((sums, (1, 1)), (differences, (1, -1))):
            combined = sign * (values @ np.array(weights, dtype=np.float64))
            finite = combined[1:][np.isfinite(combined[1:])]
            variance = float(finite.var(ddof=1)) if len(finite) > 1 else math.nan
            found.append(_Mean(float(combined[0]), float(combined[0]), variance, math.inf, variance, 0.0))
    return sums, differences
