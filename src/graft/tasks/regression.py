"""A number per text (or pair of texts): mean squared error on a standardised target.

The target is standardised with the mean and the spread of the training rows, so that one learning rate suits any unit;
predictions are in the unit of the data. The table has ``reference`` and ``prediction`` (float64 [N]).

Pairs can be read in two ways. ``cross``: both texts in one sequence, a head on its states; the base sees how their
words relate. ``bi``: each text alone, and the cosine of their pooled states on a line that is learnt; what a sentence
encoder was trained for, so that its similarities are good before any training.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from graft.errors import DataError
from graft.pooling import Pooling, pool, pool_pairs
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, family_of, load_with_head
from graft.text_inputs import (
    NUMERIC,
    EncodedTexts,
    Moments,
    as_batch,
    check_numeric,
    collate_texts,
    encode_apart,
    encode_texts,
    gathered_numbers,
    logits_of,
    standardised,
)
from graft.tfidf import joined, ridge_values, similarity_values

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
    Field("target", "number", target=True),
)
TARGET = "target"
SCATTER = {
    "scatter": {
        "x": "reference",
        "y": {"artifacts/evaluation/plots/scatter.csv": "prediction"},
        "template": "scatter",
        "title": "Predicted against actual (test)",
    }
}


class Config(TaskConfig):
    """Regression: each row's ``text`` (and ``text_pair``, where there is one) has a number as its ``target``."""

    name: Literal["regression"] = "regression"
    """The task: a number per text."""

    pair: Literal["cross", "bi"] = "cross"
    """How a pair is read: ``cross``, as one sequence; ``bi``, each text alone, and the cosine of their states on a line
    that is learnt. ``bi`` suits similarity on a sentence encoder, and needs a pair in every row."""

    pooling: Pooling = "model"
    """What the head reads: ``model``, what suits the base (the first token of a BERT, the last token of a decoder; with
    ``pair: bi`` the mean of an encoder); ``mean``, the mean of the hidden states; ``last``, the last token."""

    numeric_columns: tuple[str, ...] = ()
    """Number columns beside the text. They are standardised on the training rows; output adapters read them, other
    adapter methods do not."""

    @field_validator("numeric_columns")
    @classmethod
    def _check_numeric(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        return check_numeric(columns, [field.name for field in FIELDS])


# -- metrics over a prediction table


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of two columns [N]; 0 where one of them does not vary, since it says nothing then."""
    import numpy as np

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    ours, theirs = one - one.mean(), other - other.mean()
    return float(ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


def pearson(table: Table) -> float:
    """Return Pearson's correlation of references and predictions."""
    return correlation(table["reference"], table["prediction"])


def spearman(table: Table) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties sharing theirs."""
    from scipy.stats import rankdata

    return correlation(rankdata(table["reference"]), rankdata(table["prediction"]))


def errors(table: Table) -> np.ndarray:
    """Return each row's absolute error, in the target's unit: float64 [N]."""
    distance: np.ndarray = abs(table["reference"] - table["prediction"])
    return distance


def rmse(table: Table) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float((errors(table) ** 2).mean() ** 0.5)


def mae(table: Table) -> float:
    """Return the mean absolute error, in the target's unit."""
    return float(errors(table).mean())


# -- cheap predictors


def mean(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict the mean of the training rows for every row."""
    import numpy as np

    return {"prediction": np.full(len(test_rows), state[TARGET]["mean"], dtype=np.float64)}


def tfidf(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict by TF-IDF: the cosine of the two texts where every row has two, ridge regression on the text else."""
    import numpy as np

    targets = np.array([row["target"] for row in train_rows], dtype=np.float64)
    if all(row.get("text_pair") for row in [*train_rows, *test_rows]):
        pairs = [[(row["text"], row["text_pair"]) for row in rows] for rows in (train_rows, test_rows)]
        return {"prediction": similarity_values(pairs[0], targets, pairs[1])}
    texts = [[joined(row) for row in rows] for rows in (train_rows, test_rows)]
    return {"prediction": ridge_values(texts[0], targets, texts[1])}


class Regression(EncodedTexts, Task):
    """The contract's methods for a number per text."""

    name = "regression"
    fields = FIELDS
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = (
        Metric("spearman", spearman),
        Metric("pearson", pearson),
        Metric("rmse", rmse, greater_is_better=False),
        Metric("mae", mae, greater_is_better=False, per_row=errors),
    )
    headline = "spearman"
    worst = "mae"
    curves = (SCATTER,)

    def gathered(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        return gathered_numbers((TARGET, *config.numeric_columns), rows)

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        moments = Moments.of_parts((TARGET, *config.numeric_columns), [part[NUMERIC] for part in parts])
        _, _, least, most = moments.columns[TARGET]
        if least >= most:
            raise DataError(
                "data/train: the targets are all equal or there are none; a regression needs different ones"
            )
        numeric = moments.state()
        target = {**numeric.pop(TARGET), "min": least, "max": most}
        return {TARGET: target} | ({NUMERIC: numeric} if numeric else {})

    def fields_of(self, config: Config) -> tuple[Field, ...]:
        return (*self.fields, *(Field(name, "number") for name in config.numeric_columns))

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if config.pair == "bi" and not row.get("text_pair"):
            yield RowProblem("text_pair", "a second text, since task.pair is bi", "nothing")

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        numbers = pa.list_(pa.int32())
        return pa.schema(
            [
                ("token_type_ids", numbers),
                ("windows", numbers),
                ("features", pa.list_(pa.float64())),
                ("target", pa.float64()),
            ]
        )

    def encode_columns(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> pa.RecordBatch:
        import pyarrow as pa

        for number, row in enumerate(rows, start=1):
            for problem in self.check_row(config, row, {}):
                raise DataError(f"row {number}: {problem.field}: expected {problem.expected}, found {problem.found}")
        encode = encode_apart if config.pair == "bi" else encode_texts
        columns = encode(rows, tokenizer, max_length_tokens, config.numeric_columns)
        targets = [None if row.get(TARGET) is None else float(row[TARGET]) for row in rows]
        columns |= {
            "windows": columns.get("windows", pa.nulls(len(rows), pa.list_(pa.int32()))),
            "target": pa.array(targets, pa.float64()),
        }
        return as_batch(columns, self.encoded_schema())

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        model, new_modules = load_with_head(
            "AutoModelForSequenceClassification",
            folder,
            self.families,
            num_labels=1,
            problem_type="regression",
            **kwargs,
        )
        family = family_of(model.config)
        if config.pair == "cross":
            return model, pool(model, config.pooling, family, 1, new_modules)
        target = state[TARGET]
        low, high = (standardised(target[end], target) for end in ("min", "max"))
        return model, pool_pairs(model, config.pooling, family, new_modules, weight=high - low, bias=low)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        import torch

        batch = collate_texts(rows, pad_token_id, state)
        if all(row.get(TARGET) is not None for row in rows):
            targets = [standardised(row[TARGET], state[TARGET]) for row in rows]
            batch["labels"] = torch.tensor(targets, dtype=torch.float32)
        return batch

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        from torch.nn.functional import mse_loss

        labels = batch["labels"]
        return mse_loss(self.outputs(config, model, batch)[:, 0], labels, reduction="sum"), labels.numel()

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return logits_of(model, batch).float()

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        return {"prediction": outputs[:, 0].astype("float64") * state[TARGET]["std"] + state[TARGET]["mean"]}

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        return {"reference": np.array([row["target"] for row in rows], dtype=np.float64)}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"mean": mean, "tfidf_regression": tfidf}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        return [{"value": float(value)} for value in predictions["prediction"]]

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        import numpy as np

        quarters = np.array_split(np.argsort(table["reference"], kind="stable"), 4)
        rows = [
            {
                "targets": f"{table['reference'][part[0]]:.4g} to {table['reference'][part[-1]]:.4g}",
                "mean error": float((table["prediction"][part] - table["reference"][part]).mean()),
                "mae": float(errors(table)[part].mean()),
                "support": len(part),
            }
            for part in quarters
            if len(part)
        ]
        return {"By quarter of the targets": rows}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        pairs = zip(table["reference"].tolist(), table["prediction"].tolist(), strict=True)
        return {"scatter": [{"reference": reference, "prediction": prediction} for reference, prediction in pairs]}


TASK = Regression()
