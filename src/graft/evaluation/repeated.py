"""A recipe against a reference: several trainings that differ by their seed, on the same rows.

Rows and seeds are two samples, and a mean over both varies by both. One training says nothing of the seeds. With k of
them the difference of the means is D, its variance over rows is ``V_rows`` (of the mean over seeds, paired with the
reference), and over seeds ``V_seeds = s^2 (1/k + q)``, where s is the standard deviation of the k values of the metric,
and q is 1 if the reference is itself one training of such a recipe (a champion: its seed was drawn as well, taken to
vary as much) and 0 if it is not trained (a base, a cheap predictor). D is held against the two limits in quadrature::

    D > sqrt(t(level, N - 1)^2 V_rows + t(level, k - 1)^2 V_seeds)

as confidence limits of sums of variances are recovered from their parts (Graybill and Wang, JASA 1980; Zou and Donner,
Statistics in Medicine 2008). It is exact where either part is alone and stays on the safe side between: what seeds and
rows do together counts in both. A single t with Satterthwaite's degrees of freedom does not: on 2 or 3 seeds it rejects
up to 8 times too often at level 0.005 (`benchmarks/verdicts.py` has the sizes of this test).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.evaluation.comparison import Comparison, Table, aligned, more, row_scores
from graft.evaluation.intervals import Resampling, Taken, resample, rows_in

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

SMALLEST = 1e-12
"""Levels below this are not told apart."""


def compare_repeats(
    metric: Metric,
    candidates: Sequence[Table],
    reference: Table,
    how: Resampling,
    *,
    trained: bool,
    margin: float = 0.0,
    level: float = 0.05,
) -> Comparison:
    """Compare the mean of k trainings with a reference on the same rows.

    Args:
        metric: what is compared.
        candidates: k >= 2 prediction tables of N rows each.
        reference: the same rows.
        how: level of the interval, resamples, seed.
        trained: whether the reference is one training of a recipe whose seed might have been another.
        margin: what the candidate may be worse by, in the metric's unit.
        level: what p is held against.

    Raises:
        DataError: the tables do not hold the same rows.
        ValueError: fewer than two candidates.
    """
    import numpy as np

    if len(candidates) < 2:
        raise ValueError("a comparison over seeds needs two trainings or more")
    first, sign = candidates[0], 1 if metric.greater_is_better else -1
    tables = [first, *(aligned(first, other) for other in candidates[1:])]
    reference = aligned(first, reference)
    values = np.array([float(metric.function(table)) for table in tables])
    right = float(metric.function(reference))
    difference = sign * (float(values.mean()) - right)
    rows, count = rows_in(first), len(tables)
    of_rows = _row_error(metric, tables, reference, more(how, level)) ** 2
    of_seeds = float(values.var(ddof=1)) * (1 / count + trained)
    half = limit((1 - how.confidence) / 2, of_rows, of_seeds, rows, count)
    above = difference + margin
    return Comparison(
        metric=metric.name,
        rows=rows,
        candidate=float(values.mean()),
        reference=right,
        difference=difference,
        low=difference - half,
        high=difference + half,
        confidence=how.confidence,
        standard_error=math.sqrt(of_rows + of_seeds),
        p_better=tail(above, of_rows, of_seeds, rows, count),
        p_worse=tail(-above, of_rows, of_seeds, rows, count),
        test="rows and seeds",
        only_candidate=None,
        only_reference=None,
        margin=margin,
        repeats=count,
        seed_error=math.sqrt(of_seeds),
    )


def limit(level: float, of_rows: float, of_seeds: float, rows: int, repeats: int) -> float:
    """Return the difference above which one is shown at ``level``, from the two variances."""
    from scipy.stats import t

    return math.sqrt(float(t.isf(level, rows - 1)) ** 2 * of_rows + float(t.isf(level, repeats - 1)) ** 2 * of_seeds)


def tail(above: float, of_rows: float, of_seeds: float, rows: int, repeats: int) -> float:
    """Return the level at which ``above`` is just shown: the one-sided p value."""
    from scipy.optimize import brentq

    if of_rows + of_seeds == 0:
        return 1.0 if above <= 0 else max(SMALLEST, 0.5**rows)
    if above <= 0:
        return 1 - tail(-above, of_rows, of_seeds, rows, repeats) if above else 0.5
    if limit(SMALLEST, of_rows, of_seeds, rows, repeats) < above:
        return SMALLEST
    found = brentq(
        lambda log: limit(math.exp(log), of_rows, of_seeds, rows, repeats) - above, math.log(SMALLEST), math.log(0.5)
    )
    return math.exp(float(found))


def _row_error(metric: Metric, tables: Sequence[Table], reference: Table, how: Resampling) -> float:
    """Return the standard error over rows of the mean of k trainings minus the reference."""
    import numpy as np

    scores, other = [row_scores(metric, table) for table in tables], row_scores(metric, reference)
    found = [one for one in scores if one is not None]
    if other is not None and len(found) == len(scores):
        gains = np.mean(found, axis=0) - other
        return float(gains.std(ddof=1)) / math.sqrt(len(gains))

    def mean(index: np.ndarray) -> float:
        ours = [float(metric.function(Taken(table, index))) for table in tables]
        return float(np.mean(ours)) - float(metric.function(Taken(reference, index)))

    return resample(mean, rows_in(reference), how).standard_error
