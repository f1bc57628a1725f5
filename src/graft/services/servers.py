"""Start a Prefect or an MLflow server on the state of this clone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from graft.errors import ResourceMissing
from graft.services.finding import API_VARIABLE, environment, prefect_home, server_url
from graft.services.processes import HOST, Server, free_port, healthy, start
from graft.workspace import Workspace

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
PRIVATE = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}


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
        yield found, lambda: answering(found)
        return
    server = start_prefect(workspace, private=True)
    try:
        yield server.url, server.wait
    finally:
        server.end()


def answering(url: str) -> str:
    """Return ``url`` if the Prefect API there answers.

    Raises:
        ResourceMissing: it does not.
    """
    if not healthy(url, 5.0):
        raise ResourceMissing(
            f"{API_VARIABLE}: Prefect at {url} does not answer; start it, or unset the variable to use a private one"
        )
    return url
