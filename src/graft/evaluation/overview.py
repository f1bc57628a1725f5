"""The short table at the end of a run: systems against metrics, from metrics.json alone, so that it costs no import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIRST = ("base", "adapter")
LABELS = {
    "adapter": "adapter",
    "base": "base (adapter off)",
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
}
NOT_DEFINED = "n/a"


@dataclass(frozen=True)
class Row:
    """One system's line. ``metrics``: name -> (value, low, high), None where the metric is not defined."""

    system: str
    label: str
    metrics: Mapping[str, tuple[float | None, float | None, float | None]]


def summary(metrics: Mapping[str, Any]) -> list[Row]:
    """Return the lines of a metrics.json: base, adapter, then the baselines by name; metrics in the task's order."""
    return [
        Row(
            system,
            label(system),
            {name: _values(metrics[system].get(name)) for name in metrics["metrics"]},
        )
        for system in systems(metrics)
    ]


def _values(cell: Mapping[str, float | None] | None) -> tuple[float | None, float | None, float | None]:
    """Return a cell's value and interval; a system need not have every metric."""
    return (cell["value"], cell["low"], cell["high"]) if cell else (None, None, None)


def systems(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the scored systems: those entries of a metrics.json that map metrics to values."""
    found = [name for name, entry in metrics.items() if _is_system(entry)]
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def label(system: str) -> str:
    """Return what a system is called in tables."""
    return LABELS.get(system, system.replace("_", " "))


def format_table(rows: Sequence[Row], *, columns: int | None = None) -> str:
    """Return the table as plain text, aligned; ``columns`` keeps the first metrics only."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))[:columns]
    lines = [[row.label, *(format_cell(*row.metrics.get(name, (None, None, None))) for name in names)] for row in rows]
    return "\n".join(_aligned([["system", *names], *lines]))


def format_cell(value: float | None, low: float | None, high: float | None) -> str:
    """Return ``0.745 [0.712, 0.776]``."""
    if value is None:
        return NOT_DEFINED
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _is_system(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and bool(entry)
        and all(isinstance(cell, Mapping) and cell.keys() >= {"value", "low", "high"} for cell in entry.values())
    )


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
