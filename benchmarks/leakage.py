"""Are near-duplicates across splits found, and is what is found one? 200 planted rows in a real test split.

Training rows are drawn, changed (50 each by case, by punctuation, by one word, by order of words or clauses) and put
among the test rows. All three splits are sketched and compared. A planted row counts as found if it is reported to
repeat a training row. Real test rows that are reported count as right if a measure that shares nothing with the method,
rapidfuzz's ratio of the edits between the texts' sorted words (in Chinese, of the texts as they are or of their sorted
characters), is at least ``--similar`` of 100; some of them are printed, so that a person can judge.

    .venv/bin/python benchmarks/leakage.py FOLDER... [--threshold 0.7] [--rows 100000] [--examples 5]

A folder holds train.jsonl, validation.jsonl and test.jsonl; of questions about a
context the questions are changed. ``--rows`` adds a run on so many made rows, for the speed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from graft.duplicates import DuplicatesConfig, Entry, Part, Sketch, compare, sketch  # noqa: E402
from graft.tfidf import is_unspaced, joined  # noqa: E402
from graft.workspace import SPLITS  # noqa: E402

PER_KIND = 50
PART_ROWS = 10_000
FULL_WIDTH = {ord("!") + at: ord("！") + at for at in range(94)}
Change = Callable[[list[str], str, random.Random], list[str] | str]


def case(units: list[str], joint: str, rng: random.Random) -> str:
    """Change case; in a script without case, the width of Latin letters, digits and signs."""
    text = joint.join(units)
    if text.upper() == text.lower():
        return text.translate(FULL_WIDTH)
    return rng.choice([str.upper, str.title, str.swapcase])(text)


def punctuation(units: list[str], joint: str, rng: random.Random) -> str:
    """Remove all signs, or change those at the end, or add a comma."""
    text = joint.join(units)
    how = rng.randrange(3)
    if how == 0:
        return "".join(sign for sign in text if sign.isalnum() or sign.isspace())
    if how == 1:
        return text.rstrip(".?!。！？") + rng.choice(["!!", "...", "?!"])
    at = rng.randrange(1, max(2, len(units)))
    return f"{joint.join(units[:at])}{',' if joint else '，'}{joint}{joint.join(units[at:])}"


def one_word(units: list[str], _joint: str, rng: random.Random, words: list[str]) -> list[str]:
    """Remove, add, replace or misspell a word (in Chinese, a character)."""
    at, how, other = rng.randrange(len(units)), rng.randrange(4), rng.choice(words)
    if how == 0:
        return units[:at] + units[at + 1 :]
    if how == 1:
        return [*units[:at], other, *units[at:]]
    if how == 2 or len(units[at]) < 4:
        return [*units[:at], other, *units[at + 1 :]]
    swap = rng.randrange(len(units[at]) - 1)
    word = units[at]
    return [*units[:at], word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :], *units[at + 1 :]]


def order(units: list[str], joint: str, rng: random.Random) -> list[str] | str:
    """Put the last clauses or words first, or exchange two neighbouring words."""
    clauses = joint.join(units).replace("，", "，\n").replace(", ", ",\n").replace(". ", ".\n").split("\n")
    how, at = rng.randrange(3), rng.randrange(1, len(units))
    if how == 0 and len(clauses) > 1:
        return joint.join(clauses[1:] + clauses[:1])
    if how == 1 and joint:
        return [*units[: at - 1], units[at], units[at - 1], *units[at + 1 :]]
    return units[at:] + units[:at]


def planted(texts: list[str], unspaced: bool, seed: int) -> list[tuple[str, int, str]]:
    """Return (kind, place of the training row, changed text), 50 of each kind, of rows of three words or more."""
    rng = random.Random(seed)
    joint = "" if unspaced else " "
    words = sorted({word for text in texts for word in (text if unspaced else text.split())})
    kinds: dict[str, Change] = {
        "case": case,
        "punctuation": punctuation,
        "one word": lambda units, joint, rng: one_word(units, joint, rng, words),
        "order": order,
    }
    found = []
    for kind, change in kinds.items():
        used = set[int]()
        while len(used) < PER_KIND:
            at = rng.randrange(len(texts))
            units = list(texts[at]) if unspaced else texts[at].split()
            if len(units) < 3 or at in used:
                continue
            changed = change(units, joint, rng)
            text = changed if isinstance(changed, str) else joint.join(changed)
            if text != texts[at]:
                used.add(at)
                found.append((kind, at, text))
    return found


def independent(one: str, other: str, unspaced: bool) -> float:
    """Return how similar two texts are by edits alone, 0 to 100."""
    from rapidfuzz import fuzz, utils

    if not unspaced:
        return fuzz.token_sort_ratio(one, other, processor=utils.default_process)
    pair = [utils.default_process(text).replace(" ", "") for text in (one, other)]
    return max(fuzz.ratio(*pair), fuzz.ratio(*("".join(sorted(text)) for text in pair)))


def measure(folder: Path, options: argparse.Namespace) -> None:
    texts, labels = dict[str, list[str]](), dict[str, list[str | None]]()
    about = dict[str, list[str]]()
    for split in SPLITS:
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_bytes().splitlines()]
        texts[split] = [row["question"] if "context" in row else joined(row) for row in rows]
        labels[split] = [str(row["label"]) if "label" in row else None for row in rows]
        about[split] = [json.dumps([row["context"], row["answers"]]) if "context" in row else "" for row in rows]
    unspaced = is_unspaced(texts["train"])
    real = len(texts["test"])
    plants = planted(texts["train"], unspaced, options.seed)
    texts["test"] += [text for _, _, text in plants]
    labels["test"] += [labels["train"][at] for _, at, _ in plants]
    about["test"] += [about["train"][at] for _, at, _ in plants]

    started = time.process_time()
    parts = [
        Part(split, split, sketch(map(Entry, range(len(texts[split])), texts[split], labels[split], about[split])))
        for split in SPLITS
    ]
    sketched, started = time.process_time() - started, time.process_time()
    found = compare(parts, DuplicatesConfig(threshold=options.threshold))
    compared = time.process_time() - started

    leaks = {
        line["row"]: line
        for line in found.table.to_pylist()
        if line["split"] == "test" and line["of_split"] == "train" and line["kind"] != "contradiction"
    }
    print(f"== {folder.name}: {found.rows} rows, {real} of them in test, and {len(plants)} planted there")
    rate = f"{found.rows / sketched:,.0f} rows/s sketched, {found.rows / compared:,.0f} compared"
    print(
        f"   {rate}; {found.checked} pairs checked, {found.full_buckets} full buckets,"
        f" {found.pairs_left_out} pairs left out"
    )
    table = defaultdict[str, list[int]](lambda: [0, 0, 0, 0])
    for row, (kind, at, text) in enumerate(plants, real):
        cells = table[kind]
        cells[0] += 1
        if row in leaks:
            cells[1] += 1
            other = leaks[row]["of_row"]
            good = other == at or independent(text, texts["train"][other], unspaced) >= options.similar
            cells[2 if good else 3] += 1
    natural = []
    for row, line in leaks.items():
        if row < real:
            one, other = texts["test"][row], texts["train"][line["of_row"]]
            natural.append((independent(one, other, unspaced), line["similarity"], one, other))
    natural.sort()
    right = sum(score >= options.similar for score, *_ in natural)
    wrong = len(natural) - right
    print("   kind          planted  found  recall  precision")
    for kind, (count, hit, good, bad) in table.items():
        print(f"   {kind:12s} {count:8d} {hit:6d} {hit / count:7.3f} {good / max(1, good + bad):10.3f}")
    count, hit, good, bad = (sum(cells[at] for cells in table.values()) for at in range(4))
    all_good, all_found = good + right, good + bad + len(natural)
    print(f"   {'all planted':12s} {count:8d} {hit:6d} {hit / count:7.3f} {good / max(1, good + bad):10.3f}")
    print(f"   with the {len(natural)} real test rows that were reported: precision {all_good / max(1, all_found):.3f}")
    scores = [independent(text, texts["train"][at], unspaced) for kind, at, text in plants if kind == "one word"]
    print(f"   of these {right} are similar by the other measure (>= {options.similar:g}), {wrong} are not;"
          f" a planted one-word edit has {sorted(scores)[PER_KIND // 20]:.0f} (5 %) to {max(scores):.0f}")  # fmt: skip
    picked = natural[: options.examples] + natural[options.examples :: max(1, len(natural) // max(1, options.examples))]
    for score, similarity, one, other in picked[: 2 * options.examples]:
        print(f"     {score:5.1f} {similarity:.2f}  {one[:110]!r}\n                 {other[:110]!r}")


def made(rows: int, folders: list[Path], seed: int) -> Any:
    """Yield made rows: chains of words that follow each other in the training rows of the folders."""
    rng, follows = random.Random(seed), defaultdict[str, list[str]](list)
    starts, lengths = list[str](), list[int]()
    for folder in folders:
        for line in (folder / "train.jsonl").read_bytes().splitlines():
            words = joined(json.loads(line)).split()
            starts.append(words[0])
            lengths.append(len(words))
            for word, after in itertools.pairwise(words):
                follows[word].append(after)
    for number in range(rows):
        words = [rng.choice(starts)]
        for _ in range(rng.choice(lengths) - 1):
            words.append(rng.choice(follows.get(words[-1]) or starts))
        yield Entry(number, " ".join(words))


def scale(rows: int, folders: list[Path], seed: int) -> None:
    """Print the speed and memory of sketching and comparing made rows, in parts of 10,000, a tenth of them test."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # noqa: E731
    entries, seconds, size, parts = made(rows, folders, seed), 0.0, 0, list[Part]()
    with tempfile.TemporaryDirectory() as name:
        for at in range(rows // PART_ROWS):
            batch = [next(entries) for _ in range(PART_ROWS)]
            path = Path(name) / f"{at:05d}.safetensors"
            started = time.process_time()
            sketch(batch).save(path)
            seconds += time.process_time() - started
            size += path.stat().st_size
            parts.append(Part(path.name, "test" if at % 10 == 9 else "train", Sketch.load(path)))
        before, started = peak(), time.process_time()
        found = compare(parts)
        compared = time.process_time() - started
    print(
        f"== {rows} made rows in {len(parts)} parts:"
        f" sketched {rows / seconds:,.0f} rows/s ({size / rows:.0f} bytes a row)"
    )
    print(f"   compared in {compared:.1f} CPU s, peak memory {before:.2f} GB before, {peak():.2f} GB with it;"
          f" {found.checked} pairs checked, {found.full_buckets} full buckets, {found.pairs_left_out} pairs left out,"
          f" {found.table.num_rows} lines")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--threshold", type=float, default=DuplicatesConfig().threshold)
    parser.add_argument("--similar", type=float, default=75.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--examples", type=int, default=4)
    options = parser.parse_args()
    for folder in options.folders:
        measure(folder, options)
    if options.rows:
        scale(options.rows, options.folders, options.seed)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("rensa", "numpy", "rapidfuzz"))
    print(f"threshold {options.threshold}; one process, {os.cpu_count()} CPUs; {versions}")


if __name__ == "__main__":
    main()
