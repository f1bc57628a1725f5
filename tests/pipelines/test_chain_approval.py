"""A pipeline run whose promotion needs a person asks for the form, which is about that run's commit; a real server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import params
from graft.stages import render
from graft.tracking import journal
from graft.tracking.server import connect
from graft.workspace import Workspace
from tests.conftest import git, write_project

ROOT = Path(__file__).parents[2]
NAME = "toy-topic"
SECTIONS = {"data": {}, "validation": {}, "promotion": {"approval": "required", "first_against": "base"}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path) -> Workspace:
    """A clone of this checkout with the tiny project, whose stages are the real ones."""
    from dvc.repo import Repo

    root = tmp_path / "project"
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "sample*")
    for name in ("src", "pipelines", "infra"):
        shutil.copytree(ROOT / name, root / name, ignore=skipped)
    for name in ("requirements.lock", ".dvcignore", "prefect.yaml"):
        shutil.copy(ROOT / name, root / name)
    workspace = write_project(root, tiny_base, SECTIONS)
    (root / "dvc.yaml").write_text(render(root, root))
    git(root, "init", "--quiet", "--initial-branch=main", ".")
    Repo.init(str(root)).close()
    (root / ".gitignore").write_text("__pycache__/\n.graft/\nartifacts/\n/data\n/mlflow/store/\n")
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n[cache]\n    type = reflink,copy\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    return workspace


def runs_of(api: Any, flow: str) -> list[dict[str, Any]]:
    return list(api.post("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "limit": 50}))


def test_run_asks_for_the_form_and_the_answer_is_about_its_commit(
    start: Callable[..., Any], until: Callable[..., Any], api: Any, project: Workspace, tmp_path: Path
) -> None:
    worker = start("graft", "worker", at=project)
    assert until(lambda: api.online("graft"), 300), worker.poll()
    before = {one["id"] for one in runs_of(api, "promote")}
    code = start("graft", "run", "--add-data", at=project, GRAFT_PYTHON=sys.executable).wait(600)
    assert code == 0, (tmp_path / "graft-1.log").read_text()
    connection = connect(params.load(project.params).tracking, project)
    assert journal.history(connection, NAME) == []  # the run decided nothing: it asked

    def asked() -> dict[str, Any] | None:
        return next((one for one in runs_of(api, "promote") if one["id"] not in before), None)

    waiting = until(asked, 60)
    commit = waiting["parameters"]["commit"]
    assert len(commit) == 40
    # The clone goes on: what lies there now is another project.
    shutil.rmtree(project.artifacts)
    part = project.data / "test" / "part-0000.jsonl"
    part.write_text("\n".join(part.read_text().splitlines()[:5]) + "\n")
    assert until(lambda: api.flow_run(waiting["id"])["state"]["name"] == "Suspended", 300), api.messages(waiting["id"])
    assert api.flow_run(waiting["id"])["name"] == f"approve {NAME} version 1"
    form = {"decision": "approve", "name": "Ada", "reason": "agreed in review 12", "number": 1}
    assert api.resume(waiting["id"], form) == "ACCEPT"
    assert until(lambda: api.flow_run(waiting["id"])["state"]["name"] == "Promoted", 300), api.messages(waiting["id"])
    [entry] = journal.history(connection, NAME)
    assert (entry.verdict, entry.after, entry.who) == ("promote", "1", "Ada")
    assert entry.why.startswith("approved by Ada: agreed in review 12 (")
    assert entry.evidence["rows"] == 15  # those of the run's commit
    assert str(connection.client.get_registered_model(NAME).aliases["champion"]) == "1"
    assert not project.artifacts.exists()
