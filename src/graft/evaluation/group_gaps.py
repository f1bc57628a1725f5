"""Gaps between groups that the data names, for the question whether the adapter serves one worse than another.

The largest gap of a column is between the two groups that were seen to be furthest apart; its interval is a bootstrap
of that difference (BCa, each group by its own rows). Of many groups two are always apart, so the question whether the
gap is chance has a test of its own: the groups' names are exchanged among the rows, and the largest gap of every
exchange is what chance alone makes (a permutation test of the range).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.evaluation.contrasts import bootstrapped
from graft.evaluation.findings import percent
from graft.evaluation.intervals import Interval, Resampling, Taken, interval, rounded
from graft.evaluation.overview import format_cell
from graft.evaluation.probes import Finding
from graft.evaluation.slices.known import Slice, by_column
from graft.evaluation.slices.section import SlicesConfig
from graft.evaluation.traits import NONE, Traits

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

    Table = Mapping[str, np.ndarray]

EXCHANGES = 2000
"""How often the groups' names are exchanged."""


@dataclass(frozen=True)
class Gap:
    """The groups of one column, and how far apart the best and the worst are."""

    column: str
    metric: str
    slices: Sequence[Slice]
    values: Sequence[Interval]
    """One per slice."""
    left_out: Sequence[tuple[str, int, str]]
    best: str = ""
    worst: str = ""
    gap: Interval = Interval(math.nan, math.nan, math.nan, "none")  # noqa: RUF009  (frozen)
    """Best minus worst, never negative, whichever way the metric goes."""
    p: float = math.nan
    """The chance of such a gap, or a larger one, if the groups are alike."""

    def as_json(self) -> dict[str, Any]:
        """Return what metrics.json holds of it."""
        return {
            "metric": self.metric,
            "groups": {
                one.name: {"rows": int(one.mask.sum()), **value.as_json()}
                for one, value in zip(self.slices, self.values, strict=True)
            },
            "left_out": len(self.left_out),
            "best": self.best,
            "worst": self.worst,
            "gap": self.gap.as_json(),
            "p": rounded(self.p),
        }


def measure(
    metric: Metric, table: Table, traits: Traits, columns: Sequence[str], config: SlicesConfig, how: Resampling
) -> list[Gap]:
    """Return the groups and the gap of each column, by ``metric`` over a table of N rows."""
    return [_measured(metric, table, name, traits.columns[name], config, how) for name in columns]


def largest_gap(metric: Metric, table: Table, masks: Sequence[np.ndarray]) -> float:
    """Return the largest difference of the metric between two groups of rows (bool [N] each); NaN below two values."""
    import numpy as np

    values = [float(metric.function(Taken(table, np.flatnonzero(mask)))) for mask in masks]
    finite = [value for value in values if math.isfinite(value)]
    return max(finite) - min(finite) if len(finite) > 1 else math.nan


def _measured(
    metric: Metric, table: Table, column: str, given: Sequence[Any], config: SlicesConfig, how: Resampling
) -> Gap:
    import numpy as np

    cut = by_column(column, given, config)
    groups = [one for one in cut.slices if one.name != f"{column}={NONE}"]
    left_out = [
        *cut.left_out,
        *((one.name, int(one.mask.sum()), "no value") for one in cut.slices if one.name == f"{column}={NONE}"),
    ]
    rows = [np.flatnonzero(one.mask) for one in groups]
    values = [interval(metric, dict(Taken(table, index)), how) for index in rows]
    ranked = sorted(
        (place for place, value in enumerate(values) if math.isfinite(value.value)),
        key=lambda place: values[place].value,
        reverse=metric.greater_is_better,
    )
    if len(ranked) < 2:
        return Gap(column, metric.name, groups, values, left_out)
    best, worst = ranked[0], ranked[-1]
    sign = 1 if metric.greater_is_better else -1

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return sign * float(metric.function(Taken(table, first)) - metric.function(Taken(table, second)))

    low, high, _, method = bootstrapped(difference, rows[best], rows[worst], how)
    return Gap(
        column=column,
        metric=metric.name,
        slices=groups,
        values=values,
        left_out=left_out,
        best=groups[best].name,
        worst=groups[worst].name,
        gap=Interval(difference(rows[best], rows[worst]), low, high, method),
        p=_by_chance(metric, table, rows, how.seed),
    )


def _by_chance(metric: Metric, table: Table, groups: Sequence[np.ndarray], seed: int) -> float:
    """Return the share of exchanges of the groups' names that make a gap as large as the one seen."""
    import numpy as np

    source = np.random.default_rng(seed)
    everyone, sizes = np.concatenate(groups), np.array([len(rows) for rows in groups])
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    scores = None if metric.per_row is None else np.asarray(metric.per_row(table), dtype=np.float64)

    def spread(order: np.ndarray) -> float:
        if scores is None:
            values = np.array([float(metric.function(Taken(table, part))) for part in np.split(order, starts[1:])])
        else:
            values = np.add.reduceat(scores[order], starts) / sizes
        finite = values[np.isfinite(values)]
        return float(finite.max() - finite.min()) if len(finite) > 1 else 0.0

    seen = spread(everyone)
    as_large = sum(spread(source.permutation(everyone)) >= seen - 1e-12 for _ in range(EXCHANGES))
    return (as_large + 1) / (EXCHANGES + 1)


def as_json(gaps: Sequence[Gap]) -> dict[str, Any]:
    """Return what metrics.json holds, by column."""
    return {one.column: one.as_json() for one in gaps}


def finding(gaps: Sequence[Gap], how: Resampling) -> Finding:
    """Return the section of the report."""
    return Finding(
        title=f"Groups, by {gaps[0].metric}",
        text=" ".join(_said(one, how) for one in gaps),
        values={},
        tables={f"Groups by {one.column}": _lines(one) for one in gaps}
        | {
            "Groups that are not measured": [
                {"group": name, "rows": rows, "why": why} for one in gaps for name, rows, why in one.left_out
            ]
        },
        limits=[limit for one in gaps for limit in _limits(one, how)],
    )


def _said(one: Gap, how: Resampling) -> str:
    if not math.isfinite(one.gap.value):
        return f"{one.column}: fewer than two groups have enough test rows."
    verdict = "more than chance makes" if one.p <= 1 - how.confidence else "no more than chance may make"
    return (
        f"{one.column}: the largest gap is {one.gap.value:.3f} ({percent(how.confidence)} interval {one.gap.low:+.3f} "
        f"to {one.gap.high:+.3f}), {one.best} before {one.worst}: {verdict} (p {one.p:.4f}, names of groups exchanged)."
    )


def _lines(one: Gap) -> list[dict[str, Any]]:
    return [
        {
            "group": f"{group.name} ({group.about})" if group.about else group.name,
            "rows": int(group.mask.sum()),
            one.metric: format_cell(*(rounded(number) for number in (value.value, value.low, value.high))),
        }
        for group, value in zip(one.slices, one.values, strict=True)
    ]


def _limits(one: Gap, how: Resampling) -> list[str]:
    small = [name for name, _, _ in one.left_out]
    found = (
        [f"Groups by `{one.column}` with too few test rows to say anything: {', '.join(small[:10])}."] if small else []
    )
    if math.isfinite(one.gap.value) and one.p <= 1 - how.confidence:
        found.append(
            f"It serves groups by `{one.column}` unequally: {one.metric} is {one.gap.value:.3f} apart between "
            f"`{one.best}` and `{one.worst}`."
        )
    return found


__all__ = ["Gap", "as_json", "finding", "largest_gap", "measure"]
