"""Bottleneck adapters: a small network of two layers inside each block of the base, as a tuner of PEFT.

PEFT has no such method, and AdapterHub's library cannot share an environment with transformers 5. As a PEFT tuner it
saves, loads, switches and is configured as LoRA is. The price is one table that PEFT does not offer for writing: its
enumeration of method names.
"""

from __future__ import annotations

from peft.utils import PeftType, register_peft_method

from graft.adapters.bottleneck.config import BottleneckConfig
from graft.adapters.bottleneck.layer import BottleneckLayer
from graft.adapters.bottleneck.model import BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel", "register_bottleneck"]

NAME = "BOTTLENECK"


def register_bottleneck() -> None:
    """Enter the method in PEFT's tables; a second call changes nothing."""
    if NAME in PeftType.__members__:
        return
    # PEFT asks its closed enumeration whether a name exists, so the enumeration gets a member more.
    member = str.__new__(PeftType, NAME)
    member._name_, member._value_ = NAME, NAME
    PeftType._member_map_[NAME] = member
    PeftType._member_names_.append(NAME)
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)
    register_peft_method(name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)


register_bottleneck()
