"""What some methods need on a model besides PEFT's layers: a procedure, a start, outputs of the row's own length."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from graft.adapters import adalora, starts
from graft.adapters.tuners import own_method

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

SHIFTED = ("logits", "start_logits", "end_logits")
"""Outputs with a value per position, which a prompt in front of the row makes longer."""
LENGTHENED_TASKS = ("CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS")


def plain_start(config: PeftConfig) -> tuple[PeftConfig, str]:
    """Return a configuration under which PEFT leaves the base alone, and the start that it asked for (or nothing)."""
    if starts.moves_base(config):
        return starts.without_start(config), str(config.init_lora_weights)
    return config, ""


def equip(model: PeftModel, start: str) -> None:
    """Give ``model`` what its method needs; ``start`` is what :func:`plain_start` returned."""
    config: Any = model.peft_config["default"]
    if config.peft_type == "ADALORA":
        adalora.take_over(model)
        model.procedure = adalora.AdaLora(model)
    if start:
        starts.begin_from_base(model, start)
        model.procedure = starts.FromBase(model)
    own = own_method(str(config.peft_type.value).lower())
    if own is not None and own.procedure is not None:
        model.procedure = own.procedure(model)
    _saved_in_float32(model)
    if config.is_prompt_learning and config.task_type in LENGTHENED_TASKS:
        _trim(model)


def file_bytes(model: PeftModel) -> int:
    """Return the size of the tensors that would be saved; works on the meta device too."""
    from peft import get_peft_model_state_dict

    with _prompt_on_cpu(model):
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    # Floating-point tensors are saved in float32, whatever the base's type is.
    size = sum(value.numel() * (4 if value.is_floating_point() else value.element_size()) for value in state.values())
    return size + starts.joining_bytes(model)


def _saved_in_float32(model: PeftModel) -> None:
    """Make float32 what the adapter's file will hold, also what is not trained: a reload compares types."""
    import torch
    from peft import get_peft_model_state_dict

    if any(value.is_meta for value in model.parameters()):
        return
    saved = {one.data_ptr() for one in get_peft_model_state_dict(model, save_embedding_layers=False).values()}
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point() and value.data_ptr() in saved:
            value.data = value.data.to(torch.float32)


@contextlib.contextmanager
def _prompt_on_cpu(model: PeftModel) -> Iterator[None]:
    """Give a prompt that has no weights yet some, as long as it is read: PEFT runs it to know what is saved."""
    encoder = getattr(model, "prompt_encoder", None)
    if encoder is None or not any(value.is_meta for value in encoder.parameters()):
        yield
        return
    model.prompt_encoder = copy.deepcopy(encoder).to_empty(device="cpu")
    try:
        yield
    finally:
        model.prompt_encoder = encoder


def _trim(model: PeftModel) -> None:
    """Let the outputs of ``model`` begin at the row's first own position: PEFT leaves those of a prompt in front."""
    forward = model.forward

    @functools.wraps(forward)
    def trimmed(*arguments: Any, **named: Any) -> Any:
        outputs = forward(*arguments, **named)
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if ids is not None:
            for name in SHIFTED:
                if name in outputs and outputs[name].shape[1] > ids.shape[1]:
                    outputs[name] = outputs[name][:, -ids.shape[1] :]
        return outputs

    model.forward = trimmed
