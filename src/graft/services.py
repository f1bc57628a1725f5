"""Local servers and workers: start them, find them again, end them.

MLflow and Prefect each have a server and, for people, a UI. Both bind to the loopback address and keep their state in
the clone (``mlflow/store``, ``.graft/prefect``). A pipeline run uses the Prefect server that it finds (the environment
variable ``PREFECT_API_URL``, then one started by ``graft ui`` or ``graft worker``); where there is none it starts a
private one, without UI, for as long as it lasts: about 3 s and 3 CPU s, most of which pass while Prefect is imported.

Every process is started behind a guard that leads its process group and ends it when the pipe to its starter closes:
no server outlives the command that started it, not even after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import ResourceMissing
from graft.runs import process_started
from graft.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from graft.tracking import TrackingConfig

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
START_SECONDS = 120.0
END_SECONDS = 8.0
API_VARIABLE, HOME_VARIABLE = "PREFECT_API_URL", "PREFECT_HOME"
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}
"""Prefect settings of everything that Graft starts; the user's own win."""
PRIVATE = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}


# -- finding
def prefect_home(workspace: Workspace) -> Path:
    """Return Prefect's folder: ``PREFECT_HOME``, else ``.graft/prefect`` of the clone (not ``~/.prefect``)."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else workspace.home / ".graft" / "prefect"


def environment(workspace: Workspace, api_url: str | None = None) -> dict[str, str]:
    """Return what a process needs in its environment to use this clone's Prefect; the user's own settings win."""
    given = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
    if API_VARIABLE not in os.environ:
        given[HOME_VARIABLE] = str(prefect_home(workspace))
    if api_url:
        given[API_VARIABLE] = api_url
    return given


def server_url(workspace: Workspace) -> str | None:
    """Return the URL of the Prefect API to use: ``PREFECT_API_URL``, else that of a server which this clone runs."""
    return os.environ.get(API_VARIABLE) or _running(workspace).get("prefect")


def mlflow_url(workspace: Workspace) -> str | None:
    """Return the URL of the MLflow server that this clone runs on its default store, if it does."""
    return _running(workspace).get("mlflow")


def _running(workspace: Workspace) -> dict[str, str]:
    """Return the servers that answer, by name, of those that the state file names."""
    try:
        state = json.loads(_state(workspace).read_text(encoding="utf-8"))
        return {
            name: one["url"]
            for name, one in state.items()
            if process_started(one["process"]) == one["process_started"] and healthy(one["url"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _state(workspace: Workspace) -> Path:
    return workspace.home / ".graft" / "services.json"


def healthy(url: str, timeout_seconds: float = 2.0) -> bool:
    """Return whether the server at ``url`` answers its health check."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout_seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


# -- ports
def free_port(wanted: int | None = None, *, start: int = 0) -> int:
    """Return ``wanted`` if it is free, else the first free port from ``start`` on (0: any).

    Raises:
        ResourceMissing: ``wanted`` is taken; the message says by whom where the system tells.
    """
    if wanted is not None:
        if _is_free(wanted):
            return wanted
        raise ResourceMissing(f"port {wanted} of {HOST}: taken by {_holder(wanted)}; end it or choose another port")
    for port in range(start, start + 100) if start else ():
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    return "another process"


# -- starting and ending
@dataclass(frozen=True)
class Server:
    """A server process behind its guard."""

    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self, timeout_seconds: float = START_SECONDS) -> str:
        """Wait until the server answers; return its URL.

        Raises:
            ResourceMissing: it ended, or does not answer in time; the message has the end of its log.
        """
        until = time.monotonic() + timeout_seconds
        while not healthy(self.url):
            if self.process.poll() is not None or time.monotonic() > until:
                tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
                raise ResourceMissing("\n  ".join([f"the {self.name} server did not start ({self.log}):", *tail]))
            time.sleep(0.05)
        return self.url

    def end(self) -> None:
        """End the server and everything it started."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(name: str, command: list[str], url: str, log: Path, environment: Mapping[str, str]) -> Server:
    """Start ``command`` behind a guard; the caller waits for it and ends it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "graft.services", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _code_path(), **environment},
        )
    return Server(name, url, log, process)


def _code_path() -> str:
    source = Path(__file__).parent.parent
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(source), str(source.parent), *([given] if given else [])])


def start_prefect(workspace: Workspace, *, port: int | None = None, private: bool = False) -> Server:
    """Start a Prefect server on this clone's database; ``private`` without UI, scheduler and other services."""
    port = port or free_port(start=0 if private else PREFECT_PORT)
    url = f"http://{HOST}:{port}/api"
    settings = {
        **environment(workspace),
        **(PRIVATE if private else {"PREFECT_UI_API_URL": url, "PREFECT_SERVER_UI_API_URL": url}),
        "PREFECT__SERVER_FINAL": "1",
        API_VARIABLE: url,
    }
    options = ["--host", HOST, "--port", str(port), "--log-level", "warning", "--lifespan", "on", "--factory"]
    command = [sys.executable, "-m", "uvicorn", *options, "prefect.server.api.server:create_app"]
    log = prefect_home(workspace) / ("private.log" if private else "server.log")
    return start("Prefect", command, url, log, settings)


def start_mlflow(workspace: Workspace, uri: str, *, port: int | None = None) -> Server:
    """Start an MLflow server on the store at ``uri`` (a database), with artifacts served from beside it."""
    from graft.tracking import set_environment

    port = port or free_port(start=MLFLOW_PORT)
    url = f"http://{HOST}:{port}"
    store = workspace.home / "mlflow" / "store"
    store.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri, "--artifacts-destination", (store / "artifacts").as_uri(), "--serve-artifacts"),
    ]
    settings: dict[str, str] = {"MLFLOW_TRACKING_URI": uri}
    set_environment(settings)
    return start("MLflow", command, url, workspace.home / ".graft" / "mlflow.log", settings)


@contextlib.contextmanager
def prefect_api(workspace: Workspace) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the URL of a Prefect API, and a function that waits until it answers.

    The clone's running server if there is one, else a private one that ends with the block. The URL is known at once,
    so that Prefect can be imported while the server starts.

    Raises:
        ResourceMissing: (from the function) nothing answers at ``PREFECT_API_URL``, or the server did not start.
    """
    found = server_url(workspace)
    if found:
        yield found, lambda: _answering(found)
        return
    server = start_prefect(workspace, private=True)
    try:
        yield server.url, server.wait
    finally:
        server.end()


def _answering(url: str) -> str:
    if not healthy(url, 5.0):
        raise ResourceMissing(
            f"{API_VARIABLE}: Prefect at {url} does not answer; start it, or unset the variable to use a private one"
        )
    return url


# -- commands
def ui(
    workspace: Workspace,
    tracking: TrackingConfig,
    *,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    on_line: Callable[[str], None] = print,
) -> None:
    """Serve the MLflow and Prefect UIs of this clone on the loopback address until interrupted.

    A service that the configuration places elsewhere is not started, its address is printed.

    Raises:
        ResourceMissing: a port that was asked for is taken, or a server did not start or ended by itself.
    """
    from graft.tracking import resolve_uri

    uri, running = resolve_uri(tracking, workspace), _running(workspace)
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}
        if not uri.startswith("http") and "mlflow" not in running:
            server = start_mlflow(workspace, uri, port=free_port(mlflow_port, start=MLFLOW_PORT))
            started["mlflow"] = _kept(stack, server)
        if API_VARIABLE not in os.environ and "prefect" not in running:
            server = start_prefect(workspace, port=free_port(prefect_port, start=PREFECT_PORT))
            started["prefect"] = _kept(stack, server)
        on_line("starting (about ten seconds) ..." if started else "already running:")
        for server in started.values():
            server.wait()
        stack.enter_context(_remembered(workspace, started))
        urls = {**running, **_urls(started)}
        on_line(f"MLflow   {uri if uri.startswith('http') else urls['mlflow']}")
        on_line(f"Prefect  {(os.environ.get(API_VARIABLE) or urls['prefect']).removesuffix('/api')}")
        if started:
            on_line("Ctrl-C ends them.")
            _wait_for_end(list(started.values()))


def worker(
    workspace: Workspace,
    pool: str = "graft",
    *,
    name: str | None = None,
    limit: int | None = 1,
    on_line: Callable[[str], None] = print,
) -> int:
    """Serve a Prefect work pool from this clone until interrupted; return the worker's exit code.

    Starts a Prefect server of this clone where none is reachable, makes the pool if it is absent, registers this
    clone's deployments for it, and runs Prefect's own process worker. ``limit`` is how many runs it takes at a time.

    Raises:
        ResourceMissing: the Prefect server is not reachable or did not start.
    """
    with contextlib.ExitStack() as stack:
        url = server_url(workspace)
        if url is None:
            server = _kept(stack, start_prefect(workspace, port=free_port(start=PREFECT_PORT)))
            on_line("no Prefect server runs here: starting one for as long as the worker lasts")
            url = server.wait()
            stack.enter_context(_remembered(workspace, {"prefect": server}))
        _answering(url)
        on_line(f"Prefect  {url.removesuffix('/api')}")
        return _run_worker(workspace, url, pool, name, limit)


def _run_worker(workspace: Workspace, url: str, pool: str, name: str | None, limit: int | None) -> int:
    command = [sys.executable, "-m", "pipelines.worker", "--pool", pool]
    command += ["--name", name] if name else []
    command += ["--limit", str(limit)] if limit else []
    settings = {**environment(workspace, url), "GRAFT_CLONE": str(workspace.home), "PYTHONPATH": _code_path()}
    process = subprocess.Popen(command, cwd=workspace.home, env={**os.environ, **settings})
    with _signals_passed_to(process):
        return process.wait()


@contextlib.contextmanager
def _signals_passed_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the worker end by itself: a terminal's Ctrl-C reaches it anyway, SIGTERM is passed on."""

    def passed(number: int, _: Any) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, passed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kept(stack: contextlib.ExitStack, server: Server) -> Server:
    stack.callback(server.end)
    return server


def _urls(servers: Mapping[str, Server]) -> dict[str, str]:
    return {name: server.url for name, server in servers.items()}


@contextlib.contextmanager
def _remembered(workspace: Workspace, servers: Mapping[str, Server]) -> Iterator[None]:
    """Name ``servers`` in the state file while they run, so that runs and other commands find them."""
    path = _state(workspace)
    mine = {
        name: {"url": one.url, "process": one.process.pid, "process_started": process_started(one.process.pid)}
        for name, one in servers.items()
    }
    write_json(path, {**_others(workspace), **mine})
    try:
        yield
    finally:
        left = {name: one for name, one in _others(workspace).items() if name not in mine}
        write_json(path, left) if left else path.unlink(missing_ok=True)


def _others(workspace: Workspace) -> dict[str, Any]:
    """Return the state file's entries whose server answers."""
    running = _running(workspace)
    return {name: one for name, one in read_json(_state(workspace)).items() if name in running} if running else {}


def _wait_for_end(servers: list[Server]) -> None:
    """Wait for SIGINT or SIGTERM; a server that ends by itself is an error."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(0.5):
            for server in servers:
                if server.process.poll() is not None:
                    raise ResourceMissing(f"the {server.name} server ended by itself; see {server.log}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the guard process
def guard(command: list[str]) -> int:
    """Run ``command`` in this process group; end the group when standard input closes. Return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it signals its own group, and stays until the group is empty

    def watch() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGTERM)
        time.sleep(END_SECONDS - 2)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="guard").start()
    code = child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return code


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
