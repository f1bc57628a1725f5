"""Results of single parts: found by what they were made of, verified, made once, by any number of processes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError, DataError, ResourceMissing
from graft.part_results import Job, PartResults, _Progress, key_of, processes_for


def double(argument: int, folder: Path, add: Callable[[int], None]) -> None:
    """Write twice the number, and the process that did it beside the result."""
    add(1)
    (folder / "number.txt").write_text(str(2 * argument), encoding="utf-8")


def refuse(argument: int, folder: Path, add: Callable[[int], None]) -> None:
    (folder / "half.txt").write_text("half", encoding="utf-8")
    raise DataError(f"data/train/part-{argument}.jsonl:1: wrong", problems=["one"])


def die(argument: int, folder: Path, add: Callable[[int], None]) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    paths = [tmp_path / f"part-{number}.jsonl" for number in range(3)]
    for path in paths:
        path.write_text("{}\n", encoding="utf-8")
    return [Job(f"key{number}", path, number) for number, path in enumerate(paths)]


@pytest.fixture
def results(tmp_path: Path) -> PartResults:
    return PartResults("validate", tmp_path / "store")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_each_result_is_made_once(
    results: PartResults, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    monkeypatch.setenv("GRAFT_PROCESSES", processes)
    assert results.make(jobs[:2], double) == 2
    assert results.make(jobs, double) == 1
    found = [results.find(job.key) for job in jobs]
    assert [(one / "number.txt").read_text() for one in found if one] == ["0", "2", "4"]


def test_processes_run_this_code_after_a_packaged_model_put_its_own_in_front(
    results: PartResults, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "code" / "graft"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(other.parent), *sys.path])
    monkeypatch.setenv("GRAFT_PROCESSES", "2")
    assert results.make(jobs[:2], double) == 2
    assert sys.path[0] == str(other.parent)


def test_parts_with_one_content_are_worked_on_once(results: PartResults, jobs: list[Job]) -> None:
    assert results.make([jobs[0], Job(jobs[0].key, jobs[1].path, 7)], double) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "number.txt").write_text("3", encoding="utf-8"),
        lambda folder: (folder / "number.txt").unlink(),
        lambda folder: (folder / "digests.json").write_text("{", encoding="utf-8"),
        lambda folder: (folder / "foreign.txt").write_text("", encoding="utf-8"),
    ],
    ids=["other bytes", "a file is gone", "a cut list", "a foreign file"],
)
def test_a_damaged_result_is_made_again(results: PartResults, jobs: list[Job], damage: Callable[[Path], Any]) -> None:
    results.make(jobs[:1], double)
    damage(results.folder / jobs[0].key)
    assert results.find(jobs[0].key) is None
    assert results.make(jobs[:1], double) == 1
    assert results.find(jobs[0].key) is not None


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_error_keeps_its_kind_and_leaves_nothing(
    results: PartResults, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    monkeypatch.setenv("GRAFT_PROCESSES", processes)
    with pytest.raises(DataError, match="wrong") as caught:
        results.make(jobs, refuse)
    assert caught.value.problems == ("one",)
    assert not [path for path in results.folder.iterdir() if not path.name.startswith(".")]


def test_a_killed_process_is_a_missing_resource(
    results: PartResults, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_PROCESSES", "2")
    with pytest.raises(ResourceMissing, match=r"validate: a process was killed at one of part-\d"):
        results.make(jobs, die)


def test_the_key_is_of_the_content_not_of_the_name() -> None:
    key = key_of(Path("data/train/a.jsonl"), "d1", {"task": "t"})
    assert key == key_of(Path("elsewhere/b.jsonl"), "d1", {"task": "t"})
    others = [
        key_of(Path("a.csv"), "d1", {"task": "t"}),
        key_of(Path("a.jsonl"), "d2", {"task": "t"}),
        key_of(Path("a.jsonl"), "d1", {"task": "u"}),
    ]
    assert len({key, *others}) == 4


def test_a_few_megabytes_need_no_process(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFT_PROCESSES", raising=False)
    assert processes_for(jobs) == 1
    assert processes_for([]) == 1


@pytest.mark.parametrize("given", ["0", "two", "-1"])
def test_a_wrong_number_of_processes_is_refused(jobs: list[Job], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("GRAFT_PROCESSES", given)
    with pytest.raises(ConfigError, match="GRAFT_PROCESSES: expected a whole number from 1 on"):
        processes_for(jobs)


def test_a_result_that_another_process_made_meanwhile_is_kept(results: PartResults) -> None:
    with results.made("key") as mine:
        (mine / "number.txt").write_text("1", encoding="utf-8")
        with results.made("key") as theirs:
            (theirs / "number.txt").write_text("1", encoding="utf-8")
        there = results.folder / "key"
        inode = (there / "number.txt").stat().st_ino
    assert (there / "number.txt").stat().st_ino == inode
    assert [path.name for path in results.folder.iterdir()] == ["key"]


def test_many_at_once_on_one_key_leave_one_result(results: PartResults, jobs: list[Job]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            job = Job(f"shared{number}", jobs[0].path, number)
            list(pool.map(lambda _, job=job: results.make([job], double), range(8)))
            found = results.find(job.key)
            assert found is not None
            assert (found / "number.txt").read_text() == str(2 * number)


def test_a_store_that_cannot_be_written_is_named(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceMissing, match=r"file/store: cannot be written \(Not a directory\)"):
        PartResults("validate", tmp_path / "file" / "store").make(jobs, double)


def test_time_left_is_told_once_rows_are_counted_for_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = []
    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"x" * 100)
        jobs.append(Job(str(number), path, path))
    clock = [0.0]
    monkeypatch.setattr("graft.part_results.time.monotonic", lambda: clock[0])

    def told(progress: _Progress, steps: list[tuple[float, int]]) -> list[str]:
        found = []
        for seconds, rows in steps:
            clock[0] = seconds
            progress.show(rows)
            found += capsys.readouterr().out.splitlines()
        return [line.partition("rows/s")[2] for line in found]

    # Ten seconds of starting, then 100 rows a second, of 4000: no line says that hours are left.
    steps = [(3.0, 0), (10.0, 100), (13.0, 400), (16.0, 700), (20.0, 1100)]
    assert told(_Progress("validate", jobs, 4000), steps) == ["", "", "", ", 33 s left", ", 29 s left"]
    clock[0] = 0.0
    unknown = _Progress("validate", jobs, None)
    assert told(unknown, [(1.0, 100), (9.0, 900)]) == [""]
    clock[0] = 10.0
    unknown.rows = 1000
    unknown.end(jobs[0])
    assert told(unknown, [(12.0, 1200)]) == [f", {(4000 - 1200) // 100} s left"]
