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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import DataError
from graft.evaluation.comparison import compare
from graft.evaluation.intervals import Resampling, Taken, rounded
from graft.promotion.gaps import growths
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
    """Over the table; :data:`MEAN_SCORE` is that of a table with ``score``."""
    margin: float
    mask: np.ndarray | None = None
    """bool [N] over the rows of ``candidate``: the slice; None: all."""
    groups: Sequence[tuple[str, np.ndarray]] | None = None
    """Names and masks of groups, bool [N] each: what is held is how alike they are served (:mod:`gaps`)."""
    of_test: bool = True
    """Whether items are test rows, so that more of those make more of them."""
    unit: str = ""
    """Of differences and margin, for people, where the name does not say it."""


@dataclass(frozen=True)
class Counted:
    """A cost that is known and not sampled: the less the better."""

    name: str
    candidate: float
    champion: float
    margin: float
    """What the candidate may take more."""


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
    of_test: bool = True
    """Whether its rows are test rows."""
    unit: str = ""
    """Of differences and margin, for people, where the name does not say it."""

    @property
    def said(self) -> str:
        """One clause for people: what was measured, and whether the margin is kept."""
        if self.test == COUNTED:
            facts = f"{self.name} is {self.candidate:.0f} against {self.champion:.0f}"
            return f"{facts}; at most {self.margin:.0f} more are allowed"
        unit = f" {self.unit}" if self.unit else ""
        if self.test == PAIRS:
            changed = f"is a lead of {self.candidate:+.4f}, and the gap was {self.champion:.4f}"
            harm = f"growth by {self.margin:g} or more"
        else:
            way = "worse" if self.difference < 0 else "better"
            changed = f"is {self.candidate:.4f} against {self.champion:.4f}, {abs(self.difference):.4f}{unit} {way}"
            harm = f"a loss of {self.margin:g}{unit} or more"
        if self.state == "broken":
            return f"{self.name} {changed}: {harm} is shown ({self.rows} rows)"
        if self.state == "held":
            return f"{self.name} {changed}: {harm} is ruled out (p = {self.p:.2g} ≤ {self.level:.3g}, {self.rows} rows)"
        more = f"; about {self.rows_needed} rows would tell" if self.rows_needed else ""
        at = f"p = {self.p:.2g} > {self.level:.3g}, {self.rows} rows{more}"
        return f"{self.name} {changed}: {harm} cannot be ruled out ({at})"

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits."""
        return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def _mean(table: Table) -> float:
    return float(table["score"].mean())


MEAN_SCORE = Metric("score", _mean, per_row=lambda table: table["score"])


COUNTED, PAIRS = "counted", "pairs of groups"


def passes(measured: Measured | Counted, how: Resampling, *, level: float, alpha: float, power: float) -> Gate:
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
    if isinstance(measured, Counted):
        return _within(measured, level)
    if measured.groups is not None:
        return _alike(measured, measured.groups, how, level, alpha, power)
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
        of_test=measured.of_test,
        unit=measured.unit,
    )


def _within(cost: Counted, level: float) -> Gate:
    """Say whether a cost is within its margin: what is counted needs no test, and no error budget."""
    held, less = cost.candidate <= cost.champion + cost.margin, cost.champion - cost.candidate
    return Gate(
        name=cost.name,
        state="held" if held else "broken",
        rows=0,
        candidate=cost.candidate,
        champion=cost.champion,
        difference=less,
        low=less,
        high=less,
        margin=cost.margin,
        p=0.0 if held else 1.0,
        level=level,
        test=COUNTED,
        rows_needed=None,
    )


def _alike(
    measured: Measured,
    groups: Sequence[tuple[str, np.ndarray]],
    how: Resampling,
    level: float,
    alpha: float,
    power: float,
) -> Gate:
    """Test that no two groups are served less alike than by the champion; the pair that is closest to it speaks."""
    import numpy as np
    from scipy.stats import norm

    candidate, champion = taken(measured)
    rows = [(name, np.flatnonzero(mask)) for name, mask in groups]
    try:
        found = growths(measured.metric, candidate, champion, rows, how, measured.margin)
    except DataError as error:
        raise DataError(f"gate {measured.name}: {error}") from None
    pairs = found.pairs
    hardest = max(pairs, key=lambda pair: (pair.p_held, pair.value))
    worst = min(pairs, key=lambda pair: pair.p_broken)
    state: Literal["held", "broken", "unclear"] = "held" if hardest.p_held <= level else "unclear"
    if state == "unclear" and worst.p_broken * len(pairs) <= alpha:
        state, hardest = "broken", worst
    total = sum(len(index) for _, index in rows)
    half = float(norm.isf((1 - how.confidence) / 2)) * hardest.standard_error
    times = found.times_needed(level, power) if state == "unclear" and level > 0 else None
    return Gate(
        name=f"{measured.name} {hardest.favoured} before {hardest.other}",
        state=state,
        rows=total,
        candidate=hardest.candidate,
        champion=hardest.champion,
        difference=-hardest.value,
        low=-hardest.value - half,
        high=-hardest.value + half,
        margin=measured.margin,
        p=hardest.p_held,
        level=level,
        test=PAIRS,
        rows_needed=None if times is None else max(total + 1, math.ceil(times * total)),
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
