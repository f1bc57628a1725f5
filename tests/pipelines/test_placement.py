"""A placed stage never runs here unnoticed, and a worker's answer is checked before it is believed."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Failed

from graft.errors import ConfigError, GraftError, IntegrityError
from graft.workspace import Workspace
from pipelines import placement
from pipelines.stage import project_of_clone

COMMIT = "c0ffee" * 6 + "abcd"


def finished(state: object) -> FlowRun:
    return FlowRun.model_validate({"flow_id": uuid4(), "name": "train c0ffee", "state": state})


def test_a_worker_at_the_commit_is_believed() -> None:
    placement._check(finished(Completed(message=f"train at {COMMIT}: ran in 2.0 s")), COMMIT, "gpu")


def test_a_worker_at_another_commit_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another commit"):
        placement._check(finished(Completed(message=f"train at {'0' * 40}: ran in 2.0 s")), COMMIT, "gpu")


def test_a_failed_worker_is_named_with_its_message() -> None:
    with pytest.raises(GraftError, match="ended as Failed: DataError: row 7"):
        placement._check(finished(Failed(message="DataError: row 7")), COMMIT, "gpu")


def test_a_placed_stage_that_would_run_here_is_refused() -> None:
    assert placement._not_here("Stage 'train' is cached - skipping run, checking out outputs", "train")
    with pytest.raises(IntegrityError, match="was placed, but the remote's run cache does not hold its result"):
        placement._not_here("Running stage 'train':", "train")


def test_a_project_outside_the_clone_is_refused(
    clone: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CLONE", str(clone.root))
    assert project_of_clone("projects/x").root == clone.root / "projects" / "x"
    for outside in ("..", "../other", str(tmp_path)):
        with pytest.raises(ConfigError, match="outside the repository"):
            project_of_clone(outside)
