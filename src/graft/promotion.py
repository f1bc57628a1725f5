"""Verdicts. (Section first; the functions follow.)"""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class PromotionConfig(Section):
    """When a candidate becomes champion."""

    automatic: bool = True
    """Whether a pipeline run ends with a promotion decision; else `graft promote` takes it."""

    metric: str | None = None
    """The metric that decides; the task's headline metric where not given."""

    alpha: float = Limit(default=0.05, gt=0, lt=0.5)
    """The largest accepted chance of promoting a candidate that is not better (one-sided paired test)."""
