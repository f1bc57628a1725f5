"""The bottleneck around one module of the base.

After a module (Houlsby et al., 2019, section 2.1; Pfeiffer et al., 2020): ``h = W x``, result ``h + s U f(D h)``.
Beside it (He et al., 2021, table 1, "parallel adapter"): result ``block(x) + s U f(D x)``. In bases whose feed-forward
block is no module of its own (BERT), the module at the block's end is wrapped and ``x`` is noted by a hook on the one
at its beginning.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from graft.adapters.bottleneck.config import BottleneckConfig

NORMAL_STD = 0.01
"""Houlsby et al., 2019, section 3.6."""


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A module of the base with bottlenecks, by adapter name.

    ``first`` is the module in which the block begins that ``base_layer`` ends, where the block is no module of its own.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_settings",)

    if TYPE_CHECKING:  # PEFT has no types, and torch's attributes are "Tensor | Module", of which each is one
        active_adapters: list[str]
        base_layer: Any
        get_base_layer: Any
        set_adapter: Any
        _cast_input_dtype: Any
        _move_adapter_to_device_of_base_layer: Any

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, first: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_settings: dict[str, BottleneckConfig] = {}
        self.merged_adapters: list[str] = []
        self._block_input: torch.Tensor | None = None
        self._input_is_noted = first is not None
        self._block_width = widths(first or base_layer)[0]
        if first is not None:
            self._note_input_of(first)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter with new weights, of the type and on the device of the wrapped module."""
        out = widths(self.get_base_layer())[1]
        reads = self._block_width if config.architecture == "parallel" else out
        inner = max(1, int(reads // config.reduction_factor))
        self.bottleneck_down[adapter_name] = nn.Linear(reads, inner)
        self.bottleneck_up[adapter_name] = nn.Linear(inner, out)
        self.bottleneck_settings[adapter_name] = config
        self._reset(adapter_name, config.init)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """Return the module's output with the active bottlenecks: x [..., D_in] to [..., D_out]."""
        result: torch.Tensor = self.base_layer(x, *arguments, **named)
        block_input, self._block_input = self._block_input if self._input_is_noted else x, None
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.bottleneck_settings:
                result = self._adapted(name, block_input, result)
        return result

    def _adapted(self, name: str, block_input: torch.Tensor | None, result: torch.Tensor) -> torch.Tensor:
        settings = self.bottleneck_settings[name]
        down: Any = self.bottleneck_down[name]
        reads = block_input if settings.architecture == "parallel" else result
        inner = ACT2FN[settings.non_linearity](down(self._cast_input_dtype(reads, down.weight.dtype)))
        added: torch.Tensor = (settings.scaling * self.bottleneck_up[name](inner)).to(result.dtype)
        return result + added if settings.residual else added

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Refuse: see :data:`NO_MERGE`."""
        raise ValueError(NO_MERGE)

    def unmerge(self) -> None:
        """Do nothing: nothing was ever merged."""

    def _reset(self, adapter_name: str, init: str) -> None:
        down: Any = self.bottleneck_down[adapter_name]
        up: Any = self.bottleneck_up[adapter_name]
        if init == "identity":  # the lower layer keeps torch's own initial weights
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
            return
        for layer in (down, up):
            nn.init.normal_(layer.weight, std=NORMAL_STD)
            nn.init.zeros_(layer.bias)

    def _note_input_of(self, first: nn.Module) -> None:
        me = weakref.ref(self)

        def note(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            layer = me()
            if layer is not None:  # the layer is gone once the adapter was unloaded
                layer._block_input = arguments[0]

        first.register_forward_pre_hook(note)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[Any, Any]:
        first = next(base_layer.parameters())  # a block has no weight of its own
        return first.device, first.dtype

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


NO_MERGE = (
    "a bottleneck has a non-linearity, so it cannot be folded into the base's weights; keep adapter and base apart, or "
    "train `lora`, which can be merged"
)


def widths(module: nn.Module) -> tuple[int, int]:
    """Return how wide the input and the output of ``module`` are: a linear layer, or a block that ends in one.

    Raises:
        ValueError: there is no linear layer in it.
    """
    linear = [one for one in module.modules() if isinstance(one, nn.Linear | Conv1D)]
    if not linear:
        raise ValueError(f"a bottleneck needs a module with linear layers, and {type(module).__name__} has none")
    first, last = linear[0], linear[-1]
    return (
        first.in_features if isinstance(first, nn.Linear) else first.weight.shape[0],
        last.out_features if isinstance(last, nn.Linear) else last.nf,
    )
