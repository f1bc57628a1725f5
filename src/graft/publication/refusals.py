"""Data that was refused, in MLflow too: a failed run with the Data Docs, found or created by what they say.

Whoever reviews models sees why there is no new one. The documents alone are uploaded: they show the start of values,
the report beside them shows more.
"""

from __future__ import annotations

import time
from pathlib import Path

from graft.identity import digest_folder
from graft.tracking import RunContext, TrackingConfig
from graft.workspace import Workspace

MOST_BYTES = 64 << 20
"""The largest Data Docs that are uploaded; they have pages for the first parts alone, so few are near it."""


def record_refusal(workspace: Workspace, report: Path, *, tracking: TrackingConfig, context: RunContext) -> str:
    """Make the report of refused data a failed run in MLflow; return its page (relative where no server runs).

    Raises:
        ResourceMissing: MLflow cannot be reached or written.
    """
    from graft.tracking import runs
    from graft.tracking.server import connect, experiment_id, reported

    docs = report / "data_docs"
    digest = digest_folder(docs)
    connection = connect(tracking, workspace)
    with reported(connection.uri):
        experiment = experiment_id(connection, tracking, workspace)
        tags = {**context.tags(), "graft.data": "refused"}
        run = runs.find_or_create(connection, experiment, f"data-{digest[:16]}", name="data refused", tags=tags)
        if run.info.status != "FAILED":
            if sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) <= MOST_BYTES:
                connection.client.log_artifacts(run.info.run_id, str(docs), "data_docs")
            else:
                connection.client.log_artifact(run.info.run_id, str(docs / "index.html"), "data_docs")
            runs.end(connection, run.info.run_id, "FAILED", int(time.time() * 1000))
    return connection.link(f"experiments/{experiment}/runs/{run.info.run_id}")
