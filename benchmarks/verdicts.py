"""Is a verdict right as often as it says? A/A, power, the rows it asks for, and fifty nights on one test set.

    .venv/bin/python benchmarks/verdicts.py [--part aa power reuse seeds retrains] [--data FOLDER] [--decisions 2000]

- ``aa``: decisions on two systems that are equally good (or, with a margin, on it): how often the test promotes.
- ``power``: true effects of 1, 2 and 4 points, a tenth of the rows differing: how often it promotes, beside the exact
  power and Connor's formula (Biometrics 1987); how often it is undecided; whether the rows it asks for would do.
- ``reuse``: fifty nightly candidates, none better, on one test set: how often any is promoted, by each rule.
- ``seeds``: the test over rows and seeds, on trainings that vary.
- ``retrains``: thirty trainings by Graft's own loop that differ only by their seed, each against each: a LoRA in the
  top layer of MiniLM, on kept activations, three epochs, the best one (``--data``: a folder with train.jsonl,
  validation.jsonl and test.jsonl of ``text`` and ``label``).

Seeds are fixed, so the tables are the same each time. About twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from graft.classification import macro_f1
from graft.evaluation.comparison import compare, sign_flips
from graft.evaluation.intervals import Drawn
from graft.evaluation.rates import not_worse, sign_test, tango
from graft.evaluation.repeated import compare_repeats
from graft.promotion.power import mcnemar_power, mcnemar_rows, score_rows
from graft.promotion.spending import Look, grant
from graft.promotion.verdict import decide
from graft.tasks import Metric

ALPHA, POWER = 0.05, 0.8
RATE = Metric("accuracy", lambda t: float(t["score"].mean()), per_row=lambda t: t["score"])
QUICK = Drawn(resamples=500)
CHECKED, ASKED = 20, 100
"""How many simulated decisions are also made by the whole verdict, and of how many its number of rows is taken."""
Table = dict[str, np.ndarray]


def scored(scores: np.ndarray) -> Table:
    return {"row": np.arange(len(scores)), "score": np.asarray(scores, dtype=np.float64)}


sign_p = functools.cache(sign_test)


@functools.cache
def verdict_on(wins: int, losses: int, rows: int) -> tuple[str, int | None]:
    """Return decision and rows needed for these counts: a verdict on 0/1 scores knows nothing else of them."""
    same = rows - wins - losses
    ours = np.array([1] * wins + [0] * losses + [1] * same)
    theirs = np.array([0] * wins + [1] * losses + [1] * same)
    found = decide(scored(ours), scored(theirs), RATE, alpha=ALPHA, resampling=QUICK)
    return found.decision, found.rows_needed


def share(hits: int, of: int) -> str:
    low, high = binomtest(hits, of).proportion_ci(method="exact")
    return f"{hits / of:.4f} ({low:.4f} to {high:.4f})"


def table(title: str, head: list[str], lines: Iterator[list[Any]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for line in lines:
        print(f"| {' | '.join(str(one) for one in line)} |", flush=True)


# -- A/A


def false_promotions(draw: np.random.Generator, decisions: int) -> Iterator[list[Any]]:
    for rows, differ in ((300, 0.05), (1000, 0.10), (5000, 0.10)):
        cells = draw.multinomial(rows, [differ / 2, differ / 2, 1 - differ], size=decisions)
        says = decided(cells, rows)
        yield ["better, 0/1 scores (exact McNemar)", rows, decisions, share(says.count("promote"), decisions)]
    for rows, differ, margin in ((300, 0.05, 0.02), (1000, 0.10, 0.01), (5000, 0.10, 0.01)):
        wins, losses = (differ - margin) / 2, (differ + margin) / 2
        many = 10 * decisions  # one bisection over sorted counts decides all of them
        cells = np.random.default_rng(rows).multinomial(rows, [wins, losses, 1 - differ], size=many)
        name = f"not worse by {margin:g}, truly worse by it (score test)"
        yield [name, rows, many, share(shown(cells, rows, margin), many)]
    for rows in (100, 600):
        draw = np.random.default_rng(rows)
        hits = sum(mean_p(draw, rows) <= ALPHA for _ in range(decisions))
        yield ["better, log-loss (sign flips)", rows, decisions, share(hits, decisions)]
    few, draw = max(200, decisions // 10), np.random.default_rng(13)
    hits = sum(f1_p(draw, 300) <= ALPHA for _ in range(few))
    yield ["better, macro-F1 of 5 labels (bootstrap)", 300, few, share(hits, few)]


def mean_p(draw: np.random.Generator, rows: int) -> float:
    """Return p for two systems whose row scores share the row's difficulty and differ by skewed noise."""
    hard = draw.exponential(size=rows)
    ours, theirs = (hard * draw.lognormal(0, 0.5, rows) for _ in range(2))
    return sign_flips(theirs - ours, QUICK.resamples, 0)


def shown(cells: np.ndarray, rows: int, margin: float) -> int:
    """Return in how many of the simulated counts "not worse" is shown; p grows as the statistic falls."""
    counts = sorted(((int(w), int(lost)) for w, lost, _ in cells), key=lambda one: -float(tango(*one, rows, margin)))
    return bisect.bisect_right(counts, ALPHA, key=lambda one: not_worse(*one, rows, margin)[0])


F1 = Metric("macro_f1", macro_f1)


def f1_p(draw: np.random.Generator, rows: int) -> float:
    truth = draw.choice(5, rows, p=(0.4, 0.25, 0.2, 0.1, 0.05))

    def answers() -> Table:
        wrong = draw.random(rows) < 0.25
        return {
            "row": np.arange(rows),
            "reference": truth,
            "prediction": np.where(wrong, draw.integers(0, 5, rows), truth),
        }

    return compare(F1, answers(), answers(), QUICK).p_better


# -- power


def powers(draw: np.random.Generator, decisions: int) -> Iterator[list[Any]]:
    differ = 0.10
    for effect in (0.01, 0.02, 0.04):
        wins, losses = (differ + effect) / 2, (differ - effect) / 2
        needed = mcnemar_rows(wins, losses, ALPHA, POWER)
        assert needed is not None
        for rows in (500, 1000, 5000):
            cells = draw.multinomial(rows, [wins, losses, 1 - differ], size=decisions)
            found = decided(cells, rows)
            open_ = [one for one, says in zip(cells, found, strict=True) if says == "undecided"][:ASKED]
            asked = sorted(filter(None, (verdict_on(int(w), int(lost), rows)[1] for w, lost, _ in open_)))
            middle = (
                f"{asked[len(asked) // 2]} ({asked[len(asked) // 4]} to {asked[3 * len(asked) // 4]})" if asked else ""
            )
            yield [
                f"{100 * effect:g}",
                rows,
                rate(found, "promote"),
                f"{mcnemar_power(rows, wins, losses, ALPHA):.3f}",
                f"{connor(rows, wins, losses):.3f}",
                rate(found, "undecided"),
                rate(found, "reject"),
                middle,
                needed,
            ]


def decided(cells: np.ndarray, rows: int) -> list[str]:
    """Return the decisions on counts, by the p values alone; the first ones are held against the whole verdict."""
    found = []
    for wins, losses, _ in cells.tolist():
        better, worse = sign_p(wins, losses) <= ALPHA, sign_p(losses, wins) <= ALPHA or wins == losses == 0
        found.append("promote" if better else "reject" if worse else "undecided")
    for (wins, losses, _), says in zip(cells[:CHECKED].tolist(), found, strict=False):
        assert verdict_on(wins, losses, rows)[0] == says
    return found


def rate(found: list[str], says: str) -> str:
    return f"{found.count(says) / len(found):.3f}"


def connor(rows: int, wins: float, losses: float) -> float:
    """Return the power of McNemar's test by the textbook's normal approximation, one-sided."""
    differ, effect = wins + losses, wins - losses
    z = (effect * math.sqrt(rows) - norm.isf(ALPHA) * math.sqrt(differ)) / math.sqrt(differ - effect**2)
    return float(norm.cdf(z))


def asked_rows(draw: np.random.Generator, decisions: int) -> Iterator[list[Any]]:
    """Simulate at the row count that is stated for a true effect: the power there should be the stated one."""
    differ = 0.10
    for effect in (0.01, 0.02, 0.04):
        wins, losses = (differ + effect) / 2, (differ - effect) / 2
        rows = mcnemar_rows(wins, losses, ALPHA, POWER)
        assert rows is not None
        found = decided(draw.multinomial(rows, [wins, losses, 1 - differ], size=decisions), rows)
        yield ["better", f"{100 * effect:g}", rows, rate(found, "promote")]
    for margin in (0.01, 0.02):
        rows = score_rows(differ / 2, differ / 2, margin, ALPHA, POWER)
        assert rows is not None
        cells = draw.multinomial(rows, [differ / 2, differ / 2, 1 - differ], size=decisions)
        yield [f"not worse by {margin:g}", "0", rows, f"{shown(cells, rows, margin) / decisions:.3f}"]


# -- reuse


Rule = Callable[[int, int, int, list[Look]], tuple[bool, float]]


def any_gain(wins: int, losses: int, rows: int, looks: list[Look]) -> tuple[bool, float]:
    return wins >= losses, 0.0


def each_night(wins: int, losses: int, rows: int, looks: list[Look]) -> tuple[bool, float]:
    return sign_p(wins, losses) <= ALPHA, ALPHA


def budget(planned: int | None) -> Rule:
    def rule(wins: int, losses: int, rows: int, looks: list[Look]) -> tuple[bool, float]:
        level = grant(looks, ALPHA, planned).level
        return sign_p(wins, losses) <= level, level

    return rule


def nights(draw: np.random.Generator, rows: int, better_by: float = 0.0, better_on: int = 0) -> list[np.ndarray]:
    """Return 0/1 scores of a champion and 50 candidates, which share how hard a row is; one night's may be better."""
    ease = 2.5 * draw.normal(size=rows) + 2.0
    found = []
    for night in range(51):
        right = 1 / (1 + np.exp(-ease)) + better_by * (night == better_on and night > 0)
        found.append((draw.random(rows) < right).astype(np.int8))
    return found


def played(systems: list[np.ndarray], rule: Rule) -> list[int]:
    """Return the nights that promoted; the candidate is champion from then on."""
    champion, looks, moved = systems[0], list[Look](), []
    for night, candidate in enumerate(systems[1:], start=1):
        wins, losses = int((candidate > champion).sum()), int((candidate < champion).sum())
        promoted, level = rule(wins, losses, len(champion), looks)
        looks.append(Look(level, promoted))
        if promoted:
            champion, moved = candidate, [*moved, night]
    return moved


RULES: dict[str, Rule] = {
    "plain >= gate": any_gain,
    "McNemar at 0.05 each night": each_night,
    "budget, no plan": budget(None),
    "budget, 50 decisions planned": budget(50),
}


def reused(draw: np.random.Generator, sets: int) -> Iterator[list[Any]]:
    rows = 1000
    null = [nights(draw, rows) for _ in range(sets)]
    real = [nights(draw, rows, better_by=0.06, better_on=25) for _ in range(sets // 4)]
    for name, rule in RULES.items():
        moved = [played(systems, rule) for systems in null]
        found = [25 in played(systems, rule) for systems in real]
        some = sum(bool(one) for one in moved)
        yield [name, share(some, sets), f"{np.mean([len(one) for one in moved]):.2f}", f"{np.mean(found):.3f}"]


# -- seeds


def seed_sizes(draw: np.random.Generator, decisions: int) -> Iterator[list[Any]]:
    """Yield how often a recipe is promoted over one training of the same recipe."""
    for repeats in (1, 3, 5):
        for luck in (0.0, 0.15, 0.4):
            for level in (ALPHA, ALPHA / 10):
                hits, spreads = 0, []
                for _ in range(decisions):
                    ours = trainings(draw, 1000, repeats + 1, luck)
                    spreads.append(np.std([one.mean() for one in ours], ddof=1))
                    hits += recipe_p(ours[:-1], ours[-1]) <= level
                yield [repeats, f"{100 * np.mean(spreads):.2f}", f"{level:g}", share(hits, decisions)]


def trainings(draw: np.random.Generator, rows: int, count: int, luck: float) -> list[np.ndarray]:
    """Return 0/1 scores of trainings: a row's ease, a training's luck over all rows, and chance."""
    ease = 3.5 * draw.normal(size=rows) + 2.5
    return [
        (draw.random(rows) < 1 / (1 + np.exp(-(ease + luck * draw.normal())))).astype(np.float64) for _ in range(count)
    ]


def recipe_p(ours: list[np.ndarray], theirs: np.ndarray) -> float:
    if len(ours) == 1:
        return sign_p(int((ours[0] > theirs).sum()), int((ours[0] < theirs).sum()))
    tables = [scored(one) for one in ours]
    return compare_repeats(RATE, tables, scored(theirs), QUICK, trained=True).p_better


# -- real retrains


def retrained(folder: Path, count: int, rows: int) -> Iterator[list[Any]]:
    """Train the top layer's LoRA ``count`` times from the same kept activations, each time with another seed."""
    from frozen_layers import Data, Result, ours

    from graft.artifact import reproducible

    data, result = Data(folder, rows), Result()
    with tempfile.TemporaryDirectory() as store, reproducible(1):
        scores = [ours(data, seed, 3, 1, 2e-3, result, store=Path(store)).astype(np.float64) for seed in range(count)]
    accuracy = [one.mean() for one in scores]
    print(
        f"\n{count} retrains, {len(data.rows['train'])} training rows, {len(scores[0])} test rows: "
        f"accuracy {np.mean(accuracy):.4f}, standard deviation {np.std(accuracy, ddof=1):.4f}"
    )
    nightly = [recipe_p([scores[night]], scores[night - 1]) <= ALPHA for night in range(1, count)]
    yield ["one training, each night against the one before", len(nightly), share(sum(nightly), len(nightly))]
    pairs = [recipe_p([scores[a]], scores[b]) <= ALPHA for a in range(count) for b in range(count) if a != b]
    yield ["one training, all ordered pairs (not independent)", len(pairs), share(sum(pairs), len(pairs))]
    gained = [scores[night].mean() >= scores[night - 1].mean() for night in range(1, count)]
    yield ["plain >= gate, each night against the one before", len(gained), share(sum(gained), len(gained))]
    for repeats in (3, 5):
        groups = [list(range(start, start + repeats)) for start in range(0, count - repeats + 1, repeats)]
        asked_of = [(group, other) for group in groups for other in range(count) if other not in group]
        hits = [recipe_p([scores[one] for one in group], scores[other]) <= ALPHA for group, other in asked_of]
        name = f"repeats: {repeats}, each group against every other training (not independent)"
        yield [name, len(hits), share(sum(hits), len(hits))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = ("aa", "power", "reuse", "seeds", "retrains")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--data", type=Path, help="a folder with train.jsonl, validation.jsonl, test.jsonl: text, label"
    )
    parser.add_argument("--retrains", type=int, default=30)
    parser.add_argument("--rows", type=int, default=2600, help="about so many training rows of a retrain")
    parser.add_argument("--decisions", type=int, default=2000)
    given = parser.parse_args()
    started = time.process_time()
    some = given.decisions
    if "aa" in given.part:
        head = ["asked", "rows", "decisions", "false promotions at 0.05 (95 %)"]
        table("A/A, simulated", head, false_promotions(np.random.default_rng(1), some))
    if "power" in given.part:
        head = ["effect, points", "rows", "promoted", "exact power", "Connor", "undecided", "rejected"]
        head += ["rows asked for: median (quartiles)", "rows for the true effect"]
        table("Power, a tenth of the rows differing", head, powers(np.random.default_rng(2), some))
        head = ["aim", "true effect, points", "stated rows", "promoted there (stated 0.8)"]
        table("The stated rows", head, asked_rows(np.random.default_rng(3), some))
    if "reuse" in given.part:
        head = ["rule", "test sets with a false promotion", "false promotions per set", "6 points on night 25 promoted"]
        table("Fifty nights on one test set of 1,000 rows", head, reused(np.random.default_rng(4), some))
    if "seeds" in given.part:
        head = [
            "repeats",
            "sd of accuracy over trainings, points",
            "level",
            "promoted over one training of the same recipe",
        ]
        table("Rows and seeds, simulated", head, seed_sizes(np.random.default_rng(5), some))
    if "retrains" in given.part and given.data:
        head = ["asked", "decisions", "false promotions at 0.05 (95 %)"]
        table("Real retrains that differ by their seed", head, retrained(given.data, given.retrains, given.rows))
    print(f"\n{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    main()
