"""Cost: bytes and parameters against the files, energy against written counters, and that timings stay outside."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from graft.evaluation import cost
from graft.evaluation.energy import Meter
from graft.workspace import Workspace, read_json


def package(folder: Path, number: int, microjoules: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text("1000000000\n")
    return path


def test_processor_energy_is_the_sum_of_packages_and_counters_begin_again(tmp_path: Path) -> None:
    package(tmp_path, 0, 5_000_000)
    package(tmp_path, 1, 999_000_000)
    part = tmp_path / "intel-rapl:0:0"
    part.mkdir()
    (part / "energy_uj").write_text("7\n")
    meter = Meter("cpu", tmp_path)
    package(tmp_path, 0, 8_500_000)
    package(tmp_path, 1, 1_000_000)
    (part / "energy_uj").write_text("9999999\n")
    assert meter.joules() == {"processor": 3.5 + 2.0}


def test_what_cannot_be_read_is_not_there(tmp_path: Path) -> None:
    assert Meter("cpu", tmp_path / "nothing").joules() == {}
    (package(tmp_path, 0, 1) / "energy_uj").write_text("not a number")
    assert Meter("cpu", tmp_path).joules() == {}


def test_gpu_energy_is_nvmls_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter((1_000, 43_500))
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert Meter("cuda", tmp_path).joules() == {"gpu": 42.5}


def test_lines_say_what_was_measured_and_what_was_not() -> None:
    given = {
        "batch_rows": 64,
        "throughput": {"rows": 605, "seconds": 5.0, "rows_per_second": 121.0, "joules": {}},
        "latency": {"rows": 50, "p50_seconds": 0.0123, "p95_seconds": 0.02},
        "hardware": {"processor": "A processor", "threads": 2, "torch": "2.13.0"},
    }
    found = dict(cost.lines(given, {"seconds": 61.2, "tokens": 1000, "device": "cuda"}))
    assert found["one row at a time, 50 rows"] == "12.3 ms median, 20.0 ms for 95 % of them"
    assert found["energy for 605 rows"] == "not readable here"
    assert found["training"] == "61 GPU seconds, 1000 tokens"
    given["throughput"]["joules"] = {"processor": 41.25}
    assert dict(cost.lines(given))["energy for 605 rows"] == "41.2 J (processor, all that ran on it)"


def test_timings_stay_beside_the_results(evaluated: Workspace) -> None:
    timed = read_json(evaluated.cost / "cost.json")
    assert timed["throughput"]["rows"] == 15
    assert 0 < timed["latency"]["p50_seconds"] <= timed["latency"]["p95_seconds"]
    metrics = read_json(evaluated.evaluation / "metrics.json")["cost"]
    weights = load_file(evaluated.adapter / "adapter_model.safetensors")
    assert metrics["adapter_parameters"] == sum(int(np.prod(one.shape)) for one in weights.values())
    assert metrics["adapter_bytes"] == (evaluated.adapter / "adapter_model.safetensors").stat().st_size
    report = (evaluated.evaluation / "report.html").read_text()
    assert f"{metrics['adapter_bytes']:,}" in report
    assert "rows per second" not in report
