"""How many test rows decide: the power of the tests that are used, turned around.

The number is that of rows with which a difference of the size seen is shown, at the level and with the chance (power)
asked for, *if it is the true one*. The difference seen is itself uncertain, the more so where it is small against its
interval, so the number goes with the smallest difference that the rows at hand would have shown (``detectable``), which
does not depend on the difference seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Comparison

MOST_ROWS = 1 << 31
"""A number beyond this is no advice."""
DEVIATIONS, FEW = 7, 20
"""How far from their mean counts are summed."""


def mcnemar_power(rows: int, wins: float, losses: float, level: float) -> float:
    """Return the chance that the exact one-sided test rejects: the sum over the number of rows that differ.

    Args:
        rows: N.
        wins: the rate of rows that the candidate alone has right.
        losses: ... that the reference alone has right.
        level: one-sided.
    """
    import numpy as np
    from scipy.stats import binom

    differ = wins + losses
    if differ <= 0:
        return 0.0
    reach = DEVIATIONS * math.sqrt(rows * differ * (1 - differ)) + FEW
    counts = np.arange(max(int(rows * differ - reach), 0), min(int(rows * differ + reach), rows) + 1)
    most = _not_enough(level, 1 << int(counts[-1]).bit_length())[counts]
    return float(binom.pmf(counts, rows, differ) @ binom.sf(most, counts, wins / differ))


@functools.lru_cache(maxsize=32)
def _not_enough(level: float, up_to: int) -> np.ndarray:
    """Return, for 0 to ``up_to`` rows that differ, the largest number of wins that does not reject at ``level``."""
    import numpy as np
    from scipy.stats import binom

    found: np.ndarray = binom.isf(level, np.arange(up_to + 1), 0.5)
    return found


def mcnemar_rows(wins: float, losses: float, level: float, power: float) -> int | None:
    """Return the rows at which :func:`mcnemar_power` reaches ``power``; None where more rows would not help."""
    if wins <= losses:
        return None
    # The normal approximation (Connor, Biometrics 43, 1987) is some rows below the exact number.
    about = score_rows(wins, losses, 0.0, level, power)
    if about is None:
        return None
    return _first(lambda rows: mcnemar_power(rows, wins, losses, level) >= power, max(4, about))


def score_rows(wins: float, losses: float, margin: float, level: float, power: float) -> int | None:
    """Return the rows at which the score test shows "not worse by ``margin``" (Nam, Biometrics 53, 1997, equation 5).

    The statistic's variance is that under the hypothesis at the limit of its estimate, and the true one; the exact test
    on the same statistic needs a little more.
    """
    from scipy.stats import norm

    above = wins - losses + margin
    if above <= 0:
        return None
    linear = wins + losses + margin * (2 + losses - wins)
    root = math.sqrt(max(0.0, linear**2 - 8 * losses * margin * (1 + margin)))
    held = 2 * (linear + root) / 4 - margin * (1 + margin)
    true = wins + losses - (wins - losses) ** 2
    z = float(norm.isf(level)) * math.sqrt(max(held, 0.0)) + float(norm.ppf(power)) * math.sqrt(max(true, 0.0))
    return _whole((z / above) ** 2)


def mean_power(rows: float, effect: float, level: float) -> float:
    """Return the power of a one-sided paired t test; ``effect``: mean difference over its standard deviation."""
    from scipy.stats import nct, t

    return float(nct.sf(t.isf(level, rows - 1), rows - 1, effect * math.sqrt(rows)))


def mean_rows(effect: float, level: float, power: float) -> int | None:
    """Return the rows at which :func:`mean_power` reaches ``power``."""
    from scipy.stats import norm

    if effect <= 0:
        return None
    start = (float(norm.isf(level) + norm.ppf(power)) / effect) ** 2
    if start > 10_000:  # t and normal do not differ there
        return _whole(start)
    return _first(lambda rows: mean_power(rows, effect, level) >= power)


def rows_needed(comparison: Comparison, level: float, power: float) -> int | None:
    """Return the test rows with which the difference seen would decide, for the candidate or against it.

    None where there is no difference, or where rows alone cannot decide (the seeds vary as much: train more of them).
    """
    c = comparison
    above = c.difference + c.margin
    if above == 0 or not math.isfinite(above):
        return None
    found = _rows(c, above, level, power)
    return None if found is None else max(found, c.rows + 1)


def _rows(c: Comparison, above: float, level: float, power: float) -> int | None:
    if c.test in ("mcnemar", "unconditional score") and c.only_candidate is not None and c.only_reference is not None:
        rates = c.only_candidate / c.rows, c.only_reference / c.rows
        # Where a smaller metric is better, the rows that the candidate alone scores 1 on are its losses.
        wins, losses = rates if (rates[0] - rates[1]) * c.difference >= 0 else rates[::-1]
        if c.test == "mcnemar":
            return mcnemar_rows(max(wins, losses), min(wins, losses), level, power)
        return score_rows(wins, losses, c.margin, level, power) if above > 0 else _by_error(c, above, level, power)
    if c.test == "rows and seeds":
        return _by_error(c, above, level, power)
    spread = c.standard_error * math.sqrt(c.rows)
    found = mean_rows(abs(above) / spread, level, power) if spread else None
    if c.test != "sign flips" or level <= 0:
        return found
    # Of fewer rows even equal gains all flip together too often: N rows have no p below 2^-N.
    fewest = math.ceil(-math.log2(level))
    return fewest if not spread else found and max(found, fewest)


def _by_error(c: Comparison, above: float, level: float, power: float) -> int | None:
    """Return the rows by the normal approximation; what seeds add does not fall with the rows."""
    from scipy.stats import norm, t

    z = float(norm.ppf(power))
    seeds = (float(t.isf(level, c.repeats - 1)) + z) ** 2 * c.seed_error**2 if c.repeats > 1 else 0.0
    of_rows = max(c.standard_error**2 - c.seed_error**2, 0.0) * c.rows
    room = above**2 - seeds
    return _whole((float(norm.isf(level)) + z) ** 2 * of_rows / room) if room > 0 else None


def detectable(comparison: Comparison, level: float, power: float) -> float | None:
    """Return the smallest difference that these rows would show at ``level`` with chance ``power``; None: no such one.

    It is counted from no difference, and from ``-margin`` where the candidate may be worse by one.
    """
    from scipy.stats import norm, t

    c = comparison
    if level <= 0 or not c.standard_error or not math.isfinite(c.standard_error):
        return None
    if c.test == "mcnemar" and c.only_candidate is not None and c.only_reference is not None:
        return _mcnemar_detectable(c.rows, (c.only_candidate + c.only_reference) / c.rows, level, power)
    z = float(norm.ppf(power))
    if c.repeats > 1:
        of_rows = c.standard_error**2 - c.seed_error**2
        seeds = float(t.isf(level, c.repeats - 1)) + z
        return math.sqrt((float(norm.isf(level)) + z) ** 2 * max(of_rows, 0.0) + seeds**2 * c.seed_error**2)
    return (float(norm.isf(level)) + z) * c.standard_error


def _mcnemar_detectable(rows: int, differ: float, level: float, power: float) -> float | None:
    """Return the smallest difference that is shown where the share of rows that differ stays as it is."""
    low, high = 0.0, differ
    if mcnemar_power(rows, differ, 0.0, level) < power:
        return None
    for _ in range(14):
        middle = (low + high) / 2
        enough = mcnemar_power(rows, (differ + middle) / 2, (differ - middle) / 2, level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def _first(enough: Callable[[int], bool], start: int = 4) -> int | None:
    """Return the smallest number of rows that is enough; more rows are, but for the steps of a discrete test.

    To one row in a thousand, beyond which no such number is right; ``start`` is a first guess.
    """
    low = high = start
    while not enough(high):
        low, high = high, high + max(high // 8, 4)
        if high > MOST_ROWS:
            return None
    while low == high or (low > 2 and enough(low)):
        low, high = max(low * 7 // 8 - 1, 1), low
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _whole(rows: float) -> int | None:
    return max(2, math.ceil(rows)) if rows < MOST_ROWS else None
