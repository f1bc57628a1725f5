"""Exact match and F1 of short answers, as SQuAD's evaluation scores them (Rajpurkar et al., 2016; 2018 with no answer).

Both look at normalised words: lower case, no punctuation, no English articles, single spaces. That is SQuAD's own
rule, kept letter by letter for English. For other languages articles stay, all of Unicode's punctuation goes, and each
Chinese or Japanese character is a word, as in MLQA's evaluation (Lewis et al., 2020): no spaces part words there.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

ENGLISH = "en"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_IDEOGRAPH = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


def words(text: str, language: str = ENGLISH) -> list[str]:
    """Return the normalised words of an answer; ``language``: ISO 639-1."""
    lowered = text.lower()
    if language == ENGLISH:
        kept = "".join(sign for sign in lowered if sign not in string.punctuation)
        return _ARTICLES.sub(" ", kept).split()
    kept = "".join(sign for sign in lowered if not _is_punctuation(sign))
    return _IDEOGRAPH.sub(r" \1 ", kept).split()


def exact_match(prediction: str, answers: Sequence[str], language: str = ENGLISH) -> float:
    """Return 1 where the prediction is one of the answers, else 0; no answers: it should be empty."""
    found = words(prediction, language)
    return float(any(found == expected for expected in _expected(answers, language)))


def f1(prediction: str, answers: Sequence[str], language: str = ENGLISH) -> float:
    """Return the best F1 of shared words over the answers, 0 to 1; against nothing, only nothing counts."""
    found = words(prediction, language)
    return max(_overlap(found, expected) for expected in _expected(answers, language))


def _expected(answers: Sequence[str], language: str) -> list[list[str]]:
    """Return the words of each answer that has some; none of them: the empty answer alone."""
    return [found for answer in answers if (found := words(answer, language))] or [[]]


def _overlap(found: Sequence[str], expected: Sequence[str]) -> float:
    if not found or not expected:
        return float(not found and not expected)
    shared = sum((Counter(found) & Counter(expected)).values())
    return 2 * shared / (len(found) + len(expected))


def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign).startswith("P")
