"""What is known of each test row beside its answer: columns of the part files, tokens, language, labels.

Slices and groups are made of it. A column may be one that the task does not read (``source``), so the part files are
read once more, by the strict reader, and only the named columns are kept.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.config import nearest
from graft.data import DataConfig, Record, parts
from graft.errors import DataError, shown
from graft.reading import Problem, describe, read_rows
from graft.tasks import Field

NONE = "(none)"
"""The value of a row that has no value in a column."""


@dataclass(frozen=True)
class Traits:
    """The test rows as slices see them, N of each."""

    places: Sequence[str]
    texts: Sequence[str] = ()
    """What a row gives the model to read, without what is private; empty where that is no text."""
    lengths: Sequence[int] = ()
    """Tokens before anything is cut; empty where the task has none."""
    labels: Sequence[Sequence[str]] = ()
    """The right labels of a row; empty where the task has none."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By column of the files: text, a number, or None."""


def traits(
    test: Sequence[Record],
    texts: Sequence[str],
    fields: Sequence[Field],
    *,
    lengths: Sequence[int],
    columns: Mapping[str, Sequence[str]],
    data: DataConfig,
    folder: Path,
) -> Traits:
    """Return what is known of the test rows.

    Args:
        test: the rows.
        texts: the text of each row, for people.
        fields: the task's fields.
        lengths: tokens of each row; empty where the task reads pictures.
        columns: by setting (``evaluation.groups``), the columns that it names.
        data: how part files are read, and what is private.
        folder: the data folder.

    Raises:
        DataError: a column is in no test row, or a value is neither text nor a number; the setting is named.
    """
    pictures = any(one.type == "image" for one in fields)
    label = next((one for one in fields if one.target and one.type in ("label", "labels")), None)
    answers = [record.row[label.name] for record in test] if label else []
    return Traits(
        places=[record.place for record in test],
        texts=[] if pictures else [data.privacy.redacted(text) for text in texts],
        lengths=[] if pictures else lengths,
        labels=[[one] if isinstance(one, str) else list(one) for one in answers],
        columns=_columns(columns, [record.place for record in test], fields, data, folder),
    )


def _columns(
    settings: Mapping[str, Sequence[str]],
    places: Sequence[str],
    fields: Sequence[Field],
    data: DataConfig,
    folder: Path,
) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for wanted in settings.values() for name in wanted))
    if not names:
        return {}
    rows = _read(names, set(places), fields, data, folder)
    known = Counter(column for values, present in rows.values() for column in present)
    for setting, wanted in settings.items():
        for name in wanted:
            if name not in known:
                near = nearest(name, list(known))
                raise DataError(
                    f"{setting}: no test row has the column {shown(name)}; the columns are {', '.join(sorted(known))}"
                    + (f"; did you mean {near!r}?" if near else "")
                )
    return {name: [plain(rows[place][0].get(name), place, name, data) for place in places] for name in names}


def _read(
    names: Sequence[str], places: set[str], fields: Sequence[Field], data: DataConfig, folder: Path
) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """Return the named columns of the rows at ``places``, and the names of all that each has."""
    pictures = frozenset(data.columns.get(one.name, one.name) for one in fields if one.type == "image")
    found: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}
    for path in parts(folder)["test"]:
        for one in read_rows(path, folder.parent, data.limits, pictures):
            if not isinstance(one, Problem) and one[0] in places:
                place, values = one
                found[place] = {name: values[name] for name in names if name in values}, tuple(values)
    return found


def plain(value: Any, place: str, column: str, data: DataConfig) -> str | float | None:
    """Return a value as slices are named by it: text, or a finite number, without what is private, or None."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value)):
        told: str | float = data.privacy.redacted(value)
        return told
    raise DataError(f"{place}: {column}: slices and groups are of text or numbers, found {describe(value)}")


def named(values: Iterable[Any]) -> list[str]:
    """Return values as the names of their slices: whole numbers without a point, ``(none)`` for None."""
    return [NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def numbers(values: Sequence[Any]) -> list[float] | None:
    """Return a column's values as numbers (NaN for None), or None where one is no number.

    In CSV files everything is text, so a text that is a number counts.
    """
    try:
        return [math.nan if value is None else float(value) for value in values]
    except ValueError:
        return None
