"""What one part file shows by itself: read once, held to the contract, and kept by its content.

A result names rows by what follows the part's name in their places (``:7``), so that a part which is renamed has the
same one. What only parts together show is told from it without the rows: their ids, digests of their texts, labels and
sketches.

    part.json           what is counted and what is wrong
    rows.arrow          a line for each readable row: place, digests of id, texts and their normal form, whether it is
                        kept, and then its label and which expectations it breaks that are only reported (bits, in
                        the order of part.json)
    suite.json          the suite's result in Great Expectations' form, where the known labels are a parameter; absent
                        where no row could be asked
    profile.json        what the rows that are kept are made of, in counts
    sketch.safetensors  the texts' sketch, where the contract asks about likeness across rows
    kept.bin            digests of rows, where the cleaning step ``duplicates`` is set
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.cleaning import DUPLICATES, Cleaning
from graft.data import DataConfig, Problem, Record, read_part
from graft.duplicates import Entry, normal_forms, sketch
from graft.identity import digest_bytes, short_digest
from graft.quarantine import plain_rows
from graft.reading import has_bom, order_of
from graft.tasks import Field, Task, TaskConfig, label_of
from graft.validation import outliers, worst
from graft.validation.across import is_asked
from graft.validation.contract import LISTED_WARNINGS, REPORTED_PROBLEMS, Broken, Contract
from graft.validation.data_profile import DataProfile
from graft.validation.frame import Frame
from graft.validation.section import REPORTED, Severity, ValidationConfig
from graft.workspace import read_json, write_json

if TYPE_CHECKING:
    import polars as pl

COUNTED_ROWS = 256
PART, ROWS, SUITE, SKETCH, KEPT = "part.json", "rows.arrow", "suite.json", "sketch.safetensors", "kept.bin"
PROFILE = "profile.json"
OF_SPLITS = {"min_rows", "duplicates", "drift", "balance", "label_errors", "max_quarantined_share"}
"""Settings that are about whole splits, so that no part is inspected again for them."""


@dataclass
class Inspector:
    """Looks at parts, one at a time, in any process."""

    root: Path
    """The folder that places are relative to."""
    task: TaskConfig
    data: DataConfig
    validation: ValidationConfig
    state: Mapping[str, Any]
    """What rows are held to of what training rows taught."""
    near: bool = True
    """Whether texts are sketched, to find nearly equal ones."""
    earlier: Cleaning | None = None
    """Of the step ``duplicates``: what the earlier parts of the split hold."""

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields of a row."""
        return self.own.fields_of(self.task)

    @cached_property
    def own(self) -> Task:
        """The task, which has checks of its own."""
        return tasks.get(self.task.name)

    @cached_property
    def contract(self) -> Contract:
        """The compiled contract."""
        return Contract(self.fields, self.state, self.data, self.validation)

    @property
    def label(self) -> str | None:
        """The field of the label, if rows have one."""
        return label_of(self.fields)

    @property
    def decides(self) -> dict[str, Any]:
        """The settings that decide the result of every part, as JSON values; :meth:`held` adds what is a part's own."""
        return {
            "task": self.task.model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            "validation": self.validation.model_dump(
                mode="json", exclude={**dict.fromkeys(OF_SPLITS, True), "severity": REPORTED}
            ),
            "near": self.near,
        }

    def held(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the state decides the result of a part whose rows ``told`` this (``Task.gathered``).

        Of labels, or tags, that are all known nothing more follows: None. Where one is unknown, all that are known
        decide, since what is said of its row names them.
        """
        return {
            name: None if name in told and set(told[name]).issubset(value) else value
            for name, value in self.state.items()
        }

    def __call__(self, path: Path, folder: Path, add: Callable[[int], None]) -> None:
        """Read and check a part, write its result into ``folder``, and count rows by ``add``."""
        file = path.relative_to(self.root).as_posix()
        cleaning = Cleaning(self.data.clean, self.data.privacy, self.earlier)
        frame, rows = self.contract.frame(), _Rows(self.fields, self.label)
        found, doubts = list[Broken](), list[Broken]()
        for number, one in enumerate(read_part(path, self.root, self.contract.fields, self.data, cleaning), start=1):
            if number % COUNTED_ROWS == 0:
                add(COUNTED_ROWS)
            if isinstance(one, Problem):
                found.append(Broken(self.validation.severity.of_reading(one), one))
                frame.refuse(one)
                continue
            frame.add(one)
            rows.add(one)
            wrong = list(self._wrong(one))
            found += wrong
            doubts += [] if wrong else self._doubts(one)
        add((len(frame.places)) % COUNTED_ROWS)
        known = {(one.problem.place, one.problem.field, one.severity) for one in found}
        # A part whose rows all stand in earlier parts leaves nothing to hold to the contract.
        broken, failed, suite = self.contract.check(frame) if frame.places else ([], [], None)
        # What is wrong with a field is said once, but nothing hides what more follows from.
        found += [
            one
            for one in broken
            if one.problem.place not in frame.refused
            and not any((one.problem.place, one.problem.field, name) in known for name in _as_severe(one.severity))
        ]
        found += doubts
        found = [replace(one, problem=frame.without_private(one.problem)) for one in found]
        found = [one for one in found if one.severity != "ignore"]
        found.sort(key=lambda one: order_of(one.problem.place))
        aside = {one.problem.place for one in found if one.severity == "quarantine"}
        kept = [place not in aside for place in rows.places]
        sorted_out = _sorted_out(found, aside)
        forms = self._forms(frame, aside, rows.about, folder)
        rows.write(folder / ROWS, kept, forms, sorted_out.warns.values())
        profile = frame.profile(aside | frame.refused)
        (folder / PROFILE).write_text(json.dumps(profile.as_json(), separators=(",", ":")), encoding="utf-8")
        if cleaning.unique:
            (folder / KEPT).write_bytes(cleaning.kept())
        if suite:
            (folder / SUITE).write_text(json.dumps(suite, sort_keys=True), encoding="utf-8")
        inner = _Inner(file)
        told = {
            "rows": sum(kept),
            "failed": failed,
            "absent": frame.absent(),
            "labels": rows.labels(kept),
            "worst": worst.told(found, frame, inner),
            "outliers": self._unusual(frame, rows.ids, aside, inner),
            "starts with a byte order mark": has_bom(path),
            "cleaning": cleaning.as_json(inner),
            "aside": {
                inner(place): row for place, row in plain_rows(path, self.root, self.fields, self.data, aside).items()
            },
            **sorted_out.as_json(inner),
        }
        write_json(folder / PART, told)

    def _unusual(
        self, frame: Frame, ids: Sequence[str | None], aside: Collection[str], inner: Callable[[str], str]
    ) -> dict[str, Any] | None:
        """Return what outliers are told from."""
        asked = self.validation.severity.outliers != "ignore"
        return outliers.told(frame, self.label, ids, aside, inner) if asked else None

    def _forms(self, frame: Frame, aside: Collection[str], about: Sequence[str], folder: Path) -> dict[int, int]:
        """Return the digest of each row's text in normal form, by its number; write the sketch that has them."""
        if not frame.texts or not is_asked(self.validation, self.fields):
            return {}
        entries = list(_entries(frame, self.label, aside, about))
        if not self.near:
            return dict(zip((one.number for one in entries), normal_forms(entries).tolist(), strict=True))
        found = sketch(entries)
        found.save(folder / SKETCH)
        return dict(zip(found.number.tolist(), found.normal[found.distinct].tolist(), strict=True))

    def _wrong(self, record: Record) -> Iterator[Broken]:
        """Yield what the task finds wrong with a readable row."""
        severity = self.validation.severity
        for one in self.own.check_row(self.task, record.row, self.state):
            column = self.data.columns.get(one.field, one.field)
            follows: Severity = severity.labels if one.field == self.label else severity.task
            yield Broken(follows, Problem(record.place, column, one.expected, one.found))

    def _doubts(self, record: Record) -> Iterator[Broken]:
        """Yield what the task has its doubts about."""
        for one in self.own.doubt_row(self.task, record.row):
            column = self.data.columns.get(one.field, one.field)
            expected = f"{one.expected} (validation.severity.doubtful)"
            yield Broken(self.validation.severity.doubtful, Problem(record.place, column, expected, one.found))


def _entries(frame: Frame, label: str | None, without: Collection[str], about: Sequence[str]) -> Iterator[Entry]:
    """Yield the rows of a part as they are sketched, numbered as in ``rows.arrow``, as ``about`` is too."""
    labels = frame.columns[label] if label else [None] * len(frame.places)
    columns = [frame.texts[one.name] for one in frame.fields if one.text and not one.shared]
    texts = list(zip(*columns, strict=True))
    readable = (row for row, place in enumerate(frame.places) if place not in frame.refused)
    for number, row in enumerate(readable):
        if frame.places[row] not in without:
            said = "\n".join(text for one in texts[row] for text in one or ())
            yield Entry(number, said, labels[row], about[number])


@dataclass
class _SortedOut:
    """What is wrong by what follows from it."""

    stops: list[Problem] = dataclass_field(default_factory=list)
    keeps: list[Problem] = dataclass_field(default_factory=list)
    warns: dict[tuple[str, str], list[Problem]] = dataclass_field(default_factory=lambda: defaultdict(list))
    """By what was expected of which field."""

    def as_json(self, inner: Callable[[str], str]) -> dict[str, Any]:
        """Return the problems; of what stops the chain or is reported only the first, and how many there are."""
        return {
            "fail": {
                "count": len(self.stops),
                "first": [_packed(one, inner) for one in self.stops[:REPORTED_PROBLEMS]],
            },
            "quarantine": [_packed(one, inner) for one in self.keeps],
            "warn": [
                {"count": len(same), "first": [_packed(one, inner) for one in same[:LISTED_WARNINGS]]}
                for same in self.warns.values()
            ],
        }


def _as_severe(severity: Severity) -> tuple[Severity, ...]:
    """Return the severities from which at least as much follows."""
    return worst.RANKS[: worst.RANKS.index(severity) + 1]


def _sorted_out(found: Iterable[Broken], aside: Collection[str]) -> _SortedOut:
    """Return what is wrong by what follows from it; nothing is reported of a row that is kept ``aside``."""
    sorted_out = _SortedOut()
    for one in found:
        if one.severity == "fail":
            sorted_out.stops.append(one.problem)
        elif one.severity == "quarantine":
            sorted_out.keeps.append(one.problem)
        elif one.problem.place not in aside:
            sorted_out.warns[one.problem.field, one.problem.expected].append(one.problem)
    return sorted_out


@dataclass(frozen=True)
class _Inner:
    """Shortens a place to what follows the name of its part."""

    file: str

    def __call__(self, place: str) -> str:
        return place.removeprefix(self.file)


def _packed(one: Problem, inner: Callable[[str], str]) -> list[Any]:
    return [inner(one.place), one.field, one.expected, one.found, one.of_part]


class _Rows:
    """The lines of ``rows.arrow``."""

    def __init__(self, fields: Sequence[Field], label: str | None) -> None:
        self.read = [field for field in fields if field.text or field.type == "image"]
        """What the model reads: texts and pictures."""
        shared = {field.name for field in fields if field.shared}
        self.shared = [field for field in fields if field.name in shared or field.within in shared]
        """What rows are about: only rows with the same text there, and the same answers in it, can be alike."""
        self.about = list[str]()
        self.label = label
        self.places, self.ids = list[str](), list[str | None]()
        self.texts, self.names = list[int](), list[str | None]()

    def add(self, record: Record) -> None:
        self.places.append(record.place)
        self.ids.append(record.id)
        text = "\0".join(_readable(record.row[field.name]) for field in self.read)
        self.texts.append(short_digest(text))
        self.about.append("\n".join(json.dumps(record.row[field.name], sort_keys=True) for field in self.shared))
        self.names.append(record.row[self.label] if self.label else None)

    def labels(self, kept: Sequence[bool]) -> dict[str, int]:
        """Count the labels of the rows that are kept."""
        return dict(Counter(name for name, stays in zip(self.names, kept, strict=True) if stays and name is not None))

    def write(
        self, path: Path, kept: Sequence[bool], forms: Mapping[int, int], warns: Iterable[Sequence[Problem]]
    ) -> None:
        import polars as pl

        numbers = [order_of(place) for place in self.places]
        labels = [name if stays else None for name, stays in zip(self.names, kept, strict=True)]
        bits: Counter[str] = Counter()
        for bit, same in enumerate(islice(warns, 64)):
            bits.update({one.place: 1 << bit for one in same})
        table = pl.DataFrame(
            {
                "line": pl.Series([line for line, _ in numbers], dtype=pl.UInt32),
                "column": pl.Series([column for _, column in numbers], dtype=pl.UInt32),
                "id": pl.Series([None if one is None else short_digest(one) for one in self.ids], dtype=pl.UInt64),
                "text": pl.Series(self.texts, dtype=pl.UInt64),
                "normal": pl.Series([forms.get(row, text) for row, text in enumerate(self.texts)], dtype=pl.UInt64),
                "label": pl.Series(labels, dtype=pl.String),
                "kept": pl.Series(list(kept), dtype=pl.Boolean),
                "warned": pl.Series([bits[place] for place in self.places], dtype=pl.UInt64),
            }
        )
        table.write_ipc(path)


def _readable(value: Any) -> str:
    return digest_bytes(value) if isinstance(value, bytes) else str(value)


# -- a result as it is read again


@dataclass(frozen=True)
class Inspected:
    """The result of one part, under the name that the part has now."""

    split: str
    path: Path
    file: str
    """The part as places name it: ``data/train/part-0000.jsonl``."""
    folder: Path

    @property
    def key(self) -> str:
        """The part as the Data Docs name it: ``train/part-0000.jsonl``."""
        return f"{self.split}/{self.path.name}"

    @cached_property
    def told(self) -> dict[str, Any]:
        """What part.json says."""
        found: dict[str, Any] = read_json(self.folder / PART)
        return found

    def problems(self, packed: Iterable[Sequence[Any]]) -> list[Problem]:
        """Return problems with the part's name in their places."""
        return [Problem(f"{self.file}{place}", *others) for place, *others in packed]

    def stops(self) -> list[Problem]:
        """Return what stops the chain, the first of it."""
        return self.problems(self.told["fail"]["first"])

    def aside(self) -> tuple[list[Problem], dict[str, Any]]:
        """Return what keeps rows aside, and the rows."""
        rows = {f"{self.file}{inner}": row for inner, row in self.told["aside"].items()}
        return self.problems(self.told["quarantine"]), rows

    def warns(self) -> Iterator[tuple[int, list[Problem]]]:
        """Yield how many rows are not as expected, and the first of them, for each expectation."""
        for one in self.told["warn"]:
            yield one["count"], self.problems(one["first"])

    def suite(self) -> dict[str, Any] | None:
        """Return the suite's result in Great Expectations' form; None where no row could be asked."""
        path = self.folder / SUITE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def rows(self) -> pl.LazyFrame:
        """Return the lines of rows.arrow with their number as ``row``; they stay in the file until they are asked."""
        import polars as pl

        return pl.scan_ipc(self.folder / ROWS).with_row_index("row")

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return the places of rows by their numbers."""
        import polars as pl

        chosen = pl.read_ipc(self.folder / ROWS, columns=["line", "column"])[list(rows)]
        return [f"{self.file}:{line}{f':{column}' if column else ''}" for line, column in chosen.iter_rows()]

    def at(self, places: Collection[str]) -> tuple[Counter[str], list[int]]:
        """Return the labels of the rows at some places, and how many of them each entry of :meth:`warns` counts."""
        import polars as pl

        numbers = [order_of(place) for place in sorted(places)]
        wanted = pl.DataFrame(numbers, schema={"line": pl.UInt32, "column": pl.UInt32}, orient="row").lazy()
        found = self.rows().join(wanted, on=["line", "column"], how="semi").select("label", "warned").collect()
        warned = [sum(bits >> bit & 1 for bits in found["warned"]) for bit in range(len(self.told["warn"]))]
        return Counter(found["label"].drop_nulls().to_list()), warned

    @property
    def profile(self) -> DataProfile:
        """What the rows that were kept are made of."""
        return DataProfile.from_json(read_json(self.folder / PROFILE))

    @property
    def sketch(self) -> Path:
        """The file of the sketch."""
        return self.folder / SKETCH

    @property
    def kept(self) -> bytes:
        """The digests of rows that the step ``duplicates`` kept."""
        return (self.folder / KEPT).read_bytes()


def is_chained(data: DataConfig) -> bool:
    """Say whether the result of a part depends on the earlier ones of its split."""
    return DUPLICATES in data.clean
