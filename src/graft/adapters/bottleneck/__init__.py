"""Bottleneck adapters: a small network of two layers inside each block of the base, as a tuner of PEFT.

PEFT has no such method, and AdapterHub's library cannot share an environment with transformers 5. As a PEFT tuner it
saves, loads, switches and is configured as LoRA is.
"""

from __future__ import annotations

from graft.adapters.bottleneck.config import BottleneckConfig
from graft.adapters.bottleneck.layer import BottleneckLayer
from graft.adapters.bottleneck.model import BottleneckModel
from graft.adapters.tuners import Method

__all__ = ["METHODS", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

METHODS = {"bottleneck": Method(BottleneckConfig, BottleneckModel, leaves_matrices=True)}
