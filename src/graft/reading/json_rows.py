"""JSONL, and JSON with one array of objects, under the same rules: each row is bytes first, then one strict object.

An array is cut into its elements here, by brackets and quotes alone, and each element goes through the parser of a
line: so both formats accept the same values, memory is bounded by the longest element, and a broken element does not
hide those behind it. A streaming parser (ijson 3.6 on yajl was tried) gives no place, takes a repeated key and a NUL,
turns a lone surrogate into a question mark, and ends at the first error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from graft.errors import shown
from graft.reading.opening import CHUNK_BYTES, opened, skip_bom
from graft.reading.rules import Limits, Numbered, RowError, decode, describe, excerpt, refuse_ill_formed


def read_jsonl(path: Path, limits: Limits, _binary: frozenset[str]) -> Numbered:
    """Yield the objects of a JSONL file, each with its line."""
    with opened(path, limits) as file:
        for line, content in lines(file, limits.max_line_bytes):
            try:
                yield line, _parse(content, limits.max_depth) if isinstance(content, bytes) else content
            except RowError as error:
                yield line, error


def lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | RowError]]:
    """Yield the lines of a file with their numbers; an overlong one is passed over without being held in memory."""
    skip_bom(file)
    number = 0
    while content := file.readline(limit + 2):
        number += 1
        if len(content.rstrip(b"\r\n")) <= limit:
            yield number, content
            continue
        while content and not content.endswith(b"\n"):
            content = file.readline(CHUNK_BYTES)
        yield number, RowError(f"a line of at most {limit} bytes (data.max_line_bytes)", "a longer one")


# -- one object


def _parse(content: bytes, max_depth: int, unit: str = "line") -> dict[str, Any]:
    """Return the JSON object of a line or element; nothing is parsed before its depth is known."""
    text = decode(content, unit)
    if text.count("[") + text.count("{") > max_depth and _depth(text) > max_depth:
        raise RowError(f"JSON nested at most {max_depth} deep (data.max_depth)", "deeper nesting")
    expected = "one JSON object per line" if unit == "line" else "a JSON object"
    try:
        value = DECODER.decode(text.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        if not text.strip():
            raise RowError(expected, "an empty line; remove it") from None
        at = "column" if unit == "line" else "character"
        at = f"line {error.lineno} of the element, column" if error.lineno > 1 else at
        raise RowError(expected, f"broken JSON at {at} {error.colno} ({error.msg})") from None
    except ValueError as error:
        raise RowError("JSON that can be read", str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise RowError(expected, describe(value))
    if "\\u" in text:
        refuse_ill_formed(value, "")
    return value


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets outside strings."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError("each key once", f"the key {excerpt(twice)} twice", field=twice)
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RowError("finite numbers", shown(text))
    return value


def _constant(text: str) -> None:
    raise RowError("JSON values (null where there is none)", text)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_constant)


# -- an array of objects


def read_json(path: Path, limits: Limits, _binary: frozenset[str]) -> Numbered:
    """Yield the objects of a JSON file, each with the line where it starts.

    Where another one starts on that line before it, the column (in characters, from 1) is added: ``1:57``.

    Raises:
        RowError: the file is no array, ends within it, or goes on after it.
    """
    last = 0
    with opened(path, limits) as file:
        for (line, column), content in _Elements(file, limits.max_line_bytes):
            place = line if line > last else f"{line}:{column}"
            last = line
            try:
                yield place, _parse(content, limits.max_depth, "element") if isinstance(content, bytes) else content
            except RowError as error:
                yield place, error


_SPACE = b" \t\r\n"
_FILLED = re.compile(rb"[^ \t\r\n]")
_MARK = re.compile(rb'["\[\]{},]')
_BRACKET = re.compile(rb'["\[\]{}]')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
"""The rest of a string behind its opening quote; possessive, so that no file makes it go back."""
_CONTINUED = bytes(range(0x80, 0xC0))
_ARRAY = "one array of objects"


class _Elements:
    """The elements of the array in a file: where each starts (line, column), and its bytes.

    One that is longer than ``limit`` is passed over without being held in memory.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.limit = file, limit
        self.chunk, self.at = b"", 0
        self.line, self.column = 1, 1
        self.held: list[bytes] = []
        self.size = 0

    def __iter__(self) -> Iterator[tuple[tuple[int, int], bytes | RowError]]:
        skip_bom(self.file)
        first = self._next_filled()
        if not first and (self.line, self.column) == (1, 1):
            return  # not a byte
        if first != b"[":
            raise RowError(_ARRAY, _instead(first), line=self.line)
        self._pass(1)
        closed = self._next_filled() == b"]"
        if closed:
            self._pass(1)
        while not closed:
            start = self.line, self.column
            closed = self._element()
            content = self._taken()
            self._pass(1)
            yield start, content
            if not closed:
                self._next_filled()
        if rest := self._next_filled():
            where = f"{self.line}:{self.column}"
            raise RowError("nothing after the array", excerpt(rest.decode("latin-1")), line=where)

    def _more(self) -> bool:
        """Read on once the chunk is used up; say whether there is anything."""
        if self.at >= len(self.chunk):
            self.chunk, self.at = self.file.read(CHUNK_BYTES), 0
        return bool(self.chunk)

    def _pass(self, size: int) -> bytes:
        """Go on by ``size`` bytes of the chunk and return them."""
        passed = self.chunk[self.at : self.at + size]
        self.at += size
        broken = passed.count(b"\n")
        self.line += broken
        tail = passed[passed.rindex(b"\n") + 1 :] if broken else passed
        self.column = (1 if broken else self.column) + len(tail.translate(None, _CONTINUED))
        return passed

    def _hold(self, size: int) -> None:
        """Go on by ``size`` bytes that belong to the element."""
        passed = self._pass(size)
        self.size += len(passed)
        if self.size <= self.limit + len(_SPACE):
            self.held.append(passed)
        else:
            self.held.clear()

    def _next_filled(self) -> bytes:
        """Go on to the next byte that is no white space and return it, without passing it; empty at the end."""
        while self._more():
            found = _FILLED.search(self.chunk, self.at)
            self._pass((found.start() if found else len(self.chunk)) - self.at)
            if found:
                return found[0]
        return b""

    def _element(self) -> bool:
        """Hold the bytes up to the comma or bracket that ends the element; say whether it was the bracket."""
        depth = 0
        while self._more():
            mark = (_BRACKET if depth else _MARK).search(self.chunk, self.at)
            if mark is None:
                self._hold(len(self.chunk) - self.at)
                continue
            if not depth and mark[0] in b",]":
                self._hold(mark.start() - self.at)
                return mark[0] == b"]"
            self._hold(mark.end() - self.at)
            if mark[0] == b'"':
                self._string()
            else:
                depth = max(depth + (1 if mark[0] in b"[{" else -1), 0)
        raise RowError("the end of the array", "the end of the file: it is cut off", line=self.line)

    def _string(self) -> None:
        """Hold the rest of a string."""
        while self._more():
            found = _STRING.match(self.chunk, self.at)
            if found:
                self._hold(found.end() - self.at)
                return
            rest = self.chunk[self.at :]
            self._hold(len(rest))
            if (len(rest) - len(rest.rstrip(b"\\"))) % 2 and self._more():
                self._hold(1)  # what the last backslash escapes

    def _taken(self) -> bytes | RowError:
        """Return the element that was held, and hold none."""
        content, size = b"".join(self.held).rstrip(_SPACE), self.size
        self.held, self.size = [], 0
        if len(content) > self.limit or (size and not content):
            return RowError(f"an element of at most {self.limit} bytes (data.max_line_bytes)", "a longer one")
        return content or RowError("a JSON object", "nothing: a comma too many")


def _instead(first: bytes) -> str:
    """Return what a file that starts with ``first`` is, for the message."""
    if first == b"{":
        return "an object; where each line is one, it is JSONL: name it .jsonl"
    return f"{excerpt(first.decode('latin-1'))} at the start" if first else "white space alone"
