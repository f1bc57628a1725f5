"""Receipts of reproductions in MLflow: tags of the version, and a run of its own beside the ledger of decisions.

A run for each, found or created by what the receipt says, with the whole receipt as ``receipt.json``: who rebuilt which
version when, in what environment, and what came out. It decides nothing, so the ledger's slots do not know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.identity import digest_json
from graft.markdown import plain, sentence
from graft.tracking import TrackingConfig, ledger, registry
from graft.tracking.registry import Version
from graft.tracking.runs import end, find_or_create
from graft.tracking.server import Connection
from graft.workspace import Workspace

FILE = "receipt.json"


def record(
    connection: Connection, config: TrackingConfig, workspace: Workspace, version: Version, receipt: Mapping[str, Any]
) -> str:
    """Keep a receipt; return the id of its run."""
    experiment = ledger.find_or_create(connection, config, workspace, version.name).experiment
    adapter, environment = receipt["adapter"], receipt["environment"]
    tags = {
        "reproduction.model": version.name,
        "reproduction.version": version.version,
        "reproduction.verdict": receipt["verdict"],
        "reproduction.reason": receipt["reason"],
        "reproduction.commit": receipt["commit"],
        "reproduction.recorded": adapter["recorded"],
        "reproduction.rebuilt": adapter["rebuilt"],
        "reproduction.environment": environment["lock"] or "",
        "reproduction.who": receipt["who"],
        "reproduction.on": receipt["on"],
        "mlflow.user": receipt["who"],
        "mlflow.source.name": "graft reproduce",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": f"**{version.name} version {version.version}: {receipt['verdict']}**\n\n"
        f"{sentence(receipt['reason'])}\n\nby {plain(receipt['who'])}, commit `{receipt['commit']}`\n",
    }
    title = f"{version.name} v{version.version}: {receipt['verdict']}"
    run = find_or_create(connection, experiment, digest_json(dict(receipt))[:16], name=title, tags=tags)
    connection.client.log_dict(run.info.run_id, dict(receipt), FILE)
    end(connection, run.info.run_id, "FINISHED")
    registry.set_tags(
        connection,
        version,
        {
            "graft.reproduced": receipt["verdict"],
            "graft.reproduced_adapter": adapter["rebuilt"],
            "graft.reproduced_on": receipt["on"],
            "graft.reproduced_by": receipt["who"],
            "graft.reproduced_run": run.info.run_id,
        },
    )
    return str(run.info.run_id)


def reproductions(connection: Connection, name: str) -> list[dict[str, str]]:
    """Return what was rebuilt of a registered model, the newest first: version, verdict, reason, who, on, ..."""
    book = ledger.find(connection, name)
    if book is None:
        return []
    found: list[Any] = []
    token = None
    while True:
        page = connection.client.search_runs(
            [book.experiment], f"tags.`reproduction.model` = '{name}'", max_results=500, page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            break
    prefix = "reproduction."
    rows = [
        {key[len(prefix) :]: value for key, value in run.data.tags.items() if key.startswith(prefix)} for run in found
    ]
    return sorted(rows, key=lambda one: one["on"], reverse=True)
