import random

import pytest
import torchmetrics.functional.text as reference

from graft import squad

WORDS = ("the", "A", "an", "Norman", "in", "France,", "(1066)", "don't", "U.S.", "--", "10th")


def phrase(source):
    return " ".join(source.choice(WORDS) for _ in range(source.randint(1, 5)))


@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_torchmetrics(seed):
    source = random.Random(seed)
    answers = ["Norman", *(phrase(source) for _ in range(source.randint(0, 3)))]
    answers = [answer for answer in answers if squad.words(answer)]  # the rule for empty ones is SQuAD 2.0's
    prediction = source.choice([phrase(source), *answers])
    expected = reference.squad(
        [{"prediction_text": prediction, "id": "1"}],
        [{"answers": {"text": answers, "answer_start": [0] * len(answers)}, "id": "1"}],
    )
    assert 100 * squad.exact_match(prediction, answers) == pytest.approx(expected["exact_match"].item())
    assert 100 * squad.f1(prediction, answers) == pytest.approx(expected["f1"].item())


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("", [], 1, 1),
        ("the", [], 1, 1),  # normalised, nothing is left of it
        ("France", [], 0, 0),
        ("", ["France"], 0, 0),
        ("France", ["the"], 0, 0),  # an answer of which nothing is left does not count
        ("", ["the"], 1, 1),
        ("in France", ["Normandy", "the France"], 0, 2 / 3),
        ("FRANCE.", ["Normandy", "the France"], 1, 1),
        ("a b b", ["b b b c"], 0, 2 * 2 / (2 + 4)),
    ],
)
def test_no_answer_is_scored_as_squad_2_does(prediction, answers, exact, f1):
    assert squad.exact_match(prediction, answers) == exact
    assert squad.f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The „Kaiser“", "en", ["„kaiser“"]),
        ("Der „Kaiser“", "de", ["der", "kaiser"]),
        ("a und the", "de", ["a", "und", "the"]),
        ("《红楼梦》, 1791年。", "zh", ["红", "楼", "梦", "1791", "年"]),
    ],
)
def test_words_follow_the_language(text, language, expected):
    assert squad.words(text, language) == expected


def test_chinese_answers_share_characters():
    assert squad.f1("北京市", ["北京"], "zh") == pytest.approx(2 * 2 / 5)
    assert squad.exact_match("北京。", ["北京"], "zh") == 1
