"""Parts of the base that are trained beside the adapter, and the base as it was.

Patterns are regular expressions over the *full* names that parameters have in the base before PEFT renames them
(``bert.encoder.layer.5.output.dense.weight``): PEFT keeps the parameter objects, so each is known by its object after
that. A trained parameter is float32 whatever the base's type is; its original stays in memory in its own type (the
price: the unfrozen part twice), so that the base can be asked for its own answer at any time: exactly, since nothing is
computed back. Originals are buffers, so they follow the model to another device or type, and are in no state dict.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

SHOWN_NAMES = 5
EVERYTHING = (".*",)


def remember_names(wrapped: PeftModel, names: Mapping[str, nn.Parameter]) -> None:
    """Note which parameters were the base's before PEFT wrapped it: ``named_parameters`` with doubles."""
    wrapped.names_in_base = dict(names)


def unfreeze(wrapped: PeftModel, patterns: Sequence[str], new_modules: Sequence[str]) -> None:
    """Train the base's parameters whose full names the ``patterns`` match, in float32.

    Modules that are new, or trained as a copy, are no part of the base and cannot be named.

    Raises:
        ConfigError: a pattern is no regular expression, or matches nothing.
    """
    if not patterns:
        return
    base = _base_parameters(wrapped, new_modules)
    chosen = {name for number, pattern in enumerate(patterns) for name in _matched(pattern, number, base)}
    # Tied weights are one parameter under several names; the first is the one that counts.
    first: dict[int, str] = {}
    for name, parameter in base.items():
        first.setdefault(id(parameter), name)
    names = sorted({first[id(base[name])] for name in chosen})
    _train(wrapped, {name: base[name] for name in names})


def unfrozen(wrapped: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's parameters that are trained, or were, by their full names in the base."""
    found: dict[str, nn.Parameter] = getattr(wrapped, "changed_in_base", {})
    return found


def put_changed(wrapped: PeftModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put trained weights of the base in place, keeping the originals; names and shapes must have been checked."""
    names = wrapped.names_in_base
    _train(wrapped, {name: names[name] for name in tensors})
    for name, value in tensors.items():
        names[name].data = value.to(names[name].device)


@contextlib.contextmanager
def as_the_base_was(wrapped: PeftModel) -> Iterator[None]:
    """Run a block with the base's original weights in place of the trained ones."""
    changed = unfrozen(wrapped)
    trained = {name: parameter.data for name, parameter in changed.items()}
    try:
        for name, parameter in changed.items():
            parameter.data = original(wrapped, name)
        yield
    finally:
        for name, parameter in changed.items():
            parameter.data = trained[name]


def original(wrapped: PeftModel, name: str) -> torch.Tensor:
    """Return what the base's changed parameter ``name`` was."""
    found: torch.Tensor = wrapped.originals_of_base.get_buffer(wrapped.places_of_originals[name])
    return found


def _train(wrapped: PeftModel, parameters: dict[str, nn.Parameter]) -> None:
    import torch

    kept: Any = torch.nn.Module()
    places = {name: f"original_{number}" for number, name in enumerate(parameters)}
    for name, parameter in parameters.items():
        kept.register_buffer(places[name], parameter.data.clone(), persistent=False)
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    wrapped.originals_of_base = kept
    wrapped.places_of_originals = places
    wrapped.changed_in_base = parameters


def _base_parameters(wrapped: PeftModel, new_modules: Sequence[str]) -> dict[str, nn.Parameter]:
    from peft.utils.other import ModulesToSaveWrapper

    copied = {
        id(parameter)
        for part in wrapped.modules()
        if isinstance(part, ModulesToSaveWrapper)
        for parameter in part.original_module.parameters()
    }
    # The input embeddings may be tied to a head that is trained as a copy: they are still the base's own.
    reached = {id(one) for one in outside_copies(wrapped)}
    return {
        name: parameter
        for name, parameter in wrapped.names_in_base.items()
        if parameter.is_floating_point()
        and not any(name.startswith(f"{new}.") for new in new_modules)
        and (id(parameter) not in copied or id(parameter) in reached)
    }


def outside_copies(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of ``module`` without those of modules that are trained as copies."""
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        return
    yield from module.parameters(recurse=False)
    for part in module.children():
        yield from outside_copies(part)


def _matched(pattern: str, number: int, base: Mapping[str, Any]) -> list[str]:
    place = f"training.unfreeze[{number}]"
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{place}: {shown(pattern)} is no regular expression: {error}") from None
    found = [name for name in base if wanted.fullmatch(name)]
    if not found:
        raise ConfigError(
            f"{place}: {shown(pattern)} matches the full name of no parameter of the base; it has {_shown(base)}"
        )
    return found


def _shown(names: Mapping[str, Any]) -> str:
    """Return the names with layer numbers left open, the first of them, those of layers before others."""
    kinds = sorted(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in names), key=lambda one: ".N." not in one)
    more = f" and {len(kinds) - SHOWN_NAMES} more kinds" if len(kinds) > SHOWN_NAMES else ""
    return ", ".join(kinds[:SHOWN_NAMES]) + more
