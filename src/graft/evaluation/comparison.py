"""Paired tests over two prediction tables: is one system better than the other, or not worse by a margin.

Which test depends on what the metric is made of:

- row scores of 0 and 1 (accuracy): the exact tests of :mod:`graft.evaluation.rates`;
- other row scores whose mean is the metric (log-loss, F1 of answers): the signs of the differences are exchanged at
  random (Fisher 1935, section 21; Good, Permutation tests, 2000, section 3.2), which is exact where either system is as
  likely to win a row by as much, and right for means on many rows (Janssen, Statistics and Probability Letters 1997:
  exchanging signs leaves the sum of squares, so it is the studentised test);
- anything else (macro-F1, BLEU): both tables are resampled by the same rows, and the p value is the share of resamples
  in which the candidate is not better (Efron and Tibshirani 1993, section 15.4): an approximation below some 100 rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graft.errors import DataError, shown
from graft.evaluation.intervals import Drawn, Resampling, Taken, resample, rounded, rows_in
from graft.evaluation.rates import newcombe, not_worse, sign_test

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

Table = Mapping[str, "np.ndarray"]
TAIL = 20
"""How many draws are expected beyond the level that a test is made at: at 20, its p is right to a fifth or so."""
FINE = 0.01
"""Below this level ``how.resamples`` may be too few."""
MOST_FLIPS, MOST_RESAMPLES = 200_000, 20_000
SAME = 1e-12
"""Sums closer than this, relative to their terms, are equal: rounding must not split a tie."""
FLIPPED_CELLS = 1 << 22
"""How many signs are drawn at once: bounds the memory of a large table."""


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
    """One-sided: the chance of such a difference, or a larger one, if the candidate is worse by ``margin`` or more;
    with no margin: not better."""
    p_worse: float
    """One-sided, the other way: small where the candidate is shown to be worse by more than ``margin``."""
    test: str
    """``mcnemar``, ``unconditional score``, ``sign flips``, ``paired bootstrap`` or ``rows and seeds``."""
    only_candidate: int | None
    """0/1 row scores: rows that the candidate alone has right."""
    only_reference: int | None
    """0/1 row scores: rows that the reference alone has right."""
    margin: float = 0.0
    """What the candidate may be worse by, in the metric's unit."""
    repeats: int = 1
    """Over how many trainings of the candidate, which differ by their seed, the candidate's value is the mean."""
    seed_error: float = 0.0
    """The part of the standard error that comes from the seeds; 0 where one training cannot tell."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits, null for NaN."""
        return {
            name: rounded(value) if isinstance(value, float) else value for name, value in sorted(asdict(self).items())
        }


def compare(
    metric: Metric, candidate: Table, reference: Table, how: Resampling, *, margin: float = 0.0, level: float = 0.05
) -> Comparison:
    """Compare two prediction tables of the same rows (in any order).

    Args:
        metric: what is compared.
        candidate: N rows.
        reference: the same rows.
        how: level of the interval, resamples, seed.
        margin: what the candidate may be worse by, in the metric's unit; 0: it must be better.
        level: what p is held against; below 0.01 more is drawn than ``how.resamples``, so that p can be as small.

    Raises:
        DataError: the tables do not hold the same rows.
    """
    reference = aligned(candidate, reference)
    ours, theirs = row_scores(metric, candidate), row_scores(metric, reference)
    if ours is None or theirs is None:
        tested = _bootstrap(metric, candidate, reference, how, margin, level)
    elif is_binary(ours) and is_binary(theirs):
        tested = _rates(ours, theirs, 1 if metric.greater_is_better else -1, how.confidence, margin)
    else:
        tested = _means(ours - theirs if metric.greater_is_better else theirs - ours, how, margin, level)
    return Comparison(
        metric=metric.name,
        rows=rows_in(candidate),
        candidate=float(metric.function(candidate)),
        reference=float(metric.function(reference)),
        confidence=how.confidence,
        margin=margin,
        **tested,
    )


def row_scores(metric: Metric, table: Table) -> np.ndarray | None:
    """Return the scores whose mean is the metric (float64 [N]); None where it has none, or not for every row."""
    import numpy as np

    if metric.per_row is None:
        return None
    scores = np.asarray(metric.per_row(table), dtype=np.float64)
    return scores if bool(np.isfinite(scores).all()) else None


def is_binary(scores: np.ndarray) -> bool:
    """Return whether all scores are 0 or 1."""
    import numpy as np

    return bool(np.isin(scores, (0.0, 1.0)).all())


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


def _rates(ours: np.ndarray, theirs: np.ndarray, sign: int, confidence: float, margin: float) -> dict[str, Any]:
    """Return the test and interval of paired 0/1 scores [N]."""
    only_ours, only_theirs = int(((ours - theirs) > 0).sum()), int(((ours - theirs) < 0).sum())
    wins, losses = (only_ours, only_theirs) if sign > 0 else (only_theirs, only_ours)
    rows, both = len(ours), int((ours * theirs).sum())
    difference = (wins - losses) / rows
    low, high = newcombe(both, only_ours, only_theirs, rows - both - only_ours - only_theirs, confidence)
    if sign < 0:
        low, high = -high, -low
    if margin > 0:
        better, worse = not_worse(wins, losses, rows, margin)
    else:
        better, worse = sign_test(wins, losses), sign_test(losses, wins)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "standard_error": math.sqrt(max(0.0, (wins + losses) / rows - difference**2) / rows),
        "p_better": better,
        "p_worse": worse,
        "test": "unconditional score" if margin > 0 else "mcnemar",
        "only_candidate": only_ours,
        "only_reference": only_theirs,
    }


def _means(gains: np.ndarray, how: Resampling, margin: float, level: float) -> dict[str, Any]:
    """Return the test and interval of a mean of row differences [N], positive where the candidate is better."""
    rows = len(gains)
    _refuse_one_row(rows)
    found = resample(lambda index: float(gains[index].mean()), rows, how)
    draws = _draws(how, level, MOST_FLIPS)
    return {
        "difference": float(gains.mean()),
        "low": found.low,
        "high": found.high,
        "standard_error": float(gains.std(ddof=1)) / math.sqrt(rows),
        "p_better": sign_flips(gains + margin, draws, how.seed),
        "p_worse": sign_flips(-gains - margin, draws, how.seed),
        "test": "sign flips",
        "only_candidate": None,
        "only_reference": None,
    }


def sign_flips(gains: np.ndarray, draws: int, seed: int) -> float:
    """Return P(a mean as large) of [N] differences with signs exchanged at random; exact where 2^N <= ``draws``."""
    import numpy as np
    from scipy import stats

    moved = gains[gains != 0]
    if len(moved) < 2:
        return 0.5 if moved.sum() > 0 else 1.0
    source, total = np.random.default_rng(seed), float(moved.sum())
    if len(moved) <= math.log2(draws):
        found = stats.permutation_test(
            (moved,), np.mean, permutation_type="samples", vectorized=True, n_resamples=draws, alternative="greater"
        )
        return float(found.pvalue)
    # A sum with exchanged signs is at least the total where its kept differences make up at least all: 20 times as fast
    # as scipy's way, and the same numbers.
    edge, beyond, block = total - SAME * float(np.abs(moved).sum()), 0, max(1, FLIPPED_CELLS // len(moved))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        bits = np.frombuffer(source.bytes(-(-size * len(moved) // 8)), np.uint8)
        kept = np.unpackbits(bits, count=size * len(moved)).reshape(size, len(moved))
        beyond += int((2 * (kept.astype(np.float64) @ moved) - total >= edge).sum())
    return (beyond + 1) / (draws + 1)


def _bootstrap(
    metric: Metric, candidate: Table, reference: Table, how: Resampling, margin: float, level: float
) -> dict[str, Any]:
    """Return the test and interval of any metric: both tables resampled by the same rows."""
    import numpy as np

    sign = 1 if metric.greater_is_better else -1

    def difference(index: np.ndarray) -> float:
        return sign * float(metric.function(Taken(candidate, index)) - metric.function(Taken(reference, index)))

    everything = np.arange(rows_in(candidate))
    _refuse_one_row(len(everything))
    found = resample(difference, len(everything), more(how, level))
    drawn = len(found.distribution)
    # So few rows may all be better by chance: exchanging the systems row by row, no test can say less than this.
    least = 0.5 ** len(everything)
    return {
        "difference": difference(everything),
        "low": found.low,
        "high": found.high,
        "standard_error": found.standard_error,
        # A resample on which the metric is not defined (NaN) shows nothing, either way.
        "p_better": max(least, float((~(found.distribution > -margin)).sum() + 1) / (drawn + 1)),
        "p_worse": max(least, float((~(found.distribution < -margin)).sum() + 1) / (drawn + 1)),
        "test": "paired bootstrap",
        "only_candidate": None,
        "only_reference": None,
    }


def more(how: Resampling, level: float) -> Resampling:
    """Return ``how`` with as many resamples as a p value at ``level`` needs."""
    return Drawn(how.confidence, _draws(how, level, MOST_RESAMPLES), how.seed)


def _draws(how: Resampling, level: float, most: int) -> int:
    """Return how often to draw so that a p value at ``level`` can be told from one above it."""
    return max(how.resamples, min(math.ceil(TAIL / level), most) if 0 < level < FINE else 0)


def _refuse_one_row(rows: int) -> None:
    if rows < 2:
        raise DataError("prediction tables: 1 row; a paired comparison needs at least 2")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, Scandinavian Journal of Statistics 1979): any of them may pass.

    Held against a level, they keep the chance of a single false finding among all of them below it, whatever their
    dependence. NaN, of what could not be tested, stays and is not counted.
    """
    tested = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for passed, place in enumerate(sorted(tested, key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(tested) - passed) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def has(table: Table, metric: Metric) -> bool:
    """Say whether a system's table holds what a metric reads: a cheap predictor need not give every column."""
    try:
        metric.function(table)
    except KeyError:
        return False
    return True
