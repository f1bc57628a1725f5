"""The flow that a worker of another machine runs: one stage, at one commit, in the worker's own clone.

The worker has its clone, its environment, the git remote and the DVC remote, nothing else. It fetches the commit, works
in a temporary worktree of it (so the stage's code is the commit's, whatever the clone has checked out) and pushes the
result with the run cache, from where the caller restores it.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from graft import base, params, stages
from graft.errors import ConfigError, IntegrityError, ResourceMissing, shown
from graft.repository import Repository
from graft.workspace import Workspace
from pipelines import journal, logs

CLONE_VARIABLE = "GRAFT_CLONE"


@flow(name="gpu-stage", description=__doc__)
def gpu_stage(commit: str, stage: str, project: str = ".", force: bool = False, share: str = "") -> State:
    """Run one stage at a commit and push its result; or a share of its parts, ahead of it.

    Args:
        commit: The full digest of the snapshot that the caller pushed.
        stage: validate, tokenize, train, evaluate or register.
        project: The project's folder below the repository, "." for the root.
        force: Run the stage though its result may be in the cache.
        share: "2/3": only the second third of the parts, whose results the others and the stage then find.
    """
    logs.shorten_known_errors()
    stages.get(stage)
    repository = Repository(project_of_clone(project))
    run = journal.begin(repository.workspace, commit=commit, stage=stage)
    with run.followed(), logs.kept_in(run.log):
        repository.fetch_snapshot(commit)
        with repository.worktree(commit) as inner:
            if share:
                return _shared(Repository(inner), stage, commit, share)
            return _done(Repository(inner), stage, commit, force)


def _shared(repository: Repository, stage: str, commit: str, share: str) -> State:
    number, _, of = share.partition("/")
    get_parts_inputs(repository, stage)
    made = repository.share_parts(stage, int(number), int(of), get_run_logger().info)["made"]
    return Completed(message=f"{stage} at {commit}: share {share}, {made} results of parts made")


def get_parts_inputs(repository: Repository, stage: str) -> None:
    """Pull what work on a stage's parts reads: the data, and the results of earlier stages."""
    repository.pull_data()
    if before := stages.before(stage):
        repository.pull(before, run_cache=False)


def _done(repository: Repository, stage: str, commit: str, force: bool) -> State:
    logger = get_run_logger()
    if repository.commit() != commit:
        raise IntegrityError(f"worktree: at {shown(repository.commit())}, asked for {commit}; refused")
    get_data_of_base(repository)
    if "training" in stages.get(stage).params:
        repository.pull_start(params.load(repository.workspace.params).training.init_from)
    if stages.get(stage).parts:
        get_parts_inputs(repository, stage)
        repository.pull_parts(stage, logger.info)
    result = repository.run_stage(stage, pull=True, force=force, on_line=logger.info)
    if repository.commit() != commit:
        raise IntegrityError(f"worktree: moved from {commit} to {shown(repository.commit())} during {stage}; refused")
    pushed = repository.push([stage])
    message = f"{stage} at {commit}: {result.outcome} in {result.seconds:.1f} s, {pushed} files pushed"
    logger.info(message)
    return Completed(message=message)


def get_data_of_base(repository: Repository) -> None:
    """Pull data/ where the base is one from scratch that this machine lacks: it is made from the training rows."""
    workspace = repository.workspace
    config = params.load(workspace.params).base
    if config.kind == "scratch":
        try:
            base.locked(workspace, config).folder(workspace.root, weights=False)
        except ResourceMissing:
            repository.pull_data()


def project_of_clone(project: str) -> Workspace:
    """Return a project of the clone that this process works for: ``GRAFT_CLONE``, else that of the current folder.

    Raises:
        ConfigError: ``project`` leads out of the clone.
    """
    given = os.environ.get(CLONE_VARIABLE)
    clone = Path(given).resolve() if given else Workspace(Path.cwd()).repository
    root = (clone / project).resolve()
    if not root.is_relative_to(clone):
        raise ConfigError(f"project: {shown(project)} lies outside the repository; give its path below it")
    return Workspace(root)
