"""Rows in, answers out: the one way in which validation during training, ``graft predict`` and serving use a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.data import clean
from graft.errors import DataError, shown
from graft.tasks import Field, Task

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from graft.artifact.loading import LoadedAdapter


def raw_outputs(
    model: nn.Module,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    batch_rows: int,
    device: str,
) -> np.ndarray:
    """Return the task's outputs of token rows in their order: float32 [N, C].

    Batches are made of rows of like length, since every padded position is computed; the model keeps its mode.
    """
    import numpy as np
    import torch

    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    found: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_rows):
            chosen = [rows[index] for index in order[start : start + batch_rows]]
            batch = {name: value.to(device) for name, value in task.collate(chosen, pad_token_id).items()}
            found.append(task.outputs(model, batch).float().cpu().numpy())
    result: np.ndarray = np.concatenate(found)[np.argsort(order)]
    return result


def predict(loaded: LoadedAdapter, rows: Sequence[Mapping[str, Any]], batch_rows: int = 64) -> list[dict[str, Any]]:
    """Return one answer per raw row (``{"text": ...}``, by task field or by the columns of the training files).

    Text is cleaned as it was for training, and cut at the same length.

    Raises:
        DataError: a row lacks a field or has another type in it; the message numbers rows from 1.
    """
    if not rows:
        return []
    ready = [_row(loaded, row, number) for number, row in enumerate(rows, start=1)]
    limit = loaded.identity["max_length_tokens"]
    encoded = loaded.task.encode(loaded.config, ready, loaded.tokenizer, loaded.state, limit)
    outputs = raw_outputs(
        loaded.model,
        loaded.task,
        encoded,
        pad_token_id=loaded.pad_token_id,
        batch_rows=batch_rows,
        device=loaded.device,
    )
    return loaded.task.answers(loaded.task.predictions(loaded.config, outputs, loaded.state), loaded.state)


def _row(loaded: LoadedAdapter, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the fields that the task reads, cleaned; what is to be predicted (a label) is left out."""
    columns: Mapping[str, str] = loaded.identity["columns"]
    result: dict[str, Any] = {}
    for field in loaded.task.fields:
        if field.type == "label":
            continue
        column = columns.get(field.name, field.name)
        value = row.get(column, row.get(field.name))
        if value is None and field.required:
            raise DataError(f"row {number}: {column}: missing; a row needs {_needed(loaded)}")
        if field.text and value is not None:
            value = _cleaned(value, field, loaded.identity["clean"], f"row {number}: {column}")
        result[field.name] = value
    return result


def _cleaned(value: Any, field: Field, steps: Sequence[str], place: str) -> Any:
    if field.type == "string" and isinstance(value, str):
        return clean(value, steps)
    if field.type == "strings" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [clean(one, steps) for one in value]
    wanted = "a text" if field.type == "string" else "a list of texts"
    raise DataError(f"{place}: expected {wanted}, found {shown(value)}")


def _needed(loaded: LoadedAdapter) -> str:
    columns: Mapping[str, str] = loaded.identity["columns"]
    fields = [field for field in loaded.task.fields if field.required and field.type != "label"]
    return ", ".join(columns.get(field.name, field.name) for field in fields)
