"""Decide whether a run has anything to do, without importing what a run needs.

A run has nothing to do when the data is what data.dvc records, every stage is what dvc.lock records, the base is what
sources.lock pins, and this adapter was published and judged at this registry: the receipt in ``.graft`` says so. That
costs about one ``dvc status``; MLflow is not asked, so a version deleted there is published again by ``graft sync``
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graft.workspace import Workspace

if TYPE_CHECKING:
    from graft.publication import Receipt

SHOWN_METRICS = 3


def current(workspace: Workspace) -> Receipt | None:
    """Return the receipt that a run would end with, or None where there is something to do.

    Raises:
        GraftError: params, sources.lock or DVC's files are wrong.
    """
    from graft import base, params
    from graft.publication.receipts import published
    from graft.repository import Repository

    if not (workspace.dvc_lock.is_file() and workspace.sources_lock.is_file() and workspace.published.is_file()):
        return None
    config = params.load(workspace.params)
    base.locked(workspace, config.base)
    found = published(workspace, registration_name=config.registration.name, tracking=config.tracking)
    if found is None or (config.promotion.automatic and not found.decision):
        return None
    repository = Repository(workspace)
    return None if repository.data_changes(cache=True) or not repository.is_current() else found


def summary_lines(workspace: Workspace, receipt: Receipt) -> Iterator[str]:
    """Yield the short table of the evaluation, the model version, its alias and the decision about it."""
    from graft.evaluation.overview import format_table, summary
    from graft.tracking.server import shown_uri
    from graft.workspace import command, read_json

    yield format_table(summary(read_json(workspace.evaluation / "metrics.json")), columns=SHOWN_METRICS)
    yield ""
    alias = "champion" if receipt.decision.get("after") == receipt.version else "candidate"
    yield f"model    {receipt.name} version {receipt.version} (@{alias}) at {shown_uri(receipt.uri)}"
    yield f"adapter  sha256 {receipt.adapter}"
    if receipt.decision:
        yield f"verdict  {receipt.decision['verdict']}: {receipt.decision['reason']}"
    yield f"look     {command('ui')}"
