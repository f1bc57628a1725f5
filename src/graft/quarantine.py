"""Rows that are kept aside: left out of training and of every score, but not lost.

A folder (``artifacts/quarantine`` of validate, ``artifacts/tokens/quarantine`` of tokenize) has a JSON line for each of
them, with its place, the reasons and the row, in a file of the part's name. Which they are stands in the verdict and in
the token tables' manifest; later stages leave them out by their places.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.cleaning import redacted
from graft.data import DataConfig, Problem, Record, read_part
from graft.privacy.section import PrivacyConfig
from graft.workspace import write_json

if TYPE_CHECKING:
    from graft.tasks import Field

Severity = Literal["fail", "quarantine", "warn", "ignore"]
"""What follows where a row breaks a check: the chain stops; the row is kept aside and left out; it is reported."""


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
        aside = self.counts()[split]
        if aside > most * (aside + kept):
            expected = f"at most {most:.2%} of the rows in quarantine (validation.max_quarantined_share)"
            reasons = Counter(
                f"{one.field}: {one.expected}" if one.field else one.expected
                for (name, _), rows in self.parts.items()
                if name == split
                for problems in rows.values()
                for one in problems
            )
            why = "; ".join(f"{count} for {reason}" for reason, count in reasons.most_common(3))
            yield Problem(f"{data}/{split}", "", expected, f"{aside} of {aside + kept}: {why}")

    def described(self) -> Iterator[str]:
        """Yield a line for each split that has rows here."""
        for split, count in self.counts().items():
            yield f"{split}: {in_words(count)} in quarantine"

    def write(self, folder: Path) -> None:
        """Write ``<split>/<part>.jsonl`` for each part that has rows here, and ``summary.json`` in any case."""
        write_json(folder / "summary.json", {"rows": dict(self.counts())})
        for (split, part), problems in self.parts.items():
            path = folder / split / f"{part.name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            unknown = [place for place in problems if place not in self.rows]
            self.rows |= plain_rows(part, self.root, self.fields, self.data, unknown)
            with path.open("w", encoding="utf-8", newline="\n") as file:
                for place, found in problems.items():
                    line = {
                        "place": place,
                        "reasons": [_reason(one) for one in found],
                        "row": self.rows[place],
                    }
                    file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")


def in_words(rows: int) -> str:
    """Return ``1 row`` or ``2 rows``."""
    return "1 row" if rows == 1 else f"{rows} rows"


def plain_rows(
    part: Path, root: Path, fields: Sequence[Field], data: DataConfig, places: Collection[str]
) -> dict[str, dict[str, Any] | None]:
    """Return rows of a part by their places, as JSON can hold them, with placeholders for what is private.

    No step of cleaning is applied. None: a row cannot be read, and its line stays in the part alone.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(places)
    if found:
        for one in read_part(part, root, fields, data.model_copy(update={"clean": ()})):
            if isinstance(one, Record) and one.place in found:
                found[one.place] = _plain(one.row, fields, data.privacy)
    return found


def _plain(row: Mapping[str, Any], fields: Sequence[Field], privacy: PrivacyConfig) -> dict[str, Any]:
    given = {
        name: f"{len(one)} bytes" if isinstance(one, bytes) else one for name, one in row.items() if one is not None
    }
    found: dict[str, Any] = privacy.redacted(given | redacted(row, fields, privacy))
    return found


def _reason(problem: Problem) -> dict[str, str]:
    return {"field": problem.field, "expected": problem.expected, "found": problem.found}
