"""Verdicts: does a candidate take the champion's place? Pure functions over two prediction tables of one test split.

The first gate is one question: is the candidate better by the metric that decides, beyond what chance would show on
these rows? A one-sided paired test at level ``alpha`` answers it. "No" has two meanings that a user acts on in two
ways, so there are three verdicts: ``promote``, ``reject`` (it is worse, or no row's score changed) and ``undecided``
(too few rows to tell, with the number that would). Nothing here reads a registry or moves an alias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.config import Section
from graft.evaluation.intervals import Drawn, rounded

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Comparison
    from graft.evaluation.intervals import Resampling
    from graft.tasks import Metric

POWER = 0.8
"""The chance that a test on ``rows_needed`` rows decides, if the difference seen is the true one."""


class PromotionConfig(Section):
    """When a candidate becomes champion."""

    automatic: bool = True
    """Whether a pipeline run ends with a promotion decision; else `graft promote` takes it."""

    metric: str | None = None
    """The metric that decides; the task's headline metric where not given."""

    alpha: float = Limit(default=0.05, gt=0, lt=0.5)
    """The largest accepted chance of promoting a candidate that is not better (one-sided paired test)."""


@dataclass(frozen=True)
class Verdict:
    """What the test says. Positive differences speak for the candidate, whichever way the metric points."""

    decision: Literal["promote", "reject", "undecided"]
    reason: str
    """One sentence for people: the numbers and what follows."""
    against: str
    """What the candidate was compared with."""
    metric: str
    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    confidence: float
    p: float
    """One-sided: the chance of such a difference if the candidate is not better."""
    alpha: float
    test: str
    rows_needed: int | None
    """Undecided: test rows with which this difference would decide at 80 % power; None where it is zero."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits."""
        return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def decide(
    candidate: Mapping[str, np.ndarray],
    champion: Mapping[str, np.ndarray],
    metric: Metric,
    *,
    alpha: float = 0.05,
    resampling: Resampling | None = None,
    against: str = "the champion",
) -> Verdict:
    """Return the verdict on ``candidate`` against ``champion`` (or the base, where there is no champion yet).

    Args:
        candidate: prediction table over the test rows.
        champion: prediction table over the same rows, in any order.
        metric: decides.
        alpha: the accepted chance of promoting a candidate that is not better.
        resampling: how intervals are made (the section ``evaluation``); default: 95 %, 2000 resamples, seed 0.
        against: what the reason calls the other side.

    Raises:
        DataError: the two tables do not hold the same test rows.
    """
    from graft.evaluation.comparison import compare

    return judge(compare(metric, candidate, champion, resampling or Drawn()), alpha=alpha, against=against)


def judge(comparison: Comparison, *, alpha: float, against: str) -> Verdict:
    """Return the verdict that a comparison supports at level ``alpha``."""
    decision: Literal["promote", "reject", "undecided"] = "undecided"
    if comparison.p_better <= alpha:
        decision = "promote"
    elif comparison.p_worse <= alpha or unchanged(comparison):
        decision = "reject"
    needed = rows_needed(comparison, alpha) if decision == "undecided" else None
    return Verdict(
        decision=decision,
        reason=_reason(comparison, decision, alpha, against, needed),
        against=against,
        metric=comparison.metric,
        rows=comparison.rows,
        candidate=comparison.candidate,
        champion=comparison.reference,
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        confidence=comparison.confidence,
        p=comparison.p_better,
        alpha=alpha,
        test=comparison.test,
        rows_needed=needed,
    )


def unchanged(comparison: Comparison) -> bool:
    """Return whether the two systems score alike on every row: nothing is gained, however many rows there are."""
    return comparison.difference == 0 and comparison.standard_error == 0


def rows_needed(comparison: Comparison, alpha: float, *, power: float = POWER) -> int | None:
    """Return the test rows with which the difference seen would decide; None where there is no difference.

    The usual normal approximation: rows * ((z(alpha) + z(power)) * standard error / difference)^2. The difference seen
    is itself uncertain, so read the number as an order of magnitude.
    """
    from scipy.stats import norm

    if comparison.difference == 0 or not math.isfinite(comparison.difference):
        return None
    z = float(norm.isf(alpha) + norm.ppf(power))
    needed = comparison.rows * (z * comparison.standard_error / comparison.difference) ** 2
    return max(math.ceil(needed), comparison.rows + 1)


def _reason(comparison: Comparison, decision: str, alpha: float, against: str, needed: int | None) -> str:
    c = comparison
    facts = (
        f"{c.metric} {c.candidate:.4f} against {c.reference:.4f} of {against} on {c.rows} rows: {c.difference:+.4f} "
        f"({100 * c.confidence:.3g} % interval {c.low:+.4f} to {c.high:+.4f}), one-sided p = {c.p_better:.2g}"
    )
    if decision == "promote":
        return f"{facts} ≤ {alpha:g}: the candidate is better."
    if unchanged(c):
        return f"{facts}: both score alike on every row, so nothing is gained."
    if decision == "reject":
        return f"{facts}: the candidate is worse (p = {c.p_worse:.2g} for that)."
    more = f"about {needed} test rows would decide a difference of this size" if needed else "there is no difference"
    return f"{facts} > {alpha:g}: these rows cannot tell the two apart; {more}."
