"""Hand one stage to a worker of another machine, and take its result from the remote.

Nothing but names and digests goes through Prefect. The caller pushes the stage's inputs, its run cache and the commit
that the run stands on; the worker does the stage at that commit and pushes result and run cache; the caller then
*restores* it. A worker at another commit would go unnoticed (DVC would just run the stage here again), so a stage that
was placed and would run here is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from graft import stages
from graft.errors import GraftError, IntegrityError, ResourceMissing
from graft.repository import Repository, StageResult
from graft.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15.0
RUNS_HERE = re.compile(r"^Running stage '")


class DeploymentMissing(ResourceMissing):
    """Nothing serves a work pool; that does not pass in a few seconds, so it is not tried again."""

    def __init__(self, stage: str, pool: str) -> None:
        super().__init__(
            f"placement.{stage}: no deployment {_deployment(pool)} in Prefect; `graft worker --pool {pool}` makes it "
            "and serves it"
        )


def check(placed: Mapping[str, str]) -> None:
    """Refuse stages (keys) that are placed in a pool without deployment, before anything runs or is pushed.

    Raises:
        DeploymentMissing: the first such stage and its pool.
    """
    if not placed:
        return
    with get_client(sync_client=True) as client:
        for stage, pool in placed.items():
            try:
                client.read_deployment_by_name(_deployment(pool))
            except ObjectNotFound:
                raise DeploymentMissing(stage, pool) from None


def _deployment(pool: str) -> str:
    return f"gpu-stage/{pool}"


def run_placed(
    repository: Repository, stage: str, pool: str, on_line: Callable[[str], None], *, force: bool
) -> StageResult:
    """Have ``stage`` done by a worker of ``pool``; restore its result here.

    Raises:
        DeploymentMissing: no such pool or deployment.
        ResourceMissing: no git or DVC remote.
        IntegrityError: the worker's result is not the one this commit asks for.
        GraftError: the stage failed there; the message says how.
    """
    started = time.monotonic()
    if not force and not repository.status().get(stage):
        return repository.run_stage(stage, on_line=on_line)
    commit = _handed_over(repository, stage, on_line)
    flow_run = _start(repository, stage, pool, commit, force)
    on_line(f"placed in work pool {pool} at commit {commit[:12]} as flow run {flow_run.name}")
    try:
        finished = _wait(flow_run, pool, on_line)
    except BaseException:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelling(message="the run that placed it has ended"))
        raise
    _check(finished, commit, pool)
    result = repository.run_stage(stage, pull=True, on_line=lambda line: on_line(_not_here(line, stage)))
    return StageResult(result.outcome, time.monotonic() - started)


def _handed_over(repository: Repository, stage: str, on_line: Callable[[str], None]) -> str:
    """Push what the worker needs: inputs, run cache, the commit with the current dvc.lock."""
    one = stages.get(stage)
    before = [earlier.name for earlier in stages.STAGES[: stages.STAGES.index(one)]]
    pushed = repository.push(None if "data" in one.reads else before)
    commit = repository.snapshot()
    of_clone(repository).push_snapshot(commit)
    on_line(f"pushed {pushed} files and commit {commit[:12]} for the worker")
    return commit


def of_clone(repository: Repository) -> Repository:
    """Return the project as it lies in the clone: a relative address of ``origin`` counts from there."""
    workspace = repository.workspace
    return Repository(Workspace(workspace.home / workspace.name))


def _start(repository: Repository, stage: str, pool: str, commit: str, force: bool) -> FlowRun:
    parameters = {"commit": commit, "project": repository.workspace.name, "stage": stage, "force": force}
    try:
        return run_deployment(  # type: ignore[return-value]  # a coroutine only where an event loop runs
            _deployment(pool), parameters=parameters, timeout=0, flow_run_name=f"{stage} {commit[:12]}"
        )
    except ObjectNotFound:
        raise DeploymentMissing(stage, pool) from None


def _wait(flow_run: FlowRun, pool: str, on_line: Callable[[str], None]) -> FlowRun:
    """Wait until the worker's run has ended; say what it waits for."""
    started, said, state = time.monotonic(), False, ""
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_flow_run(flow_run.id)
            if found.state is not None and found.state.is_final():
                return found
            if found.state is not None and found.state.name != state:
                state = found.state.name or ""
                on_line(f"on the worker: {state.lower()}")
            waits = found.state is not None and found.state.is_scheduled()
            if waits and not said and time.monotonic() - started > PATIENCE_SECONDS:
                said = True
                on_line(f"no worker has taken it yet; is one running? `graft worker --pool {pool}`")
            time.sleep(POLL_SECONDS)


def _check(finished: FlowRun, commit: str, pool: str) -> None:
    state = finished.state
    message = (state.message if state else None) or "no message"
    if state is None or not state.is_completed():
        raise GraftError(
            f"work pool {pool}: flow run {finished.name} ended as {state.name if state else None}: {message}"
        )
    if commit not in message:
        raise IntegrityError(f"work pool {pool}: the worker did another commit than {commit}: {message}")


def _not_here(line: str, stage: str) -> str:
    """Refuse to go on when DVC starts a placed stage in this process: its result was not in the remote."""
    if RUNS_HERE.match(line):
        raise IntegrityError(
            f"stage {stage}: was placed, but the remote's run cache does not hold its result for these inputs; do "
            "caller and worker use the same DVC remote?"
        )
    return line
