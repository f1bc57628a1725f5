"""Rows that are kept aside: left out of training and of every score, but not lost.

A folder (``artifacts/quarantine`` of validate, ``artifacts/tokens/quarantine`` of tokenize) has a JSON line for each of
them, with its place, the reasons and the row, in a file of the part's name. Which they are stands in the verdict and in
the token tables' manifest; later stages leave them out by their places.
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
from graft.data import DataConfig, Problem, Record, read_part
from graft.privacy.section import PrivacyConfig
from graft.reading import place_order
from graft.workspace import write_json

if TYPE_CHECKING:
    from graft.tasks import Field

Severity = Literal["fail", "quarantine", "warn", "ignore"]
"""What follows where a row breaks a check: the chain stops; the row is kept aside and left out; it is reported."""
NAMED_PLACES = 5
"""How many rows a message names."""
NAMED_REASONS = 3


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
        """Write ``<split>/<part>.jsonl``: the rows of one part that have these problems, by their places."""
        path = folder / split / f"{part.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        unknown = [place for place in problems if place not in self.rows]
        rows = plain_rows(part, self.root, self.fields, self.data, unknown)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for place, found in problems.items():
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
        yield Problem(split, "", expected, f"{aside} of {aside + kept} {why(parts)}")


def why(parts: Iterable[Mapping[str, Sequence[Problem]]]) -> str:
    """Return ``(<the first places>): 2 for <reason>; 1 for <reason> and <reason>``, each row counted once."""
    reasons, first, count = Counter[str](), list[str](), 0
    for rows in parts:
        reasons.update(" and ".join(dict.fromkeys(map(_expectation, problems))) for problems in rows.values())
        first = heapq.nsmallest(NAMED_PLACES, [*first, *rows], key=place_order)
        count += len(rows)
    more = ", ..." if count > len(first) else ""
    return f"({', '.join(first)}{more}): " + "; ".join(
        f"{rows} for {reason}" for reason, rows in reasons.most_common(NAMED_REASONS)
    )


def in_words(count: int, thing: str = "row") -> str:
    """Return ``1 row`` or ``2 rows``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percent(share: float) -> str:
    """Return a share as ``57.1%``, with three digits."""
    return f"{100 * share:.3g}%"


def plain_rows(
    part: Path, root: Path, fields: Sequence[Field], data: DataConfig, places: Collection[str]
) -> dict[str, dict[str, Any] | None]:
    """Return rows of a part by their places, as JSON can hold them, with placeholders for what is private.

    No step of cleaning is applied. None: a row cannot be read, and its line stays in the part alone.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(places)
    if found:
        for one in read_part(part, root, fields, data.uncleaned):
            if isinstance(one, Record) and one.place in found:
                found[one.place] = _plain(one.row, fields, data.privacy)
    return found


def _plain(row: Mapping[str, Any], fields: Sequence[Field], privacy: PrivacyConfig) -> dict[str, Any]:
    given = {
        name: f"{len(one)} bytes" if isinstance(one, bytes) else one for name, one in row.items() if one is not None
    }
    found: dict[str, Any] = privacy.redacted(given | redacted(row, fields, privacy))
    return found


def _expectation(problem: Problem) -> str:
    return f"{problem.field}: {problem.expected}" if problem.field else problem.expected


def _reason(problem: Problem) -> dict[str, str]:
    return {"field": problem.field, "expected": problem.expected, "found": problem.found}
