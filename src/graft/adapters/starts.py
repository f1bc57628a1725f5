"""LoRA that starts from the base's own weights (PiSSA, OLoRA), on a base that stays untouched.

Both start from factors B0 A0 of a weight W (PiSSA: the principal part of its singular value decomposition, Meng et al.,
2024, equations 2 to 4; OLoRA: of its QR decomposition) and put the rest, W - s B0 A0, in W's place. Then the base is
another one: with the adapter off it answers wrong, and each load decomposes W again. Here W stays, and the start is
taken off beside it: ``W x + s B A x - s B0 A0 x``, which has the same values and the same gradients. At the end both
pairs become one plain LoRA of twice the rank, as PEFT's ``subtract_mutated_init`` does: ``[B, -B0] [A; A0]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graft.adapters.procedure import Procedure
from graft.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from torch import nn

BUFFERS = ("start_A", "start_B")


def moves_base(config: Any) -> bool:
    """Return whether PEFT would change the base's weights to start the adapter that ``config`` describes."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and (start.startswith("pissa") or start.lower() == "olora")


def without_start(config: LoraConfig) -> LoraConfig:
    """Return ``config`` with PEFT's ordinary start: the layers get theirs from :func:`begin_from_base`."""
    return replace(config, init_lora_weights=True)


def begin_from_base(model: PeftModel, start: str) -> None:
    """Give each LoRA layer of ``model`` its start and what takes it off again.

    Works on the meta device, where only the shapes are made.

    Raises:
        ConfigError: a target is no linear layer.
    """
    import torch
    from peft.tuners.lora import Linear

    for name, layer in _layers(model):
        if not isinstance(layer, Linear):
            raise ConfigError(
                f"adapter.init_lora_weights: {start!r} starts linear layers alone, and {name} is "
                f"{type(layer.get_base_layer()).__name__}; leave it out of adapter.target_modules"
            )
        if not layer.get_base_layer().weight.is_floating_point():
            raise ConfigError(
                f"adapter.init_lora_weights: {start!r} decomposes the base's weights, and these are quantized; use true"
            )
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        if not a.is_meta:
            weight = layer.get_base_layer().weight
            untouched = weight.data
            weight.data = untouched.clone()
            if start.lower() == "olora":
                layer.olora_init("default")
            else:
                layer.pissa_init("default", start)
            weight.data = untouched
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            a.data, b.data = a.data.float().contiguous(), b.data.float().contiguous()
        for key, value in zip(BUFFERS, (a, b), strict=True):
            layer.register_buffer(key, value.detach().clone().to(torch.float32), persistent=False)
        layer.register_forward_hook(_take_off)


def joining_bytes(model: PeftModel) -> int:
    """Return by how many bytes the adapter's file grows when the starts join its weights."""
    return sum(4 * getattr(one, name).numel() for _, one in _layers(model) for name in BUFFERS if hasattr(one, name))


class FromBase(Procedure):
    """The hooks of a LoRA that :func:`begin_from_base` started."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the starts, so that a resume does not depend on decomposing W to the last bit alike."""
        return {f"{name}.{key}": getattr(layer, key) for name, layer in _layers(self.model) for key in BUFFERS}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the starts back."""
        for name, layer in _layers(self.model):
            for key in BUFFERS:
                getattr(layer, key).copy_(tensors[f"{name}.{key}"])

    def finish(self) -> None:
        """Turn each layer's two pairs into one of twice the rank."""
        config: Any = self.model.peft_config["default"]
        twice = replace(
            config,
            r=2 * config.r,
            lora_alpha=2 * config.lora_alpha,
            rank_pattern={name: 2 * rank for name, rank in config.rank_pattern.items()},
            alpha_pattern={name: 2 * alpha for name, alpha in config.alpha_pattern.items()},
        )
        if config.use_rslora:  # its scale is alpha / sqrt(r)
            twice = replace(
                twice,
                lora_alpha=2**0.5 * config.lora_alpha,
                alpha_pattern={name: 2**0.5 * alpha for name, alpha in config.alpha_pattern.items()},
            )
        for _, layer in _layers(self.model):
            _join(layer, twice)
        self.model.peft_config["default"] = twice


def _join(layer: Any, config: LoraConfig) -> None:
    import torch

    old_a, old_b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    a, b = torch.cat([old_a, layer.start_A]), torch.cat([old_b, -layer.start_B], dim=1)
    scaling, rank = layer.scaling["default"], 2 * layer.r["default"]
    for key in BUFFERS:
        delattr(layer, key)
    layer.update_layer("default", rank, layer.lora_alpha["default"], config=config)
    layer.lora_alpha["default"], layer.scaling["default"] = rank * scaling, scaling
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a, b


def _take_off(layer: Any, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    if layer.disable_adapters or not hasattr(layer, BUFFERS[0]):
        return None
    x = arguments[0].to(layer.start_A.dtype)
    taken: torch.Tensor = layer.scaling["default"] * ((x @ layer.start_A.T) @ layer.start_B.T)
    return output - taken.to(output.dtype)


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    found: Iterator[tuple[str, nn.Module]] = model.named_modules()
    return ((name, part) for name, part in found if isinstance(part, LoraLayer))
