from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft import params, stages
from graft.artifact import planned_identity, verified
from graft.errors import ConfigError, Locked, ResourceMissing, TrainingDiverged
from graft.identity import digest_folder, run_key
from graft.training.record import lines
from graft.workspace import Workspace, locked, read_json, write_json

Make = Callable[..., Workspace]


def key_of(workspace: Workspace) -> str:
    loaded = params.load(workspace.params)
    return run_key(planned_identity(workspace, loaded.task, loaded.base, loaded.adapter, loaded.training))


def test_what_is_trained_is_counted_before_a_method_changes_its_form(
    make_tokenized: Callable[..., Workspace], tmp_path: Path
) -> None:
    found = {}
    for start in (True, "pissa"):
        workspace = make_tokenized(tmp_path / str(start), adapter={"init_lora_weights": start})
        stages.run("train", workspace)
        found[start] = read_json(workspace.training / "summary.json")["parameters_trained"]
    assert found["pissa"] == found[True]


def test_train_writes_both_outputs(tokenized: Workspace) -> None:
    stages.run("train", tokenized)
    assert {path.name for path in tokenized.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "identity.json",
        "probe.safetensors",
    }
    identity = verified(tokenized.adapter)
    assert run_key(identity) == key_of(tokenized)
    assert identity["device"] == "cpu"
    summary = read_json(tokenized.training / "summary.json")
    assert summary["run_key"] == key_of(tokenized)
    assert summary["steps"] == 16
    assert summary["resumed_from_step"] == 0
    assert summary["parameters_trained"] == 2 * 2 * 2 * 4 * 32 + 3 * 32 + 3
    hardware = read_json(tokenized.training / "hardware.json")
    assert (hardware["threads"], hardware["matmul_type"]) == (1, "float32")
    assert 0 < summary["mfu"] < 2
    assert 0 <= summary["padding_share"] < 0.5
    live = tokenized.live / key_of(tokenized) / "metrics.jsonl"
    assert (tokenized.training / "metrics.jsonl").read_bytes() == live.read_bytes()
    with (tokenized.training / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    recorded = [line for line in lines(live) if "loss" in line]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in recorded]
    assert not any(tokenized.checkpoints.rglob("step-*"))


@pytest.mark.slow
def test_profiling_leaves_a_table_and_a_trace_and_the_same_adapter(
    tokenized: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.run("train", tokenized)
    plain = digest_folder(tokenized.adapter)
    assert not (tokenized.training / "profile.md").exists()
    monkeypatch.setenv("GRAFT_PROFILE", "1")
    monkeypatch.setattr("graft.training.profiling.MOST_EVENTS", 500)
    stages.run("train", tokenized)
    assert digest_folder(tokenized.adapter) == plain
    assert "steps 6 to 10 profiled" in capsys.readouterr().out
    table = (tokenized.training / "profile.md").read_text()
    lines_of = [line for line in table.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines_of]
    spent = [float(row[2]) for row in rows[:10]]
    assert len(rows) == 12
    assert spent == sorted(spent, reverse=True)
    assert all(int(row[1]) > 0 for row in rows if row[0].startswith("aten::"))
    assert sum(float(row[3].removesuffix("%")) for row in rows) == pytest.approx(100, abs=1)
    trace = json.loads(gzip.decompress((tokenized.training / "trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) == 500
    assert {"process_name", "thread_name"} <= {one["name"] for one in trace["traceEvents"] if one["ph"] == "M"}
    assert "host_name" not in trace
    assert str(tokenized.root) not in json.dumps(trace)


@pytest.mark.parametrize(("steps", "seen"), [(30, (10, 14)), (12, (8, 12)), (6, (5, 6))])
def test_profile_is_of_warm_steps_where_there_are_any(steps: int, seen: tuple[int, int]) -> None:
    from graft.training.profiling import Profiler

    profiler = Profiler("cpu")
    for step in range(5, steps + 1):
        profiler.before(step, steps)
    profiler.end()
    assert (profiler._first, profiler._last) == seen


@pytest.mark.slow
@pytest.mark.parametrize("aside", [[], [3, 40]])
def test_renamed_part_gives_the_same_adapter(tokenized: Workspace, aside: list[int]) -> None:
    verdict, part = tokenized.validation / "verdict.json", tokenized.data / "train" / "part-0000.jsonl"
    found, key = [], ""
    for name in ("part-0000.jsonl", "renamed.jsonl"):
        part = part.rename(part.with_name(name))
        places = [f"data/train/{name}:{line}" for line in aside]
        write_json(verdict, read_json(verdict) | ({"quarantined": places} if aside else {}))
        stages.run("tokenize", tokenized)
        stages.run("train", tokenized)
        found.append(digest_folder(tokenized.adapter))
        key = key or key_of(tokenized)
    assert found[0] == found[1]
    if aside:  # other rows in quarantine are another training all the same
        write_json(verdict, read_json(verdict) | {"quarantined": [f"data/train/{part.name}:4"]})
        stages.run("tokenize", tokenized)
        assert key_of(tokenized) != key


@pytest.mark.slow
def test_same_inputs_give_the_same_bytes_in_another_place(make_tokenized: Make, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two/deeper"):
        workspace = make_tokenized(tmp_path / name, training={"keep": "last"})
        stages.run("train", workspace)
        stages.run("train", workspace)
        found.append(digest_folder(workspace.adapter))
        text = b"".join(path.read_bytes() for path in workspace.adapter.iterdir())
        assert str(tmp_path).encode() not in text
    assert found[0] == found[1]


def test_another_seed_gives_another_adapter_and_key(make_tokenized: Make, tmp_path: Path) -> None:
    one, two = make_tokenized(tmp_path / "one"), make_tokenized(tmp_path / "two", training={"seed": 8})
    assert key_of(one) != key_of(two)


def test_device_is_no_part_of_the_run_key(make_tokenized: Make, tmp_path: Path) -> None:
    one, two = make_tokenized(tmp_path / "one"), make_tokenized(tmp_path / "two", training={"device": "auto"})
    assert key_of(one) == key_of(two)


@pytest.mark.slow
def test_planned_identity_imports_nothing_heavy(tokenized: Workspace) -> None:
    code = (
        "import sys; from graft import params; from graft.artifact import planned_identity; "
        "from graft.workspace import Workspace; w = Workspace.find(); p = params.load(w.params); "
        "planned_identity(w, p.task, p.base, p.adapter, p.training); "
        "print([m for m in ('torch', 'peft', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tokenized.root,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_tokens_of_another_base_are_refused(tokenized: Workspace) -> None:
    lock = read_json(tokenized.sources_lock)
    lock["base"]["digest"] = "0" * 64
    tokenized.sources_lock.write_text(json.dumps(lock))
    with pytest.raises(ConfigError, match=r"made with another base .*run `graft stage tokenize`"):
        stages.run("train", tokenized)


def test_cuda_is_refused_where_there_is_none(make_tokenized: Make, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    workspace = make_tokenized(tmp_path / "project", training={"device": "cuda"})
    with pytest.raises(ResourceMissing, match=r"training\.device: 'cuda', but torch .* sees no CUDA device"):
        stages.run("train", workspace)
    assert not workspace.adapter.exists()


def test_divergence_leaves_outputs_and_a_report(make_tokenized: Make, tmp_path: Path) -> None:
    workspace = make_tokenized(tmp_path / "project", training={"learning_rate": 1e30, "warmup_share": 0})
    workspace.adapter.mkdir(parents=True)
    (workspace.adapter / "earlier").touch()
    with pytest.raises(TrainingDiverged, match="at step"):
        stages.run("train", workspace)
    assert [path.name for path in workspace.adapter.iterdir()] == ["earlier"]
    report = read_json(workspace.failed / "train" / "report.json")
    assert report["rows"][0].startswith("data/train/part-0000.jsonl:")


def test_two_trainings_of_the_same_do_not_meet(tokenized: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.identity import digest_json
    from graft.training import stage

    monkeypatch.setattr(stage, "LOCK_WAIT_SECONDS", 0.0)
    loaded = params.load(tokenized.params)
    identity = planned_identity(tokenized, loaded.task, loaded.base, loaded.adapter, loaded.training)
    key = digest_json(identity | {"device": "cpu"})[:32]
    with (
        locked(tokenized.checkpoints / f"{key}.lock", purpose="training"),
        pytest.raises(Locked, match=r"held by process \d+ \(training\)"),
    ):
        stages.run("train", tokenized)


KILLED = """
import os, signal, sys
from graft.training import checkpoints
save = checkpoints.Checkpoints.save
def save_and_die(self, checkpoint):
    save(self, checkpoint)
    if checkpoint.step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = save_and_die
from graft.stages import main
sys.exit(main(["train"]))
"""


@pytest.mark.slow
def test_kill_9_and_rerun_gives_the_same_adapter(make_tokenized: Make, tmp_path: Path) -> None:
    whole, killed = make_tokenized(tmp_path / "whole"), make_tokenized(tmp_path / "killed")
    stages.run("train", whole)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}

    def start(code: list[str]) -> Any:
        return subprocess.run([sys.executable, *code], cwd=killed.root, env=environment, capture_output=True, text=True)

    assert start(["-c", KILLED]).returncode == -signal.SIGKILL
    assert not killed.adapter.exists()
    done = start(["-m", "graft", "stage", "train"])
    assert done.returncode == 0, done.stderr
    assert "going on from the checkpoint of step 10" in done.stdout
    assert digest_folder(killed.adapter) == digest_folder(whole.adapter)
    steps = [line["step"] for line in lines(killed.training / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 17))


@pytest.mark.slow
def test_a_training_says_at_its_start_what_it_trains(
    make_tokenized: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, said in (("full", "full, all 23,523 parameters, float32 base, cpu"), ("lora", "lora on 4 modules, ")):
        keys = {"method": method, **({"target_modules": ["query", "value"]} if method == "lora" else {})}
        workspace = make_tokenized(tmp_path / method, adapter=None, training={"max_steps": 1})
        described = yaml.safe_load(workspace.params.read_text())
        workspace.params.write_text(yaml.safe_dump({**described, "adapter": keys}))
        stages.run("train", workspace)
        assert f"train: {said}" in capsys.readouterr().out
