"""The flat columns of one part: what the contract's expectations are about, and where each row stands.

*Derived* columns (lengths, traces of damage) stand beside the fields' own where an expectation on the
value itself would be wrong, or would put text into its result.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from graft import filler
from graft.damage import expressions, measures, visible_characters
from graft.data import Problem, Record
from graft.errors import shown
from graft.languages import UNKNOWN, languages
from graft.privacy.section import PrivacyConfig
from graft.tasks import Field
from graft.validation.data_profile import DataProfile, profile_of

if TYPE_CHECKING:
    import polars as pl


class Frame:
    """The flat columns of one part, and where each of its rows stands."""

    def __init__(
        self,
        fields: Sequence[Field],
        privacy: PrivacyConfig | None = None,
        languages: Sequence[str] = (),
        placeholders: Sequence[str] = (),
        *,
        hides: PrivacyConfig | None = None,
    ) -> None:
        """``privacy`` finds private data, ``languages`` are those expected; without them there is no such column.

        ``placeholders`` are looked for by an expectation of their own, so they do not count as filler too. ``hides``:
        what no problem shows, also where it is not looked for.
        """
        self.fields, self.privacy, self.languages, self.hides = fields, privacy, languages, hides
        self.placeholders = placeholders
        self.places: list[str] = []
        self.refused: set[str] = set()
        self.missing: dict[str, set[str]] = defaultdict(set)
        """Column of the files -> the places of refused rows that have no value there."""
        self.columns: dict[str, list[Any]] = defaultdict(list)
        self.texts: dict[str, list[list[str] | None]] = {field.name: [] for field in fields if field.text}
        """Text field -> the texts of each row."""
        self.listed: dict[str, list[list[str] | None]] = {
            field.name: []
            for field in fields
            if field.target and not field.text and field.type in ("labels", "strings")
        }
        """Field of several labels or tags -> those of each row."""
        self.said: dict[tuple[str, int], str] = {}
        """Column and row number -> what is found there, in words, where its value does not say it."""

    def add(self, record: Record) -> None:
        """Add a readable row."""
        self.places.append(record.place)
        self.columns[REFUSED].append(0)
        for field in self.fields:
            self._add_value(field, record.row[field.name])

    def _add_value(self, field: Field, value: Any) -> None:
        items = texts_of(value)
        if field.type in LISTS:
            self.columns[f"{field.name} (items)"].append(None if value is None else len(items))
        elif field.type == "image":
            self.columns[field.name].append(None if value is None else f"{len(value)} bytes")
        else:
            self.columns[field.name].append(value)
        if field.name in self.listed:
            self.listed[field.name].append(None if value is None else items)
        if field.text:
            visible = [None if value is None else min(map(visible_characters, items), default=0)]
            self.columns[f"{field.name} (visible characters)"] += visible
            self.columns[f"{field.name} (characters)"].append(None if value is None else sum(map(len, items)))
            self.texts[field.name].append(None if value is None else items)
            if self.privacy:
                self._add_private(field, None if value is None else _searched(field, items), self.privacy)

    def _add_private(self, field: Field, texts: Sequence[str] | None, privacy: PrivacyConfig) -> None:
        column = f"{field.name} ({PRIVATE})"
        kinds = Counter(one.kind for text in texts or () for one in privacy.find(text))
        self.columns[column].append(None if texts is None else kinds.total())
        if kinds:
            self.said[column, len(self.places) - 1] = ", ".join(f"{count} {kind}" for kind, count in kinds.items())

    def without_private(self, problem: Problem) -> Problem:
        """Return a problem whose words show nothing of what is private in its row, whole or cut short."""
        if self.hides is None:
            return problem
        values = list(self._private(problem.place, self.hides))
        expected, found = (_hidden(text, values, self.hides) for text in (problem.expected, problem.found))
        return replace(problem, expected=expected, found=found)

    def _private(self, place: str, privacy: PrivacyConfig) -> Iterator[tuple[str, str]]:
        """Yield kind and value of what is private in the texts of a row."""
        row = self._numbers.get(place)
        for field in self.fields:
            texts = self.texts[field.name][row] if field.text and row is not None else None
            for text in _searched(field, texts or []):
                yield from ((one.kind, text[one.start : one.end]) for one in privacy.find(text))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each row by its place, once all are there."""
        return {place: number for number, place in enumerate(self.places)}

    def refuse(self, problem: Problem) -> None:
        """Add a row that the reader refused, for one of its problems: it has a place and no values."""
        place = problem.place
        if problem.is_missing:
            self.missing[problem.field].add(place)
        if place in self.refused:
            self.columns[REFUSED][-1] |= int(not problem.is_missing)
            return
        self.refused.add(place)
        self.places.append(place)
        self.columns[REFUSED].append(int(not problem.is_missing))
        for field in self.fields:
            for name in (*columns_of(field), *([f"{field.name} ({PRIVATE})"] if field.text and self.privacy else [])):
                self.columns[name].append(None)
            if field.text:
                self.texts[field.name].append(None)
            if field.name in self.listed:
                self.listed[field.name].append(None)

    def profile(self, without: Collection[str]) -> DataProfile:
        """Return what the rows are made of, ``without`` those at some places."""
        kept = [place not in without for place in self.places]
        return profile_of(self.fields, {**self.columns, **self.listed}, self.texts, kept)

    def absent(self) -> list[str]:
        """Return the fields that need no value and have none in any row."""
        mains = {field.name: next(columns_of(field)) for field in self.fields if not field.required}
        return [name for name, main in mains.items() if all(one is None for one in self.columns[main])]

    def table(self) -> pl.DataFrame:
        """Return the columns with the types that the fields have."""
        import polars as pl

        types: dict[str, Any] = dict.fromkeys(self.columns, pl.Int64)
        types |= {field.name: pl.Float64 if field.type == "number" else pl.String for field in self.fields}
        found = pl.DataFrame(
            {name: pl.Series(values, dtype=types[name], strict=False) for name, values in self.columns.items()}
        )
        return found.with_columns(column for name in self.texts for column in self._measured(name))

    def _measured(self, name: str) -> Iterator[pl.Series]:
        """Yield what is measured of a text field's whole column."""
        import polars as pl

        texts, rows = self._flat(name)
        counts = texts.to_frame().lazy().select(**expressions("text", filler.measures())).collect()
        known = texts.is_in(list(self.placeholders))
        placeholders = counts[filler.PLACEHOLDERS].set(known, 0)
        further = filler.repetitions(texts).alias(filler.REPEATED), filler.encodings(texts).alias(filler.ENCODED)
        counts = counts.with_columns(placeholders, *further)
        for kind, chosen in KINDS.items():
            total = counts.select(pl.sum_horizontal(chosen).alias("total")).to_series()
            places = (total > 0).arg_true()
            self._say(f"{name} ({kind})", rows.gather(places), counts.select(chosen)[places], texts.gather(places))
            summed = pl.Series([None if one is None else 0 for one in self.texts[name]], dtype=pl.Int64)
            found = pl.DataFrame({"row": rows.gather(places), "total": total.gather(places)}).group_by("row").sum()
            yield summed.scatter(found["row"], found["total"].cast(pl.Int64)).alias(f"{name} ({kind})")
        if self.languages:
            yield pl.Series(f"{name} ({FOREIGN})", list(self._foreign(name)), dtype=pl.Int64)

    def _flat(self, name: str) -> tuple[pl.Series, pl.Series]:
        """Return the texts of a field one after the other, and the row of each; words of a list are one text."""
        import polars as pl

        words = next(field for field in self.fields if field.name == name).type == "strings"
        given = ((row, texts) for row, texts in enumerate(self.texts[name]) if texts is not None)
        flat = [(row, text) for row, texts in given for text in (["\n".join(texts)] if words else texts)]
        rows, found = zip(*flat, strict=True) if flat else ((), ())
        return pl.Series("text", found, dtype=pl.String), pl.Series("row", rows, dtype=pl.UInt32)

    def _say(self, column: str, rows: pl.Series, counts: pl.DataFrame, texts: pl.Series) -> None:
        """Put into words what is counted in some texts: how often, and the first place of it."""
        said: dict[int, dict[str, tuple[int, str]]] = defaultdict(dict)
        for measure in counts.columns:
            here = (counts[measure] > 0).arg_true()
            pattern = PATTERNS.get(measure)
            chosen = texts.gather(here)
            first = chosen.str.extract(f"({pattern})").fill_null("") if pattern else chosen
            for row, count, place in zip(rows.gather(here), counts[measure].gather(here), first, strict=True):
                before, at = said[row].get(measure, (0, place))
                said[row][measure] = before + count, at
        for row, found in said.items():
            words = ", ".join(_counted(count, measure) for measure, (count, _) in found.items())
            self.said[column, row] = f"{words}, as in {_excerpt(next(at for _, at in found.values()))}"

    def _foreign(self, name: str) -> Iterator[int | None]:
        """Yield how many texts of each row are in none of the languages expected."""
        flat = (text for texts in self.texts[name] for text in texts or ())
        answers = (language for language, _ in languages(flat))
        for row, texts in enumerate(self.texts[name]):
            others = [one for one in islice(answers, len(texts or ())) if one not in (*self.languages, UNKNOWN)]
            if others:
                self.said[f"{name} ({FOREIGN})", row] = ", ".join(sorted(set(others)))
            yield None if texts is None else len(others)


def _counted(count: int, measure: str) -> str:
    """Return ``2 NULs``, ``1 word of two scripts``; of what has no plural ``HTML``, ``HTML in 2 places``."""
    one = re.sub("s(?= of | for |$)", "", measure, count=1)
    if one == measure:
        return measure if count == 1 else f"{measure} in {count} places"
    return f"{count} {one if count == 1 else measure}"


def _hidden(text: str, values: Sequence[tuple[str, str]], privacy: PrivacyConfig) -> str:
    """Return the words of a message without these values (kind and value), and without what else is private."""
    for kind, value in values:
        for length in range(len(value), SHOWN_START - 1, -1):
            text = text.replace(value[:length], f"<{kind.upper()}>")
    return privacy.in_message(text)


def _searched(field: Field, texts: Sequence[str]) -> Sequence[str]:
    """Return the texts in which private data is looked for: the words of one text are that text."""
    return [" ".join(texts)] if field.words and texts else texts


def texts_of(value: Any) -> list[Any]:
    """Return the items of a field's value; of messages what they say."""
    return [one["content"] if isinstance(one, dict) else one for one in _items(value)]


def _items(value: Any) -> list[Any]:
    """Return the items of a value that is a list, or holds one; any other value is its own only item."""
    if isinstance(value, dict):
        return list(value["text"])
    return value if isinstance(value, list) else [value]


LISTS = ("strings", "labels", "messages", "answers")
FILLED_LISTS = ("strings", "messages")
"""Lists that say nothing where they are empty; a row may have no label, and a question no answer."""
REFUSED = "rows that cannot be read"
PRIVATE = "private data"
FOREIGN = "other languages"
_MARKUP = ("HTML", "broken references", "style and script")
_MARKERS = ("role markers",)
KINDS = {
    "encoding": tuple(one.name for one in measures() if one.name not in _MARKUP),
    "markup": _MARKUP,
    "filler": (
        *(one.name for one in filler.measures() if one.name not in _MARKERS),
        *(filler.ENCODED, filler.REPEATED),
    ),
    "markers": _MARKERS,
}
"""What is wrong with texts, by the measures that each kind is made of."""
PATTERNS = {one.name: one.pattern for one in (*measures(), *filler.measures())} | {filler.ENCODED: filler.LONG_RUN}
EXCERPT_CHARACTERS = 24
SHOWN_START = 4
"""The shortest start of a private value that would tell something."""


def columns_of(field: Field) -> Iterator[str]:
    """Yield the columns of a field: the first is its own, or how many items it has."""
    yield f"{field.name} (items)" if field.type in LISTS else field.name
    if field.text:
        yield from (f"{field.name} (visible characters)", f"{field.name} (characters)")


def _excerpt(text: str) -> str:
    return shown(text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}…")
