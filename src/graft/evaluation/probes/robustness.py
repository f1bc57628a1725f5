"""Robustness: what noise that changes no meaning costs (typos, casing, punctuation, white space).

A seeded sample of test rows is asked again with noise of each kind in its texts (Ribeiro et al., ACL 2020, section 2.2,
count it among the capabilities; the kinds are those of :mod:`perturbations`). The same row is scored clean and noisy,
so the change is paired: an interval of a hundred rows says something. Answers that stand at places of a text
(``question_answering``) leave that text alone; tags that belong to words get noise inside words only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.data import Record
from graft.evaluation.comparison import Comparison, compare
from graft.evaluation.intervals import Interval
from graft.evaluation.overview import label
from graft.evaluation.probes import About, Finding, Material, Subject
from graft.evaluation.probes.perturbations import OF_WORDS, PERTURBATIONS, Kind, of_words
from graft.evaluation.probes.rows import asked_texts, no_texts, picked, row_metric, row_scores, sample, score_metric

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig
    from graft.tasks import Field, Task, TaskConfig

    Table = Mapping[str, np.ndarray]


class RobustnessConfig(Section):
    """Noise in the texts of test rows, and what it costs."""

    rows: int = Limit(default=50, ge=0)
    """How many test rows are asked again, each once for each kind of noise, by adapter and base. 0: none."""

    generated_rows: int = Limit(default=0, ge=0)
    """The same where answers are generated text, which takes long. 0: none."""

    kinds: tuple[Kind, ...] = tuple(PERTURBATIONS)
    """Which noise: ``typos`` (a neighbouring key, letters swapped or left out), ``casing`` (all small, all capitals, a
    capital at each word), ``punctuation`` (removed, or added after words), ``whitespace`` (spaces doubled, made line
    breaks, put around the text)."""

    typo_share: float = Limit(default=0.03, gt=0, le=0.5)
    """The share of letters that are mistyped, at least one in a text."""

    punctuation_share: float = Limit(default=0.1, gt=0, le=1)
    """The share of words that get a mark, where marks are added; at least one in a text."""

    whitespace_share: float = Limit(default=0.25, gt=0, le=1)
    """The share of spaces that are doubled or made line breaks, at least one in a text."""

    def dose(self, kind: Kind) -> float:
        """Return the dose of a kind of noise."""
        doses = {"typos": self.typo_share, "punctuation": self.punctuation_share, "whitespace": self.whitespace_share}
        return doses.get(kind, 1.0)


class Robustness:
    """The probe."""

    name = "robustness"
    systems: tuple[str, ...] = ("adapter", "base")

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:
        if not asked_texts(task, settings):
            return no_texts(task)
        return None if _rows(config.robustness, task) and config.robustness.kinds else "off"

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:
        return self.unasked(config, subject.loaded.task, subject.loaded.config) or (None if material.test else "off")

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Return a row per test row and kind: ``kind``, ``variant``, ``metric``, ``clean``, ``score``.

        ``score`` is NaN where the noise left the row as it was.
        """
        import numpy as np

        section, task = config.robustness, subject.loaded.task
        fields = asked_texts(task, subject.loaded.config)
        chosen = sample(len(material.test), _rows(section, task), config.seed, self.name)
        noisy = [
            (at, kind, *_noisy(material.test[at], kind, fields, section.dose(kind), config.seed))
            for kind in section.kinds
            for at in chosen
        ]
        changed = [number for number, (at, _, record, _) in enumerate(noisy) if record.row != material.test[at].row]
        scores = np.full(len(noisy), np.nan)
        if changed:
            answers = subject.predictions([noisy[number][2] for number in changed], self.name)
            scores[changed] = row_scores(task, answers)
        clean = row_scores(task, subject.table)[[at for at, *_ in noisy]]
        return {
            "row": np.array([record.place for _, _, record, _ in noisy], dtype=object),
            "kind": np.array([kind for _, kind, *_ in noisy], dtype=object),
            "variant": np.array([variant for *_, variant in noisy], dtype=object),
            "metric": np.full(len(noisy), row_metric(task).name, dtype=object),
            "clean": clean,
            "score": scores,
        }

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        found = {system: changes(table, config, "kind") for system, table in tables.items()}
        first = next(iter(tables.values()))
        metric = str(first["metric"][0])
        values = {
            system: {f"{kind}_change": as_interval(one) for kind, one in by_kind.items()}
            for system, by_kind in found.items()
        }
        lines = [
            _line(system, kind, tables[system], one)
            for system, by_kind in found.items()
            for kind, one in by_kind.items()
        ]
        ways = changes(tables["adapter"], config, "variant") if "adapter" in tables else {}
        variants = [{"noise": name, "rows": one.rows, "change": one.difference} for name, one in ways.items()]
        ours = found.get("adapter", {})
        worst = _worst(ours, metric)
        return Finding(
            title="Robustness",
            text=f"Each of {len(set(_places(first)))} test rows again with noise that changes no meaning, and the "
            f"change of the mean row score ({metric}; greater is better). {worst or _harmless(ours)}",
            values=values,
            tables={"Change by kind of noise": lines, "The adapter by what was done": variants},
            limits=[worst] if worst else [],
        )


def _rows(section: RobustnessConfig, task: Task) -> int:
    generated = task.generates and any(metric.generated for metric in task.metrics)
    return section.generated_rows if generated else section.rows


def _noisy(record: Record, kind: Kind, fields: Sequence[Field], dose: float, seed: int) -> tuple[Record, str]:
    """Return a row with noise in its texts, and what was done; a row's noise is its own, whichever others are asked."""
    chance = random.Random(f"{seed}:{kind}:{record.place}")
    row: dict[str, Any] = dict(record.row)
    done = ""
    for field in fields:
        value = row.get(field.name)
        if isinstance(value, str):
            row[field.name], done = PERTURBATIONS[kind](value, dose, chance)
        elif value and kind in OF_WORDS:
            row[field.name], done = of_words(kind, value, dose, chance)
    return Record(row, f"{record.place}#{kind}", record.id), done


def changes(table: Table, config: EvaluationConfig, by: str) -> dict[str, Comparison]:
    """Return the noisy rows against the same rows clean, for each value of the column ``by`` that has rows."""
    import numpy as np

    found = {}
    for name in dict.fromkeys(table[by].tolist()):
        rows = np.flatnonzero((table[by] == name) & np.isfinite(table["score"]))
        if len(rows) > 1:
            noisy = picked({column: table[column] for column in ("row", "score", "clean")}, rows)
            found[str(name)] = compare(score_metric(), noisy, {**noisy, "score": noisy["clean"]}, config)
    return found


def as_interval(one: Comparison) -> Interval:
    """Return the difference of a comparison as a value with its interval."""
    return Interval(one.difference, one.low, one.high, one.test)


def _line(system: str, kind: str, table: Table, one: Comparison) -> dict[str, Any]:
    asked = int((table["kind"] == kind).sum())
    return {
        "system": label(system),
        "noise": kind,
        "rows": one.rows,
        "left as they were": asked - one.rows,
        "clean": one.reference,
        "noisy": one.candidate,
        "change": one.difference,
        "interval": f"{one.low:+.3f} to {one.high:+.3f}",
    }


def _worst(found: Mapping[str, Comparison], metric: str) -> str:
    """Say which noise costs the most, where the interval shows that it costs anything."""
    sure = {kind: one for kind, one in found.items() if one.high < 0}
    if not sure:
        return ""
    kind, one = min(sure.items(), key=lambda item: item[1].difference)
    return (
        f"Noise costs: {kind} changes the mean row score ({metric}) by {one.difference:+.3f} "
        f"({one.low:+.3f} to {one.high:+.3f}, {one.rows} rows)."
    )


def _harmless(found: Mapping[str, Comparison]) -> str:
    if not found:
        return ""
    low = min(found.values(), key=lambda one: one.low)
    return f"No kind is shown to cost the adapter anything; the lower ends of the intervals go down to {low.low:+.3f}."


def _places(table: Table) -> list[str]:
    return [place.rpartition("#")[0] for place in table["row"]]


PROBE = Robustness()
