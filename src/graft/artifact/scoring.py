"""Rows in, answers out: the one way in which validation during training, ``graft predict`` and serving use a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.data import cleaned_as, typed
from graft.errors import DataError
from graft.tasks import Field, State, Task, TaskConfig, length_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from graft.artifact.loading import LoadedAdapter


def raw_outputs(
    model: nn.Module,
    task: Task,
    config: TaskConfig,
    state: State,
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    batch_rows: int,
    device: str,
) -> np.ndarray:
    """Return the task's outputs of token rows in their order: float32 [N, C], or [N, W, ...] filled up with NaN.

    Batches are made of rows of like length, since every padded position is computed; the model keeps its mode.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda index: length_of(rows[index]))
    found: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_rows):
            chosen = [rows[index] for index in order[start : start + batch_rows]]
            batch = {name: value.to(device) for name, value in task.collate(chosen, pad_token_id, state).items()}
            found.append(task.outputs(config, model, batch).float().cpu().numpy())
    return _together(found, order)


def _together(batches: Sequence[np.ndarray], order: Sequence[int]) -> np.ndarray:
    """Return the batches' rows in their own order; narrower batches are filled up with NaN."""
    import numpy as np

    shape = [max(sizes) for sizes in zip(*(one.shape[1:] for one in batches), strict=True)]
    result: np.ndarray = np.full((len(order), *shape), np.nan, dtype=np.float32)
    start = 0
    for one in batches:
        place: tuple[Any, ...] = (list(order[start : start + len(one)]), *(slice(size) for size in one.shape[1:]))
        result[place] = one
        start += len(one)
    return result


def answer_columns(
    model: nn.Module,
    task: Task,
    config: TaskConfig,
    state: State,
    rows: Sequence[Mapping[str, Any]],
    *,
    processor: Any,
    pad_token_id: int,
    batch_rows: int,
    device: str,
) -> dict[str, np.ndarray]:
    """Return references and predictions of token rows with their targets: a row's are its own, whatever the others.

    Text is generated where a metric reads it and a ``processor`` is given; validation in training gives none.
    """
    import numpy as np

    outputs = raw_outputs(
        model, task, config, state, rows, pad_token_id=pad_token_id, batch_rows=batch_rows, device=device
    )
    table = {**task.references(rows, state), **task.predicted(config, outputs, rows, state)}
    if processor is not None and any(metric.generated for metric in task.metrics):
        table["prediction"] = np.array(task.generate(config, model, rows, processor, pad_token_id), dtype=object)
    return table


def judged(task: Task, config: TaskConfig, state: State, table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``table``, which is to hold all rows, with what :meth:`Task.judge` makes of it."""
    return {**table, **task.judge(config, table, state)}


def predict(
    loaded: LoadedAdapter,
    rows: Sequence[Mapping[str, Any]],
    batch_rows: int = 64,
    on_ready: Callable[[int, Mapping[str, Any], Mapping[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one answer per raw row (``{"text": ...}``, by task field or by the columns of the training files).

    Text is cleaned as it was for training, and cut at the same length.

    Args:
        loaded: The adapter on its base.
        rows: What is asked.
        batch_rows: Rows per forward pass.
        on_ready: Called with the number of each row from 0, its typed fields, and the same cleaned.

    Raises:
        DataError: a row lacks a field or has another type in it; the message numbers rows from 1.
    """
    import numpy as np

    if not rows:
        return []
    task, config, state = loaded.task, loaded.config, loaded.state
    fields = [field for field in task.fields_of(config) if not field.target]
    given = [_row(loaded, fields, row, number) for number, row in enumerate(rows, start=1)]
    ready = [cleaned_as(loaded.identity, row, fields) for row in given]
    if on_ready:
        for number, pair in enumerate(zip(given, ready, strict=True)):
            on_ready(number, *pair)
    encoded = task.encode(config, ready, loaded.processor, loaded.identity["max_length_tokens"])
    if task.generates:
        texts = task.generate(config, loaded.model, encoded, loaded.processor, loaded.pad_token_id)
        return task.answers({"prediction": np.array(texts, dtype=object)}, state)
    outputs = raw_outputs(
        loaded.model,
        task,
        config,
        state,
        encoded,
        pad_token_id=loaded.pad_token_id,
        batch_rows=batch_rows,
        device=loaded.device,
    )
    return task.answers(task.predicted(config, outputs, encoded, state), state)


def _row(loaded: LoadedAdapter, fields: Sequence[Field], row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the fields that the task reads, typed; what is to be predicted is left out."""
    columns: Mapping[str, str] = loaded.identity["columns"]
    result: dict[str, Any] = {}
    for field in fields:
        column = columns.get(field.name, field.name)
        value = row.get(column, row.get(field.name))
        if value is None and field.required:
            raise DataError(f"row {number}: {column}: missing; a row needs {_needed(loaded)}")
        result[field.name] = typed(field, value, f"row {number}: {column}")
    return result


def _needed(loaded: LoadedAdapter) -> str:
    columns: Mapping[str, str] = loaded.identity["columns"]
    fields = [one for one in loaded.task.fields_of(loaded.config) if one.required and not one.target]
    return ", ".join(columns.get(field.name, field.name) for field in fields)
