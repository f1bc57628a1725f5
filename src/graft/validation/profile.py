"""A first data contract from the data that is there: what it holds today, as limits and expectations to edit.

A profile is a starting point, not a judgement: it takes the present rows for good ones. Limits are set wide of what was
seen (twice the longest text, half the fewest rows), sets are exactly what was seen.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, parts, read_part
from graft.errors import DataError
from graft.tasks import TaskConfig
from graft.validation.frame import Frame, columns_of

MOST_LABELS = 200
"""A field with more labels gets no set: nobody would edit it."""


@dataclass
class _Seen:
    """What a data set holds."""

    rows: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    ids: bool = False
    fewest: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)

    def add(self, column: str, values: list[float | int | None]) -> None:
        """Widen the range of a column."""
        known = [value for value in values if value is not None]
        if known:
            self.fewest[column] = min(self.fewest.get(column, math.inf), *known)
            self.most[column] = max(self.most.get(column, -math.inf), *known)


def profiled(folder: Path, task: TaskConfig, data: DataConfig) -> tuple[dict[str, Any], list[str]]:
    """Return a section ``validation`` that the data in ``folder`` keeps, and what was seen, a line each.

    Raises:
        DataError: there is no data, or no row can be read.
    """
    one = tasks.get(task.name)
    fields, seen = one.fields_of(task), _Seen()
    for split, files in parts(folder).items():
        cleaning = Cleaning(data.clean, data.privacy)
        for path in files:
            frame = Frame(fields)
            for found in read_part(path, folder.parent, fields, data, cleaning):
                if isinstance(found, Problem):
                    seen.unreadable += 1
                    continue
                frame.add(found)
                seen.ids = seen.ids or found.id is not None
                seen.rows[split] += 1
            _count(seen, fields, frame)
    if not sum(seen.rows.values()):
        raise DataError(f"{folder.name}: no row can be read; `graft run` names what is wrong with each")
    return _section(seen, fields), list(_described(seen))


def _count(seen: _Seen, fields: Any, frame: Frame) -> None:
    for one in fields:
        if one.type == "label":
            seen.labels.setdefault(one.name, set()).update(map(str, filter(None, frame.columns[one.name])))
        for column in columns_of(one):
            if column != one.name or one.type == "number":
                seen.add(column, frame.columns[column])


def _section(seen: _Seen, fields: Any) -> dict[str, Any]:
    """Return the section; only what says more than its default."""
    texts = [one.name for one in fields if one.text]
    shortest = [seen.fewest[f"{name} (visible characters)"] for name in texts if f"{name} (characters)" in seen.most]
    longest = [seen.most[f"{name} (characters)"] for name in texts if f"{name} (characters)" in seen.most]
    section: dict[str, Any] = {"min_rows": max(1, min(seen.rows.values()) // 2)}
    if longest:
        section |= {"min_characters": int(min(1, *shortest)), "max_characters": _round(2 * max(longest))}
    section["unique_ids"] = seen.ids
    section["severity"] = {"readable": "fail"}
    own = []
    for name, labels in sorted(seen.labels.items()):
        if 0 < len(labels) <= MOST_LABELS:
            kwargs: dict[str, Any] = {"column": name, "value_set": sorted(labels)}
            own.append({"type": "expect_column_values_to_be_in_set", "kwargs": kwargs, "severity": "fail"})
    for one in fields:
        if one.type == "number" and one.name in seen.most:
            low, high = seen.fewest[one.name], seen.most[one.name]
            kwargs = {"column": one.name, "min_value": low, "max_value": high}
            own.append({"type": "expect_column_values_to_be_between", "kwargs": kwargs, "severity": "warn"})
    section["expectations"] = own
    return section


def _round(value: float) -> int:
    """Return the next number of two digits and zeros: 1,234 -> 1,300."""
    scale: int = 10 ** max(0, len(str(math.ceil(value))) - 2)
    return math.ceil(value / scale) * scale


def _described(seen: _Seen) -> list[str]:
    rows = ", ".join(f"{split} {count}" for split, count in seen.rows.items())
    lines = [f"rows: {rows}" + (f"; {seen.unreadable} problems of reading" if seen.unreadable else "")]
    lines += [f"{column}: {seen.fewest[column]:g} to {seen.most[column]:g}" for column in seen.most]
    lines += [f"{name}: {len(labels)} labels" for name, labels in sorted(seen.labels.items())]
    return lines
