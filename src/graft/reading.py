"""Files to rows with their line, whatever the columns: JSONL, CSV, TSV, Parquet under one set of rules.

pandas, ``datasets`` and Great Expectations disagree on malformed files (what is accepted, how many rows, which type),
so what one validated another would read differently. Here a file is bytes with rules: UTF-8, limits that are checked
before anything is parsed, and every problem at its ``file:line``. It goes row by row, so memory is bounded by the
longest line (in Parquet, by 1,024 rows); the price is that a columnar CSV reader is faster.

Rules beyond the obvious: a UTF-8 byte order mark at the start is skipped (spreadsheets write one; ``validate`` notes
it). Blank lines are error. A CSV record that spans lines has the number of its first line. TSV has no quoting
(IANA's definition), and a cell that looks quoted is refused rather than guessed at. In a Parquet file the number is
the row's, from 1.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from graft.errors import shown

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read at most: bytes of a line or field, and levels of JSON brackets (the row's own counts)."""

    max_line_bytes: int = 1 << 20
    max_depth: int = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong at one place. ``field`` is the column of the file, empty where the whole line is meant."""

    place: str
    field: str
    expected: str
    found: str
    of_part: bool = False
    """Whether the whole file is meant, or what comes after the place: no single row can be left out."""

    def __str__(self) -> str:
        """Return the one-line message."""
        middle = f"{self.field}: " if self.field else ""
        return f"{self.place}: {middle}expected {self.expected}, found {self.found}"


class RowError(Exception):
    """A value or line cannot be read; ``line`` is set where it is not the line being read. Never leaves the reader."""

    def __init__(self, expected: str, found: str, *, field: str = "", line: int | None = None) -> None:
        super().__init__(expected, found)
        self.expected, self.found, self.field, self.line = expected, found, field, line


_KINDS: dict[type, str] = {
    bool: "the boolean",
    int: "the integer",
    float: "the number",
    str: "the string",
    list: "a list:",
    dict: "an object:",
}


def describe(value: Any) -> str:
    """Return what kind of JSON value ``value`` is, and the value, short."""
    return f"{_KINDS.get(type(value), type(value).__name__)} {shown(value)}"


RawRow = tuple[str, dict[str, Any]]
BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"\x1f\x8b": "a gzip file; unpack it",
    b"BZh91AY&": "a bzip2 file; unpack it",
    b"\xfd7zXZ": "an xz file; unpack it",
    b"PK\x03\x04": "a zip archive or spreadsheet; unpack it or export it as CSV",
    b"PAR1\x15": "a Parquet file; name it .parquet",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


def read_rows(
    path: Path, root: Path, limits: Limits, binary: frozenset[str] = frozenset()
) -> Iterator[RawRow | Problem]:
    """Yield ``(place, {column: value})`` for each row with all its columns, and a problem for each bad line.

    Values are JSON values; in CSV and TSV files, strings. Parquet columns named in ``binary`` may hold bytes, which are
    passed on as they are. A file without rows is a problem.
    """
    name = path.relative_to(root).as_posix()
    if path.suffix not in READERS:
        yield Problem(name, "", f"one of {', '.join(READERS)}", f"a file of type {path.suffix or 'unknown'}", True)
        return
    if path.suffix != ".parquet" and (foreign := _foreign(path)):
        yield Problem(f"{name}:1", "", f"{path.suffix[1:].upper()} text in UTF-8", foreign, True)
        return
    empty = True
    try:
        for line, found in READERS[path.suffix](path, limits, binary):
            empty = False
            if isinstance(found, RowError):
                yield Problem(f"{name}:{found.line or line}", found.field, found.expected, found.found)
            else:
                yield f"{name}:{line}", found
    except RowError as error:
        yield Problem(f"{name}:{error.line}" if error.line else name, error.field, error.expected, error.found, True)
        return
    if empty:
        yield Problem(name, "", "at least one row", "an empty file" if path.stat().st_size == 0 else "no rows", True)


def has_bom(path: Path) -> bool:
    """Say whether a file starts with the byte order mark that the reader skips."""
    with path.open("rb") as file:
        return file.read(3) == BOM


def _foreign(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(8)
    return next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)


Numbered = Iterator[tuple[int, dict[str, Any] | RowError]]


def _read_jsonl(path: Path, limits: Limits, _binary: frozenset[str]) -> Numbered:
    with path.open("rb") as file:
        for line, content in _lines(file, limits.max_line_bytes):
            try:
                yield line, _parse(content, limits.max_depth) if isinstance(content, bytes) else content
            except RowError as error:
                yield line, error


def _lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | RowError]]:
    """Yield the lines of a file with their numbers; an overlong one is passed over without being held in memory."""
    if file.read(len(BOM)) != BOM:
        file.seek(0)
    number = 0
    while content := file.readline(limit + 2):
        number += 1
        if len(content.rstrip(b"\r\n")) <= limit:
            yield number, content
            continue
        while content and not content.endswith(b"\n"):
            content = file.readline(1 << 16)
        yield number, RowError(f"a line of at most {limit} bytes (data.max_line_bytes)", "a longer one")


def _decode(content: bytes) -> str:
    """Return a line as text.

    Raises:
        RowError: it is not UTF-8, or holds a NUL.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise RowError(
            "UTF-8", f"the byte 0x{byte:02x} at byte {error.start + 1} of the line; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise RowError("text without NUL", f"a NUL at column {text.index(chr(0)) + 1}")
    return text


def _parse(content: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object of a line; nothing is parsed before its depth is known."""
    text = _decode(content)
    if text.count("[") + text.count("{") > max_depth and _depth(text) > max_depth:
        raise RowError(f"JSON nested at most {max_depth} deep (data.max_depth)", "deeper nesting")
    try:
        value = DECODER.decode(text.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        what = f"broken JSON at column {error.colno} ({error.msg})" if text.strip() else "an empty line; remove it"
        raise RowError("one JSON object per line", what) from None
    except ValueError as error:
        raise RowError("JSON that can be read", str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise RowError("one JSON object per line", describe(value))
    if "\\u" in text:
        _well_formed(value, "")
    return value


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets outside strings."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _well_formed(value: Any, at: str) -> None:
    """Refuse strings that escapes made impossible: NUL and lone surrogates have no place in UTF-8 text."""
    if isinstance(value, str):
        if "\0" in value:
            raise RowError("text without NUL", "a NUL, written as \\u0000", field=at)
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise RowError("text that can be written as UTF-8", f"a lone surrogate, {shown(value)}", field=at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _well_formed(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            _well_formed(key, at)
            _well_formed(item, f"{at}.{key}" if at else key)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError("each key once", f"the key {shown(twice)} twice", field=twice)
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RowError("finite numbers", shown(text))
    return value


def _constant(text: str) -> None:
    raise RowError("JSON values (null where there is none)", text)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_constant)


def _read_csv(path: Path, limits: Limits, _binary: frozenset[str]) -> Numbered:
    """Yield the records of a CSV or TSV file; after a line that breaks its structure nothing more is read."""
    csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes))  # process-wide: only ever raised
    faults: list[RowError] = []
    with path.open("rb") as file:
        if path.suffix == ".tsv":
            table = csv.reader(_text_lines(file, limits, faults), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            table = csv.reader(_text_lines(file, limits, faults), strict=True)
        header: list[str] | None = None
        while True:
            line = table.line_num + 1
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                place = table.line_num
                raise RowError("well-formed CSV", f"{error} (record from line {line})", line=place) from None
            problem = faults.pop(0) if faults else _unlike(header, cells, path.suffix, limits)
            faults.clear()
            if problem is not None:
                yield line, problem
            elif header is not None:
                yield line, dict(zip(header, cells, strict=True))
            if header is None:
                if problem is not None:
                    return
                header = cells


def _text_lines(file: BinaryIO, limits: Limits, faults: list[RowError]) -> Iterator[str]:
    """Yield decoded lines for the csv module; a line that is not text is noted in ``faults`` and passed on mended."""
    for number, content in _lines(file, limits.max_line_bytes):
        if isinstance(content, RowError):
            content.line = number
            raise content
        try:
            yield _decode(content)
        except RowError as error:
            error.line = number
            faults.append(error)
            yield content.decode("utf-8", "replace").replace("\0", "\ufffd")


def _unlike(header: list[str] | None, cells: list[str], suffix: str, limits: Limits) -> RowError | None:
    """Return what is wrong with a record (with the header itself, if there is none yet)."""
    if header is None:
        return _bad_header(cells)
    if len(cells) != len(header):
        found = f"{len(cells)}" if cells else "an empty line; remove it"
        return RowError(f"{len(header)} columns as in the header", found)
    for name, cell in zip(header, cells, strict=True):
        if len(cell) * 4 > limits.max_line_bytes and len(cell.encode()) > limits.max_line_bytes:
            return RowError(f"at most {limits.max_line_bytes} bytes (data.max_line_bytes)", "more", field=name)
        if suffix == ".tsv" and len(cell) > 1 and cell[0] == cell[-1] == '"':
            return RowError("a cell without quoting (TSV has none; save it as CSV or JSONL)", shown(cell), field=name)
    return None


def _bad_header(names: list[str]) -> RowError | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if names and not twice:
        return None
    return RowError("a header with distinct columns", f"{shown(twice[0])} twice" if twice else "none")


def _read_parquet(path: Path, limits: Limits, binary: frozenset[str]) -> Numbered:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if problem := _bad_header(file.schema_arrow.names):
                raise problem
            for batch in file.iter_batches(batch_size=1024):
                for values in _batch_rows(batch):
                    number += 1
                    yield number, _limited(values, limits, binary)
    except (pa.ArrowException, OSError) as error:
        what = str(error).partition("\n")[0]
        raise RowError(
            "a Parquet file", f"one that cannot be read ({shown(what)})", line=number + 1 if number else None
        ) from None


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch; where a string is not UTF-8, its bytes, so that the row can be named."""
    import pyarrow as pa

    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        plain = [
            column.cast(pa.large_binary())
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            else column
            for column in batch.columns
        ]
        yield from pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()


def _limited(values: dict[str, Any], limits: Limits, binary: frozenset[str]) -> dict[str, Any] | RowError:
    """Return a Parquet row, or what is wrong with it, by the same rules as for a line of text."""
    for name, value in values.items():
        if name in binary and not isinstance(value, str):
            continue
        if isinstance(value, bytes):
            try:
                values[name] = value = _decode(value)
            except RowError as error:
                return RowError(error.expected, error.found.replace("of the line", "of the value"), field=name)
        if isinstance(value, str) and len(value) * 4 > limits.max_line_bytes < len(value.encode()):
            return RowError(f"at most {limits.max_line_bytes} bytes (data.max_line_bytes)", "more", field=name)
        try:
            _well_formed(value, name)
        except RowError as error:
            return error
    return values


READERS: dict[str, Callable[[Path, Limits, frozenset[str]], Numbered]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
