"""The error budget of a test set: never above alpha, whatever was decided, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from graft.promotion.spending import Look, grant, share


def test_plan_gives_equal_shares_and_then_nothing() -> None:
    looks: list[Look] = []
    for number in range(1, 11):
        found = grant(looks, 0.05, 10)
        assert found.level == pytest.approx(0.005)
        assert found.left == pytest.approx(0.05 - 0.005 * number)
        assert found.due == (number >= 9)
        looks.append(Look(found.level, promoted=False))
    assert grant(looks, 0.05, 10).level == 0


def test_fresh_data_are_due_where_nothing_is_left_whatever_the_plan() -> None:
    only = grant([], 0.05, 1)
    assert (only.level, only.left) == (0.05, 0.0)
    assert only.due
    without_plan_now = grant([Look(0.05, promoted=False)], 0.05)
    assert (without_plan_now.level, without_plan_now.left) == (0.0, 0.0)
    assert without_plan_now.due


def test_without_a_plan_the_shares_are_a_series_that_adds_up_to_one() -> None:
    assert sum(share(number, None) for number in range(1, 200_000)) == pytest.approx(1, abs=1e-5)
    assert grant([], 0.05).level == pytest.approx(0.05 * 6 / math.pi**2)
    assert not grant([], 0.05).due
    assert grant([Look(0.001, promoted=False)] * 8, 0.05).due


def test_promotion_hands_its_level_on() -> None:
    first = grant([], 0.05, 10)
    second = grant([Look(first.level, promoted=True)], 0.05, 10)
    assert second.level == pytest.approx(0.01)
    third = grant([Look(first.level, promoted=True), Look(second.level, promoted=False)], 0.05, 10)
    assert third.level == pytest.approx(0.005)
    assert third.spent == pytest.approx(0.01)


@given(
    plans=some.lists(
        some.tuples(some.booleans(), some.sampled_from([None, 1, 3, 50]), some.sampled_from([0.01, 0.05]))
    ),
    alpha=some.sampled_from([0.01, 0.05]),
)
def test_levels_that_are_newly_taken_never_add_up_to_more_than_alpha(
    plans: list[tuple[bool, int | None, float]], alpha: float
) -> None:
    """Also where plan and alpha change on the way: the largest alpha bounds the sum."""
    looks: list[Look] = []
    taken, handed_on = 0.0, 0.0
    for promoted, planned, then in plans:
        found = grant(looks, then, planned)
        assert 0 <= found.level <= then
        taken += max(0.0, found.level - handed_on)
        handed_on = found.level if promoted else 0.0
        looks.append(Look(found.level, promoted))
    assert taken <= max([alpha, *(then for _, _, then in plans)]) + 1e-12


def test_fallback_keeps_the_family_wise_error_where_some_nights_are_better() -> None:
    """Dependent p values (one shared error of the test set), half of the candidates truly better."""
    draw, wrong, times = np.random.default_rng(0), 0, 4000
    for _ in range(times):
        shared = draw.normal()
        looks: list[Look] = []
        false = False
        for night in range(10):
            better = night % 2 == 0
            z = 3.5 * better + 0.7 * shared + math.sqrt(1 - 0.49) * draw.normal()
            level = grant(looks, 0.05, 10).level
            p = 0.5 * math.erfc(z / math.sqrt(2))
            promoted = p <= level
            false |= promoted and not better
            looks.append(Look(level, promoted))
        wrong += false
    assert wrong / times <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / times)


def test_it_says_what_is_left_and_when_fresh_data_are_due() -> None:
    said = grant([Look(0.005, promoted=False)] * 8, 0.05, 10).said
    assert said.startswith("decision 9 of 10 on this test set at level 0.005; 0.005 of alpha 0.05 is left after it")
    assert said.endswith(": fresh test data are due")
