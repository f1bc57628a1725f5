"""Pairs of method and model that PEFT accepts and that then fail, or go wrong without a word: refused with the reason.

``graft check`` asks here, before any training. What PEFT refuses itself keeps PEFT's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graft.adapters.methods import task_type_of
from graft.adapters.section import AdapterConfig
from graft.adapters.tuners import own_method
from graft.base.quantization import refuse_method
from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

DATA_STARTS = {
    "corda": "needs a pass over data before the adapter exists; `pissa` starts from the weights alone",
    "eva": "needs a pass over data before the adapter exists; `pissa` starts from the weights alone",
    "lora_ga": "needs gradients over data before the adapter exists; `pissa` starts from the weights alone",
    "loftq": "quantizes the base itself and would change its weights; quantize by base.quantization, or use `pissa`",
}
"""Values of ``init_lora_weights`` -> why not."""
PROMPTS = ("cartridge", "cpt", "p_tuning", "prefix_tuning", "prompt_tuning")
"""Prompts that stand among the row's embeddings; prefix_tuning and cartridge stand in the attention's cache."""
WITHOUT_MATRICES = ("ln_tuning",)
"""Methods of PEFT, besides prompts, that leave the base's matrices alone; one of our own says so itself."""


def refuse(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str]) -> None:
    """Refuse a method that does not fit ``model``.

    Raises:
        ConfigError: with the reason, and what to use in its place.
    """
    reason = _start(model, adapter) or _prompt(model, adapter, new_modules) or _structure(model, adapter)
    if reason:
        raise ConfigError(f"adapter.{reason}")


def virtual_tokens(adapter: AdapterConfig) -> int:
    """Return how many positions of the base a method's own prompt takes from every row; PEFT checks the value."""
    if adapter.method not in PROMPTS:
        return 0
    own = adapter.keys.get("num_virtual_tokens") if adapter.method != "cpt" else adapter.keys.get("cpt_token_ids")
    return own if isinstance(own, int) else len(own) if isinstance(own, list) else 0


def refuse_length(adapter: AdapterConfig, longest: int, positions: int | None) -> None:
    """Refuse rows of ``longest`` tokens that leave no positions of the base for the method's own prompt.

    Raises:
        ConfigError: with the length that fits.
    """
    own = virtual_tokens(adapter)
    if own and positions is not None and longest + own > positions:
        raise ConfigError(
            f"adapter.method: {shown(adapter.method)} puts {own} tokens before a row, which with "
            f"tokenization.max_length_tokens ({longest}) are more than the base's {positions} positions; set "
            + (f"tokenization.max_length_tokens to {positions - own} at most" if own < positions - 1 else "fewer")
        )


def refuse_quantized(config: PeftConfig, unfreeze: bool) -> None:
    """Refuse what cannot be trained on a quantised base: a method's ``config``, parts of the base beside it.

    Raises:
        ConfigError: with the reason.
    """
    method = str(config.peft_type.value).lower()
    own = own_method(method)
    leaves = own.leaves_matrices if own is not None else config.is_prompt_learning or method in WITHOUT_MATRICES
    refuse_method(method, unfreeze, leaves_matrices=leaves)


def _start(model: nn.Module, adapter: AdapterConfig) -> str | None:
    start = adapter.keys.get("init_lora_weights")
    if not isinstance(start, str):
        return None
    kind = next((one for one in DATA_STARTS if start.lower().startswith(one)), None)
    if kind:
        return f"init_lora_weights: {shown(start)} {DATA_STARTS[kind]}"
    config: Any = model.config
    if start.lower() == "olora" and any(type(part).__name__ == "Conv1D" for part in model.modules()):
        return f"init_lora_weights: {shown(start)} takes {config.model_type}'s weights transposed; use `pissa`"
    if start.startswith("pissa") or start.lower() == "olora":
        for key in ("use_dora", "layer_replication", "target_parameters", "trainable_token_indices"):
            if adapter.keys.get(key):
                return (
                    f"init_lora_weights: {shown(start)} with `{key}` cannot be turned into a plain LoRA on the "
                    f"untouched base; use one of the two"
                )
    return None


def _prompt(model: nn.Module, adapter: AdapterConfig, new_modules: Sequence[str]) -> str | None:
    if adapter.method not in PROMPTS:
        return None
    config: Any = model.config
    kind = task_type_of(type(model).__name__)
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        return f"method: {shown(adapter.method)} stands before tokens, and {config.model_type} reads pictures; use lora"
    if adapter.method != "cpt" and not adapter.keys.get("num_virtual_tokens"):
        return f"num_virtual_tokens: {shown(adapter.method)} needs it: how many tokens stand before a row, such as 20"
    if adapter.method == "cpt" and kind != "CAUSAL_LM":
        return "method: 'cpt' is made for causal language models alone; use prompt_tuning"
    if getattr(config, "is_encoder_decoder", False) and (new_modules or kind != "SEQ_2_SEQ_LM"):
        return (
            f"method: {shown(adapter.method)} on an encoder-decoder is made for text to text alone; a task with a head "
            f"of its own takes lora"
        )
    return None


def _structure(model: nn.Module, adapter: AdapterConfig) -> str | None:
    config: Any = model.config
    kind = task_type_of(type(model).__name__)
    repeated = adapter.keys.get("layer_replication")
    if repeated:
        return (
            f"layer_replication: {shown(repeated)} repeats layers of the base, and PEFT cannot do so on a model "
            "without weights, as check and reload build it; leave the key out"
        )
    if adapter.method == "shadow" and kind != "CAUSAL_LM":
        return "method: 'shadow' runs beside the layers of a causal language model, and the task has another; use lora"
    if adapter.method == "trainable_tokens" and getattr(model, "main_input_name", "input_ids") != "input_ids":
        return f"method: 'trainable_tokens' trains rows of an embedding, and {config.model_type} has none; use lora"
    return None
