"""One label of several: what texts and pictures share, so that each task file holds what is its own.

A table has ``reference`` and ``prediction`` (int32 [N], index of the label) and ``probabilities`` (float32 [N, C],
columns in label order). Metrics are numpy counts instead of scikit-learn's functions, since a bootstrap calls them
thousands of times; tests hold the two together. What takes all C probabilities of a row is computed once per table
(:func:`row_columns`): a resample then gathers numbers and not rows of C.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than each one needs)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator

from graft.config import nearest
from graft.errors import DataError, shown

if TYPE_CHECKING:
    import numpy as np
    import torch

    Table = Mapping[str, np.ndarray]

CALIBRATION_BINS = 15


# -- labels


def gathered_labels(pinned: Sequence[str] | None, rows: Iterator[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the labels of a part's rows, which are not looked at where they are ``pinned``."""
    return {} if pinned is not None else {"labels": sorted({row["label"] for row in rows})}


def learnt_labels(pinned: Sequence[str] | None, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the labels of all parts, sorted, or the ``pinned`` ones.

    Raises:
        DataError: there are fewer than two.
    """
    if pinned is not None:
        return list(pinned)
    labels = sorted({label for part in parts for label in part["labels"]})
    if len(labels) < 2:
        raise DataError(
            f"data/train: the column of labels holds {shown(labels[0]) if labels else 'nothing'} only; a "
            f"classifier needs two or more labels"
        )
    return labels


def check_pinned(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the labels that a task section pins.

    Raises:
        ValueError: they are not two or more distinct ones.
    """
    if labels is not None and (len(labels) < 2 or len(set(labels)) != len(labels)):
        raise ValueError("labels must be two or more distinct strings")
    return labels


PinnedLabels = Annotated[tuple[str, ...] | None, AfterValidator(check_pinned)]
"""The type of the labels that a task section may pin."""


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """Return what a head of these labels is configured with: their number, and their names both ways."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": numbers_of(labels),
    }


def numbers_of(labels: Sequence[str]) -> dict[Any, int]:
    """Return each label's number: its place."""
    return {label: number for number, label in enumerate(labels)}


def label_problems(label: str, labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield field, what is expected and what is found where a row's label is none of ``labels``."""
    if label not in labels:
        near = nearest(label, labels, 0.6)
        yield "label", f"one of {listed(labels)}", shown(label) + (f"; did you mean {shown(near)}?" if near else "")


def listed(labels: Sequence[str], most: int = 10) -> str:
    """Return labels for a message: the first ``most`` of them, each whole, and how many more there are."""
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


# -- tables


def probabilities_of(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return the prediction columns of logits [N, C]: their softmax and its largest entry."""
    import numpy as np

    exact = logits.astype(np.float64)
    odds = np.exp(exact - exact.max(axis=1, keepdims=True))
    return prediction_columns(odds / odds.sum(axis=1, keepdims=True))


def prediction_columns(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the prediction columns of probabilities [N, C]."""
    import numpy as np

    return {
        "prediction": probabilities.argmax(axis=1).astype(np.int32),
        "probabilities": probabilities.astype(np.float32),
    }


def majority(
    config: Any,
    train_rows: Sequence[Mapping[str, Any]],
    test_rows: Sequence[Mapping[str, Any]],
    state: Mapping[str, Any],
    seed: int,
) -> dict[str, np.ndarray]:
    """Predict the training rows' label frequencies for every row."""
    import numpy as np

    counts = Counter(row["label"] for row in train_rows)
    shares = np.array([counts[label] for label in state["labels"]], dtype=np.float64) / len(train_rows)
    return prediction_columns(np.tile(shares, (len(test_rows), 1)))


# -- the loss


def add_labels(
    batch: dict[str, torch.Tensor], rows: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return ``batch`` with the numbers of the token rows' labels as ``labels`` (int64 [B]) where all have one."""
    import torch

    if all(row.get("label") is not None for row in rows):
        numbers = numbers_of(labels)
        batch["labels"] = torch.tensor([numbers[row["label"]] for row in rows], dtype=torch.int64)
    return batch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of logits [B, C], in nats, and the number of rows."""
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, reduction="sum"), labels.numel()


# -- metrics over a prediction table; R is the confusion matrix: R[i, j] rows of label i that were predicted as j


def confusion(table: Table) -> np.ndarray:
    """Return the confusion matrix: int64 [C, C], actual by predicted."""
    import numpy as np

    labels = table["probabilities"].shape[1]
    cells = table["reference"].astype(np.int64) * labels + table["prediction"]
    counts: np.ndarray = np.bincount(cells, minlength=labels * labels).reshape(labels, labels)
    return counts


def _counts(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the diagonal, the row sums and the column sums of the confusion matrix, up to the last label in use."""
    import numpy as np

    reference, prediction = table["reference"], table["prediction"]
    labels = int(max(reference.max(), prediction.max())) + 1
    hits = np.bincount(reference[reference == prediction], minlength=labels)
    return hits, np.bincount(reference, minlength=labels), np.bincount(prediction, minlength=labels)


def correct(table: Table) -> np.ndarray:
    """Return 1 for each row that is predicted right, else 0: float64 [N]."""
    import numpy as np

    scores: np.ndarray = (table["reference"] == table["prediction"]).astype(np.float64)
    return scores


def accuracy(table: Table) -> float:
    """Return the share of rows that are predicted right."""
    return float(correct(table).mean())


def f1_scores(table: Table) -> np.ndarray:
    """Return each label's F1, ``2 R[i, i] / (actual + predicted)``: float64, NaN where the label does not occur.

    As long as the highest label number that occurs.
    """
    import numpy as np

    hits, actual, predicted = _counts(table)
    with np.errstate(invalid="ignore"):
        scores: np.ndarray = 2 * hits / (actual + predicted)
    return scores


def macro_f1(table: Table) -> float:
    """Return the mean F1 over the labels that occur in references or predictions."""
    import numpy as np

    return float(np.nanmean(f1_scores(table)))


def mcc(table: Table) -> float:
    """Return Matthews' correlation for C labels (Gorodkin, 2004, equation 8); 0 where it is not defined."""
    import numpy as np

    hits, actual, predicted = (counts.astype(np.float64) for counts in _counts(table))
    rows = actual.sum()
    covariance = hits.sum() * rows - actual @ predicted
    spread = (rows * rows - actual @ actual) * (rows * rows - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def _calibration(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, summed confidence and right answers of each confidence bin: float64 [CALIBRATION_BINS]."""
    import numpy as np

    confidence = _column(table, "confidence", confidence_of)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    rows, summed, right = (
        np.bincount(bins, weights=weights, minlength=CALIBRATION_BINS)
        for weights in (np.ones_like(confidence), confidence, correct(table))
    )
    return rows, summed, right


def ece(table: Table) -> float:
    """Return the expected calibration error over 15 bins of equal width (Guo et al., 2017, equation 3)."""
    import numpy as np

    rows, summed, right = _calibration(table)
    return float(np.abs(summed - right).sum() / rows.sum())


def row_log_loss(table: Table) -> np.ndarray:
    """Return minus the log of each reference label's probability, clipped at float32's resolution: float64 [N]."""
    return _column(table, "cross_entropy", cross_entropy_of)


def log_loss(table: Table) -> float:
    """Return the mean cross-entropy in nats."""
    return float(row_log_loss(table).mean())


def auroc(table: Table) -> float:
    """Return the area under the ROC curve, one label against the rest, as the mean over labels; see `auroc_rows`."""
    return float(table["auroc_part"].mean())


METRICS: tuple[Mapping[str, Any], ...] = (
    {"name": "accuracy", "function": accuracy, "per_row": correct},
    {"name": "macro_f1", "function": macro_f1},
    {"name": "mcc", "function": mcc},
    {"name": "auroc", "function": auroc},
    {"name": "ece", "function": ece, "greater_is_better": False},
    {"name": "log_loss", "function": log_loss, "greater_is_better": False, "per_row": row_log_loss},
)
"""What :class:`graft.tasks.Metric` is made with, which stands below this module."""


# -- columns that are computed once per table


def row_columns(table: Table) -> dict[str, np.ndarray]:
    """Return what metrics read of a row's probabilities: float64 [N] each (a task's ``judge``)."""
    import numpy as np

    truth = table["reference"][:, None] == np.arange(table["probabilities"].shape[1])
    return {
        "confidence": confidence_of(table),
        "cross_entropy": cross_entropy_of(table),
        "auroc_part": auroc_rows(table["probabilities"], truth),
    }


def confidence_of(table: Table) -> np.ndarray:
    """Return each row's largest probability: float64 [N]."""
    import numpy as np

    largest: np.ndarray = table["probabilities"].max(axis=1).astype(np.float64)
    return largest


def cross_entropy_of(table: Table) -> np.ndarray:
    """Return minus the log of each reference label's probability: float64 [N]."""
    import numpy as np

    probabilities = table["probabilities"]
    chosen = probabilities[np.arange(len(probabilities)), table["reference"]].astype(np.float64)
    edge = float(np.finfo(np.float32).eps)
    return -np.log(np.clip(chosen, edge, 1 - edge))


def auroc_rows(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return each row's part in the area under the ROC curve, averaged over labels: float64 [N]; their mean is it.

    A row's placement is the share of rows on the other side of a label that it is on the right side of, ties half. A
    label's area is the mean placement of its own rows, and that of all others (DeLong et al., 1988, section 2). The
    parts are its first-order form in the rows, which the same paper takes the variance from: so the area of the table
    is exact, and a resample costs a mean instead of a sort of all scores of all labels. Labels that all rows have, or
    none, have no curve and are left out; NaN where that is so for all.

    Args:
        scores: [N, C], larger where a label is more likely.
        truth: bool [N, C], whether a row has a label.
    """
    import numpy as np
    from scipy.stats import rankdata

    rows = len(truth)
    labels = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    parts = np.zeros(rows)
    for label in labels:
        own, column = truth[:, label], scores[:, label]
        rank = rankdata(column)
        below = (rank[own] - rankdata(column[own])) / (~own).sum()
        above = 1 - (rank[~own] - rankdata(column[~own])) / own.sum()
        area = below.mean()
        parts[own] += (below - area) * rows / own.sum() + area
        parts[~own] += (above - area) * rows / (~own).sum() + area
    return parts / len(labels) if len(labels) else np.full(rows, np.nan)


def _column(table: Table, name: str, make: Callable[[Table], np.ndarray]) -> np.ndarray:
    """Return a column of the table; made from others where no ``judge`` has put it there."""
    try:
        return table[name]
    except KeyError:
        return make(table)


# -- for people


def answers_of(predictions: Table, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return label, its score and every label's score of each row."""
    return [
        {
            "label": labels[number],
            "score": float(probabilities[number]),
            "scores": dict(zip(labels, map(float, probabilities), strict=True)),
        }
        for number, probabilities in zip(predictions["prediction"], predictions["probabilities"], strict=True)
    ]


def per_label(table: Table, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and the number of rows of each label."""
    counts = confusion(table)
    return label_scores(labels, counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))


def label_scores(
    labels: Sequence[str], hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and the number of rows of each label from counts: int64 [C] each."""
    return [
        {
            "label": label,
            "precision": share(hits[number], predicted[number]),
            "recall": share(hits[number], actual[number]),
            "f1": share(2 * hits[number], actual[number] + predicted[number]),
            "support": int(actual[number]),
        }
        for number, label in enumerate(labels)
    ]


def plot_rows(table: Table, labels: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the data of a confusion matrix (a row per row of the table) and of a reliability diagram (per bin)."""
    pairs = zip(table["reference"], table["prediction"], strict=True)
    return {
        "confusion": [{"actual": labels[actual], "predicted": labels[predicted]} for actual, predicted in pairs],
        "reliability": reliability(*_calibration(table)),
    }


def reliability(rows: np.ndarray, summed: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Return the mean confidence and the share of right answers of each bin that has rows: float64 [bins] each."""
    return [
        {"confidence": float(total / count), "accuracy": float(hits / count), "rows": int(count)}
        for count, total, hits in zip(rows, summed, right, strict=True)
        if count
    ]


def confusion_curve(title: str) -> dict[str, Any]:
    """Return the entry for dvc.yaml's ``plots`` that shows the plot rows ``confusion``."""
    y = {"artifacts/evaluation/plots/confusion.csv": "predicted"}
    return {"confusion": {"x": "actual", "y": y, "template": "confusion", "title": title}}


def share(part: float, whole: float) -> float:
    """Return a part of a whole; 0 where there is none."""
    return float(part / whole) if whole else 0.0


# -- a task's methods


class OneLabel:
    """The contract's methods that do not depend on what is labelled; a task class inherits from it first."""

    headline = "accuracy"
    curves: ClassVar[tuple[Mapping[str, Any], ...]] = (confusion_curve("Confusion matrix (test)"),)

    def predictions(self, config: Any, outputs: np.ndarray, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return probabilities_of(outputs)

    def references(self, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import numpy as np

        numbers = numbers_of(state["labels"])
        return {"reference": np.array([numbers[row["label"]] for row in rows], dtype=np.int32)}

    def judge(self, config: Any, table: Table, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return row_columns(table)

    def answers(self, predictions: Table, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        return answers_of(predictions, state["labels"])

    def details(self, table: Table, state: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return {"Per label": per_label(table, state["labels"])}

    def plots(self, table: Table, state: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return plot_rows(table, state["labels"])
