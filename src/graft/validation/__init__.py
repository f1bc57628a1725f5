"""The data contract: every part file against the task's fields, as Great Expectations suites with Data Docs.

The strict reader finds what cannot be read, the task what a row must not say, Great Expectations (``contract``) what
columns must be; every finding names its row as ``file:line``, and all are reported together. A row that breaks the
contract stops the chain, or is kept aside (``artifacts/quarantine``) and left out by every later stage, or is
reported, as ``validation.severity`` says. A part must fit into memory, which is the price of one suite per part; a
split need not.

Train is read twice, since the labels that all splits are held to are learnt from it first. Over all splits only
digests of ids and texts are kept, about 200 bytes a row.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, Record, data_digest, parts, read_part
from graft.errors import DataError, shown
from graft.identity import digest_bytes, digest_file
from graft.reading import has_bom, order_of
from graft.tasks import Field, TaskConfig
from graft.validation.across import Across
from graft.validation.changes import described, write_changes
from graft.validation.contract import REPORTED_PROBLEMS, Broken, Contract
from graft.validation.pages import Index, Part
from graft.validation.quarantine import Quarantine
from graft.validation.section import Severity, ValidationConfig
from graft.workspace import SPLITS, Workspace, replaced, write_json

__all__ = ["ValidationConfig", "validate"]

PROGRESS_SECONDS = 2.0
NAMED_PLACES = 5
"""How many rows a warning names."""


def validate(workspace: Workspace, *, task: TaskConfig, data: DataConfig, validation: ValidationConfig) -> None:
    """Hold every part file to the contract; write the verdict and the Data Docs.

    Raises:
        DataError: with the rows that break it; the report is in ``workspace.failed / "validate"``.
    """
    report = workspace.failed / "validate"
    try:
        files = parts(workspace.data)
        state = _learn(workspace, files["train"], task, data)
        contract = Contract(tasks.get(task.name).fields_of(task), state, data, validation)
    except DataError as error:
        with replaced(report) as folder:
            problems = list(error.problems) or [str(error)]
            _write_report(folder, problems, [])
            Index(False, len(problems), REPORTED_PROBLEMS, problems).write(folder / "data_docs")
        raise
    inspection = _Inspection(workspace, task, state, data, validation, contract)
    for split, paths in files.items():
        for path in paths:
            inspection.part(split, path)
        if split == "train" and inspection.quarantine.places:
            inspection.learn_again(_learn(workspace, paths, task, data, inspection.quarantine.places))
    inspection.across_parts()
    for split in files:
        inspection.end_of(split)
    if inspection.problems:
        with replaced(report) as folder:
            _write_report(folder, inspection.problems, inspection.contract.summary())
            inspection.write_docs(folder / "data_docs")
        count = inspection.total_problems
        title = f"{workspace.data.name}: {count} problem{'s' if count > 1 else ''}; report: {_shown(report, workspace)}"
        raise DataError.from_problems(title, [str(problem) for problem in inspection.problems])
    with (
        replaced(workspace.validation) as verdict,
        replaced(workspace.data_docs) as docs,
        replaced(workspace.quarantine) as aside,
    ):
        write_json(verdict / "verdict.json", {"data": data_digest(workspace.data), **inspection.verdict()})
        write_changes(verdict, inspection.cleaning)
        inspection.write_docs(docs)
        inspection.quarantine.write(aside)
    shutil.rmtree(report, ignore_errors=True)
    for line in inspection.quarantine.described():
        print(f"validate: {line}; {_shown(workspace.quarantine, workspace)}", flush=True)
    for line in described(inspection.cleaning):
        print(f"validate: {line}; {_shown(workspace.validation / 'cleaning.diff', workspace)}", flush=True)


def _shown(path: Path, workspace: Workspace) -> str:
    """Return a path to show: below the project where it lies there, else in full."""
    return path.relative_to(workspace.root).as_posix() if path.is_relative_to(workspace.root) else str(path)


def _learn(
    workspace: Workspace, files: Sequence[Path], task: TaskConfig, data: DataConfig, without: Collection[str] = ()
) -> dict[str, Any]:
    """Return what the task learns from the readable training rows, ``without`` those in quarantine."""
    one = tasks.get(task.name)
    cleaning = Cleaning(data.clean, data.privacy)
    read = itertools.chain.from_iterable(
        read_part(path, workspace.root, one.fields_of(task), data, cleaning) for path in files
    )
    return one.learn(task, (found.row for found in read if isinstance(found, Record) and found.place not in without))


def _write_report(folder: Path, problems: Sequence[Problem | str], checks: list[dict[str, Any]]) -> None:
    listed = [
        {"message": str(one)}
        | (
            {"place": one.place, "field": one.field, "expected": one.expected, "found": one.found}
            if isinstance(one, Problem)
            else {}
        )
        for one in problems
    ]
    write_json(folder / "report.json", {"passed": False, "problems": listed, "checks": checks})


# -- one pass over all parts


class _Inspection:
    """Everything that is known about the data after the parts seen so far."""

    def __init__(
        self,
        workspace: Workspace,
        task: TaskConfig,
        state: dict[str, Any],
        data: DataConfig,
        validation: ValidationConfig,
        contract: Contract,
    ) -> None:
        self.root, self.name = workspace.root, workspace.data.name
        self.task, self.config, self.state = tasks.get(task.name), task, state
        self.data, self.validation = data, validation
        self.fields = self.task.fields_of(task)
        self.contract = contract
        self.quarantine = Quarantine(workspace.root, self.fields, data)
        self.seen = _Seen(self.fields)
        self.label = next((one.name for one in self.fields if one.type == "label"), None)
        self.problems: list[Problem] = []
        self.total_problems = 0
        self.parts: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.broken: Counter[str] = Counter()
        """How many problems each part has."""
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.cleaning = {split: Cleaning(data.clean, data.privacy) for split in SPLITS}
        self.warnings: list[str] = []
        self.warned: dict[str, dict[str, list[Problem]]] = {split: defaultdict(list) for split in SPLITS}
        """Rows of each split that break what is only reported, by what was expected of them."""
        column = next((self.data.columns.get(one.name, one.name) for one in self.fields if one.text), "")
        self.across = Across(self.fields, validation, column, self.label)
        self.progress = _Progress()

    def part(self, split: str, path: Path) -> None:
        """Read and check one part."""
        frame, found = self.contract.frame(), list[Broken]()
        texts: dict[str, int] = {}
        """The digest of each row's texts, by its place."""
        for one in read_part(path, self.root, self.fields, self.data, self.cleaning[split]):
            if isinstance(one, Problem):
                found.append(Broken("fail" if one.of_part else self.validation.severity.readable, one))
                frame.refuse(one.place)
                continue
            frame.add(one, self.seen.earlier(one))
            texts[one.place] = self.seen.digest(one)
            found += self.record(one)
            self.progress.show(f"{split}/{path.name}", self.total_problems + len(found))
        known = {(one.problem.place, one.problem.field) for one in found}
        # A part whose rows all stand in earlier parts leaves nothing to hold to the contract.
        broken = self.contract.check(f"{split}/{path.name}", frame) if frame.places else []
        found += [
            one
            for one in broken
            if (one.problem.place, one.problem.field) not in known and one.problem.place not in frame.refused
        ]
        found = [replace(one, problem=frame.without_private(one.problem)) for one in found]
        self.settle(split, path, sorted(found, key=lambda one: order_of(one.problem.place)))
        left = [place for place in texts if place not in self.quarantine.places]
        for place in left:
            self.seen.add_text(split, texts[place])
        if self.across.is_asked:
            self.across.add(split, path, frame, set(left))
        if self.label:
            labels = dict(zip(frame.places, frame.columns[self.label], strict=True))
            self.counts[split].update(labels[place] for place in left)
        self.parts[split][path.name] = {"rows": len(left), "digest": digest_file(path)}
        if has_bom(path):
            self.warnings.append(f"{split}/{path.name}: starts with a byte order mark, which is skipped")

    def record(self, record: Record) -> Iterator[Broken]:
        """Yield what the task finds wrong with a readable row."""
        severity = self.validation.severity
        for one in self.task.check_row(self.config, record.row, self.state):
            column = self.data.columns.get(one.field, one.field)
            follows: Severity = severity.labels if one.field == self.label else severity.task
            yield Broken(follows, Problem(record.place, column, one.expected, one.found))

    def across_parts(self) -> None:
        """Hold the rows of all parts to each other."""
        if not self.across.is_asked:
            return
        found: dict[tuple[str, Path], list[Broken]] = defaultdict(list)
        for split, path, broken in self.across.broken():
            found[split, path].append(broken)
        for (split, path), problems in found.items():
            before = set(self.quarantine.places)
            self.settle(split, path, problems)
            aside = self.quarantine.places - before
            self.parts[split][path.name]["rows"] -= len(aside)
            self.counts[split] -= self.across.labels_of(split, path, aside)

    def settle(self, split: str, path: Path, found: list[Broken]) -> None:
        """Let what is wrong with a part stop the chain, go into quarantine, or be reported."""
        by_severity: dict[str, list[Problem]] = defaultdict(list)
        for one in found:
            by_severity[one.severity].append(one.problem)
        self.report(by_severity["fail"])
        self.broken[f"{split}/{path.name}"] += len(by_severity["fail"])
        self.quarantine.add(split, path, by_severity["quarantine"])
        for problem in (one for one in by_severity["warn"] if one.place not in self.quarantine.places):
            self.warned[split][f"{problem.field}: {problem.expected}"].append(problem)

    def learn_again(self, state: dict[str, Any]) -> None:
        """Take what the training rows teach without those in quarantine.

        Raises:
            DataError: the other splits' labels were compared with one that only rows in quarantine have.
        """
        lost = sorted(set(self.state.get("labels") or ()) - set(state.get("labels") or ()))
        if lost:
            names = ", ".join(map(shown, lost))
            raise DataError(
                f"{self.name}/train: all rows with the label {names} are in quarantine; mend them, or remove them from "
                f"the data"
            )
        self.state = state

    def end_of(self, split: str) -> None:
        """Check what only the whole split shows."""
        rows = sum(part["rows"] for part in self.parts[split].values())
        fewest = self.validation.min_rows
        if rows < fewest:
            expected = f"at least {fewest} rows (validation.min_rows)"
            self.report([Problem(f"{self.name}/{split}", "", expected, str(rows))])
        self.report(list(self.quarantine.problems(split, rows, self.validation.max_quarantined_share, self.name)))
        for expected, problems in self.warned[split].items():
            where = ", ".join(problem.place for problem in problems[:NAMED_PLACES])
            self.warnings.append(f"{split}: {len(problems)} rows not as expected: {expected} ({where})")
        if repeated := self.seen.repeated(split):
            self.warnings.append(repeated)
        if count := self.cleaning[split].disagreements:
            where = ", ".join(self.cleaning[split].disagreeing)
            self.warnings.append(
                f"{split}: {count} rows have the {self.seen.kind} of an earlier row and another label ({where})"
            )
        if self.label and split != "train" and (absent := set(self.counts["train"]) - set(self.counts[split])):
            shown_labels = ", ".join(shown(label) for label in sorted(absent)[:5])
            self.warnings.append(f"{split}: no row of {len(absent)} of the labels ({shown_labels})")
        print(f"validate: {split}: {rows} rows in {len(self.parts[split])} parts", flush=True)

    def report(self, problems: list[Problem]) -> None:
        """Keep problems; beyond a number that nobody reads, only count them."""
        self.total_problems += len(problems)
        self.problems += problems[: max(0, REPORTED_PROBLEMS - len(self.problems))]

    def verdict(self) -> dict[str, Any]:
        """Return what later stages read: the state, and what was checked of which bytes."""
        return {
            "passed": True,
            "state": self.state,
            "splits": {
                split: {"rows": sum(part["rows"] for part in found.values()), "parts": found}
                for split, found in self.parts.items()
            },
            "counts": {split: dict(self.counts[split]) for split in self.parts},
            **self.data.cleaning,
            "columns": self.data.columns,
            "cleaned": {
                step: sum(cleaning.counts[step] for cleaning in self.cleaning.values()) for step in self.data.clean
            },
            "checks": self.contract.summary(),
            "warnings": self.warnings,
            **({"quarantined": sorted(self.quarantine.places)} if self.quarantine.places else {}),
        }

    def write_docs(self, folder: Path) -> None:
        """Write the Data Docs: Great Expectations' pages and the index of them."""
        pages, statistics = self.contract.write_docs(folder), self.contract.statistics()
        lines = [
            Part(split, name, one["rows"], self.broken[key], page=pages.get(key), **statistics.get(key, {}))
            for split, found in self.parts.items()
            for name, one in found.items()
            for key in [f"{split}/{name}"]
        ]
        Index(
            passed=not self.total_problems,
            total=self.total_problems,
            reported=REPORTED_PROBLEMS,
            problems=self.problems,
            parts=sorted(lines, key=lambda part: not part.problems),
            checks=self.contract.failures(),
            warnings=self.warnings,
            cleaning=list(described(self.cleaning)),
            quarantined=list(self.quarantine.described()),
        ).write(folder)


class _Progress:
    """Prints a line every two seconds at most: one short part after the other prints nothing."""

    def __init__(self) -> None:
        self.started = self.printed = time.monotonic()
        self.rows = 0

    def show(self, part: str, problems: int) -> None:
        """Count a row and print how far the stage is, if it is time to."""
        self.rows += 1
        if self.rows % 256 or (now := time.monotonic()) - self.printed < PROGRESS_SECONDS:
            return
        self.printed = now
        rate = self.rows / (now - self.started)
        print(f"validate: {part}: {self.rows} rows, {rate:.0f} rows/s, {problems} problems", flush=True)


class _Seen:
    """Which ids and texts occurred before, by 128-bit digests: place numbers and splits, never the text."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.read = [field for field in fields if field.text or field.type == "image"]
        """What the model reads: texts and pictures."""
        self.kind = "text" if any(field.text for field in self.read) else "picture"
        self.files: dict[str, int] = {}
        self.ids: dict[int, tuple[int, int]] = {}
        self.splits: dict[int, int] = {}
        self.doubles: Counter[tuple[str, str]] = Counter()

    def earlier(self, record: Record) -> str | None:
        """Return the place of the first row with this row's id, if there is one."""
        if record.id is None:
            return None
        file, _, line = record.place.rpartition(":")
        here = (self.files.setdefault(file, len(self.files)), int(line))
        first = self.ids.setdefault(_digest(record.id), here)
        return None if first == here else f"{list(self.files)[first[0]]}:{first[1]}"

    def digest(self, record: Record) -> int:
        """Return the digest of a row's texts."""
        return _digest("\0".join(_readable(record.row[field.name]) for field in self.read))

    def add_text(self, split: str, key: int) -> None:
        """Note the texts of a row, by their digest, and in which splits the same texts occurred."""
        bit = 1 << SPLITS.index(split)
        before = self.splits.get(key, 0)
        self.splits[key] = before | bit
        for number, other in enumerate(SPLITS):
            if before >> number & 1:
                self.doubles[split, other] += 1

    def repeated(self, split: str) -> str | None:
        """Return the warning about rows of ``split`` whose text occurred before."""
        found = [f"{self.doubles[split, other]} in {other}" for other in SPLITS if self.doubles[split, other]]
        return f"{split}: rows with a {self.kind} that occurs before: {', '.join(found)}" if found else None


def _readable(value: Any) -> str:
    return digest_bytes(value) if isinstance(value, bytes) else str(value)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
