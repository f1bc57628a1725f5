"""Training rows whose label the other rows speak against: a ranked list for people, never a verdict.

Each row's label is predicted by a model that did not see the row (five folds, logistic regression on TF-IDF, which the
evaluation report has as its floor: no GPU and no base). Rows for which it predicts another label are ranked by
self-confidence, the probability of the label they have (Kuan, Mueller 2022), and confident learning (Northcutt, Jiang,
Chuang 2021) estimates how many of them are errors: rows for which another label reaches the confidence that rows of
that label have on average. cleanlab, by the same authors, does both. Which rows the estimate counts is not used to
choose them: with 77 labels and 5 % of them flipped, 73 % of the rows so chosen were flipped ones, by self-confidence
91 %.

Rows with any number of labels are judged label by label: whether a row has it or lacks it. Of tagged rows each word is
judged, by itself and its neighbours, in folds of whole rows. Of numbers there is no share of errors to estimate: the
rows are those whose distance from the prediction is an outlier among all (Tukey's fences), the farthest first.

What tops the list may as well be a rare but right label, so nothing is left out of training for it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cleaning import Cleaning
from graft.data import DataConfig, Record, read_part
from graft.tfidf import joined, label_probabilities, presence_probabilities, ridge_values, similarity_values
from graft.validation.section import LabelErrorsConfig

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Field

FOLDS = 5
SEED = 0
FENCE = 1.5
"""From how many times the middle half's width beyond it a distance is an outlier."""
NO_LABEL = "(none)"


@dataclass(frozen=True)
class LabelError:
    """A row whose label is likely wrong, or a word's tag."""

    place: str
    given: str
    suggested: str
    """The most likely label; of a row with several, those that it likely has; of numbers, the predicted one."""
    score: float
    """The probability of what is given, by a model that did not see the row: the lower, the more suspicious. Of
    numbers, a density: 1 where the prediction is right, the lower the farther it is."""
    text: str
    """For pages, which mask it; it is not part of the list."""
    word: int | None = None
    """Of tagged rows: which word, from 1."""

    def as_json(self) -> dict[str, Any]:
        """Return the line of ``label_errors.jsonl``."""
        word = {} if self.word is None else {"word": self.word}
        return {"place": self.place, **word, "given": self.given, "suggested": self.suggested, "score": self.score}


@dataclass(frozen=True)
class LabelErrors:
    """The likely errors among some rows, the most suspicious first."""

    rows: int
    """How many training rows there are ..."""
    looked_at: int
    """... and how many of them were looked at: not more than ``max_rows``, and only labels of five rows and more."""
    found: Sequence[LabelError]
    total: int
    """How many likely errors there are, also those beyond ``max_listed``."""
    what: str = "row has a label"
    """Of a single one."""

    def __str__(self) -> str:
        """Return what a warning says."""
        of = "" if self.looked_at == self.rows else f" ({self.looked_at} of {self.rows} rows were looked at)"
        what = self.what if self.total == 1 else self.what.replace(" has ", "s have ")
        return f"train: {self.total} {what} that other rows speak against{of}"

    def write(self, path: Path) -> None:
        """Write a JSON line for each row."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(one.as_json(), ensure_ascii=False) + "\n" for one in self.found)


@dataclass(frozen=True)
class _Row:
    """A training row that may be looked at."""

    digest: bytes
    order: tuple[int, int]
    """The number of its part, and its own in it."""
    place: str
    values: Mapping[str, Any]
    given: Any
    """What it has as label, labels, tags or number."""

    @cached_property
    def text(self) -> str:
        """What is read of it."""
        return joined(self.values) if "text" in self.values else " ".join(self.values["tokens"])


def judged(fields: Sequence[Field]) -> Field | None:
    """Return the field whose values can be judged from a row's text, if there is one."""
    if not {one.name for one in fields if one.text} & {"text", "tokens"}:
        return None
    return next((one for one in fields if one.target and not one.text and one.type in JUDGES), None)


def find(
    files: Sequence[Path],
    root: Path,
    fields: Sequence[Field],
    data: DataConfig,
    config: LabelErrorsConfig,
    without: Collection[str] = (),
) -> LabelErrors:
    """Read the training rows, ``without`` those in quarantine, and return those whose label is likely wrong.

    Of more rows than ``config.max_rows`` those with the smallest digests of their texts are taken, wherever they stand.
    """
    target = judged(fields)
    assert target is not None
    counted = Counter[str]()
    rows = _rows(files, root, fields, data, without, target.name, counted)
    chosen = heapq.nsmallest(config.max_rows, rows, key=lambda one: (one.digest, one.order))
    judge, what = JUDGES[target.type]
    looked_at, found = judge(chosen, config.max_rows)
    return LabelErrors(counted["rows"], looked_at, found[: config.max_listed], len(found), what)


def _rows(
    files: Sequence[Path],
    root: Path,
    fields: Sequence[Field],
    data: DataConfig,
    without: Collection[str],
    target: str,
    counted: Counter[str],
) -> Iterator[_Row]:
    cleaning = Cleaning(data.clean, data.privacy)
    for part, path in enumerate(files):
        for number, one in enumerate(read_part(path, root, fields, data, cleaning)):
            if isinstance(one, Record) and one.place not in without:
                counted["rows"] += 1
                row = _Row(b"", (part, number), one.place, one.row, one.row[target])
                digest = hashlib.blake2b(row.text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                yield replace(row, digest=digest)


def _in_order(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda one: one.order)


def _enough(labels: Iterable[str]) -> list[str]:
    """Return the labels that each fold can have a row of."""
    return sorted(name for name, count in Counter(labels).items() if count >= FOLDS)


# -- one label


def _of_label(rows: Sequence[_Row], _: int) -> tuple[int, list[LabelError]]:
    """Judge rows with one label each."""
    import numpy as np

    labels = _enough(row.given for row in rows)
    chosen = [row for row in _in_order(rows) if row.given in labels]
    if len(labels) < 2:
        return len(chosen), []
    numbers = {label: number for number, label in enumerate(labels)}
    given = np.array([numbers[row.given] for row in chosen])
    probabilities = out_of_fold([row.text for row in chosen], given, len(labels))
    found = [
        LabelError(
            chosen[row].place,
            labels[given[row]],
            labels[int(probabilities[row].argmax())],
            _rounded(probabilities[row, given[row]]),
            chosen[row].text,
        )
        for row in suspects(given, probabilities)
    ]
    return len(chosen), found


def suspects(given: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Return the rows whose label is likely wrong, the most suspicious first.

    ``given``: int [N]; ``probabilities``: float64 [N, labels], of models that did not see the row.
    """
    import numpy as np
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores = get_label_quality_scores(given, probabilities, method="self_confidence")
    order = np.argsort(scores, kind="stable")
    order = order[probabilities[order].argmax(axis=1) != given[order]]
    chosen: list[int] = order[: num_label_issues(given, probabilities)].tolist()
    return chosen


def out_of_fold(texts: Sequence[str], given: np.ndarray, labels: int) -> np.ndarray:
    """Return each label's probability for each row, by a model that did not see the row: float64 [N, labels].

    ``given``: int [N], each label in at least five rows.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    found = np.zeros((len(texts), labels))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for seen, asked in folds.split(given, given):
        learnt, wanted = ([texts[row] for row in rows] for rows in (seen, asked))
        found[asked] = label_probabilities(learnt, given[seen], wanted, labels, SEED)
    return found


# -- any number of labels


def _of_labels(rows: Sequence[_Row], _: int) -> tuple[int, list[LabelError]]:
    """Judge rows with any number of labels, label by label."""
    import numpy as np

    chosen = _in_order(rows)
    labels = _enough(label for row in chosen for label in set(row.given))
    present = np.array([[label in row.given for label in labels] for row in chosen], dtype=bool)
    if len(chosen) < 2 * FOLDS or not labels:
        return len(chosen), []
    likely = presence_out_of_fold([row.text for row in chosen], present)
    scores: dict[int, dict[str, float]] = {}
    for number, label in enumerate(labels):
        given = present[:, number].astype(int)
        both = np.stack([1 - likely[:, number], likely[:, number]], axis=1)
        for row in suspects(given, both) if len(set(given.tolist())) == 2 else ():
            scores.setdefault(row, {})[label] = both[row, given[row]]
    found = [
        LabelError(
            chosen[row].place,
            _listed(chosen[row].given),
            _listed(set(chosen[row].given) ^ set(wrong)),
            _rounded(min(wrong.values())),
            chosen[row].text,
        )
        for row, wrong in scores.items()
    ]
    return len(chosen), sorted(found, key=lambda one: one.score)


def presence_out_of_fold(texts: Sequence[str], present: np.ndarray) -> np.ndarray:
    """Return the probability that a row has a label, by models that did not see the row: float64 [N, labels].

    ``present``: bool [N, labels].
    """
    import numpy as np

    found = np.zeros(present.shape)
    for seen, asked in _folds(len(texts)):
        learnt, wanted = ([texts[row] for row in rows] for rows in (seen, asked))
        found[asked] = presence_probabilities(learnt, present[seen], wanted, SEED)
    return found


def _listed(labels: Collection[str]) -> str:
    return ", ".join(sorted(labels)) or NO_LABEL


# -- a tag for each word


def _of_tags(rows: Sequence[_Row], most: int) -> tuple[int, list[LabelError]]:
    """Judge the words of tagged rows, ``most`` words of them at most."""
    import numpy as np

    chosen, words = list[_Row](), 0
    for row in rows:
        words += len(row.given)
        if words <= most:
            chosen.append(row)
    chosen = _in_order(chosen)
    labels = _enough(tag for row in chosen for tag in row.given)
    tags = [(row, at) for row, one in enumerate(chosen) for at, tag in enumerate(one.given) if tag in labels]
    if len(labels) < 2 or len(chosen) < FOLDS:
        return len(chosen), []
    numbers = {label: number for number, label in enumerate(labels)}
    given = np.array([numbers[chosen[row].given[at]] for row, at in tags])
    texts = [_in_context(chosen[row].values["tokens"], at) for row, at in tags]
    probabilities = np.zeros((len(tags), len(labels)))
    owner = np.array([row for row, _ in tags])
    for seen, asked in _folds(len(chosen)):
        known, wanted = (np.flatnonzero(np.isin(owner, rows)) for rows in (seen, asked))
        if len(set(given[known].tolist())) > 1:
            learnt, read = ([texts[one] for one in ones] for ones in (known, wanted))
            probabilities[wanted] = label_probabilities(learnt, given[known], read, len(labels), SEED)
    found = [
        LabelError(
            chosen[row].place,
            labels[given[one]],
            labels[int(probabilities[one].argmax())],
            _rounded(probabilities[one, given[one]]),
            chosen[row].text,
            at + 1,
        )
        for one in suspects(given, probabilities)
        for row, at in [tags[one]]
    ]
    return len(chosen), found


def _in_context(words: Sequence[str], at: int) -> str:
    """Return a word between its neighbours, which are told from it by what they begin with."""
    before = words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    return f"before_{before} {words[at]} after_{after}"


# -- a number


def _of_number(rows: Sequence[_Row], _: int) -> tuple[int, list[LabelError]]:
    """Judge rows with a number each."""
    import numpy as np

    chosen = _in_order(rows)
    given = np.array([row.given for row in chosen], dtype=np.float64)
    if len(chosen) < 2 * FOLDS or np.ptp(given) == 0:
        return len(chosen), []
    likely = values_out_of_fold([row.values for row in chosen], given)
    scores = closeness(given, likely)
    found = [
        LabelError(
            chosen[row].place, f"{given[row]:.6g}", f"{likely[row]:.4g}", _rounded(scores[row]), chosen[row].text
        )
        for row in far_off(given, likely)
    ]
    return len(chosen), found


def values_out_of_fold(rows: Sequence[Mapping[str, Any]], given: np.ndarray) -> np.ndarray:
    """Return the value of each row by a model that did not see it: float64 [N]; of pairs by their likeness."""
    import numpy as np

    found = np.zeros(len(rows))
    paired = all(row.get("text_pair") for row in rows)
    for seen, asked in _folds(len(rows)):
        if paired:
            known, wanted = ([(rows[row]["text"], rows[row]["text_pair"]) for row in ones] for ones in (seen, asked))
            found[asked] = similarity_values(known, given[seen], wanted)
        else:
            learnt, read = ([joined(rows[row]) for row in ones] for ones in (seen, asked))
            found[asked] = ridge_values(learnt, given[seen], read)
    return found


def far_off(given: np.ndarray, likely: np.ndarray) -> list[int]:
    """Return the rows whose distance from their prediction is an outlier among all, the farthest first."""
    import numpy as np

    distance = given - likely
    low, middle, high = np.percentile(distance, [25, 50, 75])
    order = np.argsort(-abs(distance - middle), kind="stable")
    beyond = FENCE * (high - low)
    chosen: list[int] = order[(distance[order] < low - beyond) | (distance[order] > high + beyond)].tolist()
    return chosen


def closeness(given: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Return how near each prediction is, by the spread of all distances: float64 [N], 1 where it is right."""
    import numpy as np
    from cleanlab.regression.rank import get_label_quality_scores

    spread = np.std(given - likely) or 1.0
    scores: np.ndarray = get_label_quality_scores(given / spread, likely / spread, method="residual")
    return scores


# -- all


def _folds(rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows that are learnt from, and those that are asked."""
    import numpy as np
    from sklearn.model_selection import KFold

    yield from KFold(FOLDS, shuffle=True, random_state=SEED).split(np.zeros(rows))


def _rounded(score: float) -> float:
    return round(float(score), 4)


Judge = Callable[[Sequence[_Row], int], tuple[int, list[LabelError]]]
"""Looks at rows, by digest, and is given how many at most: how many were looked at, and what is likely wrong."""
JUDGES: Mapping[str, tuple[Judge, str]] = {
    "label": (_of_label, "row has a label"),
    "labels": (_of_labels, "row has labels"),
    "strings": (_of_tags, "word has a tag"),
    "number": (_of_number, "row has a number"),
}
"""By the type of the field: what judges it, and what is said of what it finds."""
