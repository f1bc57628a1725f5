"""Cost: bytes and parameters against the files, energy against written counters, and that timings stay outside."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from graft import artifact
from graft.errors import DataError
from graft.evaluation import cost
from graft.evaluation.energy import Meter
from graft.evaluation.intervals import Drawn
from graft.promotion.gates import Measured, passes
from graft.tokenization import read_tokens
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


class Clock:
    """A clock that only models move, and a counter of energy that moves with it."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def timed(evaluated: Workspace, monkeypatch: pytest.MonkeyPatch, readable: bool) -> tuple[cost.Timed, cost.Timed]:
    """Time two loads of one adapter; a pass of the first takes 5 ms, of the second 3 ms, and every fifth one 9 ms."""
    clock, rows = Clock(), read_tokens(evaluated.tokens, "test").to_pylist()
    monkeypatch.setattr(cost, "time", clock)
    both = [artifact.load(evaluated.adapter, evaluated.root) for _ in range(2)]
    for loaded, seconds in zip(both, (0.005, 0.003), strict=True):
        calls = iter(range(1, 1_000_000))

        def tick(*_: object, calls: object = calls, seconds: float = seconds) -> None:
            clock.now += 0.009 if next(calls) % 5 == 0 and seconds == 0.003 else seconds  # type: ignore[call-overload]

        loaded.model.register_forward_pre_hook(tick)

    class Counter:
        def __init__(self, device: str) -> None:
            self.begun = clock.now

        def joules(self) -> dict[str, float]:
            return {"processor": 100 * (clock.now - self.begun)} if readable else {}

    monkeypatch.setattr(cost, "Meter", Counter)
    return cost.side_by_side((both[0], rows), (both[1], rows))


@pytest.mark.slow
def test_two_adapters_are_timed_in_turn_and_a_slower_one_is_held_back(
    evaluated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = timed(evaluated, monkeypatch, readable=True)
    assert ours.milliseconds == pytest.approx(np.full(15, 5.0))
    assert sorted(set(theirs.milliseconds.round(6))) == [3.0, 9.0]
    assert len(ours.joules_per_row) == len(theirs.joules_per_row) == cost.PASSES
    assert ours.joules_per_row == pytest.approx(np.full(cost.PASSES, 100 * 0.005 / 15))
    states = {}
    for name, margin in (("latency_p50_ms", 1.0), ("latency_p95_ms", 1.0), ("joules_per_row", 0.01)):
        metric, table = cost.TIMED[name]
        one, other = ours.table(table), theirs.table(table)
        assert one is not None
        assert other is not None
        gate = passes(Measured(name, one, other, metric, margin), Drawn(), level=0.05, alpha=0.05, power=0.8)
        states[name] = gate.state
        assert gate.candidate == pytest.approx(metric.function(one))
    assert states == {"latency_p50_ms": "broken", "latency_p95_ms": "held", "joules_per_row": "held"}


def test_energy_that_cannot_be_read_is_no_table(evaluated: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = timed(evaluated, monkeypatch, readable=False)
    assert ours.table("joules_per_row") is None
    assert ours.table("milliseconds") is not None


def test_timings_of_two_machines_are_refused(evaluated: Workspace) -> None:
    there = read_json(evaluated.cost / "cost.json")["hardware"]
    cost.check_hardware(there, there["device"], there["threads"])
    with pytest.raises(DataError, match=r"two machines cannot be compared: evaluate ran on NVIDIA H200 \(\d+ threads"):
        cost.check_hardware({**there, "gpu": "NVIDIA H200"}, there["device"], there["threads"])
    with pytest.raises(DataError, match=r"decide there, or take the gate out"):
        cost.check_hardware(there, there["device"], there["threads"] + 1)
