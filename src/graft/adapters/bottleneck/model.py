"""Which modules of a base get a bottleneck, and how PEFT puts it there."""

from __future__ import annotations

import re
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import nn

from graft.adapters.bottleneck.config import BottleneckConfig
from graft.adapters.bottleneck.layer import NO_MERGE, USE_LINEAR, BottleneckLayer
from graft.adapters.bottleneck.places import LAYOUTS, beginning, default_targets, misfit, overlap
from graft.errors import ConfigError


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """A base with bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping = LAYOUTS

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if peft_config.target_modules is None:
            layout = LAYOUTS.get(model_config["model_type"])
            if layout is None:
                raise ValueError("Please specify `target_modules` in `peft_config`")
            peft_config.target_modules = default_targets(layout, peft_config.architecture)
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Refuse targets that cannot work, while the model is as it was; PEFT calls this before it puts layers."""
        wrapped: set[str] = set()
        targets: set[str] = set()
        for name, module in model.named_modules():
            own = f".{self.prefix}" in name
            place = name.replace(".base_layer", "")  # the name in the base without adapters
            if isinstance(module, BottleneckLayer):
                wrapped.add(place)
            if own or not self._check_target_module_exists(peft_config, place):
                continue
            targets.add(place)
            reason = misfit(module)
            if reason:
                raise ConfigError(f"adapter.target_modules: {place} {reason}; {USE_LINEAR}")
        both = overlap(wrapped | targets)
        if both:
            raise ConfigError(
                f"adapter.target_modules: {both[1]} lies in {both[0]}, and a bottleneck on each would change the "
                f"other's place; take one of the two (the default places of all architectures agree)"
            )

    @staticmethod
    def _check_target_module_exists(peft_config: BottleneckConfig, key: str) -> Any:
        found = check_target_module_exists(peft_config, key)
        if not found or not isinstance(peft_config.target_modules, str) or peft_config.layers_to_transform is None:
            return found
        # PEFT leaves the layers out of account where the targets are a pattern.
        wanted, named = peft_config.layers_to_transform, peft_config.layers_pattern
        lists = "|".join(re.escape(one) for one in ([named] if isinstance(named, str) else named or ()))
        number = re.search(rf"(?:^|\.)(?:{lists or '[^.]+'})\.(\d+)\.", key)
        return number is not None and int(number[1]) in ([wanted] if isinstance(wanted, int) else wanted)

    def _create_and_replace(
        self,
        config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,  # noqa: ARG002  (PEFT's signature)
    ) -> None:
        first = beginning(self.model, current_key)
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, config, first)
            return
        layer = BottleneckLayer(target, adapter_name, config, first, place=current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own reads the child's weight, which a block does not have; the layer is on its device already.
        del child
        setattr(parent, child_name, new_module)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: BottleneckConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Name the file's weights as the model does; PEFT itself only warns of missing ones, and runs the base."""
        found: dict[str, torch.Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        own = re.compile(rf".*\.{cls.prefix}(down|up)\.{re.escape(adapter_name)}\.(weight|bias)")
        missing = [name for name in model.state_dict() if own.fullmatch(name) and name not in found]
        if missing:
            raise ValueError(
                f"the saved adapter lacks {len(missing)} of its weights, such as {missing[0]}: the file is damaged, or "
                f"made for another base, or was saved beside a bottleneck of another architecture when these did not "
                f"share their places; train it again"
            )
        return found

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)
