import itertools
import math
from collections import Counter

import numpy as np
import pytest

from graft.language_modeling import ByteModel, bits_per_byte, count_bytes, histogram, nll_per_token, perplexity, sizes

TABLE = {"nll": np.array([2.0, 4.0]), "tokens": np.array([1, 5]), "bytes": np.array([4, 8])}
TEXTS = ["abba", "ab", "中文 für"]


def test_rates_are_quotients_of_sums():
    assert nll_per_token(TABLE) == pytest.approx(1.0)
    assert perplexity(TABLE) == pytest.approx(math.e)
    assert bits_per_byte(TABLE) == pytest.approx(6 / 12 / math.log(2))
    assert sizes(TABLE) == {"rows": 2, "tokens": 6, "bytes": 12, "bytes_per_token": 2.0}


def test_perplexity_beyond_floats_is_infinite():
    assert perplexity({"nll": np.array([1e4]), "tokens": np.array([1])}) == math.inf


def test_unigram_model_equals_smoothed_counts():
    counts = Counter(symbol for text in TEXTS for symbol in [*text.encode(), "end"])
    total = sum(counts.values()) + 257
    expected = [-sum(math.log((counts[s] + 1) / total) for s in [*text.encode(), "end"]) for text in ["ba", "z中", ""]]
    np.testing.assert_allclose(ByteModel(1, TEXTS).nll(["ba", "z中", ""]), expected)


def test_bigram_model_equals_smoothed_counts_after_each_byte():
    def pairs(text):
        symbols = ["edge", *text.encode(), "edge"]
        return list(itertools.pairwise(symbols))

    counts = Counter(pair for text in TEXTS for pair in pairs(text))
    before = Counter(first for text in TEXTS for first, _ in pairs(text))
    expected = [-sum(math.log((counts[p] + 1) / (before[p[0]] + 257)) for p in pairs(text)) for text in ["ab", "ü"]]
    np.testing.assert_allclose(ByteModel(2, TEXTS).nll(["ab", "ü"]), expected)


def test_byte_models_know_orders_one_and_two():
    with pytest.raises(ValueError, match="order is 1 or 2, not 3"):
        ByteModel(3, TEXTS)


def test_bytes_are_those_of_utf8():
    assert [count_bytes(text) for text in ("ab", "ü", "中")] == [2, 2, 3]


def test_histogram_counts_every_finite_value():
    found = histogram(np.array([0.0, 1.0, 1.0, np.inf]), "value")
    assert sum(one["rows"] for one in found) == 3
    assert found[-1]["rows"] == 2


def test_histogram_up_to_a_given_value_counts_every_row_once():
    rows = histogram(np.array([0, 4.9, 50, 99, 100, 300]), "chrf", 100)
    assert len(rows) == 20
    assert {row["chrf"]: row["rows"] for row in rows if row["rows"]} == {2.5: 2, 52.5: 1, 97.5: 3}
    assert [row["chrf"] for row in histogram(np.zeros(1), "chrf", 1)][:2] == [0.025, 0.075]
