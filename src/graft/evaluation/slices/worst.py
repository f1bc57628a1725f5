"""The worst slices that the data itself names, corrected for having been looked for.

Every literal (a frequent word, a sign, a quarter of the lengths, a language, a column's value) and every pair of them
is scored at once by matrix products, as in SliceLine (Sagadeeva and Boehm, SIGMOD 2021), which at pairs needs no
library of its own. The search sees one half of the rows. What it finds is tested on the other half alone, which it did
not see, with Holm's correction for the number of slices that are tested: so however many thousand pairs were looked at,
the chance that a slice is called worse that is not stays at the level.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.evaluation.comparison import holm
from graft.evaluation.contrasts import Contrast, contrast
from graft.evaluation.intervals import Resampling
from graft.evaluation.slices.known import Slice, by_column, by_size, by_value
from graft.evaluation.slices.section import SlicesConfig
from graft.evaluation.traits import Traits
from graft.languages import languages

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

WORDS = 150
"""How many of the most frequent words are looked at; a word in over half of the rows says nothing."""
SEARCHED_ROWS = 20_000
"""The search looks at so many rows at most, drawn by the seed: more find nothing that matters."""
ALIKE = 0.5
"""Two slices that share more of their rows than this (Jaccard) are one finding; the worse stays."""
LEAST_SCORE = 2.0
"""Standard errors that a slice must be worse by, in the half it is searched in, to be tested in the other."""
GAIN = 0.5
"""Standard errors that a pair must be worse by than both of its literals: else the shorter description stays."""
SIGNS = {
    "digit": re.compile(r"\d"),
    "question mark": re.compile(r"[?？]"),
    "exclamation mark": re.compile(r"[!！]"),
    "quotation mark": re.compile(r"[\"“”„«»「」]"),
    "bracket": re.compile(r"[()\[\]{}]"),
    "address": re.compile(r"https?://|www\.|\S@\S"),
    "mention or tag": re.compile(r"(?<!\w)[@#]\w"),
    "word in capitals": re.compile(r"\b[^\W\d_a-z]{2,}\b"),
    "line break": re.compile(r"\n"),
    "letter beyond ASCII": re.compile(r"[^\W\d_\x00-\x7f]"),
    "emoji or symbol": re.compile(r"[\u2190-\u2bff\U0001f000-\U0001faff]"),
    "no end mark": re.compile(r"[^.!?。！？…\"')\]]\s*\Z"),
}
"""Signs of a text, by the name that a slice has: ``has=digit``."""
_WORDS = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Found:
    """A slice that was searched for, and what the other half of the rows says of it."""

    slice: Slice
    searched_rows: int
    confirming_rows: np.ndarray
    """Its rows of the half that tests, int [K]."""
    contrast: Contrast
    """Slice against rest, on that half."""
    p_holm: float
    confirmed: bool


@dataclass(frozen=True)
class Search:
    """What was looked at, and what came of it."""

    looked_at: int
    """Literals and pairs of them that were large enough."""
    found: Sequence[Found]
    searched_rows: int
    confirming_rows: int


def search(
    metric: Metric, table: dict[str, np.ndarray], traits: Traits, config: SlicesConfig, how: Resampling
) -> Search:
    """Search for the worst slices and test them.

    Args:
        metric: what has a score per row.
        table: N rows.
        traits: what is known of these rows.
        config: how many, and of how many rows at least.
        how: level and seed; the seed decides the halves.
    """
    import numpy as np

    losses = row_losses(metric, table)
    order = np.random.default_rng(how.seed).permutation(np.flatnonzero(np.isfinite(losses)))
    searching, confirming = np.sort(order[: len(order) // 2][:SEARCHED_ROWS]), np.sort(order[len(order) // 2 :])
    least = max(2, config.least_rows // 2)
    literals = [one for one in _literals(traits, config, searching) if _large(one.mask, searching, confirming, least)]
    looked_at, candidates = _candidates(literals, losses, searching, least, config.worst)
    tested = [_tested(metric, table, one, confirming, how) for one in candidates if one.mask[confirming].sum() >= least]
    corrected = holm([result.p_worse for _, _, result in tested])
    found = [
        Found(one, int(one.mask[searching].sum()), rows, result, p, p <= 1 - how.confidence)
        for (one, rows, result), p in zip(tested, corrected, strict=True)
    ]
    return Search(looked_at, found, len(searching), len(confirming))


def row_losses(metric: Metric, table: dict[str, np.ndarray]) -> np.ndarray:
    """Return how bad each row is by the metric: float64 [N], larger is worse; NaN where the metric says nothing."""
    import numpy as np

    if metric.per_row is None:
        raise ValueError(f"{metric.name} has no scores of rows")
    scores = np.asarray(metric.per_row(table), dtype=np.float64)
    return -scores if metric.greater_is_better else scores


def _tested(
    metric: Metric, table: dict[str, np.ndarray], one: Slice, confirming: np.ndarray, how: Resampling
) -> tuple[Slice, np.ndarray, Contrast]:
    inside = one.mask[confirming]
    rows = confirming[inside]
    return one, rows, contrast(metric, table, rows, confirming[~inside], how)


def _large(mask: np.ndarray, searching: np.ndarray, confirming: np.ndarray, least: int) -> bool:
    """Say whether a slice has enough rows, and the rest too, in the half that searches, and some in the other."""
    inside = int(mask[searching].sum())
    return least <= inside <= len(searching) - least and bool(mask[confirming].any())


def _literals(traits: Traits, config: SlicesConfig, searching: np.ndarray) -> Iterator[Slice]:
    """Yield the slices that one thing describes. Labels are none: they are no property that one sees of a row."""
    import numpy as np

    if traits.texts:
        words = [{word.lower() for word in _WORDS.findall(text)} for text in traits.texts]
        counts = Counter(word for row in searching.tolist() for word in words[row])
        frequent = [word for word in counts if config.least_rows // 2 <= counts[word] <= len(searching) // 2]
        for word in sorted(frequent, key=lambda word: (-counts[word], word))[:WORDS]:
            yield Slice(f"word={word}", "worst", np.array([word in row for row in words]))
        for name, sign in SIGNS.items():
            yield Slice(f"has={name}", "worst", np.array([sign.search(text) is not None for text in traits.texts]))
        yield from by_value("worst", "language", [[name] for name, _ in languages(traits.texts)], config).slices
    if traits.lengths:
        yield from by_size("worst", "length", traits.lengths, 4, config, "tokens").slices
    for name, values in traits.columns.items():
        yield from by_column(name, values, config).slices


def _candidates(
    literals: Sequence[Slice], losses: np.ndarray, searching: np.ndarray, least: int, most: int
) -> tuple[int, list[Slice]]:
    """Return how many slices were looked at, and the worst ones that differ, worst first."""
    import numpy as np

    if not literals:
        return 0, []
    # float64 sums of 0 and 1 are exact, so equal rows give equal slices whatever the order of the sums
    inside = np.stack([one.mask[searching] for one in literals], axis=1).astype(np.float64)
    scores, looked_at = _scores(inside, losses[searching], least)
    chosen: list[tuple[Slice, np.ndarray]] = []
    places = np.argwhere(np.triu(scores >= LEAST_SCORE))
    order = np.lexsort((places[:, 1], places[:, 0], -scores[places[:, 0], places[:, 1]]))
    for first, second in places[order].tolist():
        if len(chosen) == most:
            break
        if first != second and scores[first, second] < max(scores[first, first], scores[second, second]) + GAIN:
            continue
        one = literals[first] if first == second else _both(literals[first], literals[second])
        mask = one.mask[searching]
        if all((mask & other).sum() <= ALIKE * (mask | other).sum() for _, other in chosen):
            chosen.append((one, mask))
    return looked_at, [Slice(one.name, "worst", one.mask, one.about) for one, _ in chosen]


def _scores(inside: np.ndarray, losses: np.ndarray, least: int) -> tuple[np.ndarray, int]:
    """Return standard errors by which each literal (diagonal) and pair is worse than the rest: float64 [D, D].

    ``inside``: float64 [M, D] of 0 and 1; ``losses``: float64 [M].
    """
    import numpy as np

    rows = inside.T @ inside
    sums = inside.T @ (inside * (losses - losses.mean())[:, None])
    enough = (rows >= least) & (len(losses) - rows >= least)
    with np.errstate(divide="ignore", invalid="ignore"):
        # the mean of a slice minus that of the rest, over its standard error under one spread of all rows
        scores = sums * np.sqrt(len(losses) / (rows * (len(losses) - rows))) / losses.std()
    # rounded, so that the order of slices does not hang on the order in which a machine adds
    return np.where(enough & np.isfinite(scores), scores.round(9), -np.inf), int(np.triu(enough).sum())


def _both(one: Slice, other: Slice) -> Slice:
    first, second = sorted((one, other), key=lambda slice_: slice_.name)
    about = ", ".join(text for text in (first.about, second.about) if text)
    return Slice(f"{first.name} & {second.name}", "worst", first.mask & second.mask, about)
