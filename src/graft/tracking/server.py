"""Reach the MLflow server: one connection object, quick to say that nobody is there.

A tracking server that is away must cost seconds, not the minutes of MLflow's own retries, so an HTTP server is asked
for its health first, and a database server's port is tried. A fresh SQLite store that several processes open at once
breaks (each runs the migrations), so the first touch happens under a file lock.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import ConfigError, ResourceMissing
from graft.provenance import Trust
from graft.tracking import TrackingConfig, artifact_location, resolve_uri, set_environment
from graft.workspace import Workspace, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEALTH_SECONDS = 5.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
MIGRATION_SECONDS = 120.0
TRAINING_VIEW = "workflowType=machine_learning"
"""Without it, MLflow's UI opens in its view for language model applications, full of empty pages."""
LATER = "training and evaluation are on disk; `graft sync` publishes them later"


@dataclass(frozen=True)
class Connection:
    """A reachable MLflow: the client with explicit ids, and where locks of this clone lie."""

    uri: str
    client: MlflowClient
    locks: Path
    trust: Trust = Trust()  # noqa: RUF009 (frozen)
    """Whose signature a version needs, and who signs."""

    def link(self, fragment: str) -> str:
        """Return the page ``fragment`` (``experiments/1/runs/…``) in MLflow's UI; relative where no server runs."""
        return f"{self.uri if self.uri.startswith('http') else ''}/#/{fragment}?{TRAINING_VIEW}"

    @contextlib.contextmanager
    def locked(self, name: str, *, purpose: str, wait_seconds: float = 60.0) -> Iterator[None]:
        """Hold a lock of this clone for one thing on the server (a run, a registered model)."""
        path = self.locks / f"mlflow-{re.sub('[^A-Za-z0-9._-]', '-', name)}.lock"
        with locked(path, purpose=purpose, wait_seconds=wait_seconds):
            yield


def connect(config: TrackingConfig, workspace: Workspace) -> Connection:
    """Return a connection to the tracking server, which also is the registry.

    Raises:
        ResourceMissing: nobody answers, or the store's schema is another MLflow version's.
    """
    uri = resolve_uri(config, workspace)
    set_environment()
    check_reachable(uri)
    locks = workspace.home / ".graft" / "locks"
    with locked(locks / "mlflow-store.lock", purpose="open the MLflow store", wait_seconds=MIGRATION_SECONDS):
        return Connection(uri, _open(uri), locks, Trust(config.signing, workspace.root, workspace.repository))


def _open(uri: str) -> MlflowClient:
    """Return a client whose store exists and has this MLflow's schema: making the client runs the migrations."""
    import mlflow

    for noisy in ("mlflow.store.db.utils", "mlflow.pyfunc", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        raise ResourceMissing(f"MLflow at {shown_uri(uri)}: {_first_line(error)}; {LATER}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("sqlalchemy", "alembic"):
            raise
        raise ResourceMissing(f"MLflow at {shown_uri(uri)}: {_first_line(error)}; {LATER}") from error
    return client


def check_reachable(uri: str) -> None:
    """Ask the server behind ``uri`` whether it is there; a file (SQLite) needs none.

    Raises:
        ResourceMissing: no answer within ``HEALTH_SECONDS``.
    """
    if uri.startswith("http"):
        check_health(uri)
    elif not uri.startswith("sqlite"):
        _check_port(uri)


def _check_port(uri: str) -> None:
    """Connect to a database's host and port: MLflow itself tries for minutes. A local socket has neither."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(uri)
    except ArgumentError:  # said by whoever opens it
        return
    port = found.port or PORTS.get(found.drivername.partition("+")[0])
    if not found.host or port is None:
        return
    try:
        socket.create_connection((found.host, port), timeout=HEALTH_SECONDS).close()
    except OSError as error:
        place = f"{found.host}:{port}"
        raise ResourceMissing(f"MLflow at {shown_uri(uri)}: {place} is not reachable ({error}); {LATER}") from None


def check_health(uri: str) -> None:
    """Ask an HTTP server whether it is there, without MLflow's retries.

    Raises:
        ResourceMissing: no answer within ``HEALTH_SECONDS``, or one that is not a tracking server's.
    """
    request = urllib.request.Request(f"{uri}/health")
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=HEALTH_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ResourceMissing(
                f"MLflow at {uri}: refused ({error.code}); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ) from None
        if error.code >= 500:
            raise ResourceMissing(f"MLflow at {uri}: answers {error.code}; {LATER}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ResourceMissing(f"MLflow at {uri}: not reachable ({reason}); {LATER}") from None


@contextlib.contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turn what MLflow raises while it talks to the server into :class:`ResourceMissing`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise ResourceMissing(f"MLflow at {shown_uri(uri)}: {_first_line(error)}; {LATER}") from error


def experiment_id(connection: Connection, config: TrackingConfig, workspace: Workspace) -> str:
    """Find or create the experiment; its files lie at an explicit place, not below the current directory.

    Raises:
        ConfigError: somebody deleted an experiment of that name in the UI.
    """
    from mlflow.exceptions import MlflowException

    name = config.experiment
    found = connection.client.get_experiment_by_name(name)
    if found is None:
        location = artifact_location(config, connection.uri, workspace)
        with contextlib.suppress(MlflowException), connection.locked("store", purpose=f"create experiment {name}"):
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(connection.client.create_experiment(name, artifact_location=location, tags=tags))
        found = connection.client.get_experiment_by_name(name)  # another machine was faster
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError(f"tracking.experiment: {name!r} was deleted in MLflow; restore it or choose another name")
    return str(found.experiment_id)


def shown_uri(uri: str) -> str:
    """Return ``uri`` without a password."""
    return re.sub(r"//([^/:@]+):[^/@]+@", r"//\1:…@", uri)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300]


def now_ms() -> int:
    """Return the time in milliseconds, MLflow's unit."""
    return int(time.time() * 1000)
