"""What the parts show together: the verdict, from the results of single parts and never from their rows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import Problem, Schema, content_digest, rows_at
from graft.errors import DataError, shown
from graft.part_results import PartResults
from graft.quarantine import NAMED_PLACES, Quarantine, in_words, most_rows, places_and_reasons
from graft.reading import place_order
from graft.tasks import label_of
from graft.validation.across import KINDS, LEAKAGE, equal, is_asked, near, repeated_ids, unique_ids
from graft.validation.changes import described
from graft.validation.composition import Composition, composed
from graft.validation.contract import LISTED_WARNINGS, REPORTED_PROBLEMS, Check, asked_checks
from graft.validation.data_profile import DataProfile
from graft.validation.documents import Documents
from graft.validation.drawing import drawn, listed
from graft.validation.inspecting import Inspected
from graft.validation.label_errors import LabelErrors
from graft.validation.label_errors import find as find_label_errors
from graft.validation.label_errors import judged as judged_field
from graft.validation.outliers import odd
from graft.validation.pages import Index, Part
from graft.validation.pages import masked as masked_values
from graft.validation.section import Severity
from graft.validation.sources import Sources
from graft.validation.worst import Worst
from graft.workspace import SPLITS, Workspace, replaced, write_json


def write_refusal(report: Path, error: DataError, quarantine: Quarantine | None = None) -> None:
    """Write the report of data that cannot be looked at part by part, or no further; with what is in ``quarantine``."""
    with replaced(report) as folder:
        problems = list(error.problems) or [str(error)]
        _write_report(folder, problems, [], total=len(problems))
        Index(False, len(problems), REPORTED_PROBLEMS, problems).write(folder / "data_docs")
        if quarantine:
            quarantine.write(folder / "quarantine")


def _write_report(
    folder: Path, problems: Sequence[Problem | str], checks: list[dict[str, Any]], *, total: int, **more: Any
) -> None:
    listed = [
        {"message": str(one)}
        | (
            {"place": one.place, "field": one.field, "expected": one.expected, "found": one.found}
            if isinstance(one, Problem)
            else {}
        )
        for one in problems
    ]
    write_json(folder / "report.json", {"passed": False, "total": total, "problems": listed, "checks": checks, **more})


class Assembly:
    """Everything that is known about the data."""

    def __init__(
        self, workspace: Workspace, sources: Sources, state: dict[str, Any], inspected: Sequence[Inspected]
    ) -> None:
        """Take in the results of all parts, in the order of splits and parts."""
        self.workspace, self.sources, self.state, self.inspected = workspace, sources, state, inspected
        self.data, self.validation, self.name = sources.data, sources.validation, workspace.data.name
        self.fields = tasks.get(sources.task.name).fields_of(sources.task)
        self.label = label_of(self.fields)
        self.checks = asked_checks(self.fields, state, self.validation)
        self.failed = [0] * len(self.checks)
        self.unique, self.repeated = unique_ids(self.validation), 0
        self.quarantine = Quarantine(workspace.root, self.fields, self.data)
        self.crowded = False
        """Whether a split has more rows in quarantine than it may have."""
        self.problems: list[Problem] = []
        self.total_problems = 0
        self.rows = {one.key: one.told["rows"] for one in inspected}
        self.broken: Counter[str] = Counter()
        """How many problems each part has."""
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.cleaning = {split: Cleaning(self.data.clean, self.data.privacy) for split in SPLITS}
        self.warnings: list[str] = []
        self.left_out = ""
        """What was not compared, in words."""
        self.reports: list[tuple[str, list[Problem], int]] = []
        """What rows of several parts have wrong that is only reported: split, the rows that are named, how many."""
        self.leaks: set[str] = set()
        """What is expected of rows that an earlier split has: no score can be trusted, so it is said first."""
        self.composition: Composition | None = None
        self.label_errors: LabelErrors | None = None
        self.warned: dict[str, dict[str, _Warned]] = {split: {} for split in SPLITS}
        """What is only reported of each split, by what was expected."""
        self.worst = Worst()
        for one in inspected:
            self._take(one)

    def _take(self, one: Inspected) -> None:
        told = one.told
        self._report(one.stops(), told["fail"]["count"])
        self.broken[one.key] += told["fail"]["count"]
        self.quarantine.add(one.split, one.path, *one.aside())
        for count, problems in one.warns():
            self._warn(one.split, count, problems)
        if told["failed"]:
            self.failed = [before + more for before, more in zip(self.failed, told["failed"], strict=True)]
        self.counts[one.split].update(told["labels"])
        self.worst.take(one.file, told["worst"])
        self.cleaning[one.split].add(told["cleaning"], one.file)
        if told["starts with a byte order mark"]:
            self.warnings.append(f"{one.key}: starts with a byte order mark, which is skipped")

    def across_parts(self) -> None:
        """Hold the rows of all parts to each other."""
        if self.unique:
            counts, found = repeated_ids(self.inspected, self.unique, self.data, self._most_named)
            for number, count in counts.items():
                self._settle(self.inspected[number], found.get(number, []), self.unique.severity, count)
            self.repeated = counts.total()
        if is_asked(self.validation, self.fields):
            self._alike()
        self._outliers()
        for split, problems, count in self.reports:  # now that it is known which rows stay
            left = [problem for problem in problems if problem.place not in self.quarantine.places]
            removed = len(problems) - len(left)
            for same in _by_expectation(left).values():
                self._warn(split, count - removed if len(same) == len(left) else len(same), same)

    def _alike(self) -> None:
        """Hold rows to the earlier ones that say the same, or nearly."""
        read = next(one for one in self.fields if one.text or one.type == "image")
        column, what = self.data.columns.get(read.name, read.name), "text" if read.text else "picture"
        aside, most = self.quarantine.places, self._most_named
        found = list(equal(self.inspected, self.validation, column, what, aside, most))
        if self.sources.near:
            alike, self.left_out = near(self.inspected, self.validation, column)
            found += alike
        elif any(one.text for one in self.fields):
            most_bytes = self.validation.duplicates.near_megabytes
            self.warnings.append(
                f"nearly equal texts are not looked for: the parts have {self.sources.bytes / 1e6:.0f} MB, more than "
                f"validation.duplicates.near_megabytes ({most_bytes})"
            )
        self.leaks = {problem.asked for one in found if one.kind == LEAKAGE for problem in one.problems}
        for one in sorted(found, key=lambda one: (KINDS.index(one.kind), one.part)):
            self._settle(self.inspected[one.part], one.problems, one.severity, one.rows)

    def _outliers(self) -> None:
        """Hold rows to what is usual among all of them."""
        severity = self.validation.severity.outliers
        for one in odd([part.told["outliers"] for part in self.inspected]) if severity != "ignore" else ():
            part, field = self.inspected[one.part], one.field or self.label or ""
            column, found = self.data.columns.get(field, field), self.data.privacy.in_message(one.found)
            problems = [
                Problem(f"{part.file}{place}", column, one.expected, found, has=one.has) for place in one.places
            ]
            self._settle(part, problems, severity, one.rows)

    @property
    def _most_named(self) -> int:
        """How many problems of one kind are named: more rows than may be in quarantine need no names."""
        rows: int = sum(self.rows.values())
        # Each split rounds its share up.
        return max(REPORTED_PROBLEMS, most_rows(self.validation.max_quarantined_share, rows) + len(SPLITS))

    def _settle(self, one: Inspected, problems: list[Problem], severity: Severity, count: int) -> None:
        """Let what ``count`` rows of a part have wrong stop the chain, keep them aside, or be reported."""
        self.worst.add(severity, problems)
        if severity == "fail":
            self._report(problems, count)
            self.broken[one.key] += count
        elif severity == "quarantine":
            new = {problem.place for problem in problems} - self.quarantine.places
            self.quarantine.add(one.split, one.path, problems)
            self.rows[one.key] -= len(new)
            labels, warned = one.at(new)
            self.counts[one.split] -= labels
            for (_, same), fewer in zip(one.warns(), warned, strict=True):
                self.warned[one.split][same[0].asked].count -= fewer
        else:
            self.reports.append((one.split, problems, count))

    def _warn(self, split: str, count: int, problems: Sequence[Problem]) -> None:
        """Note that ``count`` rows are not as expected in one way; ``problems`` are the first of them."""
        known = self.warned[split].setdefault(problems[0].asked, _Warned())
        known.count += count
        known.first += problems[: LISTED_WARNINGS - len(known.first)]

    def refuse_lost_labels(self) -> None:
        """Refuse data whose quarantine has all training rows, or all with a label that the other rows were held to.

        A label that an expectation of the project's own keeps aside is none: the contract says so.

        Raises:
            DataError: with the first of the rows.
        """
        kept = sum(self.rows[one.key] for one in self.inspected if one.split == "train")
        are_learnt = self.label and not getattr(self.sources.task, "labels", None)
        lost = [one for one in self.state.get("labels") or () if are_learnt and not self.counts["train"][one]]
        if kept and lost:
            lost = self._lost_unsaid(lost)
        if kept and not lost:
            return
        what = f"all rows with the label {', '.join(map(shown, lost))}" if kept else "all rows"
        places = {place for place, label in self._aside_for_training() if not kept or label in lost}
        aside = (
            {place: found for place, found in problems.items() if place in places}
            for problems in self.quarantine.parts.values()
        )
        where, reasons = places_and_reasons(aside)
        raise DataError(
            f"{self.name}/train: {what} are in quarantine {where}; {reasons}; mend them, or remove them from the data"
        )

    def _lost_unsaid(self, labels: Sequence[str]) -> list[str]:
        """Return the labels of which a row is in quarantine though no set of the project's own leaves them out."""
        column = self.data.columns.get(str(self.label), self.label)
        own = {check.expected for check in self.checks if check.place and check.column == self.label}
        problems = {place: one for parts in self.quarantine.parts.values() for place, one in parts.items()}
        rows = [(label, problems[place]) for place, label in self._aside_for_training() if label in labels]
        said = {id(found) for _, found in rows if any(one.field == column and one.expected in own for one in found)}
        unsaid = {label for label, found in rows if id(found) not in said}
        return [label for label in labels if label in unsaid]

    def _aside_for_training(self) -> Iterator[tuple[str, str | None]]:
        """Yield the place of each training row in quarantine, and its label where it can be read."""
        for (split, part), problems in self.quarantine.parts.items():
            schema = Schema.of(self.fields, self.data, part)
            asked = problems if split == "train" else ()
            for place, values in rows_at(part, self.workspace.root, schema, self.data, asked):
                yield place, schema.read(place, values)[0].get(self.label) if values and self.label else None

    def end(self) -> None:
        """Check what only whole splits show."""
        leaks = [line for split in SPLITS for line in self._end_of(split)]
        self.warnings = [*leaks, *self.warnings]
        self.composition = composed(
            self._profiles(),
            self.workspace,
            self.validation,
            self.data.columns,
            [one.name for one in self.fields if one.type == "labels"],
        )
        self._report(list(self.composition.problems), len(self.composition.problems))
        self.warnings += self.composition.warnings

    def _profiles(self) -> dict[str, DataProfile]:
        """Return what each split is made of.

        Rows that only the check across parts puts into quarantine are counted, but for their label.
        """
        found = {split: DataProfile() for split in SPLITS}
        for one in self.inspected:
            found[one.split].add(one.profile)
        if self.label:
            for split in SPLITS:
                found[split].labels[self.label] = +self.counts[split]
        return found

    def look_for_label_errors(self) -> None:
        """Look for training rows whose label is likely wrong, where the contract asks for them."""
        if self.validation.severity.label_errors == "ignore" or judged_field(self.fields) is None:
            return
        print("validate: looking for training rows whose label is likely wrong", flush=True)
        self.label_errors = find_label_errors(
            self.sources.files["train"],
            self.workspace.root,
            self.fields,
            self.data,
            self.validation.label_errors,
            self.quarantine.places,
        )
        if self.label_errors.total:
            self.warnings.append(str(self.label_errors))

    def _end_of(self, split: str) -> Iterator[str]:
        """Check a whole split, and yield its warnings of leakage."""
        parts = [one for one in self.inspected if one.split == split]
        rows, fewest = sum(self.rows[one.key] for one in parts), self.validation.min_rows
        if rows < fewest:
            expected = f"at least {in_words(fewest)} (validation.min_rows)"
            self._report([Problem(f"{self.name}/{split}", "", expected, str(rows))], 1)
        too_many = list(self.quarantine.problems(split, rows, self.validation.max_quarantined_share, self.name))
        self._report(too_many, len(too_many))
        self.crowded |= bool(too_many)
        for expected, one in self.warned[split].items():
            first = self._left(one)[:NAMED_PLACES]
            if one.count:
                places = ", ".join(each.place for each in first)
                says = f"; the first has {masked_values(first[0].found)}" if first else ""
                broken = in_words(one.count, "part" if first and first[0].of_part else "row")
                has = f"{'has' if one.count == 1 else 'have'} {first[0].has}" if first and first[0].has else ""
                line = f"{split}: {broken} {has or f'not as expected: {expected}'} ({places}){says}"
                if expected in self.leaks:
                    yield line
                else:
                    self.warnings.append(line)
        kind = "text" if any(one.text for one in self.fields) else "picture"
        if count := self.cleaning[split].disagreements:
            where = ", ".join(self.cleaning[split].disagreeing)
            self.warnings.append(
                f"{split}: {in_words(count)} with the {kind} of an earlier row and another label ({where})"
            )
        if self.label and split != "train" and (absent := set(self.counts["train"]) - set(self.counts[split])):
            shown_labels = ", ".join(shown(label) for label in sorted(absent)[:5])
            self.warnings.append(f"{split}: no row of {len(absent)} of the labels ({shown_labels})")
        print(f"validate: {split}: {in_words(rows)} in {in_words(len(parts), 'part')}", flush=True)

    def _left(self, warned: _Warned) -> list[Problem]:
        """Return the rows of a warning that are not in quarantine, in their order."""
        left = [each for each in warned.first if each.place not in self.quarantine.places]
        return sorted(left, key=lambda each: place_order(each.place))

    def _report(self, problems: list[Problem], count: int) -> None:
        """Keep problems, the first of ``count``; beyond a number that nobody reads, only count them."""
        self.total_problems += count
        self.problems += problems[: max(0, REPORTED_PROBLEMS - len(self.problems))]

    # -- what is written

    def verdict(self) -> dict[str, Any]:
        """Return what later stages read: the state, and what was checked of which bytes."""
        splits: dict[str, dict[str, Any]] = {split: {"rows": 0, "parts": {}} for split in SPLITS}
        for one in self.inspected:
            rows = self.rows[one.key]
            splits[one.split]["rows"] += rows
            splits[one.split]["parts"][one.path.name] = {"rows": rows, "digest": self.sources.digest(one.path)}
        steps = self.data.clean
        dropped = sorted(place for cleaning in self.cleaning.values() for place in cleaning.dropped)
        return {
            "passed": True,
            "data": content_digest(self.sources.digests),
            "state": self.state,
            "splits": splits,
            "counts": {split: dict(sorted(self.counts[split].items())) for split in SPLITS},
            **self.data.cleaning,
            "columns": self.data.columns,
            "cleaned": {step: sum(cleaning.counts[step] for cleaning in self.cleaning.values()) for step in steps},
            "checks": [
                {"expectation": check.type, "column": check.column, "severity": check.severity, "failed": failed}
                for check, failed in self.checked()
            ],
            "warnings": self.warnings,
            **({"leaked": leaked} if (leaked := self._leaked()) else {}),
            **({"quarantined": sorted(self.quarantine.places)} if self.quarantine.places else {}),
            **({"dropped": dropped} if dropped else {}),
        }

    def _leaked(self) -> dict[str, int]:
        """Return how many test rows stay that say what an earlier split says, by what they have of it."""
        stay = (one for asked, one in self.warned["test"].items() if asked in self.leaks and one.count)
        return {one.first[0].has.partition(" (")[0]: one.count for one in stay}

    def checked(self) -> list[tuple[Check, int]]:
        """Return each expectation with the number of rows that failed it."""
        across = [(self.unique, self.repeated)] if self.unique else []
        return [*zip(self.checks, self.failed, strict=True), *across]

    @property
    def absent(self) -> frozenset[str]:
        """The fields that need no value and have none in any part: the Data Docs say nothing of them."""
        return frozenset.intersection(*(frozenset(one.told["absent"]) for one in self.inspected))

    def write_report(self, folder: Path) -> None:
        """Write why the data is refused, and its Data Docs."""
        checks = [
            {"expectation": check.type, "column": check.column, "severity": check.severity, "failed": failed}
            for check, failed in self.checked()
        ]
        _write_report(folder, self.problems, checks, total=self.total_problems, warnings=self.warnings)
        self.write_warned(folder / "warned.jsonl")
        self.write_docs(folder / "data_docs")
        if self.crowded:
            self.quarantine.write(folder / "quarantine")

    def write_warned(self, path: Path) -> None:
        """Write the rows that are only reported, a line for each reason, values as in the Data Docs; none: no file."""
        lines = [
            {
                "row": problem.place,
                "field": problem.field,
                "expected": problem.expected,
                "found": masked_values(problem.found),
            }
            for split in SPLITS
            for one in self.warned[split].values()
            for problem in (self._left(one) if one.count else ())
        ]
        if lines:
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")

    def write_composition(self, folder: Path) -> None:
        """Write what the splits are made of, and the list of likely label errors where the contract asks for it."""
        if self.composition:
            self.composition.write(folder)
        if self.label_errors:
            self.label_errors.write(folder / "label_errors.jsonl")

    def write_docs(self, folder: Path) -> None:
        """Write the Data Docs: Great Expectations' pages and the index of them."""
        absent = self.absent
        shown_checks = [check for check in self.checks if check.is_about(absent)]
        pages = Documents(shown_checks, PartResults.of(self.workspace, "data_docs")).write(folder, self.inspected)
        lines = [
            Part(
                one.split,
                one.path.name,
                self.rows[one.key],
                self.broken[one.key],
                self._beside(one),
                page=pages.get(one.key),
                **_statistics(one),
            )
            for one in self.inspected
        ]
        Index(
            passed=not self.total_problems,
            total=self.total_problems,
            reported=REPORTED_PROBLEMS,
            problems=self.problems,
            parts=sorted(lines, key=lambda part: not part.problems),
            checks=[
                {
                    "type": check.type,
                    "column": check.column,
                    "expected": check.expected,
                    "severity": check.severity,
                    "failed": failed,
                }
                for check, failed in self.checked()
                if check.is_about(absent)
            ],
            warnings=self.warnings,
            left_out=self.left_out,
            cleaning=list(described(self.cleaning)),
            quarantined=list(self.quarantine.described()),
            aside=len(self.quarantine.places),
            composition=drawn(self.composition) if self.composition else None,
            label_errors=listed(self.label_errors, self.data.privacy) if self.label_errors else None,
            worst=self.worst.begun(
                {one.file: one.path for one in self.inspected}, self.workspace.root, self.fields, self.data
            ),
        ).write(folder)

    def _beside(self, one: Inspected) -> str:
        """Return what follows from the expectations that a part's rows do not meet, where nothing stops the chain."""
        follows = {check.severity for check, failed in zip(self.checks, one.told["failed"], strict=False) if failed}
        kinds = {"quarantine": "rows in quarantine", "warn": "warnings"}
        return " and ".join(words for severity, words in kinds.items() if severity in follows)


@dataclass
class _Warned:
    """How many rows of a split break what is only reported, and where the first of them are."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)


def _by_expectation(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    found = defaultdict[str, list[Problem]](list)
    for problem in problems:
        found[problem.asked].append(problem)
    return found


def _statistics(one: Inspected) -> dict[str, int]:
    """Return how many expectations a part met and did not; nothing where it held no rows."""
    if not (suite := one.suite()):
        return {}
    found = suite["statistics"]
    return {"passed": found["successful_expectations"], "failed": found["unsuccessful_expectations"]}
