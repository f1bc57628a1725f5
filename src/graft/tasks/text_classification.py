"""One label per text (or pair of texts): a classification head on the base, softmax cross-entropy.

The base may be an encoder, a decoder or an encoder-decoder; :mod:`graft.pooling` says which states the head reads.
Several labels per text are a task of their own (``multi_label_classification``). Prediction table and metrics are those
of :mod:`graft.classification`.
"""

# ruff: noqa: ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from graft.classification import (
    METRICS,
    OneLabel,
    PinnedLabels,
    add_labels,
    cross_entropy,
    gathered_labels,
    label_names,
    label_problems,
    learnt_labels,
    majority,
    numbers_of,
    prediction_columns,
)
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
from graft.tfidf import joined, label_probabilities

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
    Field("label", "label", target=True),
)


class Config(TaskConfig):
    """Text classification: each row's ``text`` (and ``text_pair``, where there is one) has one ``label``."""

    name: Literal["text_classification"] = "text_classification"
    """The task: one label per text."""

    labels: PinnedLabels = None
    """The labels in their order; rows with another label are refused. Default: those of the training rows, sorted."""

    pooling: Pooling = "model"
    """What the head reads: ``model``, what suits the base (the first token of a BERT, the last token of a decoder);
    ``mean``, the mean of the hidden states, which suits sentence encoders; ``last``, the last token."""

    numeric_columns: tuple[str, ...] = ()
    """Number columns beside the text. They are standardised on the training rows; output adapters read them, other
    adapter methods do not."""

    @field_validator("numeric_columns")
    @classmethod
    def _check_numeric(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        return check_numeric(columns, [field.name for field in FIELDS])


def tfidf(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict by logistic regression on TF-IDF."""
    import numpy as np

    numbers = numbers_of(state["labels"])
    targets = np.array([numbers[row["label"]] for row in train_rows])
    if len(set(targets.tolist())) < 2:
        return majority(config, train_rows, test_rows, state, seed)
    texts = [joined(row) for row in train_rows], [joined(row) for row in test_rows]
    return prediction_columns(label_probabilities(texts[0], targets, texts[1], len(numbers), seed))


class TextClassification(OneLabel, EncodedTexts, Task):
    """The contract's methods for one label per text."""

    name = "text_classification"
    fields = FIELDS
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = tuple(Metric(**one) for one in METRICS)

    def gathered(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        return gathered_numbers(config.numeric_columns, rows, lambda watched: gathered_labels(config.labels, watched))

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"labels": learnt_labels(config.labels, parts), **learnt_numbers(config.numeric_columns, parts)}

    def fields_of(self, config: Config) -> tuple[Field, ...]:
        return (*self.fields, *(Field(name, "number") for name in config.numeric_columns))

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        return starmap(RowProblem, label_problems(row["label"], state["labels"]))

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        columns = [
            ("token_type_ids", pa.list_(pa.int32())),
            ("features", pa.list_(pa.float64())),
            ("label", pa.string()),
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
        columns["label"] = pa.array([row.get("label") for row in rows], pa.string())
        return as_batch(columns, self.encoded_schema())

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        labels = state["labels"]
        model, new_modules = load_with_head(
            "AutoModelForSequenceClassification",
            folder,
            self.families,
            problem_type="single_label_classification",
            **label_names(labels),
            **kwargs,
        )
        return model, pool(model, config.pooling, family_of(model.config), len(labels), new_modules)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        return add_labels(collate_texts(rows, pad_token_id, state), rows, state["labels"])

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return cross_entropy(self.outputs(config, model, batch), batch["labels"])

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return logits_of(model, batch).float()

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"majority": majority, "tfidf": tfidf}


TASK = TextClassification()
