"""Which servers a clone uses: the environment first, then what ``graft ui`` or ``graft worker`` runs (a state file)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.runs import process_started
from graft.services.processes import Server, healthy
from graft.workspace import Workspace, read_json, write_json

API_VARIABLE, HOME_VARIABLE = "PREFECT_API_URL", "PREFECT_HOME"
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}
"""Prefect settings of everything that Graft starts; the user's own win."""


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
    return os.environ.get(API_VARIABLE) or running(workspace).get("prefect")


def mlflow_url(workspace: Workspace) -> str | None:
    """Return the URL of the MLflow server that this clone runs on its default store, if it does."""
    return running(workspace).get("mlflow")


def running(workspace: Workspace) -> dict[str, str]:
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


@contextlib.contextmanager
def remembered(workspace: Workspace, servers: Mapping[str, Server]) -> Iterator[None]:
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
    answering = running(workspace)
    return {name: one for name, one in read_json(_state(workspace)).items() if name in answering} if answering else {}
