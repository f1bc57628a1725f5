"""MLflow, the record plane: runs, curves, model versions, aliases, decisions.

MLflow is a view of files, never the only copy: everything written here can be written again to a new, empty server.
So every write is find-or-create by a key, and a server that is away costs a message, not a training. This package is
the only place that imports mlflow, always inside functions and always as ``MlflowClient`` with explicit ids: the
fluent API keeps one active run per process, and two runs in one process would mix.

``import graft.tracking`` is light: the section, and where the server is.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field as Limit

from graft.config import Section
from graft.errors import ConfigError, shown
from graft.provenance import SigningConfig

if TYPE_CHECKING:
    from graft.workspace import Workspace

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CLIENT_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model from the registry never unpickles code
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 7 processes of 265 MB
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a model's requirements depend on the current folder
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the defaults (7 retries, 120 s) block for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What MLflow reads from the environment; the user's own settings win."""


class TrackingConfig(Section):
    """Where runs and model versions are recorded."""

    uri: str | None = None
    """MLflow's tracking URI; default: the environment variable ``MLFLOW_TRACKING_URI``, else SQLite in
    ``mlflow/store``. No password here: use ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""

    experiment: str = Limit(default="graft", min_length=1)
    """The MLflow experiment that holds the runs; decisions go to ``<experiment>-decisions``."""

    artifacts: str | None = None
    """Where a newly made experiment keeps its files (``s3://bucket/path``, or a folder, relative to the clone) if the
    URI is a database; default: ``artifacts`` beside an SQLite file. A server decides for itself."""

    signing: SigningConfig = SigningConfig()
    """Who signs what is published, and whose signature a version needs."""


@dataclass(frozen=True)
class RunContext:
    """What the caller knows about a pipeline run and the stages do not: it becomes tags, never stage input."""

    git_commit: str | None = None
    """The commit the run stands on: code, params and dvc.lock as they were."""

    prefect_run: str | None = None
    prefect_url: str | None = None
    dvc_lock: str | None = None
    """sha256 of dvc.lock."""

    git_remote: str | None = None
    """Where others find the commit: the git remote's address, without credentials."""

    def tags(self) -> dict[str, str]:
        """Return what is known as MLflow tags."""
        known = {
            "graft.git_commit": self.git_commit,
            "graft.git_remote": self.git_remote,
            "mlflow.source.git.commit": self.git_commit,
            "graft.prefect_run": self.prefect_run,
            "graft.prefect_url": self.prefect_url,
            "graft.dvc_lock": self.dvc_lock,
        }
        return {name: value for name, value in known.items() if value}


def resolve_uri(config: TrackingConfig, workspace: Workspace) -> str:
    """Return the tracking URI: params, then ``MLFLOW_TRACKING_URI``, then SQLite below the clone's ``mlflow/store``.

    A relative SQLite path counts from the clone, so that every working directory means the same file.

    Raises:
        ConfigError: a password in the URI, or a kind of store that MLflow 3 no longer writes.
    """
    place = "tracking.uri" if config.uri else URI_VARIABLE
    uri = config.uri or os.environ.get(URI_VARIABLE) or f"sqlite:///{default_store(workspace) / 'mlflow.db'}"
    scheme, separator, rest = uri.partition("://")
    if re.match(r"[^/@]+:[^/@]+@", rest) and (config.uri or scheme in ("http", "https")):
        raise ConfigError(
            f"{place}: a password in {scheme}://…@{rest.rpartition('@')[2]}; set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD (for a database: {URI_VARIABLE} instead of params)"
        )
    if separator and scheme == "sqlite":
        return f"sqlite:///{(workspace.home / rest.removeprefix('/')).resolve()}"
    if separator and (scheme in ("http", "https") or scheme.partition("+")[0] in DATABASES):
        return uri.rstrip("/")
    raise ConfigError(f"{place}: must be http(s)://, sqlite:/// or another database of MLflow's, got {shown(uri)}")


def default_store(workspace: Workspace) -> Path:
    """Return the folder of the default store: ``mlflow/store`` of the clone (git-ignored)."""
    return workspace.home / "mlflow" / "store"


def artifact_location(config: TrackingConfig, uri: str, workspace: Workspace) -> str | None:
    """Return where a new experiment keeps its files; None where a server decides.

    Raises:
        ConfigError: a database other than SQLite without ``tracking.artifacts``.
    """
    if uri.startswith(("http://", "https://")):
        return None
    if config.artifacts:
        return config.artifacts if "://" in config.artifacts else (workspace.home / config.artifacts).resolve().as_uri()
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
    raise ConfigError("tracking.artifacts: required when tracking.uri is a database; name a folder or s3://bucket/path")


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put the safe settings of ``CLIENT_ENVIRONMENT`` where the user set none; for clients and for servers."""
    for name, value in CLIENT_ENVIRONMENT.items():
        environment.setdefault(name, value)
