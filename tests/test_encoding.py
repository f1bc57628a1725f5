"""Flat token ids are those of the tokenizer's own call, uncut and cut, of texts and of pairs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from graft import encoding
from graft.encoding import encode_flat, flat_lists, list_array

WORDS = ["the", "cat", "and", "dog", "[CLS]", "soup", "rain", "[UNK]", "</s>", "<s>", "über", "日本", "😀", "\u200b"]


def texts(count: int, seed: int, least: int = 0) -> list[str]:
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randint(least, 30))) for _ in range(count)]


def rows(flat: Any, lengths: Any) -> list[list[int]]:
    found, start = [], 0
    for length in lengths.tolist():
        found.append(flat[start : start + length].tolist())
        start += length
    return found


def template(name: str) -> Any:
    """Return what puts special tokens around a text, as families of bases do."""
    from tokenizers import processors

    around = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A [SEP] $B:1 </s>:1", special_tokens=[("<s>", 2), ("[SEP]", 3), ("</s>", 4)]
    )
    return {
        "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "roberta": processors.RobertaProcessing(("</s>", 3), ("<s>", 2)),
        "begins": around,
        "bytes": processors.Sequence([processors.ByteLevel(trim_offsets=False), around]),
        "none": processors.ByteLevel(trim_offsets=True),
    }[name]


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    from graft.base import load_tokenizer

    return load_tokenizer(tiny_base)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "begins", "bytes", "none"])
def test_ids_are_those_of_the_tokenizers_call(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, name: str, paired: bool, side: str
) -> None:
    tokenizer.backend_tokenizer.post_processor = template(name)
    tokenizer.truncation_side = side
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 500)
    one, other = texts(40, 1), texts(40, 2, least=1) if paired else None
    whole = [len(ids) for ids in tokenizer(one, other, verbose=False)["input_ids"]]
    for limit in (4, 5, 8, 13, 100):
        wanted = tokenizer(one, other, truncation="longest_first", max_length=limit, return_token_type_ids=True)
        for types in (False, True):
            found = encode_flat(tokenizer, one, other, limit=limit, types=types)
            assert rows(found.ids, found.lengths) == wanted["input_ids"]
            assert found.untruncated.tolist() == whole
        assert found.type_ids is not None
        assert rows(found.type_ids, found.lengths) == wanted["token_type_ids"]


@pytest.mark.parametrize(("count", "characters"), [(0, 10), (1, 10), (7, 10), (7, 20), (7, 1000)])
def test_pieces_are_all_rows_once(monkeypatch: pytest.MonkeyPatch, count: int, characters: int) -> None:
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", characters)
    rows = [f"{number:05}" for number in range(count)]
    pieces = [rows[one] for one in encoding._pieces(rows)]
    assert [row for piece in pieces for row in piece] == rows
    assert max(map(len, pieces)) <= characters // 5
    assert len(pieces) == max(1, -(-5 * count // characters))


def test_settings_of_an_earlier_call_do_not_stay(tokenizer: Any) -> None:
    wanted = tokenizer(["the cat and the dog", "rain"])["input_ids"]
    tokenizer(["the cat", "rain"], truncation=True, max_length=3, padding=True)
    found = encode_flat(tokenizer, ["the cat and the dog", "rain"], limit=100)
    assert rows(found.ids, found.lengths) == wanted


def test_special_tokens_in_a_text_are_read_as_the_tokenizer_is_told(tokenizer: Any) -> None:
    tokenizer.split_special_tokens = True
    found = encode_flat(tokenizer, ["the [CLS] cat"], limit=100)
    assert found.ids.tolist() == tokenizer("the [CLS] cat")["input_ids"]
    assert found.ids.tolist().count(tokenizer.cls_token_id) == 1


def test_a_tokenizer_with_a_call_of_its_own_is_called(tokenizer: Any) -> None:
    class Shouting(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, text: Any, *given: Any, **settings: Any) -> Any:
            return super().__call__([one.replace("cat", "dog") for one in text], *given, **settings)

    wanted = tokenizer("the dog")["input_ids"]
    tokenizer.__class__ = Shouting
    assert encode_flat(tokenizer, ["the cat"], limit=100).ids.tolist() == wanted


def test_lists_come_back_flat_also_from_a_slice() -> None:
    import numpy as np

    column = list_array(np.arange(6, dtype=np.int32), np.array([2, 0, 3, 1]))
    assert column.to_pylist() == [[0, 1], [], [2, 3, 4], [5]]
    values, offsets = flat_lists(column.slice(1, 2))
    assert (values.tolist(), offsets.tolist()) == ([2, 3, 4], [0, 0, 3])
