"""Real workers: a schedule fires, a run from the UI is cancelled, a placed stage is done by another clone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from graft import params, runs, stages
from graft.artifact.starts import place_of
from graft.identity import digest_folder
from graft.publication import pin_start
from graft.repository import Repository
from graft.runs import process_started
from graft.stages import STAGES
from graft.workspace import Workspace, read_json
from tests.conftest import git, validated

pytestmark = pytest.mark.slow
NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def serve(start: Callable[..., Any], until: Callable[..., Any], api: Any) -> Callable[..., Any]:
    """``serve(pool, at=clone)``: run ``graft worker`` of a clone until the test ends; wait until it is online."""

    def begin(pool: str, **settings: Any) -> Any:
        before = api.online(pool)
        process = start("graft", "worker", "--pool", pool, **settings)
        assert until(lambda: api.online(pool) - before, 240), process.poll()
        return process

    return begin


def deployment(api: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"deployments/name/{name}")
    return found


def finished(api: Any, flow_run: str) -> dict[str, Any] | None:
    state: dict[str, Any] = api.flow_run(flow_run)["state"]
    return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def test_runs_from_the_ui_and_from_a_schedule_stay_out_of_the_files(
    serve: Callable[..., Any],
    api: Any,
    until: Callable[..., Any],
    clone: Workspace,
    executed: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    (clone.data / "train" / "a.txt").write_text("text that somebody is editing\n")
    worker = serve("graft")
    assert deployment(api, "finetune/nightly")["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    assert deployment(api, "finetune/on-demand")["path"] is None

    on_demand = deployment(api, "finetune/on-demand")["id"]
    parameters = {"overrides": {"training.epochs": 3}, "publish": False}
    begun = api.post(f"deployments/{on_demand}/create_flow_run", {"parameters": parameters})
    assert until(lambda: finished(api, begun["id"]), 240)["type"] == "COMPLETED"
    assert api.outcomes(begun["id"]) == dict.fromkeys(NAMES, "Completed")
    assert executed() == NAMES

    every_second = {"schedule": {"interval": 1}, "active": True, "parameters": parameters, "max_scheduled_runs": 1}
    made = api.post(f"deployments/{on_demand}/schedules", [every_second])[0]["id"]
    chosen = {"deployments": {"id": {"any_": [on_demand]}}, "flow_runs": {"tags": {"all_": ["auto-scheduled"]}}}
    ended = {"flow_runs": {**chosen["flow_runs"], "state": {"type": {"any_": ["COMPLETED"]}}}}
    fired = until(lambda: api.post("flow_runs/filter", {**chosen, **ended, "limit": 5}), 240)
    # The server answers 503 while another run holds its SQLite database: ask again.
    place = f"{api.url}/deployments/{on_demand}/schedules/{made}"
    assert until(lambda: httpx.delete(place, timeout=20).status_code in (204, 404), 60)
    assert fired, "the schedule created no run, or the worker took none"
    assert set(api.outcomes(fired[0]["id"]).values()) == {"Restored"}

    assert (clone.data / "train" / "a.txt").read_text() == "text that somebody is editing\n"
    assert git(clone.root, "status", "--porcelain") == ""
    assert not clone.artifacts.exists()
    worker.terminate()
    assert worker.wait(60) is not None


def test_cancelling_a_run_of_a_worker_ends_the_training(
    serve: Callable[..., Any], api: Any, until: Callable[..., Any], clone: Workspace, tmp_path: Path
) -> None:
    nap = tmp_path / "nap"
    serve("graft", NAP=str(nap))
    on_demand = deployment(api, "finetune/on-demand")["id"]
    begun = api.post(f"deployments/{on_demand}/create_flow_run", {"parameters": {"publish": False}})
    assert until(lambda: nap.exists() and nap.read_text(), 240)
    training = int(nap.read_text())
    runs.cancel(runs.running(clone)[0])
    assert until(lambda: process_started(training) is None, 90)
    assert until(lambda: finished(api, begun["id"]), 180)["type"] == "CANCELLED"
    assert runs.listed(clone)[0].state == "cancelled"
    assert until(lambda: "\n" not in git(clone.root, "worktree", "list"), 60)


def test_a_placed_stage_is_done_by_a_worker_in_another_clone(
    serve: Callable[..., Any],
    run: Callable[..., Any],
    api: Any,
    clone: Workspace,
    tmp_path: Path,
) -> None:
    git(tmp_path, "clone", "--quiet", "origin.git", "worker")
    other = Workspace(tmp_path / "worker")
    text = clone.params.read_text() + "placement:\n  train: gpu\n"
    clone.params.write_text(text)
    serve("gpu", at=other)

    code, found, said = run("--set", "training.epochs=4")
    assert code == 0, said
    where = dict(line.split() for line in (tmp_path / "trace").read_text().splitlines())
    assert where["train"].startswith(str(other.root))
    assert all(where[name].startswith(str(clone.root)) for name in NAMES if name != "train")
    assert api.outcomes(found.facts["flow_run"])["train"] == "Restored"
    placed = runs.listed(other)[0]
    assert placed.state == "completed"
    assert api.flow_run(placed.facts["flow_run"])["state"]["type"] == "COMPLETED"
    assert "epochs: 4" in git(other.root, "show", f"{placed.facts['commit']}:params.yaml")
    assert "good" in (clone.data / "train" / "a.txt").read_text()


TRAIN = """\
  train:
    cmd: $GRAFT_PYTHON -m graft stage train
    deps: [artifacts/tokens]
    params: [task, base, adapter, training, {sources.lock: [base, init]}]
    outs: [artifacts/adapter, artifacts/training, artifacts/repeats]
"""


def test_a_placed_training_starts_from_an_adapter_that_only_the_caller_has(
    serve: Callable[..., Any],
    run: Callable[..., Any],
    clone: Workspace,
    make_project: Callable[..., Workspace],
    tmp_path: Path,
) -> None:
    """One step that moves nothing: what the worker's training ends with is what it started from."""
    from safetensors.torch import load_file

    training = {"max_steps": 1, "keep": "last", "seed": 8}
    first = make_project(tmp_path / "first", training=training)
    validated(first)
    for stage in ("tokenize", "train"):
        stages.run(stage, first)
    _with_real_training(clone, first, {**training, "seed": 7, "learning_rate": 1e-30, "init_from": "../first/start"})
    shutil.copytree(first.adapter, first.root / "start")
    loaded = params.load(clone.params)
    start = pin_start(clone, training=loaded.training, tracking=loaded.tracking)
    assert start is not None
    git(tmp_path, "clone", "--quiet", "origin.git", "worker")
    other = Workspace(tmp_path / "worker")
    serve("gpu", at=other)

    code, _, said = run()
    assert code == 0, said
    assert digest_folder(place_of(other, start.digest)) == start.digest
    assert read_json(clone.adapter / "identity.json")["init"] == start.digest
    before, after = (load_file(one / "adapter_model.safetensors") for one in (first.adapter, clone.adapter))
    assert before.keys() == after.keys()
    assert all(after[name].equal(value) for name, value in before.items())


def _with_real_training(clone: Workspace, tokenized: Workspace, training: dict[str, Any]) -> None:
    """Give the clone the base and the token tables of a project, and the real stage that trains on them."""
    shutil.copytree(tokenized.root / "base", clone.root / "base")
    shutil.copytree(tokenized.tokens, clone.root / "tokens")
    shutil.copy(tokenized.sources_lock, clone.sources_lock)
    described = yaml.safe_load(tokenized.params.read_text())
    described["training"] |= training
    clone.params.write_text(yaml.safe_dump({"data": {}, "validation": {}, **described, "placement": {"train": "gpu"}}))
    text = (clone.root / "dvc.yaml").read_text()
    begin, end = text.index("  train:\n"), text.index("  evaluate:\n")
    text = text[:begin] + TRAIN + text[end:]
    made = "$GRAFT_PYTHON stage.py tokenize artifacts/tokens"
    assert made in text
    text = text.replace(made, f"cp -r tokens artifacts/tokens && {made}")
    text = re.sub(r"(stage\.py (?:evaluate|register) \S+) .*", r"\1", text)  # they read text, no tensors
    (clone.root / "dvc.yaml").write_text(text)
    git(clone.root, "add", "-A")
    git(clone.root, "commit", "--quiet", "-m", "a real training")
    git(clone.root, "push", "--quiet", "origin", "main")


VALIDATE = """\
  validate:
    cmd: $GRAFT_PYTHON -m graft stage validate
    deps: [data]
    params: [task, data, validation]
    outs: [artifacts/validation, artifacts/data_docs, artifacts/quarantine]
"""


def test_the_parts_of_a_placed_stage_are_shared_by_the_workers_of_its_pool(
    serve: Callable[..., Any], run: Callable[..., Any], clone: Workspace, tmp_path: Path
) -> None:
    _with_real_validation(clone, parts=6)
    others = []
    for name in ("first", "second"):
        git(tmp_path, "clone", "--quiet", "origin.git", name)
        others.append(Workspace(tmp_path / name))
        serve("cpu", at=others[-1], GRAFT_PROCESSES="1")
    clone.params.write_text(clone.params.read_text() + "placement:\n  validate: cpu\n")

    code, _, said = run(GRAFT_SHARE_BYTES="1")
    assert code == 0, said
    assert "8 parts are spread over 2 workers of pool cpu" in said
    placed = [one.facts for other in others for one in runs.listed(other)]
    assert len(placed) == 3  # two shares, and the stage itself
    made = {other.root.name: len(list((other.store / "validate").glob("*/part.json"))) for other in others}
    assert all(made.values())
    there = list((tmp_path / "shared" / "graft" / "validate").glob("*/part.json"))
    assert len(there) == 8
    placed_verdict = (clone.validation / "verdict.json").read_bytes()
    stages.run("validate", clone)
    assert (clone.validation / "verdict.json").read_bytes() == placed_verdict


def _with_real_validation(clone: Workspace, parts: int) -> None:
    """Give the clone rows in parts, and the real stage that validates them."""
    shutil.rmtree(clone.data)
    for split, count in {"train": parts, "validation": 1, "test": 1}.items():
        for part in range(count):
            path = clone.data / split / f"part-{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = ({"text": f"{split} text {part} {n}", "label": "ab"[n % 2]} for n in range(20))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (clone.root / "dvc.yaml").read_text()
    begin, end = text.index("  validate:\n"), text.index("  tokenize:\n")
    (clone.root / "dvc.yaml").write_text(text[:begin] + VALIDATE + text[end:])
    Repository(clone).add_data()
    git(clone.root, "add", "-A")
    git(clone.root, "commit", "--quiet", "-m", "real rows")
    git(clone.root, "push", "--quiet", "origin", "main")
