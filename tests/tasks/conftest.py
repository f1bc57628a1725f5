"""Tiny random bases of the other families: a Llama whose tokenizer has no padding token, and a T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FILLERS, TOPICS

WORDS = (*FILLERS, *(word for topic in TOPICS.values() for word in topic))


def write_words_tokenizer(folder: Path, specials: tuple[str, ...], template: str, **named: str) -> dict[str, int]:
    """Save a tokenizer of whole words and return its vocabulary; ``template`` says where special tokens stand."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*specials, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(one, vocabulary[one]) for one in specials]
    pair = f"{template} {template.replace('$A', '$B')}"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], unk_token="<unk>", **named
    ).save_pretrained(folder)
    return vocabulary


def topical(weight: Any, vocabulary: dict[str, int]) -> None:
    """Let words of one topic share a direction, so that short trainings are enough."""
    for number, words in enumerate(TOPICS.values()):
        weight.data[[vocabulary[word] for word in words], 4 * number : 4 * number + 4] += 1.0


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama; its tokenizer has no padding token. Read it; do not change it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("decoder") / "base"
    vocabulary = write_words_tokenizer(folder, ("<unk>", "<s>", "</s>"), "<s> $A", bos_token="<s>", eos_token="</s>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                initializer_range=0.1,
                pad_token_id=None,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    topical(model.model.embed_tokens.weight, vocabulary)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of two layers a side and its tokenizer. Read it; do not change it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5") / "base"
    vocabulary = write_words_tokenizer(
        folder, ("<pad>", "</s>", "<unk>"), "$A </s>", pad_token="<pad>", eos_token="</s>"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(vocabulary),
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=1,
                dropout_rate=0.0,
            )
        )
    topical(model.shared.weight, vocabulary)
    model.save_pretrained(folder)
    return folder
