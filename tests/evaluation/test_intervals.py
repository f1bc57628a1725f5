"""Intervals against scipy's own statistics, closed forms, and simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from graft.errors import DataError
from graft.evaluation.intervals import (
    JACKKNIFE_ROWS,
    Drawn,
    Interval,
    Taken,
    interval,
    resample,
    rounded,
    rows_in,
    wilson,
)
from graft.tasks import Metric

Table = Mapping[str, np.ndarray]


def right(table: Table) -> np.ndarray:
    return (table["reference"] == table["prediction"]).astype(np.float64)


ACCURACY = Metric("accuracy", lambda table: float(right(table).mean()), per_row=right)
MEAN = Metric("mean", lambda table: float(table["value"].mean()))
SPEARMAN = Metric("spearman", lambda table: float(stats.spearmanr(table["a"], table["b"]).statistic))


def answers(rows: int, correct: int) -> dict[str, np.ndarray]:
    return {"reference": np.zeros(rows, dtype=int), "prediction": (np.arange(rows) >= correct).astype(int)}


def test_rate_gets_wilsons_interval_from_its_closed_form() -> None:
    rows, correct, z = 700, 522, stats.norm.ppf(0.975)
    p = correct / rows
    middle = (p + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(p * (1 - p) / rows + z * z / (4 * rows * rows))
    found = interval(ACCURACY, answers(rows, correct), Drawn())
    assert (found.value, found.low, found.high) == pytest.approx((p, middle - half, middle + half))
    assert found.method == "wilson"


@pytest.mark.parametrize("correct", [0, 12])
def test_rate_of_all_or_none_keeps_a_width(correct: int) -> None:
    found = interval(ACCURACY, answers(12, correct), Drawn())
    assert found.high - found.low > 0.2
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_other_metrics_get_scipys_bca_interval() -> None:
    values = np.random.default_rng(1).exponential(size=60)
    found = interval(MEAN, {"value": values}, Drawn(resamples=800, seed=5))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=800, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.method == "bca"


def test_interval_of_a_mean_is_close_to_students() -> None:
    values = np.random.default_rng(2).normal(size=400)
    found = interval(MEAN, {"value": values}, Drawn())
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.01)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    hits = 0
    for seed in range(150):
        values = draw.exponential(size=50)
        found = interval(MEAN, {"value": values}, Drawn(confidence=0.9, resamples=300, seed=seed))
        hits += found.low <= 1.0 <= found.high
    # 0.9 of 150 is 135; three standard deviations of the count are 11, and skew costs some 2 % at 50 rows.
    assert 120 <= hits <= 147


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    table = {"value": np.random.default_rng(4).normal(size=80)}
    one, same, other = (interval(MEAN, table, Drawn(resamples=200, seed=seed)) for seed in (0, 0, 1))
    assert one == same
    assert one.low != other.low


def test_all_resamples_equal_gives_the_value_itself() -> None:
    found = interval(MEAN, {"value": np.ones(20)}, Drawn(resamples=200))
    assert found == Interval(1.0, 1.0, 1.0, "percentile")


def test_many_rows_use_percentiles() -> None:
    values = np.random.default_rng(6).normal(size=JACKKNIFE_ROWS + 1)
    found = interval(MEAN, {"value": values}, Drawn(resamples=100))
    assert found.method == "percentile"
    assert found.low < found.value < found.high


def test_undefined_metric_is_null_in_files() -> None:
    table = {"a": np.ones(10), "b": np.arange(10.0)}
    with np.errstate(all="ignore"), pytest.warns(stats.ConstantInputWarning):
        found = interval(SPEARMAN, table, Drawn())
    assert found.as_json() == {"value": None, "low": None, "high": None}


def test_one_row_has_no_bootstrap_interval() -> None:
    found = interval(MEAN, {"value": np.array([3.0])}, Drawn())
    assert found.as_json() == {"value": 3.0, "low": None, "high": None}


@pytest.mark.parametrize("table", [{"value": np.array([])}, {"value": np.ones(2), "other": np.ones(3)}])
def test_table_without_rows_or_with_ragged_columns_is_refused(table: Table) -> None:
    with pytest.raises(DataError, match="columns of one length, at least 1 row"):
        rows_in(table)


def test_taken_reads_only_the_columns_asked_for() -> None:
    table = {"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}
    taken = Taken(table, np.array([4, 4, 0]))
    assert taken["a"].tolist() == [4, 4, 0]
    assert taken["b"].tolist() == [[8, 9], [8, 9], [0, 1]]
    assert (list(taken), len(taken)) == (["a", "b"], 2)


def test_standard_error_is_that_of_the_mean() -> None:
    values = np.random.default_rng(7).normal(size=200)
    found = resample(lambda index: float(values[index].mean()), 200, Drawn(resamples=3000))
    assert found.standard_error == pytest.approx(values.std() / math.sqrt(200), rel=0.05)


def test_wilson_narrows_with_rows() -> None:
    wide, narrow = wilson(7, 10, 0.95), wilson(700, 1000, 0.95)
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("value", "expected"), [(-1e-9, 0.0), (0.12345678, 0.123457), (math.nan, None), (math.inf, None)]
)
def test_rounded_has_six_decimals_and_no_negative_zero(value: float, expected: float | None) -> None:
    assert str(rounded(value)) == str(expected)
