"""Explanations: which words drove the answers to some test rows, the worst errors first (:mod:`attribution`).

An explanation is of the model, not of the world: it says what the answer hung on, and so shows a shortcut (a name, a
template's words, the corner of a picture) that a metric does not. The texts of these few rows are in the table and in
the report, without what is private in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.evaluation.findings import NOTHING, said, shortened, worst_rows
from graft.evaluation.intervals import Interval
from graft.evaluation.probes import MARKS, About, Finding, Material, Passage, Subject
from graft.evaluation.probes.attribution import attribution, picture_attribution
from graft.evaluation.probes.questions import EXPLAINED, not_explained
from graft.evaluation.probes.rows import row_metric, sample

if TYPE_CHECKING:
    import numpy as np

    from graft.data import Record
    from graft.evaluation import EvaluationConfig
    from graft.evaluation.probes.attribution import Attribution
    from graft.tasks import Task, TaskConfig

    Table = Mapping[str, np.ndarray]

NAN = float("nan")
PICTURE = "the log-odds of the label given"
ON_WORDS = "with its words masked. Blue with a solid line is for the answer, orange with a dotted line against it"
ON_PICTURES = "as a picture of the mean colour. On the grey copy, blue is for the answer and orange against it"
WORST, SAMPLED = "among the worst errors", "sample"
LARGEST_GAP = 0.1
"""The share of a change that attributions may miss before the report says that more steps are needed."""


class ExplanationsConfig(Section):
    """Which words drove the answers to some test rows."""

    rows: int = Limit(default=6, ge=0, le=1000)
    """How many rows: half of them the worst errors, the others a seeded sample. 0: none."""

    steps: int = Limit(default=10, ge=8, le=1000)
    """Points on the path of integrated gradients; the report says by how much the words miss the whole."""


class Explanations:
    """The probe."""

    name = "explanations"
    systems: tuple[str, ...] = ("adapter",)

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:  # noqa: ARG002
        return None if config.explanations.rows else "off"

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:
        if self.unasked(config, subject.loaded.task, subject.loaded.config) or not material.test:
            return "off"
        return None if subject.loaded.task.processor == "image" else not_explained(subject.loaded)

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Return a line per row: ``why``, ``answer``, ``expected``, ``output``, ``baseline``, ``pieces``, ``weights``.

        ``picture`` is a data URI where rows are pictures, else empty. ``score`` is minus the share of the change that
        the attributions miss; NaN where there is no attribution.
        """
        import numpy as np

        loaded, steps, privacy = subject.loaded, config.explanations.steps, material.privacy
        pictures = loaded.task.processor == "image"
        answers = loaded.task.answers(subject.table, loaded.state)
        chosen = _chosen(config, subject, answers)
        found: list[Attribution | None] = []
        with subject.model():
            for at in chosen:
                line = {name: column[at] for name, column in subject.table.items()}
                record = material.test[at]
                one = picture_attribution(loaded, record, steps) if pictures else None
                found.append(one if pictures else attribution(loaded, record, privacy, steps, line))
        said_of, expected = [], []
        for at, one in zip(chosen, found, strict=True):
            part = one if one is not None and one.answer is not None else None
            said_of.append(shortened(str(part.answer)) if part else said(answers[at]))
            expected.append(part.expected or "" if part else _expected(subject, material.test[at], at))
        objects: dict[str, list[Any]] = {
            "row": [material.test[at].place for at in chosen],
            "why": list(chosen.values()),
            "explained": [PICTURE if pictures else EXPLAINED[loaded.task.name][1]] * len(chosen),
            "answer": privacy.redacted(said_of),
            "expected": privacy.redacted(expected),
            "pieces": [[text for text, _ in one.pieces] if one else [] for one in found],
            "weights": [[weight for _, weight in one.pieces] if one else [] for one in found],
            "picture": [one.picture if one else "" for one in found],
        }
        numbers = {
            "output": [one.output if one else NAN for one in found],
            "baseline": [one.baseline if one else NAN for one in found],
            "score": [-abs(one.gap) / max(abs(one.output - one.baseline), 1e-9) if one else NAN for one in found],
        }
        columns = {name: np.fromiter(values, dtype=object, count=len(values)) for name, values in objects.items()}
        return {**columns, **{name: np.array(values, dtype=np.float64) for name, values in numbers.items()}}

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        import numpy as np

        table = tables["adapter"]
        done = np.flatnonzero(np.isfinite(table["score"]))
        gap = float(-table["score"][done].mean()) if len(done) else NAN
        what, without = ("parts", ON_PICTURES) if any(table["picture"]) else ("words", ON_WORDS)
        lost = len(table["row"]) - len(done)
        notes = [
            f"{lost} rows have no explanation: no answer, or a tokenizer that does not say where its tokens stand."
            if lost
            else "",
            f"That is much: more evaluation.explanations.steps than {config.explanations.steps} bring it down."
            if gap > LARGEST_GAP
            else "",
        ]
        text = (
            f"Which {what} drove the answer: integrated gradients of {table['explained'][0]}, against the same row "
            f"{without}, the stronger the mark, the more of it. The {what} of a row miss its whole by "
            f"{100 * gap:.2g} % on average."
        )
        return Finding(
            title="What drove the answers",
            text=" ".join([text, *filter(None, notes)]),
            values={"adapter": {"missed_share": Interval(gap, NAN, NAN, "none")}},
            passages=[_passage(table, int(at)) for at in done],
        )


def _chosen(config: EvaluationConfig, subject: Subject, answers: list[dict[str, Any]]) -> dict[int, str]:
    """Return row numbers, each with why it was chosen: the worst errors, then a seeded sample of the others."""
    rows, metric = config.explanations.rows, row_metric(subject.loaded.task)
    worst = worst_rows(metric, subject.table, answers)[0] if metric.per_row else []
    chosen = dict.fromkeys(worst[: rows // 2], WORST)
    rest = [at for at in range(len(answers)) if at not in chosen]
    more = sample(len(rest), rows - len(chosen), config.seed, Explanations.name)
    return chosen | {rest[at]: SAMPLED for at in more}


def _expected(subject: Subject, record: Record, at: int) -> str:
    """Return the right answer of a row for people: what stands in the row, of texts and spans the first one."""
    task = subject.loaded.task
    value = next((record.row.get(field.name) for field in task.fields if field.target), None)
    if (value is None or isinstance(value, dict)) and "reference" in subject.table:
        value = subject.table["reference"][at]
    if isinstance(value, list):
        return ", ".join(value) or NOTHING
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else shortened(str(value)) or NOTHING


def _passage(table: Table, at: int) -> Passage:
    weights = [float(weight) for weight in table["weights"][at]]
    most = max((abs(weight) for weight in weights), default=0.0) or 1.0
    pieces = [
        (str(text), int(abs(weight) / most * MARKS + 0.5) * (1 if weight > 0 else -1))
        for text, weight in zip(table["pieces"][at], weights, strict=True)
    ]
    expected = f", should be {table['expected'][at]}" if table["expected"][at] != table["answer"][at] else ""
    title = shortened(f"{table['answer'][at]}{expected}")
    change = f"{table['baseline'][at]:+.2f} without them, {table['output'][at]:+.2f} with them"
    return Passage(title, pieces, f"{table['row'][at]} · {table['why'][at]} · {change}", str(table["picture"][at]))


PROBE = Explanations()
