"""The doctor finds what was broken on purpose; the collector removes what nothing needs, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft import runs
from graft.checks import Finding
from graft.housekeeping import doctor as look
from graft.housekeeping import remove, waste
from graft.housekeeping.doctor import _disk, _locks, _packages, _pins, _remotes, _servers, stray_processes
from graft.housekeeping.waste import bytes_of
from graft.repository import Repository
from graft.workspace import Workspace, locked, replaced
from tests.conftest import git

ROOT = Path(__file__).parent.parent
DAY = 86_400.0


@pytest.fixture
def clone(tmp_path: Path) -> Workspace:
    """A git and DVC repository with one project and a default remote beside it."""
    from dvc.repo import Repo

    root = tmp_path / "clone"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    Repo.init(str(root)).close()
    (root / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = shared\n['remote \"shared\"']\n    url = ../../shared\n"
    )
    (root / ".gitignore").write_text(".graft/\n/data\n")
    (root / "params.yaml").write_text("task: {name: text_classification}\nbase: {source: ./base}\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return Workspace(root)


def old(path: Path, days: float) -> Path:
    """Give a file or folder, with what is in it, an age."""
    then = time.time() - days * DAY
    for one in [*path.rglob("*"), path]:
        os.utime(one, (then, then))
    return path


def checkpoint(workspace: Workspace, key: str, days: float) -> Path:
    folder = workspace.checkpoints / key / "step-00000010"
    folder.mkdir(parents=True)
    (folder / "state.json").write_bytes(b"x" * 1000)
    old(workspace.checkpoints / key, days)
    return workspace.checkpoints / key


def kinds(workspace: Workspace, days: float = 7.0) -> list[tuple[str, str]]:
    return sorted((one.kind, one.name) for one in waste(workspace, older_than_days=days))


# -- gc
def test_gc_takes_old_checkpoints_and_keeps_new_ones(clone: Workspace) -> None:
    gone, kept = checkpoint(clone, "aaaa", 8), checkpoint(clone, "bbbb", 6)
    items = waste(clone)
    assert [(one.kind, one.name, one.size_bytes) for one in items] == [("checkpoints", "aaaa", 1000)]
    assert items[0].age_seconds == pytest.approx(8 * DAY, abs=60)
    assert gone.is_dir()
    assert list(remove(clone, items)) == items
    assert not gone.exists()
    assert kept.is_dir()
    assert kinds(clone, 0.0) == [("checkpoints", "bbbb")]


def test_gc_leaves_the_store_alone_while_a_run_lives(clone: Workspace) -> None:
    checkpoint(clone, "aaaa", 8)
    run = runs.begin(clone)
    assert kinds(clone) == []
    run.update(state="completed")
    assert kinds(clone) == [("checkpoints", "aaaa")]


def test_gc_takes_what_a_killed_process_left_beside_the_outputs(clone: Workspace) -> None:
    code = (
        "import os, sys, pathlib\nfrom graft.workspace import replaced\n"
        "with replaced(pathlib.Path(sys.argv[1])) as new:\n    (new / 'x').write_text('half'); os._exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code, str(clone.adapter)], env=environment, check=False)
    with replaced(clone.tokens) as new:
        (new / "kept").touch()
    ((kind, name),) = kinds(clone)
    assert kind == "remains"
    assert name.startswith(".adapter.")
    list(remove(clone, waste(clone)))
    assert [path.name for path in clone.artifacts.iterdir()] == ["tokens"]


def test_gc_takes_logs_of_old_runs_but_the_newest_twenty(clone: Workspace) -> None:
    for number in range(23):
        folder = clone.runs / f"run-{number:02}"
        run = runs.Run(folder)
        started = time.time() - (100 - number) * DAY
        run.update(state="completed", started=started, ended=started + 60)
    assert kinds(clone) == [("runs", "run-00"), ("runs", "run-01"), ("runs", "run-02")]
    assert kinds(clone, 99.0) == [("runs", "run-00")]


def snapshot(clone: Workspace, text: str) -> str:
    (clone.root / "notes.txt").write_text(text)
    commit = Repository(clone).snapshot()
    (clone.root / "notes.txt").unlink()
    return commit


def refs(clone: Workspace) -> list[str]:
    return git(clone.root, "for-each-ref", "--format=%(objectname)", "refs/graft/runs").splitlines()


def test_gc_keeps_the_commit_of_a_published_version(clone: Workspace) -> None:
    git(clone.root, "commit", "--amend", "-qm", "first", "--date", "2020-01-01T00:00:00Z", "--no-edit")
    published, other, recent = (snapshot(clone, text) for text in ("published", "other", "recent"))
    clone.published.parent.mkdir(parents=True, exist_ok=True)
    clone.published.write_text(json.dumps({"uri|name|digest": {"version": "3", "context": {"git_commit": published}}}))
    runs.begin(clone, commit=recent).update(state="failed")
    assert sorted(refs(clone)) == sorted([published, other, recent])
    items = [one for one in waste(clone, older_than_days=-1.0) if one.kind == "refs"]
    assert {one.name[-12:] for one in items} == {other[:12], recent[:12]}
    git_times = {one.name[-12:]: one.age_seconds for one in items}
    assert git_times[recent[:12]] < 60  # its run began now, whatever date the commit has
    list(remove(clone, items))
    assert refs(clone) == [published]


def test_gc_takes_worktrees_of_killed_runs_only(clone: Workspace) -> None:
    repository = Repository(clone)
    with repository.worktree(repository.snapshot()) as inner:
        held = inner.repository
        killed = held.with_name("killed")
        git(clone.root, "worktree", "add", "--detach", "-q", str(killed), "HEAD")
        assert kinds(clone) == [("worktrees", "killed")]
        list(remove(clone, waste(clone)))
        assert held.is_dir()
        assert not killed.exists()
    assert kinds(clone) == []


def test_bytes_of_counts_a_hard_linked_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 500)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_bytes(b"x" * 5)
    assert bytes_of(tmp_path) == 505
    assert bytes_of(tmp_path / "none") == 0


# -- doctor
def states(findings: Iterator[Finding]) -> list[str]:
    return [one.state for one in findings]


def test_doctor_finds_no_failure_in_a_good_clone(clone: Workspace) -> None:
    found = list(look(clone))
    assert [one for one in found if one.state == "fail" and one.check not in ("packages", "disk")] == []
    assert {"python", "torch", "git", "remotes", "data", "locks", "disk", "servers", "processes"} <= {
        one.check for one in found
    }


def test_doctor_names_a_package_that_differs_from_its_pin(clone: Workspace) -> None:
    lock = clone.root / "requirements.lock"
    lock.write_text("typer==0.0.1\nrich==99.0 ; python_version < '3'\nnot-installed==1.0\n")
    (found,) = _packages(clone)
    assert (found.state, found.exit_code) == ("fail", 7)
    assert "typer" in found.text
    assert "(locked 0.0.1)" in found.text
    assert "rich" not in found.text


def test_pins_are_read_as_pip_reads_them() -> None:
    text = (
        "# why\nTyping_Extensions==4.1 ; python_version >= '3'  # why\ntorch==2.0+cpu \\\n    --hash=sha256:0\nx>=1\n"
    )
    assert dict(_pins(text)) == {"typing-extensions": "4.1", "torch": "2.0"}


def test_doctor_sees_remotes(clone: Workspace) -> None:
    assert states(_remotes(clone)) == ["ok"]
    (clone.root.parent / "shared").write_text("a file in the way")
    (found,) = _remotes(clone)
    assert found.state == "fail"
    assert "cannot be made" in found.text
    config = clone.root / ".dvc" / "config"
    config.write_text("[core]\n    analytics = false\n")
    (found,) = _remotes(clone)
    assert "no default DVC remote: dvc remote add --default" in found.text


def test_doctor_sees_a_held_lock(clone: Workspace) -> None:
    assert states(_locks(clone)) == ["ok"]
    with Repository(clone).lock("graft run"):
        (found,) = _locks(clone)
        assert found.state == "warn"
        assert f"held by process {os.getpid()} (graft run)" in found.text
    assert states(_locks(clone)) == ["ok"]
    with locked(clone.home / ".graft" / "x.lock", purpose="killed"):
        holder = clone.home / ".graft" / "x.lock.holder"
        holder.write_text(json.dumps({**json.loads(holder.read_text()), "pid": 2**22 + 1}))
        assert states(_locks(clone)) == ["ok"]


@pytest.mark.parametrize(("free", "state"), [(10**8, "fail"), (2 * 10**9, "warn"), (10**11, "ok")])
def test_doctor_judges_the_free_disk(clone: Workspace, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - free, free))  # type: ignore[attr-defined]
    assert states(_disk(clone)) == [state]


def test_doctor_sees_an_address_where_nobody_answers(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = [one for one in _servers(clone) if one.state == "fail"]
    assert [one.text.split()[0] for one in found] == ["Prefect", "MLflow"]


def test_doctor_names_who_holds_a_port(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.services import servers

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(servers, "MLFLOW_PORT", taken.getsockname()[1])
        found = [one for one in _servers(clone) if one.check == "ports"]
    assert any(str(os.getpid()) in one.text and one.state == "warn" for one in found)


def test_stray_stage_is_found(clone: Workspace) -> None:
    """A stage whose starter was killed, and which did not notice."""
    child = "import time; time.sleep(60)"
    parent = (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-c', {child!r}, '-m', 'graft', 'stage', 'train']\n"
        "child = subprocess.Popen(command, stdout=subprocess.DEVNULL)\n"
        "print(child.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], cwd=clone.root, stdout=subprocess.PIPE, text=True, check=True)
    import psutil

    stray = psutil.Process(int(done.stdout))
    try:
        if stray.ppid() != 1:
            pytest.skip("a process here is adopted by another one than init")
        assert [number for number, _ in stray_processes(clone)] == [stray.pid]
    finally:
        stray.kill()
    stray.wait(5)
    assert list(stray_processes(clone)) == []
