"""Reference methods that add nothing to the base: ``probe`` trains the head alone, ``full`` every weight.

PEFT has both as parts of other methods only (``modules_to_save``, ``bias``). As tuners without a layer of their own
they go through the same chain as any adapter. What ``full`` changes in the base is not PEFT's to save: Graft keeps it
beside the adapter (``artifact/base_weights.py``), and PEFT alone loads such a folder as the untouched base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from graft.adapters.heads import head_of
from graft.adapters.methods import peft_config, task_type_of
from graft.adapters.section import AdapterConfig
from graft.adapters.tuners import Method, peft_type


@dataclass
class ProbeConfig(PeftConfig):  # type: ignore[misc]
    """What ``probe`` is made of."""

    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "The modules that are trained, in full; by default the head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("probe")

    @property
    def target_modules(self) -> str:
        """PEFT's own sign for a configuration that adapts no module."""
        return str(DUMMY_TARGET_MODULES)


@dataclass
class FullConfig(ProbeConfig):
    """What ``full`` is made of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("full")


class NoLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """The layer class of a tuner that has none."""


class ReferenceModel(BaseTuner):  # type: ignore[misc]
    """A base of which only whole modules are trained."""

    tuner_layer_cls = NoLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's own form

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:  # noqa: ARG002
        return peft_config

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Do not warn of tied embeddings: the head is adapted beside its weight, which stays the embeddings'."""

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; PEFT looks for the next one in tuner layers, of which there are none here."""
        kept = [name for name in self.active_adapters if name != adapter_name]
        super().delete_adapter(adapter_name)
        following = kept or list(self.peft_config)
        if following:
            self.set_adapter(following[0])

    def _create_and_replace(self, *_: Any, **__: Any) -> None:
        raise ValueError(f"{self.prefix.removesuffix('_')} adapts no module")


class ProbeModel(ReferenceModel):
    """A base with a trained head."""

    prefix = "probe_"


class FullModel(ReferenceModel):
    """A base of which everything is trained."""

    prefix = "full_"


def on_head(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str], columns: int) -> Any:  # noqa: ARG001
    """Return the configuration of a probe: without a new head, and without modules named, it trains the base's own."""
    if not new_modules and not adapter.keys.get("modules_to_save"):
        new_modules = [head_of(model)]
    return peft_config(adapter, task_type=task_type_of(type(model).__name__), new_modules=new_modules)


METHODS = {
    "probe": Method(ProbeConfig, ProbeModel, head_alone=True, leaves_matrices=True, configured=on_head),
    "full": Method(FullConfig, FullModel),
}
