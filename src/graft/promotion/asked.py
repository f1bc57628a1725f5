"""Names that gates and evaluation ask for and that are not there, found before anything is trained or scored.

Columns of the test part files and their values, labels, probes, slices, test sets from elsewhere: whether they are
there, and whether evaluate is to measure them. What cannot be known yet (the labels, where no rows were read; the worst
slices, which only the answers show; how many rows a label or a language has) is not asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graft.config import nearest
from graft.data import TEST_SETS, parts, parts_of_test_sets
from graft.errors import shown
from graft.evaluation.traits import NONE

if TYPE_CHECKING:
    from graft.data import DataConfig
    from graft.evaluation import EvaluationConfig
    from graft.evaluation.slices.section import SlicesConfig
    from graft.promotion.section import PromotionConfig
    from graft.tasks import Field, Task, TaskConfig
    from graft.workspace import Workspace

SHOWN_NAMES = 20
FOUND_BY_DATA = ("word=", "has=", " & ")
"""What is in the name of a slice that only the search for the worst ones makes."""


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """Return ``no column 'sorce'; did you mean 'source'?``, or which there are where none is like it."""
    return f"no {what} {shown(name)}; {there(name, known)}"


def there(name: str, known: Sequence[str]) -> str:
    """Return the name that was meant, and which there are."""
    near = nearest(name, known)
    names = ", ".join(known[:SHOWN_NAMES]) + (", ..." if len(known) > SHOWN_NAMES else "")
    return (f"did you mean {near!r}? " if near else "") + f"there are {names or 'none'}"


def wrong_names(
    workspace: Workspace,
    evaluation: EvaluationConfig | None,
    promotion: PromotionConfig | None,
    data: DataConfig,
    task: Task,
    settings: TaskConfig,
    state: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str]]:
    """Yield params section and problem of each name that is not there.

    Args:
        workspace: the project.
        evaluation: the section; None where it cannot be read.
        promotion: as ``evaluation``.
        data: how part files are read.
        task: whose rows they are.
        settings: its section.
        state: what the task learns from training rows; None where that is not known.

    Raises:
        DataError: part files are not there.
    """
    columns = list[_Column]()
    if evaluation is not None:
        columns += [_Column("evaluation.slices.columns", name) for name in evaluation.slices.columns]
        columns += [_Column("evaluation.groups", name) for name in evaluation.groups]
    for number, gate in enumerate(promotion.gates if promotion else ()):
        path = f"promotion.gates.{number}"
        if gate.groups is not None:
            name = data.columns.get(gate.groups, gate.groups)
            columns.append(_Column(f"{path}.groups", name, None, gate.min_rows, values=2))
        if gate.slice is not None and gate.slice.column is not None:
            name = data.columns.get(gate.slice.column, gate.slice.column)
            columns.append(_Column(f"{path}.slice.column", name, gate.slice.value, gate.min_rows))
        if gate.slice is not None and gate.slice.label is not None and state is not None:
            yield from _wrong_label(f"{path}.slice.label", gate.slice.label, state)
        if gate.slice is not None and gate.slice.name is not None and evaluation is not None:
            path_of_name = f"{path}.slice.name"
            yield from _wrong_slice(path_of_name, gate.slice.name, evaluation.slices, state)
            columns += _column_of(path_of_name, gate.slice.name, evaluation.slices, gate.min_rows)
        if gate.probe is not None:
            yield from _wrong_probe(workspace, f"{path}.probe", gate.probe, evaluation, task, settings)
        if gate.test_set is not None:
            yield from _wrong_test_set(workspace, f"{path}.test_set", gate.test_set, evaluation)
    yield from _wrong_columns(workspace, columns, data, task.fields_of(settings))


def _test_sets(workspace: Workspace, evaluation: EvaluationConfig | None) -> list[str]:
    """Return the test sets from elsewhere that evaluate answers."""
    chosen = None if evaluation is None else evaluation.test_sets
    return sorted(name for name in parts_of_test_sets(workspace.data) if chosen is None or name in chosen)


def _wrong_test_set(
    workspace: Workspace, path: str, name: str, evaluation: EvaluationConfig | None
) -> Iterator[tuple[str, str]]:
    answered = _test_sets(workspace, evaluation)
    if name in _test_sets(workspace, None) and name not in answered:
        said = f"{shown(name)} is left out by evaluation.test_sets; it asks for {', '.join(answered) or 'none'}"
        yield path.partition(".")[0], f"{path}: {said}"
    else:
        yield from _wrong(path, "test set", name, answered)


def _wrong_probe(
    workspace: Workspace,
    path: str,
    name: str,
    evaluation: EvaluationConfig | None,
    task: Task,
    settings: TaskConfig,
) -> Iterator[tuple[str, str]]:
    """Say that a probe is not there, or that evaluate would not measure it."""
    from graft.evaluation.probes import every

    section, known = path.partition(".")[0], {one.name: one for one in every()}
    held = {one.name: one for one in known.values() if "base" in one.systems}
    if name not in known:
        yield from _wrong(path, "probe", name, list(held))
        return
    if name not in held:
        yield (
            section,
            f"{path}: {shown(name)} is of one adapter alone, so there is nothing to hold; {there(name, list(held))}",
        )
        return
    if evaluation is None:
        return
    off = {one: probe.unasked(evaluation, task, settings) for one, probe in held.items()}
    if not _test_sets(workspace, evaluation):
        off[TEST_SETS] = off[TEST_SETS] or f"no folder in data/{TEST_SETS}"
    if why := off[name]:
        asked = ", ".join(one for one, left_out in off.items() if left_out is None) or "none"
        said = f"switched off in evaluation.{name}" if why == "off" else why
        yield section, f"{path}: {shown(name)} is not measured: {said}; measured are {asked}"


def _family(name: str, slices: SlicesConfig) -> str | None:
    """Return what a slice of this name is made by: a column, ``label``, ``length``, ``language``; None: nothing."""
    return next((one for one in (*slices.columns, *_families(slices)) if name.startswith(f"{one}=")), None)


def _families(slices: SlicesConfig) -> list[str]:
    made = {"label": slices.labels, "length": slices.lengths, "language": slices.languages}
    return [name for name, on in made.items() if on]


def _column_of(path: str, name: str, slices: SlicesConfig, min_rows: int) -> list[_Column]:
    """Return the column and the value that a slice is of; none where it is of something else, or of many numbers."""
    family = _family(name, slices)
    value = name.removeprefix(f"{family}=")
    if family not in slices.columns or _by_data(name, slices) or re.fullmatch(r"\d/4", value):
        return []
    least = max(min_rows, slices.least_rows)  # a slice of fewer than the second is not measured
    return [_Column(path, str(family), None if value == NONE else value, least)]


def _by_data(name: str, slices: SlicesConfig) -> bool:
    return bool(slices.worst) and any(mark in name for mark in FOUND_BY_DATA)


def _wrong_slice(
    path: str, name: str, slices: SlicesConfig, state: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    """Say that evaluate makes no slice of this name, as far as its section says which there are."""
    if _by_data(name, slices):
        return
    family = _family(name, slices)
    if family is None:
        made = ", ".join(f"{one}=..." for one in (*_families(slices), *slices.columns)) or "none"
        advice = "name its column in evaluation.slices.columns, or switch its kind on in evaluation.slices"
        yield path.partition(".")[0], f"{path}: evaluate makes no slice {shown(name)}; it makes {made}: {advice}"
    elif family in slices.columns:
        return  # its values are asked with those of other columns
    elif family == "length":
        quarters = [f"length={number}/{slices.lengths}" for number in range(1, slices.lengths + 1)]
        yield from _wrong(path, "slice", name, quarters)
    elif family == "label" and state is not None and "labels" in state:
        yield from _wrong(path, "slice", name, [f"label={one}" for one in state["labels"]])


def _wrong(path: str, what: str, name: str, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    if name not in known:
        yield path.partition(".")[0], f"{path}: {unknown(what, name, known)}"


def _wrong_label(path: str, label: str, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "labels" in state:
        yield from _wrong(path, "label", label, list(map(str, state["labels"])))
    else:
        yield path.partition(".")[0], f"{path}: {shown(label)}: the rows of this task have no label"


@dataclass(frozen=True)
class _Column:
    """A column of the test part files that something asks for."""

    path: str
    name: str
    value: str | None = None
    """What a row must have in it."""
    least: int = 1
    """How many rows must have that value, or each of ``values`` values."""
    values: int = 0

    def enough(self, counts: Counter[str]) -> bool:
        """Return whether the rows that were counted so far have what is asked for."""
        if self.value is None:
            return sum(count >= self.least for count in counts.values()) >= self.values
        return counts[self.value] >= self.least


def _wrong_columns(
    workspace: Workspace, asked: Sequence[_Column], data: DataConfig, fields: Sequence[Field]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with columns of the test part files: not there, or too few rows for a gate ever to hold."""
    known = [replace(one, value=one.value and str(data.privacy.redacted(one.value))) for one in asked]
    seen = _values(workspace, known, data, fields)
    for one in known:
        section = one.path.partition(".")[0]
        place = f"{one.path.removesuffix('column')}value" if one.path.endswith(".column") else one.path
        if one.name not in seen:
            yield section, f"{one.path}: {unknown('column', one.name, sorted(seen))}"
        elif one.value is not None and one.value not in seen[one.name]:
            said = f"no row has {one.name} {shown(one.value)}; {there(one.value, sorted(seen[one.name]))}"
            yield section, f"{place}: {said}"
        elif not one.enough(seen[one.name]):
            yield section, f"{place}: {_few(one, seen[one.name])}"


def _few(one: _Column, counts: Counter[str]) -> str:
    if one.value is not None:
        return (
            f"{counts[one.value]} test rows have {one.name} {shown(one.value)}, and a gate needs {one.least} "
            "(min_rows, or evaluation.slices.least_rows): it could not pass; take other rows, or lower these"
        )
    most = ", ".join(f"{shown(name)} {count}" for name, count in counts.most_common(SHOWN_NAMES)) or "none"
    return (
        f"fewer than {one.values} values of {one.name} have {one.least} test rows (min_rows; there are {most}): a gap "
        "needs two; take another column, or lower min_rows"
    )


def _values(
    workspace: Workspace, wanted: Sequence[_Column], data: DataConfig, fields: Sequence[Field]
) -> dict[str, Counter[str]]:
    """Return the columns of the test rows, and how often the values of those asked for are there, as slices name them.

    Reading ends where all that is asked for was seen: files that have it are not read to their end.
    """
    from graft.evaluation.traits import named, plain
    from graft.reading import Problem, read_rows

    pictures = frozenset(data.columns.get(one.name, one.name) for one in fields if one.type == "image")
    valued = {one.name for one in wanted if one.value is not None or one.values}
    open_, found = list(wanted), dict[str, Counter[str]]()
    for path in parts(workspace.data)["test"] if open_ else ():
        for one in read_rows(path, workspace.root, data.limits, pictures):
            if isinstance(one, Problem):
                continue
            place, row = one
            for name in row:
                counts = found.setdefault(name, Counter())
                if name in valued and (value := plain(row[name], place, name, data)) is not None:
                    counts.update(named([value]))
            open_ = [each for each in open_ if each.name not in row or not each.enough(found[each.name])]
            if not open_:
                return found
    return found
