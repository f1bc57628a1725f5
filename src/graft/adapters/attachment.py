"""Put an adapter on a base, and say what it will train.

The base stays frozen and may be bfloat16; adapter weights and new heads are float32 always. A bfloat16 base runs under
autocast, so that the adapter's small products take the fast type too while its master weights keep their precision;
new heads are kept out of it, since logits rounded to eight bits tie. The switch sits in the model's own ``forward``:
whoever calls the model (loss, scoring, the reload proof, serving) gets the same arithmetic.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters.equipment import equip, file_bytes, plain_start
from graft.adapters.heads import configured, head_alone, head_input
from graft.adapters.refusals import refuse, refuse_quantized
from graft.adapters.section import AdapterConfig
from graft.adapters.trunk import Layers, frozen_layers
from graft.adapters.tuners import own_method, register
from graft.adapters.unfreezing import (
    EVERYTHING,
    as_the_base_was,
    outside_copies,
    remember_names,
    unfreeze,
    unfrozen,
)
from graft.base.quantization import keep_packing
from graft.errors import ConfigError, shown
from graft.tasks import State, Task

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

SHOWN_MODULES = 20
SHOWN_NAMES = 3
READS_BASE = ("adamss", "frod", "shira")
"""Methods of PEFT that cannot be put on a model without weights; one of our own says so itself."""


@dataclass(frozen=True)
class AdapterSummary:
    """What an adapter trains."""

    method: str
    modules: tuple[str, ...]
    """Full names of the base's modules that the method changes."""
    trained: tuple[str, ...]
    """Full names of all trained weights, as they are in the adapted model."""
    saved_modules: tuple[str, ...]
    """Modules that are trained and saved in full."""
    trainable_parameters: int
    total_parameters: int
    """Weights of the base with the adapter on it; what the adapter stands in for (an untrained head) does not count."""
    adapter_bytes: int
    """Size of the adapter's weights in its files (float32)."""
    unfrozen: tuple[str, ...] = ()
    """Full names of the base's own parameters that are trained beside it."""
    head_input: tuple[int, ...] = ()
    """What the head reads of a row of four tokens, where nothing below it is trained: (1, D), or (1, 4, D) per token.
    Known to :func:`preview` alone."""
    layers: Layers | None = None
    """How many of the base's layers lie below all that is trained."""

    @property
    def share(self) -> float:
        """Trainable share of all parameters, 0 to 1."""
        return self.trainable_parameters / self.total_parameters

    @property
    def counted(self) -> str:
        """What is trained, of how much: ``8,451 of 22,721,667 parameters (0.04%)``."""
        if self.trainable_parameters == self.total_parameters:
            return f"all {self.total_parameters:,} parameters"
        return f"{self.trainable_parameters:,} of {self.total_parameters:,} parameters ({self.share:.2%})"


def attach(
    model: PreTrainedModel,
    adapter: AdapterConfig,
    new_modules: Sequence[str],
    *,
    unfreeze_patterns: Sequence[str] = (),
    columns: int = 0,
) -> PeftModel:
    """Put a new adapter on ``model``; seed torch before, its initial weights are drawn here.

    ``unfreeze_patterns`` (``training.unfreeze``) name parts of the base that are trained too; ``columns`` is how many
    numeric columns the task's rows have.

    Raises:
        ConfigError: an unknown method or key, or targets that the base does not have (the message lists those it has).
    """
    _check_targets(model, adapter, new_modules)
    refuse(model, adapter, new_modules)
    config = configured(model, adapter, new_modules, columns)
    if getattr(model, "is_quantized", False):
        refuse_quantized(config, bool(unfreeze_patterns))
    wrapped = wrap(model, config)
    unfreeze(wrapped, EVERYTHING if adapter.method == "full" else unfreeze_patterns, new_modules)
    return wrapped


def wrap(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Put the adapter that ``config`` describes on ``model``, in Graft's precision.

    Raises:
        ConfigError: PEFT refuses the configuration on this model.
    """
    import torch
    from peft import get_peft_model

    register()
    if getattr(model, "is_quantized", False):
        keep_packing(model)
    config, start = plain_start(config)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    names = dict(model.named_parameters(remove_duplicate=False))
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a property by its old name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            wrapped = get_peft_model(model, config, low_cpu_mem_usage=on_meta)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"adapter: {text}; the base has {_candidates(model, ())}") from error
    _check_frozen(config, names)
    if getattr(config, "modules_to_save", None):  # PEFT adds the usual names of heads, without looking for doubles
        config.modules_to_save = sorted(set(config.modules_to_save))
    equip(wrapped, start)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    if model.dtype == torch.bfloat16:
        _run_mixed(wrapped)
    remember_names(wrapped, names)
    off = _without_prompt if config.is_prompt_learning else _without_layers
    wrapped.disable_adapter = functools.partial(_switched_off, wrapped, off)
    return wrapped


def _check_frozen(config: PeftConfig, names: Mapping[str, nn.Parameter]) -> None:
    """Refuse an adapter that trains weights of the base in place: with it off, the base would be another one."""
    trained = [name for name, parameter in names.items() if parameter.requires_grad]
    if not trained:
        return
    patterns = ", ".join(f"'{re.escape(name)}'" for name in trained[:SHOWN_NAMES])
    more = f" and {len(trained) - SHOWN_NAMES} more" if len(trained) > SHOWN_NAMES else ""
    key = f"bias: {config.bias}" if getattr(config, "bias", "none") not in ("none", None, False) else "method"
    raise ConfigError(
        f"adapter.{key} trains the base's own weights, which could not be switched off again; leave it out and name "
        f"them in training.unfreeze, which keeps what they were: [{patterns}]{more}"
    )


def describe(model: PeftModel) -> AdapterSummary:
    """Return what the adapter on ``model`` trains; works on the meta device too."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    config = model.peft_config[model.active_adapter]
    inner = model.get_base_model()
    replaced = _replaced(inner, config)
    return AdapterSummary(
        method=str(config.peft_type.value).lower(),
        modules=tuple(getattr(model.base_model, "targeted_module_names", ())),
        saved_modules=tuple(name for name, part in inner.named_modules() if isinstance(part, AuxiliaryTrainingWrapper)),
        trained=tuple(trained),
        trainable_parameters=sum(map(size_of, trained.values())),
        total_parameters=sum(size_of(one) for one in model.parameters() if id(one) not in replaced),
        adapter_bytes=file_bytes(model) + 4 * sum(value.numel() for value in unfrozen(model).values()),
        unfrozen=tuple(unfrozen(model)),
        layers=frozen_layers(model),
    )


def _replaced(inner: nn.Module, config: Any) -> set[int]:
    """Return the ids of the parameters that the adapter's own stand in for: of heads, unless they are tied."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    heads = [part.original_module for part in inner.modules() if isinstance(part, ModulesToSaveWrapper)]
    found = {id(one) for part in heads for one in part.parameters()} - {id(one) for one in outside_copies(inner)}
    if getattr(config, "new_head", False):  # the one layer of an output adapter, set to zero
        layers = [part.get_base_layer() for part in inner.modules() if isinstance(part, BaseTunerLayer)]
        found |= {id(one) for part in layers for one in part.parameters()}
    return found


def size_of(parameter: nn.Parameter) -> int:
    """Return how many weights a parameter holds; two of four bits share a byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def preview(
    task: Task,
    config: Any,
    state: State,
    folder: Path,
    adapter: AdapterConfig,
    *,
    trust_remote_code: bool = False,
    unfreeze_patterns: Sequence[str] = (),
) -> AdapterSummary:
    """Return what ``adapter`` would train on the base in ``folder``, without reading or making any weight.

    Only methods that decompose the base's weights to know their own shapes read them.

    Raises:
        ConfigError: as :func:`attach`.
    """
    place: dict[str, Any] = {} if _reads_base(adapter.method) else {"device_map": "meta"}
    model, new_modules = task.load_model(str(folder), config, state, trust_remote_code=trust_remote_code, **place)
    wrapped = attach(model, adapter, new_modules, unfreeze_patterns=unfreeze_patterns, columns=columns_of(config))
    summary = describe(wrapped)
    if head_alone(adapter.method) and not summary.unfrozen:
        summary = replace(summary, head_input=head_input(wrapped))
    return summary


def _reads_base(method: str) -> bool:
    own = own_method(method)
    return own.reads_base if own is not None else method in READS_BASE


def columns_of(config: Any) -> int:
    """Return how many numeric columns the rows of a task with this section have."""
    return len(getattr(config, "numeric_columns", None) or ())


def _check_targets(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str]) -> None:
    """Refuse each entry of a list of targets that meets no module: PEFT is content when one of them does."""
    targets = adapter.keys.get("target_modules")
    if not isinstance(targets, list):
        return
    names = [name for name, _ in model.named_modules()]
    missing = [one for one in targets if not any(name == one or name.endswith(f".{one}") for name in names)]
    if missing:
        raise ConfigError(
            f"adapter.target_modules: the base has no module {', '.join(map(shown, missing))}; "
            f"it has {_candidates(model, new_modules)}"
        )


def _candidates(model: nn.Module, new_modules: Sequence[str]) -> str:
    """Return the last name parts of the base's weight matrices, with how often each occurs."""
    found = Counter(
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D", "Conv2d", "Embedding")
        and not any(name == new or name.startswith(f"{new}.") for new in new_modules)
    )
    listed = [f"{name} ({count})" for name, count in found.most_common(SHOWN_MODULES)]
    return ", ".join(listed) or "no linear, convolution or embedding module"


def _run_mixed(model: PeftModel) -> None:
    """Run the base under bfloat16 autocast and the new heads in float32, whatever the device."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    inner = model.get_base_model()
    forward = inner.forward
    # Follows the model to another type, also where every weight is trained and therefore float32 all the time.
    inner.register_buffer("computed_in", torch.empty(0, dtype=torch.bfloat16, device=inner.device), persistent=False)

    @functools.wraps(forward)
    def mixed(*arguments: Any, **named: Any) -> Any:
        # The type is asked at each call: a model that was made float32 as a whole (the reload proof) runs exactly.
        enabled = inner.computed_in.dtype == torch.bfloat16
        with torch.autocast(inner.device.type, torch.bfloat16, enabled=enabled):
            return forward(*arguments, **named)

    inner.forward = mixed
    for part in inner.modules():
        if isinstance(part, BaseTunerLayer):
            # PEFT would cast each input to float32, and autocast back: a tenth of a step.
            part.cast_input_dtype_enabled = False
        if isinstance(part, ModulesToSaveWrapper):
            for head in (part.original_module, *part.modules_to_save.values()):
                _run_in_float32(head.to(torch.float32))


@contextlib.contextmanager
def _switched_off(model: PeftModel, off: Callable[[PeftModel], AbstractContextManager[None]]) -> Iterator[None]:
    """Run ``model`` as the base that it was; within such a block, another one changes nothing.

    PEFT's own context manager switches the adapter on when it is left, also where it was off before: a task that asks
    for the base's answer while the base is scored would score the adapter from then on.
    """
    if getattr(model, "switched_off", False):
        yield
        return
    model.switched_off = True
    try:
        with off(model), as_the_base_was(model):
            yield
    finally:
        model.switched_off = False


def _without_layers(model: PeftModel) -> AbstractContextManager[None]:
    """Run ``model`` with PEFT's layers off; a method without any (``full``) has nothing to switch, and PEFT refuses.

    ``adaption_prompt`` has none either: PEFT takes its modules out of the model and puts them back.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    swapped = model.peft_config[model.active_adapter].is_adaption_prompt
    if not swapped and not any(isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper) for part in model.modules()):
        return contextlib.nullcontext()
    off: AbstractContextManager[None] = type(model).disable_adapter(model)
    return off


@contextlib.contextmanager
def _without_prompt(model: PeftModel) -> Iterator[None]:
    """Run ``model`` without its trained prompt and heads.

    PEFT's own ``disable_adapter`` wants a model that generates, and leaves a trained head in place.
    """
    from peft.utils.other import ModulesToSaveWrapper

    heads = [part for part in model.modules() if isinstance(part, ModulesToSaveWrapper)]
    forward, generate = model.forward, model.generate
    model.forward, model.generate = model.base_model.forward, getattr(model.base_model, "generate", generate)
    for head in heads:
        head.enable_adapters(False)
    try:
        yield
    finally:
        model.forward, model.generate = forward, generate
        for head in heads:
            head.enable_adapters(True)


def _run_in_float32(module: nn.Module) -> None:
    import torch

    forward = module.forward

    @functools.wraps(forward)
    def exact(*arguments: Any, **named: Any) -> Any:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return forward(*(one.float() if one.is_floating_point() else one for one in arguments), **named)

    module.forward = exact
