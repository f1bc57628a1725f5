"""Promotion: when a candidate takes the champion's place, and at which risk of being wrong.

``verdict`` decides over prediction tables; ``gates`` holds what must not get worse; ``spending`` keeps the error budget
of a test set over all decisions on it; ``power`` says how many rows would decide. All of it is pure functions.
"""

from __future__ import annotations

from graft.promotion.section import GateConfig, PromotionConfig, SliceConfig

__all__ = ["GateConfig", "PromotionConfig", "SliceConfig"]
