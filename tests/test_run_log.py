"""Run records: what a run says of itself, and what is true once its process has gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from graft import runs
from graft.errors import DataError, Interrupted, ResourceMissing
from graft.workspace import Workspace, read_json


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").touch()
    return Workspace(tmp_path)


def of_another_process(run: runs.Run, process: int, started: float | None) -> runs.Run:
    run.update(process=process, process_started=started)
    return run


def test_a_run_of_this_process_is_running(workspace: Workspace) -> None:
    run = runs.begin(workspace, flow_run="f")
    assert run.state == "running"
    assert [one.folder for one in runs.running(workspace)] == [run.folder]
    assert read_json(run.folder / "run.json")["host"] == socket.gethostname()


@pytest.mark.parametrize("known", [True, False])
def test_a_run_whose_process_has_gone_is_crashed(workspace: Workspace, known: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = runs.process_started(child.pid)
    child.communicate(b"\n")
    run = of_another_process(runs.begin(workspace), child.pid, started if known else None)
    assert run.state == "crashed"
    assert runs.running(workspace) == []


def test_a_process_id_that_was_given_again_is_not_the_run(workspace: Workspace) -> None:
    run = of_another_process(runs.begin(workspace), os.getpid(), 12.0)
    assert run.state == "crashed"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "completed"),
        (DataError("row 7 is bad"), "failed"),
        (Interrupted("stopped"), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(1), "cancelled"),
    ],
)
def test_followed_records_the_end(workspace: Workspace, error: BaseException | None, state: str) -> None:
    run = runs.begin(workspace)
    with contextlib.suppress(BaseException), run.followed():
        if error is not None:
            raise error
    assert read_json(run.folder / "run.json")["state"] == state
    assert run.state == state


def test_runs_are_listed_newest_first(workspace: Workspace) -> None:
    first = runs.begin(workspace)
    first.update(started=1.0)
    other = workspace.runs / "20200101-000000-1"
    other.mkdir(parents=True)
    runs.Run(other, {"state": "completed", "started": 2.0}).update()
    assert [run.folder for run in runs.listed(workspace)] == [other, first.folder]


def test_cancel_ends_the_process(workspace: Workspace) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        runs.cancel(of_another_process(runs.begin(workspace), child.pid, runs.process_started(child.pid)))
        assert child.wait(10) == -signal.SIGTERM
    finally:
        child.kill()


def test_cancel_refuses_what_is_out_of_reach(workspace: Workspace) -> None:
    elsewhere = runs.begin(workspace)
    elsewhere.update(host="another")
    with pytest.raises(ResourceMissing, match="another machine"):
        runs.cancel(elsewhere)
    gone = of_another_process(runs.begin(workspace), 2**22 + 1, 1.0)
    with pytest.raises(ResourceMissing, match="has gone"):
        runs.cancel(gone)
    worker = runs.begin(workspace, worker=True, api="http://127.0.0.1:9/api", flow_run="f")
    with pytest.raises(ResourceMissing, match="graft ui"):
        runs.cancel(worker)
