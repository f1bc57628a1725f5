"""Paired tests against enumeration, published numbers and simulation."""

from __future__ import annotations

import itertools
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from graft.errors import DataError
from graft.evaluation.comparison import aligned, compare
from graft.evaluation.intervals import Drawn
from graft.evaluation.rates import newcombe as paired_rates
from graft.tasks import Metric

Table = dict[str, np.ndarray]


def scored(scores: np.ndarray) -> Table:
    return {"row": np.array([f"data/test/a.jsonl:{row + 1}" for row in range(len(scores))], object), "score": scores}


def mean(table: Table) -> float:
    return float(table["score"].mean())


RATE = Metric("rate", mean, per_row=lambda table: table["score"])
ERROR_RATE = Metric("error_rate", mean, greater_is_better=False, per_row=lambda table: table["score"])
MEAN = Metric("mean", mean)
LOSS = Metric("loss", mean, greater_is_better=False)


def four_cells(both: int, first: int, second: int, neither: int) -> tuple[Table, Table]:
    """Return two tables of 0/1 scores with these counts of rows right in both, the first, the second, neither."""
    ours = np.array([1] * both + [1] * first + [0] * second + [0] * neither, dtype=float)
    theirs = np.array([1] * both + [0] * first + [1] * second + [0] * neither, dtype=float)
    return scored(ours), scored(theirs)


def enumerated(wins: int, losses: int) -> float:
    """P(at least ``wins`` heads of wins + losses fair coins), by listing all outcomes."""
    outcomes = list(product((0, 1), repeat=wins + losses))
    return sum(sum(one) >= wins for one in outcomes) / len(outcomes)


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (7, 3), (2, 6), (0, 4), (4, 4)])
def test_mcnemar_is_the_exact_sign_test_on_rows_that_differ(wins: int, losses: int) -> None:
    found = compare(RATE, *four_cells(20, wins, losses, 9), Drawn())
    assert found.test == "mcnemar"
    assert found.p_better == pytest.approx(enumerated(wins, losses))
    assert found.p_worse == pytest.approx(enumerated(losses, wins))
    assert found.difference == pytest.approx((wins - losses) / (29 + wins + losses))
    assert (found.only_candidate, found.only_reference) == (wins, losses)


def test_newcombes_interval_matches_the_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, p. 2635, example with cells 36, 12, 2, 0: 0.0569 to 0.3404.
    assert paired_rates(36, 12, 2, 0, 0.95) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_positively_correlated_systems_get_the_continuity_correction() -> None:
    both, first, second, neither = 40, 10, 6, 24
    rows, rates = 80, np.array([50 / 80, 46 / 80])
    ours, theirs = (table["score"] for table in four_cells(both, first, second, neither))
    # Pearson's correlation of the paired scores is phi; method 10 takes rows / 2 off its numerator.
    phi = np.corrcoef(ours, theirs)[0, 1] - (rows / 2) / np.sqrt(np.prod([*(rates * rows), *((1 - rates) * rows)]))
    bounds = np.array([binomtest(hits, rows).proportion_ci(0.95, "wilson") for hits in (50, 46)])
    shape = np.array([[1, -phi], [-phi, 1]])
    below = np.array([rates[0] - bounds[0, 0], bounds[1, 1] - rates[1]])
    above = np.array([bounds[0, 1] - rates[0], rates[1] - bounds[1, 0]])
    expected = 0.05 - np.sqrt(below @ shape @ below), 0.05 + np.sqrt(above @ shape @ above)
    assert phi > 0
    assert paired_rates(both, first, second, neither, 0.95) == pytest.approx(expected)


def test_newcombes_interval_covers_the_true_difference() -> None:
    draw = np.random.default_rng(0)
    cells = np.array([0.6, 0.15, 0.07, 0.18])
    hits = 0
    for counts in draw.multinomial(80, cells, size=600):
        low, high = paired_rates(*map(int, counts), 0.95)
        hits += low <= cells[1] - cells[2] <= high
    assert 0.93 <= hits / 600 <= 0.985


def test_no_row_that_differs_gives_p_one_and_an_interval_around_zero() -> None:
    found = compare(RATE, *four_cells(30, 0, 0, 10), Drawn())
    assert (found.p_better, found.p_worse, found.difference) == (1.0, 1.0, 0.0)
    assert found.low < 0 < found.high


def test_smaller_is_better_turns_the_sign() -> None:
    up, down = compare(RATE, *four_cells(20, 9, 2, 9), Drawn()), compare(ERROR_RATE, *four_cells(20, 9, 2, 9), Drawn())
    assert down.difference == -up.difference
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))
    assert (down.p_better, down.p_worse) == pytest.approx((up.p_worse, up.p_better))


def test_bootstrap_difference_is_that_of_the_paired_rows() -> None:
    draw = np.random.default_rng(1)
    noise = draw.normal(size=300)
    ours, theirs = scored(noise + 0.1 + 0.2 * draw.normal(size=300)), scored(noise)
    found = compare(MEAN, ours, theirs, Drawn())
    by_row = ours["score"] - theirs["score"]
    assert found.test == "paired bootstrap"
    assert found.difference == pytest.approx(by_row.mean())
    assert found.standard_error == pytest.approx(by_row.std() / np.sqrt(300), rel=0.1)
    assert found.low == pytest.approx(by_row.mean() - 1.96 * by_row.std() / np.sqrt(300), abs=0.004)
    assert found.p_better < 0.01 < 0.99 < found.p_worse


def test_bootstrap_p_is_never_zero_and_shares_the_ties() -> None:
    ours, theirs = scored(np.arange(30.0) + 1), scored(np.arange(30.0))
    found = compare(MEAN, ours, theirs, Drawn(resamples=199))
    assert (found.p_better, found.p_worse) == (1 / 200, 1.0)
    same = compare(MEAN, ours, ours, Drawn(resamples=199))
    assert (same.p_better, same.p_worse, same.low, same.high) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("rows", [2, 4, 8])
def test_bootstrap_of_few_rows_says_no_more_than_exchanging_them_could(rows: int) -> None:
    found = compare(MEAN, scored(np.arange(float(rows)) + 1), scored(np.arange(float(rows))), Drawn())
    signs = np.array(list(itertools.product((1, -1), repeat=rows)))
    assert found.p_better == np.mean(signs.mean(1) >= 1) == 0.5**rows


def test_bootstrap_of_a_loss_speaks_for_the_smaller_one() -> None:
    draw = np.random.default_rng(2)
    noise = draw.normal(size=100)
    ours, theirs = scored(noise - 0.5 + 0.2 * draw.normal(size=100)), scored(noise)
    found = compare(LOSS, ours, theirs, Drawn(resamples=400))
    assert found.difference == pytest.approx(0.5, abs=0.1)
    assert found.p_better < 0.01


def test_equal_systems_are_called_better_about_as_often_as_alpha_says() -> None:
    draw = np.random.default_rng(3)
    called = 0
    for seed in range(200):
        shared = draw.normal(size=60)
        one, other = (scored(shared + 0.5 * draw.normal(size=60)) for _ in range(2))
        called += compare(MEAN, one, other, Drawn(resamples=200, seed=seed)).p_better <= 0.1
    # 0.1 of 200 is 20; three standard deviations are 13.
    assert 7 <= called <= 34


def test_rows_in_another_order_are_matched_by_name() -> None:
    ours, theirs = four_cells(5, 4, 1, 3)
    mixed = {name: column[np.random.default_rng(4).permutation(13)] for name, column in ours.items()}
    shuffled = np.random.default_rng(4).permutation(13)
    assert mixed["row"].tolist() == ours["row"][shuffled].tolist()
    assert compare(RATE, ours, theirs, Drawn()) == compare(RATE, mixed, theirs, Drawn())


def test_other_rows_are_refused() -> None:
    ours, theirs = four_cells(5, 4, 1, 3)
    theirs["row"] = np.array([*theirs["row"][:-1], "data/test/b.jsonl:1"], object)
    with pytest.raises(
        DataError, match=r"1 rows only in the first, 1 only in the second, such as 'data/test/a.jsonl:13'"
    ):
        aligned(ours, theirs)


def test_repeated_rows_are_refused() -> None:
    ours, theirs = four_cells(5, 4, 1, 3)
    theirs["row"] = np.array([theirs["row"][1], *theirs["row"][1:]], object)
    with pytest.raises(DataError, match="listed twice"):
        aligned(ours, theirs)


def test_one_row_cannot_be_compared_by_bootstrap() -> None:
    with pytest.raises(DataError, match="1 row; a paired comparison needs at least 2"):
        compare(MEAN, scored(np.array([0.5])), scored(np.array([0.4])), Drawn())


def test_as_json_is_rounded_and_sorted() -> None:
    found = compare(RATE, *four_cells(20, 7, 3, 9), Drawn()).as_json()
    assert list(found) == sorted(found)
    assert found["difference"] == round(4 / 39, 6)
