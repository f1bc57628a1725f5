"""An adapter on exactly the base it was trained on, or an error that says which of the two is wrong."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.adapters import register, wrap
from graft.artifact.base_weights import restore_base_weights
from graft.artifact.execution import attention, pick_device
from graft.artifact.files import ADAPTER_WEIGHTS, IDENTITY, adapter_state, verified
from graft.artifact.planning import base_of
from graft.base import LockedBase, load_processor, pad_token_of, quantization
from graft.errors import ConfigError, IntegrityError
from graft.tasks import State, Task, TaskConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

SHOWN_KEYS = 5


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter, ready to score rows."""

    model: PeftModel
    """In evaluation mode, on ``device``."""
    processor: Any
    """The base's tokenizer, or its image processor."""
    task: Task
    config: TaskConfig
    state: State
    identity: Mapping[str, Any]
    base: LockedBase
    device: str

    @property
    def pad_token_id(self) -> int:
        """What fills the shorter rows of a batch."""
        return pad_token_of(self.processor)


def load(
    folder: Path,
    project_root: Path,
    *,
    device: str = "cpu",
    pinned: LockedBase | None = None,
    trust_remote_code: bool = False,
) -> LoadedAdapter:
    """Load the adapter in ``folder`` on its base.

    Args:
        folder: what ``train`` wrote.
        project_root: where a base that is a local folder is looked for first.
        device: ``auto``, ``cpu`` or ``cuda``.
        pinned: the base that the caller stands on (``sources.lock``); another one is refused.
        trust_remote_code: whether Python code that comes with the base may run; the artifact itself cannot say so.

    Raises:
        IntegrityError: a file, the base, the tokenizer or a tensor is not what the identity says.
        ResourceMissing: the base, or the device, is not there.
    """
    import torch

    identity = verified(folder)
    base = base_of(identity)
    if pinned is not None and pinned.digest != base.digest:
        raise IntegrityError(
            f"{folder}: trained on base {base.source} (digest {base.digest[:12]}), but sources.lock pins "
            f"{pinned.source} (digest {pinned.digest[:12]}); train again, or lock the base it was trained on"
        )
    task, config = _task_of(identity, folder)
    target = pick_device(device)
    place = base.folder(project_root)
    with torch.random.fork_rng():
        # A new head's untrained copy gets the weights it had in training, so that the base's outputs are its too.
        torch.manual_seed(identity["seed"])
        model, new_modules = task.load_model(
            str(place),
            config,
            identity["task"]["state"],
            dtype=getattr(torch, identity["base"]["dtype"]),
            trust_remote_code=trust_remote_code,
            **attention(target, identity["max_length_tokens"]),
            **quantization.arguments(identity["base"].get("quantization"), target),
        )
        wrapped = _wrapped(model, identity, new_modules, folder)
    _fill(wrapped, folder)
    restore_base_weights(wrapped, folder, identity)
    wrapped.eval().to(target)
    processor = load_processor(task.processor, place, trust_remote_code)
    return LoadedAdapter(wrapped, processor, task, config, identity["task"]["state"], identity, base, target)


@contextlib.contextmanager
def switched(loaded: LoadedAdapter, folder: Path) -> Iterator[LoadedAdapter | None]:
    """Yield another adapter of the same kind in the model that ``loaded`` holds, and put the first back afterwards.

    None where it needs a load of its own: another base, configuration or task, or weights of the base that either of
    them changed. What both have that is untrained (a head's first copy) stays that of the first.

    Raises:
        IntegrityError: a file of the adapter is not what its identity says.
    """
    identity = verified(folder)
    if _kind(identity) != _kind(loaded.identity) or "unfrozen" in identity["adapter"]:
        yield None
        return
    before = {name: value.detach().clone() for name, value in adapter_state(loaded.model).items()}
    try:
        _fill(loaded.model, folder)
        yield replace(loaded, identity=identity)
    finally:
        _put(loaded.model, before, folder)


def _kind(identity: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two adapters must share to go into one model."""
    base, adapter, task = identity["base"], identity["adapter"], identity["task"]
    return (
        *(adapter.get("unfrozen"), base["digest"], base["dtype"], base.get("quantization"), task),
        *(adapter["config"], adapter["new_modules"], identity["max_length_tokens"], identity["threads"]),
    )


def _task_of(identity: Mapping[str, Any], folder: Path) -> tuple[Task, TaskConfig]:
    name = identity["task"]["name"]
    try:
        return tasks.get(name), tasks.config_class(name).model_validate(identity["task"]["config"])
    except (ConfigError, ValueError) as error:
        raise IntegrityError(f"{folder}/{IDENTITY}: task: {error}") from error


def _wrapped(model: PreTrainedModel, identity: Mapping[str, Any], new_modules: list[str], folder: Path) -> PeftModel:
    from peft import PeftConfig

    if sorted(new_modules) != identity["adapter"]["new_modules"]:
        raise IntegrityError(
            f"{folder}: the task adds {sorted(new_modules)} to the base now, {identity['adapter']['new_modules']} when "
            f"it was trained; train again"
        )
    register()
    # PEFT adds to the lists that it is given.
    given = {**copy.deepcopy(identity["adapter"]["config"]), "base_model_name_or_path": None, "revision": None}
    try:
        return wrap(model, PeftConfig.from_peft_type(**given))
    except (ConfigError, TypeError, KeyError) as error:
        raise IntegrityError(f"{folder}: its adapter cannot be put on its base: {error}") from error


def _fill(model: PeftModel, folder: Path) -> None:
    """Read the adapter's tensors into ``model``; every one must be there in its shape and type, and no other."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ADAPTER_WEIGHTS
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a safetensors file ({error}); restore it, or train again") from None
    wrong = list(_differences(adapter_state(model), found))
    if wrong:
        more = f"; and {len(wrong) - SHOWN_KEYS} more" if len(wrong) > SHOWN_KEYS else ""
        raise IntegrityError(f"{path}: {'; '.join(wrong[:SHOWN_KEYS])}{more}; restore the file, or train again")
    _put(model, found, path)


def _put(model: PeftModel, found: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put tensors in their places and check that they arrived."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, dict(found))
    stored = adapter_state(model)
    if any(not stored[name].cpu().equal(value.cpu()) for name, value in found.items()):
        raise IntegrityError(f"{path}: PEFT did not put every tensor in its place; use the versions in {IDENTITY}")


def _differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    foreign = [f"{name} does not belong" for name in found if name not in expected]
    other = [
        f"{name} is {found[name].dtype} {list(found[name].shape)}, not {value.dtype} {list(value.shape)}"
        for name, value in expected.items()
        if name in found and (found[name].shape != value.shape or found[name].dtype != value.dtype)
    ]
    return missing + foreign + other
