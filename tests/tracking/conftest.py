"""MLflow stores and servers for the tests of the record plane: real ones, on loopback, in temporary folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from graft.tracking import TrackingConfig, set_environment
from graft.tracking.server import Connection, connect
from graft.workspace import Workspace
from tests.postgres import cluster


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated SQLite store to copy: migrating takes seconds."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    connect(TrackingConfig(), workspace)
    return workspace.root / "mlflow" / "store" / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, migrated_store: Path) -> Workspace:
    """An empty project whose default store is there."""
    store = tmp_path / "mlflow" / "store"
    store.mkdir(parents=True)
    shutil.copy(migrated_store, store / "mlflow.db")
    return Workspace(tmp_path)


@pytest.fixture
def connection(workspace: Workspace) -> Connection:
    return connect(TrackingConfig(), workspace)


@dataclass
class Server:
    """``mlflow server`` on a loopback port, over a folder; it can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ}
        set_environment(environment)
        self.process = subprocess.Popen(
            f"{sys.executable} -m mlflow server --host 127.0.0.1 --port {self.port} --workers 1 --serve-artifacts "
            f"--backend-store-uri sqlite:///{self.folder}/mlflow.db --artifacts-destination {self.folder}/artifacts",
            shell=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("mlflow server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, migrated_store: Path) -> Iterator[Server]:
    """A running server over an empty store of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(migrated_store, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = Server(folder, port)
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of an empty PostgreSQL database on a loopback port; skips where there is no PostgreSQL."""
    with cluster() as uri:
        yield uri
