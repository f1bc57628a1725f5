"""What the adapter costs: bytes and parameters, and what a clock says of its answers.

Bytes and parameters are facts of the adapter and stand in metrics.json. Timed numbers differ from run to run, while the
outputs that later stages and other machines compare must not: so they go to ``artifacts/cost``, an output of evaluate
on which nothing depends (decision 21), and the report that is published has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import DataError
from graft.evaluation.energy import Meter
from graft.tasks import Metric

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from graft.artifact import LoadedAdapter

    Table = Mapping[str, np.ndarray]
    Asked = tuple[LoadedAdapter, Sequence[Mapping[str, Any]]]

FILE = "cost.json"
LATENCY_SECONDS = 3.0
"""Rows are asked one at a time for so long at most: generated answers take seconds each."""
WARM_UP_ROWS = 3
"""Answered before anything is measured: the first calls of a process pay for what later ones find ready."""
PASSES, PASS_SECONDS = 16, 0.5
"""How often energy is read of each of two adapters, and after how long: counters move every 1 to 100 ms."""


def facts(folder: Path) -> dict[str, int]:
    """Return ``adapter_bytes`` (its files of weights) and ``adapter_parameters`` (all numbers in them)."""
    from safetensors import safe_open

    from graft.artifact.files import PROBE

    files = sorted(path for path in folder.glob("*.safetensors") if path.name != PROBE)
    parameters = 0
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  (no mapping)
                count = 1
                for length in weights.get_slice(name).get_shape():
                    count *= length
                parameters += count
    return {"adapter_bytes": sum(path.stat().st_size for path in files), "adapter_parameters": parameters}


def timed(
    score: Callable[[], Mapping[str, np.ndarray]], device: str
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """Return what ``score`` returns, and seconds, rows per second and joules of it.

    Energy is of the whole processor package or card while it ran.
    """
    meter, begun = Meter(device), time.perf_counter()
    table = score()
    seconds = time.perf_counter() - begun
    rows = len(table["row"])
    return table, {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds, "joules": meter.joules()}


def latency(loaded: LoadedAdapter, tokens: pa.Table, rows: int) -> dict[str, Any]:
    """Return quantiles of the seconds that single rows take, one at a time, from tokens to an answer.

    Args:
        loaded: the adapter on its base, in the state it is to be timed in.
        tokens: token rows; those that are asked stand at equal distances in them.
        rows: how many are asked at most; fewer where ``LATENCY_SECONDS`` are over.
    """
    import numpy as np

    chosen = np.linspace(0, len(tokens) - 1, min(rows, len(tokens))).astype(int).tolist()
    asked = tokens.take(chosen).to_pylist()
    for row in asked[:WARM_UP_ROWS]:
        _answer(loaded, [row])
    seconds: list[float] = []
    for row in asked:
        begun = time.perf_counter()
        _answer(loaded, [row])
        seconds.append(time.perf_counter() - begun)
        if sum(seconds) > LATENCY_SECONDS:
            break
    p50, p95 = (float(value) for value in np.quantile(seconds, (0.5, 0.95)))
    return {"rows": len(seconds), "p50_seconds": p50, "p95_seconds": p95}


def _answer(loaded: LoadedAdapter, rows: Sequence[Mapping[str, Any]]) -> None:
    from graft.artifact import answer_columns

    answer_columns(
        loaded.model,
        loaded.task,
        loaded.config,
        loaded.state,
        rows,
        processor=loaded.processor,
        pad_token_id=loaded.pad_token_id,
        batch_rows=len(rows),
        device=loaded.device,
    )


@dataclass(frozen=True)
class Timed:
    """What a clock and a counter say of one of two adapters that were asked in turn."""

    milliseconds: np.ndarray
    """Of each row that was asked alone: float64 [N]."""
    joules_per_row: np.ndarray
    """Of each pass over all of them: float64 [PASSES]; empty where no counter can be read."""

    def table(self, what: str) -> Table | None:
        """Return ``row`` and ``what`` (``milliseconds``, ``joules_per_row``) as a table; None where there is none."""
        import numpy as np

        values: np.ndarray = getattr(self, what)
        return {"row": np.arange(len(values)), what: values} if len(values) else None


def _quantile(name: str, share: float) -> Metric:
    def quantile(table: Table) -> float:
        import numpy as np

        return float(np.quantile(table["milliseconds"], share))

    return Metric(name, quantile, greater_is_better=False)


TIMED: Mapping[str, tuple[Metric, str]] = {
    "latency_p50_ms": (_quantile("latency_p50_ms", 0.5), "milliseconds"),
    "latency_p95_ms": (_quantile("latency_p95_ms", 0.95), "milliseconds"),
    "joules_per_row": (
        Metric(
            "joules_per_row",
            lambda table: float(table["joules_per_row"].mean()),
            greater_is_better=False,
            per_row=lambda table: table["joules_per_row"],
        ),
        "joules_per_row",
    ),
}
"""What a gate may hold of :class:`Timed`: the metric, and the table that it is of."""


def check_hardware(there: Mapping[str, Any], device: str, threads: int) -> None:
    """Refuse to time adapters on another kind of machine than evaluate ran on, which a margin was chosen for.

    Raises:
        DataError: device, card or processor, or torch, is another one than in ``there`` (``hardware`` of cost.json).
    """
    from graft.hardware import hardware

    def said(one: Mapping[str, Any]) -> str:
        return f"{one.get('gpu') or one['processor']} ({one['threads']} threads, torch {one['torch']})"

    here = hardware(device, threads)
    if said(here) != said(there):
        raise DataError(
            f"timings of two machines cannot be compared: evaluate ran on {said(there)}, this is {said(here)}; decide "
            "there, or take the gate out"
        )


def side_by_side(one: Asked, other: Asked) -> tuple[Timed, Timed]:
    """Time two loaded adapters on their token rows of the same N test rows, in turn, so that both meet the same noise.

    Who is first changes from row to row. As for :func:`latency` it ends early where rows take long.
    """
    import numpy as np

    seconds: list[tuple[float, float]] = []
    for loaded, rows in (one, other):
        for row in rows[:WARM_UP_ROWS]:
            _answer(loaded, [row])
    for number in range(len(one[1])):
        taken = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            loaded, rows = (one, other)[place]
            begun = time.perf_counter()
            _answer(loaded, [rows[number]])
            taken[place] = time.perf_counter() - begun
        seconds.append((taken[0], taken[1]))
        if sum(map(sum, seconds)) > 2 * LATENCY_SECONDS:
            break
    milliseconds = 1000 * np.array(seconds)
    joules = _joules(one, other)
    return Timed(milliseconds[:, 0], joules[:, 0]), Timed(milliseconds[:, 1], joules[:, 1])


def _joules(one: Asked, other: Asked) -> np.ndarray:
    """Return joules per row of each pass of both, in turn: float64 [PASSES, 2]; [0, 2] where nothing can be read."""
    import numpy as np

    found: list[list[float]] = []
    for _ in range(PASSES if Meter(one[0].device).joules() else 0):
        used = []
        for loaded, rows in (one, other):
            meter, begun, answered = Meter(loaded.device), time.perf_counter(), 0
            while time.perf_counter() - begun < PASS_SECONDS:
                _answer(loaded, rows)
                answered += len(rows)
            used.append(sum(meter.joules().values()) / answered)
        found.append(used)
    return np.array(found).reshape(-1, 2)


def lines(cost: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return what was timed, for people: name and value.

    Args:
        cost: the content of ``artifacts/cost/cost.json``.
        training: that of ``artifacts/training/summary.json``, where it is of this adapter.
    """
    found: list[tuple[str, str]] = []
    if one := cost.get("latency"):
        found.append(
            (
                f"one row at a time, {one['rows']} rows",
                f"{1000 * one['p50_seconds']:.1f} ms median, {1000 * one['p95_seconds']:.1f} ms for 95 % of them",
            )
        )
    batches = cost["throughput"]
    found.append((f"in batches of {cost['batch_rows']} rows", f"{batches['rows_per_second']:.1f} rows per second"))
    found.append((f"energy for {batches['rows']} rows", _energy(batches["joules"])))
    if training:
        unit = "GPU seconds" if training.get("device") == "cuda" else "seconds on the processor"
        found.append(("training", f"{training['seconds']:.0f} {unit}, {training['tokens']} tokens"))
    on = cost["hardware"]
    found.append(("measured on", f"{on.get('gpu') or on['processor']}, {on['threads']} threads, torch {on['torch']}"))
    return found


def _energy(joules: Mapping[str, float]) -> str:
    if not joules:
        return "not readable here"
    return ", ".join(f"{value:.1f} J ({name}, all that ran on it)" for name, value in joules.items())
