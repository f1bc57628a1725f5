from __future__ import annotations

import re
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from graft.errors import ConfigError, ResourceMissing
from graft.tracking import CLIENT_ENVIRONMENT, RunContext, TrackingConfig, artifact_location, resolve_uri
from graft.tracking.server import Connection, check_health, check_reachable, connect, experiment_id, shown_uri
from graft.workspace import Workspace

ROOT = Path(__file__).parents[2]


def test_uri_comes_from_params_then_environment_then_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    assert resolve_uri(TrackingConfig(), workspace) == f"sqlite:///{tmp_path}/mlflow/store/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000/")
    assert resolve_uri(TrackingConfig(), workspace) == "http://team:5000"
    assert resolve_uri(TrackingConfig(uri="sqlite:////a/b.db"), workspace) == "sqlite:////a/b.db"


def test_relative_sqlite_counts_from_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "clone"))
    found = resolve_uri(TrackingConfig(uri="sqlite:///here.db"), Workspace(tmp_path / "worktree"))
    assert found == f"sqlite:///{tmp_path}/clone/here.db"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://me:secret@team:5000", r"a password in http://…@team:5000; set MLFLOW_TRACKING_USERNAME"),
        ("postgresql://me:secret@db/mlflow", r"a password in postgresql://…@db/mlflow"),
        ("./mlruns", r"tracking\.uri: must be http\(s\)://, sqlite:///.*got './mlruns'"),
        ("file:///tmp/mlruns", r"tracking\.uri: must be http"),
    ],
)
def test_uri_is_refused(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_uri(TrackingConfig(uri=uri), Workspace(tmp_path))
    assert "secret" not in str(caught.value)


def test_artifacts_lie_beside_the_store(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert artifact_location(TrackingConfig(), "sqlite:////a/b.db", workspace) == "file:///a/artifacts"
    assert artifact_location(TrackingConfig(), "http://team:5000", workspace) is None
    assert artifact_location(TrackingConfig(artifacts="s3://b/m"), "postgresql://db/m", workspace) == "s3://b/m"
    with pytest.raises(ConfigError, match=r"tracking\.artifacts: required"):
        artifact_location(TrackingConfig(), "postgresql://db/m", workspace)


def test_experiment_has_its_own_place_for_files(workspace: Workspace, connection: Connection) -> None:
    first, again = (experiment_id(connection, TrackingConfig(), workspace) for _ in range(2))
    assert first == again
    found = connection.client.get_experiment(first)
    assert found.artifact_location == (workspace.root / "mlflow" / "store" / "artifacts").as_uri()
    connection.client.delete_experiment(first)
    with pytest.raises(ConfigError, match="'graft' was deleted in MLflow"):
        experiment_id(connection, TrackingConfig(), workspace)


def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(ResourceMissing, match=r"MLflow at http://127\.0\.0\.1:1: not reachable .*graft sync"):
        check_health("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("postgresql://me:secret@127.0.0.1:1/m", "127.0.0.1:1"),
        ("mysql+pymysql://me:secret@127.0.0.9/m", "127.0.0.9:3306"),
    ],
)
def test_database_server_that_is_away_is_said_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, uri: str, place: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(ResourceMissing, match=f"{re.escape(place)} is not reachable .*graft sync") as caught:
        connect(TrackingConfig(artifacts="files"), workspace)
    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)


def test_a_port_that_answers_or_a_local_socket_is_not_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/m")
    check_reachable("postgresql:///m?host=/run/postgresql")
    check_reachable("sqlite:////nowhere/a.db")


def test_store_of_another_mlflow_is_a_missing_resource(workspace: Workspace) -> None:
    with sqlite3.connect(workspace.root / "mlflow" / "store" / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'of-the-future'")
    with pytest.raises(ResourceMissing, match=r"MLflow at sqlite:///.*of-the-future|MLflow at sqlite:///.*schema"):
        connect(TrackingConfig(), workspace)


def test_links_open_the_view_for_training() -> None:
    local, server = (Connection(uri, None, Path()) for uri in ("sqlite:////a.db", "http://team:5000"))  # type: ignore[arg-type]
    assert local.link("models/x") == "/#/models/x?workflowType=machine_learning"
    assert server.link("models/x") == "http://team:5000/#/models/x?workflowType=machine_learning"


def test_password_is_not_shown() -> None:
    assert shown_uri("postgresql://me:secret@db/m") == "postgresql://me:…@db/m"


def test_context_tags_hold_what_is_known() -> None:
    assert RunContext(git_commit="c").tags() == {"graft.git_commit": "c", "mlflow.source.git.commit": "c"}


def test_server_settings_are_the_safe_ones() -> None:
    lines = (ROOT / "mlflow" / "server.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        assert settings[name] == CLIENT_ENVIRONMENT[name] == "false"
    assert not list((ROOT / "mlflow").glob("*.py"))
