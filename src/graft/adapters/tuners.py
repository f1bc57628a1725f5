"""Graft's own tuners among PEFT's: after :func:`register` they are methods like any other.

Adding a method is adding a file here: whatever file (or package) of this folder has ``METHODS`` brings methods, each a
:class:`Method` by its lower-case name. PEFT looks methods up in tables, so a tuner has to be entered before a
configuration or a saved adapter names it. Whatever here reads those tables registers first; who calls
``PeftModel.from_pretrained`` alone calls it beforehand. Tuners subclass PEFT's classes and import torch, so the files
are imported when the first method is asked for, and not with this package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

    from graft.adapters.procedure import Procedure


@dataclass(frozen=True)
class Method:
    """A method of our own: its two PEFT classes, and what Graft has to know of it."""

    config: type[Any]
    """The ``PeftConfig``: its fields are the keys of ``adapter``."""
    model: type[Any]
    """The ``BaseTuner``."""
    head_alone: bool = False
    """Whether nothing below the head is trained: what the head reads is the same in each epoch, and computed once."""
    leaves_matrices: bool = False
    """Whether the base's matrices are left as they are, so that they may be kept in few bits."""
    reads_columns: bool = False
    """Whether it reads the task's numeric columns under ``features: columns``."""
    reads_base: bool = False
    """Whether it needs the base's weights to know its own shapes: ``graft check`` then loads them."""
    configured: Callable[..., Any] | None = None
    """``f(model, adapter, new_modules, columns) -> PeftConfig``, see ``heads.configured``; None: from the keys."""
    procedure: Callable[[PeftModel], Procedure] | None = None
    """What the training loop calls, where the method needs more than gradients."""


def own_methods() -> dict[str, Method]:
    """Return the methods of the files in this folder, by name.

    Raises:
        ValueError: two files have a method of one name.
    """
    from graft import adapters

    found: dict[str, Method] = {}
    for file in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        for name, method in getattr(importlib.import_module(file.name), "METHODS", {}).items():
            if name in found:
                raise ValueError(f"{file.name}: another file has a method {name!r} too; give it another name")
            found[name] = method
    return found


def own_method(name: str) -> Method | None:
    """Return a method of our own, None where the name is one of PEFT's (or of nobody)."""
    return own_methods().get(name)


def column_methods() -> list[str]:
    """Return the names of the methods that can read numeric columns."""
    return [name for name, method in own_methods().items() if method.reads_columns]


def register() -> None:
    """Enter Graft's tuners in PEFT's tables; a second call changes nothing.

    Raises:
        ValueError: a method has the name of one of PEFT's.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value).lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    for name, method in own_methods().items():
        if known.get(name, method.config) is not method.config:
            raise ValueError(f"{method.config.__module__}: PEFT has a method {name!r} already; give it another name")
        if name not in known:
            enter(name, method.config, method.model)


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
