"""Label errors: flip 5 % of the labels of a real set, and count how many of the top-ranked 5 % are flipped ones.

Ours is the ranking of the list that validate writes: five folds of logistic regression on TF-IDF, by self-confidence.
Beside it: the rows that confident learning counts as errors first (cleanlab's ``find_label_issues`` as it comes), a
ranking by normalised margin, by self-confidence under a model that saw the rows, and by chance. A flipped row gets
another label: ``any`` of them with equal probability, or one that is ``near``, as often as the model takes its own for
it.

Of files whose rows have ``labels``, ``tags`` or a number as ``label``, a second table has the list itself: what of it
was changed, and how much of what was changed it has. Changed are 5 % of the rows (one label more or less; another row's
number) or of the words (another tag).

Sets have label errors of their own, so a share of what looks wrong here is right: the figures are lower bounds.

    .venv/bin/python benchmarks/label_errors.py FOLDER/train.jsonl ... [--share 0.05] [--max-rows 20000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def kind_of(path: Path) -> str:
    """Return the task whose rows a file has."""
    with path.open(encoding="utf-8") as file:
        row = json.loads(next(file))
    if "labels" in row:
        return "multi_label_classification"
    return "token_classification" if "tags" in row else "regression" if not isinstance(row["label"], str) else "label"


def changed(rows: list[dict[str, Any]], task: str, share: float, seed: int) -> set[tuple[int, int | None]]:
    """Change a share of the rows, or of their words; return which: row, and word, from 1."""
    dice = random.Random(seed)
    if task == "token_classification":
        words = [(row, at) for row, one in enumerate(rows) for at in range(len(one["tags"]))]
        tags = sorted({tag for one in rows for tag in one["tags"]})
        chosen = dice.sample(words, round(share * len(words)))
        for row, at in chosen:
            rows[row]["tags"][at] = dice.choice([tag for tag in tags if tag != rows[row]["tags"][at]])
        return {(row + 1, at + 1) for row, at in chosen}
    which = dice.sample(range(len(rows)), round(share * len(rows)))
    if task == "regression":
        values = [row["label"] for row in rows]
        for row in which:
            rows[row]["label"] = dice.choice([value for value in values if value != rows[row]["label"]])
    else:
        labels = sorted({label for row in rows for label in row["labels"]})
        for row in which:
            given = set(rows[row]["labels"])
            others = set(labels) - given
            pool = given if given and (not others or dice.random() < 0.5) else others
            rows[row]["labels"] = sorted(given ^ {dice.choice(sorted(pool))})
    return {(row + 1, None) for row in which}


def listed(path: Path, task: str, share: float, most: int, seeds: int) -> str:
    """Return a line about the list that validate would write."""
    from graft import tasks
    from graft.data import DataConfig
    from graft.validation.label_errors import find
    from graft.validation.section import LabelErrorsConfig

    fields = tasks.get(task).fields
    columns = {"target": "label"} if task == "regression" else {}
    runs = []
    for seed in range(seeds):
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        marks = changed(rows, task, share, seed)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "data" / "train" / "a.jsonl"
            part.parent.mkdir(parents=True)
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            started = time.process_time()
            config = LabelErrorsConfig(max_rows=most, max_listed=10**6)
            found = find([part], Path(folder), fields, DataConfig(columns=columns), config)
            seconds = time.process_time() - started
        hits = [(int(one.place.rpartition(":")[2]), one.word) in marks for one in found.found]
        count = sum(len(row["tags"]) for row in rows) if task == "token_classification" else len(rows)
        first = hits[: max(1, len(hits) // 4)]
        precision, best = (statistics.mean(one) for one in (hits, first))
        runs.append((count, len(marks), len(hits), precision, best, sum(hits) / len(marks), seconds))
    rows_, marked, length, precision, best, recall, seconds = (statistics.mean(one) for one in zip(*runs, strict=True))
    return (
        f"| {path.parent.name} | {task} | {rows_:,.0f} | {marked:.0f} | {length:.0f} | {precision:.3f} | {best:.3f} "
        f"| {recall:.3f} | {share:.3f} | {seconds:.1f} |"
    )


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
    others = {path: task for path in options.files if (task := kind_of(path)) != "label"}
    for path in options.files:
        if path not in others:
            print(*measured(path, options.share, options.max_rows, options.seeds), sep="\n", flush=True)
    print("\n| set | task | rows (words) | changed | listed | precision | first quarter | recall | random | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path, task in others.items():
        print(listed(path, task, options.share, options.max_rows, options.seeds), flush=True)


if __name__ == "__main__":
    main()
