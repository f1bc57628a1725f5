"""Training rows whose label the other rows speak against: a ranked list for people, never a verdict.

Each row's label is predicted by a model that did not see the row (five folds, logistic regression on TF-IDF, which the
evaluation report has as its floor: no GPU and no base). Rows for which it predicts another label are ranked by
self-confidence, the probability of the label they have (Kuan, Mueller 2022), and confident learning (Northcutt, Jiang,
Chuang 2021) estimates how many of them are errors: rows for which another label reaches the confidence that rows of
that label have on average. cleanlab, by the same authors, does both. Which rows the estimate counts is not used to
choose them: with 77 labels and 5 % of them flipped, 73 % of the rows so chosen were flipped ones, by self-confidence
91 %.

What tops the list may as well be a rare but right label, so nothing is left out of training for it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cleaning import Cleaning
from graft.data import DataConfig, Record, read_part
from graft.tasks import label_of
from graft.tfidf import joined, label_probabilities
from graft.validation.section import LabelErrorsConfig

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Field

FOLDS = 5
SEED = 0


@dataclass(frozen=True)
class LabelError:
    """A row whose label is likely wrong."""

    place: str
    given: str
    suggested: str
    """The most likely label."""
    score: float
    """The probability of the given label, by a model that did not see the row: the lower, the more suspicious."""
    text: str
    """For pages, which mask it; it is not part of the list."""

    def as_json(self) -> dict[str, Any]:
        """Return the line of ``label_errors.jsonl``."""
        return {"place": self.place, "given": self.given, "suggested": self.suggested, "score": self.score}


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

    def __str__(self) -> str:
        """Return what a warning says."""
        of = "" if self.looked_at == self.rows else f" ({self.looked_at} of {self.rows} were looked at)"
        return f"train: {self.total} rows have a label that other rows speak against{of}"

    def write(self, path: Path) -> None:
        """Write a JSON line for each row."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(one.as_json(), ensure_ascii=False) + "\n" for one in self.found)


def can_judge(fields: Sequence[Field]) -> bool:
    """Say whether the rows of a task have what is needed: a text, and one label."""
    return any(one.text for one in fields) and label_of(fields) is not None


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
    label = label_of(fields)
    assert label is not None
    counted = Counter[str]()
    rows = _rows(files, root, fields, data, without, label, counted)
    chosen = sorted(heapq.nsmallest(config.max_rows, rows), key=lambda one: one[1])
    enough = {name for name, count in Counter(one[3] for one in chosen).items() if count >= FOLDS}
    chosen = [one for one in chosen if one[3] in enough]
    found = _errors(chosen, sorted(enough)) if len(enough) > 1 else []
    return LabelErrors(counted.total(), len(chosen), found[: config.max_listed], len(found))


_Row = tuple[bytes, tuple[int, int], str, str, str]
"""Digest, number of part and row, place, label, text."""


def _rows(
    files: Sequence[Path],
    root: Path,
    fields: Sequence[Field],
    data: DataConfig,
    without: Collection[str],
    label: str,
    counted: Counter[str],
) -> Iterator[_Row]:
    cleaning = Cleaning(data.clean, data.privacy)
    for part, path in enumerate(files):
        for number, one in enumerate(read_part(path, root, fields, data, cleaning)):
            if isinstance(one, Record) and one.place not in without:
                text, given = joined(one.row), str(one.row[label])
                counted[given] += 1
                digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                yield digest, (part, number), one.place, given, text


def _errors(rows: Sequence[_Row], labels: Sequence[str]) -> list[LabelError]:
    import numpy as np

    numbers = {label: number for number, label in enumerate(labels)}
    given = np.array([numbers[label] for *_, label, _ in rows])
    probabilities = out_of_fold([text for *_, text in rows], given, len(labels))
    found = []
    for row in suspects(given, probabilities):
        _, _, place, label, text = rows[row]
        suggested = labels[int(probabilities[row].argmax())]
        found.append(LabelError(place, label, suggested, round(float(probabilities[row, given[row]]), 4), text))
    return found


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
