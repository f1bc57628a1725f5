"""Verdicts: each kind, the numbers in its reason, and whether the number of rows it asks for would decide."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graft.errors import DataError
from graft.evaluation.intervals import Drawn
from graft.promotion import PromotionConfig
from graft.promotion.spending import Grant
from graft.promotion.verdict import Opponent, Terms, decide, verdict
from graft.tasks import Metric

Table = dict[str, np.ndarray]
RATE = Metric("accuracy", lambda table: float(table["score"].mean()), per_row=lambda table: table["score"])
LOSS = Metric("loss", lambda table: float(table["score"].mean()), greater_is_better=False)


def scored(scores: np.ndarray) -> Table:
    return {"row": np.array([f"r{row}" for row in range(len(scores))], object), "score": np.asarray(scores, float)}


def pair(both: int, first: int, second: int, neither: int) -> tuple[Table, Table]:
    ours = [1] * (both + first) + [0] * (second + neither)
    theirs = [1] * both + [0] * first + [1] * second + [0] * neither
    return scored(np.array(ours)), scored(np.array(theirs))


def test_better_candidate_is_promoted_and_the_reason_says_why() -> None:
    verdict = decide(*pair(60, 20, 5, 15), RATE, against="champion (version 3)")
    assert verdict.decision == "promote"
    assert verdict.rows_needed is None
    assert verdict.reason.startswith(
        "accuracy 0.8000 against 0.6500 of champion (version 3) on 100 rows: +0.1500 (95 %"
    )
    assert verdict.reason.endswith("one-sided p = 0.002 ≤ 0.05: the candidate is better.")


def test_worse_candidate_is_rejected() -> None:
    verdict = decide(*pair(60, 5, 20, 15), RATE)
    assert verdict.decision == "reject"
    assert "the candidate is worse (p = 0.002 for that)" in verdict.reason


def test_same_scores_on_every_row_are_rejected() -> None:
    verdict = decide(*pair(60, 0, 0, 40), RATE)
    assert verdict.decision == "reject"
    assert "nothing is gained" in verdict.reason


@pytest.mark.parametrize(("wins", "losses"), [(8, 5), (5, 8)])
def test_small_difference_is_undecided_and_asks_for_rows(wins: int, losses: int) -> None:
    verdict = decide(*pair(60, wins, losses, 27), RATE)
    assert verdict.decision == "undecided"
    assert verdict.rows_needed is not None
    assert verdict.rows_needed > 100
    assert f"about {verdict.rows_needed} test rows would decide" in verdict.reason


def test_equal_score_from_other_rows_is_undecided_without_a_number() -> None:
    verdict = decide(*pair(60, 6, 6, 28), RATE)
    assert (verdict.decision, verdict.rows_needed) == ("undecided", None)
    assert "there is no difference" in verdict.reason


def test_undecided_says_which_difference_would_have_been_seen() -> None:
    found = decide(*pair(60, 8, 5, 27), RATE)
    assert found.detectable is not None
    assert found.detectable > found.difference
    assert f"they show a difference of {found.detectable:.2g} 80 times in 100" in found.reason


def test_not_worse_promotes_what_is_as_good_and_a_bit_worse() -> None:
    tables = pair(500, 20, 22, 58)
    assert decide(*tables, RATE).decision == "undecided"
    found = decide(*tables, RATE, margin=0.03)
    assert (found.decision, found.test) == ("promote", "unconditional score")
    assert found.reason.endswith("the candidate is not worse by 0.03.")
    worse = decide(*pair(500, 5, 70, 25), RATE, margin=0.03)
    assert worse.decision == "reject"
    assert "the candidate is worse by 0.03 or more" in worse.reason
    same = decide(*pair(500, 0, 0, 100), RATE, margin=0.03)
    assert same.decision == "promote"


def against(*opponents: Table, **options: object) -> object:
    ours = scored(np.array([1] * 80 + [0] * 20))
    named = [Opponent(f"system {number}", table, trained=False) for number, table in enumerate(opponents)]
    return verdict(ours, named, [RATE], policy=Terms(), **options)  # type: ignore[arg-type]


def test_every_opponent_must_be_beaten_and_the_hardest_is_named() -> None:
    weak, strong = scored(np.array([1] * 50 + [0] * 50)), scored(np.array([1] * 78 + [0] * 22))
    assert against(weak).decision == "promote"  # type: ignore[attr-defined]
    found = against(weak, strong)
    assert (found.decision, found.against) == ("undecided", "system 1")  # type: ignore[attr-defined]
    assert found.against_all["system 0"] < 0.001 < found.against_all["system 1"]  # type: ignore[attr-defined]


def test_used_up_budget_promotes_nothing_and_says_so() -> None:
    found = against(scored(np.zeros(100)), granted=Grant(0.0, 51, 0.05, 0.05, 50))
    assert found.decision == "undecided"  # type: ignore[attr-defined]
    assert "the error budget of this test set is used up" in found.reason  # type: ignore[attr-defined]


def test_any_of_several_metrics_is_paid_for() -> None:
    loss = Metric("loss", lambda t: float(t["loss"].mean()), greater_is_better=False, per_row=lambda t: t["loss"])
    ours, theirs = pair(60, 14, 5, 21)  # one-sided p = 0.0318
    draw = np.random.default_rng(0)
    ours["loss"], theirs["loss"] = draw.normal(size=100), draw.normal(size=100)
    champion = [Opponent("the champion", theirs, trained=True)]
    alone = verdict(ours, champion, [RATE], policy=Terms())
    both = verdict(ours, champion, [RATE, loss], policy=Terms())
    assert alone.decision == "promote"
    assert both.p == pytest.approx(2 * alone.p)
    assert both.decision == "undecided"


def test_repeats_count_and_a_bad_first_draw_is_not_promoted() -> None:
    draw = np.random.default_rng(1)
    theirs = scored((draw.random(2000) < 0.70).astype(float))
    good = [scored((draw.random(2000) < 0.78).astype(float)) for _ in range(5)]
    champion = [Opponent("the champion", theirs, trained=True)]
    found = verdict(good[0], champion, [RATE], policy=Terms(), repeats=good[1:])
    assert (found.decision, found.test, found.repeats) == ("promote", "rows and seeds", 5)
    assert found.seed_error > 0
    bad = scored(np.array([1.0] * 1380 + [0.0] * 620))
    unlucky = verdict(bad, champion, [RATE], policy=Terms(alpha=0.4), repeats=good)
    assert unlucky.p <= 0.4
    assert unlucky.decision == "undecided"
    assert "the adapter of the first seed, which would be champion, is not" in unlucky.reason


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"margin": 0.01}, "set aim: not_worse too"),
        ({"aim": "not_worse"}, "needs a margin above 0"),
        ({"gates": [{"margin": 0.01}]}, "names nothing to hold"),
        ({"gates": [{"probe": "bias", "metric": "ece", "margin": 0.01}]}, "probe goes with no metric"),
        ({"gates": [{"slice": {"value": "x"}, "margin": 0.01}]}, "value needs a column"),
        ({"gates": [{"slice": {}, "margin": 0.01}]}, "names no rows"),
    ],
)
def test_section_that_asks_nothing_clear_is_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromotionConfig.model_validate(section)


def test_alpha_decides() -> None:
    tables = pair(60, 14, 6, 20)  # one-sided p = 0.0577
    assert decide(*tables, RATE, alpha=0.05).decision == "undecided"
    assert decide(*tables, RATE, alpha=0.06).decision == "promote"


def test_smaller_loss_is_promoted() -> None:
    draw = np.random.default_rng(1)
    noise = draw.normal(size=120)
    verdict = decide(
        scored(noise - 0.3 + 0.1 * draw.normal(size=120)), scored(noise), LOSS, resampling=Drawn(resamples=300)
    )
    assert verdict.decision == "promote"
    assert verdict.test == "paired bootstrap"
    assert verdict.difference > 0


def test_other_rows_are_refused() -> None:
    ours, theirs = pair(5, 1, 1, 3)
    theirs["row"] = np.array([f"q{row}" for row in range(10)], object)
    with pytest.raises(DataError, match="a paired test needs the same rows"):
        decide(ours, theirs, RATE)


def test_as_json_holds_plain_values() -> None:
    found = decide(*pair(60, 20, 5, 15), RATE).as_json()
    assert found["decision"] == "promote"
    assert found["p"] == 0.002039
    assert json.loads(json.dumps(found, allow_nan=False)) == found
