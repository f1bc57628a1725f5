"""Ask a person in the Prefect UI, for days if need be, without a process that waits.

The flow run that would promote is *suspended* with a form: its process ends and its worker is free; whoever fills the
form in lets a worker start it again, and it decides anew on the same facts and then does what the form says. Suspending
needs a deployment, so a run at a terminal does not wait: its decision stays open, and ``start`` lets the deployment
``promote/decide`` ask where a worker serves it.

A suspended run cannot look at the clock. So two runs of the deployment ``approval-timer/timer`` are scheduled with it:
the first reminds, half way; the second ends the wait as *expired*.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from prefect.runtime import flow_run as current
from prefect.states import Completed
from pydantic import Field

from graft import deciding
from graft.publication import Answer, Decision
from graft.workspace import Workspace
from pipelines import logs, notices
from pipelines.stage import project_of_clone

TIMER = "approval-timer/timer"
DECIDE = "promote/decide"
KEY = "approval"


class Approval(RunInput):
    """The form."""

    decision: Literal["approve", "reject"] = Field(description="Does this version become champion?")
    name: str = Field(min_length=1, description="Who decides; kept in the journal.")
    reason: str = Field(min_length=1, description="Why, in one sentence; kept in the journal.")
    number: int = Field(description="The decision that you were asked about; leave it as it is.")


def asked_at() -> dt.datetime | None:
    """Return when this flow run asked for an approval and was suspended; None: it has not asked yet."""
    flow_run = current.get_id()
    if flow_run is None or deployment.get_id() is None:
        return None
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(flow_run))
    return next((state.timestamp for state in states if state.type == StateType.PAUSED), None)


def ask(decision: Decision, *, hours: float, project: str, commit: str) -> None:
    """Suspend this flow run until somebody fills the form in; return at once where nobody can be asked here.

    Raises:
        Pause: Prefect's signal that ends this process; the run starts again when the form is filled in.
    """
    flow_run = current.get_id()
    if deployment.get_id() is None or flow_run is None:
        return
    asked = dt.datetime.now(dt.UTC)
    with get_client(sync_client=True) as client:  # a run that starts is named anew, by its flow
        client.update_flow_run(UUID(flow_run), name=_title(decision))
    _set_timers(decision, flow_run, asked, hours, project, commit)
    notices.tell(notices.WAITING, decision, hours=hours)
    description = _description(decision, asked + dt.timedelta(hours=hours))
    suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=description, number=decision.number), key=KEY
    )


def answered(asked: dt.datetime, hours: float) -> tuple[Answer, str]:
    """Return what was filled in, and who did it; a form that came too late is none."""
    given = suspend_flow_run(wait_for_input=Approval, key=KEY)
    if dt.datetime.now(dt.UTC) > asked + dt.timedelta(hours=hours):
        return Answer("expire", f"nobody answered within {hours:g} hours", given.number), "the time limit"
    return Answer(given.decision, given.reason.strip(), given.number), given.name.strip()


def start(workspace: Workspace, decision: Decision, commit: str) -> str | None:
    """Let the deployment that can wait ask for an approval; return the id of its flow run, None: nothing serves it."""
    parameters = {"project": workspace.name, "commit": commit}
    try:
        made = run_deployment(
            DECIDE,
            parameters=parameters,
            timeout=0,
            as_subflow=False,
            flow_run_name=_title(decision),
            idempotency_key=f"{decision.name}-{decision.candidate}-{decision.number}",
        )
    except ObjectNotFound:
        return None
    return str(made.id)  # type: ignore[union-attr]  # a coroutine only where an event loop runs


def _title(decision: Decision) -> str:
    return f"approve {decision.name} version {decision.candidate}"


def _set_timers(decision: Decision, flow_run: str, asked: dt.datetime, hours: float, project: str, commit: str) -> None:
    for share, what in ((0.5, "reminder"), (1.0, "end")):
        at = asked + dt.timedelta(hours=hours * share)
        run_deployment(
            TIMER,
            parameters={
                "waiting": flow_run,
                "ends": what == "end",
                "hours": hours,
                "number": decision.number,
                "project": project,
                "commit": commit,
            },
            scheduled_time=at,
            timeout=0,
            as_subflow=False,
            flow_run_name=f"{what}: {decision.name} version {decision.candidate}",
            idempotency_key=f"{flow_run}-{what}",
        )


def _description(decision: Decision, closes: dt.datetime) -> str:
    numbers = "\n".join(f"| {name} | {value:.4g} |" for name, value in decision.evidence.items())
    table = f"\n\n| evidence | |\n|---|---|\n{numbers}" if numbers else ""
    return (
        f"**{decision.name}: version {decision.candidate} in place of "
        f"{f'version {decision.before}' if decision.before else 'nothing'}?**\n\n{decision.reason}{table}\n\n"
        f"This form closes at {closes:%Y-%m-%d %H:%M} UTC; unanswered, the champion stays."
    )


@flow(name="approval-timer", flow_run_name="{waiting}", description=__doc__)
def approval_timer(
    waiting: str, ends: bool = False, hours: float = 0.0, number: int = 0, project: str = ".", commit: str = ""
) -> State:
    """Remind of an approval that waits, or end the wait.

    Args:
        waiting: The id of the suspended flow run.
        ends: Whether its time is over.
        hours: How long it was to wait.
        number: The decision's number in the journal.
        project: The project's folder below the repository.
        commit: What the decision stands on; empty for the clone's own files.
    """
    logs.shorten_known_errors()
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(waiting))
    if found.state is None or not found.state.is_paused():
        return Completed(name="Answered", message=f"{found.name}: waits no longer")
    if not ends:
        get_run_logger().warning(f"{found.name}: still waits for an approval; its form closes in {hours / 2:g} hours")
        _remind(found.name, waiting, hours)
        return Completed(name="Reminded", message=f"{found.name}: waits for an approval")
    answer = Answer("expire", f"nobody answered within {hours:g} hours", number)
    workspace = Workspace.find(project_of_clone(project).root)
    decision = deciding.decide(workspace, commit=commit, answer=answer, who="the time limit")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(waiting), Completed(name="Expired", message=decision.reason), force=True)
    notices.decided(decision)
    return Completed(name="Expired", message=decision.reason)


def _remind(name: str, waiting: str, hours: float) -> None:
    from prefect.events import emit_event

    resource: dict[str, Any] = {"prefect.resource.id": f"prefect.flow-run.{waiting}", "prefect.resource.name": name}
    emit_event(event=notices.REMINDER, resource=resource, payload={"hours_left": hours / 2})
