"""One label per picture: a classification head on a vision model, softmax cross-entropy.

A token row has no tokens. It holds the picture in the base's size as bytes, and the three numbers that make them the
base's input; ``length`` counts patches. Prediction table and metrics are those of :mod:`graft.classification`.
"""

# ruff: noqa: ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal

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
from graft.pictures import converted, opened, png
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    Table = Mapping[str, np.ndarray]

BASELINE_SIDE = 28
"""Width and height of the pictures that the cheap predictor reads, in pixels."""


class Config(TaskConfig):
    """Image classification: each row's ``image`` has one ``label``."""

    name: Literal["image_classification"] = "image_classification"
    """The task: one label per picture."""

    labels: PinnedLabels = None
    """The labels in their order; rows with another label are refused. Default: those of the training rows, sorted."""


def logistic_regression(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict by logistic regression on the pixels of the pictures, made grey and 28 pixels wide and high."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    numbers = numbers_of(state["labels"])
    targets = np.array([numbers[row["label"]] for row in train_rows])
    if len(set(targets.tolist())) < 2:
        return majority(config, train_rows, test_rows, state, seed)
    model = LogisticRegression(max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops early, which is no error
        model.fit(_grey(train_rows), targets)
    probabilities = np.zeros((len(test_rows), len(numbers)))
    probabilities[:, model.classes_] = model.predict_proba(_grey(test_rows))
    return prediction_columns(probabilities)


def _grey(rows: Sequence[Row]) -> np.ndarray:
    """Return the grey pixels of each row's picture, 0 to 1: float64 [N, 784]."""
    import numpy as np

    size = BASELINE_SIDE, BASELINE_SIDE
    pictures = (converted(opened(row["image"]), "L").resize(size) for row in rows)
    return np.stack([np.asarray(picture, dtype=np.float64).ravel() for picture in pictures]) / 255


class ImageClassification(OneLabel, Task):
    """The contract's methods for one label per picture."""

    name = "image_classification"
    fields = (Field("image", "image"), Field("label", "label", target=True))
    families = ("vision",)
    processor = "image"
    content = "pixels"
    metrics = tuple(Metric(**one) for one in METRICS)

    def gathered(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        return gathered_labels(config.labels, rows)

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"labels": learnt_labels(config.labels, parts)}

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        return starmap(RowProblem, label_problems(row["label"], state["labels"]))

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                ("pixels", pa.binary()),  # uint8 [C, H, W]
                ("shape", pa.list_(pa.int32())),
                ("rescale_factor", pa.float64()),
                ("image_mean", pa.list_(pa.float64())),
                ("image_std", pa.list_(pa.float64())),
                ("label", pa.string()),
            ]
        )

    def encode(
        self, config: Config, rows: Sequence[Row], tokenizer: Any, max_length_tokens: int
    ) -> list[dict[str, Any]]:
        normal = {name: getattr(tokenizer, name) for name in ("rescale_factor", "image_mean", "image_std")}
        encoded = []
        for row in rows:
            pixels = tokenizer.pixels(row["image"])
            encoded.append(
                {
                    "input_ids": [],
                    "length": tokenizer.patches,
                    "untruncated_length": tokenizer.patches,
                    "pixels": pixels.tobytes(),
                    "shape": pixels.shape,
                    **normal,
                    "label": row.get("label"),
                }
            )
        return encoded

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        return load_with_head(
            "AutoModelForImageClassification",
            folder,
            self.families,
            problem_type="single_label_classification",
            **label_names(state["labels"]),
            **kwargs,
        )

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        import numpy as np
        import torch

        pictures = torch.from_numpy(np.stack([_pixel_values(row) for row in rows]))
        return add_labels({"pixel_values": pictures}, rows, state["labels"])

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return cross_entropy(self.outputs(config, model, batch), batch["labels"])

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = model(pixel_values=batch["pixel_values"]).logits
        return logits.float()

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"majority": majority, "logistic_regression": logistic_regression}

    def example(self, config: Config, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        from PIL import Image

        picture = Image.fromarray(processor.picture(probe["pixel_values"][0]))
        return {"image": base64.b64encode(png(picture)).decode("ascii")}


def _pixel_values(row: Mapping[str, Any]) -> np.ndarray:
    """Return the base's input: float32 [C, H, W], rounded as transformers does (scale, then normal form)."""
    import numpy as np

    pixels = np.frombuffer(row["pixels"], dtype=np.uint8).reshape(row["shape"])
    scaled = (pixels.astype(np.float64) * row["rescale_factor"]).astype(np.float32)
    mean, std = (np.array(row[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("image_mean", "image_std"))
    values: np.ndarray = (scaled - mean) / std
    return values


TASK = ImageClassification()
