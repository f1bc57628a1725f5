"""Private data in texts: where it is, the same text without it, and what of a text may be shown.

Found are e-mail addresses, phone numbers, payment cards, IBANs, national ids, IP addresses, and keys and tokens: what
has a form. Names, street addresses and birth dates have none; finding them takes a model for each language (Presidio
with spaCy's, which must be downloaded), so they are left to people.

A text without anything is the usual case and costs four scans by small patterns (a run of digits, a long word, ``@``,
colons); the detectors run only on what those let through. Precision goes before recall where a false alarm would be
common: plain digits need a check digit, and a word beside them where one in ten passes. Each detector says its rules.

Values of one kind do not overlap; of two kinds the more specific one wins, in the order of ``_PRECEDENCE``. The search
goes on in the rest of the text until it finds no more, which is why a redacted text has nothing found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from graft.privacy import accounts, contacts, credentials
from graft.privacy.context import BLANK, Span
from graft.privacy.national_ids import national_ids

Kind = Literal["email", "phone", "card", "iban", "national_id", "ip", "secret"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REGIONS = ("US", "GB", "DE", "FR", "CN")
"""Whose ways of writing phone numbers without a country code are known, unless said otherwise (ISO 3166 alpha-2)."""
LARGEST_NUMBER = 10**40
"""No number that identifies somebody is as large; to spell a far larger one takes long, or is refused by Python."""
_PRECEDENCE = ("secret", "email", "iban", "national_id", "card", "ip", "phone")


@dataclass(frozen=True, slots=True)
class Found:
    """One private value: its kind, the rule that found it, and where it is, in characters; never the value itself."""

    kind: str
    rule: str
    start: int
    end: int


_PLACEHOLDER = re.compile(rf"<({'|'.join(kind.upper() for kind in KINDS)})(?:_([0-9]+))?>")
_UNUSUAL = re.compile(
    "[\u00a0\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u2000-\u200a\u2010-\u2015\u202f\u2212\u3000"
    "\uff08\uff09\uff0b\uff0d\uff0e\uff10-\uff19\uff20-\uff3a\uff41-\uff5a]"
)
_DIGITS = re.compile(
    r"[0-9](?:(?:[ ./()\-]{0,3}[0-9]){5}|[0-9]{0,2}(?:\.[0-9]{1,3}){3}|[0-9]{3}[A-Z]|[0-9] ?[A-Za-z]{4} ?[0-9]{3})"
)
_LONG = re.compile(r"[A-Za-z0-9_\-+/=]{16}")
_LETTERS = re.compile(r"[A-Za-z]{4}[0-9]{2}")
_COLONS = re.compile(r"[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:")


def find(text: str, kinds: Sequence[str] = KINDS, regions: Sequence[str] = REGIONS) -> list[Found]:
    """Return what is private in a text, in its order and without overlaps.

    Args:
        text: Any text; digits and signs of other scripts (full-width, Arabic-Indic) are read as ASCII's.
        kinds: Which of ``KINDS`` to look for.
        regions: Countries (ISO 3166 alpha-2) whose phone numbers are known without a country code.
    """
    if not kinds:
        return []
    rest = text if text.isascii() else _UNUSUAL.sub(_as_ascii, text)
    if "<" in rest:
        rest = _PLACEHOLDER.sub(_blank, rest)
    found: list[Found] = []
    while more := _one_pass(rest, kinds, regions):
        found += more
        rest = _replaced(rest, ((one, BLANK * (one.end - one.start)) for one in more))
    return sorted(found, key=lambda one: one.start) if found else found


def _one_pass(text: str, kinds: Sequence[str], regions: Sequence[str]) -> list[Found]:
    """Return what is found in a text as it stands: of values that overlap, the first by precedence and place."""
    spans = sorted(
        (_PRECEDENCE.index(kind), start, -end, kind, rule)
        for kind, (rule, start, end) in _candidates(text, regions)
        if kind in kinds
    )
    taken, found = bytearray(len(text) if spans else 0), list[Found]()
    for _, start, minus_end, kind, rule in spans:
        end = -minus_end
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            found.append(Found(kind, rule, start, end))
    return found


def _candidates(text: str, regions: Sequence[str]) -> Iterator[tuple[str, Span]]:
    """Yield kind and span of what the detectors find; each runs only where the text has what it needs."""
    at = "@" in text
    if at and "://" in text:
        yield from _of("secret", credentials.in_urls(text))
    if at or "%40" in text or "at]" in text or "at)" in text:
        yield from _of("email", contacts.emails(text))
    long = _LONG.search(text) is not None
    if long:
        yield from _of("secret", credentials.issued(text))
        yield from _of("secret", credentials.named(text))
    digits = _DIGITS.search(text) is not None
    if digits or (long and _LETTERS.search(text)):
        yield from _of("national_id", national_ids(text))
    if digits:
        yield from _of("iban", accounts.ibans(text))
        yield from _of("card", accounts.cards(text))
        yield from _of("phone", contacts.phones(text, regions))
    if digits or _COLONS.search(text):
        yield from _of("ip", contacts.ip_addresses(text))


def _of(kind: str, spans: Iterable[Span]) -> Iterator[tuple[str, Span]]:
    return ((kind, span) for span in spans)


def _as_ascii(sign: re.Match[str]) -> str:
    """Return the ASCII character that a sign of another script stands for; always one, so that offsets hold."""
    code = ord(sign[0])
    if 0xFF00 < code < 0xFF5F:
        return chr(code - 0xFEE0)
    if sign[0].isdigit():
        return str(int(sign[0]))
    return " " if sign[0].isspace() else "-"


def _blank(match: re.Match[str]) -> str:
    return BLANK * len(match[0])


def masked(text: str, found: Iterable[Found]) -> str:
    """Return what may be shown of a text: each value replaced by its kind, as in ``write to <EMAIL>``."""
    return _replaced(text, ((one, f"<{one.kind.upper()}>") for one in found))


def _replaced(text: str, replacements: Iterable[tuple[Found, str]]) -> str:
    pieces, end = [], 0
    for one, by in sorted(replacements, key=lambda pair: pair[0].start):
        pieces += [text[end : one.start], by]
        end = one.end
    return "".join([*pieces, text[end:]])


_CUT = re.compile(r"…|\.\.\.")


def in_message(text: str, kinds: Sequence[str] = KINDS, regions: Sequence[str] = REGIONS) -> str:
    """Return what a message may say of values that it shows: each private one by its kind.

    Where values were cut short (``…``), the word and the digits at the cut go too: no detector finds half a value.
    """
    if not kinds:
        return text
    shown, *rest = _CUT.split(masked(text, find(text, kinds, regions)))
    for piece in rest:
        before = shown[: shown.rfind(" ") + 1].rstrip("0123456789 ().+/-")
        _, space, after = piece.partition(" ")
        shown = f"{before}…{space}{after}"
    return shown


@dataclass(frozen=True)
class Redaction:
    """The placeholders of one row: the same value has the same one in all of its texts."""

    replacements: Mapping[str, Sequence[tuple[Found, str]]]
    """Text -> what is private in it, in its order, with the placeholder; texts without anything are absent."""
    counts: Counter[str]
    """How many values of each kind the row has."""

    @classmethod
    def of(cls, value: Any, kinds: Sequence[str] = KINDS, regions: Sequence[str] = REGIONS) -> Redaction:
        """Return the placeholders for a row's texts (``value``: a text, or lists and mappings of them), as they come.

        Values are the same however they are grouped or capitalised; secrets are told apart by each character.
        Placeholders that the row has already keep their number.
        """
        texts = list(_texts(value))
        found = {text: spans for text in texts if (spans := find(text, kinds, regions))}
        if not found:
            return cls({}, Counter())
        used = {(match[1], match[2]) for text in texts if "<" in text for match in _PLACEHOLDER.finditer(text)}
        names: dict[tuple[str, str], str] = {}
        for text, spans in found.items():
            for one in spans:
                key = one.kind, _identity(one, text)
                if key not in names:
                    names[key] = _next_name(one.kind.upper(), used)
        named = {text: [(one, names[one.kind, _identity(one, text)]) for one in spans] for text, spans in found.items()}
        return cls(named, Counter(kind for kind, _ in names))

    def applied(self, value: Any, *, keys: bool = False) -> Any:
        """Return a text, or lists and mappings of texts, with the placeholders; ``keys``: of mappings in keys too."""
        if not self.replacements:
            return value
        if isinstance(value, str):
            return _replaced(value, self.replacements.get(value, ()))
        if isinstance(value, Mapping):
            return {self.applied(key) if keys else key: self.applied(one, keys=keys) for key, one in value.items()}
        return [self.applied(one, keys=keys) for one in value] if isinstance(value, list | tuple) else value

    def moved(self, text: str, start: int, end: int) -> tuple[int, int]:
        """Return where characters ``start`` to ``end`` of a text stand after it was redacted.

        A span that holds part of a value holds its whole placeholder.
        """
        shift_start = shift_end = 0
        for one, placeholder in self.replacements.get(text, ()):
            longer = len(placeholder) - (one.end - one.start)
            if one.end <= start:
                shift_start += longer
            elif one.start < start:
                shift_start += one.start - start
            if one.end <= end:
                shift_end += longer
            elif one.start < end:
                shift_end += one.start + len(placeholder) - end
        return start + shift_start, end + shift_end

    def of_words(self, words: Sequence[str]) -> list[str]:
        """Return the words of a text (which are its parts between spaces) with placeholders, as many as before.

        Of a value that spans several words, each becomes its placeholder: tags of words stay where they are.
        """
        replacements = self.replacements.get(" ".join(words), ())
        found, start = [], 0
        for word in words:
            inside = [
                (Found(one.kind, one.rule, max(one.start - start, 0), min(one.end - start, len(word))), placeholder)
                for one, placeholder in replacements
                if one.start < start + len(word) and one.end > start
            ]
            found.append(_replaced(word, inside))
            start += len(word) + 1
        return found


def redact(value: Any, kinds: Sequence[str] = KINDS, regions: Sequence[str] = REGIONS) -> tuple[Any, Counter[str]]:
    """Return what may be shown of a row: with typed placeholders (``<EMAIL_1>``), and how many values of each kind.

    Args:
        value: Any JSON value, such as a row by its columns; keys and whole numbers are searched as texts are.
        kinds: As in ``find``.
        regions: As in ``find``.
    """
    given = _spelt(value, kinds, regions)
    found = Redaction.of([given, *_keys(given)], kinds, regions)
    return found.applied(given, keys=True), found.counts


def _spelt(value: Any, kinds: Sequence[str], regions: Sequence[str]) -> Any:
    """Return a JSON value with the digits of each whole number that is private in place of it."""
    if isinstance(value, Mapping):
        return {key: _spelt(one, kinds, regions) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spelt(one, kinds, regions) for one in value]
    is_whole = (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )
    if is_whole and abs(value) < LARGEST_NUMBER and find(digits := str(int(value)), kinds, regions):
        return digits
    return value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (key for key in value if isinstance(key, str))
        for one in value.values():
            yield from _keys(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _keys(one)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _identity(one: Found, text: str) -> str:
    """Return what makes two values the same."""
    written = text[one.start : one.end]
    if one.kind == "secret":
        return written
    if one.kind in ("email", "ip"):
        return written.casefold()
    return "".join(sign for sign in _UNUSUAL.sub(_as_ascii, written).casefold() if sign.isalnum())


def _next_name(kind: str, used: set[tuple[str, str]]) -> str:
    number = 1
    while (kind, str(number)) in used:
        number += 1
    used.add((kind, str(number)))
    return f"<{kind}_{number}>"
