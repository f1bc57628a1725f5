"""Drift: how often two samples of one real set raise an alarm, with and without taking off what chance explains.

For each set and size, pairs of samples without common rows are drawn; counted are the pairs for which a kind of drift
is reported. Beside it the plain rule: the measure alone against the same limit. Then every set is compared with every
other: what is found there is drift by construction (the ``sls`` sets have the same two labels, equally frequent).

    .venv/bin/python benchmarks/drift.py FOLDER/train.jsonl ... [--pairs 10] [--sizes 200x200 2000x2000]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

if TYPE_CHECKING:
    from graft.validation.data_profile import DataProfile
    from graft.validation.drift import Comparison

KINDS = ("label_shift", "length_drift", "vocabulary_drift")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a part file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def profile(rows: list[dict[str, str]]) -> DataProfile:
    """Return the profile of rows with text and label."""
    from graft.tasks.text_classification import FIELDS
    from graft.validation.data_profile import profile_of

    values = {"label": [str(row["label"]) for row in rows]}
    texts = {"text": [[row["text"]] for row in rows], "text_pair": [None] * len(rows)}
    return profile_of(FIELDS, values, texts, [True] * len(rows))


def comparisons(now: DataProfile, before: DataProfile) -> list[Comparison]:
    """Compare two profiles with the limits as they come."""
    from graft.validation.drift import compared
    from graft.validation.section import DriftConfig

    return list(compared("train", now, before, "another sample", DriftConfig()))


def alarms(rows: list[dict[str, str]], now: int, before: int, pairs: int) -> str:
    """Return the cells of one size: pairs with an alarm, by the plain rule, and the largest excess over chance."""
    counts, plain, excess = Counter[str](), Counter[str](), defaultdict[str, float](float)
    for seed in range(pairs):
        chosen = random.Random(seed).sample(rows, now + before)
        for one in comparisons(profile(chosen[:now]), profile(chosen[now:])):
            counts[one.kind] += one.is_drift
            plain[one.kind] += one.value > one.limit
            excess[one.kind] = max(excess[one.kind], one.value - one.by_chance)
    return " | ".join(f"{counts[kind]} ({plain[kind]}) | {excess[kind]:.3f}" for kind in KINDS)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="part files with text and label")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", default=["200x200", "200x2000", "2000x2000"])
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, numpy {importlib.metadata.version('numpy')}; {options.pairs} pairs each\n")
    print("| set | rows | labels: alarms (plain) | excess | lengths | excess | words | excess |")
    print("|---|---|---|---|---|---|---|---|")
    sets = {path.parent.name: rows_of(path) for path in options.files}
    for name, rows in sets.items():
        for size in options.sizes:
            now, before = map(int, size.split("x"))
            if now + before <= len(rows):
                print(f"| {name} | {now}, {before} | {alarms(rows, now, before, options.pairs)} |", flush=True)
    print("\n| this | against | labels | lengths | words |\n|---|---|---|---|---|")
    profiles = {name: profile(rows) for name, rows in sets.items()}
    for one, other in itertools.combinations(sets, 2):
        found = {given.kind: given for given in comparisons(profiles[one], profiles[other])}
        cells = " | ".join(
            f"{'**' if found[kind].is_drift else ''}{found[kind].value:.3f}{'**' if found[kind].is_drift else ''} "
            f"({found[kind].by_chance:.3f})"
            for kind in KINDS
        )
        print(f"| {one} | {other} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
