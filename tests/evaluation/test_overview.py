"""The short table, from metrics.json alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from graft.evaluation import format_table, summary


def metrics() -> dict[str, Any]:
    def cell(value: float | None) -> dict[str, float | None]:
        return {
            "value": value,
            "low": None if value is None else value - 0.1,
            "high": None if value is None else value + 0.1,
        }

    return {
        "headline": "f1",
        "metrics": ["f1", "accuracy"],
        "smaller_is_better": [],
        "confidence": 0.95,
        "test": {"rows": 3, "digest": "x"},
        "zero_shot": {"accuracy": cell(0.4), "f1": cell(None)},
        "adapter": {"accuracy": cell(0.8), "f1": cell(0.7)},
        "base": {"accuracy": cell(0.5), "f1": cell(0.3)},
        "majority": {"accuracy": cell(0.2), "f1": cell(0.1)},
    }


def test_summary_is_in_reading_order() -> None:
    rows = summary(metrics())
    assert [row.system for row in rows] == ["base", "adapter", "majority", "zero_shot"]
    assert [row.label for row in rows] == ["base (adapter off)", "adapter", "majority class", "zero shot"]
    assert list(rows[1].metrics) == ["f1", "accuracy"]  # the task's order, not the file's
    assert rows[1].metrics["f1"] == pytest.approx((0.7, 0.6, 0.8))


def test_table_is_aligned_and_shows_what_is_not_defined() -> None:
    assert format_table(summary(metrics())).splitlines() == [
        "system              f1                    accuracy",
        "base (adapter off)  0.300 [0.200, 0.400]  0.500 [0.400, 0.600]",
        "adapter             0.700 [0.600, 0.800]  0.800 [0.700, 0.900]",
        "majority class      0.100 [0.000, 0.200]  0.200 [0.100, 0.300]",
        "zero shot           n/a                   0.400 [0.300, 0.500]",
    ]


def test_columns_keeps_the_first_metrics() -> None:
    assert format_table(summary(metrics()), columns=1).splitlines()[1] == "base (adapter off)  0.300 [0.200, 0.400]"


def test_summary_needs_no_heavy_import() -> None:
    heavy = ("numpy", "scipy", "torch", "pyarrow", "jinja2", "matplotlib")
    code = f"import sys, graft.evaluation, graft.promotion; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
