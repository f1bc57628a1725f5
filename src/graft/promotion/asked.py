"""Names that gates and evaluation ask for and that are not there, found before anything is trained or scored.

Columns of the test part files and their values, labels, probes, test sets from elsewhere. What cannot be known yet (the
labels, where no rows were read) is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.config import nearest
from graft.data import parts, parts_of_test_sets
from graft.errors import shown

if TYPE_CHECKING:
    from graft.data import DataConfig
    from graft.evaluation import EvaluationConfig
    from graft.promotion.section import PromotionConfig
    from graft.tasks import Field
    from graft.workspace import Workspace

SHOWN_NAMES = 20


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
    fields: Sequence[Field],
    state: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str]]:
    """Yield params section and problem of each name that is not there.

    Args:
        workspace: the project.
        evaluation: the section; None where it cannot be read.
        promotion: as ``evaluation``.
        data: how part files are read.
        fields: the task's.
        state: what the task learns from training rows; None where that is not known.

    Raises:
        DataError: part files are not there.
    """
    columns: list[tuple[str, str, str | None]] = []
    if evaluation is not None:
        columns += [("evaluation.slices.columns", name, None) for name in evaluation.slices.columns]
        columns += [("evaluation.groups", name, None) for name in evaluation.groups]
    for number, gate in enumerate(promotion.gates if promotion else ()):
        path = f"promotion.gates.{number}"
        if gate.groups is not None:
            columns.append((f"{path}.groups", data.columns.get(gate.groups, gate.groups), None))
        if gate.slice is not None and gate.slice.column is not None:
            name = data.columns.get(gate.slice.column, gate.slice.column)
            columns.append((f"{path}.slice.column", name, gate.slice.value))
        if gate.slice is not None and gate.slice.label is not None and state is not None:
            yield from _wrong_label(f"{path}.slice.label", gate.slice.label, state)
        if gate.probe is not None:
            yield from _wrong(f"{path}.probe", "probe", gate.probe, _probes())
        if gate.test_set is not None:
            yield from _wrong(f"{path}.test_set", "test set", gate.test_set, sorted(parts_of_test_sets(workspace.data)))
    yield from _wrong_columns(workspace, columns, data, fields)


def _probes() -> list[str]:
    from graft.evaluation.probes import every

    return [one.name for one in every()]


def _wrong(path: str, what: str, name: str, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    if name not in known:
        yield path.partition(".")[0], f"{path}: {unknown(what, name, known)}"


def _wrong_label(path: str, label: str, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "labels" in state:
        yield from _wrong(path, "label", label, list(map(str, state["labels"])))
    else:
        yield path.partition(".")[0], f"{path}: {shown(label)}: the rows of this task have no label"


def _wrong_columns(
    workspace: Workspace, asked: Sequence[tuple[str, str, str | None]], data: DataConfig, fields: Sequence[Field]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with columns of the test part files, by path, name and the value that a row must have."""
    seen = _values(workspace, [(name, value) for _, name, value in asked], data, fields)
    for path, name, value in asked:
        section, wanted = path.partition(".")[0], None if value is None else str(data.privacy.redacted(value))
        if name not in seen:
            yield section, f"{path}: {unknown('column', name, sorted(seen))}"
        elif wanted is not None and wanted not in seen[name]:
            said = f"no row has {name} {shown(wanted)}; {there(wanted, sorted(seen[name]))}"
            yield section, f"{path.removesuffix('column')}value: {said}"


def _values(
    workspace: Workspace, wanted: Sequence[tuple[str, str | None]], data: DataConfig, fields: Sequence[Field]
) -> dict[str, set[str]]:
    """Return the columns of the test rows, and their values where one is asked for, as slices name them.

    Reading ends where all that is asked for was seen: files that have it are not read to their end.
    """
    from graft.evaluation.traits import named, plain
    from graft.reading import Problem, read_rows

    pictures = frozenset(data.columns.get(one.name, one.name) for one in fields if one.type == "image")
    valued, open_, found = {name for name, value in wanted if value is not None}, set(wanted), dict[str, set[str]]()
    for path in parts(workspace.data)["test"] if open_ else ():
        for one in read_rows(path, workspace.root, data.limits, pictures):
            if isinstance(one, Problem):
                continue
            place, row = one
            for name in row:
                values = found.setdefault(name, set())
                open_.discard((name, None))
                if name in valued and (value := plain(row[name], place, name, data)) is not None:
                    values.update(said := named([value]))
                    open_.discard((name, said[0]))
            if not open_:
                return found
    return found
