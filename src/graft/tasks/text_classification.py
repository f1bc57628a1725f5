"""One label per text (or pair of texts): a classification head on the base, softmax cross-entropy.

Prediction table and metrics are those of :mod:`graft.classification`.
"""

# ruff: noqa: ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from graft.classification import (
    CONFUSION,
    accuracy,
    answers_of,
    check_pinned,
    correct,
    ece,
    labels_of,
    listed,
    log_loss,
    macro_f1,
    majority,
    mcc,
    per_label,
    plot_rows,
    prediction_columns,
    probabilities_of,
    row_log_loss,
)
from graft.errors import shown
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
        return check_pinned(labels)


# -- cheap predictors


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
    return prediction_columns(probabilities)


def _joined(row: Row) -> str:
    return f"{row['text']}\n{row['text_pair']}" if row.get("text_pair") else str(row["text"])


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
        return {"labels": labels_of(rows)}

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if row["label"] not in state["labels"]:
            yield RowProblem("label", f"one of {listed(state['labels'])}", shown(row["label"]))

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
        return probabilities_of(outputs)

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        return {"reference": np.array([row["label"] for row in rows], dtype=np.int32)}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"majority": majority, "tfidf": tfidf}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        return answers_of(predictions, state["labels"])

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"Per label": per_label(table, state["labels"])}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return plot_rows(table, state["labels"])


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
