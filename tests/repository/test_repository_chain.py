"""The real chain on a tiny base: a second clone takes every result from the remote; a rebuild gives the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from graft import stages
from graft.identity import digest_file, digest_folder
from graft.repository import Repository
from graft.reproduction import Recorded, rebuild
from graft.workspace import Workspace, read_json

ROOT = Path(__file__).parents[2]
CODE = (
    "src",
    "infra",
    "requirements.lock",
    "pyproject.toml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
)
NAMES = [stage.name for stage in stages.STAGES]
Git = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path, make_project: Callable[..., Workspace], git: Git) -> Workspace:
    """A committed copy of this checkout's code with a small project in it, and its git remote."""
    root = tmp_path / "first"
    for name in CODE:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "sample*"))
        else:
            shutil.copyfile(source, target)
    workspace = make_project(root / "projects" / "toy", data={}, validation={})
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    (workspace.root / "dvc.yaml").write_text(stages.render(workspace.root, root))
    (workspace.root / ".gitignore").write_text("/data\n/artifacts/\n")
    Repository(workspace).add_data()
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    git(root, "push", "--quiet", "origin", "main")
    return workspace


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chain_is_restored_in_a_second_clone_and_rebuilt_to_the_same_bytes(
    checkout: Workspace, tmp_path: Path, git: Git
) -> None:
    first = Repository(checkout)
    assert [first.run_stage(name).outcome for name in NAMES] == ["ran"] * len(NAMES)
    assert first.is_current()
    assert git(checkout.repository, "status", "--porcelain") == "?? projects/toy/dvc.lock"
    first.push()
    git(tmp_path, "clone", "--quiet", "origin.git", "second")
    second = Repository(Workspace(tmp_path / "second" / "projects" / "toy"))
    second.pull_data()
    assert [second.run_stage(name, pull=True).outcome for name in NAMES] == ["restored"] * len(NAMES)
    adapter = digest_folder(checkout.adapter)
    assert digest_folder(second.workspace.adapter) == adapter
    assert second.workspace.dvc_lock.read_text() == checkout.dvc_lock.read_text()
    identity = read_json(checkout.adapter / "identity.json")
    record = Recorded(
        "models:/toy-topic/1", first.snapshot(), adapter, identity, dvc_lock=digest_file(checkout.dvc_lock)
    )
    # Since then the code changed: a stage that runs it makes another adapter, the rebuild has that of its commit.
    loop = checkout.repository / "src/graft/training/loop.py"
    loop.write_text(f"raise SystemExit('newer code')\n{loop.read_text()}")
    receipt = rebuild(checkout, record)
    assert receipt["verdict"] == "identical", receipt["reason"]
    assert [one["stage"] for one in receipt["outputs"]] == [
        *("validate", "validate", "validate", "tokenize", "train", "train", "evaluate", "register")
    ]
    assert receipt["environment"]["differences"] == []
