from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graft.errors import Interrupted
from graft.tracking import TrackingConfig, runs
from graft.tracking.curves import Curves, Tail
from graft.tracking.parameters import flat
from graft.tracking.runs import Follower
from graft.tracking.server import Connection, connect, experiment_id
from graft.workspace import Workspace

KEY = "0123456789abcdef"
CONFIG = TrackingConfig(experiment="toy")


def line(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "loss": 1 / step, "seconds": 0.5 * step, **more}


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in lines)


def live(workspace: Workspace) -> Path:
    return workspace.live / KEY / "metrics.jsonl"


def follower(workspace: Workspace, config: TrackingConfig = CONFIG, **more: Any) -> Follower:
    return Follower(workspace, config, KEY, {"graft.data": "d" * 64}, poll_seconds=0.02, on_line=lambda _: None, **more)


def train(workspace: Workspace, lines: list[dict[str, Any]], error: Exception) -> None:
    """Append ``lines`` as a training does, then end with ``error``."""
    with follower(workspace, parameters={"adapter.r": "4"}):
        append(live(workspace), lines)
        raise error


def new_run(workspace: Workspace, connection: Connection) -> str:
    experiment = experiment_id(connection, CONFIG, workspace)
    return str(runs.find_or_create(connection, experiment, KEY, name="x", tags={}).info.run_id)


def steps(connection: Connection, run_id: str, key: str = "loss") -> list[int]:
    return [point.step for point in connection.client.get_metric_history(run_id, key)]


def the_run(connection: Connection, workspace: Workspace, config: TrackingConfig = CONFIG) -> Any:
    found = connection.client.search_runs([experiment_id(connection, config, workspace)])
    assert len(found) == 1
    return found[0]


def test_follower_writes_lines_once_over_crash_and_resume(workspace: Workspace) -> None:
    with pytest.raises(Interrupted, match="stop"):
        train(workspace, [line(1), line(2), line(3, validation_accuracy=0.5)], Interrupted("stop"))
    connection = connect(CONFIG, workspace)
    assert the_run(connection, workspace).info.status == "KILLED"
    # The resumed training cuts the file back to the checkpoint of step 2 and repeats step 3 with other timings.
    live(workspace).write_text("".join(json.dumps(line(step)) + "\n" for step in (1, 2)))
    with follower(workspace) as second:
        append(live(workspace), [line(3, seconds=9.0, validation_accuracy=0.5), line(4)])
    run = the_run(connection, workspace)
    assert run.info.run_id == second.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"adapter.r": "4"}
    assert run.data.tags["graft.data"] == "d" * 64
    assert steps(connection, run.info.run_id) == [1, 2, 3, 4]
    assert steps(connection, run.info.run_id, "validation_accuracy") == [3]
    assert "seconds" not in run.data.metrics


def test_follower_touches_nothing_when_training_is_cached(workspace: Workspace) -> None:
    append(live(workspace), [line(1)])
    with follower(workspace) as one:
        pass
    assert one.run_id is None
    assert connect(CONFIG, workspace).client.get_experiment_by_name("toy") is None


def test_follower_says_failed_when_training_fails(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="diverged"):
        train(workspace, [line(1, loss=float("inf"))], ValueError("diverged"))
    run = the_run(connect(CONFIG, workspace), workspace)
    assert run.info.status == "FAILED"
    assert run.data.metrics["loss"] != run.data.metrics["loss"]  # NaN, not 1.8e308


def test_follower_goes_on_without_server(workspace: Workspace) -> None:
    said: list[str] = []
    away = TrackingConfig(uri="http://127.0.0.1:1", experiment="toy")
    with Follower(workspace, away, KEY, poll_seconds=0.02, on_line=said.append) as one:
        append(live(workspace), [line(1)])
        time.sleep(0.2)
    assert one.problem is not None
    assert "not reachable" in said[0]
    assert "graft sync" in said[-1]


def test_second_writer_of_a_run_waits(workspace: Workspace) -> None:
    with runs.writer_lock(workspace, KEY), follower(workspace) as one:
        append(live(workspace), [line(1)])
        time.sleep(0.1)
        assert one.run_id is None
    assert one.problem is not None
    assert "held by process" in one.problem


def test_orphans_are_ended_but_not_followed_runs(workspace: Workspace, connection: Connection) -> None:
    experiment = experiment_id(connection, CONFIG, workspace)
    tags = {runs.HOME: runs.home_digest(workspace)}
    orphan = runs.find_or_create(connection, experiment, "a" * 16, name="a", tags=tags).info.run_id
    followed = runs.find_or_create(connection, experiment, "b" * 16, name="b", tags=tags).info.run_id
    foreign = runs.find_or_create(connection, experiment, "c" * 16, name="c", tags={runs.HOME: "other"}).info.run_id
    with runs.writer_lock(workspace, "b" * 16):
        assert runs.end_orphans(connection, experiment, workspace) == [orphan]
    status = {one: connection.client.get_run(one).info.status for one in (orphan, followed, foreign)}
    assert status == {orphan: "KILLED", followed: "RUNNING", foreign: "RUNNING"}


def test_find_or_create_finds(workspace: Workspace, connection: Connection) -> None:
    experiment = experiment_id(connection, CONFIG, workspace)
    one, two = (runs.find_or_create(connection, experiment, KEY, name="x", tags={}) for _ in range(2))
    assert one.info.run_id == two.info.run_id


@pytest.mark.parametrize("arrived", [True, False])
def test_curves_read_back_after_failed_call(workspace: Workspace, connection: Connection, arrived: bool) -> None:
    run_id = new_run(workspace, connection)
    curves = Curves(connection, run_id)
    assert curves.write([line(1)]) == 2
    log_batch = connection.client.log_batch

    def no_answer(*arguments: Any, **more: Any) -> None:
        if arrived:
            log_batch(*arguments, **more)
        raise TimeoutError("no answer")

    connection.client.log_batch = no_answer
    with pytest.raises(TimeoutError, match="no answer"):
        curves.write([line(2)])
    connection.client.log_batch = log_batch
    assert curves.write([line(2), line(3)]) == (2 if arrived else 4)
    assert steps(connection, run_id) == [1, 2, 3]


def test_values_without_step_change_only_when_they_differ(workspace: Workspace, connection: Connection) -> None:
    run_id = new_run(workspace, connection)
    curves = Curves(connection, run_id)
    assert curves.write_values({"test/accuracy": 0.5, "test/macro_f1": 0.4}) == 2
    assert curves.write_values({"test/accuracy": 0.5, "test/macro_f1": 0.4}) == 0
    assert curves.write_values({"test/accuracy": 0.75, "test/macro_f1": 0.4}) == 1
    assert steps(connection, run_id, "test/accuracy") == [0, 1]
    assert connection.client.get_run(run_id).data.metrics["test/accuracy"] == 0.75


def test_data_set_is_logged_once(workspace: Workspace, connection: Connection) -> None:
    experiment = experiment_id(connection, CONFIG, workspace)
    for _ in range(2):
        run = runs.find_or_create(connection, experiment, KEY, name="x", tags={})
        runs.add_data(connection, run, name="toy", digest="ab" * 32, profile={"train": 60}, columns=["text"])
    inputs = the_run(connection, workspace).inputs.dataset_inputs
    assert [(one.dataset.name, one.dataset.digest) for one in inputs] == [("toy", "ab" * 16)]


def test_tail_keeps_torn_line_and_starts_again_when_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert tail.read() == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.read() == [{"step": 2}]
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n')  # cut and grown longer between two looks
    assert [one["step"] for one in tail.read()] == [1, 5, 6]


def test_flat_parameters_are_dotted_short_and_without_secrets() -> None:
    found = flat(
        {
            "adapter": {"r": 4, "target_modules": ["query", "value"], "rank_pattern": {"a.*b": 2}, "none": None},
            "hub": {"token": "hf_abc", "url": "https://me:pw@host/x", "max_length_tokens": 7, "api_key": "k"},
            "long": "x" * 5000,
        }
    )
    assert found["adapter.r"] == "4"
    assert found["adapter.target_modules"] == '["query", "value"]'
    assert found["adapter.rank_pattern.a._b"] == "2"
    assert "adapter.none" not in found
    assert found["hub.token"] == found["hub.api_key"] == "(not recorded)"
    assert found["hub.url"] == "https://me:…@host/x"
    assert found["hub.max_length_tokens"] == "7"
    assert len(found["long"]) == 1000
    assert found["long"].endswith("… [cut, 5000 characters]")


WRITER = """
import json, sys, time
from pathlib import Path
from graft.tracking import TrackingConfig
from graft.tracking.runs import Follower
from graft.workspace import Workspace
workspace, uri, key, first, last = Workspace(Path(sys.argv[1])), *sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5])
path = workspace.live / key / "metrics.jsonl"
with Follower(workspace, TrackingConfig(uri=uri, experiment="toy"), key, poll_seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    for step in range(first, last + 1):
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1 / step, "seconds": step}) + "\\n")
        time.sleep(0.1)
"""


@pytest.mark.slow
def test_follower_survives_server_and_process_killed(workspace: Workspace, server: Any) -> None:
    """The server dies and returns in mid-training, then the training process dies and another resumes."""
    config = TrackingConfig(uri=server.uri, experiment="toy")
    with Follower(workspace, config, KEY, poll_seconds=0.1, on_line=lambda _: None) as one:
        append(live(workspace), [line(step) for step in range(1, 6)])
        wait_until(lambda: one.run_id is not None)
        wait_until(lambda: steps(connect(config, workspace), one.run_id or "") == [1, 2, 3, 4, 5])
        server.kill()
        append(live(workspace), [line(step) for step in range(6, 11)])
        wait_until(lambda: one.problem is not None)
        server.start()
        append(live(workspace), [line(step) for step in range(11, 16)])
        wait_until(lambda: one.problem is None, 60)
    connection = connect(config, workspace)
    run = the_run(connection, workspace, config)
    assert steps(connection, run.info.run_id) == list(range(1, 16))
    assert run.info.status == "FINISHED"

    arguments = [sys.executable, "-c", WRITER, str(workspace.root), server.uri, KEY]
    process = subprocess.Popen([*arguments, "16", "1000"])
    wait_until(lambda: max(steps(connection, run.info.run_id)) > 17, 60)
    process.kill()
    process.wait()
    assert the_run(connection, workspace, config).info.status == "RUNNING"
    live(workspace).write_text("".join(json.dumps(line(step)) + "\n" for step in range(1, 17)))
    subprocess.run([*arguments, "17", "40"], check=True)
    final = the_run(connection, workspace, config)
    assert final.info.status == "FINISHED"
    counted = Counter(steps(connection, final.info.run_id))
    assert set(range(1, 41)) <= set(counted)
    assert set(counted.values()) == {1}


def wait_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_six_processes_open_a_fresh_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graft.workspace import Workspace; from graft.tracking import "
        "TrackingConfig; from graft.tracking.server import *; w = Workspace(Path(sys.argv[1])); c = TrackingConfig(); "
        "print(experiment_id(connect(c, w), c, w))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    answers = [(one.communicate()[0], one.returncode) for one in started]
    assert {code for _, code in answers} == {0}
    assert {answer for answer, _ in answers} == {b"1\n"}
