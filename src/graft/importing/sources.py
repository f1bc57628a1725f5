"""What an import reads: the files of a folder, or the splits of a data set, each a table with its rows.

A table knows its split and how its rows are found; the schema of the task and the layout of its conversations are laid
over all tables alike. Rows are read anew each time they are asked for, so none are held.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data import DataConfig, Problem, Schema
from graft.errors import DataError
from graft.importing import hub
from graft.layouts import LISTS, Conversion, Recognition, layouts_of, named
from graft.pictures import file_name
from graft.reading import DECODER, FORMATS, RawRow, RowError, Unit, excerpt, format_of, is_readable, read_rows, stem_of
from graft.workspace import SPLITS

if TYPE_CHECKING:
    from graft.tasks import Field

TEXT = ".txt"
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:[-_.].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Choices:
    """What the user says about a source, where its bytes do not."""

    layout: str | None = None
    """The layout of conversations; default: the only one that fits."""
    unit: Unit | None = None
    """What a row of plain text is; needed where there is any."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub; default: ``main``."""
    config: str | None = None
    """The configuration (subset) of a data set, where it has several."""
    take: Mapping[str, str | None] = field(default_factory=dict)
    """Splits of a data set to take -> the split they become (None: as their name says); default: all of them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Field -> the option that named its column, for messages."""
    takes_missing: bool = False
    """Whether rows that lack a value are taken, because validate keeps them aside."""


@dataclass(frozen=True)
class Table:
    """Rows that have their columns in common."""

    name: str
    split: str | None
    schema: Callable[[], Schema]
    """A new schema for its rows."""
    rows: Callable[[frozenset[str]], Iterator[RawRow | Problem]]
    """Its rows as they are; the argument: columns that may hold bytes."""


class Source:
    """The tables of a source, each with the split its name gives it, and their rows."""

    def __init__(self, source: Path | str, data: DataConfig, fields: Sequence[Field], choices: Choices) -> None:
        """Look at what is there; the layouts of conversations are recognised from the rows.

        Raises:
            DataError: it cannot be imported, or is more than one thing.
        """
        self.data = data if fields else DataConfig(**data.model_dump(exclude={"columns"}))
        self.fields = fields
        self.names = {name: data.columns.get(name, name) for name in ("text", "label")}
        self.facts: dict[str, str] = {}
        self.read: set[Path] = set()
        self.beside: set[Path] = set()
        self.options, self.takes_missing = choices.options, choices.takes_missing
        self.tables = self._tables(source, choices)
        self.present = {table.split for table in self.tables if table.split}
        self.complete = self.present == set(SPLITS)
        read = _read(fields)
        self.key = tuple(data.columns.get(name, name) for name in read)
        """The columns whose equal values stay in one split."""
        pictured = any(one.type == "image" for one in fields)
        self.kind = "picture" if pictured else " and ".join(read)
        if self.present and "train" not in self.present:
            raise DataError(f"{self.name}: has {', '.join(sorted(self.present))}, but nothing named train")
        self.conversions = self._conversions(choices.layout)

    # -- tables
    def _tables(self, source: Path | str, choices: Choices) -> list[Table]:
        if isinstance(source, str) and source.startswith(hub.PREFIX):
            _refuse(choices, "unit")
            return self._of_collection(hub.loaded(source, choices.revision, choices.config), choices.take)
        path = Path(source)
        self.name = path.name or str(path)
        if hub.is_saved(path):
            _refuse(choices, "unit", "revision", "config")
            return self._of_collection(hub.saved(path.resolve()), choices.take)
        _refuse(choices, "revision", "config", "take")
        files = files_of(path.resolve(), choices.unit)
        self.read = {file for _, file in files}
        if path.is_dir():
            self.beside = {other for one in self.read for other in one.parent.iterdir()} - self.read
        self.facts = {"source": self.name}
        if choices.unit and not any(format_of(file) == TEXT for file in self.read):
            raise DataError(f"--rows {choices.unit}: only for plain text, and {self.name} has none; leave it out")
        return [self._of_file(split, file, path.resolve().parent, choices.unit) for split, file in files]

    def _of_file(self, split: str | None, path: Path, root: Path, unit: Unit | None) -> Table:
        plain = format_of(path) == TEXT
        if plain and self.fields and not any(one.name == "text" for one in self.fields):
            names = ", ".join(one.name for one in self.fields)
            raise DataError(f"{path.name}: plain text has the column text alone; the task reads {names}")

        def rows(binary: frozenset[str]) -> Iterator[RawRow | Problem]:
            for found in read_rows(path, root, self.data.limits, binary, unit=unit):
                if plain and not isinstance(found, Problem):
                    (text,) = found[1].values()
                    yield found[0], {self.names["text"]: text}
                else:
                    yield found

        name = path.relative_to(root).as_posix()
        return Table(name, split, lambda: Schema.of(self.fields, self.data, path, path.parent), rows)

    def _of_collection(self, found: hub.Collection, take: Mapping[str, str | None]) -> list[Table]:
        self.name, self.facts = found.name, dict(found.facts)
        if unknown := [name for name in take if name not in found.splits]:
            raise DataError(
                f"--take {unknown[0]}: {found.name} has the splits {', '.join(found.splits) or 'none'}; take of those"
            )
        chosen = take or dict.fromkeys(found.splits)
        splits = {name: given or split_named(name) for name, given in chosen.items()}
        without = [name for name, split in splits.items() if split is None]
        if without and len(splits) > 1:
            raise DataError(
                f"{found.name}: has the splits {', '.join(found.splits)}; say what they become, or which to take: "
                f"--take train=NAME --take test=NAME, or one alone, --take {without[0]}"
            )
        if take:
            self.facts["splits"] = ", ".join(f"{name} as {split}" if split else name for name, split in splits.items())

        def table(name: str, split: str | None) -> Table:
            return Table(
                f"{found.name}/{name}" if name else found.name,
                split,
                lambda: Schema.of_values(self.fields, self.data),
                lambda images: hub.rows_of(found, name, self.data.limits, images),
            )

        return [table(name, split) for name, split in splits.items()]

    # -- layouts
    def _conversions(self, layout: str | None) -> dict[str, Conversion]:
        """Return how the conversations of each table become the task's fields; nothing where columns are named."""
        layouts = layouts_of(self.fields)
        talking = {one.name for one in self.fields if one.text}
        mapped = [name for name, column in self.data.columns.items() if name in talking and name != column]
        if layout:
            if mapped:
                raise DataError(f"--layout and data.columns.{mapped[0]} both say where conversations lie; give one")
            return {table.name: Conversion(named(layout, layouts)) for table in self.tables}
        if mapped or not layouts:
            return {}
        found: dict[str, Conversion] = {}
        for table in self.tables:
            schema, votes = table.schema(), Recognition(layouts)
            for row in table.rows(schema.images):
                with contextlib.suppress(RowError):  # found again, and named, when the rows are read
                    if not isinstance(row, Problem):
                        votes.add(row[0], _parsed(row[1]) if schema.textual else row[1])
            if one := votes.decide(table.name):
                found[table.name] = Conversion(one)
        return found

    def described_layouts(self) -> dict[str, str]:
        """Return each table's layout with what its conversion changed; complete once all rows were read."""
        return {name: str(conversion) for name, conversion in self.conversions.items()}

    # -- rows
    def rows(self, data: Path | None = None) -> Iterator[tuple[str | None, str, dict[str, Any]] | Problem]:
        """Yield ``(split or None, place, {column: value})`` for each row, and a problem for each bad one.

        A picture's value is the path that it has in a data folder; where ``data`` is one, the picture is copied there.
        """
        for table in self.tables:
            schema = table.schema()
            schema.options = self.options
            for found in table.rows(schema.images):
                if isinstance(found, Problem):
                    yield found
                    continue
                place, values = found
                try:
                    values = self._converted(table, values, schema)
                except RowError as error:
                    yield Problem(place, error.field, error.expected, error.found)
                    continue
                problems = list(_to_json(place, values, schema.images))
                if self.fields and not problems:
                    row, _, problems = schema.read(place, values)
                    values |= schema.numbers_and_lists(row, values)
                    values |= _kept(schema.pictures_of(row), data)
                    if self.takes_missing:
                        problems = [one for one in problems if one.of_part or not one.is_missing]
                yield from problems
                if not problems:
                    yield table.split, place, values

    def _converted(self, table: Table, values: dict[str, Any], schema: Schema) -> dict[str, Any]:
        conversion = self.conversions.get(table.name)
        if conversion is None:
            return values
        return conversion(_parsed(values) if schema.textual else values)

    def left_out(self) -> list[str]:
        """Return a note that names the files of the folder that were not read."""
        names = sorted(path.name for path in self.beside if path.is_file() and not path.name.startswith("."))
        return [f"left out: {', '.join(names)}"] if names else []


_OPTIONS = {"unit": "--rows", "revision": "--revision", "config": "--config", "take": "--take"}
_FOR = {
    "unit": "files of plain text",
    "revision": "a data set on the Hub (hub:org/name)",
    "config": "a data set on the Hub or its clone (hub:...)",
    "take": "a data set with splits (hub:..., or a folder of save_to_disk)",
}


def _refuse(choices: Choices, *names: str) -> None:
    for name in names:
        if getattr(choices, name):
            raise DataError(f"{_OPTIONS[name]}: only for {_FOR[name]}; leave it out")


def _read(fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the fields by which rows are the same to a model: the picture, the text, else all texts but the answer."""
    texts = [one.name for one in fields if one.text and not one.target]
    first = [one.name for one in fields if one.type == "image"] or [name for name in texts if name == "text"]
    return tuple(first[:1] or texts or ("text",))


def files_of(source: Path, unit: Unit | None = None) -> list[tuple[str | None, Path]]:
    """Return the files of a source with their splits: all of them have one, or none.

    Raises:
        DataError: there is none, only some are named as splits, or there is plain text without a ``unit``.
    """
    if source.is_file():
        _check_unit([source], unit)
        return [(None, source)]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found: list[tuple[str | None, Path]] = []
    for path in sorted(source.iterdir()):
        split = split_named(path.name if path.is_dir() else stem_of(path))
        if path.name.startswith("."):
            continue
        if path.is_dir() and split:
            found += [(split, part) for part in sorted(path.iterdir()) if _is_table(part, unit)]
        elif _is_table(path, unit):
            found.append((split, path))
    if not found:
        text = sorted(path for path in source.rglob(f"*{TEXT}*") if path.is_file() and format_of(path) == TEXT)
        _check_unit(text, unit)
        raise DataError(f"{source}: no {FORMATS} files in it")
    without = [path.name for split, path in found if split is None]
    if without and len(without) < len(found):
        raise DataError(
            f"{source}: some files are named as splits, but not {', '.join(without[:5])}; rename or move them"
        )
    return found


def _check_unit(files: Sequence[Path], unit: Unit | None) -> None:
    text = [path.name for path in files if format_of(path) == TEXT]
    if text and not unit:
        raise DataError(f"{text[0]}: plain text: say what a row is, by --rows line, --rows paragraph or --rows file")


def _is_table(path: Path, unit: Unit | None) -> bool:
    named_so = is_readable(path) or (unit is not None and format_of(path) == TEXT)
    return named_so and path.is_file() and not path.name.startswith(".")


def split_named(name: str) -> str | None:
    """Return the split that the name of a file, folder or split of a data set stands for."""
    found = _SPLIT_NAME.fullmatch(name)
    return SPLIT_NAMES[found[1].lower()] if found else None


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of text with the lists of its conversations, which their cells hold as JSON."""
    found = dict(values)
    for name in LISTS:
        if str(found.get(name) or "").startswith("["):
            try:
                found[name] = DECODER.decode(found[name])
            except (ValueError, RecursionError, RowError):
                raise RowError("a list, as JSON", excerpt(found[name]), field=name) from None
    return found


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
    """Make typed values JSON's in place: times as ISO 8601, pandas' NaN as null; yield what has no JSON form."""
    for column, value in values.items():
        if column in images:
            continue
        try:
            values[column] = _json_value(value)
        except RowError as error:
            yield Problem(place, column, error.expected, error.found)


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _json_value(one) for name, one in value.items()}
    if not isinstance(value, str | int | float | None) or value in (math.inf, -math.inf):
        raise RowError("a value that JSON has", f"{type(value).__name__} {excerpt(str(value))}; cast it")
    return value
