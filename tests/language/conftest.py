"""Tiny random Llamas with tokenizers of single bytes, which every script goes through without unknown tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from graft.workspace import Workspace
from tests.conftest import SPLIT_ROWS, write_project, write_rows

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
POSITIONS = 128


def write_byte_llama(folder: Path, *, begins: bool) -> None:
    """Save a random two-layer Llama with a tokenizer of bytes.

    ``begins``: its tokenizer puts BOS before a text, has a padding token and no chat template. Else it puts nothing
    there, pads with its end token and has a chat template.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    vocabulary = {one: n for n, one in enumerate((*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = {"eos_token": "</s>", "pad_token": "</s>"}
    if begins:
        named |= {"bos_token": "<s>", "pad_token": "<pad>"}
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **named
    )
    if not begins:
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        made.chat_template = CHATML
    made.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=POSITIONS,
                initializer_range=0.1,
                attention_dropout=0.3,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0 if begins else 2,
            )
        ).save_pretrained(folder)


@pytest.fixture(scope="session")
def bos_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer puts BOS before a text. Read it; do not change it."""
    folder = tmp_path_factory.mktemp("bos") / "base"
    write_byte_llama(folder, begins=True)
    return folder


@pytest.fixture(scope="session")
def chat_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a chat template, no BOS, and its end token for padding. Read it; do not change it."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    write_byte_llama(folder, begins=False)
    return folder


@pytest.fixture(scope="session")
def bos_tokenizer(bos_llama: Path) -> Any:
    from graft.base import load_tokenizer

    return load_tokenizer(bos_llama)


@pytest.fixture(scope="session")
def chat_tokenizer(chat_llama: Path) -> Any:
    from graft.base import load_tokenizer

    return load_tokenizer(chat_llama)


@pytest.fixture
def language_project(tmp_path: Path) -> Callable[..., Workspace]:
    """``language_project(base, make_row, task)``: a small project with the rows that ``make_row(number)`` gives."""

    def make(base: Path, make_row: Callable[[int], Mapping[str, Any]], task: Mapping[str, Any]) -> Workspace:
        settings = {
            "task": dict(task),
            "tokenization.max_length_tokens": 48,
            "adapter.target_modules": "all-linear",
            "evaluation.resamples": 100,
        }
        workspace = write_project(tmp_path / "project", base, settings)
        start = 0
        for split, count in SPLIT_ROWS.items():
            rows = [{"id": str(n), **make_row(n)} for n in range(start, start + count)]
            write_rows(workspace.data / split / "part-0000.jsonl", rows)
            start += count
        return workspace

    return make
