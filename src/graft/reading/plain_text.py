"""Plain text: a row for each line, paragraph or file, as the caller says; nothing in a text tells which is meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from graft.reading.json_rows import lines
from graft.reading.opening import opened
from graft.reading.rules import Limits, Numbered, RowError, decode

Unit = Literal["line", "paragraph", "file"]
COLUMN = "text"


def read_text(path: Path, limits: Limits, unit: Unit) -> Numbered:
    """Yield the texts of a file, each with its first line, in the column ``text``.

    The line end behind a text is no part of it. Lines of white space alone are no rows; they end a paragraph.
    """
    with opened(path, limits) as file:
        for number, content in {"line": _lines, "paragraph": _paragraphs, "file": _whole}[unit](file, limits):
            try:
                yield number, content if isinstance(content, RowError) else {COLUMN: decode(content, unit)}
            except RowError as error:
                yield number, error


Texts = Iterator[tuple[int, bytes | RowError]]


def _lines(file: BinaryIO, limits: Limits) -> Texts:
    for number, content in lines(file, limits.max_line_bytes):
        if isinstance(content, RowError):
            yield number, content
        elif content.strip():
            yield number, _without_end(content)


def _paragraphs(file: BinaryIO, limits: Limits) -> Texts:
    held, size, first = list[bytes](), 0, 0
    for number, content in lines(file, limits.max_line_bytes):
        if isinstance(content, RowError):
            yield number, content
        elif content.strip():
            first = first if size else number
            size += len(content)
            if size <= limits.max_line_bytes:
                held.append(content)
            else:
                held.clear()
            continue
        if size:
            yield first, _joined(held, "paragraph", limits)
        held, size = [], 0
    if size:
        yield first, _joined(held, "paragraph", limits)


def _whole(file: BinaryIO, limits: Limits) -> Texts:
    held, size = list[bytes](), 0
    for _, content in lines(file, limits.max_line_bytes):
        if isinstance(content, RowError) or (size := size + len(content)) > limits.max_line_bytes:
            yield 1, _joined([], "file", limits)
            return
        held.append(content)
    if any(content.strip() for content in held):
        yield 1, _joined(held, "file", limits)


def _joined(held: list[bytes], unit: str, limits: Limits) -> bytes | RowError:
    if not held:
        return RowError(f"a {unit} of at most {limits.max_line_bytes} bytes (data.max_line_bytes)", "a longer one")
    return _without_end(b"".join(held))


def _without_end(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r")
