"""Label errors: flip 5 % of the labels of a real set, and count how many of the top-ranked 5 % are flipped ones.

Ours is the ranking of the list that validate writes: five folds of logistic regression on TF-IDF, by self-confidence.
Beside it: the rows that confident learning counts as errors first (cleanlab's ``find_label_issues`` as it comes), a
ranking by normalised margin, by self-confidence under a model that saw the rows, and by chance. A flipped row gets
another label: ``any`` of them with equal probability, or one that is ``near``, as often as the model takes its own for
it.

Sets have label errors of their own, so a share of what looks wrong here is right: the figures are lower bounds.

    .venv/bin/python benchmarks/label_errors.py FOLDER/train.jsonl ... [--share 0.05] [--max-rows 20000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

if TYPE_CHECKING:
    import numpy as np

LIBRARIES = ("cleanlab", "scikit-learn", "numpy")
WAYS = ("ours", "pruned", "margin", "seen", "random")


def rows_of(path: Path, most: int) -> tuple[list[str], list[str]]:
    """Return the texts and labels of at most ``most`` rows whose label has ten rows or more."""
    from collections import Counter

    from graft.tfidf import joined

    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, most)]
    counts = Counter(row["label"] for row in rows)
    kept = [row for row in rows if counts[row["label"]] >= 10]
    return [joined(row) for row in kept], [str(row["label"]) for row in kept]


def flipped(given: np.ndarray, likeness: np.ndarray | None, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels after the flips, and which rows were flipped: int [N], bool [N]."""
    import numpy as np

    dice, labels = np.random.default_rng(seed), int(given.max()) + 1
    chosen = dice.permutation(len(given))[: round(share * len(given))]
    found, marks = given.copy(), np.zeros(len(given), dtype=bool)
    for row in chosen:
        if likeness is None:
            found[row] = (given[row] + dice.integers(1, labels)) % labels
        else:
            found[row] = dice.choice(labels, p=likeness[given[row]])
    marks[chosen] = True
    return found, marks


def confusions(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return for each label how likely the model takes its rows for each other one: float64 [labels, labels]."""
    import numpy as np

    labels = probabilities.shape[1]
    found = np.stack([probabilities[given == label].mean(axis=0) for label in range(labels)])
    np.fill_diagonal(found, 0)
    return found / found.sum(axis=1, keepdims=True)


def precisions(texts: list[str], given: np.ndarray, marks: np.ndarray, seed: int) -> tuple[dict[str, float], float]:
    """Return the precision of each way's top rows, as many as were flipped, and the CPU seconds of ours."""
    import numpy as np
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    from graft.tfidf import label_probabilities
    from graft.validation.label_errors import out_of_fold, suspects

    labels, top = int(given.max()) + 1, int(marks.sum())
    started = time.process_time()
    probabilities = out_of_fold(texts, given, labels)
    suspects(given, probabilities)
    seconds = time.process_time() - started
    order = np.argsort(get_label_quality_scores(given, probabilities, method="self_confidence"), kind="stable")
    pruned = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    seen = label_probabilities(texts, given, texts, labels, 0)
    orders = {
        "ours": order,
        "pruned": list(dict.fromkeys([*pruned.tolist(), *order.tolist()])),
        "margin": np.argsort(get_label_quality_scores(given, probabilities, method="normalized_margin")),
        "seen": np.argsort(get_label_quality_scores(given, seen, method="self_confidence")),
        "random": np.random.default_rng(seed + 1).permutation(len(given)),
    }
    return {way: float(marks[np.asarray(one)[:top]].mean()) for way, one in orders.items()}, seconds


def measured(path: Path, share: float, most: int, seeds: int) -> list[str]:
    """Return a line for each kind of flip."""
    import numpy as np

    from graft.validation.label_errors import out_of_fold

    texts, names = rows_of(path, most)
    labels = sorted(set(names))
    given = np.array([labels.index(name) for name in names])
    likeness = confusions(given, out_of_fold(texts, given, len(labels)))
    lines = []
    for kind, chances in (("any", None), ("near", likeness)):
        runs = []
        for seed in range(seeds):
            labelled, marks = flipped(given, chances, share, seed)
            runs.append(precisions(texts, labelled, marks, seed))
        cells = " | ".join(f"{statistics.mean(run[0][way] for run in runs):.3f}" for way in WAYS)
        seconds = statistics.median(run[1] for run in runs)
        lines.append(f"| {path.parent.name} | {len(texts):,} | {len(labels)} | {kind} | {cells} | {seconds:.1f} |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="part files with text and label")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--max-rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"Python {sys.version.split()[0]}, {versions}; {options.share:.0%} flipped, mean of {options.seeds} seeds\n")
    print(
        "| set | rows | labels | flipped to | ours | pruned | by margin | model saw the rows | random | CPU s of ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in options.files:
        print(*measured(path, options.share, options.max_rows, options.seeds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
