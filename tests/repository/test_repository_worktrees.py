"""Worktrees: beside the user's files, on the clone's cache, remotes and home, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import graft
from graft.errors import ResourceMissing
from graft.repository import Repository
from graft.workspace import Workspace

Bring = Callable[[Repository, str], None]
Executed = Callable[[], list[str]]
Git = Callable[..., str]
Write = Callable[[Path, str, str], None]


def quiet(line: str) -> None:
    """Print nothing."""


def test_a_run_in_a_worktree_shares_the_cache_and_leaves_the_clone_alone(
    repository: Repository, executed: Executed, write: Write, git: Git, bring: Bring
) -> None:
    root = repository.workspace.root
    bring(repository, "first")
    write(root, "second.py", (root / "second.py").read_text().replace("* 2", "* 3"))
    before = _files(root)
    with repository.worktree(repository.snapshot(), {"training.epochs": 9}) as inner:
        inside = Repository(inner)
        assert inner.root.is_relative_to(root / ".graft" / "worktrees")
        assert inner.home == root
        assert os.environ["GRAFT_HOME"] == str(root)
        assert "epochs: 9" in inner.params.read_text()
        assert not inner.data.exists()
        assert inside.pull_data()  # out of the shared cache: nothing was pushed
        for name in ("first", "second"):
            bring(inside, name)
        assert (inner.artifacts / "second/result.txt").read_text() == "GOOD TEXT\n" * 3
        result = inside.snapshot()
    assert "GRAFT_HOME" not in os.environ
    assert not inner.root.exists()
    assert git(root, "worktree", "list").count("\n") == 0
    assert list((root / ".graft" / "worktrees").iterdir()) == []
    assert _files(root) == before
    assert "epochs: 9" in git(root, "show", f"{result}:dvc.lock")
    assert executed() == ["first", "first", "second"]


def test_a_worktree_pushes_where_the_clone_does(repository: Repository, tmp_path: Path) -> None:
    local = repository.workspace.root / ".dvc" / "config.local"
    local.write_text(
        "['remote \"mine\"']\n    url = ../../my place\n[core]\n    remote = mine\n    hardlink_lock = true\n"
    )
    with repository.worktree(repository.snapshot()) as inner:
        text = (inner.root / ".dvc" / "config.local").read_text()
        Repository(inner).pull_data()
        Repository(inner).run_stage("first", on_line=quiet)
        assert Repository(inner).push() > 0
    assert f"url = {tmp_path / 'my place'}" in text
    assert f"url = {tmp_path / 'shared'}" in text
    assert f"dir = {repository.workspace.root / '.dvc' / 'cache'}" in text
    assert "hardlink_lock = true" in text
    assert (tmp_path / "my place" / "files").is_dir()


def test_a_worktree_names_the_folder_of_a_relative_base(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_BASES", "/elsewhere")
    with repository.worktree(repository.snapshot()):
        assert os.environ["GRAFT_BASES"] == f"{repository.workspace.root / 'base'}:/elsewhere"
    assert os.environ["GRAFT_BASES"] == "/elsewhere"


def test_a_project_in_a_folder_keeps_its_place(repository: Repository, git: Git, write: Write) -> None:
    root = repository.workspace.root
    for name in ("dvc.yaml", "params.yaml", "first.py", "second.py", "run.sh"):
        write(root, f"projects/x/{name}", (root / name).read_text())
    write(root, "projects/x/.gitignore", "/data\n/artifacts\n")
    write(root, "projects/x/data/train/a.txt", "good x\n")
    project = Repository(Workspace(root / "projects" / "x"))
    project.add_data()
    with project.worktree(project.snapshot(), {"training.epochs": 4}) as inner:
        assert inner.name == "projects/x"
        assert inner.dot == root / ".graft" / "projects" / "x"
        Repository(inner).pull_data()
        assert Repository(inner).run_stage("first", on_line=quiet).outcome == "ran"
        assert (inner.artifacts / "first/upper.txt").read_text() == "GOOD X\n"
    assert project.run_stage("first", on_line=quiet).outcome == "ran"  # other params
    assert set(project.status()) == {"first", "second"}


def test_what_a_killed_run_left_is_removed_and_a_live_one_is_not(repository: Repository, git: Git) -> None:
    root = repository.workspace.root
    program = (
        "import os; from pathlib import Path; from graft.repository import Repository; from graft.workspace import "
        f"Workspace\nr = Repository(Workspace(Path({str(root)!r})))\nwith r.worktree(r.snapshot()): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, env=this_code()).returncode == 9
    left = [path.name for path in (root / ".graft" / "worktrees").iterdir() if path.is_dir()]
    assert len(left) == 1
    with repository.worktree(repository.snapshot()) as inner:
        assert git(root, "worktree", "list").count("\n") == 1
        assert repository.remove_stale_worktrees() == []
        assert inner.params.is_file()
    assert not list((root / ".graft" / "worktrees").iterdir())
    assert repository.remove_stale_worktrees() == []


def test_a_worktree_of_an_unknown_commit_is_refused(repository: Repository) -> None:
    with pytest.raises(ResourceMissing, match="has no commit"), repository.worktree("0123456789" * 4):
        pass


def _files(root: Path) -> dict[str, bytes]:
    skipped = (".git", ".graft", ".dvc")
    found = (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in skipped)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_removal_survives_a_folder_that_is_gone(repository: Repository) -> None:
    with repository.worktree(repository.snapshot()) as inner:
        shutil.rmtree(inner.root)
    assert repository.remove_stale_worktrees() == []


def this_code() -> dict[str, str]:
    """Return an environment in which a child imports the code that is tested, not the installed one."""
    return {**os.environ, "PYTHONPATH": str(Path(graft.__file__).parents[1])}
