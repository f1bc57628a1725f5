"""The record of each pipeline run on this clone: who runs it, what it stands on, what became of it.

A killed process cannot tell Prefect that it is gone, so the truth about *running* is the process itself: ``run.json``
holds its id and start time, and whoever reads it later sees whether that process still lives. One folder per run below
``workspace.runs``, named by start time, with ``run.json`` and ``log.txt`` (every line that the run logged).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, Interrupted, ResourceMissing
from graft.workspace import Workspace, read_json, write_json

STATES = ("running", "completed", "failed", "cancelled", "crashed")
ANSWER_SECONDS = 5.0


@dataclass
class Run:
    """One run. ``facts`` is run.json: state, flow_run, name, process, host, commit, stages, error, version, ..."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Every line that the run logged."""
        return self.folder / "log.txt"

    @property
    def state(self) -> str:
        """One of ``STATES``: ``crashed`` where run.json says ``running`` but its process is gone."""
        state = str(self.facts.get("state", "crashed"))
        return "crashed" if state == "running" and not self.alive else state

    @property
    def alive(self) -> bool:
        """Whether the process that wrote it still lives; a run of another host counts as alive."""
        if self.facts.get("host") != socket.gethostname():
            return True
        started = process_started(int(self.facts.get("process", 0)))
        return started is not None and started == self.facts.get("process_started")

    def update(self, **facts: Any) -> None:
        """Write ``facts`` to run.json."""
        self.facts.update(facts)
        write_json(self.folder / "run.json", self.facts)

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Record how the block ends: ``completed``, ``failed`` with the error, or ``cancelled``."""
        state, error = "completed", None
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stopped:
            state, error = "cancelled", str(stopped) or "interrupted"
            raise
        except Exception as failed:
            state, error = "failed", f"{failed}" or type(failed).__name__
            raise
        except BaseException as stopped:  # Prefect's TerminationSignal, SystemExit
            state, error = "cancelled", type(stopped).__name__
            raise
        finally:
            self.update(state=state, error=error, ended=time.time())


def begin(workspace: Workspace, **facts: Any) -> Run:
    """Make the folder of a new run of this process and write its run.json."""
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), os.getpid()
    folder = workspace.runs / f"{stamp}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    run.update(
        state="running",
        started=time.time(),
        process=os.getpid(),
        process_started=process_started(os.getpid()),
        host=socket.gethostname(),
        **facts,
    )
    return run


def listed(workspace: Workspace) -> list[Run]:
    """Return the runs of the project that this clone knows, newest first."""
    found = []
    for path in workspace.runs.glob("*/run.json"):
        with contextlib.suppress(ConfigError):  # another process removes it now
            found.append(Run(path.parent, read_json(path)))
    return sorted(found, key=lambda run: run.facts.get("started", 0.0), reverse=True)


def running(workspace: Workspace) -> list[Run]:
    """Return the runs whose process lives, newest first."""
    return [run for run in listed(workspace) if run.state == "running"]


def cancel(run: Run) -> None:
    """Ask a run to stop; it ends its stage's processes, keeps its checkpoints and is recorded as cancelled.

    A run that a worker started is cancelled through Prefect's API, as the UI's button does; others by SIGTERM.

    Raises:
        ResourceMissing: the run is on another machine, or its process has gone.
    """
    if run.facts.get("worker") and run.facts.get("api"):
        return _cancel_by_api(str(run.facts["api"]), str(run.facts["flow_run"]))
    if run.facts.get("host") != socket.gethostname():
        raise ResourceMissing(f"run {run.folder.name}: runs on another machine; cancel it in the Prefect UI")
    if not run.alive:
        raise ResourceMissing(f"run {run.folder.name}: its process {run.facts.get('process')} has gone")
    os.kill(int(run.facts["process"]), signal.SIGTERM)


def _cancel_by_api(api: str, flow_run: str) -> None:
    body = json.dumps({"state": {"type": "CANCELLING", "name": "Cancelling", "message": "graft cancel"}}).encode()
    request = urllib.request.Request(
        f"{api}/flow_runs/{flow_run}/set_state", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return
    except OSError as error:
        raise ResourceMissing(f"Prefect at {api}: {error}; is it running? `graft ui` starts it") from None


def process_started(process: int) -> float | None:
    """Return when the process with this id started (seconds since the epoch); None where there is none."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else round(found.create_time(), 2)
    except (psutil.NoSuchProcess, ValueError):
        return None
