"""Slices: the headline metric on parts of the test rows, where an average hides what fails.

Slices that somebody can name beforehand (``known``) are each compared with the rest of the rows, with Holm's correction
over all of them; the worst ones that the data itself names are searched for on one half of the rows and tested on the
other (``worst``). Which row is in which slice is written beside the predictions, so that a promotion's gate can hold a
metric on one slice, of a champion too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config import nearest
from graft.errors import DataError, shown
from graft.evaluation.comparison import holm
from graft.evaluation.contrasts import Contrast, contrast
from graft.evaluation.findings import percent
from graft.evaluation.intervals import Drawn, Interval, Resampling, Taken, interval, rounded
from graft.evaluation.overview import format_cell
from graft.evaluation.prediction import read, write
from graft.evaluation.probes import Finding
from graft.evaluation.slices.known import Cut, Slice, by_column, known
from graft.evaluation.slices.section import SlicesConfig
from graft.evaluation.slices.worst import Found, Search, search
from graft.evaluation.traits import Traits

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.report import Drawing
    from graft.tasks import Metric, Task

    Table = Mapping[str, np.ndarray]

__all__ = [
    "FILE",
    "Cut",
    "Measured",
    "Slice",
    "Sliced",
    "SlicesConfig",
    "by_column",
    "finding",
    "mask_of",
    "measure",
    "plot_rows",
    "write_masks",
]

FILE = "slices.parquet"
"""In ``artifacts/evaluation``: ``row`` and a column of truth values for each slice, by its name."""
SHOWN_LEFT_OUT = 10
RESAMPLES = 500
"""Bootstrap resamples of a slice at most: there are many slices, and their intervals are read to two digits."""


@dataclass(frozen=True)
class Measured:
    """A slice, its metric, and how it differs from the rest of the rows."""

    slice: Slice
    rows: int
    value: Interval
    contrast: Contrast
    """Slice minus rest."""
    p_holm: float

    def as_json(self) -> dict[str, Any]:
        """Return rows, value and difference with their intervals, rounded, null for NaN."""
        difference = self.contrast.difference.as_json()
        return {
            "rows": self.rows,
            **self.value.as_json(),
            "difference": difference["value"],
            "difference_low": difference["low"],
            "difference_high": difference["high"],
            "p_holm": rounded(self.p_holm),
        }


@dataclass(frozen=True)
class Sliced:
    """All slices of one prediction table."""

    metric: str
    smaller_is_better: bool
    overall: float
    level: float
    """At which a slice is called worse, for all slices together."""
    known: Sequence[Measured]
    left_out: Sequence[tuple[str, int, str]]
    worst: Sequence[tuple[Found, Measured]] = ()
    """Measured on the confirming half alone."""
    search: Search | None = None
    searched_by: str = ""
    """The metric whose row scores the search used."""
    not_searched: str = ""
    """Why nothing was searched for."""

    @property
    def slices(self) -> list[Slice]:
        """All slices with rows to name."""
        return [one.slice for one in self.known] + [found.slice for found, _ in self.worst]

    @property
    def worse(self) -> list[Measured]:
        """Return the known slices that are shown to be worse than the rest, corrected for all, worst first."""
        found = [one for one in self.known if one.p_holm <= self.level and self._below(one) > 0]
        return sorted(found, key=self._below, reverse=True)

    def _below(self, one: Measured) -> float:
        """Return by how much a slice is worse than the rest."""
        return one.contrast.difference.value * (1 if self.smaller_is_better else -1)

    def as_json(self) -> dict[str, Any]:
        """Return what metrics.json holds."""
        found: dict[str, Any] = {
            "metric": self.metric,
            "known": {one.slice.name: one.as_json() for one in self.known},
            "left_out": len(self.left_out),
        }
        if self.search is not None:
            found["worst"] = {
                "looked_at": self.search.looked_at,
                "searched_rows": self.search.searched_rows,
                "confirming_rows": self.search.confirming_rows,
                "tested": len(self.worst),
                "found": {
                    found.slice.name: {**measured.as_json(), "confirmed": found.confirmed}
                    for found, measured in self.worst
                },
            }
        return found


def measure(task: Task, table: Table, traits: Traits, config: SlicesConfig, how: Resampling) -> Sliced:
    """Measure the headline metric of a prediction table on all slices.

    Args:
        task: the headline metric, and a metric with row scores for the search.
        table: N rows, in the order of ``traits``.
        traits: what is known of the rows.
        config: which slices.
        how: level, resamples, seed.
    """
    metric = task.metric(task.headline)
    how = Drawn(how.confidence, min(how.resamples, RESAMPLES), how.seed)
    cut = known(traits, config)
    contrasts = [_against_rest(metric, table, one.mask, how) for one in cut.slices]
    corrected = holm([result.p for result in contrasts])
    measured = [
        Measured(one, int(one.mask.sum()), _on(metric, table, one.mask, how), result, p)
        for one, result, p in zip(cut.slices, contrasts, corrected, strict=True)
    ]
    ranked = _ranking(task)
    reason = _not_searched(ranked, table, config)
    searched = search(ranked, dict(table), traits, config, how) if ranked and not reason else None
    return Sliced(
        metric=metric.name,
        smaller_is_better=not metric.greater_is_better,
        overall=float(metric.function(table)),
        level=1 - how.confidence,
        known=measured,
        left_out=cut.left_out,
        worst=[(one, _confirmed(metric, table, one, how)) for one in searched.found] if searched else [],
        search=searched,
        searched_by=ranked.name if ranked else "",
        not_searched=reason,
    )


def _ranking(task: Task) -> Metric | None:
    """Return the metric whose row scores say how bad a row is: the headline, or the one that ranks errors."""
    named = [task.metric(name) for name in (task.headline, task.worst) if name]
    return next((one for one in [*named, *task.metrics] if one.per_row is not None), None)


def _not_searched(ranked: Metric | None, table: Table, config: SlicesConfig) -> str:
    if not config.worst:
        return "switched off (evaluation.slices.worst: 0)"
    if ranked is None or ranked.per_row is None:
        return "no metric of this task has a score for each row"
    rows = len(table["row"])
    if rows < 4 * config.least_rows:
        return f"{rows} test rows are too few to search in one half and test in the other"
    return ""


def _on(metric: Metric, table: Table, mask: np.ndarray, how: Resampling) -> Interval:
    import numpy as np

    return interval(metric, dict(Taken(table, np.flatnonzero(mask))), how)


def _against_rest(metric: Metric, table: Table, mask: np.ndarray, how: Resampling) -> Contrast:
    import numpy as np

    return contrast(metric, table, np.flatnonzero(mask), np.flatnonzero(~mask), how)


def _confirmed(metric: Metric, table: Table, one: Found, how: Resampling) -> Measured:
    """Return what the confirming half says of a found slice."""
    value = interval(metric, dict(Taken(table, one.confirming_rows)), how)
    return Measured(one.slice, len(one.confirming_rows), value, one.contrast, one.p_holm)


# -- which row is in which slice


def write_masks(folder: Path, rows: Sequence[str], slices: Sequence[Slice]) -> None:
    """Write which of ``rows`` [N] is in which slice to a folder of evaluation."""
    import numpy as np

    write(folder / FILE, {"row": np.array(rows, dtype=object), **{one.name: one.mask for one in slices}})


def mask_of(where: Path | Table, name: str, rows: Sequence[str] | None = None) -> np.ndarray:
    """Return which rows are in a slice: bool [N].

    Args:
        where: a folder of evaluation, or the table that it holds (:data:`FILE`).
        name: the slice, as metrics.json names it.
        rows: the places that N is of, such as a champion's ``row`` column; default: those of the table.

    Raises:
        DataError: there is no such slice, or a row is not of this test split.
    """
    import numpy as np

    table = read(where / FILE) if isinstance(where, Path) else where
    if name not in table or name == "row":
        names = [one for one in table if one != "row"]
        near = nearest(name, names)
        raise DataError(
            f"slice {shown(name)}: there is none of that name; "
            + (f"did you mean {near!r}? " if near else "")
            + f"evaluate measured {len(names)} slices (metrics.json, slices.known)"
        )
    mask = np.asarray(table[name], dtype=bool)
    if rows is None:
        return mask
    place = {row: number for number, row in enumerate(table["row"])}
    missing = [row for row in rows if row not in place]
    if missing:
        raise DataError(f"{missing[0]}: not a row that slices were made of; run `graft stage evaluate`")
    found: np.ndarray = mask[np.array([place[row] for row in rows], dtype=np.int64)]
    return found


# -- for people


def plot_rows(sliced: Sliced) -> list[dict[str, Any]]:
    """Return the known slices and the found ones, with value, interval, and whether they are shown to be worse."""
    worse = {one.slice.name for one in sliced.worse}
    lines = [(one, one.slice.name in worse) for one in sliced.known]
    lines += [(one, found.confirmed) for found, one in sliced.worst]
    return [
        {
            "slice": one.slice.name,
            "rows": one.rows,
            "value": one.value.value,
            "low": one.value.low,
            "high": one.value.high,
            "worse": shown,
        }
        for one, shown in lines
        if one.value.value == one.value.value
    ]


def finding(sliced: Sliced, how: Resampling, drawings: Sequence[Drawing] = ()) -> Finding:
    """Return the section of the report."""
    worse = sliced.worse
    return Finding(
        title=f"Slices, by {sliced.metric}",
        text=" ".join([*_about_known(sliced, worse, how), *_about_search(sliced, how)]),
        values={},
        tables={
            "Worst slices found, on the half that tests": [
                {**_line(one), "confirmed": "yes" if found.confirmed else "no"} for found, one in sliced.worst
            ],
            "Slices by what is known of rows": [_line(one) for one in sliced.known],
            "Not measured": [
                {"slice": name, "rows": rows, "why": why} for name, rows, why in sliced.left_out[:SHOWN_LEFT_OUT]
            ],
        },
        drawings=drawings,
        limits=[
            f"Weaker where `{one.slice.name}`{_range(one.slice)}: {sliced.metric} {_shown(one.value.value)} on "
            f"{one.rows} test rows, {_signed(one.contrast.difference.value)} against the rest."
            for one in [*worse[:3], *(measured for found, measured in sliced.worst if found.confirmed)]
        ],
    )


def _about_known(sliced: Sliced, worse: Sequence[Measured], how: Resampling) -> list[str]:
    if not sliced.known:
        return ["No slice has enough test rows to be measured."]
    said = f"{len(sliced.known)} slices were compared with the rest of the test rows."
    if not worse:
        return [said, f"None is worse at {percent(1 - how.confidence)} for all of them together (Holm)."]
    names = ", ".join(one.slice.name for one in worse[:5])
    return [said, f"Worse at {percent(1 - how.confidence)} for all of them together (Holm): {names}."]


def _about_search(sliced: Sliced, how: Resampling) -> list[str]:
    if sliced.search is None:
        return [f"The worst slices were not searched for: {sliced.not_searched}."]
    one, confirmed = sliced.search, sum(found.confirmed for found, _ in sliced.worst)
    by = "" if sliced.searched_by == sliced.metric else f" by {sliced.searched_by}"
    return [
        f"In {one.searched_rows} rows, {one.looked_at} descriptions were looked at{by}, and {len(sliced.worst)} tested "
        f"on the {one.confirming_rows} others, which the search did not see: {confirmed} of them confirmed at "
        f"{percent(1 - how.confidence)} for all (Holm)."
    ]


def _line(one: Measured) -> dict[str, Any]:
    value, difference = one.value, one.contrast.difference
    return {
        "slice": f"{one.slice.name}{_range(one.slice)}",
        "rows": one.rows,
        "value": format_cell(*(rounded(number) for number in (value.value, value.low, value.high))),
        "against_the_rest": _with_sign(difference),
        "p_corrected": "–" if one.p_holm != one.p_holm else "< 0.0001" if one.p_holm < 0.0001 else f"{one.p_holm:.4f}",
    }


def _range(one: Slice) -> str:
    return f" ({one.about})" if one.about else ""


def _shown(value: float) -> str:
    return format_cell(rounded(value), None, None)


def _signed(value: float) -> str:
    return "not defined" if value != value else f"{value:+.3f}"


def _with_sign(one: Interval) -> str:
    return f"{_signed(one.value)} [{one.low:+.3f}, {one.high:+.3f}]" if one.low == one.low else _signed(one.value)
