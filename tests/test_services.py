"""Local servers: found again, on free ports, and gone when their starter has gone, however it went."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from graft import services
from graft.errors import ConfigError, ResourceMissing
from graft.runs import process_started
from graft.workspace import Workspace, read_json, write_json

SOURCE = Path(services.__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def until(true: Callable[[], object], seconds: float = 15.0) -> bool:
    """Poll until ``true()`` holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gone(process: int) -> bool:
    return process_started(process) is None


def test_a_taken_port_is_refused_with_its_holder() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(ResourceMissing, match=f"port {port} .* taken by process {os.getpid()}"):
            services.free_port(port)
        assert services.free_port(start=port) > port
    assert services.free_port(port) == port


def test_the_environment_names_the_server_first(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.server_url(workspace) is None
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    assert services.server_url(workspace) == "http://prefect.example.org/api"


def test_prefect_home_is_the_clones_unless_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.environment(workspace)["PREFECT_HOME"] == str(workspace.root / ".graft" / "prefect")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    assert "PREFECT_HOME" not in services.environment(workspace)
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    assert services.environment(workspace)["PREFECT_SERVER_ANALYTICS_ENABLED"] == "true"


def test_a_server_that_died_is_not_found(workspace: Workspace) -> None:
    entry = {"url": "http://127.0.0.1:9/api", "process": os.getpid(), "process_started": process_started(os.getpid())}
    write_json(workspace.root / ".graft" / "services.json", {"prefect": entry})
    assert services.server_url(workspace) is None
    assert services.mlflow_url(workspace) is None


def test_an_api_that_does_not_answer_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with services.prefect_api(workspace) as (url, wait):
        assert url == "http://127.0.0.1:9/api"
        with pytest.raises(
            ResourceMissing, match=r"PREFECT_API_URL: Prefect at http://127\.0\.0\.1:9/api does not answer"
        ):
            wait()


HTTP = """\
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def test_a_server_is_waited_for_and_ended_with_its_children(workspace: Workspace) -> None:
    port = services.free_port()
    inner = HTTP.format(port=port)
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    server = services.start(
        "test", [sys.executable, "-c", outer], f"http://127.0.0.1:{port}", workspace.root / "log", {}
    )
    assert server.wait(20) == f"http://127.0.0.1:{port}"
    children = [one.pid for one in psutil.Process(server.process.pid).children(recursive=True)]
    assert len(children) == 2
    server.end()
    assert all(map(gone, [server.process.pid, *children]))


def test_a_server_that_does_not_start_shows_its_log(workspace: Workspace) -> None:
    server = services.start(
        "test",
        [sys.executable, "-c", "raise SystemExit('no such database')"],
        "http://127.0.0.1:9",
        workspace.root / "log",
        {},
    )
    with pytest.raises(ResourceMissing, match=r"(?s)the test server did not start.*no such database"):
        server.wait(20)
    server.end()


def test_a_server_that_is_slow_is_not_said_to_have_failed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    monkeypatch.setenv("GRAFT_START_SECONDS", "0.2")
    server = services.start("test", command, "http://127.0.0.1:9", workspace.root / "log", {})
    try:
        with pytest.raises(ResourceMissing, match=r"not answer within 0\.2 seconds; .*GRAFT_START_SECONDS=0\.4 \(/"):
            server.wait()
        monkeypatch.setenv("GRAFT_START_SECONDS", "soon")
        with pytest.raises(ConfigError, match="GRAFT_START_SECONDS: must be a number"):
            server.wait()
    finally:
        server.end()


def test_no_server_outlives_a_starter_that_was_killed(tmp_path: Path) -> None:
    starter = f"""
import sys, time
from pathlib import Path
from graft import services
command = [sys.executable, "-c", "import time; time.sleep(300)"]
server = services.start("test", command, "http://x", Path({str(tmp_path / "log")!r}), {{}})
print(server.process.pid, flush=True)
time.sleep(300)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", starter],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert process.stdout is not None
    guard = int(process.stdout.readline())
    assert until(lambda: psutil.Process(guard).children())
    child = psutil.Process(guard).children()[0].pid
    with process:
        process.kill()
    assert until(lambda: gone(guard) and gone(child))


@pytest.mark.slow
def test_ui_serves_both_and_ends_them(tmp_path: Path) -> None:
    command = """
from pathlib import Path
from graft import services
from graft.tracking import TrackingConfig
from graft.workspace import Workspace
services.ui(Workspace(Path.cwd()), TrackingConfig())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    workspace = Workspace(tmp_path)
    try:
        assert until(lambda: services.server_url(workspace), 120), process.poll()
        state = read_json(tmp_path / ".graft" / "services.json")
        assert services.healthy(state["mlflow"]["url"])
        assert state["prefect"]["url"] == services.server_url(workspace)
        guards = [state[name]["process"] for name in ("mlflow", "prefect")]
        servers = [one.pid for guard in guards for one in psutil.Process(guard).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert all(map(gone, [*guards, *servers]))
        assert services.server_url(workspace) is None
        assert process.stdout is not None
        assert "MLflow   http://127.0.0.1:" in process.stdout.read()
    finally:
        with process:
            process.kill()
