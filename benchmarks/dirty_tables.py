"""What a contract about a table's columns says of its dirty copy: each cell that differs caught or missed, by kind.

A folder has pairs of tables, ``NAME_dirty.csv`` and ``NAME_clean.csv``, with the same rows and columns. Of each the
contract is what ``graft contract --column`` proposes from the clean table, at severity ``fail``, and the dirty table is
validated. A cell that differs is *caught* if a problem of the refusal names its row and column; *its row* says that one
names another column of its row alone (a row with a value of another type is not looked into further); *warned*, that
only a warning names it. What is said of cells that do not differ is a false alarm. Kinds are told from both values: no
value, letters replaced by ``x``, characters beyond ASCII, another form (digits and letters taken for any), another
value of the same form.

Then the contract that one half of the clean table gives is held to the other half, where each finding is a false alarm.

    .venv/bin/python benchmarks/dirty_tables.py FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from graft.data import DataConfig  # noqa: E402
from graft.errors import DataError  # noqa: E402
from graft.tasks.text_classification import Config  # noqa: E402
from graft.validation import ValidationConfig, validate  # noqa: E402
from graft.validation.profile import profiled  # noqa: E402
from graft.workspace import SPLITS, Workspace, read_json  # noqa: E402

Table = list[list[str]]
Cell = tuple[str, str]
"""Place of the row, and column."""
QUIET = dict.fromkeys(
    ("near_duplicates", "leakage", "contradictions", "outliers", "label_shift", "imbalance"), "ignore"
)
KINDS = (
    "no value",
    "letters replaced by x",
    "characters beyond ASCII",
    "another form",
    "another value of the same form",
)


def kind_of(dirty: str, clean: str) -> str:
    """Return what happened to a cell."""
    if not dirty:
        return KINDS[0]
    if len(dirty) == len(clean) and all(a == b or a == "x" for a, b in zip(dirty, clean, strict=True)):
        return KINDS[1]
    if not dirty.isascii():
        return KINDS[2]
    forms = [re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", one)) for one in (dirty, clean)]
    return KINDS[3] if forms[0] != forms[1] else KINDS[4]


def read(path: Path) -> Table:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write(root: Path, head: Sequence[str], rows: Table) -> Workspace:
    """Write the rows as data: each third one of a split."""
    for number, split in enumerate(SPLITS):
        folder = root / "data" / split
        folder.mkdir(parents=True)
        with (folder / "part.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows[number::3]])
    (root / "params.yaml").write_text("")
    return Workspace(root)


def places(rows: Table) -> list[str]:
    """Return where :func:`write` puts each row; one may have several lines."""
    found, line = [""] * len(rows), dict.fromkeys(range(3), 2)
    for number, row in enumerate(rows):
        found[number] = f"data/{SPLITS[number % 3]}/part.csv:{line[number % 3]}"
        line[number % 3] += 1 + sum(one.count("\n") for one in row)
    return found


def columns_of(rows: Table, head: Sequence[str]) -> tuple[str, str]:
    """Return the columns that serve as text and label: the longest texts, and the fewest values above one."""
    lengths = {name: sum(len(row[at]) for row in rows if row[at].strip()) for at, name in enumerate(head)}
    filled = [name for at, name in enumerate(head) if all(row[at].strip() for row in rows)]
    text = max(filled, key=lengths.__getitem__)
    counts = {name: len({row[at] for row in rows}) for at, name in enumerate(head) if name in filled and name != text}
    return text, min((name for name in counts if counts[name] > 1), key=counts.__getitem__)


def found(clean: Table, other: Table, head: Sequence[str], folder: Path) -> tuple[set[Cell], set[Cell]]:
    """Return the cells of ``other`` that stop the chain, and those warned about, by the contract of ``clean``."""
    text, label = columns_of(clean, head)
    data = DataConfig(columns={"text": text, "label": label})
    beside = [name for name in head if name not in (text, label)]
    proposed = profiled(write(folder / "clean", head, clean).data, Config(), data, None, beside).section
    expectations = [{**one, "severity": "fail"} for one in proposed["expectations"]]
    section = {**proposed, "expectations": expectations, "min_rows": 1, "severity": QUIET}
    workspace = write(folder / "other", head, other)
    report = workspace.validation
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            validate(workspace, task=Config(), data=data, validation=ValidationConfig.model_validate(section))
        except DataError:
            report = workspace.failed / "validate"
    problems = read_json(report / "report.json")["problems"] if report != workspace.validation else []
    listed = report / "warned.jsonl"
    warned = [json.loads(line) for line in listed.read_bytes().splitlines()] if listed.is_file() else []
    return {(one["place"], one["field"]) for one in problems}, {(one["row"], one["field"]) for one in warned}


def judged(name: str, dirty: Table, clean: Table, head: Sequence[str], folder: Path) -> Iterator[list[str]]:
    """Yield a line for each kind of damage, and one of false alarms."""
    stops, warned = found(clean, dirty, head, folder)
    rows = {place for place, _ in stops}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    differing, missed = set[Cell](), dict[str, str]()
    for place, row, right in zip(places(dirty), dirty, clean, strict=True):
        for column, value, wanted in zip(head, row, right, strict=True):
            if value != wanted:
                cell, kind = (place, column), kind_of(value, wanted)
                differing.add(cell)
                ways = {"caught": cell in stops, "warned": cell in warned, "its row": place in rows, "missed": True}
                how = next(way for way, is_so in ways.items() if is_so)
                counts[kind][how] += 1
                if how == "missed":
                    missed.setdefault(kind, f"{column} `{value}` for `{wanted}`")
    for kind in KINDS:
        if kind in counts:
            numbers = [counts[kind][one] for one in ("caught", "its row", "warned", "missed")]
            yield [name, kind, *map(str, (sum(numbers), *numbers)), missed.get(kind, "")]
    alarms = Counter(column for _, column in (stops | warned) - differing)
    most = ", ".join(f"{column} {count}" for column, count in alarms.most_common(3))
    cells = len(dirty) * len(head) - len(differing)
    yield [name, "cells that do not differ", str(cells), str(alarms.total()), "", "", "", most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print("| table | kind | cells | caught | its row | warned | missed | such as |\n|---|---|---|---|---|---|---|---|")
    halves = []
    for path in sorted(given.folder.glob("*_dirty.csv")):
        name = path.name.removesuffix("_dirty.csv")
        (head, *dirty), (_, *clean) = read(path), read(path.with_name(f"{name}_clean.csv"))
        with tempfile.TemporaryDirectory() as folder:
            for line in judged(name, dirty, clean, head, Path(folder) / "whole"):
                print(f"| {' | '.join(line)} |", flush=True)
            stops, warned = found(clean[::2], clean[1::2], head, Path(folder) / "half")
        by_column = Counter(column for _, column in stops | warned)
        said = ", ".join(f"{column} {count}" for column, count in by_column.most_common(4))
        halves.append(f"| {name} | {len(clean[1::2]) * len(head)} | {by_column.total()} | {said} |")
    print("\n| clean table | cells of the other half | false alarms | most of them |\n|---|---|---|---|")
    print("\n".join(halves))


if __name__ == "__main__":
    main()
