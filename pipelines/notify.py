"""Let a notification block of Prefect's tell people: decisions, approvals that wait, reminders.

    python -m pipelines.notify slack-webhook/team

Makes (or renews) three automations on the Prefect server, which send what ``notices.py`` emits to the block. Blocks are
made in the Prefect UI (Slack, Teams, e-mail, PagerDuty, a webhook of one's own, ...); the automations can be changed
there too, until this is run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graft import services
from graft.errors import GraftError, ResourceMissing, shown
from graft.workspace import Workspace
from pipelines.launch import said

TEXTS = {
    "decided": (
        "graft.promotion.decided",
        "{{ event.resource.name }}: {{ event.payload.verdict }} version {{ event.payload.candidate }}",
        "champion: {{ event.payload.before or 'none' }} -> {{ event.payload.after or 'none' }}, decided by "
        "{{ event.payload.who }}\n\n{{ event.payload.reason }}",
    ),
    "approval waits": (
        "graft.approval.waiting",
        "{{ event.resource.name }}: version {{ event.payload.candidate }} waits for your approval",
        "{{ event.payload.reason }}\n\nThe form closes in {{ event.payload.hours }} hours.",
    ),
    "reminder": (
        "graft.approval.reminder",
        "{{ event.resource.name }}: still waits for an approval",
        "The form closes in {{ event.payload.hours_left }} hours.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the automations; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.notify", description=__doc__)
    parser.add_argument("block", help="the notification block: its type and name, `slack-webhook/team`")
    given = parser.parse_args(arguments)
    try:
        workspace = Workspace(Path.cwd())
        url = os.environ.get(services.API_VARIABLE) or services.server_url(workspace)
        if url is None:
            raise ResourceMissing(f"no Prefect server runs: start `graft ui`, or set {services.API_VARIABLE}")
        os.environ.update(services.environment(workspace) | {services.API_VARIABLE: url})
        for name in automate(given.block):
            print(f"automation {name!r}")
    except GraftError as error:
        return said(f"error: {error}", error.exit_code)
    return 0


def automate(block: str) -> list[str]:
    """Make or renew the automations that send to ``block``; return their names.

    Raises:
        ResourceMissing: there is no such block.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.exceptions import ObjectNotFound

    kind, _, called = block.partition("/")
    made = []
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(called, block_type_slug=kind)
        except ObjectNotFound:
            raise ResourceMissing(
                f"no notification block {shown(block)} in Prefect; make one under Blocks in its UI"
            ) from None
        assert document.id is not None
        for short, (event, subject, body) in TEXTS.items():
            automation = AutomationCore(
                name=f"graft: {short}",
                description="Made by `python -m pipelines.notify`",
                trigger=EventTrigger(expect={event}, posture=Posture.Reactive, threshold=1),
                actions=[SendNotification(block_document_id=document.id, subject=subject, body=body)],
            )
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
            client.create_automation(automation)
            made.append(automation.name)
    return made


if __name__ == "__main__":
    sys.exit(main())
