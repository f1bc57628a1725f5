import statistics

import pytest

from graft.text_inputs import Moments, check_numeric, collate_texts, encode_apart, encode_texts, logits_of

STATE = {"numeric": {"length": {"mean": 10.0, "std": 2.0}, "price": {"mean": -1.0, "std": 1.0}}}


def rows_of(columns):
    import pyarrow as pa

    return pa.table(columns).to_pylist()


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    from graft.base import load_tokenizer

    return load_tokenizer(tiny_base)


def test_moments_are_those_of_the_statistics_module():
    rows = [{"a": value, "b": 1e9 + value, "c": 7} for value in (3, -1.5, 4, 4, 0)]
    moments = Moments(("a", "b", "c"))
    assert list(moments.watched(iter(rows))) == rows
    found = moments.state()
    for name in ("a", "b"):
        values = [row[name] for row in rows]
        assert found[name]["mean"] == pytest.approx(statistics.fmean(values))
        assert found[name]["std"] == pytest.approx(statistics.pstdev(values))
    assert found["c"] == {"mean": 7.0, "std": 1.0}  # never varies: becomes 0 and not infinite


def test_a_row_has_its_numbers_and_a_batch_how_far_they_are_from_the_mean(tokenizer):
    rows = [{"text": "the cat", "price": 1, "length": 14}, {"text": "rain", "price": -1.0, "length": 9}]
    encoded = rows_of(encode_texts(rows, tokenizer, 16, ("price", "length")))
    assert [one["features"] for one in encoded] == [[14.0, 1.0], [9.0, -1.0]]
    batch = collate_texts(encoded, 0, STATE)
    assert batch["features"].tolist() == [[2.0, 2.0], [-0.5, 0.0]]
    assert str(batch["features"].dtype) == "torch.float32"
    assert "features" not in collate_texts(rows_of(encode_texts(rows, tokenizer, 16)), 0, {})


def test_numbers_that_differ_by_one_part_in_a_billion_stay_apart(tokenizer):
    rows = [{"text": "the cat", "price": 1e9}, {"text": "rain", "price": 1e9 + 1}]
    state = {"numeric": {"price": {"mean": 1e9, "std": 0.5}}}
    batch = collate_texts(rows_of(encode_texts(rows, tokenizer, 16, ("price",))), 0, state)
    assert batch["features"].tolist() == [[0.0], [2.0]]


def test_features_reach_only_models_that_take_them(tokenizer):
    import torch

    class Taking(torch.nn.Module):
        def forward(self, **given):
            from types import SimpleNamespace

            return SimpleNamespace(logits=sorted(given))

    encoded = rows_of(encode_texts([{"text": "rain", "price": 1, "length": 2}], tokenizer, 16, ("price", "length")))
    batch = collate_texts(encoded, 0, STATE)
    batch |= {"labels": batch["features"], "window_row": batch["features"]}
    model = Taking()
    assert logits_of(model, batch) == ["attention_mask", "input_ids"]
    model.takes_features = True
    assert logits_of(model, batch) == ["attention_mask", "features", "input_ids"]


def test_texts_encoded_apart_are_two_windows_of_one_row(tokenizer):
    rows = [{"text": "the cat", "text_pair": "a dog barks"}, {"text": "soup " * 20, "text_pair": "rain"}]
    encoded = rows_of(encode_apart(rows, tokenizer, 8))
    first = tokenizer("the cat")["input_ids"], tokenizer("a dog barks")["input_ids"]
    assert encoded[0]["input_ids"] == [*first[0], *first[1]]
    assert encoded[0]["windows"] == [len(first[0]), len(first[1])]
    assert (encoded[1]["windows"], encoded[1]["untruncated_length"]) == ([8, 3], 25)
    batch = collate_texts(encoded, 0, {})
    assert batch["input_ids"].shape == (4, 8)
    assert batch["attention_mask"].sum(1).tolist() == [4, 5, 8, 3]
    assert batch["input_ids"][1, :5].tolist() == first[1]
    assert batch["window_row"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("columns", [("a", "a"), ("text",), ("id",)])
def test_numeric_columns_must_be_new_and_distinct(columns):
    with pytest.raises(ValueError, match="distinct names, and none of text, label, id"):
        check_numeric(columns, ["text", "label"])
