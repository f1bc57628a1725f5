"""Files of rows for `graft predict`: read by the strict reader, written in the format that the name's end says."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from graft.errors import DataError, InputError, shown
from graft.identity import digest_bytes
from graft.workspace import TEMPORARY

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
Placed = tuple[str, dict[str, Any]]
"""A row and its ``file:line``."""
FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
BATCH_ROWS = 512


def batches(path: Path, images: frozenset[str] = frozenset()) -> Iterator[list[Placed]]:
    """Yield the rows of a file with their ``file:line``, ``BATCH_ROWS`` at a time; ``images``: columns of pictures.

    Raises:
        DataError: at the end, with every row that could not be read.
    """
    from graft.reading import Limits, Problem, read_rows

    if not path.is_file():
        raise InputError(f"--file {path}: no such file")
    rows: list[Placed] = []
    problems: list[str] = []
    for found in read_rows(path, path.parent, Limits(), images):
        if isinstance(found, Problem):
            problems.append(str(found))
            continue
        if problems:
            continue
        rows.append((found[0], dict(found[1])))
        if len(rows) == BATCH_ROWS:
            yield rows
            rows = []
    if problems:
        raise DataError.from_problems(f"{path}: {len(problems)} rows cannot be read; nothing is written", problems)
    if rows:
        yield rows


@contextmanager
def writer(path: Path | None) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Yield a function that writes rows; the file appears whole at the end. ``None``: JSON Lines on standard output.

    Raises:
        InputError: the name ends in no known format, or its folder is not there.
    """
    if path is None:
        yield _json_lines(sys.stdout)
        return
    if path.suffix not in FORMATS or not path.parent.is_dir():
        what = "no such folder" if path.suffix in FORMATS else f"must end in {', '.join(FORMATS)}"
        raise InputError(f"--out {shown(str(path))}: {what}")
    new = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with _writing(new, path.suffix) as write:
            yield write
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, suffix: str) -> Iterator[Callable[[Sequence[Row]], None]]:
    if suffix == ".parquet":
        with _parquet(path) as write:
            yield write
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        yield _json_lines(file) if suffix == ".jsonl" else _cells(file, "," if suffix == ".csv" else "\t")


def _json_lines(file: TextIO) -> Callable[[Sequence[Row]], None]:
    def write(rows: Sequence[Row]) -> None:
        file.writelines(json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in rows)

    return write


def _cells(file: TextIO, delimiter: str) -> Callable[[Sequence[Row]], None]:
    quoting: dict[str, Any] = {"delimiter": delimiter, "lineterminator": "\n"}
    if delimiter == "\t":
        quoting |= {"quoting": csv.QUOTE_NONE, "quotechar": None}
    writers: list[csv.DictWriter[str]] = []

    def write(rows: Sequence[Row]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not writers:
            writers.append(csv.DictWriter(file, names, **quoting))
            writers[0].writeheader()
        if later := [name for name in names if name not in writers[0].fieldnames]:
            raise InputError(
                f"--out: a later row has the column {shown(later[0])}, which a table cannot take on; write .jsonl"
            )
        writers[0].writerows({name: _cell(value, delimiter) for name, value in row.items()} for row in rows)

    return write


def _cell(value: Any, delimiter: str) -> Any:
    """Return a value as a cell: lists and objects as JSON; TSV has no quoting, so tabs and line ends become spaces."""
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=_plain)
    elif isinstance(value, bytes):
        value = _plain(value)
    if delimiter == "\t" and isinstance(value, str):
        return " ".join(value.replace("\t", " ").splitlines())
    return value


def _plain(value: Any) -> str:
    """Return a value that JSON does not have as text: a picture as the digest of its bytes."""
    return f"sha256:{digest_bytes(value)}" if isinstance(value, bytes) else str(value)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[pa.Table] = []
    yield lambda rows: tables.append(pa.Table.from_pylist([dict(row) for row in rows]))
    pq.write_table(pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({}), path)
