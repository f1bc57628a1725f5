"""Files to rows with their line, whatever the columns: text and tables of seven formats under one set of rules.

pandas, ``datasets`` and Great Expectations disagree on malformed files (what is accepted, how many rows, which type),
so what one validated another would read differently. Here a file is bytes with rules: UTF-8, limits that are checked
before anything is parsed, and every problem at its ``file:line``. It goes row by row, so memory is bounded by the
longest line (in Parquet and Arrow, by 1,024 rows); the price is that a columnar CSV reader is faster. Files of text may
be packed by gzip or zstd, and are unpacked while they are read.

Rules beyond the obvious: a UTF-8 byte order mark at the start is skipped (spreadsheets write one; ``validate`` notes
it). Blank lines are error. A CSV record that spans lines has the number of its first line. TSV has no quoting
(IANA's definition), and a cell that looks quoted is refused rather than guessed at. In a Parquet or Arrow file the
number is the row's, from 1; an object of a JSON array has the line where it starts, and the column where an earlier one
starts on that line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from graft.privacy import in_message
from graft.reading.columnar import read_arrow, read_parquet
from graft.reading.delimited import read_csv
from graft.reading.json_rows import DECODER, read_json, read_jsonl
from graft.reading.opening import TEXT_FORMATS, foreign, format_of, has_bom, names_of, stem_of
from graft.reading.plain_text import Unit, read_text
from graft.reading.rules import (
    EMPTY,
    LACKING,
    NULL,
    Limits,
    Numbered,
    Problem,
    RawRow,
    RowError,
    by_file,
    describe,
    excerpt,
    file_of,
    order_of,
    place_order,
)

__all__ = [
    "DECODER",
    "EMPTY",
    "FORMATS",
    "LACKING",
    "NULL",
    "READERS",
    "Limits",
    "Problem",
    "RawRow",
    "RowError",
    "Unit",
    "by_file",
    "describe",
    "excerpt",
    "file_of",
    "format_of",
    "has_bom",
    "is_readable",
    "names_of",
    "order_of",
    "place_order",
    "read_rows",
    "stem_of",
]

READERS: dict[str, Callable[[Path, Limits, frozenset[str]], Numbered]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
TEXT = ".txt"
FORMATS = ".jsonl, .json, .csv, .tsv (also with .gz or .zst), .parquet, .arrow"
"""The files that are read, for messages."""


def is_readable(path: Path) -> bool:
    """Say whether a file's name is that of a table: plain text is none, since nobody knows what its rows are."""
    return format_of(path) in READERS


def read_rows(
    path: Path, root: Path, limits: Limits, binary: frozenset[str] = frozenset(), *, unit: Unit | None = None
) -> Iterator[RawRow | Problem]:
    """Yield ``(place, {column: value})`` for each row with all its columns, and a problem for each bad one.

    Values are JSON values; in CSV and TSV files, strings. Columns of Parquet and Arrow files that are named in
    ``binary`` may hold bytes, which are passed on as they are. A file of plain text is read only where ``unit`` says
    what a row is. A file without rows is a problem.
    """
    name = path.relative_to(root).as_posix()
    kind = format_of(path)
    reader = READERS.get(kind)
    if kind == TEXT and unit:
        rows = read_text(path, limits, unit)
    elif reader is None:
        yield Problem(name, "", f"one of {FORMATS}", f"a file of type {path.suffix or 'unknown'}", True)
        return
    else:
        rows = reader(path, limits, binary)
    empty = True
    try:
        if kind in TEXT_FORMATS and (other := foreign(path, limits)):
            yield Problem(f"{name}:1", "", f"{kind[1:].upper()} text in UTF-8", other, True)
            return
        for line, found in rows:
            empty = False
            if isinstance(found, RowError):
                field = in_message(found.field)  # a key of the row itself, which may be anything
                yield Problem(f"{name}:{found.line or line}", field, found.expected, found.found)
            else:
                yield f"{name}:{line}", found
    except RowError as error:
        yield Problem(f"{name}:{error.line}" if error.line else name, error.field, error.expected, error.found, True)
        return
    if empty:
        yield Problem(name, "", "at least one row", "an empty file" if path.stat().st_size == 0 else "no rows", True)
