"""Verdicts: each kind, the numbers in its reason, and whether the number of rows it asks for would decide."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graft.errors import DataError
from graft.evaluation.intervals import Drawn
from graft.promotion.verdict import decide
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


def test_asked_rows_decide_about_four_times_of_five() -> None:
    needed = decide(*pair(60, 14, 8, 18), RATE).rows_needed
    assert needed is not None
    draw = np.random.default_rng(0)
    cells = draw.multinomial(needed, [0.60, 0.14, 0.08, 0.18], size=300)
    decided = sum(decide(*pair(*map(int, counts)), RATE).decision == "promote" for counts in cells)
    # The exact test is a little stricter than the normal approximation that asks for the rows.
    assert 0.7 <= decided / 300 <= 0.87


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
