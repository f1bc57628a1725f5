"""Rows that are kept aside: left out of training and of every score, but not lost.

A folder (``artifacts/quarantine`` of validate, ``artifacts/tokens/quarantine`` of tokenize) has a JSON line for each of
them, with its place, the reasons and the row with the columns of its file, in a file called like the part. Which they
are stands in the verdict and in the token tables' manifest; later stages leave them out by their places.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.cleaning import redacted
from graft.data import DataConfig, Problem, Schema, part_files, rows_at
from graft.privacy.section import PrivacyConfig
from graft.reading import names_of, place_order
from graft.workspace import write_json

if TYPE_CHECKING:
    from graft.tasks import Field

Severity = Literal["fail", "quarantine", "warn", "ignore"]
"""What follows where a row breaks a check: the chain stops; the row is kept aside and left out; it is reported."""
NAMED_PLACES = 5
"""How many rows a message or a warning names."""
NAMED_REASONS = 3
PATH_CHARACTERS = 4096
"""Longer text in a column of pictures is a picture itself, as a data URI."""


@dataclass
class Quarantine:
    """The rows of a data set that are kept aside, and why."""

    root: Path
    fields: Sequence[Field]
    data: DataConfig
    places: set[str] = field(default_factory=set)
    parts: dict[tuple[str, Path], dict[str, list[Problem]]] = field(default_factory=lambda: defaultdict(dict))
    """The problems of each place, by split and part file."""
    rows: dict[str, Any] = field(default_factory=dict)
    """The rows by their places, as far as they are known."""
    _names: dict[Path, dict[Path, str]] = field(default_factory=dict)
    """What each part of a folder is called."""

    def add(self, split: str, part: Path, problems: Sequence[Problem], rows: Mapping[str, Any] | None = None) -> None:
        """Keep the rows aside that these problems name; those that ``rows`` does not have are read when written."""
        self.rows.update(rows or {})
        for one in problems:
            self.parts[split, part].setdefault(one.place, []).append(one)
            self.places.add(one.place)

    def counts(self) -> Counter[str]:
        """Return how many rows of each split are kept aside."""
        found: Counter[str] = Counter()
        for (split, _), rows in self.parts.items():
            found[split] += len(rows)
        return found

    def problems(self, split: str, kept: int, most: float, data: str) -> Iterator[Problem]:
        """Yield the problem of a split with more than a share of ``most`` of its rows here, beside ``kept`` others."""
        rows = (rows for (name, _), rows in self.parts.items() if name == split)
        setting = "validation.max_quarantined_share"
        yield from too_many(f"{data}/{split}", rows, self.counts()[split], kept, most, setting)

    def described(self) -> Iterator[str]:
        """Yield a line for each split that has rows here."""
        for split, count in self.counts().items():
            yield f"{split}: {in_words(count)} in quarantine"

    def write(self, folder: Path) -> None:
        """Write ``<split>/<part>.jsonl`` for each part that has rows here, and ``summary.json`` in any case."""
        write_json(folder / "summary.json", {"rows": dict(self.counts())})
        for (split, part), problems in self.parts.items():
            self.write_part(folder, split, part, problems)

    def write_part(self, folder: Path, split: str, part: Path, problems: Mapping[str, Sequence[Problem]]) -> None:
        """Write ``<split>/<part>.jsonl``: the rows of one part that have these problems, in the part's order."""
        if part.parent not in self._names:
            self._names[part.parent] = names_of(part_files(part.parent))
        path = folder / split / f"{self._names[part.parent][part]}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        unknown = [place for place in problems if place not in self.rows]
        rows = plain_rows(part, self.root, self.fields, self.data, unknown)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for place, found in sorted(problems.items(), key=lambda one: place_order(one[0])):
                line = {
                    "place": place,
                    "reasons": [_reason(one) for one in found],
                    "row": rows[place] if place in rows else self.rows[place],
                }
                file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")


def most_rows(share: float, rows: int) -> int:
    """Return how many of ``rows`` may be in quarantine: one at least, unless the share is 0."""
    return math.ceil(round(share * rows, 6))  # 0.07 * 100 is a little more than 7


def too_many(
    split: str, parts: Iterable[Mapping[str, Sequence[Problem]]], aside: int, kept: int, most: float, setting: str
) -> Iterator[Problem]:
    """Yield the problem of a split of which more rows are in quarantine than may be.

    Args:
        split: What it is called in messages.
        parts: The reasons of each row in quarantine by its place, part by part.
        aside: How many rows are in quarantine.
        kept: How many others there are.
        most: The largest share of all rows that may be there.
        setting: The key of that share.
    """
    if aside > (allowed := most_rows(most, aside + kept)):
        expected = f"at most {in_words(allowed)} in quarantine ({percent(most)}: {setting})"
        advice = (
            f"mend the rows; or raise {setting}; or let what they break be reported only "
            f"({setting.partition('.')[0]}.severity: warn), where that is possible; or split the data again"
        )
        yield Problem(split, "", expected, f"{aside} of {aside + kept} {why(parts)}; {advice}")


def why(parts: Iterable[Mapping[str, Sequence[Problem]]]) -> str:
    """Return ``(<the first places>): 2 for <reason>; 1 for <reason> and <reason>``, each row counted once."""
    return "{}: {}".format(*places_and_reasons(parts))


def places_and_reasons(parts: Iterable[Mapping[str, Sequence[Problem]]]) -> tuple[str, str]:
    """Return the first places in brackets, and how many rows are there for which reason, as :func:`why` has them."""
    reasons, first, count = Counter[str](), list[str](), 0
    for rows in parts:
        reasons.update(" and ".join(dict.fromkeys(map(_reason_of, problems))) for problems in rows.values())
        first = heapq.nsmallest(NAMED_PLACES, [*first, *rows], key=place_order)
        count += len(rows)
    more = ", ..." if count > len(first) else ""
    named = reasons.most_common(NAMED_REASONS)
    said = [f"{rows} for {reason}" for reason, rows in named]
    if others := count - sum(rows for _, rows in named):
        said.append(f"{others} for other reasons")
    return f"({', '.join(first)}{more})", "; ".join(said)


def _reason_of(problem: Problem) -> str:
    """Return what puts a row aside: what was expected of it, or, where that reads as its opposite, what it has."""
    return f"{problem.field}: {problem.has}" if problem.has else problem.asked


def in_words(count: int, thing: str = "row") -> str:
    """Return ``1 row`` or ``2 rows``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percent(share: float) -> str:
    """Return a share as ``57.1%``, with three digits."""
    return f"{100 * share:.3g}%"


def plain_rows(
    part: Path, root: Path, fields: Sequence[Field], data: DataConfig, places: Collection[str]
) -> dict[str, dict[str, Any] | None]:
    """Return rows of a part by their places, with the columns of the file and placeholders for what is private.

    No step of cleaning is applied. None: a row cannot be read, and its line stays in the part alone.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(places)
    if found:
        schema = Schema.of(fields, data, part)
        for place, values in rows_at(part, root, schema, data, places):
            found[place] = None if values is None else _plain(place, values, schema, data.privacy)
    return found


def _plain(place: str, values: Mapping[str, Any], schema: Schema, privacy: PrivacyConfig) -> dict[str, Any]:
    """Return a row as JSON can hold it, without the bytes of its pictures."""
    given = {name: _told(one, is_picture=name in schema.images) for name, one in values.items()}
    if privacy.kinds and any(one.words or one.within for one in schema.fields):  # no text stands there by itself
        row, _, _ = schema.read(place, values)
        for name, new in redacted(row, [one for one in schema.fields if one.name in row], privacy).items():
            column = schema.columns[name]
            is_cell = isinstance(given[column], str) and not isinstance(new, str)
            given[column] = json.dumps(new, ensure_ascii=False) if is_cell else new
    found: dict[str, Any] = privacy.redacted(given)
    return found


def _told(value: Any, *, is_picture: bool) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {name: _told(one, is_picture=is_picture) for name, one in value.items()}
    too_long = is_picture and isinstance(value, str) and len(value) > PATH_CHARACTERS
    return f"{len(value)} characters" if too_long else value


def _reason(problem: Problem) -> dict[str, str]:
    return {"field": problem.field, "expected": problem.expected, "found": problem.found}
