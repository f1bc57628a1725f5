"""Two groups of different rows: intervals and tests against statsmodels, scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from graft.evaluation.comparison import holm
from graft.evaluation.contrasts import contrast, newcombe
from graft.evaluation.intervals import Drawn
from graft.tasks import Metric

HOW = Drawn(resamples=500)
ACCURACY = Metric("accuracy", lambda table: float(table["right"].mean()), per_row=lambda table: table["right"])
LOSS = Metric("loss", lambda table: float(table["loss"].mean()), False, per_row=lambda table: table["loss"])
SPREAD = Metric("spread", lambda table: float(table["loss"].std()))


def table(rows: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    return {"right": (source.random(rows) < 0.7).astype(float), "loss": source.gamma(2.0, size=rows)}


@pytest.mark.parametrize("counts", [((18, 30), (200, 260)), ((0, 12), (40, 50)), ((25, 25), (60, 90))])
def test_newcombe_is_that_of_statsmodels(counts: tuple[tuple[int, int], tuple[int, int]]) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.confint_proportions_2indep(*counts[0], *counts[1], method="newcomb", compare="diff")
    assert newcombe(*counts, 0.95) == pytest.approx(expected, abs=1e-9)


def test_newcombe_reproduces_a_published_example() -> None:
    """Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    assert newcombe((56, 70), (48, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_rates_have_fishers_test_in_the_metrics_direction() -> None:
    rows = table()
    one, other = np.arange(60), np.arange(60, 300)
    found = contrast(ACCURACY, rows, one, other, HOW)
    cells = [[int(rows["right"][part].sum()), int((1 - rows["right"][part]).sum())] for part in (one, other)]
    assert found.p == pytest.approx(stats.fisher_exact(cells).pvalue)
    assert found.p_worse == pytest.approx(stats.hypergeom(300, sum(row[0] for row in cells), 60).cdf(cells[0][0]))
    assert found.difference.value == pytest.approx(rows["right"][one].mean() - rows["right"][other].mean())
    assert (found.difference.method, found.test) == ("newcombe", "fisher")


def test_means_have_welchs_test_and_a_bootstrap_close_to_its_interval() -> None:
    rows = table(seed=3)
    one, other = np.arange(120), np.arange(120, 300)
    found = contrast(LOSS, rows, one, other, Drawn(resamples=4000))
    welch = stats.ttest_ind(rows["loss"][one], rows["loss"][other], equal_var=False)
    assert (found.p, found.test) == (pytest.approx(welch.pvalue), "welch")
    expected = welch.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, expected.high), abs=0.04)
    worse = stats.ttest_ind(rows["loss"][one], rows["loss"][other], equal_var=False, alternative="greater")
    assert found.p_worse == pytest.approx(worse.pvalue), "a larger loss is worse"


def test_any_other_metric_is_tested_by_its_bootstrap_error() -> None:
    rows = table(seed=4)
    rows["loss"][:150] *= 1.5
    found = contrast(SPREAD, rows, np.arange(150), np.arange(150, 300), HOW)
    assert (found.test, found.difference.method) == ("bootstrap", "bca")
    assert found.difference.low > 0
    assert found.p < 0.05 < 0.95 < found.p_worse


def test_groups_without_spread_or_rows_say_nothing_or_little() -> None:
    rows = {"right": np.ones(40), "loss": np.full(40, 1.5)}
    found = contrast(LOSS, rows, np.arange(10), np.arange(10, 40), HOW)
    assert found.difference.value == 0
    assert math.isnan(found.p)
    assert contrast(ACCURACY, rows, np.arange(1), np.arange(1, 40), HOW).test == "none"


def test_holm_is_that_of_statsmodels_and_leaves_what_is_not_known() -> None:
    p = [0.01, 0.2, 0.012, 0.04, 0.9, 0.012]
    by_hand = [0.06, 0.4, 0.06, 0.12, 0.9, 0.06]  # 6 x 0.01; 5 x 0.012; 4 x 0.012 -> as before; 3 x 0.04; 2 x 0.2; 0.9
    assert holm(p) == pytest.approx(by_hand)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([math.nan, 0.03, 0.02]) == pytest.approx([math.nan, 0.04, 0.04], nan_ok=True)
