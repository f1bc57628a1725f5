"""Workspace: finding the project, replacing folders as a whole, locks that die with their process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graft.errors import ConfigError, Locked
from graft.workspace import (
    HOME_VARIABLE,
    TEMPORARY,
    TYPED_VARIABLE,
    Workspace,
    command,
    locked,
    read_json,
    replaced,
    suggested,
    write_json,
    write_text,
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "projects" / "reviews" / "data" / "train").mkdir(parents=True)
    (tmp_path / "projects" / "reviews" / "params.yaml").touch()
    return tmp_path


def test_find_takes_the_nearest_project_above(clone: Path) -> None:
    assert Workspace.find(clone / "projects" / "reviews" / "data" / "train").root == clone / "projects" / "reviews"
    assert Workspace.find(clone / "projects").root == clone


def test_find_without_a_project_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no params\.yaml here or above; `graft init` makes a project"):
        Workspace.find(tmp_path)


def test_projects_of_one_clone_share_the_store_and_nothing_else(clone: Path) -> None:
    default, reviews = Workspace(clone), Workspace(clone / "projects" / "reviews")
    assert (default.name, reviews.name) == (".", "projects/reviews")
    assert default.store == reviews.store == clone / ".graft" / "store"
    for place in ("runs", "failed", "published", "artifacts", "dvc_lock"):
        assert getattr(default, place) != getattr(reviews, place)


def test_worktree_keeps_the_home_of_its_clone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worktree = tmp_path / "elsewhere"
    worktree.mkdir()
    (worktree / ".git").write_text("gitdir: somewhere\n")
    assert Workspace(worktree).home == worktree
    monkeypatch.setenv(HOME_VARIABLE, str(clone))
    assert Workspace(worktree).home == clone
    assert Workspace(worktree).store == clone / ".graft" / "store"
    assert Workspace(worktree).repository == worktree


def test_folder_without_git_is_its_own_repository(tmp_path: Path) -> None:
    assert Workspace(tmp_path).repository == tmp_path
    assert Workspace(tmp_path).name == "."


def test_replaced_swaps_the_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").touch()
    with replaced(folder) as new:
        (new / "new").touch()
        assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [folder]


def test_replaced_makes_missing_parents(tmp_path: Path) -> None:
    with replaced(tmp_path / "a" / "b") as new:
        (new / "x").touch()
    assert (tmp_path / "a" / "b" / "x").is_file()


@pytest.mark.parametrize("problem", [ValueError("no"), KeyboardInterrupt("stop")])
def test_replaced_keeps_the_old_folder_on_error(tmp_path: Path, problem: BaseException) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").touch()

    def write_half() -> None:
        with replaced(folder) as new:
            (new / "half").touch()
            raise problem

    with pytest.raises(type(problem), match=str(problem)):
        write_half()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_replaced_restores_the_old_folder_when_the_rename_fails(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(FileNotFoundError, match="No such file"), replaced(folder) as new:
        new.rmdir()
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_what_a_killed_process_leaves_has_the_temporary_name(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom graft.workspace import replaced\n"
        "with replaced(pathlib.Path(sys.argv[1])) as new:\n    (new / 'x').touch(); os._exit(9)\n"
    )
    source = Path(__file__).parent.parent / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "adapter")], env=environment, check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".adapter.")
    assert left.name.endswith(TEMPORARY)


def test_write_json_gives_equal_bytes_for_equal_values(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": 1}


def test_write_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_write_text_keeps_the_old_file_on_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\r\n")
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        write_text(path, "new \ud800")
    assert path.read_bytes() == b"old\r\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_read_json_of_a_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.json: not valid JSON"):
        read_json(path)


def test_read_json_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.json: no such file; run the stage that writes it"):
        read_json(tmp_path / "a.json")


def test_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run"
    with locked(path, purpose="graft run"):
        with (
            pytest.raises(Locked, match=rf"held by process {os.getpid()} \(graft run\) since \d{{4}}-"),
            locked(path, purpose="another"),
        ):
            pass
        assert json.loads(path.with_name("run.holder").read_text())["purpose"] == "graft run"
    with locked(path, purpose="again"):
        pass
    assert not path.with_name("run.holder").exists()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom graft.workspace import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), purpose='x'):\n    os._exit(9)\n"
    )
    source = Path(__file__).parent.parent / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment, check=False)
    assert (tmp_path / "run.holder").exists()
    with locked(tmp_path / "run", purpose="next"):
        assert json.loads((tmp_path / "run.holder").read_text())["purpose"] == "next"


def test_command_is_typed_by_its_path_where_the_environment_is_not_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / ".venv" / "bin" / "graft"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(own.parent.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command("ui") == ".venv/bin/graft ui"
    monkeypatch.chdir("/")
    assert command("ui") == f"{own.relative_to('/')} ui"
    monkeypatch.setenv("PATH", f"{own.parent}:/usr/bin")
    assert command("ui") == "graft ui"


def test_suggested_commands_name_the_project_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x: run `graft lock`, or `graft run --force`; `graft init` makes one, graft is here"
    assert suggested(text) == text
    monkeypatch.setenv(TYPED_VARIABLE, "my projects/x")
    found = suggested(text)
    assert found == (
        "x: run `graft -C 'my projects/x' lock`, or `graft -C 'my projects/x' run --force`; `graft init` makes one, "
        "graft is here"
    )
    assert suggested(found) == found
    assert command("ui").endswith("graft -C 'my projects/x' ui")


def test_replaced_folder_can_be_read_by_everybody(tmp_path: Path) -> None:
    with replaced(tmp_path / "out") as folder:
        (folder / "weights.safetensors").write_bytes(b"x")
        (folder / "weights.safetensors").chmod(0o600)
    assert (tmp_path / "out" / "weights.safetensors").stat().st_mode & 0o777 == 0o644
