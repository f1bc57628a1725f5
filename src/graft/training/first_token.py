"""The last layer for the first token of each row alone, where the head reads no other.

A classifier that reads the first token (BERT's pooler, RoBERTa's head) needs of its last layer what that token becomes:
keys and values of all tokens, and everything else of one token a row. In a layer of width d with an inner width of 4d,
the former are a sixth of its products.

The layer is changed from outside, as its body is (:mod:`graft.training.packing`): it is given the first tokens in place
of the line, and its projections of keys and values are given the whole line. A layer makes their shape from that of its
input, so what they give is set aside for the attention. Only layers fit whose projections read their own input: where a
norm lies between (most decoders), it would have to run twice.

Whether a head reads the first token alone is tried: with every other state not a number, what comes out must be equal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.adapters import layer_lists

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from graft.training.packing import Pack

PROJECTIONS = 3
"""Query, key and value, in the order in which transformers' layers call them."""


@dataclass
class LastLayer:
    """A body's last layer, run for first tokens while it is installed."""

    layer: nn.Module
    projections: tuple[nn.Module, nn.Module]
    """Those of keys and values."""
    _line: torch.Tensor | None = field(default=None, init=False)
    _rows: int = field(default=0, init=False)
    _aside: list[torch.Tensor] = field(default_factory=list, init=False)

    def install(self) -> Callable[[], None]:
        """Change the layer; return what changes it back."""
        hooks = [
            self.layer.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.layer.register_forward_hook(self._leave, always_call=True),
        ]
        for one in self.projections:
            hooks += [one.register_forward_pre_hook(self._read), one.register_forward_hook(self._set_aside)]

        def remove() -> None:
            for hook in hooks:
                hook.remove()

        return remove

    def _enter(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if "pack" not in named:
            return None  # a batch that is not packed
        self._line, self._aside = given[0], []
        pack: Pack = named["pack"]
        first = dataclasses.replace(pack.first_tokens, aside=self._aside)
        self._rows = len(first.index)
        return (self._line[:, pack.bounds[:-1].long()], *given[1:]), {**named, "pack": first}

    def _leave(self, *_: Any) -> None:
        """Let go of the batch, also where the layer failed: what is kept would hold all that was computed for it."""
        self._line, self._aside = None, []

    def _read(self, *_: Any) -> Any:
        return None if self._line is None else (self._line,)

    def _set_aside(self, _: nn.Module, __: Any, found: torch.Tensor) -> Any:
        if self._line is None:
            return None
        self._aside.append(found)
        return found[:, : self._rows]  # in the shape that the layer waits for


def last_layer(body: nn.Module, run: Callable[[], object]) -> LastLayer | None:
    """Return the last layer of ``body``, seen while ``run`` runs it; None where it does not fit."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    stacks = layer_lists(body)
    if not stacks:
        return None
    layer = stacks[-1][-1]
    entered: list[Any] = []
    reading: list[nn.Module] = []

    def enter(_: nn.Module, given: tuple[Any, ...]) -> None:
        entered.append(given[0] if given else None)

    def read(part: nn.Module, given: tuple[Any, ...]) -> None:
        inside = any(part in set(other.modules()) for other in reading)
        projects = hasattr(part, "out_features") or isinstance(part, BaseTunerLayer)
        if entered and given and given[0] is entered[-1] and not inside and projects:
            reading.append(part)

    hooks = [layer.register_forward_pre_hook(enter)]
    hooks += [part.register_forward_pre_hook(read) for part in layer.modules() if part is not layer]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if len(entered) != 1 or len(reading) != PROJECTIONS:
        return None
    return LastLayer(layer, (reading[1], reading[2]))
