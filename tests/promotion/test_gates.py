"""Gates: held, broken or unclear by a margin; and that all of them together keep the level of one."""

from __future__ import annotations

import numpy as np
import pytest

from graft.errors import DataError
from graft.evaluation.intervals import Drawn
from graft.promotion.gates import GROUP_GAP, MEAN_SCORE, Gate, Measured, passes
from graft.promotion.spending import grant
from graft.promotion.verdict import Opponent, Terms, verdict
from graft.tasks import Metric

RATE = Metric("accuracy", lambda t: float(t["score"].mean()), per_row=lambda t: t["score"])


def scored(scores: np.ndarray, **columns: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "row": np.array([f"r{row}" for row in range(len(scores))], object),
        "score": np.asarray(scores, float),
    } | columns


def gate(ours: np.ndarray, theirs: np.ndarray, margin: float, mask: np.ndarray | None = None) -> Gate:
    measured = Measured("probe", scored(ours), scored(theirs), MEAN_SCORE, margin, mask)
    return passes(measured, Drawn(), level=0.05, alpha=0.05, power=0.8)


def test_gate_holds_breaks_or_is_unclear() -> None:
    draw = np.random.default_rng(0)
    theirs = draw.normal(size=400)
    held = gate(theirs + draw.normal(0, 0.2, 400), theirs, 0.05)
    assert (held.state, held.rows_needed) == ("held", None)
    broken = gate(theirs - 0.3 + draw.normal(0, 0.2, 400), theirs, 0.05)
    assert broken.state == "broken"
    unclear = gate(theirs - 0.03 + draw.normal(0, 2, 400), theirs, 0.05)
    assert unclear.state == "unclear"
    assert unclear.rows_needed is not None
    assert unclear.rows_needed > 400
    assert f"about {unclear.rows_needed} rows would tell" in unclear.said


def test_mask_takes_the_slice_and_nan_is_not_measured() -> None:
    ours, theirs = np.ones(100), np.ones(100)
    ours[:20] = 0
    ours[90], theirs[91] = np.nan, np.nan
    mask = np.arange(100) >= 20
    found = gate(ours, theirs, 0.05, mask)
    assert (found.rows, found.difference, found.state) == (78, 0.0, "held")
    assert gate(ours, theirs, 0.05).state == "broken"
    with pytest.raises(DataError, match=r"gate probe: 1 rows measured for both systems"):
        gate(ours, theirs, 0.05, np.arange(100) == 50)


def test_other_items_are_refused_with_the_gates_name() -> None:
    ours, theirs = scored(np.ones(5)), scored(np.ones(5))
    theirs["row"] = np.array([f"q{row}" for row in range(5)], object)
    with pytest.raises(DataError, match="gate bias: prediction tables: 5 rows only in the first"):
        passes(Measured("bias", ours, theirs, MEAN_SCORE, 0.1), Drawn(), level=0.05, alpha=0.05, power=0.8)


def test_gap_is_that_of_the_best_and_the_worst_group() -> None:
    groups = np.array(["a", "b", "c"] * 40, object)
    ours = np.where(groups == "a", 0.9, np.where(groups == "b", 0.4, 0.6))
    assert GROUP_GAP.function(scored(ours, group=groups)) == pytest.approx(0.5)
    theirs = np.where(groups == "a", 0.9, 0.6)
    noise = np.random.default_rng(1).normal(0, 0.05, 120)
    measured = Measured(
        "bias", scored(ours + noise, group=groups), scored(theirs + noise, group=groups), GROUP_GAP, 0.05
    )
    found = passes(measured, Drawn(resamples=300), level=0.05, alpha=0.05, power=0.8)
    assert found.difference == pytest.approx(-0.2, abs=0.02)
    assert found.state == "broken"


def test_promotion_needs_every_gate() -> None:
    draw = np.random.default_rng(2)
    theirs = (draw.random(600) < 0.7).astype(float)
    ours = np.where(draw.random(600) < 0.3, 1.0, theirs)
    against = [Opponent("champion version 1", scored(theirs), trained=True)]
    fine = Measured("robustness", scored(ours), scored(theirs), MEAN_SCORE, 0.05)
    bad = Measured("forgetting", scored(theirs - 0.5), scored(theirs), MEAN_SCORE, 0.05)
    few = Measured("few", scored(draw.normal(size=20)), scored(draw.normal(size=20)), MEAN_SCORE, 0.05)

    def says(*gates: Measured) -> tuple[str, str]:
        found = verdict(scored(ours), against, [RATE], policy=Terms(), gates=gates)
        return found.decision, found.reason

    assert says(fine)[0] == "promote"
    assert "All 1 gates hold." in says(fine)[1]
    assert says(fine, bad)[0] == "reject"
    assert "Gates that do not hold: forgetting -0.5000 (may be -0.05" in says(fine, bad)[1]
    assert says(fine, few)[0] == "undecided"
    assert "≤ 0.05, but not every gate holds" in says(fine, few)[1]


def test_level_of_the_budget_is_that_of_every_test() -> None:
    draw = np.random.default_rng(3)
    theirs = (draw.random(300) < 0.7).astype(float)
    ours = theirs.copy()
    ours[np.flatnonzero(theirs == 0)[:12]] = 1
    ours[np.flatnonzero(theirs == 1)[:3]] = 0  # 12 against 3: p = 0.0176
    against = [Opponent("champion version 1", scored(theirs), trained=True)]
    loose = verdict(scored(ours), against, [RATE], policy=Terms(), granted=grant([], 0.05))
    assert (loose.decision, loose.p) == ("promote", pytest.approx(0.017578, abs=1e-6))
    strict = verdict(scored(ours), against, [RATE], policy=Terms(), granted=grant([], 0.05, 50))
    assert strict.decision == "undecided"
    assert strict.level == pytest.approx(0.001)
    assert "This was decision 1 of 50 on this test set at level 0.001; 0.049 of alpha 0.05 is left" in strict.reason


def test_all_gates_together_keep_the_level() -> None:
    """A candidate that is truly better and truly breaks one of three gates, exactly on its margin."""
    draw, wrong, times = np.random.default_rng(4), 0, 200

    def holds(drop: float) -> bool:
        theirs = draw.normal(size=120)
        ours = theirs - drop + draw.normal(0, 0.3, 120)
        measured = Measured("g", scored(ours), scored(theirs), MEAN_SCORE, 0.1)
        return passes(measured, Drawn(resamples=200), level=0.05, alpha=0.05, power=0.8).state == "held"

    for _ in range(times):
        wrong += holds(0.1) and holds(0.0) and holds(0.0)
    assert wrong / times <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / times)
