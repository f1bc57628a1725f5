"""Weights of the base that were trained beside an adapter: saved with it, in a file of their own.

An adapter's file is PEFT's and holds what PEFT adds. Changed weights of the base (``training.unfreeze``, ``full``) go
to ``base_weights.safetensors`` in the same folder, by their full names in the base, float32, under the digest that
``identity.json`` holds. **PEFT alone does not read that file**: ``PeftModel.from_pretrained`` puts the adapter on the
untouched base, without a word. :func:`graft.artifact.load` puts both in place; whoever wants the changed base without
the adapter (or before it) takes :func:`changed_weights` and :func:`apply_to_base`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters import put_changed, unfrozen
from graft.errors import IntegrityError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

BASE_WEIGHTS = "base_weights.safetensors"
SHOWN_NAMES = 5


def save_base_weights(model: PeftModel, folder: Path) -> list[str]:
    """Write the base's trained weights, where there are any, to ``folder``; return their names in order."""
    from safetensors.torch import save_file

    found = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(unfrozen(model).items())}
    if found:
        save_file(found, folder / BASE_WEIGHTS, metadata={"format": "pt"})
    return list(found)


def changed_weights(folder: Path, identity: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the changed weights of the base by their full names in it; none where only the adapter was trained.

    ``identity`` is the verified one of ``folder``.

    Raises:
        IntegrityError: the file is missing, is no safetensors file, or holds other names than the identity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    names = identity["adapter"].get("unfrozen", [])
    path = folder / BASE_WEIGHTS
    if not names:
        return {}
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); restore it, or train again") from None
    if sorted(found) != sorted(names) or BASE_WEIGHTS not in identity["files"]:
        raise IntegrityError(
            f"{path}: it does not hold the weights that the identity names; restore it, or train again"
        )
    return found


def apply_to_base(model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Put changed weights into a plain base, in its own type (exact where that is float32), as `graft merge` needs it.

    Raises:
        IntegrityError: a name or shape does not fit the base.
    """
    import torch

    names = dict(model.named_parameters(remove_duplicate=False))
    _refuse(_misfits(names, weights), folder)
    with torch.no_grad():
        for name, value in weights.items():
            names[name].copy_(value)


def restore_base_weights(model: PeftModel, folder: Path, identity: Mapping[str, Any]) -> None:
    """Put the changed weights that ``folder`` holds into the base under ``model``; ``disable_adapter`` undoes them.

    Raises:
        IntegrityError: as :func:`changed_weights`; or a name or shape does not fit the base.
    """
    weights = changed_weights(folder, identity)
    if weights:
        _refuse(_misfits(model.names_in_base, weights, exact=True), folder)
        put_changed(model, weights)


def _misfits(names: Mapping[str, Any], weights: Mapping[str, Any], *, exact: bool = False) -> Iterator[str]:
    import torch

    for name, value in weights.items():
        if name not in names:
            yield f"{name} does not belong to the base"
        elif names[name].shape != value.shape:
            yield f"{name} is {list(value.shape)}, not {list(names[name].shape)}"
        elif exact and value.dtype != torch.float32:
            yield f"{name} is {value.dtype}, not float32"


def _refuse(problems: Iterator[str], folder: Path) -> None:
    found = list(problems)
    if found:
        more = f"; and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
        raise IntegrityError(
            f"{folder / BASE_WEIGHTS}: {'; '.join(found[:SHOWN_NAMES])}{more}; restore the file, or train again"
        )
