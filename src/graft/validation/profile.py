"""A first data contract from the data that is there: what it holds today, as limits and expectations to edit.

A profile is a starting point, not a judgement, but it makes no rule of what is in all likelihood wrong: an empty text
and a label that is another one's misspelling break the proposal, and it says so. Limits are set wide of what was seen
(twice the longest text, half the fewest rows), sets are exactly what was seen.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, parts, read_part
from graft.errors import DataError, shown
from graft.reading import read_rows
from graft.tasks import Field, TaskConfig
from graft.validation.column_profile import BETWEEN, MOST_VALUES, columns_profiled, described
from graft.validation.contract import IN_SET, fields_beside
from graft.validation.frame import Frame, columns_of
from graft.validation.outliers import is_rare_beside, misspellings
from graft.validation.section import ValidationConfig

ID_CHARACTERS = 64
"""The longest text that may be an id."""
FEWEST_CHARACTERS = ValidationConfig().min_characters


@dataclass(frozen=True)
class Proposal:
    """A section ``validation`` for a data set, and what speaks for and against it, in words."""

    section: dict[str, Any]
    seen: list[str]
    """What the data holds, a line each."""
    broken: list[tuple[str, str]]
    """What of the data breaks the section: the key that it breaks (an expectation's is ``expectations.TYPE.COLUMN``),
    and a line."""


@dataclass
class _Seen:
    """What a data set holds."""

    rows: Counter[str] = field(default_factory=Counter)
    refused: list[Problem] = field(default_factory=list)
    unreadable: int = 0
    ids: array[int] = field(default_factory=lambda: array("q"))
    """Hashes: equal ones are one id."""
    fewest: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    """Fields that some row has a value in."""
    empty: dict[str, list[Any]] = field(default_factory=dict)
    """Text field -> how many rows are empty there, and the place of the first."""
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """Field and label -> the first row that has it."""

    def add(self, column: str, values: Sequence[float | int | None]) -> None:
        """Widen the range of a column."""
        known = [value for value in values if value is not None]
        if known:
            self.fewest[column] = min(self.fewest.get(column, math.inf), *known)
            self.most[column] = max(self.most.get(column, -math.inf), *known)


def profiled(
    folder: Path,
    task: TaskConfig,
    data: DataConfig,
    files: Mapping[str, Sequence[Path]] | None = None,
    beside: Sequence[str] = (),
) -> Proposal:
    """Return a section ``validation`` that the data in ``folder`` keeps, but for what is likely wrong in it.

    ``files``: of each split, where the folder is no data folder. ``beside``: columns that the task does not read.

    Raises:
        ConfigError: a column of ``beside`` is the task's own.
        DataError: there is no data, no column of the task or of ``beside`` in it, or no row of a split can be read.
    """
    fields, seen = tasks.get(task.name).fields_of(task), _Seen()
    fields_beside(fields, dict.fromkeys(beside, "string"), data)
    found = files or parts(folder)
    for split, paths in found.items():
        cleaning = Cleaning(data.clean, data.privacy)
        for path in paths:
            frame = Frame(fields)
            for row in read_part(path, folder.parent, fields, data, cleaning):
                if isinstance(row, Problem):
                    seen.refused += [row] if row.of_part else []
                    seen.unreadable += 1
                    continue
                frame.add(row)
                seen.filled.update(name for name, value in row.row.items() if value not in (None, []))
                if row.id is not None:
                    seen.ids.append(hash(row.id))
                seen.rows[split] += 1
            _count(seen, fields, frame)
    _refuse_other_columns(folder, found["train"][0], task, fields, data, seen)
    if nothing := [split for split in found if not seen.rows[split]]:
        names = ", ".join(f"{folder.name}/{split}" for split in nothing)
        raise DataError(f"{names}: no row can be read; `graft run` names what is wrong with each row of data/")
    misspelt = {name: misspellings(counts) for name, counts in seen.labels.items()}
    like_ids = [] if seen.ids else _like_ids(folder, [*chain.from_iterable(found.values())], fields, data)
    columns = columns_profiled(folder, [*chain.from_iterable(found.values())], beside, data)
    section, broken = _section(seen, fields, misspelt), list(_broken(seen, misspelt))
    for name, column in columns.items():
        section.setdefault("columns", {})[name] = column.type
        broken += [(f"columns.{name}", f"{name}: {one}") for one in column.unreadable()]
        for expectation, others in column.expectations():
            section["expectations"].append({**expectation, "severity": "warn"})
            broken += [(f"expectations.{expectation['type']}.{name}", f"{name}: {one}") for one in others]
    return Proposal(section, [*_described(seen), *described(columns), *_without_ids(seen, like_ids)], broken)


def _refuse_other_columns(
    folder: Path, part: Path, task: TaskConfig, fields: Sequence[Field], data: DataConfig, seen: _Seen
) -> None:
    """Refuse data without the task's columns: a profile of what is left of it would say next to nothing."""
    if seen.refused:
        missing = ", ".join(dict.fromkeys(one.field for one in seen.refused))
        title = f"{folder.name}: columns of the task {task.name} are missing: {missing}"
        raise DataError.from_problems(title, map(str, seen.refused))
    if seen.rows and not seen.filled:
        wanted = ", ".join(data.columns.get(one.name, one.name) for one in fields)
        first = next(read_rows(part, folder.parent, data.limits, frozenset()))
        has = "" if isinstance(first, Problem) else f" (got {shown(', '.join(first[1]))})"
        raise DataError(
            f"{folder.name}: columns of the task {task.name} are missing: no row has a value in any of {wanted}{has}; "
            f"`data.columns` in params.yaml names columns that are called otherwise"
        )


def _like_ids(folder: Path, files: Sequence[Path], fields: Sequence[Field], data: DataConfig) -> list[str]:
    """Return the columns of no field that have a short text or a whole number in every row, and each only once."""
    known = {data.columns.get(one.name, one.name) for one in fields}
    candidates: dict[str, set[int]] | None = None
    for path in files:
        for one in read_rows(path, folder.parent, data.limits, frozenset()):
            if isinstance(one, Problem):
                continue
            values = one[1]
            if candidates is None:
                candidates = {name: set() for name in values if name not in known}
            for name, others in list(candidates.items()):
                value = values.get(name)
                is_short = isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS
                is_whole = isinstance(value, int) and not isinstance(value, bool)
                if not (is_short or is_whole) or hash(value) in others:
                    del candidates[name]
                else:
                    others.add(hash(value))
            if not candidates:
                return []
    return list(candidates or ())


def _without_ids(seen: _Seen, like_ids: Sequence[str]) -> Iterator[str]:
    """Yield why the section proposes no unique ids, and what would change that."""
    if seen.ids:
        return
    if not like_ids:
        yield "no column id: unique_ids is false; `data.columns: {id: COLUMN}` in params.yaml names one"
        return
    one = like_ids[0]
    others = f" (so do {', '.join(map(shown, like_ids[1:4]))})" if like_ids[1:] else ""
    yield (
        f"no column id: unique_ids is false; the column {shown(one)} has another value in each row{others}: if it is "
        f"an id, write `data.columns: {{id: {one}}}` in params.yaml and propose again"
    )


def _count(seen: _Seen, fields: Sequence[Field], frame: Frame) -> None:
    for one in fields:
        if one.type == "label":
            for label, place in zip(frame.columns[one.name], frame.places, strict=True):
                if label:
                    seen.labels[one.name][str(label)] += 1
                    seen.places.setdefault((one.name, str(label)), place)
        for column in columns_of(one):
            if column != one.name or one.type == "number":
                seen.add(column, frame.columns[column])
        if one.text:
            visible = frame.columns[f"{one.name} (visible characters)"]
            for count, place in zip(visible, frame.places, strict=True):
                if count is not None and count < FEWEST_CHARACTERS:
                    seen.empty.setdefault(one.name, [0, place])[0] += 1


def _section(seen: _Seen, fields: Sequence[Field], misspelt: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return the section; only what says more than its default."""
    columns = [f"{one.name} (characters)" for one in fields if one.text]
    longest = [seen.most[column] for column in columns if column in seen.most]
    section: dict[str, Any] = {"min_rows": max(1, min(seen.rows.values()) // 2)}
    if longest:
        section |= {"min_characters": FEWEST_CHARACTERS, "max_characters": max(1, _round(2 * max(longest)))}
    section["unique_ids"] = bool(seen.ids)
    section["severity"] = {"readable": "fail"}
    own = []
    for name, counts in sorted(seen.labels.items()):
        labels = sorted(label for label in counts if not _is_slip(label, counts, misspelt[name]))
        if len(labels) <= MOST_VALUES:
            kwargs: dict[str, Any] = {"column": name, "value_set": labels}
            own.append({"type": IN_SET, "kwargs": kwargs, "severity": "fail"})
    for one in fields:
        if one.type == "number" and one.name in seen.most:
            low, high = seen.fewest[one.name], seen.most[one.name]
            kwargs = {"column": one.name, "min_value": low, "max_value": high}
            own.append({"type": BETWEEN, "kwargs": kwargs, "severity": "warn"})
    section["expectations"] = own
    return section


def _is_slip(label: str, counts: Counter[str], misspelt: dict[str, str]) -> bool:
    """Return whether a label is another one's misspelling, and rare: of one with many rows, people decide."""
    return label in misspelt and is_rare_beside(counts[label], counts[misspelt[label]])


def _broken(seen: _Seen, misspelt: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield which key the data breaks, and how."""
    if seen.unreadable:
        yield "severity.readable", f"{_counted(seen.unreadable, 'problem')} of reading: `graft run` names each"
    for name, (count, place) in seen.empty.items():
        verb = "is" if count == 1 else "are"
        yield "min_characters", f"{name}: {_counted(count, 'row')} {verb} empty ({_first(count, place)})"
    if repeated := _repeated(seen.ids):
        verb = "has" if repeated == 1 else "have"
        yield "unique_ids", f"id: {_counted(repeated, 'row')} {verb} an id that another row has"
    for name, others in sorted(misspelt.items()):
        counts = seen.labels[name]
        for label, other in sorted(others.items()):
            at = _first(counts[label], seen.places[name, label])
            line = f"{name}: label {shown(label)} has {_counted(counts[label], 'row')} ({at})"
            if _is_slip(label, counts, others):
                line += f": left out, as {shown(other)} has {counts[other]}"
            else:
                line += f" and {shown(other)} has {counts[other]}: both are kept; are they one?"
            yield f"expectations.{IN_SET}.{name}", line


def _repeated(ids: array[int]) -> int:
    """Return how many of the values an earlier one is equal to."""
    import numpy as np

    return len(ids) - np.unique(np.frombuffer(ids, dtype=np.int64)).size if ids else 0


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _first(count: int, place: str) -> str:
    return place if count == 1 else f"{place}, ..."


def _round(value: float) -> int:
    """Return the next number of two digits and zeros: 1,234 -> 1,300."""
    scale: int = 10 ** max(0, len(str(math.ceil(value))) - 2)
    return math.ceil(value / scale) * scale


def _described(seen: _Seen) -> Iterator[str]:
    yield f"rows: {', '.join(f'{split} {count}' for split, count in seen.rows.items())}"
    yield from (f"{column}: {seen.fewest[column]:g} to {seen.most[column]:g}" for column in seen.most)
    yield from (f"{name}: {_counted(len(counts), 'label')}" for name, counts in sorted(seen.labels.items()))
