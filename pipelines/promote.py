"""A promotion as a flow of its own: decide on the candidate, or approve one that a gate or a person holds back.

The policy is ``graft.publication.promote``; the flow gives it a form in the Prefect UI, a place in the history and an
artifact with the evidence. A refusal is a result, so the flow run completes, as *Kept*. Where ``promotion.approval`` is
required the run waits for a person (``approval.py``), or ends as *Waiting* where it cannot.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from pipelines.arguments import promote_main

    sys.exit(promote_main(sys.argv[1:]))

import getpass
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from graft import deciding, params
from graft.markdown import plain, sentence
from graft.publication import Decision
from graft.runs import Run
from graft.workspace import Workspace
from pipelines import approval, journal, logs, notices, reporting
from pipelines.stage import project_of_clone


@flow(name="promote", flow_run_name="promote {project}", description=__doc__)
def promote(project: str = ".", approve: bool = False, reason: str = "", who: str = "", commit: str = "") -> State:
    """Decide whether the candidate becomes champion.

    Args:
        project: The project's folder below the repository, "." for the root.
        approve: Overrule a refusal; needs a reason, and both are kept in the journal.
        reason: Why, in one sentence.
        who: Who decides; by default the user that the process runs as.
        commit: The snapshot of a run whose result is decided on; empty for what lies in the clone.
    """
    logs.shorten_known_errors()
    workspace = Workspace.find(project_of_clone(project).root)
    run = journal.begin(workspace, project=project)
    hours, asked = params.load(workspace.params).promotion.approval_hours, approval.asked_at()
    choice: dict[str, Any] = {"approve": approve, "reason": reason, "who": who or getpass.getuser()}
    with run.followed(), logs.kept_in(run.log):
        if asked is not None:
            answer, who = approval.answered(asked, hours)
            choice = {"answer": answer, "who": who}
        decision = deciding.decide(workspace, commit=commit, **choice)
        _show(workspace, run, decision)
    if decision.verdict == "waiting":
        approval.ask(decision, hours=hours, project=project, commit=commit)
    return Completed(name=notices.state_name(decision), message=f"{decision.verdict}: {decision.reason}")


def _show(workspace: Workspace, run: Run, decision: Decision) -> None:
    run.update(verdict=decision.verdict, champion=decision.after, version=decision.candidate)
    get_run_logger().info(f"{decision.verdict}: {decision.reason}")
    create_markdown_artifact(
        key=reporting.key(workspace, "verdict"),
        markdown=verdict_markdown(decision),
        description="The decision about champion, and its evidence.",
    )
    notices.decided(decision)


def verdict_markdown(decision: Decision) -> str:
    """Return the decision as a page."""
    numbers = [f"| {plain(name)} | {value:.4g} |" for name, value in decision.evidence.items()]
    lines = [
        f"# {decision.name}: {decision.verdict}",
        sentence(decision.reason),
        f"Candidate version {decision.candidate}, against {plain(decision.against or 'nothing')}. Champion before: "
        f"{decision.before or 'none'}, after: {decision.after or 'none'}. "
        f"Decided by {plain(decision.who or 'nobody')}.",
        *([f"| evidence | |\n|---|---|\n{chr(10).join(numbers)}"] if numbers else []),
        *(f"- {sentence(note)}" for note in decision.notes),
    ]
    return "\n\n".join(lines)
