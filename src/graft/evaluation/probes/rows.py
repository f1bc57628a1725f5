"""What several probes need of test rows: a seeded sample of them, each row's score, their text fields."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.tasks import Field, Metric, Task

if TYPE_CHECKING:
    import numpy as np

    Table = Mapping[str, np.ndarray]


def sample(total: int, rows: int, seed: int, name: str) -> list[int]:
    """Return which of ``total`` rows a probe asks about: at most ``rows``, in their order; ``name`` is the probe's."""
    return sorted(random.Random(f"{seed}:{name}").sample(range(total), min(rows, total)))


def row_metric(task: Task) -> Metric:
    """Return the metric that scores single rows: the one that ranks errors in the report."""
    return task.metric(task.worst or task.headline)


def row_scores(task: Task, table: Table) -> np.ndarray:
    """Return each row's score by :func:`row_metric`: float64 [N], greater is better.

    A metric without row scores is taken of each row alone.
    """
    import numpy as np

    metric = row_metric(task)
    if metric.per_row is not None:
        scores = np.asarray(metric.per_row(table), dtype=np.float64)
    else:
        rows = range(len(table["row"]))
        alone = ({name: column[[row]] for name, column in table.items()} for row in rows)
        scores = np.fromiter((metric.function(one) for one in alone), np.float64, len(rows))
    return scores if metric.greater_is_better else -scores


def asked_texts(task: Task, config: Any) -> list[Field]:
    """Return the text fields that a probe may change: read by the model, no answer, and none stands inside them."""
    fields = task.fields_of(config)
    if not any(field.target for field in fields):
        return []
    held = {field.within for field in fields}
    return [
        field
        for field in fields
        if field.text and not field.target and field.name not in held and (field.type == "string" or field.words)
    ]


def no_texts(task: Task) -> str:
    """Return why a task has no text that a probe may change."""
    if task.processor == "image":
        return "rows are pictures"
    if not any(field.target for field in task.fields):
        return "rows are their own answer: a changed text would be another question"
    return "rows have no field of text that stands for itself"


def score_metric(name: str = "score") -> Metric:
    """Return the mean of a table's column ``name`` as a metric, for intervals and paired tests."""

    def mean(table: Table) -> float:
        return float(table[name].mean())

    def column(table: Table) -> np.ndarray:
        return table[name]

    return Metric("score", mean, per_row=column)


def picked(table: Table, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a table, by number or by truth."""
    import numpy as np

    index = np.asarray(rows)
    return {name: column[index] for name, column in table.items()}
