"""Rows that decide, against statsmodels' power and against simulation of the tests themselves."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.power import TTestPower

from graft.evaluation.comparison import compare, sign_flips
from graft.evaluation.intervals import Drawn
from graft.evaluation.rates import not_worse, sign_test, tango
from graft.promotion.power import (
    detectable,
    mcnemar_power,
    mcnemar_rows,
    mean_power,
    mean_rows,
    rows_needed,
    score_rows,
)
from graft.tasks import Metric

RATE = Metric("rate", lambda t: float(t["score"].mean()), per_row=lambda t: t["score"])


def pair(wins: int, losses: int, same: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rows = np.arange(wins + losses + same)
    ours = np.array([1.0] * wins + [0.0] * losses + [1.0] * same)
    theirs = np.array([0.0] * wins + [1.0] * losses + [1.0] * same)
    return {"row": rows, "score": ours}, {"row": rows, "score": theirs}


def test_mcnemar_power_is_the_sum_over_all_outcomes() -> None:
    rows, wins, losses, level = 60, 0.2, 0.08, 0.05
    expected = sum(
        binom.pmf(w + lost, rows, wins + losses) * binom.pmf(w, w + lost, wins / (wins + losses))
        for w in range(rows + 1)
        for lost in range(rows + 1 - w)
        if sign_test(w, lost) <= level
    )
    assert mcnemar_power(rows, wins, losses, level) == pytest.approx(expected)


@pytest.mark.parametrize(("level", "power"), [(0.05, 0.8), (0.001, 0.9)])
def test_mcnemar_rows_decide_with_the_stated_power(level: float, power: float) -> None:
    rows = mcnemar_rows(0.07, 0.04, level, power)
    assert rows is not None
    cells = np.random.default_rng(0).multinomial(rows, [0.07, 0.04, 0.89], size=2000)
    decided = np.mean([sign_test(int(w), int(lost)) <= level for w, lost, _ in cells])
    assert decided == pytest.approx(power, abs=0.03)
    assert mcnemar_rows(0.04, 0.04, level, power) is None


@pytest.mark.parametrize(("effect", "level", "power"), [(0.1, 0.05, 0.8), (0.3, 0.01, 0.9), (0.02, 0.05, 0.8)])
def test_mean_rows_are_statsmodels(effect: float, level: float, power: float) -> None:
    expected = TTestPower().solve_power(effect, nobs=None, alpha=level, power=power, alternative="larger")
    assert mean_rows(effect, level, power) == pytest.approx(float(np.ceil(np.squeeze(expected))), abs=2)
    found = TTestPower().power(effect, 100, level, alternative="larger")
    assert mean_power(100, effect, level) == pytest.approx(found, abs=1e-6)


def test_score_rows_show_not_worse_with_the_stated_power() -> None:
    rows = score_rows(0.05, 0.05, 0.03, 0.05, 0.8)
    assert rows is not None
    cells = np.random.default_rng(1).multinomial(rows, [0.05, 0.05, 0.9], size=1000)
    counts = sorted(((int(w), int(lost)) for w, lost, _ in cells), key=lambda one: -float(tango(*one, rows, 0.03)))
    # p grows as the statistic falls.
    shown = bisect.bisect_right(counts, 0.05, key=lambda one: not_worse(*one, rows, 0.03)[0]) / 1000
    assert shown == pytest.approx(0.8, abs=0.06)


def test_rows_of_a_comparison_are_those_of_its_test() -> None:
    found = compare(RATE, *pair(40, 30, 930), Drawn())
    assert rows_needed(found, 0.05, 0.8) == mcnemar_rows(0.04, 0.03, 0.05, 0.8)
    against = compare(RATE, *pair(30, 40, 930), Drawn())
    assert rows_needed(against, 0.05, 0.8) == mcnemar_rows(0.04, 0.03, 0.05, 0.8)
    margin = compare(RATE, *pair(10, 12, 178), Drawn(), margin=0.02)
    assert rows_needed(margin, 0.05, 0.8) == score_rows(0.05, 0.06, 0.02, 0.05, 0.8)
    assert rows_needed(compare(RATE, *pair(30, 30, 940), Drawn()), 0.05, 0.8) is None


@pytest.mark.parametrize("gains", [[0.9, 1.0, 1.1], [0.5, 0.5, 0.5]])
def test_sign_flips_need_the_rows_that_can_have_such_a_p(gains: list[float]) -> None:
    rows = np.arange(len(gains))
    scored = [{"row": rows, "score": np.array(one)} for one in (gains, [0.0] * len(gains))]
    found = compare(RATE, *scored, Drawn())
    assert found.test == "sign flips"
    needed = rows_needed(found, 0.05, 0.8)
    assert needed is not None
    assert sign_flips(np.ones(needed), 9999, 0) <= 0.05 < sign_flips(np.ones(needed - 1), 9999, 0)


def test_detectable_difference_is_shown_with_the_stated_power() -> None:
    found = compare(RATE, *pair(55, 45, 900), Drawn())
    smallest = detectable(found, 0.05, 0.8)
    assert smallest is not None
    assert mcnemar_power(1000, (0.1 + smallest) / 2, (0.1 - smallest) / 2, 0.05) == pytest.approx(0.8, abs=0.01)
    assert detectable(compare(RATE, *pair(2, 1, 50), Drawn()), 0.05, 0.8) is None
