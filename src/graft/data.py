"""A data folder to the rows of a task: the one way in, for validation, training and evaluation alike.

A folder holds a folder of part files per split. ``reading`` turns files into rows; here the task's fields give them
their schema: which column is which field, of which type, and an id. A label stays text (``"007"`` is not 7), text
stays as it is, byte for byte, unless ``data.clean`` names a step. Nothing is repaired: a row is a record or a problem.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.cleaning import REDACT, Cleaning, CleanStep, clean, clean_row
from graft.config import Section, nearest
from graft.errors import ConfigError, DataError, shown
from graft.identity import digest_files, digest_json
from graft.pictures import EXPECTED, FILES, LARGEST_PIXELS, Pictures
from graft.privacy.section import PrivacyConfig
from graft.reading import (
    DECODER,
    EMPTY,
    FORMATS,
    LACKING,
    NULL,
    Limits,
    Problem,
    RawRow,
    RowError,
    describe,
    excerpt,
    file_of,
    format_of,
    is_readable,
    read_rows,
)
from graft.workspace import SPLITS

if TYPE_CHECKING:
    from graft.tasks import Field

__all__ = [
    "TEST_SETS",
    "CleanStep",
    "DataConfig",
    "Problem",
    "Record",
    "Schema",
    "clean",
    "cleaned_as",
    "content_digest",
    "data_digest",
    "data_digests",
    "named_pictures",
    "part_files",
    "part_rows",
    "parts",
    "parts_of_test_sets",
    "pictures_among",
    "privacy_of",
    "read_part",
    "rows_of",
    "typed",
]


class DataConfig(Section):
    """How part files become rows."""

    columns: dict[str, str] = Limit(default_factory=dict)
    """Task field (or ``id``) -> column of the files, where they differ: ``{text: body, label: category}``."""

    clean: tuple[CleanStep, ...] = ()
    """Cleaning of text fields, in this order, also applied at predict: ``nfc`` or ``nfkc`` (Unicode normal form),
    ``strip_html`` (tags, comments and entities, once), ``whitespace`` (runs become one space, ends trimmed).
    ``redact`` comes after them and replaces what ``data.privacy`` finds by placeholders (``<EMAIL_1>``), the same value
    by the same one within a row. ``duplicates`` comes last and drops a row whose texts and label an earlier row of its
    split has; nothing is dropped at predict. Empty: the bytes stay as they are."""

    privacy: PrivacyConfig = PrivacyConfig()
    """Private data in texts: what ``validation.severity.private_data`` and the step ``redact`` are about. What is found
    is never shown, whatever the severity: messages, Data Docs, reports and predictions have its kind alone."""

    max_line_bytes: int = Limit(default=1 << 20, ge=64, le=1 << 30)
    """The longest line (JSONL, CSV, TSV), element (JSON), field (CSV, TSV, Parquet, Arrow) or plain text that is read,
    in bytes; a longer one is an error at its line."""

    max_depth: int = Limit(default=16, ge=1, le=100)
    """The deepest nesting of JSON brackets that is read; the row's own bracket counts."""

    max_image_pixels: int = Limit(default=1 << 25, ge=1, le=LARGEST_PIXELS)
    """The largest picture that is read, width times height: a small file can unpack to more than memory holds."""

    max_unpacked_bytes: int = Limit(default=1 << 36, ge=1 << 10)
    """To how many bytes a gzip or zstd file may unpack; a larger one is an error at the file."""

    max_unpacked_ratio: int = Limit(default=1000, ge=1)
    """To how many times its own size a gzip or zstd file may unpack, beyond 64 MiB: a small file that unpacks to a huge
    one is made to do harm."""

    @property
    def cleaning(self) -> dict[str, Any]:
        """How texts are cleaned, as the verdict and an identity say it: ``clean``, and ``privacy`` for ``redact``."""
        settings = {"privacy": self.privacy.model_dump(mode="json")} if REDACT in self.clean else {}
        return {"clean": list(self.clean), **settings}

    @property
    def uncleaned(self) -> DataConfig:
        """The section without any step of cleaning: rows as they are in the files."""
        return self.model_copy(update={"clean": ()})

    @property
    def limits(self) -> Limits:
        """The limits as the file reader takes them."""
        return Limits(self.max_line_bytes, self.max_depth, self.max_unpacked_bytes, self.max_unpacked_ratio)


TEST_SETS = "test_sets"
"""The folder of test sets from elsewhere, beside the splits: ``test_sets/<name>/<part files>``."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row: ``row`` by task field, typed and cleaned; ``place`` like ``data/train/part-0000.jsonl:7``."""

    row: dict[str, Any]
    place: str
    id: str | None = None


# -- part files


def parts(folder: Path) -> dict[str, list[Path]]:
    """Return the part files of each split, sorted by name. Hidden files are ignored.

    Raises:
        DataError: a split is absent or empty, a name is not a split, or a file is of an unknown type; all together.
    """
    name = folder.name
    if not folder.is_dir():
        raise DataError(f"{name}: no such folder; `graft import FILE` makes it, `dvc pull` gets what data.dvc names")
    problems = [
        f"{name}/{path.name}: not a split; a data folder holds the folders {', '.join(SPLITS)}, {FILES} for pictures, "
        f"{TEST_SETS} for test sets from elsewhere, and nothing else"
        for path in part_files(folder)
        if path.name not in SPLITS and not (path.name in (FILES, TEST_SETS) and path.is_dir())
    ]
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        files = part_files(folder / split) if (folder / split).is_dir() else None
        if not files:
            state = "no such split" if files is None else "no part files"
            problems.append(f"{name}/{split}: {state}; put {split} rows there, or let `graft import` split the data")
        found[split] = files or []
        problems += [
            f"{name}/{split}/{path.name}: not a part file; {FORMATS} are read"
            for path in found[split]
            if not is_readable(path) or not path.is_file()
        ]
    if problems:
        raise DataError.from_problems(f"{name}: cannot be used as a data folder", problems)
    return found


def parts_of_test_sets(folder: Path) -> dict[str, list[Path]]:
    """Return the part files of each test set from elsewhere, sorted by name; none where there is no such folder.

    They are no split: nothing is trained or chosen on them, so they are not in the data's digest.

    Raises:
        DataError: a set is empty or a file is of an unknown type; all together.
    """
    within = folder / TEST_SETS
    if not within.is_dir():
        return {}
    name, found, problems = f"{folder.name}/{TEST_SETS}", dict[str, list[Path]](), list[str]()
    for path in part_files(within):
        if path.name == FILES and path.is_dir():
            continue
        files = part_files(path) if path.is_dir() else []
        if not files:
            problems.append(f"{name}/{path.name}: not a folder of part files, which a test set is")
        problems += [
            f"{name}/{path.name}/{file.name}: not a part file; {FORMATS} are read"
            for file in files
            if not is_readable(file) or not file.is_file()
        ]
        found[path.name] = files
    if problems:
        raise DataError.from_problems(f"{name}: cannot be used as test sets", problems)
    return found


def part_files(folder: Path) -> list[Path]:
    """Return the files of a split's folder by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def data_digest(folder: Path) -> str:
    """Return one sha256 over the data: what an adapter is known by (:func:`content_digest`)."""
    return content_digest(data_digests(folder))


def content_digest(digests: Mapping[str, str]) -> str:
    """Return one sha256 over the contents of the part files, in their order, and over the pictures that they name.

    A part counts by its place in its split and its format, not by its name: one that is renamed and keeps its place
    is no other data. Pictures count with their names, since rows name them.

    Args:
        digests: ``{path below the data folder: sha256}``, as :func:`data_digests` returns them.
    """
    ordered: dict[str, Any] = {split: [] for split in SPLITS}
    pictures: dict[str, str] = {}
    for name in sorted(digests):
        split, _, file = name.partition("/")
        if split in ordered:
            ordered[split].append([format_of(Path(file)), digests[name]])
        else:
            pictures[name] = digests[name]
    return digest_json([ordered, pictures])


def data_digests(folder: Path) -> dict[str, str]:
    """Return ``{path below folder: sha256}`` of all part files and pictures."""
    found = [path for files in parts(folder).values() for path in files]
    pictures = (path for path in (folder / FILES).rglob("*") if path.is_file())
    return digest_files(folder, [*found, *pictures])


def pictures_among(digests: Mapping[str, str], fields: Sequence[Field]) -> dict[str, str]:
    """Return the pictures of a data folder with their digests, where rows have pictures; else nothing.

    Which of them a part names is known only once it is read (:func:`named_pictures`).
    """
    if all(one.type != "image" for one in fields):
        return {}
    return {name: digest for name, digest in digests.items() if name.startswith(f"{FILES}/")}


def named_pictures(path: Path, root: Path, fields: Sequence[Field], config: DataConfig) -> Iterator[str]:
    """Yield the pictures that the rows of a part name, by their paths in its data folder, be they there or not.

    They stay closed. A part that cannot be read names those of the rows that can.
    """
    schema, folder = Schema.of(fields, config, path), path.parent.parent
    for found in read_rows(path, root, config.limits, schema.images):
        if isinstance(found, Problem):
            continue
        files = (schema.pictures.file_of(found[1].get(column)) for column in schema.images)
        yield from (file.relative_to(folder).as_posix() for file in files if file and file.is_relative_to(folder))


def rows_of(
    folder: Path, split: str, fields: Sequence[Field], config: DataConfig, without: Collection[str] = ()
) -> Iterator[Record]:
    """Yield the rows of a split of a validated data folder, without those in quarantine, by their places.

    Raises:
        DataError: at the first row that cannot be read.
    """
    cleaning = Cleaning(config.clean, config.privacy)
    for path in parts(folder)[split]:
        yield from part_rows(path, folder.parent, fields, config, cleaning, without)


def part_rows(
    path: Path,
    root: Path,
    fields: Sequence[Field],
    config: DataConfig,
    cleaning: Cleaning,
    without: Collection[str] = (),
) -> Iterator[Record]:
    """Yield the rows of a validated part, without those in quarantine; arguments as those of :func:`read_part`.

    Raises:
        DataError: at the first row that cannot be read.
    """
    for found in read_part(path, root, fields, config, cleaning):
        if found.place in without:
            continue
        if isinstance(found, Problem):
            raise DataError(f"{found}; the data changed since it was validated: run `graft stage validate`")
        yield found


# -- rows of a task


def rows_at(
    part: Path, root: Path, schema: Schema, config: DataConfig, places: Collection[str]
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield place and values, by column, of the rows of a part at ``places``; None: a row cannot be read.

    No more is read than up to the last of them.
    """
    wanted = {*places}
    for one in read_rows(part, root, config.limits, schema.images) if wanted else ():
        place, values = (one.place, None) if isinstance(one, Problem) else one
        if place in wanted:
            yield place, values
            wanted.discard(place)
            if not wanted:
                return


def read_part(
    path: Path, root: Path, fields: Sequence[Field], config: DataConfig, cleaning: Cleaning | None = None
) -> Iterator[Record | Problem]:
    """Yield the rows of a part file as ``fields`` and ``data.columns`` describe them, and a problem for each bad one.

    A column that a part does not have is one problem, not one for each row.

    Args:
        path: the part file.
        root: the folder that places are relative to.
        fields: the fields of the task.
        config: how files become rows.
        cleaning: of the split, with what its earlier parts held; ``None``: the part stands alone.

    Raises:
        ConfigError: ``data.columns`` names a field that the task does not have.
    """
    cleaning = cleaning or Cleaning(config.clean, config.privacy)
    schema = Schema.of(fields, config, path)
    own, beside = [one for one in fields if not one.beside], {one.name for one in fields if one.beside}
    for found in read_rows(path, root, config.limits, schema.images):
        if isinstance(found, Problem):
            yield found
            continue
        place, values = found
        row, name, problems = schema.read(place, values)
        yield from problems
        # Which rows are equal does not depend on what stands beside them: later stages do not read it.
        is_whole = not problems and len(row) == len(fields)
        is_row = is_whole or (all(one.name in row for one in own) and all(one.field in beside for one in problems))
        if is_row and cleaning.keeps(row, own, place) and is_whole:
            yield Record(row, place, name)


@dataclass
class Schema:
    """The fields of a task as the columns of one part, and which columns that part is known to have."""

    fields: Sequence[Field]
    columns: Mapping[str, str]
    textual: bool
    named_id: bool
    pictures: Pictures
    other_rows: Callable[[], Iterable[str]] = tuple
    """The columns of all rows of the part: asked once, where a row lacks one that none before it has."""
    present: set[str] = dataclass_field(default_factory=set)
    absent: set[str] = dataclass_field(default_factory=set)
    options: Mapping[str, str] = dataclass_field(default_factory=dict)
    """The option that named a field's column, where the user gave one."""

    @classmethod
    def of(cls, fields: Sequence[Field], config: DataConfig, path: Path, pictures: Path | None = None) -> Schema:
        """Return the schema for one part file.

        ``pictures`` is where the paths of pictures start in a file that is no part; those of a part stay in ``files``
        beside its split.

        Raises:
            ConfigError: ``data.columns`` names a field that the task does not have.
        """
        textual = format_of(path) in TABLES_OF_TEXT
        folder, inside = (pictures, "") if pictures else (path.parent.parent, FILES)
        found = Pictures(folder, inside, config.max_image_pixels)
        columns, named_id = _columns(fields, config), "id" in config.columns
        rows = partial(read_rows, path, path.parent, config.limits, _image_columns(fields, columns))
        others = (lambda: _all_columns(rows())) if format_of(path) in ROWS_OF_OBJECTS else tuple
        return cls(fields, columns, textual, named_id, found, others)

    @classmethod
    def of_values(cls, fields: Sequence[Field], config: DataConfig) -> Schema:
        """Return the schema for rows that come from no file: they hold their pictures, and name none."""
        held = Pictures(None, max_pixels=config.max_image_pixels)
        return cls(fields, _columns(fields, config), False, "id" in config.columns, held)

    @property
    def images(self) -> frozenset[str]:
        """The columns of pictures."""
        return _image_columns(self.fields, self.columns)

    def numbers_and_lists(self, row: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of ``values`` that hold a number or a list as text, with the value that ``row`` has."""
        return {
            self.columns[field.name]: row[field.name]
            for field in self.fields
            if self.textual and field.type in STRUCTURED and field.name in row and self.columns[field.name] in values
        }

    def pictures_of(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the pictures of a typed row by their column."""
        found = {self.columns[field.name]: row.get(field.name) for field in self.fields if field.type == "image"}
        return {column: picture for column, picture in found.items() if picture is not None}

    def read(self, place: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None, list[Problem]]:
        """Return the typed row (without the fields that are wrong), its id, and what is wrong."""
        self.present.update(values)
        row: dict[str, Any] = {}
        name, problems = None, list[Problem]()
        for field in self.fields:
            column = self.columns[field.name]
            if column not in values and (field.required or (field.beside and not self.has(column))):
                called = BESIDE if field.beside else field.name
                problems += self.missing(place, column, called, _EXPECTED[field.type], values)
                continue
            try:
                row[field.name] = _typed(field, values.get(column), self.pictures, textual=self.textual)
            except RowError as error:
                problems.append(Problem(place, column, error.expected, error.found))
        column = self.columns["id"]
        if self.named_id and column not in values:
            problems += self.missing(place, column, "id", _ID, values)
        try:
            name = _identifier(values.get(column))
        except RowError as error:
            problems.append(Problem(place, column, error.expected, error.found))
        return row, name, problems

    def has(self, column: str) -> bool:
        """Say whether a row of the part has a column."""
        if column not in self.present | self.absent:
            self.present.update(self.other_rows())
        return column in self.present

    def missing(self, place: str, column: str, field: str, kind: str, values: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield the problem of a row that lacks a column; a column that no row of the part has is named once."""
        if self.has(column):
            yield Problem(place, column, kind, LACKING)
        elif column not in self.absent:
            self.absent.add(column)
            yield _absent(column, field, values, place, self.options.get(field))


def _columns(fields: Sequence[Field], config: DataConfig) -> dict[str, str]:
    known = [field.name for field in fields]
    for name in config.columns:
        if name not in known and name != "id":
            raise ConfigError(f"data.columns.{name}: the task has no such field; its fields are {', '.join(known)}")
    return {name: config.columns.get(name, name) for name in [*known, "id"]}


def _image_columns(fields: Sequence[Field], columns: Mapping[str, str]) -> frozenset[str]:
    return frozenset(columns[field.name] for field in fields if field.type == "image")


def _all_columns(rows: Iterable[RawRow | Problem]) -> Iterator[str]:
    return (column for row in rows if not isinstance(row, Problem) for column in row[1])


def _absent(column: str, field: str, values: Mapping[str, Any], place: str, option: str | None) -> Problem:
    """Return the problem of a column that a part does not have, at the place where its columns are named."""
    file = file_of(place)
    kind = format_of(Path(file))
    where = f"{file}:1" if kind in TABLES_OF_TEXT else place if kind in ROWS_OF_OBJECTS else file
    called = next((one for one in ALIKE.get(field, ()) if one in values), None)
    near = nearest(column, list(values), 0.75) or called or nearest(column, list(values))
    named = option or (field if field == BESIDE else f"data.columns.{field}")
    do = f"Give {named}" if option else f"Set {named}" if field != BESIDE else f"Write that in {named}"
    advice = f"; did you mean {excerpt(near)}? {do}" if near else f"; {named} names it"
    return Problem(where, column, "a column of that name", f"only {excerpt(', '.join(values))}{advice}", of_part=True)


BESIDE = "validation.columns"
"""Where a column that the task does not read is named."""
_EXPECTED = {
    "string": "a string",
    "number": "a finite number",
    "strings": "a list of strings",
    "label": "a label (string, integer or boolean)",
    "labels": "a list of labels (strings, integers or booleans)",
    "messages": "a list of messages, each with a role and a content (strings)",
    "answers": "an object with text (strings) and answer_start (as many whole numbers)",
    "image": f"{EXPECTED} (its path, a data URI or its bytes)",
}
ALIKE = {
    "target": ("label", "score", "rating", "value", "y"),
    "label": ("labels", "class", "category", "target"),
    "labels": ("label", "classes", "categories", "tags"),
}
"""What others call the columns of answers."""
TABLES_OF_TEXT = (".csv", ".tsv")
"""Formats in which every value is text."""
ROWS_OF_OBJECTS = (".jsonl", ".json")
"""Formats in which each row names its columns."""
STRUCTURED = ("number", "strings", "labels", "messages", "answers")
"""Types that a cell of a CSV or TSV file holds as text: a number, or JSON."""
_ID = "an id (string or integer)"
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _typed(field: Field, value: Any, pictures: Pictures, *, textual: bool) -> Any:
    """Return ``value`` in the field's type; ``textual``: from a file in which everything is text."""
    if value is None or ((textual or field.beside) and value == "" and not field.required):
        if field.required:
            raise RowError(_EXPECTED[field.type], NULL)
        return None
    # A column that the task does not read stays as it was imported: of a table, text.
    if isinstance(value, str) and (textual or field.beside) and field.type in STRUCTURED:
        value = _from_text(field.type, value)
    match field.type:
        case "image":
            return pictures.read(value)
        case "string" if isinstance(value, str):
            return value
        case "label" if isinstance(value, str | bool | int):
            return _label(value)
        case "labels" if isinstance(value, list) and all(isinstance(one, str | bool | int) for one in value):
            return [_label(one) for one in value]
        case "messages" if isinstance(value, list) and all(_is_message(one) for one in value):
            return value
        case "answers" if _is_answers(value):
            return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
            return value
        case "strings" if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    if field.type == "number" and isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        advice = (
            "write it without quotes, or import the table again (`graft import --replace`): columns of CSV and TSV "
            "files become numbers where the task reads them"
        )
        raise RowError(_EXPECTED["number"], f"{describe(value)}; {advice}")
    raise RowError(_EXPECTED[field.type], describe(value))


def _label(value: str | bool | int) -> str:
    label = value if isinstance(value, str) else json.dumps(value)
    if not label.strip():
        raise RowError("a label", f"{EMPTY}{shown(label)}")
    return label


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))


def _is_answers(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in ("text", "answer_start")):
        return False
    texts, starts = value["text"], value["answer_start"]
    whole = all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    return whole and len(texts) == len(starts) and all(isinstance(text, str) for text in texts)


def typed(field: Field, value: Any, place: str) -> Any:
    """Return one value that came from outside the part files (predict, serving), typed as theirs are.

    A picture is bytes, base64 or a data URI here, never a path: who asks a server must not make it read its own files.

    Raises:
        DataError: it is not of the field's type; the message begins with ``place``.
    """
    try:
        return _typed(field, value, Pictures(None), textual=False)
    except RowError as error:
        raise DataError(f"{place}: expected {error.expected}, found {error.found}") from None


def cleaned_as(identity: Mapping[str, Any], row: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Return a typed row, cleaned as an adapter's ``identity`` says that its training rows were."""
    return clean_row(row, fields, identity["clean"], privacy_of(identity))


def privacy_of(identity: Mapping[str, Any]) -> PrivacyConfig:
    """Return what ``redact`` replaces in the rows of an adapter; the defaults where it is no step of it."""
    return PrivacyConfig.model_validate(identity.get("privacy", {}))


def _is_finite(value: float) -> bool:
    """Say whether ``value`` is a number that a float can hold (an integer may be too large)."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _from_text(kind: str, cell: str) -> Any:
    """Return the number or the list (JSON) that a cell of a CSV or TSV file holds."""
    if kind == "number":
        if not NUMBER.fullmatch(cell.strip()):
            raise RowError(_EXPECTED[kind], describe(cell))
        return float(cell) if any(sign in cell for sign in ".eE") else int(cell)
    try:
        return DECODER.decode(cell)
    except (ValueError, RowError, RecursionError):
        raise RowError(f"{_EXPECTED[kind]}, as JSON", describe(cell)) from None


def _identifier(value: Any) -> str | None:
    """Return the row's id as a string; ``None`` where it has none."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise RowError(_ID, describe(value))
