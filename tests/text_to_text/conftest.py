"""Small parallel data and the two kinds of base that go from text to text: a random T5 and a random Llama."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.workspace import Workspace
from tests.conftest import overridden, write_rows

PAIRS = {
    "the": "die",
    "cat": "Katze",
    "dog": "Hündin",
    "street": "Straße",
    "sees": "sieht",
    "likes": "mag",
    "today": "heute",
    "small": "kleine",
    "我": "ich",
    "喜欢": "mag",
    "猫": "Katzen",
}
PROMPT = "Translate: {source} ="


def parallel_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` distinct rows (id, source, target): English or Chinese words, and German ones for them."""
    source, rows, seen = random.Random(seed), [], set[str]()
    while len(rows) < count:
        words = source.choices(list(PAIRS), k=source.randint(3, 6))
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            target = " ".join(PAIRS[word] for word in words)
            rows.append({"id": f"{seed}-{len(rows)}", "source": text, "target": target})
    return rows


def write_tokenizer(folder: Path, *, template: str, specials: tuple[str, ...], **named: str) -> int:
    """Save a byte-level BPE tokenizer, which knows every script; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*specials], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*PAIRS, *PAIRS.values()] * 3, trainer)
    ids = [(one, tokenizer.token_to_id(one)) for one in specials]
    pair = f"{template} {template.replace('$A', '$B')}"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ids)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **named
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


@pytest.fixture(scope="session")
def sequence_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5, one layer a side, and its tokenizer. Read it; do not change it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("sequence-t5") / "base"
    size = write_tokenizer(folder, template="$A </s>", specials=("<pad>", "</s>"), pad_token="<pad>", eos_token="</s>")
    described = T5Config(
        vocab_size=size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(described).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sequence_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers; its tokenizer has no padding token. Read it; do not change it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("sequence-llama") / "base"
    size = write_tokenizer(folder, template="<s> $A", specials=("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    described = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.1,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(described).save_pretrained(folder)
    return folder


@pytest.fixture
def make_sequence_project() -> Callable[..., Workspace]:
    """``make(path, base, rows=None, **overrides)``: a small project of parallel rows on its own copy of ``base``."""

    def make(path: Path, base: Path, **overrides: Any) -> Workspace:
        from graft import params
        from graft.base import lock

        workspace = Workspace(path.resolve())
        for seed, (split, count) in enumerate({"train": 48, "validation": 8, "test": 10}.items()):
            write_rows(workspace.data / split / "part-0000.jsonl", parallel_rows(count, seed))
        shutil.copytree(base, workspace.root / "base")
        shared = {"tokenization.max_length_tokens": 64, "training.epochs": 1, "training.learning_rate": 1e-2}
        text = yaml.safe_dump(overridden({**shared, **overrides}), sort_keys=False)
        workspace.params.write_text(text, encoding="utf-8")
        lock(workspace, params.load(workspace.params).base)
        return workspace

    return make
