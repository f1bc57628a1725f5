"""How many floating-point operations the products of matrices in a training step take: what MFU counts.

Per position that a matrix of N weights sees (Kaplan et al., 2020, section 2.1):

    2 N    forward
    2 N    backward, to what it reads: only where something is trained below
    2 N    backward, to its weights: only where they are trained

So a frozen base with adapters in every layer takes 4 N a token, a trained matrix 6 N. Attention of width d among L
positions takes 4 L d a token and layer forward, twice that backward, and half where a token sees only those before it.
A language model's head runs at supervised positions alone.

Which matrices run, and what reaches them, is seen once, in a training's first pass: layers that are not run, because
what comes out of them is known, are not counted. From then on a step's FLOPs are a few sums over its masks.

Left out: all that is no product (norms, activations, softmax, the optimizer), sliding windows (all earlier positions
are counted), products that are no layer of their own (the experts of a mixture), and what is computed twice. The
attention of the lowest adapted layer is counted as if its queries, keys and values were all trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

CROSS = 2
"""The place of a decoder's look at the encoder among the pairs."""


@dataclass(frozen=True)
class Sizes:
    """What a piece of a step is about. An encoder and a decoder are two bodies; most models have one."""

    tokens: tuple[int, ...]
    """Real tokens of each body; none where rows are no tokens (pictures)."""
    positions: tuple[int, ...]
    """Positions that each body computes for them."""
    pairs: tuple[int, ...]
    """Pairs of positions of a row, in each body, and of the decoder's with the encoder's."""
    supervised: int
    """Tokens that the loss is about; 0 where it is not about tokens."""
    items: int
    """What the loss sums over."""


@dataclass
class Rates:
    """FLOPs of forward and backward for one of each that :class:`Sizes` counts."""

    tokens: list[float] = field(default_factory=lambda: [0.0, 0.0])
    pairs: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    supervised: float = 0.0
    items: float = 0.0

    def of(self, sizes: Sizes) -> float:
        """Return what a piece of these sizes takes."""
        parts = [(self.tokens, sizes.tokens), (self.pairs, sizes.pairs)]
        counted = sum(rate * count for rates, counts in parts for rate, count in zip(rates, counts, strict=False))
        return counted + self.supervised * sizes.supervised + self.items * sizes.items


class Watch:
    """What a model runs in one pass."""

    def __init__(self, model: Any, bodies: Sequence[nn.Module]) -> None:
        """Prepare for ``model``, whose parts that run on tokens are ``bodies``."""
        self._model, self._bodies = model, bodies
        self._head = model.get_output_embeddings()
        self._products: list[tuple[int, int, float]] = []
        """Of each product that ran: its body, its positions, and the FLOPs of one."""
        self._attentions: list[tuple[int, bool, int, float]] = []
        """Of each attention: its body, whether it is causal, the positions it read, and the FLOPs of a pair."""
        self._heads: dict[bool, float] = {}
        """FLOPs of the head at a position, with and without gradient: a task may run it to look at it."""
        self._ran: set[nn.Module] = set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Watch the model in a block."""
        bodies = {part: number for number, body in enumerate(self._bodies) for part in body.modules()}
        hooks = []
        for part in self._model.modules():
            note = self._note_of(part, bodies.get(part, 0))
            if note is not None:
                hooks.append(part.register_forward_hook(note, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def rates(self, sizes: Sizes) -> Rates:
        """Return the rates, from the sizes of the batch that was watched."""
        found = Rates(supervised=sum(self._heads.values()))
        for body, positions, flops in self._products:
            # A decoder's look at the encoder has products that run on the encoder's positions.
            home = body if positions == (*sizes.positions, 0, 0)[body] else 0
            if positions in sizes.positions[home : home + 1] and positions != sizes.items:
                found.tokens[home] += flops
            elif not sizes.positions or positions <= sizes.items:
                found.items += flops * positions / sizes.items
            else:
                found.tokens[body] += flops * positions / sizes.positions[body]
        for body, causal, positions, flops in self._attentions:
            if not sizes.pairs:
                rows = sizes.items
                found.items += flops * (positions / rows) ** 2
            elif positions == sizes.items != sizes.positions[body]:
                found.tokens[body] += flops  # one token of each row looks at all of it
            elif body and not causal:
                found.pairs[CROSS] += flops
            else:
                found.pairs[body] += flops / 2 if causal else flops
        return found

    def _note_of(self, part: nn.Module, body: int) -> Any:
        """Return what notes that a module ran; None for one that has no product of its own."""
        if part is self._head:
            return self._note_head
        if _is_product(part) or hasattr(part, "lora_A"):

            def note(one: Any, given: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
                self._note_product(one, _first(given, named), out, body)

            return note
        if _attends(part):

            def note_pairs(one: Any, given: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
                self._note_attention(one, _first(given, named), out, body)

            return note_pairs
        return None

    def _note_product(self, part: Any, read: torch.Tensor, out: torch.Tensor, body: int) -> None:
        if _is_product(part):
            self._ran.add(part)
            self._products.append(
                (body, _positions(part, read, out), _flops(part.weight, read.requires_grad, _count(part)))
            )
        elif (base := part.base_layer) in self._ran:  # PEFT ran it, and its own products
            self._ran.discard(base)
        elif _is_product(base):
            flops = _flops(base.weight, read.requires_grad, _count(base))
            for name in part.active_adapters:
                down, up = (one[name].weight for one in (part.lora_A, part.lora_B))
                flops += _flops(down, read.requires_grad) + _flops(up, True)
            self._products.append((body, _positions(base, read, out), flops))

    def _note_head(self, part: Any, given: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        learns = _first(given, named).requires_grad
        self._heads[learns] = _flops(part.weight, learns)

    def _note_attention(self, part: Any, read: torch.Tensor, out: Any, body: int) -> None:
        learns = (out[0] if isinstance(out, tuple) else out).requires_grad
        width = _width(getattr(part, "config", None) or self._model.config)
        positions = read.numel() // read.shape[-1]
        self._attentions.append((body, bool(part.is_causal), positions, 4.0 * width * (3 if learns else 1)))


def _flops(weight: torch.Tensor, reads_trained: bool, count: int | None = None) -> float:
    """Return the FLOPs of a matrix at a position; ``count``: its numbers, where they are stored otherwise."""
    import torch

    learns = torch.is_grad_enabled()
    passes = 1 + (learns and reads_trained) + (learns and weight.requires_grad)
    return 2.0 * passes * (weight.numel() if count is None else count)


def _is_product(part: Any) -> bool:
    """Return whether a layer is one product."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(part, torch.nn.Linear | Conv1D | torch.nn.Conv2d)


def _positions(part: Any, read: torch.Tensor, out: torch.Tensor) -> int:
    """Return at how many positions a layer ran; not all that it gives need be passed on."""
    import torch

    if isinstance(part, torch.nn.Conv2d):
        return out.numel() // int(part.out_channels)
    return read.numel() // read.shape[-1]


def _count(part: Any) -> int:
    """Return the numbers of a layer's matrix; quantised ones lie packed."""
    import torch

    return part.in_features * part.out_features if isinstance(part, torch.nn.Linear) else int(part.weight.numel())


def _attends(part: nn.Module) -> bool:
    """Return whether a module is transformers' attention, not one around it."""
    return isinstance(getattr(part, "is_causal", None), bool) and not any(
        isinstance(getattr(inner, "is_causal", None), bool) for inner in part.modules() if inner is not part
    )


def _width(config: Any) -> int:
    """Return the width of all heads together."""
    heads = int(config.num_attention_heads)
    each = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
    return heads * int(each)


def _first(given: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    """Return the first tensor of a call."""
    import torch

    return next(one for one in [*given, *named.values()] if isinstance(one, torch.Tensor))
