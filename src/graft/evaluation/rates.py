"""Two rates on the same rows: whether the first is better, or at least not worse by a margin.

Notation: of N rows, the candidate alone is right on ``wins``, the reference alone on ``losses``; the difference of the
rates is (wins - losses) / N. Without a margin only the rows that differ count, and McNemar's test in its exact form
(a sign test; McNemar, Psychometrika 1947) holds its level whatever the rates are. With a margin no such conditional
test exists. Tango's score statistic (Statistics in Medicine 17, 1998, p. 891) orders the outcomes, and the p value is
the largest probability, over every pair of rates on the margin, of an outcome as extreme (Sidik, Statistics in
Medicine 22, 2003, p. 265): it holds its level on few rows too, and at the small levels that alpha spending leaves,
where the normal approximation of the score test does not. Above ``EXACT_ROWS`` rows that approximation is used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

EXACT_ROWS = 20_000
GRID = 64
"""Nuisance rates at which the tail is computed before it is searched more finely around the largest."""
DEVIATIONS, FEW = 8, 20
"""How far from their mean counts are summed: what lies beyond has a probability below 1e-13 (Bernstein's bound)."""
TIE = 1e-9
"""Statistics closer than this are equal: rounding must not split a tie."""


def sign_test(wins: int, losses: int) -> float:
    """Return P(at least ``wins`` of the rows that differ) if either side were equally likely to win each."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue) if wins + losses else 1.0


def tango(wins: np.ndarray | int, losses: np.ndarray | int, rows: int, margin: float) -> np.ndarray:
    """Return Tango's score statistic for "the candidate's rate is lower by ``margin``": large speaks against that.

    With q the rate of ``losses`` under the hypothesis (its likelihood's maximum, the larger root of a quadratic), it is
    ``(wins - losses + N margin) / sqrt(N (2 q - margin - margin^2))``.
    """
    import numpy as np

    w, lost = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    linear = w + lost + margin * (2 * rows + lost - w)
    root = np.sqrt(np.maximum(linear**2 - 8 * rows * lost * margin * (1 + margin), 0.0))
    nuisance = (linear + root) / (4 * rows)
    variance = rows * (2 * nuisance - margin * (1 + margin))
    above = w - lost + rows * margin
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(variance > 0, above / np.sqrt(variance), np.sign(above) * np.inf)
    return np.where(above == 0, 0.0, found)


def not_worse(wins: int, losses: int, rows: int, margin: float) -> tuple[float, float]:
    """Return the p values of "the rate is lower by ``margin`` or more" and of "... by ``margin`` or less".

    The first is small where the candidate is shown to be not worse by the margin, the second where it is shown to be.

    Args:
        wins: rows that the candidate alone has right.
        losses: rows that the reference alone has right.
        rows: all rows, N.
        margin: 0 < margin < 1.
    """
    from scipy.stats import norm

    statistic = float(tango(wins, losses, rows, margin))
    if rows > EXACT_ROWS:
        return float(norm.sf(statistic)), float(norm.cdf(statistic))
    # The same question with the sides exchanged: what is lost is won, and the margin changes its sign.
    return _largest_tail(rows, margin, statistic, upper=True), _largest_tail(rows, margin, statistic, upper=False)


def _largest_tail(rows: int, margin: float, statistic: float, *, upper: bool) -> float:
    """Return the largest P(a statistic as extreme) over the rates on the margin."""
    import numpy as np

    bounds = _boundary(rows, margin, statistic, upper=upper)
    low, high = margin, (1 + margin) / 2
    # Rates near the smallest possible are the usual ones, so the grid is finer there.
    nuisances = low + (high - low) * np.linspace(0, 1, GRID) ** 3
    tails = np.array([_tail(rows, margin, q, bounds, upper=upper) for q in nuisances])
    best = int(tails.argmax())
    fine = np.linspace(nuisances[max(best - 1, 0)], nuisances[min(best + 1, GRID - 1)], GRID // 3)
    return float(min(1.0, max(tails.max(), *(_tail(rows, margin, q, bounds, upper=upper) for q in fine))))


def _boundary(rows: int, margin: float, statistic: float, *, upper: bool) -> np.ndarray:
    """Return, for each number of wins 0..N, the largest number of losses whose statistic reaches ``statistic``.

    -1 where none does. The statistic falls with the losses (Sidik 2003, section 2), so a bisection finds it. For the
    lower tail: the largest number of losses whose statistic is still *above* it.
    """
    import numpy as np

    wins = np.arange(rows + 1)
    low, high = np.full(rows + 1, -1), rows - wins
    edge = statistic - TIE if upper else statistic + TIE
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        reached = tango(wins, middle, rows, margin)
        holds = reached >= edge if upper else reached > edge
        active = low < high
        low = np.where(active & holds, middle, low)
        high = np.where(active & ~holds, middle - 1, high)
    return low


def _tail(rows: int, margin: float, loses: float, bounds: np.ndarray, *, upper: bool) -> float:
    """Return P(losses <= bound of the wins), or of its complement, where the rates are ``loses - margin, loses``."""
    import numpy as np
    from scipy.stats import binom

    gains = max(loses - margin, 0.0)
    reach = DEVIATIONS * math.sqrt(rows * gains * (1 - gains)) + FEW
    wins = np.arange(max(int(rows * gains - reach), 0), min(int(rows * gains + reach), rows) + 1)
    of_rest = min(loses / (1 - gains), 1.0)
    tail = binom.cdf if upper else binom.sf
    return float(binom.pmf(wins, rows, gains) @ tail(bounds[wins], rows - wins, of_rest))


def newcombe(both: int, first: int, second: int, neither: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a difference of paired rates (Newcombe, Statistics in Medicine 17, 1998, p. 2635, no. 10).

    It also holds when no row differs. The four counts are rows that both, only the first, only the second and neither
    of the systems has right.
    """
    from graft.evaluation.intervals import wilson

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
