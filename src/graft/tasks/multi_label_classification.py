"""Any number of labels per text (or pair of texts), also none: a sigmoid per label, binary cross-entropy.

A task of its own, as transformers has a ``problem_type`` of this name: rows have another target (a list), the table
other columns, and what decides is micro F1, since accuracy over mostly absent labels says little. The table has
``reference`` (object [N], the labels as text, for people), ``truth`` and ``predicted`` (uint8 [N, C], 1 where a row has
a label) and ``probabilities`` (float32 [N, C]); ``judge`` adds what a row puts into each sum over the table, so that a
resample gathers a few numbers a row.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit
from pydantic import field_validator

from graft.classification import (
    CALIBRATION_BINS,
    auroc,
    auroc_rows,
    label_names,
    label_scores,
    listed,
    reliability,
)
from graft.errors import DataError, shown
from graft.pooling import Pooling, pool
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, family_of, load_with_head
from graft.text_inputs import (
    EncodedTexts,
    as_batch,
    check_numeric,
    collate_texts,
    encode_texts,
    gathered_numbers,
    learnt_numbers,
    logits_of,
)
from graft.tfidf import joined, presence_probabilities

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]

FIELDS = (
    Field("text", "string", text=True),
    Field("text_pair", "string", required=False, text=True),
    Field("labels", "labels", target=True),
)


class Config(TaskConfig):
    """Multi-label classification: each row's ``text`` (and ``text_pair``) has a list of ``labels``, possibly empty."""

    name: Literal["multi_label_classification"] = "multi_label_classification"
    """The task: any number of labels per text."""

    labels: tuple[str, ...] | None = None
    """The labels in their order; rows with another label are refused. Default: those of the training rows, sorted."""

    threshold: float = Limit(default=0.5, gt=0, lt=1)
    """The probability from which on a label is given."""

    pooling: Pooling = "model"
    """What the head reads: ``model``, what suits the base (the first token of a BERT, the last token of a decoder);
    ``mean``, the mean of the hidden states, which suits sentence encoders; ``last``, the last token."""

    numeric_columns: tuple[str, ...] = ()
    """Number columns beside the text. They are standardised on the training rows; output adapters read them, other
    adapter methods do not."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (not labels or len(set(labels)) != len(labels)):
            raise ValueError("labels must be one or more distinct strings")
        return labels

    @field_validator("numeric_columns")
    @classmethod
    def _check_numeric(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        return check_numeric(columns, [field.name for field in FIELDS])


# -- metrics over a prediction table


def exact(table: Table) -> np.ndarray:
    """Return 1 for each row that has all labels right and no other, else 0: float64 [N]."""
    import numpy as np

    scores: np.ndarray = (table["errors"] == 0).astype(np.float64)
    return scores


def accuracy(table: Table) -> float:
    """Return the share of rows with exactly the right labels (subset accuracy)."""
    return float(exact(table).mean())


def micro_f1(table: Table) -> float:
    """Return F1 over all decisions: twice the labels that are right, by labels there and labels given; 1 without any.

    Without any: no row has a label and none is given, so that nothing is wrong.
    """
    both = table["actual"].sum() + table["given"].sum()
    return float(2 * table["hits"].sum() / both) if both else 1.0


def macro_f1(table: Table) -> float:
    """Return the mean F1 over the labels that occur in references or predictions; NaN where none does."""
    import numpy as np

    truth, predicted = table["truth"], table["predicted"]
    occurring = truth.sum(axis=0, dtype=np.int64) + predicted.sum(axis=0, dtype=np.int64)
    hits = (truth & predicted).sum(axis=0, dtype=np.int64)
    used = occurring > 0
    return float((2 * hits[used] / occurring[used]).mean()) if used.any() else float("nan")


def mcc(table: Table) -> float:
    """Return Matthews' correlation over all decisions, each row and label one; 0 where it is not defined."""
    import math

    decisions = float(table["decisions"].sum())
    hits, actual, given = (float(table[name].sum()) for name in ("hits", "actual", "given"))
    spread = actual * (decisions - actual) * given * (decisions - given)
    return (hits * decisions - actual * given) / math.sqrt(spread) if spread > 0 else 0.0


def ece(table: Table) -> float:
    """Return the calibration error of all decisions: over 15 bins, the mean distance of probability and share."""
    import numpy as np

    return float(np.abs(table["calibration"].sum(axis=0)).sum() / table["decisions"].sum())


def row_log_loss(table: Table) -> np.ndarray:
    """Return each row's mean binary cross-entropy over the labels, in nats: float64 [N]."""
    return table["cross_entropy"]


def log_loss(table: Table) -> float:
    """Return the mean binary cross-entropy of all decisions, in nats."""
    return float(row_log_loss(table).mean())


def row_columns(table: Table) -> dict[str, np.ndarray]:
    """Return what each row puts into the metrics' sums: counts int64 [N], ``calibration`` float64 [N, bins], ..."""
    import numpy as np

    truth, predicted = table["truth"], table["predicted"]
    exactly = table["probabilities"].astype(np.float64)
    edge = float(np.finfo(np.float32).eps)
    likely = np.clip(np.where(truth, exactly, 1 - exactly), edge, 1)
    counts = {"hits": truth & predicted, "actual": truth, "given": predicted, "errors": truth ^ predicted}
    return {
        **{name: cells.sum(axis=1, dtype=np.int64) for name, cells in counts.items()},
        "decisions": np.full(len(truth), truth.shape[1], dtype=np.int64),
        "cross_entropy": -np.log(likely).mean(axis=1),
        "calibration": _by_bin(exactly, exactly - truth),
        "auroc_part": auroc_rows(table["probabilities"], truth.astype(bool)),
    }


def _by_bin(probabilities: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of each row's ``values`` [N, C] by the bin of their probabilities: float64 [N, bins]."""
    import numpy as np

    rows, labels = probabilities.shape
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    cells = np.repeat(np.arange(rows), labels) * CALIBRATION_BINS + bins.ravel()
    sums: np.ndarray = np.bincount(cells, weights=values.ravel(), minlength=rows * CALIBRATION_BINS)
    return sums.reshape(rows, CALIBRATION_BINS)


# -- cheap predictors


def presence(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    """Return which row has which label: bool [N, C]."""
    import numpy as np

    given = (set(row["labels"]) for row in rows)
    return np.array([[label in one for label in labels] for one in given], dtype=bool)


def majority(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict for every row the share of training rows that have each label."""
    import numpy as np

    shares = presence(train_rows, state["labels"]).mean(axis=0)
    return prediction_columns(np.tile(shares, (len(test_rows), 1)), config.threshold)


def tfidf(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict by one logistic regression a label on TF-IDF."""
    texts = [joined(row) for row in train_rows], [joined(row) for row in test_rows]
    present = presence(train_rows, state["labels"])
    return prediction_columns(presence_probabilities(texts[0], present, texts[1], seed), config.threshold)


def prediction_columns(probabilities: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the prediction columns of probabilities [N, C]."""
    import numpy as np

    return {
        "predicted": (probabilities >= threshold).astype(np.uint8),
        "probabilities": probabilities.astype(np.float32),
    }


class MultiLabelClassification(EncodedTexts, Task):
    """The contract's methods for any number of labels per text."""

    name = "multi_label_classification"
    fields = FIELDS
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = (
        Metric("micro_f1", micro_f1),
        Metric("macro_f1", macro_f1),
        Metric("accuracy", accuracy, per_row=exact),
        Metric("mcc", mcc),
        Metric("auroc", auroc),
        Metric("ece", ece, greater_is_better=False),
        Metric("log_loss", log_loss, greater_is_better=False, per_row=row_log_loss),
    )
    headline = "micro_f1"
    worst = "log_loss"

    def gathered(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        def labels(watched: Iterator[Row]) -> dict[str, Any]:
            return {} if config.labels else {"labels": sorted({label for row in watched for label in row["labels"]})}

        return gathered_numbers(config.numeric_columns, rows, labels)

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        labels = list(config.labels or sorted({label for part in parts for label in part["labels"]}))
        if not labels:
            raise DataError("data/train: no row has a label; a classifier needs at least one")
        return {"labels": labels, **learnt_numbers(config.numeric_columns, parts)}

    def fields_of(self, config: Config) -> tuple[Field, ...]:
        return (*self.fields, *(Field(name, "number") for name in config.numeric_columns))

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        for label in row["labels"]:
            if label not in state["labels"]:
                yield RowProblem("labels", f"some of {listed(state['labels'])}", shown(label))
        if len(set(row["labels"])) < len(row["labels"]):
            yield RowProblem("labels", "each label once", shown(", ".join(row["labels"])))

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        columns = [
            ("token_type_ids", pa.list_(pa.int32())),
            ("features", pa.list_(pa.float64())),
            ("labels", pa.list_(pa.string())),
        ]
        return pa.schema(columns)

    def encode_columns(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> pa.RecordBatch:
        import pyarrow as pa

        columns = encode_texts(rows, tokenizer, max_length_tokens, config.numeric_columns)
        columns["labels"] = pa.array([row.get("labels") for row in rows], pa.list_(pa.string()))
        return as_batch(columns, self.encoded_schema())

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        labels = state["labels"]
        model, new_modules = load_with_head(
            "AutoModelForSequenceClassification",
            folder,
            self.families,
            problem_type="multi_label_classification",
            **label_names(labels),
            **kwargs,
        )
        return model, pool(model, config.pooling, family_of(model.config), len(labels), new_modules)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        import torch

        batch = collate_texts(rows, pad_token_id, state)
        if all(row.get("labels") is not None for row in rows):
            batch["labels"] = torch.from_numpy(presence(rows, state["labels"])).float()
        return batch

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        from torch.nn.functional import binary_cross_entropy_with_logits

        labels = batch["labels"]
        logits = self.outputs(config, model, batch)
        return binary_cross_entropy_with_logits(logits, labels, reduction="sum"), len(labels)

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return logits_of(model, batch).float()

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        from scipy.special import expit

        return prediction_columns(expit(outputs.astype("float64")), config.threshold)

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        truth = presence(rows, state["labels"]).astype(np.uint8)
        return {"reference": np.array(_names(truth, state["labels"]), dtype=object), "truth": truth}

    def judge(self, config: Config, table: Table, state: State) -> dict[str, np.ndarray]:
        return row_columns(table)

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"majority": majority, "tfidf": tfidf}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        labels = state["labels"]
        return [
            {
                "labels": [label for label, one in zip(labels, given, strict=True) if one],
                "scores": dict(zip(labels, map(float, probabilities), strict=True)),
            }
            for given, probabilities in zip(predictions["predicted"], predictions["probabilities"], strict=True)
        ]

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        import numpy as np

        truth, predicted = (table[name].astype(np.int64) for name in ("truth", "predicted"))
        hits, actual, given = (truth * predicted).sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0)
        return {"Per label": label_scores(state["labels"], hits, actual, given)}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        probabilities = table["probabilities"].astype("float64")
        rows, summed, present = (
            _by_bin(probabilities, values).sum(axis=0)
            for values in (probabilities * 0 + 1, probabilities, table["truth"].astype("float64"))
        )
        return {"reliability": reliability(rows, summed, present)}


def _names(marks: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Return the labels of each row of marks [N, C] as text; a row without any says so."""
    return [", ".join(label for label, one in zip(labels, row, strict=True) if one) or "(none)" for row in marks]


TASK = MultiLabelClassification()
