"""Snapshots, hidden refs and overrides, on real git repositories."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.errors import ConfigError, ResourceMissing
from graft.repository import Repository
from graft.repository.git import LARGEST_UNTRACKED_BYTES
from graft.repository.overrides import overridden
from graft.workspace import Workspace

Git = Callable[..., str]
Write = Callable[[Path, str, str], None]


def test_snapshot_of_a_clean_tree_is_head(repository: Repository, git: Git) -> None:
    assert repository.snapshot() == git(repository.workspace.root, "rev-parse", "HEAD") == repository.commit()


def test_snapshot_holds_changed_new_and_deleted_files_and_touches_nothing(
    repository: Repository, git: Git, write: Write
) -> None:
    root = repository.workspace.root
    write(root, "first.py", "print(1)\n")
    write(root, "added.py", "print(2)\n")
    write(root, "staged.py", "print(3)\n")
    git(root, "add", "staged.py")
    (root / "second.py").unlink()
    before = [git(root, "status", "--porcelain"), git(root, "log", "--all", "--format=%H", "main")]
    commit = repository.snapshot()
    assert [git(root, "status", "--porcelain"), git(root, "log", "--format=%H", "main")] == before
    assert git(root, "diff", "--name-status", "HEAD", commit).split() == [
        *("A", "added.py", "M", "first.py", "D", "second.py", "A", "staged.py")
    ]
    assert git(root, "show", f"{commit}:first.py") == "print(1)"
    assert git(root, "rev-parse", f"refs/graft/runs/{commit[:12]}") == commit
    assert git(root, "branch", "--format=%(refname:short)") == "main"


def test_snapshot_of_the_same_tree_is_the_same_commit_in_another_clone(
    repository: Repository, second_clone: Workspace, write: Write
) -> None:
    for root in (repository.workspace.root, second_clone.root):
        write(root, "first.py", "print(1)\n")
    assert repository.snapshot() == Repository(second_clone).snapshot() == repository.snapshot()


def test_snapshot_works_detached_and_with_a_hostile_environment(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Git, write: Write
) -> None:
    git(repository.workspace.root, "checkout", "--quiet", "--detach")
    write(repository.workspace.root, "first.py", "print(1)\n")
    expected = repository.snapshot()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert repository.snapshot() == expected


def test_snapshot_leaves_out_ignored_nested_secret_and_large_files(
    repository: Repository, caplog: pytest.LogCaptureFixture, git: Git, write: Write
) -> None:
    root = repository.workspace.root
    git(root, "init", "--quiet", "nested")
    write(root, "nested/file.py", "1")
    write(root, ".env", "PASSWORD=1")
    write(root, "model.bin", "0" * (LARGEST_UNTRACKED_BYTES + 1))
    write(root, "notes.md", "a note")
    with caplog.at_level(logging.WARNING):
        commit = repository.snapshot()
    assert git(root, "diff", "--name-only", "HEAD", commit) == "notes.md"
    assert ".env: left out" in caplog.text
    assert "model.bin: left out" in caplog.text


def test_snapshot_without_a_commit_says_what_to_do(tmp_path: Path, git: Git, write: Write) -> None:
    git(tmp_path, "init", "--quiet")
    write(tmp_path, "params.yaml", "")
    repository = Repository(Workspace(tmp_path))
    assert repository.commit() is None
    with pytest.raises(ConfigError, match="git commit"):
        repository.snapshot()


def test_snapshot_travels_through_origin(
    repository: Repository, second_clone: Workspace, git: Git, write: Write
) -> None:
    write(repository.workspace.root, "first.py", "print(1)\n")
    commit = repository.snapshot()
    other = Repository(second_clone)
    with pytest.raises(ResourceMissing, match="has no commit"):
        other.fetch_snapshot(commit)
    repository.push_snapshot(commit)
    repository.push_snapshot(commit)
    other.fetch_snapshot(commit)
    assert git(second_clone.root, "show", f"{commit}:first.py") == "print(1)"
    assert git(repository.workspace.root, "ls-remote", "--heads", "origin").count("refs/heads") == 1


def test_push_without_a_remote_says_so(repository: Repository, git: Git) -> None:
    git(repository.workspace.root, "remote", "remove", "origin")
    with pytest.raises(ResourceMissing, match="git remote add origin"):
        repository.push_snapshot(repository.snapshot())


def test_overrides_change_params_alone_and_keep_comments(repository: Repository, git: Git) -> None:
    root, head = repository.workspace.root, repository.snapshot()
    before = repository.workspace.params.read_text()
    commit = repository.commit_of_overrides(head, {"training.epochs": 5, "evaluation.resamples": 100})
    text = git(root, "show", f"{commit}:params.yaml")
    assert git(root, "diff", "--name-only", head, commit) == "params.yaml"
    assert "# what is learnt" in text
    assert "r: 4  # the rank" in text
    loaded = yaml.safe_load(text)
    assert (loaded["training"], loaded["evaluation"]) == ({"seed": 7, "epochs": 5}, {"resamples": 100})
    assert repository.commit_of_overrides(head, {}) == head
    assert repository.commit_of_overrides(head, {"training.epochs": 2}) == head
    assert repository.workspace.params.read_text() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.epoch": 5}, r"training\.epoch: unknown key; did you mean `training\.epochs`"),
        ({"training.epochs": "many"}, r"training\.epochs: .*'many'"),
        ({"training.epochs.more": 1}, r"`training\.epochs` is a value"),
        ({"training..epochs": 1}, "must be a dotted path"),
    ],
)
def test_a_wrong_override_is_refused_by_its_path(
    repository: Repository, overrides: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        repository.commit_of_overrides(repository.snapshot(), overrides)


@pytest.mark.parametrize("value", ["no", "1e-3", 1e-05, 0.002, True, None, [1, "on"], {"a": {"b": 1}}, "a: b # c", "ü"])
def test_an_override_is_read_back_as_it_was_given(value: Any) -> None:
    text = overridden("# top\na:\n  b: 1  # one\n", {"a.c": value})
    assert yaml.safe_load(text) == {"a": {"b": 1, "c": value}}
    assert "b: 1  # one" in text
