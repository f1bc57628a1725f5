"""Keeps Prefect's idea of a run and the truth together: the record of this run, and runs that died without a word.

A run that was killed stays RUNNING in Prefect for ever, and a run that a person started at a terminal has no runner
that would see the UI's cancel button. Both are settled here: the first when the next run starts, the second by a
thread that asks for the state of its own run and ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as current
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from graft import runs
from graft.runs import Run
from graft.workspace import Workspace

POLL_SECONDS = 2.0


def begin(workspace: Workspace, **facts: Any) -> Run:
    """Record that this flow run runs here, in this process."""
    settings = get_current_settings()
    return runs.begin(
        workspace,
        flow_run=current.get_id(),
        flow=current.get_flow_name(),
        name=current.get_name(),
        api=settings.api.url,
        worker=in_worker(),
        url=page(current.get_id()),
        **facts,
    )


def in_worker() -> bool:
    """Return whether a Prefect worker started this process; its runner then sees to cancelling."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def page(flow_run: str | None) -> str | None:
    """Return the page of a flow run in the Prefect UI, where there is one that outlives this run."""
    settings = get_current_settings()
    if flow_run is None or os.environ.get("GRAFT_PRIVATE_API") or not settings.api.url:
        return None
    base = settings.ui_url or settings.api.url.removesuffix("/api")
    return f"{base}/runs/flow-run/{flow_run}"


def reconcile(workspace: Workspace) -> list[Run]:
    """Mark the project's runs whose process has gone as crashed, here and in Prefect; return them."""
    lost = [run for run in runs.listed(workspace) if run.facts.get("state") == "running" and run.state == "crashed"]
    for run in lost:
        if run.facts.get("flow_run"):
            with contextlib.suppress(ObjectNotFound):  # it ran against another API
                end(run.facts["flow_run"], Crashed(message="its process has gone (killed?); found by the next run"))
        run.update(state="crashed", error="its process has gone")
    return lost


def end(flow_run: str, state: State) -> None:
    """Set the final state of a flow run and of its unfinished tasks, whatever they are now."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run))
        if found.state is None or not found.state.is_final():
            client.set_flow_run_state(found.id, state, force=True)
        unfinished = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED]
        for task_run in client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[found.id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished))),
            sort=TaskRunSort.END_TIME_DESC,
            limit=200,
        ):
            client.set_task_run_state(task_run.id, state.fresh_copy(), force=True)


def show_cancelled(flow_run: str) -> None:
    """Say in Prefect that a run was cancelled; by itself Prefect calls an interrupted local run crashed."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelled(message="interrupted; the same command resumes"), force=True)


@contextlib.contextmanager
def cancellable(flow_run: str) -> Iterator[None]:
    """End this process's run when somebody cancels it in the Prefect UI (a run without a worker has no runner)."""
    api, left = get_current_settings().api.url, threading.Event()
    if in_worker() or os.environ.get("GRAFT_PRIVATE_API") or not api:
        yield
        return

    def watch() -> None:
        while not left.wait(POLL_SECONDS):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                with urllib.request.urlopen(f"{api}/flow_runs/{flow_run}", timeout=POLL_SECONDS) as answer:
                    state = json.load(answer)["state"]["type"]
                if state in ("CANCELLING", "CANCELLED"):
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    thread = threading.Thread(target=watch, daemon=True, name="cancel-button")
    thread.start()
    try:
        yield
    finally:
        left.set()
