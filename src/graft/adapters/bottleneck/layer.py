"""The bottleneck around one module of the base.

After a module (Houlsby et al., 2019, section 2.1; Pfeiffer et al., 2020): ``h = W x``, result ``h + s U f(D h)``.
Beside a block (He et al., 2021, table 1, "parallel adapter"): result ``block(x) + s U f(D x)``. The module at the
block's end is wrapped, and ``x`` is noted by a hook on the one that reads the block's input: so each architecture has
the same places, and adapters of all of them can stand on one model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from graft.adapters.bottleneck.config import BottleneckConfig
from graft.errors import ConfigError

NORMAL_STD = 0.01
"""Houlsby et al., 2019, section 3.6."""


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A module of the base with bottlenecks, by adapter name; ``place`` is its full name in the base.

    ``first`` is the module that reads the input of the block that ``base_layer`` ends, where the two are not one.
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
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: BottleneckConfig,
        first: nn.Module | None = None,
        *,
        place: str,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.place = place
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_settings: dict[str, BottleneckConfig] = {}
        self.merged_adapters: list[str] = []
        self._block_input: Any = None
        self._input_is_noted = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, first)

    def update_layer(self, adapter_name: str, config: BottleneckConfig, first: nn.Module | None = None) -> None:
        """Add an adapter with new weights, of the type and on the device of the wrapped module."""
        base_layer = self.get_base_layer()
        out = widths(base_layer)[1]
        reads = out
        if config.architecture == "parallel":
            reads = widths(first or base_layer)[0]
            self._note_input_of(first or base_layer)
        inner = max(1, int(reads // config.reduction_factor))
        self.bottleneck_down[adapter_name] = nn.Linear(reads, inner)
        self.bottleneck_up[adapter_name] = nn.Linear(inner, out)
        self.bottleneck_settings[adapter_name] = config
        self._reset(adapter_name, config.init)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Return the module's output with the active bottlenecks: [..., D_out].

        Raises:
            ConfigError: the module gives, or the block reads, something else than one tensor.
        """
        result: torch.Tensor = self.base_layer(*arguments, **named)
        block_input, self._block_input = self._block_input, None
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.bottleneck_settings:
                result = self._adapted(name, block_input, result)
        return result

    def _adapted(self, name: str, block_input: Any, result: torch.Tensor) -> torch.Tensor:
        settings = self.bottleneck_settings[name]
        down: Any = self.bottleneck_down[name]
        reads = block_input if settings.architecture == "parallel" else result
        for value, does in ((result, "gives"), (reads, "reads")):
            if not isinstance(value, torch.Tensor):
                raise ConfigError(
                    f"adapter.target_modules: {self.place} {does} a {type(value).__name__}, not a tensor; {USE_LINEAR}"
                )
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
        if not self._input_is_noted:
            first.register_forward_pre_hook(Noting(self), with_kwargs=True)
            self._input_is_noted = True

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[Any, Any]:
        first = next(base_layer.parameters())  # a block has no weight of its own
        return first.device, first.dtype

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


class Noting:
    """A hook that leaves a block's input with the layer at its end.

    It does not keep the layer alive, which is gone once the adapter was unloaded; a copy of a model has its own.
    """

    def __init__(self, layer: BottleneckLayer) -> None:
        self._layer: Callable[[], BottleneckLayer | None] = weakref.ref(layer)

    def __call__(self, _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the first of the arguments."""
        layer = self._layer()
        if layer is not None:
            layer._block_input = next(iter((*arguments, *named.values())), None)

    def __getstate__(self) -> tuple[BottleneckLayer | None]:
        return (self._layer(),)

    def __setstate__(self, state: tuple[BottleneckLayer | None]) -> None:
        self._layer = (lambda: None) if state[0] is None else weakref.ref(state[0])


USE_LINEAR = "name the linear layer at the block's end, or leave the key out for the places of the architecture"
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
