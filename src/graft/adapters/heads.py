"""Where a base's head is, and how Graft's own methods are put on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graft.adapters.methods import peft_config, task_type_of
from graft.adapters.section import AdapterConfig
from graft.adapters.tuners import own_method
from graft.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn


def head_of(model: Any) -> str:
    """Return the full name of the last linear layer of ``model``'s head.

    A language model's output embeddings (``lm_head``); else the last linear layer outside the base (``classifier``,
    ``score``, ``qa_outputs``, ``classifier.out_proj``).

    Raises:
        ConfigError: the model has no such layer.
    """
    from torch import nn

    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    embeddings = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    prefix = getattr(model, "base_model_prefix", "")
    inside = f"{prefix}." if prefix and hasattr(model, prefix) else "\0"
    found = [name for name, part in linear.items() if part is embeddings]
    found = found or [name for name in linear if not name.startswith(inside)]
    if not found:
        raise ConfigError(f"adapter.method: {type(model).__name__} has no linear head to adapt; choose another method")
    return str(found[-1])


def configured(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str], columns: int) -> PeftConfig:
    """Return PEFT's configuration of ``adapter`` on ``model``.

    Args:
        model: the base with the task's head.
        adapter: the section.
        new_modules: modules that the base does not bring.
        columns: how many numeric columns the task's rows have.

    Raises:
        ConfigError: as :func:`graft.adapters.peft_config`; or the method finds no head.
    """
    own = own_method(adapter.method)
    if own is not None and own.configured is not None:
        config: PeftConfig = own.configured(model, adapter, new_modules, columns)
        return config
    return peft_config(adapter, task_type=task_type_of(type(model).__name__), new_modules=new_modules)


def head_alone(method: str) -> bool:
    """Return whether a method trains nothing below the head."""
    own = own_method(method)
    return own is not None and own.head_alone


def trained_modules(model: PeftModel) -> list[nn.Module]:
    """Return the modules that PEFT put in place and that hold trained weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    return [
        part
        for part in model.get_base_model().modules()
        if isinstance(part, ModulesToSaveWrapper | BaseTunerLayer)
        and any(parameter.requires_grad for parameter in part.parameters())
    ]


def head_input(model: PeftModel) -> tuple[int, ...]:
    """Return the shape of what the first trained module reads of one row of four tokens; empty where that is unknown.

    For a model without weights: it is run, without a mask (whose values it would look into), and where it does not run
    so, a classifier is taken to read one vector.
    """
    import torch
    from torch import nn

    seen: list[tuple[int, ...]] = []
    parts = trained_modules(model)
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape))) for part in parts]
    inner: Any = model.get_base_model()
    ids = torch.ones(1, 4, dtype=torch.int64, device=inner.device)
    more = {"decoder_input_ids": ids} if inner.config.is_encoder_decoder else {}
    try:
        with torch.no_grad():
            inner.eval()(input_ids=ids, **more)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        linear = next((one for part in parts for one in part.modules() if isinstance(one, nn.Linear)), None)
        if linear is not None and type(inner).__name__.endswith(("SequenceClassification", "ImageClassification")):
            seen.append((1, linear.in_features))
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else ()
