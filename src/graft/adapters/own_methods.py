"""Graft's own methods, made known to PEFT so that it saves, loads and switches them like any of its own.

PEFT's list of methods is a closed enumeration: a member has to be added before ``register_peft_method`` takes a name.
The tuner modules subclass PEFT's classes and import torch, so they are loaded here, when a method is looked up first.
A process that opens such an adapter with PEFT alone calls :func:`register` before ``PeftModel.from_pretrained``.
"""

from __future__ import annotations

from typing import Any

OUTPUT_METHODS = ("output_linear", "output_mlp")
"""Trained on what the head reads; the base stays as it is."""
HEAD_METHODS = (*OUTPUT_METHODS, "probe")
"""Methods below whose modules nothing is trained: what they read is the same in each epoch."""


def register() -> None:
    """Add the methods to PEFT's; the second call changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from graft.adapters import output_tuner, reference_tuner

    known = {str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    for name, (config_class, model_class) in {**output_tuner.METHODS, **reference_tuner.METHODS}.items():
        if name not in known:
            add(name, config_class, model_class)


def add(name: str, config_class: Any, model_class: Any) -> None:
    """Add one method under its lower-case ``name`` to PEFT's enumeration and its registry."""
    from peft.utils import register_peft_method
    from peft.utils.peft_types import PeftType

    add_type(name)
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)
    assert config_class().peft_type is getattr(PeftType, name.upper())


def add_type(name: str) -> Any:
    """Add ``name`` to PEFT's enumeration of methods, where it is not there yet; return the member."""
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
