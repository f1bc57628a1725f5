"""Row statistics against the corpus scores of sacrebleu and the scorer of rouge-score."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from graft import text_metrics
from graft.errors import ConfigError

ENGLISH = ["The cat sat on the mat.", "A dog, running fast!", "two_words and 3.5 don't", "", "no match at all"]
ENGLISH_REFERENCES = [
    ["A cat sat on the mat."],
    ["The dog is running."],
    ["two words and 3 5 don t"],
    ["x"],
    ["zzz qq"],
]
GERMAN = ["Zwei junge Männer sind draußen.", "Ein Mädchen läuft über die Straße."]
GERMAN_REFERENCES = [
    ["Zwei junge weiße Männer sind im Freien."],
    ["Das Mädchen läuft auf der Straße.", "Ein Kind rennt"],
]
CHINESE = ["我喜欢吃苹果。", "今天天气很好。"]
CHINESE_REFERENCES = [["我爱吃苹果。", "我喜欢苹果。"], ["今天的天气真好。"]]
CORPORA = {
    "english": (ENGLISH, ENGLISH_REFERENCES, "13a"),
    "german": (GERMAN, GERMAN_REFERENCES, "13a"),
    "chinese": (CHINESE, CHINESE_REFERENCES, "zh"),
    "characters": (CHINESE, CHINESE_REFERENCES, "char"),
    "unsplit": (GERMAN, GERMAN_REFERENCES, "none"),
}
each_corpus = pytest.mark.parametrize(("predictions", "references", "tokenizer"), CORPORA.values(), ids=CORPORA)


def streams(references):
    """Return references as sacrebleu takes them: one list for each place, None where a row has fewer."""
    most = max(map(len, references))
    return [[several[place] if place < len(several) else None for several in references] for place in range(most)]


@each_corpus
def test_summed_rows_give_sacrebleus_corpus_bleu(predictions, references, tokenizer) -> None:
    metric = BLEU(tokenize=tokenizer, force=True)
    counts = text_metrics.bleu_counts(predictions, references, tokenizer)
    assert counts.shape == (len(predictions), 10)
    assert counts.dtype == np.int64
    assert text_metrics.bleu(counts) == pytest.approx(metric.corpus_score(predictions, streams(references)).score)
    assert text_metrics.signatures(references, tokenizer)["bleu"] == str(metric.get_signature())


@each_corpus
def test_summed_rows_give_sacrebleus_corpus_chrf(predictions, references, tokenizer) -> None:
    metric = CHRF()
    counts = text_metrics.chrf_counts(predictions, references)
    assert counts.shape == (len(predictions), 18)
    assert text_metrics.chrf(counts) == pytest.approx(metric.corpus_score(predictions, streams(references)).score)
    rows = [metric.sentence_score(one, several).score for one, several in zip(predictions, references, strict=True)]
    assert text_metrics.chrf_rows(counts) == pytest.approx(rows)


def test_resampled_rows_give_sacrebleus_score_of_the_resampled_text() -> None:
    drawn = [0, 0, 2, 4, 4]
    text, several = [ENGLISH[row] for row in drawn], [ENGLISH_REFERENCES[row] for row in drawn]
    counts = text_metrics.bleu_counts(ENGLISH, ENGLISH_REFERENCES)[drawn]
    assert text_metrics.bleu(counts) == pytest.approx(BLEU(force=True).corpus_score(text, streams(several)).score)


def test_rouge_on_english_is_that_of_rouge_score() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for several in (ENGLISH_REFERENCES, [[*one, "the cat and a dog"] for one in ENGLISH_REFERENCES]):
        found = text_metrics.rouge_rows(ENGLISH, several)
        expected = [scorer.score_multi(refs, one) for one, refs in zip(ENGLISH, several, strict=True)]
        for column, name in enumerate(("rouge1", "rouge2", "rougeL")):
            assert found[:, column] == pytest.approx([row[name].fmeasure for row in expected])


def test_rouge_counts_chinese_characters_and_whole_german_words() -> None:
    # 我爱吃苹果 against 我喜欢吃苹果: 4 of 5 and 4 of 6 characters; the pair 吃苹, 苹果 of 4 and 5 pairs
    (one, two, longest) = text_metrics.rouge_rows(["我喜欢吃苹果。"], [["我爱吃苹果"]])[0]
    assert (one, two, longest) == pytest.approx((8 / 11, 4 / 9, 8 / 11))
    # Straße differs from Strase, which rouge-score's own tokenizer would cut into "stra" and "e"
    assert text_metrics.rouge_rows(["die Straße"], [["die Strase"]])[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't_stop 3,5", ["don", "t", "stop", "3", "5"]),
        ("ÜBER Stra\u00dfe cafe\u0301", ["über", "straße", "café"]),
        ("GPT模型", ["gpt", "模", "型"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        (" .,!", []),
    ],
)
def test_words_of_every_script(text: str, words: list[str]) -> None:
    assert text_metrics.words(text) == words


def test_exact_match_ignores_case_width_and_spaces() -> None:
    predictions = ["  The  Answer ", "ＡＢＣ", "ein Haus", ""]
    references = [["the answer"], ["abc", "x"], ["kein Haus"], ["a"]]
    assert text_metrics.exact_rows(predictions, references).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [(None, "13a"), ("en", "13a"), ("de-AT", "13a"), ("zh", "zh"), ("zh_Hant", "zh"), ("ja", "char"), ("th", "char")],
)
def test_default_tokenizer_follows_the_language(language: str | None, tokenizer: str) -> None:
    assert text_metrics.bleu_tokenizer_for(language) == tokenizer


def test_signature_tells_the_number_of_references() -> None:
    one, three, mixed = [["a"]] * 2, [["a", "b", "c"]] * 2, [["a"], ["a", "b"]]
    found = [text_metrics.signatures(several)["chrf"].split("|")[0] for several in (one, three, mixed)]
    assert found == ["nrefs:1", "nrefs:3", "nrefs:var"]
    assert text_metrics.signatures(mixed)["rouge"].startswith("best-reference|")


def test_no_rows_give_empty_statistics() -> None:
    assert text_metrics.bleu_counts([], []).shape == (0, 10)
    assert text_metrics.chrf_counts([], []).shape == (0, 18)
    assert text_metrics.rouge_rows([], []).shape == (0, 3)


def test_row_without_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1: no reference"):
        text_metrics.chrf_counts(["a", "b"], [["a"], []])


def test_tokenizer_that_lacks_its_package_is_refused() -> None:
    text_metrics.check_tokenizer("zh")
    if importlib.util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    with pytest.raises(ConfigError, match=r"task\.bleu_tokenizer: ja-mecab cannot be loaded \(.*choose 13a"):
        text_metrics.check_tokenizer("ja-mecab")
