"""Events about decisions, in Prefect: what automations react to (docs/registry.md, infra/automations.yaml).

The events carry the model as their resource and the decision as their payload; Prefect adds the flow run, its flow and
its deployment as related resources. They tell, and decide nothing: one that gets lost loses a message.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from graft.publication import Decision

DECIDED = "graft.promotion.decided"
WAITING = "graft.approval.waiting"
REMINDER = "graft.approval.reminder"
NAMES = {"waiting": "Waiting"}


def state_name(decision: Decision) -> str:
    """Return the name of the state in which a flow or task with this decision ends: *Promoted*, *Kept*, *Waiting*."""
    return NAMES.get(decision.verdict, "Kept" if decision.refused else "Promoted")


def decided(decision: Decision) -> None:
    """Say that a decision was taken; one that waits for people has its own event."""
    if decision.verdict != "waiting":
        tell(DECIDED, decision)


def tell(event: str, decision: Decision, **more: Any) -> None:
    """Emit one event about a decision."""
    emit_event(
        event=event,
        resource={
            "prefect.resource.id": f"graft.model.{decision.name}",
            "prefect.resource.name": decision.name,
            "graft.verdict": decision.verdict,
            "graft.version": decision.candidate,
            "graft.champion": decision.after or "none",
        },
        payload={**decision.as_json(), **more},
    )
