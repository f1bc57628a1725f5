"""The test set wears out: what a decision may risk, after those that were taken on the same rows before.

A pipeline that decides each night on one test set asks one sample of rows again and again. At alpha each time, 50
nights without any improvement promote something by chance more often than not. So alpha is a budget of the *test set*:
decision k may use ``alpha gamma_k``, where the gammas add up to at most 1, and the chance of any false promotion among
all decisions is at most their sum, alpha. Nothing but this bound (Bonferroni's) is safe here: all p values come from
the same rows, so they depend on each other in ways that nobody knows, and methods that save by independence (ADDIS
spending; Tian and Ramdas, Statistical Methods in Medical Research 30, 2021) do not hold. What does hold under any
dependence, and gives more power, is to hand the level of a promotion on to the next decision: the online fallback
procedure of the same paper (after Wiens and Dmitrienko 2005).

With N planned decisions each gets 1/N. Without a plan ``gamma_k = 6 / (pi k)^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WORN = 0.01
"""Without a plan: a level below this share of alpha asks for several times the rows, so fresh ones are due."""
SPENT = 1e-9
"""A share of alpha that is what rounding left of none."""
NEARLY = 0.1
"""With a plan: when no more than this share of the decisions is left, fresh rows are due."""


@dataclass(frozen=True)
class Look:
    """A decision that was taken on a test set: at which level, and whether the test promoted."""

    level: float
    promoted: bool


@dataclass(frozen=True)
class Grant:
    """What the next decision on a test set may use."""

    level: float
    """The level of its tests; 0: the budget is used up."""
    number: int
    """Which decision on these rows it is, from 1."""
    alpha: float
    spent: float
    """Of alpha, by the decisions before."""
    planned: int | None

    @property
    def left(self) -> float:
        """What is left of alpha after this decision, unless it promotes: then its level is handed on as well."""
        return max(0.0, self.alpha - self.spent - self.own)

    @property
    def own(self) -> float:
        """The part of the level that is newly taken from alpha."""
        return min(share(self.number, self.planned) * self.alpha, max(0.0, self.alpha - self.spent))

    @property
    def due(self) -> bool:
        """Whether fresh test rows are due: the decision after this one has little to go by, or nothing."""
        if self.left < SPENT * self.alpha:
            return True
        if self.planned is not None:
            return self.planned - self.number <= NEARLY * self.planned and self.number > 1
        return share(self.number + 1, None) < WORN

    @property
    def said(self) -> str:
        """One sentence for people."""
        of = f" of {self.planned}" if self.planned else ""
        text = (
            f"decision {self.number}{of} on this test set at level {self.level:.2g}; {self.left:.2g} of alpha "
            f"{self.alpha:g} is left after it"
        )
        return f"{text}: fresh test data are due" if self.due else text


def share(number: int, planned: int | None) -> float:
    """Return gamma: the share of alpha that decision ``number`` (from 1) takes."""
    if planned is None:
        return 6 / (math.pi * number) ** 2
    return 1 / planned if number <= planned else 0.0


def grant(looks: Sequence[Look], alpha: float, planned: int | None = None) -> Grant:
    """Return what the next decision may use, after ``looks`` (the oldest first) on the same test set.

    What was spent is what was recorded, also where alpha or the plan were other ones then: their sum stays below the
    alpha of today.
    """
    spent, handed_on = 0.0, 0.0
    for look in looks:
        spent += max(0.0, look.level - handed_on)
        handed_on = look.level if look.promoted else 0.0
    plain = Grant(0.0, len(looks) + 1, alpha, spent, planned)
    return Grant(min(alpha, plain.own + handed_on), plain.number, alpha, spent, planned)
