import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from graft import tfidf

ENGLISH = ["the cat sat", "a dog barks at the cat", "rain today", "wind and rain"]
CHINESE = ["很快，好吃，味道足", "味道不好", "送餐很慢", "好吃 iPhone"]


@pytest.mark.parametrize(
    ("texts", "unspaced"),
    [
        (ENGLISH, False),
        (CHINESE, True),
        (["これは犬です"], True),
        (["สวัสดีครับ"], True),
        (["안녕하세요 세계"], False),  # Korean has spaces
        (["Привет, мир"], False),
        (["a long English text that quotes 好"], False),
        (["123 !?"], False),
    ],
)
def test_scripts_without_spaces_are_cut_into_characters(texts, unspaced):
    assert tfidf.is_unspaced(texts) is unspaced
    assert tfidf.vectorizer(texts).analyzer == ("char" if unspaced else "word")


def test_a_chinese_word_is_found_inside_a_clause():
    texts, targets = [*CHINESE, "真好吃啊", "太慢了"], np.array([1, 0, 0, 1, 1, 0])
    found = tfidf.label_probabilities(texts, targets, ["今天的饭好吃", "等太久，很慢"], 2, 0)
    assert found.argmax(1).tolist() == [1, 0]
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_presence_keeps_the_share_of_labels_that_all_or_none_have():
    present = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0]], dtype=bool)
    found = tfidf.presence_probabilities(ENGLISH, present, ["cat", "rain"], 0)
    assert found[:, :2].tolist() == [[1, 0], [1, 0]]
    assert found[0, 2] > 0.5 > found[1, 2]


def test_similarity_is_the_fitted_cosine_of_scikit_learn():
    pairs, targets = list(zip(ENGLISH, [*ENGLISH[1:], "a cat"], strict=True)), np.array([3.0, 0.0, 4.0, 1.0])
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    features.fit([text for pair in pairs for text in pair])
    cosines = np.diag(cosine_similarity(*(features.transform([pair[side] for pair in pairs]) for side in (0, 1))))
    slope = np.cov(cosines, targets, bias=True)[0, 1] / cosines.var()
    expected = targets.mean() + slope * (cosines - cosines.mean())
    np.testing.assert_allclose(tfidf.similarity_values(pairs, targets, pairs), expected)


def test_pairs_without_a_common_word_get_the_mean():
    pairs = [("ab", "cd"), ("ef", "gh")]
    assert tfidf.similarity_values(pairs, np.array([1.0, 2.0]), pairs).tolist() == [1.5, 1.5]


def test_ridge_values_are_scikit_learns():
    targets = np.array([1.0, 2.0, 5.0, 4.0])
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    model = Ridge(alpha=1.0, solver="cholesky").fit(features.fit_transform(ENGLISH).toarray(), targets)
    expected = model.predict(features.transform(ENGLISH).toarray())
    np.testing.assert_allclose(tfidf.ridge_values(ENGLISH, targets, ENGLISH), expected, atol=1e-3)
