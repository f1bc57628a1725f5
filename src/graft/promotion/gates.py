"""Gates: what must not get worse while the deciding metric gets better.

A gate is a non-inferiority test by a margin. *All* gates and the deciding test must pass, so nothing is corrected for
their number: a candidate is promoted wrongly only if at least one condition fails in truth, and that one condition is
tested at the level of the decision. So the chance of promoting a candidate that is not better, or that breaks a gate,
is at most that level, however many gates there are and however they depend on each other (an intersection-union test:
Berger, Technometrics 24, 1982, theorem 1). What grows with their number is the chance of refusing a good candidate,
which the margins and the rows must pay for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import DataError
from graft.evaluation.comparison import compare
from graft.evaluation.intervals import Resampling, Taken, rounded
from graft.promotion.power import rows_needed
from graft.tasks import Metric

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Comparison, Table


@dataclass(frozen=True)
class Measured:
    """One thing measured of two systems on the same items, and what it may get worse by."""

    name: str
    candidate: Table
    """Columns of length N; ``row`` names the item. With ``score``: float64, greater is better, NaN: not measured."""
    champion: Table
    """The same items, in any order."""
    metric: Metric
    """Over the table; :data:`MEAN_SCORE` and :data:`GROUP_GAP` are those of a table with ``score``."""
    margin: float
    mask: np.ndarray | None = None
    """bool [N] over the rows of ``candidate``: the slice; None: all."""


@dataclass(frozen=True)
class Gate:
    """What a gate says. Positive differences speak for the candidate."""

    name: str
    state: Literal["held", "broken", "unclear"]
    """``held``: shown to be not worse by the margin; ``broken``: shown to be; ``unclear``: too few rows to tell."""
    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    margin: float
    p: float
    """One-sided: the chance of such a difference if the candidate is worse by the margin."""
    level: float
    test: str
    rows_needed: int | None

    @property
    def said(self) -> str:
        """One clause for people."""
        facts = f"{self.name} {self.difference:+.4f} (may be {-self.margin:g}, p = {self.p:.2g}, {self.rows} rows)"
        more = f", about {self.rows_needed} rows would tell" if self.state == "unclear" and self.rows_needed else ""
        return f"{facts}{more}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits."""
        return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def _mean(table: Table) -> float:
    return float(table["score"].mean())


def _gap(table: Table) -> float:
    """Return the gap between the mean scores of the best and the worst group."""
    import numpy as np

    _, places = np.unique(table["group"], return_inverse=True)
    means = np.bincount(places, weights=table["score"]) / np.bincount(places)
    return float(means.max() - means.min())


MEAN_SCORE = Metric("score", _mean, per_row=lambda table: table["score"])
GROUP_GAP = Metric("gap", _gap, greater_is_better=False)


def passes(measured: Measured, how: Resampling, *, level: float, alpha: float, power: float) -> Gate:
    """Test one gate.

    Args:
        measured: the two systems.
        how: level of the interval, resamples, seed.
        level: that of the decision: "held" is shown at it.
        alpha: "broken" is shown at it: a refusal promotes nothing, so it spends nothing.
        power: the chance to decide with ``rows_needed``.

    Raises:
        DataError: the tables do not hold the same items, or nothing that was measured for both.
    """
    candidate, champion = taken(measured)
    try:
        found = compare(measured.metric, candidate, champion, how, margin=measured.margin, level=level)
    except DataError as error:
        raise DataError(f"gate {measured.name}: {error}") from None
    if not math.isfinite(found.difference):
        raise DataError(f"gate {measured.name}: {measured.metric.name} is not defined on its {found.rows} rows")
    state: Literal["held", "broken", "unclear"] = "unclear"
    if found.p_better <= level:
        state = "held"
    elif found.p_worse <= alpha:
        state = "broken"
    return _gate(measured, found, state, level, alpha, power)


def _gate(
    measured: Measured,
    found: Comparison,
    state: Literal["held", "broken", "unclear"],
    level: float,
    alpha: float,
    power: float,
) -> Gate:
    better = found.difference + found.margin > 0
    at = level if better else alpha
    return Gate(
        name=measured.name,
        state=state,
        rows=found.rows,
        candidate=found.candidate,
        champion=found.reference,
        difference=found.difference,
        low=found.low,
        high=found.high,
        margin=found.margin,
        p=found.p_better,
        level=level,
        test=found.test,
        rows_needed=rows_needed(found, at, power) if state == "unclear" and at > 0 else None,
    )


def taken(measured: Measured) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Return both tables, of the slice's rows and of what was measured for both, in the candidate's order.

    Raises:
        DataError: as :func:`passes`.
    """
    import numpy as np

    from graft.evaluation.comparison import aligned

    try:
        champion = aligned(measured.candidate, measured.champion)
    except DataError as error:
        raise DataError(f"gate {measured.name}: {error}") from None
    candidate = measured.candidate
    keep = np.ones(len(candidate["row"]), dtype=bool) if measured.mask is None else measured.mask.copy()
    if "score" in candidate:
        keep &= np.isfinite(candidate["score"]) & np.isfinite(champion["score"])
    if keep.sum() < 2:
        raise DataError(f"gate {measured.name}: {int(keep.sum())} rows measured for both systems; it needs two or more")
    index = np.flatnonzero(keep)
    return Taken(candidate, index), Taken(champion, index)
