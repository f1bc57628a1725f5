"""Seeds and rows together: the parts of the variance, the limits where one part is alone, and the level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graft.evaluation.comparison import compare, holm, sign_flips
from graft.evaluation.intervals import Drawn
from graft.evaluation.repeated import compare_repeats, limit, tail
from graft.tasks import Metric

RATE = Metric("rate", lambda t: float(t["score"].mean()), per_row=lambda t: t["score"])
CORPUS = Metric("corpus", lambda t: float(t["score"].mean()))


def scored(scores: np.ndarray) -> dict[str, np.ndarray]:
    return {"row": np.arange(len(scores)), "score": np.asarray(scores, dtype=float)}


def test_variances_are_those_of_rows_and_of_seeds() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = (draw.random((4, 300)) < 0.8).astype(float), (draw.random(300) < 0.75).astype(float)
    found = compare_repeats(RATE, [scored(one) for one in ours], scored(theirs), Drawn(), trained=True)
    rows = stats.sem(ours.mean(0) - theirs) ** 2
    seeds = ours.mean(1).var(ddof=1) * (1 / 4 + 1)
    assert found.standard_error**2 == pytest.approx(rows + seeds)
    assert found.seed_error**2 == pytest.approx(seeds)
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    assert found.repeats == 4
    apart = compare_repeats(RATE, [scored(one) for one in ours], scored(theirs), Drawn(), trained=False)
    assert apart.seed_error**2 == pytest.approx(seeds / 5)
    resampled = compare_repeats(CORPUS, [scored(one) for one in ours], scored(theirs), Drawn(), trained=True)
    assert resampled.standard_error == pytest.approx(found.standard_error, rel=0.05)


def test_rows_alone_give_the_paired_t_test_and_seeds_alone_a_t_test_over_seeds() -> None:
    draw = np.random.default_rng(1)
    gains = draw.normal(0.1, 1, 80)
    found = stats.ttest_1samp(gains, 0, alternative="greater")
    assert tail(gains.mean(), stats.sem(gains) ** 2, 0.0, 80, 3) == pytest.approx(found.pvalue)
    seeds = np.array([0.03, 0.05, 0.02, 0.06])
    found = stats.ttest_1samp(seeds, 0, alternative="greater")
    assert tail(seeds.mean(), 0.0, stats.sem(seeds) ** 2, 80, 4) == pytest.approx(found.pvalue)


def test_tail_and_limit_are_each_others_inverse() -> None:
    for level in (0.3, 0.05, 0.001):
        above = limit(level, 2e-4, 1e-4, 500, 3)
        assert tail(above, 2e-4, 1e-4, 500, 3) == pytest.approx(level, rel=1e-6)
        assert tail(-above, 2e-4, 1e-4, 500, 3) == pytest.approx(1 - level, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("luck", [0.0, 0.01, 0.05])
def test_level_holds_over_seeds(luck: float) -> None:
    """Where rows are many the seeds decide, and the test over rows alone promotes far too often."""
    draw, hits, alone, times = np.random.default_rng(2), 0, 0, 800
    for _ in range(times):
        ours = draw.normal(0, luck, 3)[:, None] + draw.normal(0, 0.3, (3, 200))
        theirs = draw.normal(0, luck) + draw.normal(0, 0.3, 200)
        rows = stats.sem(ours.mean(0) - theirs) ** 2
        seeds = ours.mean(1).var(ddof=1) * (1 / 3 + 1)
        hits += tail(ours.mean() - theirs.mean(), rows, seeds, 200, 3) <= 0.05
        alone += stats.ttest_1samp(ours[0] - theirs, 0, alternative="greater").pvalue <= 0.05
    assert hits / times <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / times)
    if luck == 0.05:
        assert alone / times > 0.15


def test_repeats_turn_the_sign_where_smaller_is_better() -> None:
    loss = Metric("loss", lambda t: float(t["score"].mean()), greater_is_better=False, per_row=lambda t: t["score"])
    draw = np.random.default_rng(3)
    ours, theirs = [scored(draw.normal(0.5, 0.1, 50)) for _ in range(3)], scored(draw.normal(1.0, 0.1, 50))
    found = compare_repeats(loss, ours, theirs, Drawn(), trained=True)
    assert found.difference == pytest.approx(0.5, abs=0.1)
    assert found.p_better < 0.01 < found.p_worse


def test_sign_flips_are_scipys_permutation_test() -> None:
    draw = np.random.default_rng(4)
    few = np.round(draw.normal(0.4, 1, 9), 1)
    exact = stats.permutation_test(
        (few,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flips(few, 2000, 0) == pytest.approx(exact.pvalue)
    many = draw.normal(0.15, 1, 120)
    scipys = stats.permutation_test(
        (many,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=0
    )
    assert sign_flips(many, 20_000, 0) == pytest.approx(scipys.pvalue, abs=0.01)
    assert sign_flips(np.zeros(10), 100, 0) == 1.0


def test_mean_of_row_scores_is_tested_by_sign_flips() -> None:
    draw = np.random.default_rng(5)
    ours, theirs = draw.normal(0.2, 1, 150), draw.normal(0, 1, 150)
    found = compare(RATE, scored(ours), scored(theirs), Drawn())
    paired = stats.ttest_rel(ours, theirs, alternative="greater")
    assert found.test == "sign flips"
    assert found.p_better == pytest.approx(paired.pvalue, abs=0.02)
    assert found.standard_error == pytest.approx(stats.sem(ours - theirs))
    close = compare(RATE, scored(ours), scored(theirs), Drawn(), margin=0.5)
    shifted = stats.ttest_1samp(ours - theirs + 0.5, 0, alternative="greater")
    assert close.p_better == pytest.approx(shifted.pvalue, abs=0.02)
    fine = compare(RATE, scored(ours + 1), scored(theirs), Drawn(resamples=100), level=0.001)
    assert fine.p_better == pytest.approx(1 / 20_001)


@pytest.mark.slow
def test_holm_is_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    for values in ([0.01, 0.04, 0.03], [0.2], [0.5, 0.9, 0.001, 0.02, 0.02]):
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])


def test_calibration_error_is_the_weighted_gap_of_scikit_learns_curve() -> None:
    from sklearn.calibration import calibration_curve

    from graft.classification import CALIBRATION_BINS, ece

    draw = np.random.default_rng(6)
    sure = draw.uniform(0.5, 0.999, 2000)
    right = draw.random(2000) < sure**2
    table = {
        "reference": np.zeros(2000, int),
        "prediction": np.where(right, 0, 1),
        "probabilities": np.column_stack([np.where(right, sure, 1 - sure), np.where(right, 1 - sure, sure)]),
    }
    accuracy, confidence = calibration_curve(right, sure, n_bins=CALIBRATION_BINS)
    rows = np.histogram(sure, np.linspace(0, 1, CALIBRATION_BINS + 1))[0]
    weights = rows[rows > 0] / 2000
    assert ece(table) == pytest.approx(float(weights @ np.abs(accuracy - confidence)))


def test_resamples_without_a_value_show_nothing() -> None:
    """A metric of both classes is not defined on resamples that have one alone; they do not speak for the candidate."""

    def recall(table: dict[str, np.ndarray]) -> float:
        rare = table["rare"] == 1
        return float(table["score"][rare].mean()) if rare.any() else float("nan")

    rare = np.array([1, *[0] * 29])  # in 36 of 100 resamples the one rare row is missing
    ours, theirs = scored(np.ones(30)) | {"rare": rare}, scored(np.zeros(30)) | {"rare": rare}
    found = compare(Metric("recall", recall), ours, theirs, Drawn())
    assert found.difference == 1
    assert found.p_better == pytest.approx((1 - 1 / 30) ** 30, abs=0.04)
