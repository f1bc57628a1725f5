"""The chain on a real Prefect server, as a process: what is run and shown, what is refused, how it is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import runs
from graft.runs import process_started
from graft.stages import STAGES
from graft.workspace import Workspace
from tests.conftest import git

pytestmark = pytest.mark.slow
NAMES = [stage.name for stage in STAGES]
Finished = tuple[int, runs.Run, str]
Run = Callable[..., Finished]


def test_every_stage_runs_once_and_is_then_shown_as_cached(
    run: Run, api: Any, executed: Callable[[], list[str]], clone: Workspace
) -> None:
    code, first, text = run()
    assert code == 0, text
    assert executed() == NAMES
    assert api.outcomes(first.facts["flow_run"]) == dict.fromkeys(NAMES, "Completed")
    assert "validate: 10 characters" in api.messages(first.facts["flow_run"])
    assert "validate: 10 characters" not in text, "the terminal line does not name the stage twice"
    assert "validate   10 characters" in text

    code, second, text = run()
    assert code == 0, text
    assert executed() == NAMES
    assert api.outcomes(second.facts["flow_run"]) == dict.fromkeys(NAMES, "Cached")

    (clone.root / "artifacts" / "adapter" / "result.txt").unlink()
    code, third, text = run()
    assert code == 0, text
    assert executed() == NAMES
    outcomes = api.outcomes(third.facts["flow_run"])
    assert (outcomes["tokenize"], outcomes["train"], outcomes["register"]) == ("Cached", "Restored", "Cached")
    assert third.facts["stages"]["train"]["outcome"] == "restored"
    assert third.facts["stages"]["train"]["seconds"] > 0
    assert third.facts["commit"] == second.facts["commit"]

    code, _, text = run("--force")
    assert code == 0, text
    assert executed() == NAMES * 2


def test_bad_input_ends_the_chain_with_one_message(
    run: Run, api: Any, executed: Callable[[], list[str]], clone: Workspace
) -> None:
    (clone.data / "train" / "a.txt").write_text("bad text\n")
    code, _, text = run()
    assert code == 2
    assert "data/ differs from data.dvc (1 file)" in text
    assert executed() == []

    code, failed, text = run("--add-data")
    assert code == 2
    assert executed() == ["validate"], "bad input is not tried again"
    assert text.count("data/train/a.txt:1: text: expected good, found bad") == 1, (
        "the error alone, not the stage's line too"
    )
    assert text.rstrip().splitlines()[-1] == "error: data/train/a.txt:1: text: expected good, found bad"
    assert "Traceback" not in text
    assert failed.state == "failed"
    state = api.flow_run(failed.facts["flow_run"])["state"]
    assert state["type"] == "FAILED"
    assert "InputError: data/train/a.txt:1" in state["message"]
    assert api.outcomes(failed.facts["flow_run"]) == {"validate": "Failed"}
    assert "Traceback" not in failed.log.read_text()
    assert not (clone.artifacts / "validation").exists()
    page = api.artifacts(failed.facts["flow_run"])["data"]
    assert page.startswith("# Data: refused, 1 problem\n")
    assert "`.graft/failed/validate/data_docs/index.html`" in page


def test_refused_data_has_its_docs_in_mlflow_once(start: Callable[..., Any], clone: Workspace, tmp_path: Path) -> None:
    from graft.tracking import TrackingConfig
    from graft.tracking.server import connect

    (clone.data / "train" / "a.txt").write_text("bad text\n")
    for _ in range(2):
        assert start("pipelines.finetune", "--add-data").wait(120) == 2
    assert "the Data Docs of the refusal are in MLflow too" in (tmp_path / "pipelines.finetune-1.log").read_text()
    client = connect(TrackingConfig(), clone).client
    [found] = [one for each in client.search_experiments() for one in client.search_runs([each.experiment_id])]
    assert (found.info.status, found.data.tags["graft.data"]) == ("FAILED", "refused")
    assert [one.path for one in client.list_artifacts(found.info.run_id, "data_docs")] == ["data_docs/index.html"]


def test_overrides_run_in_a_worktree_and_leave_the_files_alone(run: Run, api: Any, clone: Workspace) -> None:
    before = (clone.params.read_text(), git(clone.root, "rev-parse", "HEAD"))
    code, found, text = run("-S", "training.epochs=5")
    assert code == 0, text
    assert (clone.params.read_text(), git(clone.root, "rev-parse", "HEAD")) == before
    assert git(clone.root, "status", "--porcelain") == ""
    assert not clone.artifacts.exists()
    assert git(clone.root, "worktree", "list").count("\n") == 0
    commit = found.facts["commit"]
    assert "epochs: 5" in git(clone.root, "show", f"{commit}:params.yaml")
    assert "register" in git(clone.root, "show", f"{commit}:dvc.lock")
    assert api.flow_run(found.facts["flow_run"])["name"] == "demo epochs=5"

    code, found, text = run("-S", "training.epoch=5")
    assert code == 2
    assert "training.epoch: unknown key; did you mean `training.epochs`?" in text


def begin_nap(start: Callable[..., Any], until: Callable[..., Any], nap: Path, *arguments: str) -> tuple[Any, int]:
    """Start a chain whose training lasts; return its process and the training's process id."""
    process = start("pipelines.finetune", "--no-publish", *arguments, NAP=str(nap))
    assert until(lambda: nap.exists() and nap.read_text()), process.poll()
    return process, int(nap.read_text())


def gone(process: int) -> bool:
    return process_started(process) is None


@pytest.mark.parametrize("way", ["graft cancel", "Ctrl-C", "the UI's button"])
def test_cancelling_ends_the_training(
    way: str, start: Callable[..., Any], until: Callable[..., Any], api: Any, clone: Workspace, tmp_path: Path
) -> None:
    process, training = begin_nap(start, until, tmp_path / "nap")
    run = runs.running(clone)[0]
    if way == "graft cancel":
        runs.cancel(run)
    elif way == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        api.cancel(run.facts["flow_run"])
    assert until(lambda: gone(training), 20)
    assert process.wait(30) == 75
    assert runs.listed(clone)[0].state == "cancelled"
    assert api.flow_run(run.facts["flow_run"])["state"]["type"] == "CANCELLED"
    assert not clone.adapter.exists()


def test_after_kill_9_the_training_ends_and_the_next_run_says_so(
    start: Callable[..., Any], run: Run, until: Callable[..., Any], api: Any, clone: Workspace, tmp_path: Path
) -> None:
    process, training = begin_nap(start, until, tmp_path / "nap")
    lost = runs.running(clone)[0]
    process.kill()
    assert until(lambda: gone(training), 20)
    process.wait()
    assert api.flow_run(lost.facts["flow_run"])["state"]["type"] == "RUNNING"
    code, after, text = run()
    assert code == 0, text
    assert f"run {lost.folder.name} had been killed" in text
    assert api.flow_run(lost.facts["flow_run"])["state"]["type"] == "CRASHED"
    assert api.outcomes(lost.facts["flow_run"])["train"] == "Crashed"
    assert api.outcomes(after.facts["flow_run"])["tokenize"] == "Cached"
    assert os.environ.get("PREFECT_API_URL") is None


def test_a_private_server_serves_a_run_and_ends_with_it(run: Run, clone: Workspace, tmp_path: Path) -> None:
    code, found, text = run(PREFECT_API_URL="", PREFECT_HOME=str(tmp_path / "own"))
    assert code == 0, text
    assert (tmp_path / "own" / "prefect.db").exists()
    assert found.facts["url"] is None
    with pytest.raises(OSError, match="refused"):
        __import__("urllib.request").request.urlopen(found.facts["api"] + "/health", timeout=2)


def test_a_second_clone_takes_results_from_the_shared_remote(
    run: Run, executed: Callable[[], list[str]], clone: Workspace, tmp_path: Path
) -> None:
    assert not (tmp_path / "shared").exists()
    code, _, text = run("--pull")
    assert code == 0, text
    assert "--pull: the default DVC remote is not there" in text
    assert executed() == NAMES, "without the remote's folder everything is computed"
    code, _, text = run("--push")
    assert code == 0, text

    git(tmp_path, "clone", "--quiet", "origin.git", "second")
    second = Workspace(tmp_path / "second")
    assert not second.dvc_lock.exists()
    code, found, text = run("--pull", at=second)
    assert code == 0, text
    assert {name: one["outcome"] for name, one in found.facts["stages"].items()} == dict.fromkeys(NAMES, "restored")
    assert executed() == NAMES
    assert (second.adapter / "result.txt").read_bytes() == (clone.adapter / "result.txt").read_bytes()

    git(second.root, "add", "dvc.lock")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    git(second.root, *identity, "commit", "--quiet", "-m", "results")
    git(tmp_path, "clone", "--quiet", "second", "third")
    code, found, text = run("--pull", at=Workspace(tmp_path / "third"))
    assert code == 0, text
    assert {one["outcome"] for one in found.facts["stages"].values()} == {"restored"}, "the lock is committed"
    assert executed() == NAMES


def test_a_placed_stage_that_nobody_serves_is_refused_before_the_first_stage_runs(
    run: Run, executed: Callable[[], list[str]], clone: Workspace, tmp_path: Path
) -> None:
    clone.params.write_text(clone.params.read_text() + "placement:\n  train: nowhere\n")
    code, _, text = run()
    assert code == 7
    assert text.rstrip().splitlines()[-1].startswith("error: placement.train: no deployment gpu-stage/nowhere")
    assert executed() == []
    assert not (tmp_path / "shared").exists(), "nothing was pushed"
