"""Other people's files to ``data/<split>/part-*.jsonl``: how a project gets its data, and how rows are split.

A source is read twice by the strict reader: once to find every problem and to decide each row's split, once to write,
so memory holds a few numbers a row and never the rows. What looks like a leak is avoided from the start: rows with
equal text stay in one split, and so do rows of one group; a split by time never trains on what is newer than its test.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from graft.data import DataConfig, Problem, Schema
from graft.errors import DataError, shown
from graft.identity import digest_file, digest_files
from graft.pictures import file_name
from graft.reading import READERS, read_rows
from graft.splitting import Shares, assign, by_time
from graft.workspace import SPLITS, Workspace, replaced

if TYPE_CHECKING:
    from graft.tasks import Field

SHARES: Shares = (80, 10, 10)
PART_ROWS = 10_000
KEPT_PROBLEMS = 1_000
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:[-_.].*)?", re.IGNORECASE)


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


def import_data(
    source: Path,
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
    replace: bool = False,
) -> ImportSummary:
    """Write ``source`` (a JSONL, CSV, TSV or Parquet file, or a folder of them) as the project's part files.

    A folder with splits (folders or files named train, validation/valid/val/dev, test) keeps them; one that lacks is
    taken from train. Everything else is split. All columns are kept; the data folder appears whole or not at all.

    Args:
        source: the file or folder.
        workspace: the project.
        split: shares of train, validation and test, in any unit; default 80/10/10.
        stratify: the column whose values keep their shares; default: the column of labels, if there is one.
        group: the column whose equal values stay in one split.
        time: the column of times (ISO 8601 or numbers); the oldest rows train, the newest test.
        seed: of the split.
        part_rows: rows of a part file at most.
        data: limits of the reader, and the columns of the task's fields.
        fields: the task's fields, to find missing columns and to give numbers and lists in tables their type.
        replace: whether an existing data folder is replaced.

    Raises:
        DataError: with every problem at its ``file:line``; the existing data stays as it is.
    """
    if split is not None and (len(split) != 3 or min(split) < 0 or split[0] == 0):
        raise DataError(f"--split {shown(split)}: give three whole numbers for train, validation and test, as 80/10/10")
    if time is not None and (group is not None or stratify is not None):
        raise DataError("--time: rows are split by time alone; leave --group and --stratify out")
    if part_rows < 1:
        raise DataError(f"--part-rows {part_rows}: give a number of rows above 0")
    if not replace and workspace.data.is_dir() and any(workspace.data.iterdir()):
        raise DataError(f"{workspace.data.name}: there is data already; --replace replaces it")
    table = _Source(source, data or DataConfig(), tuple(fields))
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
    if not any(one.type == "image" for one in fields):
        return files
    pictures: dict[str, str | None] = {}
    whole = source.resolve()
    for _, path in _files(whole):
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


# -- the source


class _Source:
    """The files of a source, each with the split its name gives it, and their rows."""

    def __init__(self, source: Path, data: DataConfig, fields: Sequence[Field]) -> None:
        self.root = source.resolve().parent
        self.name = source.name or str(source)
        self.data, self.fields = data, fields
        self.folder = source.is_dir()
        self.files = _files(source.resolve())
        self.present = {split for split, _ in self.files if split}
        self.complete = self.present == set(SPLITS)
        self.names = {name: data.columns.get(name, name) for name in ("text", "label")}
        read = _read(fields)
        self.key = tuple(data.columns.get(name, name) for name in read)
        """The columns whose equal values stay in one split."""
        pictured = any(one.type == "image" for one in fields)
        self.kind = "picture" if pictured else " and ".join(read)
        if self.present and "train" not in self.present:
            raise DataError(f"{self.name}: has {', '.join(sorted(self.present))}, but nothing named train")

    def rows(self, data: Path | None = None) -> Iterator[tuple[str | None, str, dict[str, Any]] | Problem]:
        """Yield ``(split or None, place, {column: value})`` for each row, and a problem for each bad one.

        A picture's value is the path that it has in a data folder; where ``data`` is one, the picture is copied there.
        """
        for split, path in self.files:
            schema = Schema.of(self.fields, self.data if self.fields else DataConfig(), path, path.parent)
            for found in read_rows(path, self.root, self.data.limits, schema.images):
                if isinstance(found, Problem):
                    yield found
                    continue
                place, values = found
                problems = list(_to_json(place, values, schema.images))
                if self.fields and not problems:
                    row, _, problems = schema.read(place, values)
                    values |= schema.numbers_and_lists(row, values)
                    values |= _kept(schema.pictures_of(row), data)
                yield from problems
                if not problems:
                    yield split, place, values

    def left_out(self) -> list[str]:
        """Return a note that names the files of the folder that were not read."""
        read = {path for _, path in self.files}
        beside = {path for one in read for path in one.parent.iterdir()} if self.folder else set()
        names = sorted(path.name for path in beside - read if path.is_file() and not path.name.startswith("."))
        return [f"left out: {', '.join(names)}"] if names else []


def _read(fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the fields by which rows are the same to a model: the picture, the text, else all texts but the answer."""
    texts = [one.name for one in fields if one.text and not one.target]
    first = [one.name for one in fields if one.type == "image"] or [name for name in texts if name == "text"]
    return tuple(first[:1] or texts or ("text",))


def _files(source: Path) -> list[tuple[str | None, Path]]:
    """Return the files of a source with their splits: all of them have one, or none."""
    if source.is_file():
        return [(None, source)]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found: list[tuple[str | None, Path]] = []
    for path in sorted(source.iterdir()):
        split = _split_of(path)
        if path.name.startswith("."):
            continue
        if path.is_dir() and split:
            found += [(split, part) for part in sorted(path.iterdir()) if _is_table(part)]
        elif _is_table(path):
            found.append((split, path))
    if not found:
        raise DataError(f"{source}: no {', '.join(READERS)} files in it")
    without = [path.name for split, path in found if split is None]
    if without and len(without) < len(found):
        raise DataError(
            f"{source}: some files are named as splits, but not {', '.join(without[:5])}; rename or move them"
        )
    return found


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix in READERS and not path.name.startswith(".")


def _split_of(path: Path) -> str | None:
    named = _SPLIT_NAME.fullmatch(path.name if path.is_dir() else path.stem)
    return SPLIT_NAMES[named[1].lower()] if named else None


def _kept(pictures: Mapping[str, bytes], data: Path | None) -> dict[str, str]:
    """Return each column's picture as its path in a data folder; where ``data`` is one, copy new pictures there."""
    names = {column: file_name(content) for column, content in pictures.items()}
    for column, name in names.items():
        path = data / name if data else None
        if path and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures[column])
    return names


def _to_json(place: str, values: dict[str, Any], images: frozenset[str]) -> Iterator[Problem]:
    """Make Parquet's values JSON's in place: times as ISO 8601, pandas' NaN as null; yield what has no JSON form."""
    for column, value in values.items():
        if column in images:
            continue
        if isinstance(value, datetime.datetime | datetime.date):
            values[column] = value.isoformat()
        elif isinstance(value, float) and math.isnan(value):
            values[column] = None
        elif not isinstance(value, str | int | float | list | dict | None) or value in (math.inf, -math.inf):
            yield Problem(
                place, column, "a value that JSON has", f"{type(value).__name__} {shown(str(value))}; cast it"
            )


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


def _read_keys(table: _Source, stratify: str | None, group: str | None, time: str | None) -> _Keys:
    """Read the source once, for what decides the splits.

    Raises:
        DataError: with every problem of every row.
    """
    keys, problems, labelled = _Keys(), list[Problem](), True
    label = stratify or table.names["label"]
    for number, found in enumerate(table.rows()):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        split, place, values = found
        value = values.get(label)
        labelled &= isinstance(value, str | int)
        if stratify and not isinstance(value, str | int):
            problems.append(Problem(place, label, "a value to stratify by (string or integer)", shown(value)))
        try:
            keys.times.append(_time(values.get(time)) if time else 0.0)
            keys.groups.append(_group(group, values, number) if group else _text_key(values, table.key))
        except ValueError as error:
            column = time or group or ""
            problems.append(Problem(place, column, str(error), shown(values.get(column))))
        keys.labels.append(str(value))
        keys.splits.append(split)
    if problems:
        title = f"{table.name}: nothing imported, {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError.from_problems(title, [str(problem) for problem in problems[:KEPT_PROBLEMS]])
    keys.label = label if labelled else None
    stratified = f"stratified by {label}, " if labelled else ""
    kept = f"rows with equal {group or table.kind} stay together"
    keys.note = f"by {time}, the oldest rows train" if time else stratified + kept
    return keys


def _group(column: str, values: Mapping[str, Any], number: int) -> str:
    if column not in values:
        raise ValueError("a column to group by")
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
    return places


# -- second pass


def _write(table: _Source, folder: Path, places: Sequence[str], keys: _Keys, part_rows: int) -> ImportSummary:
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
    return ImportSummary(
        rows={split: writers[split].rows for split in SPLITS},
        parts={split: writers[split].parts for split in SPLITS},
        counts={split: dict(sorted(found.items())) for split, found in counts.items()} if keys.label else {},
        columns=tuple(columns),
        notes=(keys.note, *table.left_out()),
    )


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
