"""What `graft sync` says of a run that was over before its registry answered."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from graft import runs
from graft.cli import review
from graft.identity import digest_file
from graft.repository import Repository
from graft.workspace import Workspace

WRITTEN = 1_000_000.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    os.utime(tmp_path / "dvc.lock", (WRITTEN, WRITTEN))
    monkeypatch.setattr(Repository, "status", lambda self: {})
    monkeypatch.setattr(Repository, "snapshot", lambda self: "now")
    return Workspace(tmp_path)


def record(place: Workspace, name: str, ended: float, **facts: Any) -> None:
    folder = place.runs / name
    folder.mkdir(parents=True)
    known = {"state": "completed", "started": ended - 60, "ended": ended, "in_place": True, "commit": name}
    stages = {"train": {}, "register": {}}
    runs.Run(folder).update(**known | {"stages": stages, "flow_run": f"flow-{name}", "url": f"url-{name}"} | facts)


def test_sync_names_the_run_that_made_the_outputs(place: Workspace) -> None:
    record(place, "old", WRITTEN - 3600)
    record(place, "made", WRITTEN + 2)
    record(place, "stopped", WRITTEN + 100, stages={"train": {}})
    record(place, "worktree", WRITTEN + 200, in_place=False)
    found = review._context(place)
    assert (found.git_commit, found.prefect_run, found.prefect_url) == ("made", "flow-made", "url-made")
    assert found.dvc_lock == digest_file(place.dvc_lock)


def test_sync_takes_the_files_as_they_are_where_no_run_made_them(place: Workspace) -> None:
    record(place, "old", WRITTEN - 3600)
    os.utime(place.dvc_lock, (time.time(), time.time()))
    found = review._context(place)
    assert (found.git_commit, found.prefect_run, found.prefect_url) == ("now", None, None)
