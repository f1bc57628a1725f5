"""The parts of a data folder with their digests, and what is made of each: once, by its content."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, Record, data_digests, parts, read_part
from graft.errors import DataError
from graft.part_pictures import picture_digests
from graft.part_results import Job, PartResults, Round, key_of
from graft.quarantine import in_words
from graft.reading import by_file
from graft.tasks import Field, Row, Task, TaskConfig
from graft.validation.across import in_megabytes
from graft.validation.inspecting import COUNTED_ROWS, Inspected, Inspector, is_chained
from graft.validation.section import ValidationConfig
from graft.workspace import Workspace, read_json, write_json

GATHERED, PRIVATE_LABELS = "gathered.json", "private_labels.json"
NO_LABEL = "a label without private data, since models and reports show their labels (data.privacy)"
NAMED_LABELS = 100
"""How many rows with private data as label are named of a part."""
NAMED_UNREADABLE = 19
"""How many rows are named that cannot be read, beside what could not be learnt: as many as a message shows."""


@dataclass
class Sources:
    """A data folder under the settings that it is validated with."""

    workspace: Workspace
    task: TaskConfig
    data: DataConfig
    validation: ValidationConfig

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """The part files of each split."""
        return parts(self.workspace.data)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 of each file by its path below the data folder."""
        return data_digests(self.workspace.data)

    @property
    def bytes(self) -> int:
        """The size of all part files together."""
        return sum(path.stat().st_size for files in self.files.values() for path in files)

    @property
    def near(self) -> bool:
        """Whether nearly equal texts are looked for."""
        return in_megabytes(self.validation, tasks.get(self.task.name).fields_of(self.task), self.bytes)

    def digest(self, path: Path) -> str:
        """Return the sha256 of a part."""
        return self.digests[path.relative_to(self.workspace.data).as_posix()]

    @cached_property
    def _pictures(self) -> dict[Path, str]:
        """For each part one digest of the pictures that it names."""
        fields, files = tasks.get(self.task.name).fields_of(self.task), [*chain.from_iterable(self.files.values())]
        return picture_digests(self.workspace, fields, self.data, self.digests, files)

    def learning(self, without: Collection[str] = ()) -> Round:
        """Return what is to be done for the task to learn, ``without`` the rows in quarantine.

        The training parts come first. Where rows have labels that are learnt, the other parts follow, for their own
        ones; they are not looked at again for rows in quarantine.
        """
        jobs = list[Job]()
        if type(tasks.get(self.task.name)).gathered is not Task.gathered:
            of_files = by_file(without)
            for path in [*self.files["train"], *([] if without else self._held_parts)]:
                file = path.relative_to(self.workspace.root).as_posix()
                aside = of_files.get(file, [])
                made_of = {
                    "task": self.task.model_dump(mode="json"),
                    "data": self.data.model_dump(mode="json"),
                    "pictures": self._pictures[path],
                    "without": [place.removeprefix(file) for place in aside],
                }
                jobs.append(Job(key_of(path, self.digest(path), made_of), path, (path, aside)))
        gathering = _Gathering(self.workspace.root, self.task, self.data)
        return Round(PartResults.of(self.workspace, "learn"), jobs, gathering, is_needed=True)

    def learn(self, without: Collection[str] = ()) -> dict[str, Any]:
        """Return what the task learns from the readable training rows, ``without`` those in quarantine.

        Raises:
            DataError: the data folder is not one, or the task cannot be learnt from these rows.
        """
        one = self._made(without) if without else self._of_all_rows
        training = one.jobs[: len(self.files["train"])]
        self._refuse_private_labels(one.results, training)
        gathered = [read_json(one.results.folder / job.key / GATHERED) for job in training]
        try:
            return tasks.get(self.task.name).learnt(self.task, gathered)
        except DataError as error:
            if not (problems := self._unreadable(without)):
                raise
            title = f"{self.workspace.data.name}/train: too few rows can be read to learn from"
            raise DataError.from_problems(title, [*problems, str(error)]) from None

    @property
    def _held_parts(self) -> list[Path]:
        """The parts whose rows have labels, or tags, that are held to what the training rows teach."""
        if getattr(self.task, "labels", None) or not _named(tasks.get(self.task.name).fields_of(self.task)):
            return []
        return [path for split, files in self.files.items() if split != "train" for path in files]

    @cached_property
    def _told(self) -> dict[Path, dict[str, Any]]:
        """What the rows of each part told, as far as it was looked at for that."""
        one = self._of_all_rows
        return {job.path: read_json(one.results.folder / job.key / GATHERED) for job in one.jobs}

    @cached_property
    def _of_all_rows(self) -> Round:
        """What the task learns from, and labels are told by, where no row is in quarantine; made."""
        return self._made()

    def _made(self, without: Collection[str] = ()) -> Round:
        one = self.learning(without)
        one.make()
        return one

    def _unreadable(self, without: Collection[str]) -> list[str]:
        """Return what the first training rows that cannot be read have wrong, ``without`` those in quarantine."""
        fields, root = tasks.get(self.task.name).fields_of(self.task), self.workspace.root
        read = (one for path in self.files["train"] for one in read_part(path, root, fields, self.data.uncleaned))
        found = (one for one in read if isinstance(one, Problem) and one.place not in without)
        return [self.data.privacy.in_message(str(one)) for one in islice(found, NAMED_UNREADABLE)]

    def _refuse_private_labels(self, results: PartResults, jobs: Sequence[Job]) -> None:
        """Refuse labels that are private data: whatever is made of the data has them, the model above all.

        Raises:
            DataError: with the first rows that have them.
        """
        total, problems = 0, list[str]()
        for job in jobs:
            found = read_json(results.folder / job.key / PRIVATE_LABELS)
            file = job.path.relative_to(self.workspace.root).as_posix()
            total += found["rows"]
            problems += [str(Problem(f"{file}{place}", *others)) for place, *others in found["first"]]
        pinned = [label for label in getattr(self.task, "labels", None) or () if self.data.privacy.find(label)]
        if pinned:
            raise DataError(
                f"task.labels: {self.data.privacy.redacted(pinned)}: private data is no label (data.privacy)"
            )
        if problems:
            title = f"{self.workspace.data.name}/train: {in_words(total)} with private data as label"
            raise DataError.from_problems(title, problems, total=total)

    def inspecting(self, state: Mapping[str, Any]) -> Round:
        """Return what is to be done for all parts to be inspected, in the order of splits and parts.

        With the cleaning step ``duplicates`` there is nothing to do ahead: a part depends on those before it.
        """
        inspector = self._inspector(state)
        decides = inspector.decides
        files = [] if is_chained(self.data) else [path for files in self.files.values() for path in files]
        keys = [self._key(path, inspector, {**decides, "pictures": self._pictures[path]}) for path in files]
        jobs = [Job(key, path, path) for key, path in zip(keys, files, strict=True)]
        return Round(self._results, jobs, inspector)

    def inspect(self, state: Mapping[str, Any]) -> list[Inspected]:
        """Return the result of every part, in the order of splits and parts.

        Raises:
            ConfigError: an expectation of the project's own is wrong.
        """
        if is_chained(self.data):
            return [one for split in self.files for one in self._chain(split, self._inspector(state))]
        one = self.inspecting(state)
        one.make()
        each = ((split, path) for split, files in self.files.items() for path in files)
        return [self._inspected(split, path, job.key) for (split, path), job in zip(each, one.jobs, strict=True)]

    @property
    def _results(self) -> PartResults:
        return PartResults.of(self.workspace, "validate")

    def _inspector(self, state: Mapping[str, Any]) -> Inspector:
        held = {name: state[name] for name in tasks.get(self.task.name).held_to if name in state}
        return Inspector(self.workspace.root, self.task, self.data, self.validation, held, self.near)

    def _key(self, path: Path, inspector: Inspector, made_of: Mapping[str, Any]) -> str:
        """Return the key of what is found in a part."""
        return key_of(path, self.digest(path), {**made_of, "state": inspector.held(self._told.get(path, {}))})

    def _chain(self, split: str, inspector: Inspector) -> list[Inspected]:
        """Inspect the parts of a split one after the other, each with what the earlier ones hold."""
        decides = inspector.decides
        inspector.earlier, found, after = Cleaning(self.data.clean, self.data.privacy), list[Inspected](), ""
        for path in self.files[split]:
            made_of = {**decides, "pictures": self._pictures[path], "after": after}
            key = self._key(path, inspector, made_of)
            after = key_of(path, self.digest(path), made_of)  # its rows are the same whatever labels are known
            is_new = self._results.make([Job(key, path, path)], inspector)
            found.append(self._inspected(split, path, key))
            if not is_new:
                inspector.earlier.remember(found[-1].kept)
        return found

    def _inspected(self, split: str, path: Path, key: str) -> Inspected:
        file = path.relative_to(self.workspace.root).as_posix()
        return Inspected(split, path, file, self._results.folder / key)


@dataclass
class _Gathering:
    """Reads a part for what the task learns, or for the labels that its rows are held to."""

    root: Path
    task: TaskConfig
    data: DataConfig

    def __call__(self, argument: tuple[Path, list[str]], folder: Path, add: Callable[[int], None]) -> None:
        path, without = argument
        one, aside = tasks.get(self.task.name), set(without)
        cleaning = Cleaning(self.data.clean, self.data.privacy)
        read = read_part(path, self.root, one.fields_of(self.task), self.data, cleaning)
        labels = _PrivateLabels(one.fields_of(self.task), self.data, path.relative_to(self.root).as_posix())
        rows = (labels.seen(found) for found in read if isinstance(found, Record) and found.place not in aside)
        gathered = one.gathered(self.task, _counted(rows, add))
        write_json(folder / GATHERED, {} if labels.rows else gathered)  # refused, and kept nowhere
        write_json(folder / PRIVATE_LABELS, {"rows": labels.rows, "first": labels.first})


def _named(fields: Sequence[Field]) -> list[str]:
    """Return the fields whose values are labels or tags."""
    return [one.name for one in fields if one.target and not one.text and one.type in ("label", "labels", "strings")]


class _PrivateLabels:
    """Looks for private data in the labels and tags of rows: each is looked at once."""

    def __init__(self, fields: Sequence[Field], data: DataConfig, file: str) -> None:
        self.columns = {name: data.columns.get(name, name) for name in _named(fields)}
        self.privacy, self.file = data.privacy, file
        self.known: dict[str, str] = {}
        """Label -> the kinds of what is private in it."""
        self.rows, self.first = 0, list[list[str]]()

    def seen(self, record: Record) -> Row:
        """Look at a row's labels and return the row."""
        for name, column in self.columns.items():
            value = record.row[name]
            labels = [value] if isinstance(value, str) else value or ()
            if kinds := ", ".join(filter(None, dict.fromkeys(map(self._kinds, labels)))):
                self.rows += 1
                if len(self.first) < NAMED_LABELS:
                    self.first.append([record.place.removeprefix(self.file), column, NO_LABEL, kinds])
        return record.row

    def _kinds(self, label: str) -> str:
        if label not in self.known:
            self.known[label] = ", ".join(dict.fromkeys(one.kind for one in self.privacy.find(label)))
        return self.known[label]


def _counted(rows: Iterator[Row], add: Callable[[int], None]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if number % COUNTED_ROWS == 0:
            add(COUNTED_ROWS)
        yield row
