"""Which modules of a base get a bottleneck, and how PEFT puts it there."""

from __future__ import annotations

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import nn

from graft.adapters.bottleneck.config import BottleneckConfig
from graft.adapters.bottleneck.layer import NO_MERGE, BottleneckLayer

Layout = tuple[str, str, str]
"""Regular expressions over whole module names: the attention's last layer, the feed-forward block's last layer, the
block itself (for parallel)."""

# `output.dense` also ends `attention.output.dense`, and `dense` is a pooler's name too: the whole name decides.
_BERT = (
    r".*\.layer\.\d+\.(attention|crossattention)\.output\.dense",
    r".*\.layer\.\d+\.output\.dense",
    r".*\.layer\.\d+\.output\.dense",
)
_DISTILBERT = (r".*\.attention\.out_lin", r".*\.ffn\.lin2", r".*\.ffn")
_GPT2 = (r".*\.(attn|crossattention)\.c_proj", r".*\.mlp\.c_proj", r".*\.\d+\.mlp")
_LLAMA = (r".*\.self_attn\.o_proj", r".*\.mlp\.down_proj", r".*\.\d+\.mlp")
_T5 = (r".*\.(SelfAttention|EncDecAttention)\.o", r".*\.DenseReluDense\.wo", r".*\.DenseReluDense")
_VIT = (r".*\.attention\.o_proj", r".*\.mlp\.fc2", r".*\.\d+\.mlp")
LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(
        (
            *("bert", "bert-generation", "camembert", "deberta", "deberta-v2", "electra", "ernie", "roberta"),
            *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
        ),
        _BERT,
    ),
    "distilbert": _DISTILBERT,
    "gpt2": _GPT2,
    **dict.fromkeys(
        (
            *("gemma", "gemma2", "gemma3_text", "llama", "mistral", "olmo", "olmo2", "phi3"),
            *("qwen2", "qwen3", "smollm3", "stablelm"),
        ),
        _LLAMA,
    ),
    **dict.fromkeys(("longt5", "mt5", "t5", "umt5"), _T5),
    **dict.fromkeys(("deit", "vit"), _VIT),
}
"""transformers' model type -> where its blocks end."""
FIRST_OF_BLOCK = "intermediate"
"""In BERT-like layers the feed-forward block is no module: it begins in this one and ends in its neighbour."""


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
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, config)
            return
        layer = BottleneckLayer(target, adapter_name, config, _first_of_block(self.model, current_key))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own reads the child's weight, which a block does not have; the layer is on its device already.
        del child
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)


def default_targets(layout: Layout, architecture: str) -> str:
    """Return the regular expression over module names of an architecture's places."""
    attention, feed_forward, block = layout
    if architecture == "houlsby":
        return f"{attention}|{feed_forward}"
    return block if architecture == "parallel" else feed_forward


def _first_of_block(model: nn.Module, key: str) -> nn.Module | None:
    """Return the module in which the feed-forward block begins that ends in ``layer.N.output.dense``."""
    layer, _, end = key.rpartition(".output.")
    if end != "dense" or layer.endswith("attention"):
        return None
    first = getattr(model.get_submodule(layer), FIRST_OF_BLOCK, None)
    return first if isinstance(first, nn.Module) else None
