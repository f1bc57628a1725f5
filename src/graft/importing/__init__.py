"""Other people's files to ``data/<split>/part-*.jsonl``: how a project gets its data, and how rows are split.

A source is read twice by the strict reader: once to find every problem and to decide each row's split, once to write,
so memory holds a few numbers a row and never the rows. (Conversations are read once more before, for their layout.)
What looks like a leak is avoided from the start: rows with equal text stay in one split, and so do rows of one group; a
split by time never trains on what is newer than its test.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from graft.config import nearest
from graft.data import TEST_SETS, DataConfig, Problem, Schema
from graft.errors import DataError, shown
from graft.identity import digest_file, digest_files
from graft.importing.hub import is_saved
from graft.importing.sources import Choices, Source, files_of
from graft.quarantine import in_words, percent
from graft.reading import excerpt, read_rows
from graft.splitting import Shares, assign, by_time
from graft.workspace import SPLITS, Workspace, replaced

if TYPE_CHECKING:
    from graft.tasks import Field

__all__ = ["Choices", "ImportSummary", "digest_source", "import_data"]

SHARES: Shares = (80, 10, 10)
PART_ROWS = 10_000
KEPT_PROBLEMS = 1_000


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote."""

    rows: dict[str, int]
    """Split -> rows."""
    parts: dict[str, int]
    """Split -> part files."""
    counts: dict[str, dict[str, int]]
    """Split -> label -> rows; empty where the data has no column of labels."""
    columns: tuple[str, ...]
    """All columns, in the order in which they occur."""
    notes: tuple[str, ...]
    """How the rows were split, and what was noticed."""
    layouts: dict[str, str]
    """File or split of the source -> the layout of its conversations, and what its conversion changed."""
    source: dict[str, str]
    """What was imported: its name; of a data set on the Hub the commit, and which part of it."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What is recorded beside the data: where it comes from and how it was read."""
        return {**self.source, **({"layouts": self.layouts} if self.layouts else {}), "rows": self.rows}


def import_data(
    source: Path | str,
    workspace: Workspace,
    *,
    split: Shares | None = None,
    stratify: str | None = None,
    group: str | None = None,
    time: str | None = None,
    seed: int = 0,
    part_rows: int = PART_ROWS,
    data: DataConfig | None = None,
    fields: Sequence[Field] = (),
    choices: Choices | None = None,
    replace: bool = False,
) -> ImportSummary:
    """Write ``source`` as the project's part files: a file, a folder of files, or a data set.

    A data set is ``hub:org/name``, ``hub:./folder`` (a clone of one) or a folder that ``save_to_disk`` wrote.

    A folder with splits (folders or files named train, validation/valid/val/dev, test) keeps them; one that lacks is
    taken from train. Everything else is split. All columns are kept; the data folder appears whole or not at all.

    Args:
        source: the file, folder or data set.
        workspace: the project.
        split: shares of train, validation and test, in any unit; default 80/10/10.
        stratify: the column whose values keep their shares; default: the column of labels, if there is one.
        group: the column whose equal values stay in one split.
        time: the column of times (ISO 8601 or numbers); the oldest rows train, the newest test.
        seed: of the split.
        part_rows: rows of a part file at most.
        data: limits of the reader, and the columns of the task's fields.
        fields: the task's fields, to find missing columns and to give numbers and lists in tables their type.
        choices: what the source does not say itself: the layout of conversations, what a row of plain text is.
        replace: whether an existing data folder is replaced; its test sets from elsewhere stay.

    Raises:
        DataError: with every problem at its ``file:line``; the existing data stays as it is.
        ResourceMissing: the Hub cannot be reached.
    """
    if split is not None and (len(split) != 3 or min(split) < 0 or split[0] == 0):
        raise DataError(f"--split {shown(split)}: give three whole numbers for train, validation and test, as 80/10/10")
    if time is not None and (group is not None or stratify is not None):
        raise DataError("--time: rows are split by time alone; leave --group and --stratify out")
    if part_rows < 1:
        raise DataError(f"--part-rows {part_rows}: give a number of rows above 0")
    if not replace and workspace.data.is_dir() and any(workspace.data.iterdir()):
        raise DataError(f"{workspace.data.name}: there is data already; --replace replaces it")
    table = Source(source, data or DataConfig(), tuple(fields), choices or Choices())
    if table.complete and (split, stratify, group, time) != (None,) * 4:
        raise DataError(f"{table.name}: has its own train, validation and test, which are kept; leave the options out")
    keys = _read_keys(table, stratify, group, time)
    places = _placed(keys, split or SHARES, seed, timed=time is not None)
    return _write(table, workspace.data, places, keys, part_rows)


def digest_source(source: Path, data: DataConfig, fields: Sequence[Field]) -> Any:
    """Return digests of all that an import of ``source`` would read: its files, and the pictures that rows name.

    Raises:
        DataError: there is nothing to import.
        OSError: a file cannot be read; a picture that cannot is left to the import, which names its row.
    """
    files = digest_files(source) if source.is_dir() else digest_file(source)
    if not any(one.type == "image" for one in fields) or is_saved(source):
        return files
    pictures: dict[str, str | None] = {}
    whole = source.resolve()
    for _, path in files_of(whole):
        schema = Schema.of(fields, data, path, path.parent)
        for found in read_rows(path, path.parent, data.limits, schema.images):
            values = {} if isinstance(found, Problem) else found[1]
            for value in (values.get(column) for column in schema.images):
                picture = schema.pictures.file_of(value)
                if picture is not None and (name := f"{path.relative_to(whole)}: {value}") not in pictures:
                    pictures[name] = None
                    with contextlib.suppress(OSError, ValueError):
                        pictures[name] = digest_file(picture)
    return {"files": files, "pictures": pictures}


# -- first pass: what decides a row's split


@dataclass
class _Keys:
    """One entry per row. Texts are held as digests; labels and groups as the strings they are."""

    splits: list[str | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    label: str | None = None
    """The column of the labels; ``None`` where the data has none."""
    note: str = ""


def _read_keys(table: Source, stratify: str | None, group: str | None, time: str | None) -> _Keys:
    """Read the source once, for what decides the splits.

    Raises:
        DataError: with every problem of every row.
    """
    keys, problems, labelled = _Keys(), _Problems(), True
    label = stratify or table.names["label"]
    for number, found in enumerate(table.rows()):
        if isinstance(found, Problem):
            problems.add(found)
            continue
        split, place, values = found
        if missing := next((one for one in (group, time) if one and one not in values), None):
            near = nearest(missing, list(values))
            there = f"only {excerpt(', '.join(values))}" + (f"; did you mean {excerpt(near)}?" if near else "")
            problems.add(Problem(place, missing, "a column of that name", there))
            if not keys.groups:
                break  # no row has it so far: a misspelt option has one answer, not one for each row
            continue
        value = values.get(label)
        labelled &= isinstance(value, str | int) or (value is None and table.takes_missing and label in values)
        if stratify and not isinstance(value, str | int):
            problems.add(Problem(place, label, "a value to stratify by (string or integer)", excerpt(value)))
        try:
            keys.times.append(_time(values.get(time)) if time else 0.0)
            keys.groups.append(_group(group, values, number) if group else _text_key(values, table.key))
        except ValueError as error:
            column = time or group or ""
            problems.add(Problem(place, column, str(error), excerpt(values.get(column))))
        keys.labels.append(str(value))
        keys.splits.append(split)
    problems.refuse(table.name)
    keys.label = label if labelled else None
    stratified = f"stratified by {label}, " if labelled else ""
    kept = f"rows with equal {group or table.kind} stay together"
    keys.note = f"by {time}, the oldest rows train" if time else stratified + kept
    return keys


@dataclass
class _Problems:
    """All problems counted, the first ones kept: a file of another kind has one on every line."""

    kept: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        self.count += 1
        if len(self.kept) < KEPT_PROBLEMS:
            self.kept.append(problem)

    def refuse(self, name: str) -> None:
        """Raise where there was any.

        Raises:
            DataError: with the problems that were kept.
        """
        if self.count:
            title = f"{name}: nothing imported, {in_words(self.count, 'problem')}"
            if any(one.is_missing for one in self.kept):
                title += (
                    "; with `validation.severity.missing: quarantine` in params.yaml, rows that lack a value are "
                    "imported, and validate keeps them aside"
                )
            raise DataError.from_problems(title, [str(problem) for problem in self.kept])


def _group(column: str, values: Mapping[str, Any], number: int) -> str:
    value = values[column]
    return f"row {number}" if value in (None, "") else f"value {json.dumps(value, sort_keys=True)}"


def _text_key(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return a key that rows with the same texts in ``columns`` share; without any, rows with the same values."""
    texts = [values.get(name) for name in columns]
    if len(texts) == 1 and isinstance(texts[0], str):
        content = texts[0]
    else:
        content = json.dumps(texts if any(texts) else dict(values), sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _time(value: Any) -> float:
    """Return a time as seconds, or a number as it is; a time without zone counts as UTC."""
    expected = "a time (ISO 8601 or a finite number)"
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if isinstance(value, str) and math.isnan(number):
        with contextlib.suppress(ValueError):
            time = datetime.datetime.fromisoformat(value)
            number = (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
    if not math.isfinite(number):
        raise ValueError(expected)
    return number


# -- the split


def _placed(keys: _Keys, shares: Shares, seed: int, *, timed: bool) -> list[str]:
    """Return the split of each row; splits that the source has are kept, the others are taken from train.

    Raises:
        DataError: a split would be empty.
    """
    present = {split for split in keys.splits if split}
    train, validation, test = (
        0 if split in present - {"train"} else share for split, share in zip(SPLITS, shares, strict=True)
    )
    wanted = (train, validation, test)
    pool = [number for number, split in enumerate(keys.splits) if split in (None, "train")]
    if present == set(SPLITS):
        keys.note = "splits kept as they were"
        return [split for split in keys.splits if split]
    places = [split or "train" for split in keys.splits]
    if timed:
        chosen = by_time([keys.times[number] for number in pool], wanted)
    else:
        labels = [keys.labels[number] if keys.label else "" for number in pool]
        chosen = assign(labels, [keys.groups[number] for number in pool], wanted, seed)
    for number, split in zip(pool, chosen, strict=True):
        places[number] = split
    if empty := [split for split in SPLITS if split not in places]:
        groups, names = len({keys.groups[number] for number in pool}), " and ".join(empty)
        raise DataError(f"{len(places)} rows in {groups} groups: too few for {names}; give more rows or other shares")
    taken = [split for split, share in zip(SPLITS, wanted, strict=True) if share and split != "train"]
    keys.note = f"{' and '.join(taken)} taken from train, {keys.note}" if present else keys.note
    if not present and sum(shares) != 100:
        whole = sum(shares)
        parts = ", ".join(f"{split} {percent(share / whole)}" for split, share in zip(SPLITS, shares, strict=True))
        keys.note += f"; the shares {'/'.join(map(str, shares))} add up to {whole}: {parts}"
    return places


# -- second pass


def _write(table: Source, folder: Path, places: Sequence[str], keys: _Keys, part_rows: int) -> ImportSummary:
    """Write the rows to part files in the order of the source, and their pictures; the folder appears as a whole."""
    columns: dict[str, None] = {}
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    with replaced(folder) as new, contextlib.ExitStack() as files:
        writers = {split: files.enter_context(_Parts(new / split, part_rows)) for split in SPLITS}
        try:
            for found, split, label in zip(table.rows(new), places, keys.labels, strict=True):
                if isinstance(found, Problem):
                    raise DataError(f"{found}; the source changed while it was imported")
                columns |= dict.fromkeys(found[2])
                counts[split][label] += 1
                writers[split].write(found[2])
        except ValueError as error:
            raise DataError(f"{table.name}: changed while it was imported ({error}); import it again") from None
        kept = _keep_test_sets(folder, new)
    return ImportSummary(
        rows={split: writers[split].rows for split in SPLITS},
        parts={split: writers[split].parts for split in SPLITS},
        counts={split: dict(sorted(found.items())) for split, found in counts.items()} if keys.label else {},
        columns=tuple(columns),
        notes=(keys.note, *table.left_out(), *kept),
        layouts=table.described_layouts(),
        source=table.facts,
    )


def _keep_test_sets(folder: Path, new: Path) -> list[str]:
    """Copy the test sets from elsewhere, which come from no import, into the new data folder; return a note of it."""
    if not (folder / TEST_SETS).is_dir():
        return []
    shutil.copytree(folder / TEST_SETS, new / TEST_SETS)
    return [f"{folder.name}/{TEST_SETS} kept as it was"]


class _Parts(contextlib.AbstractContextManager["_Parts"]):
    """Writes rows to ``part-0000.jsonl``, ``part-0001.jsonl``, ... of one split."""

    def __init__(self, folder: Path, part_rows: int) -> None:
        folder.mkdir()
        self.folder, self.part_rows = folder, part_rows
        self.rows = self.parts = 0
        self.file: IO[str] | None = None

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one row; a full part is closed and the next one begun."""
        if self.file is None or self.rows % self.part_rows == 0:
            self.close()
            path = self.folder / f"part-{self.parts:04}.jsonl"
            self.file = path.open("w", encoding="utf-8", newline="\n")
            self.parts += 1
        self.file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self.rows += 1

    def close(self) -> None:
        """Close the part that is being written."""
        if self.file:
            self.file.close()

    def __exit__(self, *_: object) -> None:
        self.close()
