"""Labels that an adapter was not trained on: it is asked all the same, and never gives one.

A label that is new since the champion was trained would otherwise keep every candidate that learnt it from being
compared with it. To leave such rows out would hide what the candidate gained. So the champion's scores get a column for
each such label, far below all others: it is wrong on these rows, as it is for its users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np

    from graft.artifact import LoadedAdapter
    from graft.tasks import Task

KEYS = ("labels", "tags")
"""Where a task's state has its labels, in the order of the model's scores."""
BELOW = 100.0
"""By how much a new label's score is below the lowest one: its probability is 0 in float32."""


class Widened:
    """A task, whose model has no scores for the last of its labels."""

    def __init__(self, task: Task, unknown: int) -> None:
        self._task, self._unknown = task, unknown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def predicted(
        self, config: Any, outputs: np.ndarray, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Return the task's prediction columns of ``outputs`` [N, ..., C] and ``unknown`` columns more."""
        import numpy as np

        lowest = outputs.min(axis=-1, keepdims=True) - BELOW
        wide = np.concatenate([outputs, np.repeat(lowest, self._unknown, axis=-1)], axis=-1)
        return self._task.predicted(config, wide, rows, state)


def widened(loaded: LoadedAdapter, state: Mapping[str, Any]) -> tuple[LoadedAdapter, tuple[str, ...]]:
    """Return an adapter that knows of the labels in ``state``, and those of them that it was not trained on."""
    for key in KEYS:
        own = loaded.state.get(key)
        if own and (new := tuple(label for label in state.get(key, ()) if label not in own)):
            task = cast("Task", Widened(loaded.task, len(new)))
            return replace(loaded, task=task, state={**loaded.state, key: [*own, *new]}), new
    return loaded, ()
