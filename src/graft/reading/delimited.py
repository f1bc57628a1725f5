"""CSV by Python's csv module in its strict mode, and TSV, which has no quoting (IANA's definition)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from graft.reading.json_rows import lines
from graft.reading.opening import format_of, opened
from graft.reading.rules import Limits, Numbered, RowError, bad_header, decode, excerpt


def read_csv(path: Path, limits: Limits, _binary: frozenset[str]) -> Numbered:
    """Yield the records of a CSV or TSV file; after a line that breaks its structure nothing more is read."""
    csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes))  # process-wide: only ever raised
    faults: list[RowError] = []
    kind = format_of(path)
    with opened(path, limits) as file:
        if kind == ".tsv":
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
            problem = faults.pop(0) if faults else _unlike(header, cells, kind, limits)
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
    for number, content in lines(file, limits.max_line_bytes):
        if isinstance(content, RowError):
            content.line = number
            raise content
        try:
            yield decode(content)
        except RowError as error:
            error.line = number
            faults.append(error)
            yield content.decode("utf-8", "replace").replace("\0", "\ufffd")


def _unlike(header: list[str] | None, cells: list[str], kind: str, limits: Limits) -> RowError | None:
    """Return what is wrong with a record (with the header itself, if there is none yet)."""
    if header is None:
        return bad_header(cells) or (_other_separator(cells[0]) if kind == ".csv" and len(cells) == 1 else None)
    if len(cells) != len(header):
        found = f"{len(cells)}" if cells else "an empty line; remove it"
        return RowError(f"{len(header)} columns as in the header", found)
    for name, cell in zip(header, cells, strict=True):
        if len(cell) * 4 > limits.max_line_bytes and len(cell.encode()) > limits.max_line_bytes:
            return RowError(f"at most {limits.max_line_bytes} bytes (data.max_line_bytes)", "more", field=name)
        if kind == ".tsv" and len(cell) > 1 and cell[0] == cell[-1] == '"':
            return RowError("a cell without quoting (TSV has none; save it as CSV or JSONL)", excerpt(cell), field=name)
    return None


def _other_separator(header: str) -> RowError | None:
    """Return what is wrong with the header of a CSV file that separates its columns by another sign."""
    for sign, name, advice in SEPARATORS:
        if sign in header:
            found = f"{excerpt(header)}, which has {name} between them; {advice}"
            return RowError("columns that are separated by commas", found)
    return None


SEPARATORS = (
    (";", "semicolons", "save it with commas, as spreadsheets can"),
    ("\t", "tabs", "rename it to .tsv"),
    ("|", "bars", "save it with commas"),
)
"""What stands between columns in other people's CSV files."""
