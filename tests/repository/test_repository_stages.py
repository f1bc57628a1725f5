"""Stages through DVC in their own process group: outcomes, failures, killing, integrity."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import graft
from graft.errors import GateRefused, GraftError, InputError, IntegrityError, Interrupted, Locked
from graft.repository import Repository, StageResult
from graft.repository.processes import Transcript, error_of
from graft.workspace import Workspace

Bring = Callable[[Repository, str], None]
Executed = Callable[[], list[str]]
Write = Callable[[Path, str, str], None]
SLEEPER = """\
import os, pathlib, time
pathlib.Path("../pid").write_text(str(os.getpid()))
print("sleeping")
time.sleep(60)
"""


def test_a_stage_runs_then_is_cached_then_restored(repository: Repository, executed: Executed) -> None:
    lines: list[str] = []
    assert repository.run_stage("first", on_line=lines.append).outcome == "ran"
    assert lines == ["Running stage 'first':", "> sh run.sh first", "first: done"]
    assert repository.run_stage("first", on_line=lines.append).outcome == "cached"
    shutil.rmtree(repository.workspace.artifacts)
    result = repository.run_stage("first", on_line=lines.append)
    assert result == StageResult("restored", result.seconds)
    assert (repository.workspace.artifacts / "first" / "upper.txt").read_text() == "GOOD TEXT\n"
    assert repository.run_stage("first", force=True, on_line=lines.append).outcome == "ran"
    assert executed() == ["first", "first"]


def test_a_failing_stage_raises_its_class_and_message_and_gets_its_outputs_back(
    repository: Repository, write: Write, bring: Bring
) -> None:
    root = repository.workspace.root
    bring(repository, "first")
    write(root, "data/train/a.txt", "bad text\n")
    repository.add_data()
    lines: list[str] = []
    with pytest.raises(InputError, match=r"\Adata/train/a.txt:1: text: expected good\n  - found bad\Z"):
        repository.run_stage("first", on_line=lines.append)
    assert lines  # what it printed before; the message is said once, by whoever catches the error
    assert not any("data/train/a.txt:1" in line or "found bad" in line for line in lines)
    assert (root / "artifacts/first/upper.txt").read_text() == "GOOD TEXT\n"
    assert (root / "artifacts/first/count.txt").read_text() == "10"


def test_lines_that_only_look_like_an_error_are_said() -> None:
    transcript = Transcript()
    found = [said for line in ("error: one", "  - more", "error: two", "three") for said in transcript.take(line)]
    assert (found, transcript.held) == (["error: one", "  - more"], ["error: two", "three"])
    assert transcript.error == ["two", "three"]


def test_a_stage_without_a_message_is_reported_by_its_last_line(repository: Repository, write: Write) -> None:
    write(repository.workspace.root, "first.py", "raise ValueError('no such thing')\n")
    with pytest.raises(GraftError, match="first: failed with exit code 1: ValueError: no such thing"):
        repository.run_stage("first", on_line=lambda line: None)


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (3, GateRefused), (6, IntegrityError), (8, Locked)])
def test_exit_codes_stand_for_error_classes(code: int, kind: type[GraftError]) -> None:
    assert type(error_of("train", code, Transcript(error=["why"]))) is kind


@pytest.mark.parametrize("code", [137, 143, -9])
def test_a_killed_stage_is_an_interruption(code: int) -> None:
    assert isinstance(error_of("train", code, Transcript()), Interrupted)


def test_an_unknown_stage_and_a_missing_section_are_refused(repository: Repository, write: Write) -> None:
    with pytest.raises(InputError, match=r"stage 'third': dvc.yaml has first, second"):
        repository.run_stage("third", on_line=lambda line: None)
    write(repository.workspace.root, "params.yaml", "task:\n  name: x\n")
    with pytest.raises(InputError, match=r"params.yaml: stage first depends on sections .* write `training: \{\}`"):
        repository.run_stage("first", on_line=lambda line: None)


def test_a_stage_depends_on_what_it_reads_of_sources_lock(
    repository: Repository, bring: Bring, executed: Executed, write: Write
) -> None:
    root = repository.workspace.root
    text = (root / "dvc.yaml").read_text()
    text = text.replace("params: [training]", "params: [training, {sources.lock: [champion]}]")
    write(root, "dvc.yaml", text.replace("params: [adapter]", "params: [adapter, {sources.lock: [base]}]"))
    lock = {"base": {"digest": "a", "files": {"model.safetensors": "b"}}, "champion": None}
    write(root, "sources.lock", json.dumps(lock))
    for stage in ("first", "second"):
        bring(repository, stage)
    assert repository.is_current()
    write(root, "sources.lock", json.dumps(lock | {"champion": {"version": "2"}}))
    found = repository.status()
    assert "sources.lock: champion.version: (none) -> 2" in [str(one) for one in found["first"]]
    assert {one.kind for one in found["first"]} == {"lock"}
    assert found["second"] == []
    for stage in ("first", "second"):
        bring(repository, stage)
    assert executed() == ["first", "second", "first"]
    write(root, "sources.lock", json.dumps({"base": lock["base"]}))
    with pytest.raises(InputError, match=r"sources.lock: pins no champion, which stage first reads; run `graft lock`"):
        bring(repository, "first")


def test_an_exception_in_the_caller_kills_the_stage_and_restores_its_outputs(
    repository: Repository, write: Write, tmp_path: Path, bring: Bring
) -> None:
    bring(repository, "first")
    write(repository.workspace.root, "first.py", SLEEPER)

    def stop(line: str) -> None:
        if line == "sleeping":
            raise KeyboardInterrupt("the user")

    with pytest.raises(KeyboardInterrupt, match="the user"):
        repository.run_stage("first", on_line=stop)
    assert not _alive(int((tmp_path / "pid").read_text()))
    assert (repository.workspace.artifacts / "first" / "upper.txt").read_text() == "GOOD TEXT\n"


def test_killing_the_caller_kills_the_stage(clone: Workspace, write: Write, tmp_path: Path) -> None:
    write(clone.root, "first.py", SLEEPER)
    program = (
        "from pathlib import Path; from graft.repository import Repository; from graft.workspace import Workspace; "
        f"Repository(Workspace(Path({str(clone.root)!r}))).run_stage('first')"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=this_code())
    pid = _pid_when_written(tmp_path / "pid")
    assert _alive(pid)
    caller.send_signal(signal.SIGKILL)
    caller.communicate()
    _wait_until(lambda: not _alive(pid), seconds=5.0)
    # Nothing that the killed one held is in the way of the next run.
    write(clone.root, "first.py", "import pathlib; pathlib.Path('artifacts/first').mkdir(parents=True)\n")
    assert Repository(clone).run_stage("first", on_line=lambda line: None).outcome == "ran"


def test_the_stage_gets_the_environment_and_an_empty_input(repository: Repository, write: Write) -> None:
    write(
        repository.workspace.root,
        "first.py",
        "import os, sys, pathlib; pathlib.Path('artifacts/first').mkdir(parents=True)\n"
        "pathlib.Path('artifacts/first/a').write_text('a')\n"
        "print(os.environ['GRAFT_HOME'], os.environ['EXTRA'], repr(sys.stdin.read()))\n",
    )
    lines: list[str] = []
    repository.run_stage("first", on_line=lines.append, environment={"EXTRA": "yes"})
    assert lines[-1] == f"{repository.workspace.root} yes ''"


def test_a_damaged_input_is_refused_by_name_and_the_next_run_heals_it(
    repository: Repository, executed: Executed, write: Write, bring: Bring
) -> None:
    root, damaged = repository.workspace.root, repository.workspace.artifacts / "first" / "upper.txt"
    bring(repository, "first")
    (cached,) = (path for path in (root / ".dvc/cache/files/md5").rglob("*") if _text(path) == "GOOD TEXT\n")
    cached.chmod(0o644)
    cached.write_text("EVIL TEXT\n")
    cached.chmod(0o444)  # DVC takes a read-only object for intact
    shutil.rmtree(repository.workspace.artifacts)
    # DVC checks the damaged object out and calls the stage current.
    assert repository.run_stage("first", on_line=lambda line: None).outcome == "restored"
    assert damaged.read_text() == "EVIL TEXT\n"
    assert repository.status()["first"] == []
    with pytest.raises(IntegrityError, match=r"artifacts/first/upper\.txt: md5 .*its object in the cache was damaged"):
        repository.run_stage("second", on_line=lambda line: None)
    assert repository.run_stage("first", on_line=lambda line: None).outcome == "ran"
    repository.verify_outputs(["first"])
    assert cached.read_text() == "GOOD TEXT\n"
    assert repository.run_stage("second", on_line=lambda line: None).outcome == "ran"
    assert executed() == ["first", "first", "second"]


def test_damaged_data_is_refused(repository: Repository) -> None:
    path = repository.workspace.data / "train" / "a.txt"
    assert repository.data_changes() == []  # DVC remembers size and time
    times = path.stat()
    path.write_text("GOOD text\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"data/train/a\.txt: md5"):
        repository.run_stage("first", on_line=lambda line: None)
    assert repository.data_changes() == ["data/train/a.txt: modified"]


def test_changed_data_is_refused_by_file(repository: Repository, write: Write) -> None:
    write(repository.workspace.root, "data/train/new.txt", "text\n")
    with pytest.raises(InputError, match=r"--add-data[^$]*data/train/new\.txt: added"):
        repository.run_stage("first", on_line=lambda line: None)


def test_lock_names_its_holder(repository: Repository) -> None:
    with repository.lock("a nightly run"), pytest.raises(Locked, match="a nightly run"), repository.lock("another"):
        pass


def _text(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.is_file() else None


def _alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def _pid_when_written(path: Path) -> int:
    _wait_until(lambda: path.exists() and path.read_text() != "", seconds=20.0)
    return int(path.read_text())


def _wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def this_code() -> dict[str, str]:
    """Return an environment in which a child imports the code that is tested, not the installed one."""
    return {**os.environ, "PYTHONPATH": str(Path(graft.__file__).parents[1])}
