"""What is found of token rows: counts and the first places, which add up over batches, parts and splits.

Rows in quarantine are counted apart and left out of all else, as if they had never been there.

Padding is that of batches of ``BATCH_LINES`` lines drawn at random, by their lengths: what transformers' Trainer makes
by default. Tokens do not depend on the section ``training``, so its batches are not known here, and they pad less:
rows of like length share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.data import Problem
from graft.tasks import PIECES

BATCH_LINES = 32
REPORTED_PROBLEMS = 100
"""How many rows are listed where they stop the chain; all are counted."""
DECIMALS = 6


@dataclass
class Rows:
    """The rows that break one check: how many, and the first of them."""

    count: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Rows) -> None:
        """Put the rows of a later batch or part after these."""
        self.count += other.count
        self.problems += other.problems[: max(0, REPORTED_PROBLEMS - len(self.problems))]


@dataclass
class Found:
    """What is known of the token rows of a batch, a part or a split: sums, and rows that break a check.

    The counts are about the rows that stay, but for ``quarantined`` and ``broken``.
    """

    counts: Counter[str] = field(default_factory=Counter)
    """``rows``, ``tokens``, ``text_tokens`` (without special ones), ``unknown_tokens``, ``truncated``, rows that lost
    something of each piece (``lost_context``), and how many rows are ``quarantined``."""
    broken: dict[str, Rows] = field(default_factory=dict)
    aside: dict[str, list[Problem]] = field(default_factory=dict)
    """The reasons of each row in quarantine, by its place: of a batch or a part, since sums only count them."""
    label_of: dict[str, str] = field(default_factory=dict)
    """The label of each row in quarantine, by its place, as in ``aside``; where a row has one label."""
    lines: Counter[int] = field(default_factory=Counter)
    """How many lines of each length there are: rows, or the windows of a row."""
    longest: int = 0
    """The most tokens that a row had before it was cut."""
    labels: dict[str, set[str]] = field(default_factory=lambda: {"kept": set(), "aside": set()})
    """The labels of the rows that stay, and of those in quarantine, where a row has one label."""

    def add(self, other: Found) -> None:
        """Add what is found of a later part."""
        self.counts.update(other.counts)
        self.lines.update(other.lines)
        self.longest = max(self.longest, other.longest)
        for name, labels in other.labels.items():
            self.labels[name] |= labels
        for name, rows in other.broken.items():
            self.broken.setdefault(name, Rows()).add(rows)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it, its places as they are; :meth:`of_json` reads it again."""
        return {
            "counts": dict(self.counts),
            "broken": {name: [one.count, [*map(_fields, one.problems)]] for name, one in self.broken.items()},
            "aside": [_fields(problem) for problems in self.aside.values() for problem in problems],
            "label_of": self.label_of,
            "lines": sorted(self.lines.items()),
            "longest": self.longest,
            "labels": {name: sorted(labels) for name, labels in self.labels.items()},
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any], file: str) -> Found:
        """Return what :meth:`as_json` wrote of a part that is called ``file`` now: places are ``file:line``."""
        found = cls(Counter(value["counts"]), lines=Counter(dict(value["lines"])), longest=value["longest"])
        found.labels = {name: set(labels) for name, labels in value["labels"].items()}
        found.label_of = {f"{file}:{place}": label for place, label in value["label_of"].items()}
        for name, (count, problems) in value["broken"].items():
            found.broken[name] = Rows(count, [_problem(file, *one) for one in problems])
        for one in value["aside"]:
            problem = _problem(file, *one)
            found.aside.setdefault(problem.place, []).append(problem)
        return found

    def as_counts(self) -> dict[str, Any]:
        """Return the counts for a split's entry in the manifest."""
        names = ("rows", "quarantined", "tokens", "text_tokens", "unknown_tokens", "truncated")
        return {
            **{name: self.counts[name] for name in names},
            "longest": self.longest,
            "lost": {piece: self.counts[f"lost_{piece}"] for piece in PIECES},
            "padding": {"batch": BATCH_LINES, "share": round(self.padding, DECIMALS)},
        }

    @property
    def total(self) -> int:
        """How many rows there are, those in quarantine included."""
        return self.counts["rows"] + self.counts["quarantined"]

    def aside_with(self, label: str) -> dict[str, list[Problem]]:
        """Return those of the rows in quarantine that have a label."""
        return {place: reasons for place, reasons in self.aside.items() if self.label_of.get(place) == label}

    @property
    def padding(self) -> float:
        """The expected share of padding in batches of ``BATCH_LINES`` of these lines, drawn at random."""
        return padding_share(self.lines, BATCH_LINES)


def _fields(problem: Problem) -> list[str]:
    return [problem.place, problem.field, problem.expected, problem.found]


def _problem(file: str, place: str, field_: str, expected: str, found: str) -> Problem:
    return Problem(f"{file}:{place}", field_, expected, found)


def padding_share(lines: Mapping[int, int], batch: int) -> float:
    """Return the expected share of padding in batches of ``batch`` lines that are drawn at random, one by one.

    ``lines``: how many there are of each length. A batch is as wide as its longest line: of independent draws the
    largest is at most t with probability F(t) ** batch.
    """
    import numpy as np

    if not lines:
        return 0.0
    lengths, counts = (np.array(column, dtype=np.float64) for column in zip(*sorted(lines.items()), strict=True))
    total = counts.sum()
    largest = np.diff((np.cumsum(counts) / total) ** min(batch, int(total)), prepend=0.0)
    width, mean = float(lengths @ largest), float(lengths @ counts / total)
    return 1 - mean / width if width else 0.0
