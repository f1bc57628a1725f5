"""A base whose matrices are kept in 8 or 4 bits, by transformers' own configuration of bitsandbytes.

It saves memory (Dettmers et al., 2022 and 2023) and costs precision, so it is part of what an adapter was trained on:
its identity holds the settings, and it is loaded with the same ones. Heads, poolers and output embeddings stay as they
are: a new head has no bits to save, and is trained.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError, ResourceMissing, shown

if TYPE_CHECKING:
    from torch import nn

LIBRARY = "bitsandbytes"
FILLED_IN = frozenset({"llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight"})
"""Keys that Graft decides: which modules stay as they are, and that frozen weights need no second copy."""


def arguments(settings: Mapping[str, Any] | None, device: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs for a base with ``base.quantization``; nothing without it.

    Raises:
        ConfigError: a key or value that transformers' ``BitsAndBytesConfig`` does not have or refuses.
        ResourceMissing: bitsandbytes is not installed.
    """
    if not settings:
        return {}
    config = quantization_config(settings)
    if importlib.util.find_spec(LIBRARY) is None:
        raise ResourceMissing(
            f"base.quantization: needs {LIBRARY}, which is not installed: `make venv EXTRAS=demo,dev,quantized`, "
            "or leave base.quantization out"
        )
    return {"quantization_config": config, "device_map": {"": device}}


def quantization_config(settings: Mapping[str, Any]) -> Any:
    """Return transformers' ``BitsAndBytesConfig`` of ``settings``.

    Raises:
        ConfigError: with the dotted path of what it does not have or refuses.
    """
    from transformers import BitsAndBytesConfig

    known = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"} - FILLED_IN
    unknown = [_unknown(name, known) for name in settings if name not in known]
    if unknown:
        raise ConfigError.from_problems("base.quantization: not settings of bitsandbytes", unknown)
    try:
        config = BitsAndBytesConfig(**settings)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"base.quantization: {error} (got {shown(dict(settings))})") from None
    if config.quantization_method() is None:
        what = (
            "bnb_4bit_quant_type must be `nf4` or `fp4`"
            if config.load_in_4bit
            else "needs load_in_4bit or load_in_8bit"
        )
        raise ConfigError(f"base.quantization: {what} (got {shown(dict(settings))})")
    return config


def refuse_method(method: str, unfreeze: bool, *, leaves_matrices: bool) -> None:
    """Refuse what cannot be trained on a quantised base.

    ``leaves_matrices``: the method leaves the base's matrices alone, so that it does not matter how they are kept.

    Raises:
        ConfigError: with the reason.
    """
    if method == "full" or unfreeze:
        what = "adapter.method: full trains" if method == "full" else "training.unfreeze: trains"
        raise ConfigError(
            f"{what} weights of the base, which base.quantization keeps in few bits; leave one of them out"
        )
    if leaves_matrices:
        return
    try:
        there = importlib.util.find_spec(f"peft.tuners.{method}.bnb") is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ConfigError(
            f"adapter.method: PEFT has no layers of {shown(method)} for matrices in few bits; take lora, or leave "
            f"base.quantization out"
        )


def keep_packing(model: nn.Module) -> None:
    """Keep matrices of 4 bits in the form in which they were loaded.

    On a processor with AVX512-BF16, bitsandbytes packs them anew when they first answer: that fails for a matrix that
    is narrower than a block, and computes in bfloat16 what other processors compute in the type that was asked for.
    """
    one: Any
    for one in model.modules():
        if hasattr(one, "support_avx512bf16_for_cpu"):
            one.support_avx512bf16_for_cpu = False


def _unknown(name: str, known: set[str]) -> str:
    if name in FILLED_IN:
        return f"base.quantization.{name}: Graft fills this key in; leave it out"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"base.quantization.{name}: unknown key; " + (
        f"did you mean `{near[0]}`?" if near else ", ".join(sorted(known))
    )
