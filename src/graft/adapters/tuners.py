"""Graft's own tuners among PEFT's: after :func:`register` they are methods like any other.

PEFT looks its methods up in tables, so a tuner has to be entered before a configuration or a saved adapter names it.
Whatever here reads those tables registers first; who calls ``PeftModel.from_pretrained`` alone calls it beforehand.
"""

from __future__ import annotations


def register() -> None:
    """Enter Graft's tuners (``bottleneck``) in PEFT's tables; a second call changes nothing."""
    from graft.adapters.bottleneck import register_bottleneck

    register_bottleneck()
