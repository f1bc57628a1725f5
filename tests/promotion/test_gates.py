"""Gates: held, broken or unclear by a margin; and that all of them together keep the level of one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graft.errors import DataError
from graft.evaluation.intervals import Drawn
from graft.promotion.gates import MEAN_SCORE, Counted, Gate, Measured, passes
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


def alike(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, margin: float) -> Gate:
    named = [(str(name), groups == name) for name in np.unique(groups)]
    measured = Measured("accuracy alike by g", scored(ours), scored(theirs), RATE, margin, groups=named)
    return passes(measured, Drawn(), level=0.05, alpha=0.05, power=0.8)


def test_verdict_says_in_words_what_a_gap_is_and_was() -> None:
    """The first group stays at 0.9, the second rises from 0.7 to 0.8."""
    groups = np.repeat(np.array(["a", "b"], object), 400)
    theirs = np.concatenate([np.arange(400) < 360, np.arange(400) < 280]).astype(float)
    ours = np.concatenate([np.arange(400) < 360, np.arange(400) < 320]).astype(float)
    said = alike(ours, theirs, groups, 0.05).said
    lead = (
        "alike by g b before a is a lead of -0.1000, and the gap was 0.2000: growth by 0.05 or more is ruled out (p = "
    )
    assert lead in said
    assert " ≤ 0.05, 800 rows)" in said


def test_gap_between_groups_may_not_grow() -> None:
    draw = np.random.default_rng(1)
    groups = np.array(["a", "b", "c"] * 700, object)
    right = (draw.random(2100) < 0.8).astype(float)
    fair = alike(right, right, groups, 0.05)
    assert (fair.state, fair.rows) == ("held", 2100)
    ours = np.where((groups == "b") & (draw.random(2100) < 0.4), 0, right)
    unfair = alike(ours, right, groups, 0.05)
    assert (unfair.state, unfair.difference < -0.1) == ("broken", True)
    assert unfair.name.endswith(" before b")
    # Two groups: a champion that favours the one as much as the candidate favours the other. The gap did not grow.
    two, draws = groups != "c", draw.random(2100)
    turned = np.where((groups == "a") & (draws < 0.4), 0, right)
    assert alike(ours[two], turned[two], groups[two], 0.1).state == "held"
    assert alike(right, ours, groups, 0.05).state == "held"
    few = alike(right[:90], right[:90], groups[:90], 0.05)
    assert (few.state, few.rows_needed is not None) == ("unclear", True)


@pytest.mark.slow
def test_gap_gate_keeps_its_level_where_a_gap_of_the_best_and_the_worst_does_not() -> None:
    """The champion is fair; the candidate is worse in one of two groups by exactly the margin."""
    draw, times, wrong = np.random.default_rng(5), 400, 0
    groups = np.array(["a", "b"] * 150, object)
    for _ in range(times):
        same, other, mixed = draw.random((3, 300))
        theirs = (same < 0.85).astype(float)
        ours = (np.where(mixed < 0.8, same, other) < np.where(groups == "a", 0.85, 0.8)).astype(float)
        wrong += alike(ours, theirs, groups, 0.05).state == "held"
    assert wrong / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5


def test_gap_of_row_scores_is_tested_as_by_hand() -> None:
    """Welch's test of candidate - champion, at 9 tenths of the level since the champion's gap may go either way."""
    from scipy import stats

    from graft.promotion.gaps import growths

    draw = np.random.default_rng(6)
    ours, theirs = draw.normal(size=(2, 120))
    first, second = np.arange(0, 50), np.arange(50, 120)
    found = growths(RATE, scored(ours), scored(theirs), [("f", first), ("s", second)], Drawn(), 0.3).pairs
    ps = []
    for rows in (ours - theirs, ours + theirs):
        test = stats.ttest_ind(rows[first] - 0.3, rows[second], equal_var=False, alternative="less")
        ps.append(float(test.pvalue))
    assert found[0].p_held == pytest.approx(min(1, ps[0] / 0.9, ps[1] / 0.1))
    gap = [float(one[first].mean() - one[second].mean()) for one in (ours, theirs)]
    assert (found[0].candidate, found[0].champion) == (pytest.approx(gap[0]), pytest.approx(abs(gap[1])))
    total = Metric("mean", lambda table: float(table["score"].mean()))
    two = [("f", first), ("s", second)]
    by_bootstrap, _ = growths(total, scored(ours), scored(theirs), two, Drawn(), 0.3).pairs
    assert by_bootstrap.p_held == pytest.approx(found[0].p_held, abs=0.05)


def test_rows_that_a_gap_gate_asks_for_are_enough_and_not_too_many() -> None:
    """The second route: with so many rows, drawn again from those seen, it holds in the share of cases asked for.

    Four groups that are alike: all twelve pairs must hold. The rows of the closest pair alone held them in 54 of 100.
    """
    draw = np.random.default_rng(8)
    groups = np.repeat(np.array(["a", "b", "c", "d"], object), 60)
    theirs = np.tile((np.arange(60) < 48).astype(float), 4)
    ours = theirs.copy().reshape(4, 60)
    ours[:, :4], ours[:, -4:] = 0, 1
    ours = ours.ravel()
    seen = alike(ours, theirs, groups, 0.08)
    assert seen.state == "unclear"
    assert seen.rows_needed is not None
    each, times = seen.rows_needed // 4, 200
    held = 0
    for _ in range(times):
        index = np.concatenate([draw.choice(np.flatnonzero(groups == name), each) for name in np.unique(groups)])
        held += alike(ours[index], theirs[index], groups[index], 0.08).state == "held"
    assert 0.75 < held / times < 0.93


def test_fair_candidates_of_a_fair_champion_pass_more_often_than_at_half_the_level() -> None:
    draw, times, held = np.random.default_rng(9), 200, 0
    groups = np.repeat(np.array(["a", "b"], object), 500)
    for _ in range(times):
        same, other, mixed = draw.random((3, 1000))
        theirs = same < 0.85
        ours = np.where(mixed < 0.6, theirs, other < 0.85)
        held += alike(ours.astype(float), theirs.astype(float), groups, 0.05).state == "held"
    assert held / times == pytest.approx(0.6, abs=0.06)  # 0.53 where both ways had half of it


def test_cost_is_counted_and_not_tested() -> None:
    def said(candidate: float, level: float = 0.05) -> Gate:
        counted = Counted("adapter_bytes", candidate, 1000, 100)
        return passes(counted, Drawn(), level=level, alpha=0.05, power=0.8)

    assert said(1100, level=0).state == "held"
    assert said(1101).state == "broken"
    assert said(1101).said == "adapter_bytes is 1101 against 1000; at most 100 more are allowed"


def test_promotion_needs_every_gate() -> None:
    draw = np.random.default_rng(2)
    theirs = (draw.random(600) < 0.7).astype(float)
    ours = np.where(draw.random(600) < 0.3, 1.0, theirs)
    against = [Opponent("champion version 1", scored(theirs), trained=True)]
    fine = Measured("robustness", scored(ours), scored(theirs), MEAN_SCORE, 0.05)
    bad = Measured("forgetting", scored(theirs - 0.5), scored(theirs), MEAN_SCORE, 0.05, unit="bits per token")
    few = Measured("few", scored(draw.normal(size=20)), scored(draw.normal(size=20)), MEAN_SCORE, 0.05)

    def says(*gates: Measured) -> tuple[str, str]:
        found = verdict(scored(ours), against, [RATE], policy=Terms(), gates=gates)
        return found.decision, found.reason

    assert says(fine)[0] == "promote"
    assert re.search(
        r"Every gate holds: robustness is .* better: a loss of 0.05 or more is ruled out \(p", says(fine)[1]
    )
    repeated = verdict(scored(ours), against, [RATE], policy=Terms(), gates=[fine], repeats=[scored(ours)] * 4)
    assert repeated.reason.endswith("rows). Gates are of the adapter of the first seed, which would be champion.")
    assert says(fine, bad)[0] == "reject"
    said = says(fine, bad)[1]
    assert said.startswith("Gates that do not hold: forgetting is ")
    assert "0.5000 bits per token worse: a loss of 0.05 bits per token or more is shown (600 rows)." in said
    assert "Gates that hold: robustness is " in said
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


@pytest.mark.slow
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
