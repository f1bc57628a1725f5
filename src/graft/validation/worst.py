"""The rows that have the most wrong, for people to look at first: where they stand, why, and how they begin.

Each part names its worst rows, with what private data they hold masked; the worst of all parts are among them. What
rows have wrong across parts (``across``) is added to those that are known, and takes the places that are left; of such
rows nobody knows the text any more, so the few that are listed are read again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.damage import visible_characters
from graft.data import DataConfig, Problem, Schema, rows_at
from graft.privacy import find, masked
from graft.reading import by_file, place_order
from graft.validation.frame import texts_of

if TYPE_CHECKING:
    from graft.privacy.section import PrivacyConfig
    from graft.tasks import Field
    from graft.validation.contract import Broken
    from graft.validation.frame import Frame
    from graft.validation.section import Severity

WORST_ROWS, WORST_REASONS = 20, 4
"""How many rows are named, and of each how many reasons."""
SAME_REASON = 5
EXCERPT_CHARACTERS = 12
"""Pages are published: they show no more of a text than its start."""
RANKS: tuple[Severity, ...] = ("fail", "quarantine", "warn")


@dataclass
class Row:
    """A row, what it has wrong, and how it begins."""

    place: str
    excerpt: str = ""
    """The start of its first text, without what is private; empty where it cannot be read, or was not yet."""
    counts: list[int] = field(default_factory=lambda: [0] * len(RANKS))
    """How much of it stops the chain, keeps the row aside, is reported."""
    reasons: list[list[str]] = field(default_factory=list)
    """Severity, field, what was expected and what was found, for the first of it."""

    def add(self, severity: Severity, problem: Problem) -> None:
        """Take in one thing that is wrong with the row."""
        self.counts[RANKS.index(severity)] += 1
        self.reasons.append([severity, problem.field, problem.expected, problem.found])
        self.reasons.sort(key=lambda one: RANKS.index(one[0]))  # stable
        del self.reasons[WORST_REASONS:]

    @property
    def order(self) -> tuple[Any, ...]:
        """The worst row first, then the first one."""
        return (*(-count for count in self.counts), *place_order(self.place))


def told(found: Iterable[Broken], frame: Frame, inner: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return a part's worst rows, as JSON values; ``inner`` shortens a place to what follows the part's name."""
    rows = dict[str, Row]()
    for one in found:
        if not one.problem.of_part:
            rows.setdefault(one.problem.place, Row(one.problem.place)).add(one.severity, one.problem)
    worst = sorted(rows.values(), key=lambda row: row.order)[:WORST_ROWS]
    numbers = {place: number for number, place in enumerate(frame.places)} if worst else {}
    for row in worst:
        row.excerpt = _excerpt(frame, numbers.get(row.place))
    return [{**vars(row), "place": inner(row.place)} for row in worst]


def _excerpt(frame: Frame, number: int | None) -> str:
    """Return how the first text of a row begins."""
    return "" if number is None else begun((texts[number] for texts in frame.texts.values()), frame.hides)


def begun(texts: Iterable[Sequence[str] | None], privacy: PrivacyConfig | None = None) -> str:
    """Return how the first text of a row begins; one that nobody can see by the escapes of its characters.

    Args:
        texts: of each field of texts.
        privacy: what is private; None: as by default.
    """
    text = " ".join(next(filter(None, texts), ()))
    if not visible_characters(text):
        escaped = text[:ESCAPED].encode("unicode_escape").decode().replace(" ", r"\x20")
        return f"{escaped}…" if len(text) > ESCAPED else escaped
    found = " ".join(masked(text, privacy.find(text) if privacy else find(text)).split())
    return found if len(found) <= EXCERPT_CHARACTERS else f"{found[:EXCERPT_CHARACTERS]}…"


ESCAPED = 3
"""How many characters that nobody can see are shown by their escapes."""


def read_again(
    part: Path, root: Path, fields: Sequence[Field], data: DataConfig, places: Collection[str]
) -> dict[str, str]:
    """Return how rows of a part begin, by those of ``places`` that can be read; no more is read than up to them."""
    schema, found = Schema.of(fields, data, part), dict[str, str]()
    for place, values in rows_at(part, root, schema, data, places):
        if values is not None:
            row, _, _ = schema.read(place, values)
            given = (row.get(field.name) for field in fields if field.text)
            found[place] = begun((texts_of(value) for value in given if value is not None), data.privacy)
    return found


class Worst:
    """The worst rows of a data set."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.room: dict[Severity, int] = defaultdict(lambda: WORST_ROWS)

    def take(self, file: str, rows: Iterable[dict[str, Any]]) -> None:
        """Take in the worst rows of a part, whose places begin with ``file``."""
        for one in rows:
            row = Row(
                **one | {"place": f"{file}{one['place']}", "counts": [*one["counts"]], "reasons": [*one["reasons"]]}
            )
            self.rows[row.place] = row

    def add(self, severity: Severity, problems: Sequence[Problem]) -> None:
        """Take in what rows have wrong beside others."""
        for problem in problems:
            if problem.place not in self.rows and self.room[severity]:
                self.room[severity] -= 1
                self.rows[problem.place] = Row(problem.place)
            if problem.place in self.rows:
                self.rows[problem.place].add(severity, problem)

    def first(self) -> list[Row]:
        """Return the worst of all, of one kind no more than ``SAME_REASON`` while there are others."""
        seen, chosen, others = Counter[tuple[str, ...]](), list[Row](), list[Row]()
        for row in sorted(self.rows.values(), key=lambda row: row.order):
            kind = tuple(row.reasons[0][:3])
            seen[kind] += 1
            (chosen if seen[kind] <= SAME_REASON else others).append(row)
        return sorted([*chosen, *others][:WORST_ROWS], key=lambda row: row.order)

    def begun(self, parts: Mapping[str, Path], root: Path, fields: Sequence[Field], data: DataConfig) -> list[Row]:
        """Return the worst of all with how they begin; ``parts`` are the part files by what places call them."""
        rows = self.first()
        unknown = by_file(row.place for row in rows if not row.excerpt) if any(one.text for one in fields) else {}
        found = dict[str, str]()
        for file, places in unknown.items():
            if file in parts:
                found |= read_again(parts[file], root, fields, data, places)
        for row in rows:
            row.excerpt = row.excerpt or found.get(row.place, "")
        return rows
