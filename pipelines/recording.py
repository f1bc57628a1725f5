"""After the stages: publish and promote as tasks, and the training's curves in MLflow while it runs.

MLflow is a view. If it cannot be reached, everything before is done and on disk, the run ends with exit code 7, and
`graft sync` publishes later. A refused promotion is a result: the task ends as *Kept*, with the reason.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from graft import deciding, publication, services
from graft.errors import GraftError, InputError, Locked, PromotionConflict, ResourceMissing
from graft.identity import digest_file
from graft.markdown import sentence
from graft.publication import Decision, Receipt
from graft.publication.refusals import record_refusal
from graft.repository import Repository
from graft.tracking import RunContext
from graft.workspace import command
from pipelines import approval, journal, notices, placement, reporting
from pipelines.chain import Chain

RETRIES = 2
RETRY_SECONDS = [2.0, 10.0]


def a_retry_can_help(_task: Any, _task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether the failure may be gone in a few seconds: a service away, a lock held, another decision faster.

    Bad input stays bad.
    """
    error = state.data if isinstance(state.data, BaseException) else getattr(state.data, "result", None)
    return isinstance(error, ResourceMissing | Locked | PromotionConflict) and not isinstance(
        error, placement.DeploymentMissing
    )


def context_of(chain: Chain) -> RunContext:
    """Return what the record plane is told about this run."""
    workspace, flow_run = chain.workspace, chain.run.facts.get("flow_run")
    return RunContext(
        git_commit=chain.commit,
        git_remote=Repository(workspace).shared_address(),
        prefect_run=flow_run,
        prefect_url=journal.page(flow_run),
        dvc_lock=digest_file(workspace.dvc_lock) if workspace.dvc_lock.is_file() else None,
    )


def live(chain: Chain, stage: str) -> AbstractContextManager[Any]:
    """Show the training in MLflow while ``train`` runs; nothing for other stages, or where its key is not known yet."""
    if stage != "train":
        return contextlib.nullcontext()
    from graft.artifact import planned_identity
    from graft.identity import run_key
    from graft.tracking.runs import Follower

    config, logger = chain.config, get_run_logger()
    sections: dict[str, Any] = {
        "task": config.task,
        "base": config.base,
        "adapter": config.adapter,
        "training": config.training,
    }
    try:
        planned = planned_identity(chain.workspace, **sections)
    except (GraftError, KeyError):  # the stage itself says what is wrong, better than this could
        return contextlib.nullcontext()
    facts = publication.follower_facts(planned, context_of(chain), **sections)
    return Follower(chain.workspace, config.tracking, run_key(planned), on_line=logger.info, **facts)


@contextlib.contextmanager
def refusal(chain: Chain, stage: str) -> Iterator[None]:
    """Let MLflow have the Data Docs of refused data too; that it is away is said, and does not hide the refusal."""
    began = time.time()
    try:
        yield
    except InputError:
        report = reporting.report_of_refusal(chain.workspace, began) if stage == "validate" else None
        if report:
            _record_refusal(chain, report)
        raise


def _record_refusal(chain: Chain, report: Path) -> None:
    workspace, logger = chain.workspace, get_run_logger()
    try:
        page = record_refusal(workspace, report, tracking=chain.config.tracking, context=context_of(chain))
    except GraftError as error:
        logger.warning(f"the Data Docs of the refusal are not in MLflow: {error}")
        return
    url = reachable(chain, page)
    logger.info(f"the Data Docs of the refusal are in MLflow too: {url or command('ui')}")
    if url:
        reporting.show_link(workspace, "data-docs", data_docs(url), "The Data Docs of the refusal, in MLflow")


def record(chain: Chain) -> None:
    """Publish the result, let promotion decide if it may, and show both."""
    logger, workspace = get_run_logger(), chain.workspace
    reporting.show_evaluation(workspace)
    logger.info(f"\n{reporting.evaluation(workspace)}\n")
    publish(chain)
    if chain.config.promotion.automatic:
        promote(chain)
    url = run_page(chain)
    lines = outcome(chain)
    logger.info(lines[0])
    logger.info(f"look at it: {url or command('ui')}")
    reporting.show_link(workspace, "mlflow-run", url, "The training's run in MLflow")
    links = [f"[The run in MLflow]({url}), [its Data Docs]({data_docs(url)})"] if url else []
    reporting.show_summary(workspace, chain, [*map(sentence, lines), *links])


@task(
    name="publish",
    task_run_name="publish",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=a_retry_can_help,
)
def publish(chain: Chain) -> State:
    """Find or create the run and the model version of what the stages made."""
    config = chain.config
    receipt = publication.publish(
        chain.workspace,
        task=config.task,
        base=config.base,
        adapter=config.adapter,
        training=config.training,
        registration=config.registration,
        tracking=config.tracking,
        context=context_of(chain),
    )
    chain.receipt = receipt
    chain.run.update(version=receipt.version, mlflow_run=receipt.run_id, adapter=receipt.adapter)
    get_run_logger().info(f"version {receipt.version} of {receipt.name}")
    return Completed(message=f"version {receipt.version} of {receipt.name}")


@task(
    name="promote",
    task_run_name="promote",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=a_retry_can_help,
)
def promote(chain: Chain) -> State:
    """Decide whether the version becomes champion."""
    decision = deciding.decide_by(chain.config, chain.workspace, who="pipeline")
    chain.decision = decision
    chain.run.update(verdict=decision.verdict, champion=decision.after)
    get_run_logger().info(f"{decision.verdict}: {decision.reason}")
    notices.decided(decision)
    if decision.verdict == "waiting":
        _ask(chain, decision)
    return Completed(name=notices.state_name(decision), message=f"{decision.verdict}: {decision.reason}")


def _ask(chain: Chain, decision: Decision) -> None:
    """Let the deployment that waits for people ask for the approval; this run ends."""
    asking = approval.start(chain.workspace, decision, chain.commit or "")
    if asking is None:
        get_run_logger().info("nobody serves the form in the Prefect UI; `graft worker` would")
        return
    url = journal.page(asking)
    get_run_logger().info(f"the form that approves or rejects: {url or asking}")
    reporting.show_link(chain.workspace, "approval", url, "The form that approves or rejects this version")


def outcome(chain: Chain) -> list[str]:
    """Return the version, its alias and the verdict as sentences."""
    assert chain.receipt is not None, "publish comes first"
    decision = chain.decision
    lines = [version_line(chain.receipt, decision)]
    return [*lines, f"Decision: {decision.verdict}. {decision.reason}"] if decision is not None else lines


def version_line(receipt: Receipt, decision: Decision | None) -> str:
    """Return ``model NAME, version 3, alias champion (adapter sha256 ...)``."""
    alias = "champion" if decision is not None and decision.after == receipt.version else "candidate"
    return f"model {receipt.name}, version {receipt.version}, alias {alias} (adapter {receipt.adapter[:12]})"


def run_page(chain: Chain) -> str | None:
    """Return the address of the MLflow run that a browser can open now; None where no server runs."""
    return reachable(chain, chain.receipt.run_url) if chain.receipt else None


def data_docs(run_page: str) -> str:
    """Return the address of the Data Docs of a run in MLflow."""
    return f"{run_page.partition('?')[0]}/artifacts/data_docs/index.html"


def reachable(chain: Chain, url: str) -> str | None:
    """Return the address of a page of MLflow's that a browser can open now; None where no server runs."""
    if url.startswith(("http://", "https://")):
        return url
    server = services.mlflow_url(chain.workspace)
    return f"{server}/{url.lstrip('/')}" if server and url else None
