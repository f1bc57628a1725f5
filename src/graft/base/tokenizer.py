"""The base's tokenizer: what AutoTokenizer loads, without the import of torch where the class is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError
from graft.workspace import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIRECT_TOKENIZERS = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}
"""Model type -> class that AutoTokenizer ends at when tokenizer_config.json names it; importing it needs no torch."""


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer in ``folder``: what ``AutoTokenizer`` loads.

    AutoTokenizer imports torch (about 1 CPU second); where the class it ends at is known, it is taken directly.

    Raises:
        ConfigError: the folder holds no fast tokenizer that transformers can read.
    """
    name = _direct_class(folder)
    try:
        if name:
            import transformers

            tokenizer = getattr(transformers, name).from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"base.source: the tokenizer in {folder.name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"base.source: {type(tokenizer).__name__} has no fast form; save it with a tokenizer.json")
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ConfigError(f"base.source: the tokenizer in {folder.name} is empty; save it with its vocabulary")
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _direct_class(folder: Path) -> str | None:
    """Return the class that AutoTokenizer would end at, for the plain cases; None where only it can tell."""
    paths = folder / "config.json", folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not all(path.is_file() for path in paths):
        return None
    model, settings = read_json(paths[0]), read_json(paths[1])
    direct, declared = DIRECT_TOKENIZERS.get(model["model_type"]), str(settings.get("tokenizer_class"))
    if direct is None or "auto_map" in settings:
        return None
    if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return "PreTrainedTokenizerFast"
    return direct if declared.removesuffix("Fast") == direct else None


def pad_token_of(processor: Any) -> int:
    """Return what fills the shorter rows of a batch: the padding token, else the end token, else 0.

    Which one it is changes no result: batches carry an attention mask, and labels say where they count.
    """
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(processor, name, None) is not None:
            return int(getattr(processor, name))
    return 0
