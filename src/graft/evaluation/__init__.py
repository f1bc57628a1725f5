"""Evaluation. (Section first; the stage follows.)"""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class EvaluationConfig(Section):
    """How the test split is scored."""

    confidence: float = Limit(default=0.95, gt=0.5, lt=1)
    """The level of the intervals."""

    resamples: int = Limit(default=2000, ge=100, le=1_000_000)
    """Bootstrap resamples of the test rows."""

    seed: int = Limit(default=0, ge=0, lt=1 << 32)
    """Seed of the resampling and of the baselines."""

    batch_rows: int = Limit(default=64, ge=1)
    """Rows per forward pass."""
