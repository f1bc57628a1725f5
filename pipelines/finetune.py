"""The chain as a Prefect flow: the same DVC stages that ``dvc repro`` runs, then publish and promote.

Prefect decides when and where a stage runs, never whether: each task asks DVC, and a stage that DVC finds current ends
as a task named *Cached*. Tasks are called in the flow's main thread, one after the other, because a cancelled flow gets
its signal there, and the stage's process group must end with it. Prefect may run a task twice; everything that leaves a
trace outside (run, version, alias) is found or created by its key, so the outcome is the same.

``python -m pipelines.finetune --help`` is what ``graft run`` starts.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Prefect reads its settings on import, and the API starts meanwhile: this module is imported when both are ready.
    from pipelines.arguments import finetune_main

    sys.exit(finetune_main(sys.argv[1:]))

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as current
from prefect.states import Completed

from graft import params, stages
from graft.errors import ConfigError
from graft.quarantine import in_words
from graft.repository import Repository
from graft.workspace import PROFILE_VARIABLE, Workspace
from pipelines import journal, logs, placement, recording, reporting
from pipelines.chain import Chain
from pipelines.recording import RETRIES, RETRY_SECONDS, a_retry_can_help
from pipelines.stage import project_of_clone

NO_OVERRIDES: dict[str, Any] = {}
PROFILED = "train"
"""The stage that can say where its time goes."""
OUTCOME_NAMES = {"cached": "Cached", "restored": "Restored", "ran": "Completed"}
OUTCOME_WORDS = {
    "cached": "nothing it depends on has changed",
    "restored": "taken from the run cache, not run",
    "ran": "ran",
}


def run_name() -> str:
    """Return what the run is called in Prefect: its project and what it overrides."""
    given = current.get_parameters()
    overrides = [f"{path.rpartition('.')[2]}={value}" for path, value in (given.get("overrides") or {}).items()]
    project = given.get("project") or "."
    return " ".join(["demo" if project == "." else Path(project).name, *overrides])


@flow(name="finetune", flow_run_name=run_name, description=__doc__)
def finetune(
    project: str = ".",
    overrides: dict[str, Any] = NO_OVERRIDES,
    force: bool = False,
    commit: str = "",
    in_place: bool = False,
    add_data: bool = False,
    pull: bool = False,
    push: bool = False,
    publish: bool = True,
    profile: bool = False,
) -> None:
    """Validate, tokenize, train, evaluate, register; then publish to MLflow and decide on promotion.

    Args:
        project: The project's folder below the repository, "." for the root.
        overrides: Parameters for this run, by dotted path: {"training.epochs": 5}.
        force: Run every stage though its result may be current.
        commit: The commit to run; empty for what the clone has checked out.
        in_place: Work in the user's own files (what `graft run` does) and not in a temporary worktree.
        add_data: In place only: record changed data in data.dvc in place of refusing it.
        pull: Take results that the DVC remote's run cache has, in place of computing them.
        push: At the end, push outputs, run cache and the run's commit to the remotes.
        publish: Record the result in MLflow, and let promotion decide if promotion.automatic says so.
        profile: Train though it is current, and profile some steps; the adapter is the same.
    """
    logs.shorten_known_errors()
    repository = Repository(project_of_clone(project))
    if in_place and (overrides or commit):
        raise ConfigError("in_place: the user's files are run as they are; leave out in_place, or commit and overrides")
    if in_place and journal.in_worker():
        raise ConfigError("in_place: only at a terminal; a run of a worker stays out of the user's files")
    for lost in journal.reconcile(repository.workspace):
        get_run_logger().warning(f"run {lost.folder.name} had been killed; marked as crashed")
    run = journal.begin(repository.workspace, project=project, overrides=overrides, in_place=in_place)
    with (
        run.followed(),
        logs.kept_in(run.log),
        journal.cancellable(str(run.facts["flow_run"])),
        _place(repository, commit, overrides, in_place=in_place, add_data=add_data) as workspace,
    ):
        chain = Chain(run, workspace, params.load(workspace.params), force=force, pull=pull, profile=profile)
        _chain(chain, push=push, publish=publish)


@contextlib.contextmanager
def _place(
    repository: Repository, commit: str, overrides: dict[str, Any], *, in_place: bool, add_data: bool
) -> Iterator[Workspace]:
    """Yield where the run works: the user's files, locked and with their data checked, or a worktree of a commit."""
    if in_place:
        Workspace.find(repository.workspace.root)
        with repository.lock("graft run"):
            _check_data(repository, add_data=add_data)
            yield repository.workspace
        return
    if add_data:
        raise ConfigError("add_data: only with in_place; a run in a worktree takes the data that its commit names")
    base = commit or repository.commit()
    if base is None:
        raise ConfigError(f"{repository.workspace.repository}: no commit yet to run; commit the project first")
    with repository.worktree(base, overrides) as workspace:
        inner = Repository(workspace)
        if inner.pull_data():
            get_run_logger().info("data/: taken from the DVC cache or its remote, as data.dvc names it")
        yield workspace


def _check_data(repository: Repository, *, add_data: bool) -> None:
    logger = get_run_logger()
    if repository.pull_data():
        logger.info("data/: pulled, as data.dvc names it")
    if not add_data:
        repository.refuse_changed_data()
    elif changes := repository.data_changes():
        repository.add_data()
        logger.info(f"data/: {in_words(len(changes), 'changed file')} recorded in data.dvc")
        return
    if repository.cache_data():
        logger.info("data/: as data.dvc names it; put into the DVC cache, which lacked it")


def _chain(chain: Chain, *, push: bool, publish: bool) -> None:
    repository, logger = Repository(chain.workspace), get_run_logger()
    commit = repository.snapshot()
    chain.stands_on(commit)
    chain.run.update(model=chain.config.registration.name)
    logger.info(f"project {chain.workspace.name} at commit {commit[:12]}")
    current_stages = set() if chain.force else current_ones(repository)
    placed = {str(name): pool for name, pool in chain.config.placement.items()}
    if chain.profile:
        current_stages.discard(PROFILED)
        if PROFILED in placed:
            raise ConfigError(
                f"--profile: placement.{PROFILED} gives training to the work pool {placed[PROFILED]}; run "
                f"`graft stage {PROFILED} --profile` on its machine"
            )
    placement.check({name: pool for name, pool in placed.items() if name not in current_stages})
    if chain.pull and not repository.has_remote():
        chain.pull = False
        logger.warning("--pull: the default DVC remote is not there; what is out of date is computed here")
    for name in (stage.name for stage in stages.STAGES):
        with (
            recording.live(chain, name) if publish else contextlib.nullcontext(),
            recording.refusal(chain, name) if publish else contextlib.nullcontext(),
            reporting.data_shown(chain.workspace, name),
        ):
            run_stage.with_options(name=name, task_run_name=name)(chain, name, name in current_stages)
    commit = repository.snapshot()
    chain.stands_on(commit)
    if push:
        repository.push()
        for stage in stages.STAGES:
            if stage.parts:
                repository.push_parts(stage.name, logger.info)
        placement.of_clone(repository).push_snapshot(commit)
        logger.info(f"pushed outputs, run cache and commit {commit[:12]}")
    if publish:
        recording.record(chain)


def current_ones(repository: Repository) -> set[str]:
    """Return the stages, from the first on, that DVC finds current: one look in place of a process for each."""
    found = set()
    for name, changes in repository.status().items():
        if changes:
            break
        found.add(name)
    return found


@task(cache_policy=NO_CACHE, retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=a_retry_can_help)
def run_stage(chain: Chain, stage: str, is_current: bool) -> State:
    """Bring one stage up to date through DVC: here, or by a worker of the work pool that ``placement`` names."""
    pool = {str(name): pool for name, pool in chain.config.placement.items()}.get(stage)
    logger, repository = get_run_logger(), Repository(chain.workspace)
    if is_current:
        outcome, seconds = "cached", 0.0
    elif pool is not None:
        result = placement.run_placed(repository, stage, pool, logger.info, force=chain.force)
        outcome, seconds = result.outcome, result.seconds
    else:
        if chain.pull and stages.get(stage).parts:
            repository.pull_parts(stage, logger.info)
        profile = chain.profile and stage == PROFILED
        result = repository.run_stage(
            stage,
            force=chain.force or profile,
            pull=chain.pull and not profile,
            on_line=logger.info,
            environment={PROFILE_VARIABLE: "1"} if profile else None,
        )
        outcome, seconds = result.outcome, result.seconds
    chain.note(stage, outcome, seconds)
    message = f"{OUTCOME_WORDS[outcome]} ({seconds:.1f} s)"
    logger.info(f"{outcome} ({seconds:.1f} s)")
    return Completed(name=OUTCOME_NAMES[outcome], message=message)
