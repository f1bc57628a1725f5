"""Calibration against scikit-learn: bins of equal width and of equal mass, Brier scores, what chance alone makes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from graft import classification
from graft.evaluation import calibration
from graft.evaluation.calibration import BINS, columns_of, events, finding, measure
from graft.evaluation.intervals import Drawn

HOW = Drawn(resamples=200)


def table_of(rows: int = 704, sharpness: float = 1.0, seed: int = 0, labels: int = 4) -> dict[str, np.ndarray]:
    """Return probabilities whose right answers are drawn by them; ``sharpness`` above 1 makes them too sure.

    704 rows: no edge of 15 bins of equal mass falls on a row, where rounding would choose the bin.
    """
    source = np.random.default_rng(seed)
    logits = source.normal(size=(rows, labels)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    reference = np.array([source.choice(labels, p=row) for row in true], dtype=np.int32)
    said = np.exp(sharpness * logits) / np.exp(sharpness * logits).sum(axis=1, keepdims=True)
    return {"reference": reference, **classification.prediction_columns(said)}


def several_of(rows: int = 400, seed: int = 0, labels: int = 5) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    probabilities = source.beta(0.6, 1.2, size=(rows, labels)).astype(np.float32)
    truth = (source.random((rows, labels)) < probabilities).astype(np.uint8)
    return {"probabilities": probabilities, "truth": truth, "predicted": (probabilities >= 0.5).astype(np.uint8)}


def by_scikit_learn(table: dict[str, np.ndarray], strategy: str) -> float:
    """Return the error from scikit-learn's curve; the rows of its bins are counted by numpy's histogram."""
    confidence, outcome = (values.ravel() for values in events(table) or ())
    right, said = calibration_curve(outcome, confidence, n_bins=BINS, strategy=strategy)  # type: ignore[arg-type]
    inner = np.arange(1, BINS) / BINS if strategy == "uniform" else np.quantile(confidence, np.arange(1, BINS) / BINS)
    counts = np.bincount(np.searchsorted(inner, confidence), minlength=BINS)
    counts = counts[counts > 0]
    return float((counts * np.abs(right - said)).sum() / counts.sum())


@pytest.mark.parametrize("make", [table_of, several_of])
def test_errors_are_those_of_scikit_learns_bins(make: object) -> None:
    table = make(seed=3)  # type: ignore[operator]
    found = measure(table, HOW)
    assert found is not None
    assert found.equal_width.value == pytest.approx(by_scikit_learn(table, "uniform"), abs=1e-6)
    assert found.equal_mass.value == pytest.approx(by_scikit_learn(table, "quantile"), abs=1e-6)
    for one in (found.equal_width, found.equal_mass, found.brier):
        assert one.low < one.value < one.high or one.method == "percentile"


def test_the_equal_width_error_is_the_metric_of_the_task() -> None:
    table = table_of(seed=5)
    columns = {**table, **classification.row_columns(table)}
    assert calibration.EQUAL_WIDTH.function(columns_of(table)) == pytest.approx(classification.ece(columns), abs=1e-12)


def test_the_brier_score_is_that_of_scikit_learn() -> None:
    table = table_of(seed=6)
    expected = brier_score_loss(table["reference"], table["probabilities"], scale_by_half=False, labels=[0, 1, 2, 3])
    assert calibration.brier_rows(table).mean() == pytest.approx(expected, abs=1e-6)
    several = several_of(seed=7)
    per_label = [brier_score_loss(several["truth"][:, k], several["probabilities"][:, k]) for k in range(5)]
    assert calibration.brier_rows(several).mean() == pytest.approx(sum(per_label), abs=1e-6)


def test_the_intervals_are_bootstraps_of_rows() -> None:
    table = table_of(rows=300, seed=8)
    found = measure(table, Drawn(resamples=2000))
    assert found is not None
    source, rows = np.random.default_rng(9), calibration.brier_rows(table)
    means = [rows[source.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert (found.brier.low, found.brier.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.015)


def test_calibrated_scores_are_seldom_called_off_and_too_sure_ones_are() -> None:
    """Twenty calibrated models: one is called off on average, and chance explains the error that each shows."""
    results = [measure(table_of(rows=250, seed=seed), Drawn(resamples=100)) for seed in range(20)]
    assert sum(one is not None and one.p <= 0.05 for one in results) <= 4
    mean = np.mean([one.equal_width.value for one in results if one is not None])
    assert mean == pytest.approx(np.mean([one.by_chance for one in results if one is not None]), rel=0.15)
    sure = measure(table_of(rows=600, sharpness=3.0), HOW)
    assert sure is not None
    assert sure.p < 0.01
    assert "more than chance makes" in finding(sure, [], HOW).text
    assert finding(sure, [], HOW).limits
    assert results[0] is not None
    assert not finding(results[0], [], HOW).limits


def test_tables_without_probabilities_have_no_calibration() -> None:
    assert measure({"row": np.array(["a"]), "prediction": np.array([1.0])}, HOW) is None


def test_squared_error_is_right_on_average_where_the_plain_one_is_not() -> None:
    """Scores that are right have an error of 0; the expected calibration error of 300 rows is far above."""
    tables = [table_of(rows=300, seed=seed) for seed in range(60)]
    squares = np.array([calibration.squared_error(one) for one in tables])
    assert abs(squares.mean()) < 3 * squares.std(ddof=1) / 60**0.5
    assert np.mean([measured_width(one) for one in tables]) > 0.03
    # Each pair of answers of a bin, as the definition has it.
    conf, right = (values.ravel() for values in events(tables[0]))  # type: ignore[union-attr]
    bins, by_hand = np.minimum((conf * BINS).astype(int), BINS - 1), 0.0
    for one in set(bins.tolist()):
        off = (conf - right)[bins == one]
        pairs = [a * b for i, a in enumerate(off) for j, b in enumerate(off) if i != j]
        by_hand += float(np.mean(pairs)) * len(off) / len(conf) if pairs else 0.0
    assert squares[0] == pytest.approx(by_hand)


def measured_width(table: dict[str, np.ndarray]) -> float:
    return calibration.EQUAL_WIDTH.function(columns_of(table))


@pytest.mark.slow
def test_gate_on_calibration_keeps_its_level() -> None:
    """A candidate that is off by exactly the margin, and a champion that is not: the plain error lets most pass."""
    from graft.evaluation.comparison import compare

    source, held, plain, times = np.random.default_rng(1), 0, 0, 60
    for _ in range(times):
        true = source.uniform(0.5, 0.9, 600)
        reference = (source.random(600) >= true).astype(np.int32)
        row = np.arange(600)

        def said(first: np.ndarray, row: np.ndarray = row, reference: np.ndarray = reference) -> dict[str, np.ndarray]:
            columns = {"probabilities": np.stack([first, 1 - first], 1), "prediction": np.zeros(600, np.int32)}
            return {"row": row, "reference": reference, **columns}

        champion, candidate = said(true), said(true + 0.05)
        how = Drawn(resamples=200)
        held += compare(calibration.SQUARED, candidate, champion, how, margin=0.05**2).p_better <= 0.05
        columns = [{"row": row, **columns_of(one)} for one in (candidate, champion)]
        plain += compare(calibration.EQUAL_WIDTH, *columns, how, margin=0.05).p_better <= 0.05
    assert held / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5
    assert plain / times > 0.5
