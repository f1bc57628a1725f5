"""Tiny bases of every family, and one table of rows per task: what the matrix of methods and tasks is made of.

A new task joins the matrix by an entry in ``EXAMPLES``; a test fails for a task without one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_tiny_base

TEXTS = ("the cat barks", "a soup with salt", "rain and wind today", "the horse was old and small")
TAUGHT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@dataclass(frozen=True)
class Example:
    """How the matrix runs a task: the family of its base, four rows by task field, and settings that tiny rows need."""

    family: str
    rows: tuple[dict[str, Any], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    """What tells it from another example of the task on this family, where there is one."""
    by_sample: bool = False
    """Whether a sample of methods tries it: its base and its head each stand in an example that every method tries."""


def picture(shade: int) -> bytes:
    """Return a PNG of 16 x 16 pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 255 - shade, 9)).save(file, "PNG")
    return file.getvalue()


def _pairs(first: str, second: str) -> tuple[dict[str, Any], ...]:
    return tuple({first: one, second: other} for one, other in zip(TEXTS, reversed(TEXTS), strict=True))


def _labelled(**more: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"text": text, "label": label, **more} for text, label in zip(TEXTS, "abab", strict=True))


def _numbers(**more: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"text": text, "target": float(n), **more} for n, text in enumerate(TEXTS))


_SEVERAL = tuple({"text": text, "labels": ["a", "b"][: 1 + n % 2]} for n, text in enumerate(TEXTS))
_TRANSLATED = _pairs("source", "target")
_SHORT = {"max_target_tokens": 16}
EXAMPLES: dict[str, tuple[Example, ...]] = {
    "text_classification": (
        Example("encoder", _labelled()),
        Example("decoder", _labelled()),
        Example("encoder-decoder", _labelled(), by_sample=True),
        Example("encoder", _labelled(), {"pooling": "mean"}, variant="mean", by_sample=True),
        Example(
            "encoder",
            tuple({**row, "price": 1.5 * n, "stars": float(n % 3)} for n, row in enumerate(_labelled())),
            {"numeric_columns": ("price", "stars")},
            variant="columns",
            by_sample=True,
        ),
    ),
    "multi_label_classification": (
        Example("encoder", _SEVERAL),
        Example("encoder-decoder", _SEVERAL, by_sample=True),
        Example("decoder", _SEVERAL, by_sample=True),
    ),
    "regression": (
        Example("encoder", _numbers()),
        Example("encoder-decoder", _numbers(), by_sample=True),
        Example("decoder", _numbers(), by_sample=True),
        Example("encoder", _numbers(text_pair="rain and a cat"), {"pair": "bi"}, variant="bi", by_sample=True),
    ),
    "token_classification": (
        Example(
            "encoder",
            tuple({"tokens": text.split(), "tags": ["B-X", *["O"] * text.count(" ")]} for text in TEXTS),
            {"stride_tokens": 4},
        ),
    ),
    "question_answering": (
        Example(
            "encoder",
            tuple(
                {"question": "the small cat", "context": text, "answers": {"text": [text[:3]], "answer_start": [0]}}
                for text in TEXTS
            ),
            {"stride_tokens": 4, "max_question_tokens": 8, "max_answer_tokens": 4},
        ),
    ),
    "translation": (
        Example("encoder-decoder", _TRANSLATED, _SHORT),
        Example("decoder", _TRANSLATED, {**_SHORT, "prompt": "{source} is"}),
    ),
    "summarization": (
        Example("encoder-decoder", _TRANSLATED, _SHORT),
        Example("decoder", _TRANSLATED, {**_SHORT, "prompt": "{source} is"}, by_sample=True),
    ),
    "text_generation": (Example("decoder", tuple({"text": text} for text in TEXTS)),),
    "chat": (Example("decoder", _pairs("prompt", "completion")),),
    "preference": (
        Example("decoder", tuple({"prompt": one, "chosen": "rain and wind", "rejected": "a soup"} for one in TEXTS)),
    ),
    "image_classification": (
        Example("vision", tuple({"image": picture(40 * n), "label": "ab"[n % 2]} for n in range(4))),
    ),
}


def write_base(folder: Path, family: str) -> None:
    """Save a random base of two layers of width 32 with its processor."""
    import torch
    from transformers import AutoTokenizer

    write_tiny_base(folder)
    if family == "encoder":
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for path in folder.iterdir():
        path.unlink()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _model(family, len(tokenizer), tokenizer.pad_token_id).save_pretrained(folder)
    if family == "vision":
        _write_image_processor(folder)
        return
    tokenizer.eos_token, tokenizer.bos_token = "[SEP]", "[CLS]"
    tokenizer.chat_template = TAUGHT_TEMPLATE
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)


def _model(family: str, words: int, pad: int) -> Any:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
        ViTConfig,
        ViTModel,
    )

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "decoder":
        more = {"vocab_size": words, "pad_token_id": pad, "bos_token_id": 2, "eos_token_id": 3}
        return LlamaForCausalLM(LlamaConfig(**sizes, **more, num_key_value_heads=2, max_position_embeddings=64))
    if family == "encoder-decoder":
        more = {"vocab_size": words, "pad_token_id": pad, "eos_token_id": 3, "decoder_start_token_id": pad}
        return T5ForConditionalGeneration(T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **more))
    return ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8), add_pooling_layer=False)


def _write_image_processor(folder: Path) -> None:
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``family_base(family)``: the folder of the family's tiny base, written once. Read it; do not change it."""
    place = tmp_path_factory.mktemp("bases")

    def folder_of(family: str) -> Path:
        folder = place / family
        if not folder.exists():
            write_base(folder, family)
        return folder

    return folder_of
