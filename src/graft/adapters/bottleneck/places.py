"""Where in a base bottlenecks stand: at the ends of its blocks, under the same names for every architecture.

Were one architecture to wrap a block and another a layer in it, the second adapter on a model would find its module
under another name than in a fresh model, and its file would hold that name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from torch import nn

Layout = tuple[str, str]
"""Regular expressions over whole module names: the attention's last layer, the feed-forward block's last layer."""

# `output.dense` also ends `attention.output.dense`, and `dense` is a pooler's name too: the whole name decides.
_BERT = (r".*\.layer\.\d+\.(attention|crossattention)\.output\.dense", r".*\.layer\.\d+\.output\.dense")
_DISTILBERT = (r".*\.attention\.out_lin", r".*\.ffn\.lin2")
_GPT2 = (r".*\.(attn|crossattention)\.c_proj", r".*\.mlp\.c_proj")
_LLAMA = (r".*\.self_attn\.o_proj", r".*\.mlp\.down_proj")
_T5 = (r".*\.(SelfAttention|EncDecAttention)\.o", r".*\.DenseReluDense\.wo")
_VIT = (r".*\.attention\.o_proj", r".*\.mlp\.fc2")
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
BEGINS = {
    "DenseReluDense.wo": "DenseReluDense",
    "ffn.lin2": "ffn.lin1",  # the block may compute a few tokens at a time, and hands these to its layers
    "mlp.c_proj": "mlp",
    "mlp.down_proj": "mlp",
    "mlp.fc2": "mlp",
    "output.dense": "intermediate",
}
"""A feed-forward block's last layer -> the module beside or around it that reads the block's input; in BERT-like layers
the block is no module of its own."""


def default_targets(layout: Layout, architecture: str) -> str:
    """Return the regular expression over module names of an architecture's places."""
    attention, feed_forward = layout
    return f"{attention}|{feed_forward}" if architecture == "houlsby" else feed_forward


def beginning(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module that reads the input of the feed-forward block ending in ``name``; none for another place."""
    for end, begin in BEGINS.items():
        if name.endswith(f".{end}"):
            layer = model.get_submodule(name.removesuffix(f".{end}"))
            return dict(layer.named_modules()).get(begin)
    return None


def misfit(module: nn.Module) -> str | None:
    """Return why no bottleneck can stand on ``module``, as far as that is known before it runs."""
    kind = type(module).__name__
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return f"is a {kind}, which computes nothing itself"
    returns = inspect.signature(type(module).forward).return_annotation
    text = "" if returns is inspect.Signature.empty else inspect.formatannotation(returns)
    if re.search(r"\btuple\b|output", text, re.IGNORECASE):
        return f"is a {kind}, which gives more than one tensor"
    return None


def overlap(names: Iterable[str]) -> tuple[str, str] | None:
    """Return a module of ``names`` and one of them that lies in it; none where each stands alone."""
    known = set(names)
    for name in sorted(known):
        parts = name.split(".")
        for end in range(1, len(parts)):
            outer = ".".join(parts[:end])
            if outer in known:
                return outer, name
    return None
