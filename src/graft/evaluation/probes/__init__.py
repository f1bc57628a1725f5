"""Probes: what is measured of an adapter beside its answers to the test rows (robustness, bias, forgetting, ...).

A probe asks a model and writes one table per system: ``row`` (object [N], what was asked, by name), ``score`` (float64
[N], greater is better, NaN where nothing could be said) and whatever the probe needs. Tables are all that its finding,
the report and a promotion's gates read, so the same probe asked of a champion gives rows to pair with.

One module here per probe: a section of its settings, a field of that section in ``evaluation``, and a :class:`Probe`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graft.data import DataConfig, Record, cleaned_as
from graft.evaluation.intervals import Interval
from graft.privacy.section import PrivacyConfig

if TYPE_CHECKING:
    import numpy as np

    from graft.artifact import LoadedAdapter
    from graft.evaluation import EvaluationConfig
    from graft.evaluation.report import Drawing
    from graft.tasks import Task, TaskConfig

    Table = Mapping[str, np.ndarray]

FOLDER = "probes"
"""Where the tables are in ``artifacts/evaluation``: ``probes/<probe>/<system>.parquet``."""
MARKS = 4
"""How many strengths a mark in a passage has; the report's style sheet has one for each."""


@dataclass(frozen=True)
class Material:
    """What a probe may ask about; the same for every system."""

    test: Sequence[Record]
    """The test rows, by task field, cleaned."""
    data: DataConfig
    root: Path
    """The project's folder: paths in the section are below it."""

    @property
    def privacy(self) -> PrivacyConfig:
        """What no file shows of texts."""
        return self.data.privacy


@dataclass(frozen=True)
class Subject:
    """A model as a probe asks it: an adapter on its base, or the base with the adapter off."""

    system: str
    """``adapter``, ``base``, ``champion``."""
    loaded: LoadedAdapter
    table: Table
    """Its prediction table of the test rows, in the order of ``Material.test``."""
    batch_rows: int
    cleans: bool = False
    """Whether rows of ``Material.test`` are cleaned once more, as its training rows were: those that a champion reads,
    where the project cleans in another way by now."""
    unknown: tuple[str, ...] = ()
    """Labels of the project's rows that a champion was not trained on: it never gives them."""

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """Yield the model, in evaluation mode, with the adapter on or off as the system has it."""
        with contextlib.ExitStack() as stack:
            if self.system == "base":
                stack.enter_context(self.loaded.model.disable_adapter())
            yield self.loaded.model

    def predictions(self, records: Sequence[Record], what: str, *, cleaned: bool = False) -> dict[str, np.ndarray]:
        """Return the prediction table of any rows (fields as ``Material.test`` has them), in their order.

        ``what`` is the probe that asks, for the progress lines; ``cleaned``: the rows are read as this system reads.
        Targets may be absent; the task's reference columns are None or NaN then.
        """
        import pyarrow as pa

        from graft.evaluation.prediction import score

        tokens = pa.Table.from_pylist(self.encoded(records, cleaned=cleaned))
        with self.model():
            return score(self.loaded, tokens, batch_rows=self.batch_rows, name=f"{what}, {self.system}")

    def encoded(self, records: Sequence[Record], *, cleaned: bool = False) -> list[dict[str, Any]]:
        """Return the token rows of any rows, in their order; as for :meth:`predictions`."""
        task, config = self.loaded.task, self.loaded.config
        rows = [record.row for record in records]
        if self.cleans and not cleaned:
            rows = [cleaned_as(self.loaded.identity, row, task.fields_of(config)) for row in rows]
        encoded = task.encode(config, rows, self.loaded.processor, self.loaded.identity["max_length_tokens"])
        return [{**one, "row": record.place, "id": record.id} for one, record in zip(encoded, records, strict=True)]


@dataclass(frozen=True)
class Passage:
    """A text of which some pieces are marked, for the report."""

    title: str
    pieces: Sequence[tuple[str, int]]
    """The text in pieces, each with how it is marked: 1 to ``MARKS`` for, -1 to ``-MARKS`` against, 0 not at all."""
    note: str = ""
    """Small print: where it stands."""
    picture: str = ""
    """A picture with marks, as a data URI, where there is no text."""


@dataclass(frozen=True)
class About:
    """What a finding may read besides its probe's tables; no model."""

    task: Task
    predictions: Mapping[str, Table]
    """The prediction tables of the test rows, by system: what a drop is measured from."""
    privacy: PrivacyConfig
    """What no file shows of texts."""


@dataclass(frozen=True)
class Finding:
    """What a probe says: numbers for metrics.json, and a section of the report."""

    title: str
    text: str
    """Some sentences for people, computed from the numbers."""
    values: Mapping[str, Mapping[str, Interval]]
    """By system: a number's name (``<what>_<unit>``) -> its value and interval."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By title: lines with equal keys."""
    drawings: Sequence[Drawing] = ()
    passages: Sequence[Passage] = ()
    """Texts with marks; nothing private is in them."""
    limits: Sequence[str] = ()
    """Sentences for the model card's list of limits."""


class Probe(Protocol):
    """One probe."""

    name: str
    """Also the name of its field in the section ``evaluation``."""
    systems: tuple[str, ...]
    """Which of ``adapter`` and ``base`` the evaluate stage asks; a champion is asked whenever a gate needs it."""

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:
        """Return why params.yaml alone leaves it out (switched off, not for this task); None where it does not."""

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:
        """Return why it is not measured here (switched off, not for this task); None where it is."""

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Ask one system; the same seed and rows ask every system the same."""

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:
        """Say what the tables show; pictures and CSV files go to ``plots``, an existing folder."""


def every() -> tuple[Probe, ...]:
    """Return all probes, in the order of the report."""
    from graft.evaluation.probes import (
        behaviour,
        counterfactuals,
        explanations,
        forgetting,
        robustness,
        test_sets,
    )

    return (
        test_sets.PROBE,
        robustness.PROBE,
        behaviour.PROBE,
        counterfactuals.PROBE,
        forgetting.PROBE,
        explanations.PROBE,
    )


def measured(config: EvaluationConfig, subjects: Sequence[Subject], material: Material) -> dict[str, dict[str, Table]]:
    """Return the tables of all probes that apply, by probe and system."""
    found: dict[str, dict[str, Table]] = {}
    for probe in every():
        for subject in subjects:
            if subject.system in probe.systems and probe.left_out(config, subject, material) is None:
                found.setdefault(probe.name, {})[subject.system] = probe.measure(config, subject, material)
    return found


def findings(
    config: EvaluationConfig, tables: Mapping[str, Mapping[str, Table]], plots: Path, about: About
) -> dict[str, Finding]:
    """Return what each measured probe says, by its name."""
    return {
        probe.name: probe.finding(config, tables[probe.name], plots, about) for probe in every() if probe.name in tables
    }


def as_json(found: Mapping[str, Finding]) -> dict[str, Any]:
    """Return the numbers of findings as metrics.json holds them: probe -> system -> name -> value, low, high."""
    return {
        name: {system: {key: one.as_json() for key, one in values.items()} for system, values in finding.values.items()}
        for name, finding in found.items()
    }


__all__ = [
    "MARKS",
    "About",
    "Finding",
    "Material",
    "Passage",
    "Probe",
    "Subject",
    "as_json",
    "every",
    "findings",
    "measured",
]
