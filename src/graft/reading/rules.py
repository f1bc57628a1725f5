"""What every format shares: limits, problems with their place, and which text and values a row may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from graft.errors import shown
from graft.privacy import redact

LOOKED_AT_CHARACTERS = 2000
"""Of a text that a message shows the start of: far more than it shows, so that no value is cut before it is found."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read at most; see ``DataConfig``, whose fields these are."""

    max_line_bytes: int = 1 << 20
    max_depth: int = 16
    max_unpacked_bytes: int = 1 << 36
    max_unpacked_ratio: int = 1000


NULL, LACKING, EMPTY = "null", "nothing: this row lacks it", "an empty one, "
"""What is found where a value is missing; of an empty label the value follows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong at one place. ``field`` is the column of the file, empty where the whole line is meant."""

    place: str
    field: str
    expected: str
    found: str
    of_part: bool = False
    """Whether the whole file is meant, or what comes after the place: no single row can be left out."""
    has: str = ""
    """What rows with this problem have, where a sentence about many of them had better say that than what is expected:
    ``the text of a row of train``."""

    @property
    def is_missing(self) -> bool:
        """Whether a value that is needed is not there."""
        return self.found in (NULL, LACKING) or self.found.startswith(EMPTY)

    @property
    def asked(self) -> str:
        """What was expected of which field."""
        return f"{self.field}: {self.expected}" if self.field else self.expected

    def __str__(self) -> str:
        """Return the one-line message."""
        middle = f"{self.field}: " if self.field else ""
        return f"{self.place}: {middle}expected {self.expected}, found {self.found}"


class RowError(Exception):
    """A value or line cannot be read; ``line`` is set where it is not the line being read. Never leaves the reader."""

    def __init__(self, expected: str, found: str, *, field: str = "", line: int | str | None = None) -> None:
        super().__init__(expected, found)
        self.expected, self.found, self.field, self.line = expected, found, field, line


RawRow = tuple[str, dict[str, Any]]
"""A row's place and its values by column."""
Numbered = Iterator[tuple[int | str, dict[str, Any] | RowError]]
"""Rows as the readers of single formats give them: with what follows the file's name in the place."""

_KINDS: dict[type, str] = {
    bool: "the boolean",
    int: "the integer",
    float: "the number",
    str: "the string",
    list: "a list:",
    dict: "an object:",
}
_NUMBERS = re.compile(r":(\d+)(?::(\d+))?$")


def describe(value: Any) -> str:
    """Return what kind of JSON value ``value`` is, and the value, as :func:`excerpt`."""
    if value is None:
        return "null"
    return f"{_KINDS.get(type(value), type(value).__name__)} {excerpt(value)}"


def excerpt(value: Any) -> str:
    """Return a value of a row for a message: quoted, short, and without what is private in it."""
    given, _ = redact(value[:LOOKED_AT_CHARACTERS] if isinstance(value, str) else value)
    return shown(given)


def order_of(place: str) -> tuple[int, int]:
    """Return line and column of a place (0 where it has none), to sort the places of one file by."""
    found = _NUMBERS.search(place)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def file_of(place: str) -> str:
    """Return the file of a place."""
    return _NUMBERS.sub("", place)


def place_order(place: str) -> tuple[str, int, int]:
    """Return what the places of several files are sorted by: file, line, column."""
    return (file_of(place), *order_of(place))


def by_file(places: Iterable[str]) -> dict[str, list[str]]:
    """Return places by their files, those of a file in order."""
    found: dict[str, list[str]] = {}
    for place in sorted(places, key=place_order):
        found.setdefault(file_of(place), []).append(place)
    return found


def bad_header(names: list[str]) -> RowError | None:
    """Return what is wrong with the names of a table's columns."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if names and not twice:
        return None
    return RowError("a header with distinct columns", f"{excerpt(twice[0])} twice" if twice else "none")


def decode(content: bytes, unit: str = "line") -> str:
    """Return bytes as text; ``unit`` is what they are, for the message.

    Raises:
        RowError: they are not UTF-8, or hold a NUL.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise RowError(
            "UTF-8", f"the byte 0x{byte:02x} at byte {error.start + 1} of the {unit}; save it as UTF-8"
        ) from None
    if "\0" in text:
        at = "column" if unit == "line" else "character"
        raise RowError("text without NUL", f"a NUL at {at} {text.index(chr(0)) + 1}")
    return text


def refuse_ill_formed(value: Any, at: str) -> None:
    """Refuse strings that escapes made impossible: NUL and lone surrogates have no place in UTF-8 text.

    Raises:
        RowError: with the path of the string, from ``at`` on.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise RowError("text without NUL", "a NUL, written as \\u0000", field=at)
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise RowError("text that can be written as UTF-8", f"a lone surrogate, {excerpt(value)}", field=at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_ill_formed(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_ill_formed(key, at)
            refuse_ill_formed(item, f"{at}.{key}" if at else key)
