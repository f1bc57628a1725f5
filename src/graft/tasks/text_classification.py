"""One label per text (or pair of texts): a classification head on the base, softmax cross-entropy.

The prediction table has ``reference`` and ``prediction`` (int32 [N], index of the label) and ``probabilities``
(float32 [N, C], columns in label order). Metrics are numpy counts instead of scikit-learn's functions, since a
bootstrap calls them thousands of times; tests hold the two together.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from graft.errors import DataError, shown
from graft.padding import padded
from graft.pooling import pool_mean
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]

CONFUSION = {
    "confusion": {
        "x": "actual",
        "y": {"artifacts/evaluation/plots/confusion.csv": "predicted"},
        "template": "confusion",
        "title": "Confusion matrix (test)",
    }
}
CALIBRATION_BINS = 15
TFIDF_FEATURES = 50_000


class Config(TaskConfig):
    """Text classification: each row's ``text`` (and ``text_pair``, where there is one) has one ``label``."""

    name: Literal["text_classification"] = "text_classification"
    """The task: one label per text."""

    labels: tuple[str, ...] | None = None
    """The labels in their order; rows with another label are refused. Default: those of the training rows, sorted."""

    pooling: Literal["model", "mean"] = "model"
    """What the head reads: ``model``, the head that transformers gives this base (the first token of a BERT); ``mean``,
    a linear head on the mean of the hidden states, which suits sentence encoders."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(labels) < 2 or len(set(labels)) != len(labels)):
            raise ValueError("labels must be two or more distinct strings")
        return labels


# -- metrics over a prediction table; R is the confusion matrix: R[i, j] rows of label i that were predicted as j


def confusion(table: Table) -> np.ndarray:
    """Return the confusion matrix: int64 [C, C], actual by predicted."""
    import numpy as np

    labels = table["probabilities"].shape[1]
    cells = table["reference"].astype(np.int64) * labels + table["prediction"]
    counts: np.ndarray = np.bincount(cells, minlength=labels * labels).reshape(labels, labels)
    return counts


def correct(table: Table) -> np.ndarray:
    """Return 1 for each row that is predicted right, else 0: float64 [N]."""
    import numpy as np

    scores: np.ndarray = (table["reference"] == table["prediction"]).astype(np.float64)
    return scores


def accuracy(table: Table) -> float:
    """Return the share of rows that are predicted right."""
    return float(correct(table).mean())


def f1_scores(table: Table) -> np.ndarray:
    """Return each label's F1, ``2 R[i, i] / (actual + predicted)``: float64 [C], NaN where the label does not occur."""
    import numpy as np

    counts = confusion(table)
    occurring = counts.sum(axis=0) + counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        scores: np.ndarray = 2 * counts.diagonal() / occurring
    return scores


def macro_f1(table: Table) -> float:
    """Return the mean F1 over the labels that occur in references or predictions."""
    import numpy as np

    return float(np.nanmean(f1_scores(table)))


def mcc(table: Table) -> float:
    """Return Matthews' correlation for C labels (Gorodkin, 2004, equation 8); 0 where it is not defined."""
    import numpy as np

    counts = confusion(table).astype(np.float64)
    rows, actual, predicted = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    covariance = counts.trace() * rows - actual @ predicted
    spread = (rows * rows - actual @ actual) * (rows * rows - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def _calibration(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, summed confidence and right answers of each confidence bin: float64 [CALIBRATION_BINS]."""
    import numpy as np

    confidence = table["probabilities"].max(axis=1).astype(np.float64)
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
    import numpy as np

    probabilities = table["probabilities"]
    chosen = probabilities[np.arange(len(probabilities)), table["reference"]].astype(np.float64)
    edge = float(np.finfo(np.float32).eps)
    return -np.log(np.clip(chosen, edge, 1 - edge))


def log_loss(table: Table) -> float:
    """Return the mean cross-entropy in nats."""
    return float(row_log_loss(table).mean())


# -- cheap predictors


def majority(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict the training rows' label frequencies for every row."""
    import numpy as np

    counts = Counter(row["label"] for row in train_rows)
    shares = np.array([counts[label] for label in state["labels"]], dtype=np.float64) / len(train_rows)
    return _prediction_columns(np.tile(shares, (len(test_rows), 1)))


def tfidf(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict by logistic regression on TF-IDF of words and word pairs."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    numbers = {label: number for number, label in enumerate(state["labels"])}
    targets = np.array([numbers[row["label"]] for row in train_rows])
    if len(set(targets.tolist())) < 2:
        return majority(config, train_rows, test_rows, state, seed)
    # Every run of letters and every other visible sign is a word, so that no script leaves an empty vocabulary.
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=TFIDF_FEATURES, token_pattern=r"\w+|[^\w\s]"
    )
    features = words.fit_transform([_joined(row) for row in train_rows])
    # On 3,700 docstrings SAGA took 0.1 s to the accuracy that L-BFGS took 10 s to; it stops early, which is no error.
    model = LogisticRegression(C=10.0, solver="saga", tol=1e-3, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets)
    probabilities = np.zeros((len(test_rows), len(numbers)))
    probabilities[:, model.classes_] = model.predict_proba(words.transform([_joined(row) for row in test_rows]))
    return _prediction_columns(probabilities)


def _joined(row: Row) -> str:
    return f"{row['text']}\n{row['text_pair']}" if row.get("text_pair") else str(row["text"])


def _prediction_columns(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    import numpy as np

    return {
        "prediction": probabilities.argmax(axis=1).astype(np.int32),
        "probabilities": probabilities.astype(np.float32),
    }


class TextClassification(Task):
    """The contract's methods for one label per text."""

    name = "text_classification"
    fields = (
        Field("text", "string", text=True),
        Field("text_pair", "string", required=False, text=True),
        Field("label", "label", target=True),
    )
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = (
        Metric("accuracy", accuracy, per_row=correct),
        Metric("macro_f1", macro_f1),
        Metric("mcc", mcc),
        Metric("ece", ece, greater_is_better=False),
        Metric("log_loss", log_loss, greater_is_better=False, per_row=row_log_loss),
    )
    headline = "accuracy"
    curves = (CONFUSION,)

    def learn(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        if config.labels is not None:
            return {"labels": list(config.labels)}
        labels = sorted({row["label"] for row in rows})
        if len(labels) < 2:
            raise DataError(
                f"data/train: the column of labels holds {shown(labels[0]) if labels else 'nothing'} only; a "
                f"classifier needs two or more labels"
            )
        return {"labels": labels}

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if row["label"] not in state["labels"]:
            known = ", ".join(state["labels"][:10]) + (", ..." if len(state["labels"]) > 10 else "")
            yield RowProblem("label", f"one of {known}", shown(row["label"]))

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([("token_type_ids", pa.list_(pa.int32())), ("label", pa.int32())])

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        state: State,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        numbers = {label: number for number, label in enumerate(state["labels"])}
        encoded = _encode(rows, tokenizer, None)
        long = [index for index, one in enumerate(encoded) if len(one["input_ids"]) > max_length_tokens]
        cut = _encode([rows[index] for index in long], tokenizer, max_length_tokens)
        lengths = [len(one["input_ids"]) for one in encoded]
        for index, one in zip(long, cut, strict=True):
            encoded[index] = one
        return [
            {**one, "label": numbers.get(row.get("label")), "untruncated_length": length}
            for row, one, length in zip(rows, encoded, lengths, strict=True)
        ]

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        labels = state["labels"]
        model, new_modules = load_with_head(
            "AutoModelForSequenceClassification",
            folder,
            self.families,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            problem_type="single_label_classification",
            **kwargs,
        )
        return model, pool_mean(model, len(labels)) if config.pooling == "mean" else new_modules

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
        import torch

        batch = {
            "input_ids": padded([row["input_ids"] for row in rows], pad_token_id),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        }
        if any(row.get("token_type_ids") is not None for row in rows):
            batch["token_type_ids"] = padded(
                [row.get("token_type_ids") or [] for row in rows], 0, width=batch["input_ids"].shape[1]
            )
        if all(row.get("label") is not None for row in rows):
            batch["labels"] = torch.tensor([row["label"] for row in rows], dtype=torch.int64)
        return batch

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        return cross_entropy(self.outputs(config, model, batch), labels, reduction="sum"), labels.numel()

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return logits.float()

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        import numpy as np

        logits = outputs.astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return _prediction_columns(odds / odds.sum(axis=1, keepdims=True))

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        return {"reference": np.array([row["label"] for row in rows], dtype=np.int32)}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"majority": majority, "tfidf": tfidf}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        labels = state["labels"]
        return [
            {
                "label": labels[number],
                "score": float(probabilities[number]),
                "scores": dict(zip(labels, map(float, probabilities), strict=True)),
            }
            for number, probabilities in zip(predictions["prediction"], predictions["probabilities"], strict=True)
        ]

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        counts = confusion(table)
        rows = [
            {
                "label": label,
                "precision": _share(counts[number, number], counts[:, number].sum()),
                "recall": _share(counts[number, number], counts[number].sum()),
                "f1": _share(2 * counts[number, number], counts[number].sum() + counts[:, number].sum()),
                "support": int(counts[number].sum()),
            }
            for number, label in enumerate(state["labels"])
        ]
        return {"Per label": rows}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        labels = state["labels"]
        pairs = zip(table["reference"], table["prediction"], strict=True)
        filled = ((rows, summed, right) for rows, summed, right in zip(*_calibration(table), strict=True) if rows)
        return {
            "confusion": [{"actual": labels[actual], "predicted": labels[predicted]} for actual, predicted in pairs],
            "reliability": [
                {"confidence": float(summed / rows), "accuracy": float(right / rows), "rows": int(rows)}
                for rows, summed, right in filled
            ],
        }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, limit: int | None) -> list[dict[str, Any]]:
    """Return ``input_ids`` and, for a pair, ``token_type_ids`` (None otherwise) of each row, cut at ``limit``."""
    result: list[dict[str, Any]] = [{} for _ in rows]
    for paired in (False, True):
        chosen = [index for index, row in enumerate(rows) if bool(row.get("text_pair")) is paired]
        if not chosen:
            continue
        encoded = tokenizer(
            [rows[index]["text"] for index in chosen],
            [rows[index]["text_pair"] for index in chosen] if paired else None,
            truncation="longest_first" if limit else False,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=paired and "token_type_ids" in tokenizer.model_input_names,
            verbose=False,
        )
        types = encoded.get("token_type_ids") or [None] * len(chosen)
        for index, ids, type_ids in zip(chosen, encoded["input_ids"], types, strict=True):
            result[index] = {"input_ids": ids, "token_type_ids": type_ids}
    return result


TASK = TextClassification()
