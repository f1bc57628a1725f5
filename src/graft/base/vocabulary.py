"""A tokenizer from the training rows, for a base from scratch.

Both kinds work on bytes (Radford et al., 2019, section 2.2), so Chinese needs no list of characters and nothing is
unknown; the 256 bytes are always in the vocabulary. The library breaks ties by the order in which it meets the pieces,
and meets WordPiece's inner pieces in a random order: naming them beforehand makes equal rows give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.base.section import TokenizerConfig
from graft.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

INNER = "##"
"""How WordPiece marks a piece within a word."""
LONGEST_WORD = 2000
"""In bytes; WordPiece takes longer words for unknown, since its search is quadratic in their length."""
ROLES = ("system", "user", "assistant", "tool")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Beginning, then each message after the token of its role; what the assistant says ends with the end token."""


@dataclass(frozen=True)
class Specials:
    """The special tokens of a family of models, and where they stand."""

    names: Mapping[str, str]
    """transformers' name (``pad_token``) -> token; their order gives the ids."""
    single: str
    pair: str
    leading_space: bool
    """Whether a text's first word is read like a word after a space: equal words get equal tokens."""


SPECIALS = {
    "encoder": Specials(
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        leading_space=True,
    ),
    "encoder-decoder": Specials(
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"},
        "$A </s>",
        "$A </s> $B </s>",
        leading_space=True,
    ),
    "decoder": Specials(
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"},
        "<s> $A",
        "<s> $A $B",
        leading_space=False,
    ),
}


def train_tokenizer(
    config: TokenizerConfig, family: str, texts: Iterator[str], positions: int | None
) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on ``texts`` for a ``family`` of models with so many ``positions``.

    Raises:
        ConfigError: there is no text, or the vocabulary has no place for the bytes and the special tokens.
    """
    from transformers import PreTrainedTokenizerFast

    specials = SPECIALS[family]
    template = _template(config, family)
    roles = [f"<|{role}|>" for role in ROLES] if template == CHAT_TEMPLATE else []
    fixed = [*specials.names.values(), *roles]
    inner = _pieces() if config.kind == "wordpiece" else []
    if config.vocabulary < len(fixed) + len(inner) + 256:
        raise ConfigError(
            f"base.tokenizer.vocabulary: {config.kind} needs {len(fixed) + len(inner) + 256} tokens for bytes and "
            f"special tokens alone (got {config.vocabulary}); set more"
        )
    trained = _trained(config, fixed, inner, specials.leading_space, texts)
    trained.post_processor = _processor(specials, trained)
    names = (
        ["input_ids", "token_type_ids", "attention_mask"] if family == "encoder" else ["input_ids", "attention_mask"]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        **specials.names,
        extra_special_tokens=roles,
        model_input_names=names,
        clean_up_tokenization_spaces=False,
        **({"model_max_length": positions} if positions else {}),
        **({"chat_template": template} if template else {}),
    )


def _template(config: TokenizerConfig, family: str) -> str | None:
    if config.chat_template is None:
        return CHAT_TEMPLATE if family == "decoder" else None
    return config.chat_template or None


def _bytes() -> list[str]:
    """Return the 256 characters that stand for bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _pieces() -> list[str]:
    return [INNER + one for one in _bytes()]


def _trained(
    config: TokenizerConfig, fixed: list[str], inner: list[str], leading_space: bool, texts: Iterator[str]
) -> Tokenizer:
    """Train on ``texts``; ``inner`` are pieces that must be known before, though they are no special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    unknown = next(one for one in fixed if "unk" in one.lower())
    wordpiece = config.kind == "wordpiece"
    model = models.WordPiece(unk_token=unknown, max_input_chars_per_word=LONGEST_WORD) if wordpiece else models.BPE()
    tokenizer = Tokenizer(model)
    # A Han character is a word of its own, as BERT has it: there are no spaces that could end one.
    apart = [pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")] if wordpiece else []
    space = leading_space and not wordpiece
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*apart, pre_tokenizers.ByteLevel(add_prefix_space=space)])
    joined = [decoders.Replace(Regex(f"^{INNER}"), "")] if wordpiece else []
    stripped = [decoders.Strip(" ", 1, 0)] if space else []
    tokenizer.decoder = decoders.Sequence([*joined, decoders.ByteLevel(), *stripped])
    trainer = (trainers.WordPieceTrainer if wordpiece else trainers.BpeTrainer)(
        vocab_size=config.vocabulary, special_tokens=[*fixed, *inner], initial_alphabet=_bytes(), show_progress=False
    )
    tokenizer.train_from_iterator(_counted(texts), trainer)
    return _without_added(tokenizer, fixed) if inner else tokenizer


def _counted(texts: Iterator[str]) -> Iterator[str]:
    """Yield ``texts``, refused where there are none."""
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise ConfigError(
            "base.tokenizer: the training rows have no text to train it on; `graft import` the data first"
        )


def _without_added(tokenizer: Tokenizer, fixed: list[str]) -> Tokenizer:
    """Return ``tokenizer`` with ``fixed`` alone as special tokens: pieces of words must not match whole texts."""
    from tokenizers import Tokenizer

    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [one for one in described["added_tokens"] if one["content"] in fixed]
    return Tokenizer.from_str(json.dumps(described))


def _processor(specials: Specials, tokenizer: Tokenizer) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokens = [(token, tokenizer.token_to_id(token)) for token in specials.names.values()]
    used = [one for one in tokens if one[0] in specials.pair]
    return TemplateProcessing(single=specials.single, pair=specials.pair, special_tokens=used)
