"""What ``graft ui`` and ``graft worker`` do: serve until interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graft.errors import ResourceMissing
from graft.services.finding import API_VARIABLE, environment, remembered, running, server_url
from graft.services.processes import Server, code_path, free_port
from graft.services.servers import MLFLOW_PORT, PREFECT_PORT, answering, start_mlflow, start_prefect
from graft.workspace import Workspace

if TYPE_CHECKING:
    from graft.tracking import TrackingConfig


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def ui(
    workspace: Workspace,
    tracking: TrackingConfig,
    *,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    on_line: Callable[[str], None] = say,
) -> None:
    """Serve the MLflow and Prefect UIs of this clone on the loopback address until interrupted.

    A service that the configuration places elsewhere is not started, its address is printed.

    Raises:
        ResourceMissing: a port that was asked for is taken, or a server did not start or ended by itself.
    """
    from graft.tracking import resolve_uri

    uri, known = resolve_uri(tracking, workspace), running(workspace)
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}
        if not uri.startswith("http") and "mlflow" not in known:
            server = start_mlflow(workspace, uri, port=free_port(mlflow_port, start=MLFLOW_PORT))
            started["mlflow"] = _kept(stack, server)
        if API_VARIABLE not in os.environ and "prefect" not in known:
            server = start_prefect(workspace, port=free_port(prefect_port, start=PREFECT_PORT))
            started["prefect"] = _kept(stack, server)
        on_line("starting (about ten seconds) ..." if started else "already running:")
        for server in started.values():
            server.wait()
        stack.enter_context(remembered(workspace, started))
        urls = {**known, **_urls(started)}
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
    on_line: Callable[[str], None] = say,
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
            stack.enter_context(remembered(workspace, {"prefect": server}))
        answering(url)
        on_line(f"Prefect  {url.removesuffix('/api')}")
        return _run_worker(workspace, url, pool, name, limit)


def _run_worker(workspace: Workspace, url: str, pool: str, name: str | None, limit: int | None) -> int:
    command = [sys.executable, "-m", "pipelines.worker", "--pool", pool]
    command += ["--name", name] if name else []
    command += ["--limit", str(limit)] if limit else []
    settings = {**environment(workspace, url), "GRAFT_CLONE": str(workspace.home)}
    settings["PYTHONPATH"] = code_path(workspace.home)
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
