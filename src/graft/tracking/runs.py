"""MLflow runs: one per run key, found or created; and the follower that shows a training while it runs.

Training only appends to a file. The follower is a thread of the caller that carries new lines to MLflow, best effort:
a server that is away costs points on the screen for a while, never a training. What it could not write, and what a
crash left unfinished, the next follower or ``graft sync`` adds.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import platform
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, Interrupted, Locked
from graft.identity import digest_bytes
from graft.tracking import TrackingConfig
from graft.tracking.curves import Curves, Tail
from graft.tracking.server import Connection, connect, experiment_id, now_ms, reported
from graft.workspace import Workspace, locked

if TYPE_CHECKING:
    from mlflow.entities import Run

KEY = "graft.key"
HOME = "graft.home"
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
LAST_WRITE_SECONDS = 60.0
DIGEST_CHARACTERS = 32
"""MLflow keeps at most 36 characters of a data set's digest; the whole one is in the tag ``graft.data``."""


def find(connection: Connection, experiment: str, key: str) -> Run | None:
    """Return the oldest run of ``key``, or None."""
    found = connection.client.search_runs(
        [experiment],
        f"tags.`{KEY}` = '{key}'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        max_results=1,
    )
    return found[0] if found else None


def find_or_create(
    connection: Connection,
    experiment: str,
    key: str,
    *,
    name: str,
    tags: Mapping[str, str],
    started_ms: int | None = None,
) -> Run:
    """Return the one run of ``key``.

    Two machines that create it at once both search again; the oldest stays, the other removes its own, still empty.
    """
    with connection.locked(f"create-{key}", purpose=f"create the MLflow run of {key}"):
        run = find(connection, experiment, key)
        if run is None:
            all_tags = {"mlflow.user": _user(), **tags, KEY: key}
            made = connection.client.create_run(experiment, start_time=started_ms, tags=all_tags, run_name=name)
            run = find(connection, experiment, key) or made
            if run.info.run_id != made.info.run_id:
                connection.client.delete_run(made.info.run_id)
    return run


def add_tags(connection: Connection, run: Run, tags: Mapping[str, str]) -> None:
    """Set the tags that are new or differ, in one call."""
    from mlflow.entities import RunTag

    new = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
    if new:
        connection.client.log_batch(run.info.run_id, tags=new, synchronous=True)


def add_parameters(connection: Connection, run: Run, parameters: Mapping[str, str]) -> None:
    """Log the parameters that the run does not have. MLflow's parameters never change, and the key fixes these."""
    from mlflow.entities import Param

    new = [Param(name, value) for name, value in parameters.items() if name not in run.data.params]
    for start in range(0, len(new), 100):
        connection.client.log_batch(run.info.run_id, params=new[start : start + 100], synchronous=True)


def add_data(
    connection: Connection, run: Run, *, name: str, digest: str, profile: Mapping[str, Any], columns: list[str]
) -> None:
    """Log the data set as the run's input once, under our own digest of the part files."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if run.inputs and any(digest.startswith(one.dataset.digest) for one in run.inputs.dataset_inputs):
        return
    schema = {"mlflow_colspec": [{"name": column, "type": "string", "required": True} for column in columns]}
    dataset = Dataset(
        name=name,
        digest=digest[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": "data.dvc", "sha256": digest}),
        schema=json.dumps(schema),
        profile=json.dumps(dict(profile)),
    )
    connection.client.log_inputs(
        run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    )


def end(connection: Connection, run_id: str, status: str, ended_ms: int | None = None) -> None:
    """End a run as FINISHED, FAILED or KILLED; a run that already ended so keeps its time."""
    if connection.client.get_run(run_id).info.status != status:
        connection.client.set_terminated(run_id, status, ended_ms)


def end_orphans(connection: Connection, experiment: str, workspace: Workspace, *, but: str = "") -> list[str]:
    """End as KILLED the runs of this clone that say RUNNING though nobody writes them; return their ids.

    MLflow learns nothing from a killed process: its run would stay RUNNING for ever.
    """
    query = f"attributes.status = 'RUNNING' AND tags.`{HOME}` = '{home_digest(workspace)}'"
    ended = []
    for run in connection.client.search_runs([experiment], query, max_results=100):
        key = run.data.tags.get(KEY, "")
        if key and key != but:
            with contextlib.suppress(Locked), writer_lock(workspace, key):
                connection.client.set_terminated(run.info.run_id, "KILLED")
                ended.append(run.info.run_id)
    return ended


def writer_lock(workspace: Workspace, key: str, wait_seconds: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Hold the right to write the run of ``key``: one writer per run, or its points double."""
    path = workspace.home / ".graft" / "locks" / f"mlflow-run-{key}.lock"
    return locked(path, purpose=f"write the MLflow run of {key}", wait_seconds=wait_seconds)


def home_digest(workspace: Workspace) -> str:
    """Return a name of this clone on this machine that shows neither."""
    return digest_bytes(f"{platform.node()}:{workspace.home.resolve()}".encode())[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


class Follower:
    """Shows a training in MLflow while it runs: ``with Follower(workspace, config, key, tags): train()``.

    Nothing is imported or written before the training's file changes, so a stage that DVC skips costs nothing and
    touches no run. On leaving, the rest is written and the run ends as FINISHED, FAILED or KILLED.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: TrackingConfig,
        run_key: str,
        tags: Mapping[str, str] | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        name: str | None = None,
        on_line: Callable[[str], None] = print,
        poll_seconds: float = 1.0,
    ) -> None:
        self.run_id: str | None = None
        self.run_url: str | None = None
        """The run's page, as soon as the run exists."""
        self.problem: str | None = None
        """Why MLflow does not show everything (yet)."""
        self._workspace, self._config, self._key = workspace, config, run_key
        self._tags, self._parameters = dict(tags or {}), dict(parameters or {})
        self._name = name or f"training {run_key[:8]}"
        self._on_line, self._poll_seconds = on_line, poll_seconds
        self._path = workspace.live / run_key / "metrics.jsonl"
        self._waiting: list[dict[str, Any]] = []
        self._connection: Connection | None = None
        self._curves: Curves | None = None
        self._holds_lock = False
        self._leave = threading.Event()
        self._status = "FINISHED"
        self._thread = threading.Thread(target=self._follow, name=f"follow-{run_key}", daemon=True)

    def __enter__(self) -> Follower:
        self._before = _stamp(self._path)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            crashed = issubclass(kind, Exception) and not issubclass(kind, Interrupted)
            self._status = "FAILED" if crashed else "KILLED"
        self._leave.set()
        self._thread.join(LAST_WRITE_SECONDS)
        if self.problem:
            self._on_line(f"MLflow: {self.problem}; `graft sync` adds what is missing")

    # -- in the thread
    def _follow(self) -> None:
        while _stamp(self._path) == self._before:
            if self._leave.wait(self._poll_seconds):
                if _stamp(self._path) == self._before:
                    return
                break
        tail, retry_at, pause = Tail(self._path), 0.0, FIRST_RETRY_SECONDS
        with contextlib.ExitStack() as stack:
            while True:
                last = self._leave.is_set()
                self._waiting.extend(tail.read())
                if last or time.monotonic() >= retry_at:
                    if self._write(stack, last):
                        pause = FIRST_RETRY_SECONDS
                    else:
                        retry_at, pause = time.monotonic() + pause, min(2 * pause, LONGEST_RETRY_SECONDS)
                if last:
                    return
                self._leave.wait(self._poll_seconds)

    def _write(self, stack: contextlib.ExitStack, last: bool) -> bool:
        """Write what waits; on any failure keep it, remember why, and attach anew next time."""
        try:
            if self._curves is None:
                if not self._holds_lock:
                    stack.enter_context(writer_lock(self._workspace, self._key))
                    self._holds_lock = True
                self._attach()
            assert self._connection is not None
            assert self._curves is not None
            assert self.run_id is not None
            with reported(self._connection.uri):
                self._curves.write(self._waiting)
                self._waiting.clear()
                if last:
                    end(self._connection, self.run_id, self._status, now_ms())
            self.problem = None
            return True
        except GraftError as error:
            self._fail(str(error))
        except Exception as error:  # the record plane never ends a training
            self._fail(f"{type(error).__name__}: {error}")
        return False

    def _attach(self) -> None:
        connection = connect(self._config, self._workspace)
        with reported(connection.uri):
            experiment = experiment_id(connection, self._config, self._workspace)
            end_orphans(connection, experiment, self._workspace, but=self._key)
            tags = {**self._tags, HOME: home_digest(self._workspace)}
            run = find_or_create(connection, experiment, self._key, name=self._name, tags=tags)
            if run.info.status != "RUNNING":
                connection.client.update_run(run.info.run_id, status="RUNNING")
            add_tags(connection, run, tags)
            add_parameters(connection, run, self._parameters)
        self._connection, self.run_id = connection, run.info.run_id
        self.run_url = connection.link(f"experiments/{experiment}/runs/{run.info.run_id}")
        self._curves = Curves(connection, run.info.run_id)

    def _fail(self, problem: str) -> None:
        if self.problem is None:
            self._on_line(f"MLflow: {problem.splitlines()[0]} (training goes on)")
        self.problem, self._curves = problem.splitlines()[0], None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
