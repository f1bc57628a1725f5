"""A small project that went through the stages up to ``evaluate``, made once per test file that asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graft import stages
from graft.workspace import Workspace
from tests.conftest import validated
from tests.tasks.conftest import tiny_decoder, tiny_t5

__all__ = ["evaluated", "made", "tiny_decoder", "tiny_t5"]


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
        validated(workspace)
        for stage in ("tokenize", "train", "evaluate"):
            stages.run(stage, workspace)
        made["project"] = workspace
    return made["project"]
