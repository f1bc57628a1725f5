"""A training that goes on from an adapter of before: the champion's, another version's, one in a folder.

What is loaded must fit in base, task and adapter configuration. Labels alone may differ, since new ones come with new
data: what was trained for a known label goes on, by its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters import Procedure, procedure_of, unfrozen
from graft.artifact.base_weights import changed_weights
from graft.artifact.files import ADAPTER_WEIGHTS, adapter_state, plain_config, verified
from graft.artifact.starts import PARAM, place_of
from graft.errors import ConfigError, shown
from graft.identity import digest_folder
from graft.tasks import State
from graft.workspace import Workspace, replaced

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

OWN = ("base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "init_weights")
"""Of a PEFT configuration: where the base lay, and how new weights begin. Dropout may differ too."""
SHOWN = 5


def keep(workspace: Workspace, folder: Path) -> str:
    """Keep a copy of the adapter in ``folder`` by its digest, which is returned.

    Raises:
        IntegrityError: it holds no whole adapter.
    """
    verified(folder)
    digest = digest_folder(folder)
    place = place_of(workspace, digest)
    if not (place.is_dir() and digest_folder(place) == digest):
        with replaced(place) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
    return digest


def begin_from(model: PeftModel, folder: Path, identity: Mapping[str, Any], new_modules: list[str]) -> list[str]:
    """Put the weights of the adapter in ``folder`` into ``model``; return what there is to say about labels.

    Args:
        model: A new adapter on its base; what the old one does not have (new labels) stays as it was drawn.
        folder: The adapter of before.
        identity: The planned identity of the training.
        new_modules: Modules that the task adds to the base.

    Raises:
        ConfigError: base, task or adapter configuration do not fit; the message names both sides.
        IntegrityError: a file of the folder is damaged.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    before = verified(folder)
    if type(procedure_of(model)) is not Procedure:
        raise ConfigError(
            f"{PARAM}: this adapter method has a state beside its weights (ranks that move, a start of its own), which "
            f"no saved adapter holds; set {PARAM}: null, or a plain init_lora_weights"
        )
    _refuse_misfits(model, before, identity, new_modules)
    state, found = adapter_state(model), load_file(folder / ADAPTER_WEIGHTS)
    old, new = (_labels(one["task"]["state"]) for one in (before, identity))
    if old != new:
        found = {
            name: _by_label(value, state[name], old, new)
            if name in state and _of_labels(name, value, new_modules, old)
            else value
            for name, value in found.items()
        }
    wrong = sorted(name for name in state.keys() | found.keys() if _shape(state.get(name)) != _shape(found.get(name)))
    if wrong:
        one = wrong[0]
        raise ConfigError(
            f"{PARAM}: {len(wrong)} tensors do not fit: {one} is {_shape(found.get(one))} there and "
            f"{_shape(state.get(one))} here; give adapter the configuration it was trained with"
        )
    set_peft_model_state_dict(model, found)
    with torch.no_grad():
        for name, value in changed_weights(folder, before).items():
            unfrozen(model)[name].copy_(value)
    return list(_said(old, new))


def _refuse_misfits(
    model: PeftModel, before: Mapping[str, Any], now: Mapping[str, Any], new_modules: list[str]
) -> None:
    sides: dict[str, tuple[Any, Any]] = {
        "base": (_base(before), _base(now)),
        "task": (before["task"]["name"], now["task"]["name"]),
        "new modules": (before["adapter"]["new_modules"], sorted(new_modules)),
        "training.unfreeze": (before["adapter"].get("unfrozen", []), list(unfrozen(model))),
    }
    if before["base"]["digest"] == now["base"]["digest"]:
        del sides["base"]  # one base may lie in two places
    refuse_differences(
        sides | unlike(before["adapter"]["config"], plain_config(model.peft_config[model.active_adapter]))
    )


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of what must be alike in two PEFT configurations, by its path in params."""
    keys = [key for key in {**there, **here} if key not in OWN and "dropout" not in key]
    return {f"adapter.{key}": (there.get(key), here.get(key)) for key in keys}


def refuse_differences(sides: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse what is one thing in the adapter to start from and another here.

    Raises:
        ConfigError: with both sides of each.
    """
    wrong = [f"{name} is {shown(a)} there and {shown(b)} here" for name, (a, b) in sides.items() if a != b]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ConfigError(
            f"{PARAM}: the adapter to start from does not fit: {'; '.join(wrong[:SHOWN])}{more}; train with the "
            f"same, or set {PARAM}: null"
        )


def _base(identity: Mapping[str, Any]) -> str:
    return f"{identity['base']['source']} (digest {identity['base']['digest'][:12]})"


def _labels(state: State) -> list[Any] | None:
    found = state.get("labels")
    return list(found) if isinstance(found, list | tuple) else None


def _of_labels(name: str, value: torch.Tensor, new_modules: list[str], labels: list[Any] | None) -> bool:
    """Return whether a tensor has one row per label: it is of a module that the task adds, and as long."""
    return bool(
        labels and value.ndim and value.shape[0] == len(labels) and any(f".{one}." in name for one in new_modules)
    )


def _by_label(value: torch.Tensor, drawn: torch.Tensor, old: list[Any] | None, new: list[Any] | None) -> torch.Tensor:
    """Return the drawn rows with those of known labels in their places."""
    result, numbers = drawn.detach().clone(), {label: number for number, label in enumerate(old or ())}
    if drawn.shape[1:] != value.shape[1:] or drawn.shape[0] != len(new or ()):
        return value
    for number, label in enumerate(new or ()):
        if label in numbers:
            result[number] = value[numbers[label]]
    return result


def _shape(value: torch.Tensor | None) -> list[int] | None:
    return None if value is None else list(value.shape)


def _said(old: list[Any] | None, new: list[Any] | None) -> Iterator[str]:
    for what, labels in (
        ("new labels start anew", [one for one in new or () if one not in (old or ())]),
        ("labels that are gone", [one for one in old or () if one not in (new or ())]),
    ):
        if labels:
            more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
            yield f"{what}: {', '.join(map(shown, labels[:SHOWN]))}{more}"
