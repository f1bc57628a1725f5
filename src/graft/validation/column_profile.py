"""What the contract may say of a column that the task does not read: its type, its values, or the form they have.

A column whose values are numbers, but for few, is one of numbers. Of texts it is, in this order, the few forms that
they have where digits may be any (``37 patients``, ``empty``); the set of values, where there are few and each stands
in several rows; the few forms that they have where words may be any too (``7:10 a.m.``). A value or form that next to
no other row has is no rule, and is said.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from graft.config import nearest
from graft.data import NUMBER, DataConfig, Problem
from graft.errors import DataError, shown
from graft.privacy import masked
from graft.privacy.section import PrivacyConfig
from graft.quarantine import in_words
from graft.reading import describe, excerpt, read_rows
from graft.validation.contract import IN_SET, NOT_NULL
from graft.validation.outliers import is_rare_beside, misspellings

MOST_VALUES = 200
"""A column, or field of labels, with more values gets no set: nobody would edit it."""
MOST_FORMS, MOST_LOOSE_FORMS = 10, 4
VALUES_OF_A_FORM, ROWS_OF_A_VALUE = 3, 5
"""How many values have each form, and how many rows each value, on average at least."""
COUNTED = 20_000
"""A column with more values is not looked into further."""
NUMERIC_SHARE = 0.9
RARE_SHARE, COVERED_SHARE = 0.01, 0.9
"""A form that a smaller share of the rows has is no rule, and forms that do not cover so much of them are none."""
SHOWN = 5
"""How many values of a column that are not as the others are named."""
BETWEEN = "expect_column_values_to_be_between"
MATCHES = "expect_column_values_to_match_regex"
_DIGITS, _WORD, _SIGN = re.compile(r"[0-9]+"), re.compile(r"[^\W\d_]+"), re.compile(r"[\\.^$*+?{}()\[\]|]")
_CODE = re.compile(r"0[0-9]")
Type = Literal["string", "number"]


@dataclass
class ColumnProfile:
    """The values of one column of the part files."""

    name: str
    values: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    """Value -> the first row that has it."""
    numeric: int = 0
    rows: int = 0
    """How many rows have a value."""
    empty: int = 0
    codes: int = 0
    """How many values begin with a zero that a number would lose, as postal codes do."""
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """What is private is neither proposed nor shown."""
    bare: list[str] = field(default_factory=list)
    """Places of the numbers that are no text, which a column of texts refuses."""

    def add(self, place: str, value: Any) -> None:
        """Count one value; a row without one says nothing.

        Raises:
            DataError: it is neither a string nor a number.
        """
        if value is None or value == "":
            self.empty += 1
            return
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{place}: {self.name}: expected a string or a number, found {describe(value)}")
        self.rows += 1
        text = value if isinstance(value, str) else repr(value)
        self.numeric += _is_number(text)
        self.codes += bool(_CODE.match(text))
        self.bare += [] if isinstance(value, str) else [place]
        if len(self.values) <= COUNTED:
            self.values[text] += 1
            self.places.setdefault(text, place)

    @property
    def type(self) -> Type:
        """What nearly all of its values are."""
        numeric = self.rows and not self.codes and self.numeric >= NUMERIC_SHARE * self.rows
        return "number" if numeric else "string"

    def unreadable(self) -> Iterator[str]:
        """Yield what is to be said of values that the proposed type refuses: numbers among texts."""
        if self.type == "string" and (places := self.bare):
            where = f"{places[0]}, ..." if len(places) > 1 else places[0]
            yield f"a number without quotes in {in_words(len(places))} ({where}), which cannot be read as a string"

    @cached_property
    def private(self) -> dict[str, str]:
        """The values with private data, and what may be shown of them; to be asked once all values are there."""
        found = ((one, self.privacy.find(_whole(one))) for one in self.values)
        return {one: masked(_whole(one), kinds) for one, kinds in found if kinds}

    def expectations(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Yield what is true of the column in nearly all rows of the data, each with what of it is not."""
        if self.rows and not self.empty:
            yield {"type": NOT_NULL, "kwargs": {"column": self.name}}, []
        rule, others = self._rule()
        if rule:
            more = [f"{len(others) - SHOWN:,} more values like these"] if len(others) > SHOWN else []
            yield rule, [*others[:SHOWN], *more]

    def _rule(self) -> tuple[dict[str, Any] | None, list[str]]:
        if not self.rows or len(self.values) > COUNTED:
            return None, []
        if self.type == "number":
            return self._between()
        is_private = sum(map(self.values.__getitem__, self.private)) > (1 - COVERED_SHARE) * self.rows
        forms = self._forms(_DIGITS)
        if not is_private and self._is_covered(forms, MOST_FORMS) and len(self.values) >= VALUES_OF_A_FORM * len(forms):
            return self._matching(forms)
        slips = {one: of for one, of in misspellings(self.values).items() if self._is_slip(one, of)}
        kept = sorted(self.values.keys() - slips.keys() - self.private.keys())
        if not is_private and len(kept) <= MOST_VALUES and self.rows >= ROWS_OF_A_VALUE * len(kept):
            rare = [
                f"{self._said(one)}: left out, as {shown(of)} has {self.values[of]}"
                for one, of in slips.items()
                if one not in self.private and of not in self.private
            ]
            rare += [f"{self._said(one)}: left out, as it is private" for one in self.private]
            return {"type": IN_SET, "kwargs": {"column": self.name, "value_set": kept}}, sorted(rare)
        loose = self._forms(_DIGITS, _WORD)
        return self._matching(loose) if self._is_covered(loose, MOST_LOOSE_FORMS) else (None, [])

    def _between(self) -> tuple[dict[str, Any] | None, list[str]]:
        numbers = {one: float(one) for one in self.values if _is_number(one)}
        if numbers.keys() & self.private.keys():
            return None, []
        kwargs = {"column": self.name, "min_value": min(numbers.values()), "max_value": max(numbers.values())}
        others = sorted(f"{self._said(one)}: no number" for one in self.values if one not in numbers)
        return {"type": BETWEEN, "kwargs": kwargs}, others

    def _is_slip(self, value: str, other: str) -> bool:
        return is_rare_beside(self.values[value], self.values[other])

    def _said(self, value: str) -> str:
        count = self.values[value]
        more = "" if count == 1 else ", ..."
        return f"{shown(self.private.get(value, value))} in {in_words(count)} ({self.places[value]}{more})"

    def _forms(self, *free: re.Pattern[str]) -> dict[str, list[str]]:
        """Return the values by their form, a regular expression, without the forms that next to no row has."""
        found: dict[str, list[str]] = {}
        for value in self.values:
            if value in self.private and _WORD not in free:
                continue  # its letters would stand in the form
            found.setdefault(_form(value, free), []).append(value)
        fewest = RARE_SHARE * self.rows
        return {form: values for form, values in found.items() if sum(map(self.values.__getitem__, values)) >= fewest}

    def _is_covered(self, forms: Mapping[str, Sequence[str]], most: int) -> bool:
        """Say whether at most so many forms are those of nearly all rows."""
        rows = sum(self.values[one] for one in chain.from_iterable(forms.values()))
        return len(forms) <= most and rows >= COVERED_SHARE * self.rows

    def _matching(self, forms: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[str]]:
        kept = {*chain.from_iterable(forms.values())}
        regex = f"^(?:{'|'.join(sorted(forms))})$"
        rare = [f"{self._said(one)}: of another form" for one in self.values if one not in kept]
        return {"type": MATCHES, "kwargs": {"column": self.name, "regex": regex}}, sorted(rare)


def _is_number(text: str) -> bool:
    """Say whether a text is a number that a float can hold."""
    return bool(NUMBER.fullmatch(text.strip())) and math.isfinite(float(text))


def _whole(text: str) -> str:
    """Return a text as detectors read it: a whole number without decimals."""
    return text.strip().removesuffix(".0") if _is_number(text) else text


def _form(value: str, free: Sequence[re.Pattern[str]]) -> str:
    """Return a value as a regular expression in which runs of digits, and of letters if asked, may be any."""
    classes = dict(zip((_DIGITS, _WORD), (r"[0-9]+", r"[^\W\d_]+"), strict=True))
    pieces, at = list[str](), 0
    while at < len(value):
        for one in free:
            if found := one.match(value, at):
                pieces.append(classes[one])
                at = found.end()
                break
        else:
            pieces.append(_SIGN.sub(r"\\\g<0>", value[at]))
            at += 1
    return "".join(pieces)


def columns_profiled(
    folder: Path, files: Sequence[Path], names: Sequence[str], data: DataConfig
) -> dict[str, ColumnProfile]:
    """Return what the part files hold in some of their columns.

    Raises:
        DataError: no row has one of the columns, or it has neither strings nor numbers.
    """
    found, there = {name: ColumnProfile(name, privacy=data.privacy) for name in names}, dict[str, None]()
    for path in files:
        for one in read_rows(path, folder.parent, data.limits):
            if isinstance(one, Problem):
                continue
            place, values = one
            there |= dict.fromkeys(values)
            for name, profile in found.items():
                profile.add(place, values.get(name))
    for name in names:
        if name not in there:
            near = nearest(name, list(there))
            advice = f"; did you mean {shown(near)}?" if near else ""
            raise DataError(f"{folder.name}: no column {shown(name)}; there are {excerpt(', '.join(there))}{advice}")
    return found


def described(profiles: Mapping[str, ColumnProfile]) -> Iterator[str]:
    """Yield what each column holds, in words."""
    for name, one in profiles.items():
        many = f"more than {COUNTED:,}" if len(one.values) > COUNTED else f"{len(one.values):,}"
        private = sum(map(one.values.__getitem__, one.private))
        more = f", of which {private:,} have private data, of which nothing is proposed" if private else ""
        yield f"{name} (beside the task's columns): a {one.type}, {many} values in {one.rows:,} rows{more}"
