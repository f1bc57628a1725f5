"""What only rows together show: texts that are nearly equal, within a split or across splits, and labels that disagree.

Each part is sketched once, from the rows that the contract kept; the sketches are compared when all parts are read. A
row is held to the rows before it, in the order of splits: of two that are alike, the later one breaks the contract.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data import Problem
from graft.duplicates import Entry, Part, compare, sketch
from graft.validation.contract import Broken
from graft.validation.frame import Frame
from graft.validation.section import Severity, ValidationConfig

if TYPE_CHECKING:
    from graft.tasks import Field

LEAKAGE, DUPLICATES, CONTRADICTIONS = "leakage", "near_duplicates", "contradictions"


@dataclass
class Across:
    """The sketches of all parts, and where their rows stand."""

    fields: Sequence[Field]
    config: ValidationConfig
    column: str
    """What a problem names: the first text field, as the files call it."""
    label: str | None
    """The field of the label."""
    parts: dict[tuple[str, Path], tuple[Part, list[str], list[str | None]]] = field(default_factory=dict)
    """Split and file -> the sketch, and the places and labels of the rows that it numbers."""

    @property
    def severities(self) -> dict[str, Severity]:
        """What follows from each kind of likeness."""
        given = self.config.severity
        return {LEAKAGE: given.leakage, DUPLICATES: given.near_duplicates, CONTRADICTIONS: given.contradictions}

    @property
    def is_asked(self) -> bool:
        """Whether the contract is about anything here."""
        return any(one.text for one in self.fields) and set(self.severities.values()) != {"ignore"}

    def add(self, split: str, path: Path, frame: Frame, kept: Collection[str]) -> None:
        """Sketch the rows of a part that the contract ``kept``."""
        labels = frame.columns[self.label] if self.label else [None] * len(frame.places)
        texts = list(zip(*frame.texts.values(), strict=True))
        entries = (
            Entry(number, "\n".join(text for one in texts[number] for text in one or ()), labels[number])
            for number, place in enumerate(frame.places)
            if place in kept
        )
        self.parts[split, path] = Part(f"{split}/{path.name}", split, sketch(entries)), frame.places, labels

    def labels_of(self, split: str, path: Path, places: Collection[str]) -> Counter[str]:
        """Count the labels of some rows of a part."""
        _, own, labels = self.parts[split, path]
        rows = zip(own, labels, strict=True)
        return Counter(label for place, label in rows if label is not None and place in places)

    def broken(self) -> Iterator[tuple[str, Path, Broken]]:
        """Yield split, part and problem of each row that is like an earlier one."""
        places = {part.name: (split, path, own) for (split, path), (part, own, _) in self.parts.items()}
        table = compare([part for part, *_ in self.parts.values()], self.config.duplicates).table
        for batch in table.to_batches():
            for line in batch.to_pylist():
                kind = CONTRADICTIONS if line["kind"] == "contradiction" else DUPLICATES
                if kind == DUPLICATES and line["split"] != line["of_split"]:
                    kind = LEAKAGE
                severity = self.severities[kind]
                if severity == "ignore":
                    continue
                split, path, own = places[line["part"]]
                other = places[line["of_part"]][2][line["of_row"]]
                problem = Problem(own[line["row"]], self.column, _EXPECTED[kind].format(**line), _found(line, other))
                yield split, path, Broken(severity, problem)


_EXPECTED = {
    LEAKAGE: "a text that {of_split} does not have (validation.severity.leakage)",
    DUPLICATES: "a text unlike the others of its split (validation.severity.near_duplicates)",
    CONTRADICTIONS: "the label that the same text has elsewhere (validation.severity.contradictions)",
}


def _found(line: dict[str, object], other: str) -> str:
    if line["kind"] == "contradiction":
        return f"another than at {other}"
    return (
        f"that of {other}" if line["kind"] == "exact" else f"nearly that of {other} (likeness {line['similarity']:.2f})"
    )
