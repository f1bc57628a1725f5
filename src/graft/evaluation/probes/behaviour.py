"""Behavioural tests of a project: what any good model must answer, whatever its mean score (:mod:`behaviour_tests`).

Every case is asked as ``graft predict`` would ask it, and passes or not; a test's pass rate has Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.evaluation.findings import percent, shortened
from graft.evaluation.intervals import Interval, wilson
from graft.evaluation.overview import label
from graft.evaluation.probes import About, Finding, Material, Subject
from graft.evaluation.probes.behaviour_tests import (
    ANSWERS,
    AnswerKind,
    Directional,
    Filled,
    Invariance,
    Says,
    cases_of,
    read,
)

if TYPE_CHECKING:
    import numpy as np

    from graft.artifact import LoadedAdapter
    from graft.evaluation import EvaluationConfig
    from graft.tasks import Task, TaskConfig

    Table = Mapping[str, np.ndarray]

SHOWN_FAILURES = 5
"""Failures of each test in the report; the table has all."""


class Behaviour:
    """The probe."""

    name = "behaviour"
    systems: tuple[str, ...] = ("adapter", "base")

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:  # noqa: ARG002
        return "off" if config.behaviour is None else None

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:  # noqa: ARG002
        return self.unasked(config, subject.loaded.task, subject.loaded.config)

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Return a row per case: ``test``, ``kind``, ``text``, ``expected``, ``got``, ``score`` (1: passed, else 0)."""
        import numpy as np

        from graft.artifact import predict

        loaded = subject.loaded
        tests = read(str(config.behaviour), material.root, loaded.task, loaded.state)
        cases = [case for test in tests for case in cases_of(test, loaded.task)]
        # Rows that several cases share (the first of a group) are asked once.
        asked = list({_key(row): row for case in cases for row in case.rows}.values())
        with subject.model():
            answered = predict(loaded, asked, subject.batch_rows)
        answers = {_key(row): answer for row, answer in zip(asked, answered, strict=True)}
        kind = ANSWERS[loaded.task.name]
        lines = [_judged(case, [answers[_key(row)] for row in case.rows], kind) for case in cases]
        numbers: dict[str, int] = {}
        places = []
        for case in cases:
            numbers[case.test.name] = numbers.get(case.test.name, 0) + 1
            places.append(f"{config.behaviour}#{case.test.name}:{numbers[case.test.name]}")
        texts = [
            material.privacy.redacted([_shown(case), *map(str, line[1:])])
            for case, line in zip(cases, lines, strict=True)
        ]
        columns = {
            "row": places,
            "test": [case.test.name for case in cases],
            "kind": [case.test.kind for case in cases],
            "text": [text for text, *_ in texts],
            "expected": [expected for _, expected, _ in texts],
            "got": [got for _, _, got in texts],
        }
        found = {name: np.array(values, dtype=object) for name, values in columns.items()}
        return {**found, "score": np.array([float(line[0]) for line in lines])}

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        rates = {system: pass_rates(table, config.confidence) for system, table in tables.items()}
        first = next(iter(tables.values()))
        kinds = dict(zip(first["test"], first["kind"], strict=True))
        ours = rates.get("adapter", {})
        failing = [name for name, rate in ours.items() if rate.value < 1]
        lines = [
            {
                "system": label(system),
                "test": name,
                "kind": kinds[name],
                "cases": int((first["test"] == name).sum()),
                "passed": rate.value,
                "interval": f"{rate.low:.3f} to {rate.high:.3f}",
            }
            for system, found in rates.items()
            for name, rate in found.items()
        ]
        text = f"{len(ours)} tests of {config.behaviour}, {len(first['row'])} cases. " + (
            f"The adapter passes every case of {len(ours) - len(failing)} of them; failed: {', '.join(failing)}."
            if failing
            else "The adapter passes every case."
        )
        return Finding(
            title="Behavioural tests",
            text=text,
            values={
                system: {f"{name}_pass_share": rate for name, rate in found.items()} for system, found in rates.items()
            },
            tables={"Pass rates": lines, "Failures of the adapter": _failures(tables.get("adapter"))},
            limits=[
                f"Behavioural test `{name}` passes in {percent(ours[name].value)} of its cases." for name in failing
            ],
        )


def check(config: EvaluationConfig, loaded: LoadedAdapter, root: Path) -> None:
    """Refuse a file of tests that cannot be used, before anything is scored.

    Raises:
        ConfigError: with every problem at its ``file:line``.
    """
    if config.behaviour is not None:
        read(config.behaviour, root, loaded.task, loaded.state)


def pass_rates(table: Table, confidence: float) -> dict[str, Interval]:
    """Return each test's share of cases that pass, with Wilson's interval."""
    found = {}
    for name in dict.fromkeys(table["test"].tolist()):
        scores = table["score"][table["test"] == name]
        low, high = wilson(int(scores.sum()), len(scores), confidence)
        found[str(name)] = Interval(float(scores.mean()), low, high, "wilson")
    return found


def _failures(table: Table | None) -> list[dict[str, Any]]:
    if table is None:
        return []
    shown: dict[str, int] = {}
    lines = []
    for number, name in enumerate(table["test"]):
        if table["score"][number] < 1 and shown.get(name, 0) < SHOWN_FAILURES:
            shown[name] = shown.get(name, 0) + 1
            texts = {column: shortened(str(table[column][number]), 200) for column in ("text", "expected", "got")}
            lines.append({"test": name, **texts})
    return lines


def _key(row: Mapping[str, Any]) -> str:
    return repr(sorted(row.items()))


def _shown(case: Filled) -> str:
    """Return the texts of a case for people, one after the other."""
    return " → ".join("\n".join(str(value) for value in row.values()) for row in case.rows)


def _judged(case: Filled, answers: Sequence[Mapping[str, Any]], kind: AnswerKind) -> tuple[bool, str, str]:
    """Return whether a case passes, what was expected and what there is, for people."""
    test = case.test
    match test:
        case Invariance():
            one, other = (_plain(answer, kind) for answer in answers)
            near = abs(one - other) <= test.tolerance if kind == "value" else one == other
            return near, _words(one), _words(other)
        case Directional():
            before, after = (_score(answer, test.label, kind) for answer in answers)
            change = after - before
            passes = change >= -test.tolerance if test.must_not == "fall" else change <= test.tolerance
            bound = f"a change of {'at least -' if test.must_not == 'fall' else 'at most '}{test.tolerance:g}"
            return passes, bound, f"{change:+.3f} ({before:.3f} to {after:.3f})"
    expect, got = test.expect, _plain(answers[0], kind)
    if isinstance(expect, Says):
        return expect.holds(got), str(expect), got
    if kind == "value":
        return abs(got - float(expect)) <= test.tolerance, _words(expect), _words(got)  # type: ignore[arg-type]
    if kind == "labels":
        wanted = sorted(expect) if isinstance(expect, tuple) else [str(expect)]
        return got == wanted, _words(wanted), _words(got)
    return got.strip() == str(expect).strip(), str(expect), got


def _plain(answer: Mapping[str, Any], kind: AnswerKind) -> Any:
    return sorted(answer["labels"]) if kind == "labels" else answer[kind]


def _score(answer: Mapping[str, Any], name: str | None, kind: AnswerKind) -> float:
    return float(answer["value"] if kind == "value" else answer["scores"][name])


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "(none)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PROBE = Behaviour()
