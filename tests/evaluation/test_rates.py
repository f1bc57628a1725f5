"""Tests of two paired rates against published numbers, statsmodels, and enumeration of every outcome."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from graft.evaluation.intervals import wilson
from graft.evaluation.rates import newcombe, not_worse, sign_test, tango


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (7, 3), (20, 5), (100, 80), (3, 3)])
def test_sign_test_is_half_of_statsmodels_two_sided_mcnemar(wins: int, losses: int) -> None:
    two_sided = mcnemar([[9, wins], [losses, 4]], exact=True).pvalue
    smaller = sign_test(max(wins, losses), min(wins, losses))
    assert min(1.0, 2 * smaller) == pytest.approx(two_sided)


@pytest.mark.parametrize(("hits", "rows"), [(0, 12), (7, 20), (399, 400)])
def test_wilson_is_statsmodels(hits: int, rows: int) -> None:
    assert wilson(hits, rows, 0.95) == pytest.approx(proportion_confint(hits, rows, 0.05, "wilson"))


def test_tango_matches_the_published_example() -> None:
    # Tango 1998, section 6: two disinfection systems, 43 both, 1 the new one alone not: Z = 1.709, p = 0.044.
    statistic = float(tango(0, 1, 44, 0.1))
    assert statistic == pytest.approx(1.709, abs=5e-4)
    assert norm.sf(statistic) == pytest.approx(0.044, abs=5e-4)


@pytest.mark.parametrize(("wins", "losses", "rows", "margin"), [(3, 9, 60, 0.05), (12, 4, 100, 0.02), (0, 3, 40, 0.1)])
def test_tango_is_the_score_at_the_likelihoods_maximum(wins: int, losses: int, rows: int, margin: float) -> None:
    def minus_log_likelihood(q: float) -> float:
        rest = 1 - 2 * q + margin
        parts = ((wins, q - margin), (losses, q), (rows - wins - losses, rest))
        return -sum(count * np.log(max(rate, 1e-300)) for count, rate in parts if count)

    ends = (margin + 1e-12, (1 + margin) / 2 - 1e-12)
    q = minimize_scalar(minus_log_likelihood, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    expected = (wins - losses + rows * margin) / np.sqrt(rows * (2 * q - margin - margin**2))
    assert float(tango(wins, losses, rows, margin)) == pytest.approx(expected, rel=1e-4)


def enumerated(statistic: float, rows: int, margin: float, loses: float) -> float:
    """P(a statistic as large) by listing every pair of counts."""
    w, lost = np.meshgrid(np.arange(rows + 1), np.arange(rows + 1), indexing="ij")
    inside = w + lost <= rows
    w, lost = w[inside], lost[inside]
    chance = multinomial.pmf(
        np.column_stack([w, lost, rows - w - lost]), rows, [loses - margin, loses, 1 - 2 * loses + margin]
    )
    return float(chance[tango(w, lost, rows, margin) >= statistic - 1e-9].sum())


@pytest.mark.parametrize(("wins", "losses", "rows", "margin"), [(2, 4, 30, 0.1), (6, 5, 40, 0.05), (0, 0, 25, 0.1)])
def test_p_is_the_largest_tail_over_the_margin(wins: int, losses: int, rows: int, margin: float) -> None:
    p, _ = not_worse(wins, losses, rows, margin)
    statistic = float(tango(wins, losses, rows, margin))
    grid = margin + ((1 - margin) / 2 - 1e-9) * np.linspace(0, 1, 500) ** 3
    largest = max(enumerated(statistic, rows, margin, q) for q in grid)
    assert p == pytest.approx(largest, rel=2e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("loses", [0.06, 0.1, 0.2, 0.4])
def test_level_holds_whatever_the_rates(alpha: float, loses: float) -> None:
    rows, margin = 40, 0.05
    counts = [(w, lost) for w in range(rows + 1) for lost in range(rows + 1 - w)]
    counts.sort(key=lambda one: -float(tango(*one, rows, margin)))
    # p grows as the statistic falls, so a bisection finds which outcomes reject.
    rejected = bisect.bisect_right(counts, alpha, key=lambda one: not_worse(*one, rows, margin)[0])
    cells = [[w, lost, rows - w - lost] for w, lost in counts[:rejected]]
    size = multinomial.pmf(cells, rows, [loses - margin, loses, 1 - 2 * loses + margin]).sum()
    assert 0 < size <= alpha * 1.001


def test_worse_by_more_is_shown_the_other_way() -> None:
    better, worse = not_worse(5, 60, 400, 0.02)
    assert better > 0.99
    assert worse < 1e-4


def test_margin_over_many_rows_is_the_score_test() -> None:
    p, other = not_worse(1500, 1400, 30_000, 0.005)
    statistic = (100 + 150) / np.sqrt(30_000 * 0.0967)
    assert p == pytest.approx(norm.sf(statistic), rel=0.1)
    assert p + other == pytest.approx(1)


def test_newcombe_without_a_row_that_differs() -> None:
    low, high = newcombe(30, 0, 0, 10, 0.95)
    assert low == pytest.approx(-high)
    assert low < 0
