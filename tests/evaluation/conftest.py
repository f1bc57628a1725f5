"""A small project that went through the stages up to ``evaluate``, made once per test file that asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graft import stages
from graft.data import data_digest
from graft.workspace import Workspace, write_json


@pytest.fixture(scope="module")
def made() -> dict[str, Workspace]:
    return {}


@pytest.fixture
def evaluated(
    made: dict[str, Workspace], tmp_path_factory: pytest.TempPathFactory, make_project: Callable[..., Workspace]
) -> Workspace:
    """Read it; do not change it: the tests of a file share it."""
    if not made:
        workspace = make_project(tmp_path_factory.mktemp("evaluated") / "project", training={"epochs": 1})
        # What validate would write, without the seconds that importing its library takes.
        verdict = {
            "passed": True,
            "clean": [],
            "columns": {},
            "data": data_digest(workspace.data),
            "state": {"labels": ["animals", "cooking", "weather"]},
            "splits": {"train": {"rows": 60}, "validation": {"rows": 15}, "test": {"rows": 15}},
        }
        write_json(workspace.validation / "verdict.json", verdict)
        for stage in ("tokenize", "train", "evaluate"):
            stages.run(stage, workspace)
        made["project"] = workspace
    return made["project"]
