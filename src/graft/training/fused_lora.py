"""LoRA's forward and backward in the fewest products, with what is frozen left out.

PEFT runs a linear layer and its LoRA (Hu et al., 2021, section 4.1) as a dozen operations, half of them in float32
where the weights are bfloat16: each reads and writes all activations. Here it is one function for autograd,

    y = x W' + b + s (x A') B',    dx = dy W + s (dy B) A,    dA = s (dy B)' x,    dB = s dy' (x A'),

with additions inside the products, no gradient of W, and none of x where nothing below is trained. Products are in the
type of x; A and B, which the optimizer holds in float32, are cast for them, and their gradients are float32.

Layers that read the same x (query, key and value; gate and up) are one wide layer: which ones these are is seen in one
pass of the model.

Plain LoRA on a plain linear layer alone: a variant (DoRA, ...), a quantised layer, dropout, or several adapters at once
run through PEFT.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graft.training.tiled_attention import side_by_side

if TYPE_CHECKING:
    import torch
    from torch import nn


@functools.cache
def _function() -> Any:
    import torch

    class Fused(torch.autograd.Function):
        """Layers side by side: x [..., in], W [sum of out, in], then A [r, in] and B [out, r] of each."""

        @staticmethod
        def forward(
            ctx: Any,
            x: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor | None,
            scales: Sequence[float],
            *matrices: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            flat = x.flatten(0, -2)
            down = torch.cat(matrices[::2]).to(x.dtype)
            ups = [one * scale for one, scale in zip(matrices[1::2], scales, strict=True)]
            up = torch.block_diag(*ups).to(x.dtype)  # type: ignore[no-untyped-call]
            inner = flat @ down.t()
            found = torch.nn.functional.linear(flat, weight, bias).addmm_(inner, up.t())
            ctx.save_for_backward(flat, inner, weight, down, up)
            ctx.scales, ctx.shapes = scales, [one.shape for one in ups]
            ctx.types = [one.dtype for one in matrices]
            parts = torch.split(found, [rows for rows, _ in ctx.shapes], 1) if len(ups) > 1 else (found,)
            return tuple(one.view(*x.shape[:-1], -1) for one in parts)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            flat, inner, weight, down, up = ctx.saved_tensors
            dys = [one.flatten(0, -2) for one in gradients]
            joined = side_by_side(dys)
            dy = torch.cat(dys, 1) if joined is None else joined.flatten(1)
            through = dy @ up
            dx = None
            if ctx.needs_input_grad[0]:
                dx = (dy @ weight).addmm_(through, down).view(*gradients[0].shape[:-1], -1)
            d_down, d_up = through.t() @ flat, (inner.t() @ dy).t()
            found: list[Any] = [dx, None, None, None]
            row = column = 0
            for (rows, columns), scale in zip(ctx.shapes, ctx.scales, strict=True):
                kinds = ctx.types[len(found) - 4 : len(found) - 2]
                place = slice(row, row := row + rows), slice(column, column := column + columns)
                found += [d_down[place[1]].to(kinds[0]), d_up[place].to(kinds[1]).mul_(scale)]
            return tuple(found)

    return Fused.apply


class _Group:
    """Layers that read the same x."""

    def __init__(self, layers: Sequence[Any]) -> None:
        import torch

        self.layers = layers
        bases = [one.base_layer for one in layers]
        self.weight, self.bias = bases[0].weight, bases[0].bias
        if len(layers) > 1:
            sizes = [one.out_features for one in bases]
            self.weight = torch.cat([one.weight.detach() for one in bases])
            for base, part in zip(bases, self.weight.split(sizes), strict=True):
                base.weight.data = part  # the same numbers, kept once
            biases = [
                one.weight.new_zeros(size) if one.bias is None else one.bias.detach()
                for one, size in zip(bases, sizes, strict=True)
            ]
            self.bias = None if all(one.bias is None for one in bases) else torch.cat(biases)
        self.read: torch.Tensor | None = None
        self.waiting: dict[int, torch.Tensor] = {}

    def forward(self, number: int, peft: Callable[..., torch.Tensor], x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        """Run layer ``number`` of the group on ``x``; the others' results wait until they are asked for."""
        if number and self.read is x and number in self.waiting:
            found = self.waiting.pop(number)
            if not self.waiting:
                self.read = None
            return found
        self.waiting.clear()
        self.read = None
        chosen = None if rest or named or number or x.dtype != self.weight.dtype else self._matrices()
        if chosen is None:
            return peft(x, *rest, **named)
        scales, matrices = chosen
        first, *others = _function()(x, self.weight, self.bias, scales, *matrices)
        self.waiting = dict(enumerate(others, start=1))
        self.read = x if others else None
        return first

    def _matrices(self) -> tuple[list[float], list[torch.Tensor]] | None:
        """Return scale, A and B of each layer; None where a layer is not as plain as it was."""
        scales, matrices = [], []
        for layer in self.layers:
            names = [name for name in layer.active_adapters if name in layer.lora_A]
            if layer.disable_adapters or layer.merged or len(names) != 1:
                return None
            dropout = layer.lora_dropout[names[0]]
            if getattr(dropout, "p", 0.0) and dropout.training:
                return None
            scales.append(layer.scaling[names[0]])
            matrices += [layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight]
        return scales, matrices


@contextlib.contextmanager
def fused(model: nn.Module, run: Callable[[], object]) -> Iterator[int]:
    """Run a block with the plain LoRA layers of ``model`` fused; yield how many there are.

    ``run`` runs the model once: it is watched to see which layers read the same.
    """
    from peft.tuners.lora import Linear

    layers = [one for one in model.modules() if type(one) is Linear and _is_plain(one)]
    for layers_of_one in _grouped(layers, run):
        group = _Group(layers_of_one)
        for number, layer in enumerate(layers_of_one):
            layer.forward = functools.partial(group.forward, number, layer.forward)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _grouped(layers: Sequence[Any], run: Callable[[], object]) -> list[list[Any]]:
    """Return the layers that ran, in the order of their calls; those that read the same tensor together."""
    import torch

    seen: list[tuple[torch.Tensor, list[Any]]] = []

    def note(layer: Any, arguments: tuple[Any, ...]) -> None:
        if arguments and seen and seen[-1][0] is arguments[0] and layer not in seen[-1][1]:
            seen[-1][1].append(layer)
        elif arguments:
            seen.append((arguments[0], [layer]))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found: list[list[Any]] = []
    taken: set[int] = set()
    for _, group in seen:
        if not taken & {id(one) for one in group}:
            found.append(group)
            taken |= {id(one) for one in group}
    return found


def _is_plain(layer: Any) -> bool:
    import torch

    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and all(one.bias is None for one in layer.lora_B.values())
    )
