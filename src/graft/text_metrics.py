"""How close generated text is to its references: BLEU, chrF, ROUGE and exact match, as statistics of single rows.

A corpus metric is a function of sums over the rows (BLEU: matched n-grams, Papineni et al. 2002; chrF: Popović 2015),
so a row's counts are kept and a bootstrap sums them again without reading text. The counts are sacrebleu's (Post 2018),
ROUGE is rouge-score's; what is ours is words for ROUGE in every script. BLEU and chrF are on sacrebleu's scale of 0 to
100; ROUGE (an F score) and exact match are on 0 to 1.

A row has one or more references: BLEU counts matches with any of them, the others take the best one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from graft.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import regex

BleuTokenizer = Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200"]
"""sacrebleu's tokenizers. ``ja-mecab`` and ``ko-mecab`` need its extras; ``spm`` and ``flores*`` download a model."""
BLEU_TOKENIZERS: tuple[str, ...] = get_args(BleuTokenizer)
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no spaces between words."""


def bleu_tokenizer_for(language: str | None) -> BleuTokenizer:
    """Return the tokenizer that makes BLEU's words in a language (``zh``, ``de-AT``, ``zh_Hant``, ...).

    Chinese has sacrebleu's own. Languages that it serves through optional packages (Japanese, Korean) and those without
    spaces that it does not serve (Thai, Lao, Khmer, Burmese) are counted by characters; the signature says so.
    """
    short = (language or "").lower().replace("_", "-").split("-")[0]
    if short in ("zh", "zho", "chi", "cmn", "yue"):
        return "zh"
    characters = ("ja", "jpn", "ko", "kor", "th", "tha", "lo", "lao", "km", "khm", "my", "mya")
    return "char" if short in characters else "13a"


def check_tokenizer(tokenizer: BleuTokenizer) -> None:
    """Do nothing if the tokenizer can be used here.

    Raises:
        ConfigError: it needs a package or a model that is not there.
    """
    _bleu(tokenizer)


def bleu_counts(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: BleuTokenizer = "13a"
) -> np.ndarray:
    """Return what BLEU sums over the rows: int64 [N, 10].

    Columns: length of the prediction and of its closest reference, matched n-grams (n = 1 to 4), n-grams (n = 1 to 4).
    """
    return _counts(_bleu(tokenizer), predictions, references).astype("int64")


def bleu(counts: np.ndarray) -> float:
    """Return the corpus BLEU (0 to 100, exponential smoothing) of rows' :func:`bleu_counts`."""
    from sacrebleu.metrics.bleu import BLEU

    prediction, reference, *ngrams = counts.sum(axis=0).tolist()
    return float(BLEU.compute_bleu(ngrams[:4], ngrams[4:], prediction, reference, smooth_method="exp").score)


def chrf_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return what chrF sums over the rows: int64 [N, 18].

    For each n from 1 to 6: character n-grams of the prediction, of the reference, and those in both. The reference is
    the one with the highest chrF.
    """
    return _counts(_chrf(), predictions, references).astype("int64")


def chrf(counts: np.ndarray) -> float:
    """Return the corpus chrF2 (0 to 100) of rows' :func:`chrf_counts`."""
    return float(chrf_rows(counts.sum(axis=0, keepdims=True))[0])


def chrf_rows(counts: np.ndarray) -> np.ndarray:
    """Return the chrF2 (0 to 100) of each row's :func:`chrf_counts`: float64 [N].

    The mean precision and recall over those n that prediction and reference are both long enough for; recall weighs
    beta = 2 times as much as precision (Popović 2015, equation 1).
    """
    import numpy as np

    predicted, reference, both = np.moveaxis(counts.reshape(len(counts), 6, 3), 2, 0).astype(np.float64)
    used = (predicted > 0) & (reference > 0)
    orders = used.sum(axis=1).clip(min=1)
    precision = np.where(used, both / predicted.clip(min=1), 0).sum(axis=1) / orders
    recall = np.where(used, both / reference.clip(min=1), 0).sum(axis=1) / orders
    scores: np.ndarray = 100 * 5 * precision * recall / np.where(precision + recall > 0, 4 * precision + recall, 1)
    return scores


def signatures(references: Iterable[Sequence[str]], tokenizer: BleuTokenizer = "13a") -> dict[str, str]:
    """Return how the metrics were computed, by name: sacrebleu's signatures, and the like for ROUGE.

    A signature names the number of references, which is read from ``references``.
    """
    from importlib.metadata import version

    # sacrebleu makes a signature after it has seen references; it only counts them.
    counts = sorted({len(one) for one in references})
    streams = [["a" if place < count else None for count in counts] for place in range(max(counts, default=0))]
    found = {}
    for name, metric in (("bleu", _bleu(tokenizer)), ("chrf", _chrf())):
        metric.corpus_score(["a"] * len(counts), streams)
        found[name] = str(metric.get_signature())
    words = "words:unicode (a character each where a script has no spaces)"
    best = "best-reference|" if counts[-1:] != [1] else ""
    found["rouge"] = f"{best}f-measure|stemmer:no|case:lc|{words}|version:rouge-score {version('rouge-score')}"
    return found


def rouge_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the F scores (0 to 1) of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) of each row: float64 [N, 3]."""
    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_TYPES), tokenizer=_Words())
    scores = np.zeros((len(predictions), len(ROUGE_TYPES)))
    for row, (prediction, several) in enumerate(zip(predictions, references, strict=True)):
        found = scorer.score_multi(list(several), prediction)
        scores[row] = [found[name].fmeasure for name in ROUGE_TYPES]
    return scores


def exact_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return 1 for each row whose prediction is a reference after :func:`normalized`, else 0: float64 [N]."""
    import numpy as np

    pairs = zip(predictions, references, strict=True)
    return np.array([normalized(one) in map(normalized, several) for one, several in pairs], dtype=np.float64)


def normalized(text: str) -> str:
    """Return text as exact match compares it: NFKC, lower case, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def words(text: str) -> list[str]:
    """Return the words that ROUGE counts: lower-case runs of letters, marks and digits; each sign of a script that puts
    no spaces between words is a word of its own. Of ASCII text they are the words of rouge-score's own tokenizer.
    """
    found: list[str] = _word().findall(unicodedata.normalize("NFC", text).lower())
    return found


class _Words:
    """rouge-score's tokenizer interface."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of ``text``."""
        return words(text)


@cache
def _word() -> regex.Pattern[str]:
    import regex

    return regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+", flags=regex.VERSION1)


def _bleu(tokenizer: BleuTokenizer) -> Any:
    """Return sacrebleu's metric.

    Raises:
        ConfigError: the tokenizer needs a package or a model that is not there.
    """
    from sacrebleu.metrics.bleu import BLEU

    try:
        # `force`: no warning about text that looks tokenized, which captions and dialogues often do.
        return BLEU(tokenize=tokenizer, force=True)
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"task.bleu_tokenizer: {tokenizer} cannot be loaded ({' '.join(str(error).split())[:200]}); install what "
            f"it needs, or choose 13a, intl, zh, char or none"
        ) from None


def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _counts(metric: Any, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return a sacrebleu metric's statistics of each row: [N, K], the rows that its own significance tests resample.

    Raises:
        ValueError: a row has no reference.
    """
    import numpy as np

    if not all(references):
        raise ValueError(f"row {[*map(bool, references)].index(False)}: no reference; each row needs at least one")
    most = max(map(len, references), default=0)
    streams = [[several[place] if place < len(several) else None for several in references] for place in range(most)]
    if not predictions:
        return np.zeros((0, 10 if hasattr(metric, "tokenizer") else 18))
    return np.array(metric._extract_corpus_statistics(list(predictions), streams))
