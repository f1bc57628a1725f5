"""Metric lines of a training, from file to MLflow, each (key, step) once.

MLflow appends: a replayed batch doubles every point of it, and a resumed training repeats the steps since its
checkpoint. So a writer first reads back which steps each metric has, and reads again after every failed call, since
a request that timed out may have been carried out. Reading costs one call per metric, once per attachment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.tracking.server import Connection, now_ms

if TYPE_CHECKING:
    from mlflow.entities import Metric

Line = Mapping[str, Any]
NOT_CURVES = ("step", "seconds")
BATCH_METRICS = 1000
"""MLflow's limit of metrics in one call."""


class Tail:
    """Reads the complete lines that were appended to a file since the last time.

    Training cuts the file back to the checkpoint it resumes from; a file that is shorter, or that no longer holds
    what was read last, is read from its start again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._last = b""

    def read(self) -> list[dict[str, Any]]:
        """Return the new lines; none where the file is not there (yet)."""
        try:
            with self.path.open("rb") as file:
                if not self._continues(file.seek(0, 2), file):
                    self._offset, self._last = 0, b""
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        if complete:
            self._offset += len(complete)
            self._last = complete[-64:]
        return list(_parsed(complete))

    def _continues(self, size: int, file: Any) -> bool:
        if size < self._offset:
            return False
        file.seek(self._offset - len(self._last))
        return bool(file.read(len(self._last)) == self._last)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a metrics.jsonl."""
    return Tail(path).read()


def points_of(line: Line) -> Iterator[tuple[str, float]]:
    """Yield what of a line is a point of a curve: its name and its value."""
    for name, value in line.items():
        if name not in NOT_CURVES and not isinstance(value, bool) and isinstance(value, int | float):
            yield name, value


def _parsed(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # a torn line of a killed process: the resumed training writes that step again
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            yield value


class Curves:
    """Writes metric lines to one run, each (key, step) once."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._client = connection.client
        self._run_id = run_id
        self._written: dict[str, set[int]] | None = None

    def write(self, lines: Iterable[Line], started_ms: int | None = None) -> int:
        """Write the points that the run does not have; return how many they were.

        ``started_ms``: when step 0 was, to place points of a finished training by their ``seconds``; now otherwise.
        """
        written = self._written if self._written is not None else self._read_back()
        self._written = None  # read back again unless everything below succeeds
        new = list(_new_points(lines, written, started_ms))
        for start in range(0, len(new), BATCH_METRICS):
            self._client.log_batch(self._run_id, metrics=new[start : start + BATCH_METRICS], synchronous=True)
        self._written = written
        return len(new)

    def write_values(self, values: Mapping[str, float]) -> int:
        """Write results that have no step (test scores): a changed value is a new point, an equal one is not."""
        from mlflow.entities import Metric

        last = self._client.get_run(self._run_id).data.metrics
        changed = {key: _finite(value) for key, value in values.items() if last.get(key) != _finite(value)}
        steps = {key: self._next_step(key) if key in last else 0 for key in changed}
        now = now_ms()
        new = [Metric(key, value, now, steps[key]) for key, value in changed.items()]
        for start in range(0, len(new), BATCH_METRICS):
            self._client.log_batch(self._run_id, metrics=new[start : start + BATCH_METRICS], synchronous=True)
        return len(new)

    def _next_step(self, key: str) -> int:
        return 1 + max(int(point.step) for point in self._client.get_metric_history(self._run_id, key))

    def _read_back(self) -> dict[str, set[int]]:
        keys = self._client.get_run(self._run_id).data.metrics
        return {key: {point.step for point in self._client.get_metric_history(self._run_id, key)} for key in keys}


def _new_points(lines: Iterable[Line], written: dict[str, set[int]], started_ms: int | None) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for line in lines:
        step = int(line["step"])
        seconds = line.get("seconds")
        at = now_ms() if started_ms is None or seconds is None else started_ms + int(1000 * seconds)
        for key, value in points_of(line):
            steps = written.setdefault(key, set())
            if step not in steps:
                steps.add(step)
                yield Metric(key, _finite(value), at, step)


def _finite(value: float) -> float:
    """MLflow stores infinity as 1.8e308, a number that was never measured; NaN is kept as NaN."""
    return float(value) if math.isfinite(value) else math.nan
