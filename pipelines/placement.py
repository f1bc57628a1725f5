"""Hand one stage to a worker of another machine, and take its result from the remote.

Nothing but names and digests goes through Prefect. The caller pushes the stage's inputs, its run cache and the commit
that the run stands on; the worker does the stage at that commit and pushes result and run cache; the caller then
*restores* it. A worker at another commit would go unnoticed (DVC would just run the stage here again), so a stage that
was placed and would run here is refused.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from graft import params, stages
from graft.errors import ConfigError, GraftError, IntegrityError, ResourceMissing, shown
from graft.repository import Repository, StageResult
from graft.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15.0
SHARE_VARIABLE = "GRAFT_SHARE_BYTES"
SHARE_BYTES = 64 << 20
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
    if stages.get(stage).parts:
        _spread(repository, stage, pool, commit, on_line)
    flow_run = _start(repository, stage, pool, commit, force=force)
    on_line(f"placed in work pool {pool} at commit {commit[:12]} as flow run {flow_run.name}")
    [finished] = _waited_for([flow_run], pool, on_line)
    _check(finished, commit, pool)
    result = repository.run_stage(stage, pull=True, on_line=lambda line: on_line(_not_here(line, stage)))
    return StageResult(result.outcome, time.monotonic() - started)


def _handed_over(repository: Repository, stage: str, on_line: Callable[[str], None]) -> str:
    """Push what the worker needs: inputs, run cache, an adapter to start from, the commit with the current dvc.lock."""
    pushed = repository.push(None if "data" in stages.get(stage).reads else stages.before(stage))
    if "training" in stages.get(stage).params:
        repository.push_start(params.load(repository.workspace.params).training.init_from)
    commit = repository.snapshot()
    of_clone(repository).push_snapshot(commit)
    on_line(f"pushed {pushed} files and commit {commit[:12]} for the worker")
    return commit


def of_clone(repository: Repository) -> Repository:
    """Return the project as it lies in the clone: a relative address of ``origin`` counts from there."""
    workspace = repository.workspace
    return Repository(Workspace(workspace.home / workspace.name))


def _spread(repository: Repository, stage: str, pool: str, commit: str, on_line: Callable[[str], None]) -> None:
    """Let the workers of a pool share the parts of a stage, where there are several and they have enough to do.

    A share that fails costs time alone: the stage makes what it does not find, and says what is wrong.
    """
    left = repository.pull_parts(stage, on_line)
    shares = min(_online(pool), left["missing"], left["bytes"] // share_bytes())
    if shares < 2:
        return
    given = [f"{number}/{shares}" for number in range(1, shares + 1)]
    flow_runs = [_start(repository, stage, pool, commit, share=one) for one in given]
    on_line(f"{left['missing']} parts are spread over {shares} workers of pool {pool}")
    for one in _waited_for(flow_runs, pool, on_line):
        if one.state is None or not one.state.is_completed():
            said = one.state.message if one.state else "no state"
            on_line(f"share {one.name} did not end well ({said}); the stage makes what is missing")


def share_bytes() -> int:
    """Return how much there is to read before another worker is worth its start: ``GRAFT_SHARE_BYTES``, 64 MiB.

    Raises:
        ConfigError: the variable is no whole number from 1 on.
    """
    given = os.environ.get(SHARE_VARIABLE)
    if given and (not given.isdecimal() or int(given) < 1):
        raise ConfigError(f"{SHARE_VARIABLE}: expected a whole number of bytes from 1 on, got {shown(given)}")
    return int(given) if given else SHARE_BYTES


def _online(pool: str) -> int:
    """Return how many workers of a pool are there."""
    with get_client(sync_client=True) as client:
        return sum(one.status is WorkerStatus.ONLINE for one in client.read_workers_for_work_pool(pool))


def _waited_for(flow_runs: Sequence[FlowRun], pool: str, on_line: Callable[[str], None]) -> list[FlowRun]:
    """Wait until all runs have ended; cancel them where this one ends before."""
    try:
        return [_wait(one, pool, on_line) for one in flow_runs]
    except BaseException:
        with get_client(sync_client=True) as client:
            for one in flow_runs:
                client.set_flow_run_state(one.id, Cancelling(message="the run that placed it has ended"))
        raise


def _start(
    repository: Repository, stage: str, pool: str, commit: str, *, force: bool = False, share: str = ""
) -> FlowRun:
    parameters = {"commit": commit, "project": repository.workspace.name, "stage": stage, "force": force}
    name = " ".join(filter(None, (stage, share, commit[:12])))
    try:
        return run_deployment(  # type: ignore[return-value]  # a coroutine only where an event loop runs
            _deployment(pool), parameters={**parameters, "share": share}, timeout=0, flow_run_name=name
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
