"""Graft's own tuners among PEFT's: after :func:`register` they are methods like any other.

PEFT looks its methods up in tables, so a tuner has to be entered before a configuration or a saved adapter names it.
Whatever here reads those tables registers first; who calls ``PeftModel.from_pretrained`` alone calls it beforehand. The
tuner modules subclass PEFT's classes and import torch, so they are imported inside the function.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Enter Graft's tuners in PEFT's tables; a second call changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from graft.adapters import bottleneck, output_tuner, reference_tuner

    known = {str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    for name, (config_class, model_class) in {
        **bottleneck.METHODS,
        **output_tuner.METHODS,
        **reference_tuner.METHODS,
    }.items():
        if name not in known:
            enter(name, config_class, model_class)


def enter(name: str, config_class: Any, model_class: Any) -> None:
    """Enter one method under its lower-case ``name``."""
    from peft.utils import register_peft_method

    peft_type(name)
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)


def peft_type(name: str) -> Any:
    """Return the member of PEFT's enumeration of methods for ``name``; it is added to that closed list if need be."""
    from peft.utils.peft_types import PeftType

    upper = name.upper()
    if upper not in PeftType._member_map_:
        member = str.__new__(PeftType, upper)
        member._name_, member._value_ = upper, upper
        member._sort_order_ = len(PeftType._member_names_)
        PeftType._member_names_.append(upper)
        PeftType._member_map_[upper] = member
        PeftType._value2member_map_[upper] = member
        type.__setattr__(PeftType, upper, member)
    return PeftType._member_map_[upper]
