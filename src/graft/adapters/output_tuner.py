"""Output adapters: PEFT tuners on the last linear layer of a base, which itself stays as it is.

With x what the head reads (float [B, D] pooled, or [B, T, D] per token) and f(x) its output:

- ``output_linear``: f(x) + W x + b, W and b zero at the start;
- ``output_mlp``: f(x) + W2 relu(W1 x + b1) + b2, W2 and b2 zero at the start; without ``residual`` the second part
  alone, which then starts at random.

With ``features: columns`` the adapter reads the row's numeric columns (the keyword ``features`` of the model's
forward, float32 [B, F]) in place of x. A head that is new (random in each process) is set to zero: then
``output_linear`` is multinomial logistic regression on the features. Nothing below the head gets a gradient, so what it
reads can be computed once (``training/frozen.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from graft.adapters.heads import head_of
from graft.adapters.methods import peft_config
from graft.adapters.section import AdapterConfig
from graft.adapters.tuners import Method, peft_type
from graft.errors import ConfigError, shown

COLUMNS = "columns"
HIDDEN = "hidden"


@dataclass
class OutputLinearConfig(PeftConfig):  # type: ignore[misc]
    """What ``output_linear`` is made of."""

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "The one linear layer that is adapted; by default the last one of the head."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are trained and saved in full beside the adapter."}
    )
    features: str = field(
        default=HIDDEN,
        metadata={"help": "What the adapter reads: `hidden`, what the head reads, or `columns`, the numeric columns."},
    )
    num_columns: int = field(default=0, metadata={"help": "How many numeric columns a row has."})
    new_head: bool = field(default=False, metadata={"help": "Whether the head is new and therefore set to zero."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("output_linear")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.features not in (HIDDEN, COLUMNS):
            raise ValueError(f"features must be `{HIDDEN}` or `{COLUMNS}`, not {self.features!r}")


@dataclass
class OutputMlpConfig(OutputLinearConfig):
    """What ``output_mlp`` is made of."""

    residual: bool = field(
        default=True,
        metadata={"help": "Whether the adapter is added to the head's output; else it takes its place."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("output_mlp")


class OutputLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A linear layer and what its adapters add to it."""

    adapter_layer_names: tuple[str, ...] = ()
    if TYPE_CHECKING:
        base_layer: Any
        get_base_layer: Any
        set_adapter: Any
        active_adapters: Any
        _move_adapter_to_device_of_base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: OutputLinearConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict())
        self.output_configs: dict[str, OutputLinearConfig] = {}
        self.columns: torch.Tensor | None = None
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: OutputLinearConfig) -> None:
        """Add an adapter."""
        linear = self.get_base_layer()
        width = config.num_columns if config.features == COLUMNS else linear.in_features
        self.adapters[adapter_name] = self.made(config, width, linear)
        self.output_configs[adapter_name] = config
        if config.new_head:
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    @property
    def adapters(self) -> nn.ModuleDict:
        """The adapters' own modules by adapter name."""
        found: nn.ModuleDict = getattr(self, self.adapter_layer_names[0])
        return found

    def made(self, config: Any, width: int, linear: nn.Linear) -> nn.Module:  # noqa: ARG002 - see OutputMlp
        """Return a new adapter that reads ``width`` numbers and writes what ``linear`` writes."""
        return _zeros(nn.Linear(width, linear.out_features))

    def take_columns(self, _: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take the keyword ``features`` away before the base sees it (a forward pre-hook of the base)."""
        self.columns = named.pop("features", None)
        return arguments, named

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the active adapters: float32 where there are any."""
        names = [name for name in self.active_adapters if name in self.adapters]
        if self.disable_adapters or not names:
            return self.base_layer(x)  # type: ignore[no-any-return]
        kept = all(getattr(self.output_configs[name], "residual", True) for name in names)
        added = [self._added(name, x) for name in names]
        # Logits that are rounded to bfloat16's eight bits tie, so the sum is taken in float32 also under autocast.
        return sum(added, self.base_layer(x).float()) if kept else sum(added[1:], added[0])

    def _added(self, name: str, x: torch.Tensor) -> torch.Tensor:
        read = x
        if self.output_configs[name].features == COLUMNS:
            if self.columns is None:
                raise ValueError("the adapter reads numeric columns, and the batch has no `features`")
            read = self.columns if x.ndim == 2 else self.columns[:, None]
        with torch.autocast(x.device.type, enabled=False):
            result: torch.Tensor = self.adapters[name](read.float())
        return result.float()


class OutputLinear(OutputLayer):
    """A linear layer with linear adapters."""

    adapter_layer_names = ("output_linear_head",)
    other_param_names = ("output_configs",)


class OutputMlp(OutputLayer):
    """A linear layer with adapters of two layers."""

    adapter_layer_names = ("output_mlp_head",)
    other_param_names = ("output_configs",)

    def made(self, config: Any, width: int, linear: nn.Linear) -> nn.Module:
        last = nn.Linear(linear.in_features, linear.out_features)
        return nn.Sequential(nn.Linear(width, linear.in_features), nn.ReLU(), _zeros(last) if config.residual else last)


class OutputModel(BaseTuner):  # type: ignore[misc]
    """A base with output adapters."""

    tuner_layer_cls = OutputLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's own form

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:  # noqa: ARG002
        if peft_config.target_modules is None:
            peft_config.target_modules = re.escape(head_of(self.model))
        return peft_config

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Do not warn of tied embeddings: the head is adapted beside its weight, which stays the embeddings'."""

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,  # noqa: ARG002
    ) -> None:
        if isinstance(target, OutputLayer):
            target.update_layer(adapter_name, peft_config)
            layer = target
        elif isinstance(target, nn.Linear):
            layer = self.tuner_layer_cls(target, adapter_name, peft_config)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
        else:
            raise ValueError(f"{current_key} is {type(target).__name__}, and an output adapter needs a linear layer")
        if peft_config.features == COLUMNS and not getattr(self.model, "takes_features", False):
            self.model.takes_features = True
            self.model.register_forward_pre_hook(layer.take_columns, with_kwargs=True)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            f"{self.prefix.removesuffix('_')} cannot be merged: it adds a layer that the base does not have"
        )


class OutputLinearModel(OutputModel):
    """A base with ``output_linear``."""

    prefix = "output_linear_"
    tuner_layer_cls = OutputLinear


class OutputMlpModel(OutputModel):
    """A base with ``output_mlp``."""

    prefix = "output_mlp_"
    tuner_layer_cls = OutputMlp


def _zeros(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def configured(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str], columns: int) -> Any:
    """Return the configuration of an output adapter: its one target, and which other modules are trained with it.

    PEFT adds ``classifier`` and ``score`` to the saved modules of classifiers, which would take the target away: so the
    configuration has no task type.
    """
    plain: Any = peft_config(adapter)
    target = _target(model, plain.target_modules)
    given = adapter.model_copy(update={"target_modules": re.escape(target)})
    others = [name for new in new_modules for name in _beside(model, new, target)]
    config: Any = peft_config(given, new_modules=others)
    config.new_head = any(target == new or target.startswith(f"{new}.") for new in new_modules)
    if config.features == "columns":
        if not columns:
            raise ConfigError(
                "adapter.features: columns, but the rows have none; name them in task.numeric_columns, or set `hidden`"
            )
        config.num_columns = columns
    return config


def _target(model: Any, wanted: Any) -> str:
    if wanted is None:
        return head_of(model)
    found = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
        and (
            re.fullmatch(wanted, name)
            if isinstance(wanted, str)
            else any(name == one or name.endswith(f".{one}") for one in wanted)
        )
    ]
    if len(found) != 1:
        raise ConfigError(
            f"adapter.target_modules: {shown(wanted)} meets {len(found)} linear layers, and an output adapter "
            f"stands on one; leave it out for `{head_of(model)}`"
        )
    return str(found[0])


def _beside(model: nn.Module, new: str, target: str) -> Iterator[str]:
    """Yield ``new``, or, where ``target`` is inside it, the parts of it that have weights and are not the target."""
    if new == target:
        return
    if not target.startswith(f"{new}."):
        yield new
        return
    for name, part in model.get_submodule(new).named_children():
        if any(True for _ in part.parameters()):
            yield from _beside(model, f"{new}.{name}", target)


_KNOWN: dict[str, Any] = {
    "head_alone": True,
    "leaves_matrices": True,
    "reads_columns": True,
    "configured": configured,
}
METHODS = {
    "output_linear": Method(OutputLinearConfig, OutputLinearModel, **_KNOWN),
    "output_mlp": Method(OutputMlpConfig, OutputMlpModel, **_KNOWN),
}
