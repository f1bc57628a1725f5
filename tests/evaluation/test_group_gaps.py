"""Gaps between groups: values by hand, the interval against scipy's bootstrap, p against an exact count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from graft.evaluation.group_gaps import finding, largest_gap, measure
from graft.evaluation.intervals import Drawn
from graft.evaluation.slices import SlicesConfig
from graft.evaluation.traits import Traits
from graft.tasks import Metric

HOW = Drawn(resamples=1000)
ACCURACY = Metric("accuracy", lambda table: float(table["right"].mean()), per_row=lambda table: table["right"])
LOSS = Metric("loss", lambda table: float(table["right"].mean()), False, per_row=lambda table: table["right"])
BY_SUM = Metric("by_sum", lambda table: float(table["right"].sum() / len(table["right"])))


def groups_of(sizes: dict[str | None, int]) -> Traits:
    names = [name for name, rows in sizes.items() for _ in range(rows)]
    return Traits([f"data/test/a.jsonl:{line}" for line in range(1, len(names) + 1)], columns={"group": names})


def test_the_largest_gap_is_between_the_best_and_the_worst_group() -> None:
    traits = groups_of({"a": 50, "b": 40, "c": 60, "rare": 5, None: 30})
    right = np.concatenate([np.arange(50) < 45, np.arange(40) < 20, np.arange(60) < 48, np.zeros(5), np.zeros(30)])
    table = {"row": np.array(traits.places, dtype=object), "right": right.astype(float)}
    (one,) = measure(ACCURACY, table, traits, ["group"], SlicesConfig(), HOW)
    assert [group.name for group in one.slices] == ["group=a", "group=b", "group=c"]
    assert [value.value for value in one.values] == pytest.approx([0.9, 0.5, 0.8])
    assert (one.best, one.worst, one.gap.value) == ("group=a", "group=b", pytest.approx(0.4))
    assert one.left_out == [("group=rare", 5, "fewer than 20 rows"), ("group=(none)", 30, "no value")]
    expected = stats.bootstrap(
        (right[:50].astype(float), right[50:90].astype(float)),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (one.gap.low, one.gap.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert one.p < 0.002
    assert largest_gap(ACCURACY, table, [group.mask for group in one.slices]) == pytest.approx(0.4)
    section = finding([one], HOW)
    assert "group=a before group=b: more than chance makes" in section.text
    assert any("group=rare, group=(none)" in limit for limit in section.limits)


def test_a_smaller_loss_is_the_better_group() -> None:
    traits = groups_of({"a": 30, "b": 30})
    table = {"row": np.array(traits.places, dtype=object), "right": np.r_[np.ones(30), np.zeros(30)]}
    (one,) = measure(LOSS, table, traits, ["group"], SlicesConfig(), HOW)
    assert (one.best, one.worst, one.gap.value) == ("group=b", "group=a", 1.0)


@pytest.mark.parametrize("metric", [ACCURACY, BY_SUM], ids=["by rows", "by groups"])
def test_p_is_the_share_of_all_exchanges(metric: Metric) -> None:
    """Eight rows in two groups of four have 70 exchanges, which can be counted."""
    right = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=float)
    traits = groups_of({"a": 4, "b": 4})
    table = {"row": np.array(traits.places, dtype=object), "right": right}
    (one,) = measure(metric, table, traits, ["group"], SlicesConfig(least_rows=2), HOW)
    every = [
        abs(right[list(first)].sum() - (4 - right[list(first)].sum())) for first in itertools.combinations(range(8), 4)
    ]
    exact = np.mean([gap >= 2 for gap in every])
    assert one.p == pytest.approx(exact, abs=0.04)


@pytest.mark.slow
def test_groups_that_are_alike_are_seldom_called_apart() -> None:
    """Ten groups always have a largest gap; its p must not be small more often than chance says."""
    small = 0
    for seed in range(60):
        source = np.random.default_rng(seed)
        traits = groups_of(dict.fromkeys("abcdefghij", 25))
        table = {"row": np.array(traits.places, dtype=object), "right": (source.random(250) < 0.7).astype(float)}
        (one,) = measure(ACCURACY, table, traits, ["group"], SlicesConfig(), Drawn(resamples=100, seed=seed))
        assert one.gap.value > 0.1
        small += one.p <= 0.05
    assert small <= stats.binom(60, 0.05).ppf(0.999)


def test_one_group_has_no_gap() -> None:
    traits = groups_of({"a": 30, "b": 3})
    table = {"row": np.array(traits.places, dtype=object), "right": np.ones(33)}
    (one,) = measure(ACCURACY, table, traits, ["group"], SlicesConfig(), HOW)
    assert one.as_json()["gap"] == {"value": None, "low": None, "high": None}
    assert "fewer than two groups have enough test rows" in finding([one], HOW).text
