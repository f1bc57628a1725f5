"""Receipts: what was published where, so that a no-op and ``graft status`` know it without asking a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from graft.errors import ConfigError
from graft.identity import digest_folder
from graft.publication.facts import content_digest
from graft.tracking import RunContext, TrackingConfig, resolve_uri
from graft.workspace import Workspace, locked, read_json, write_json


@dataclass(frozen=True)
class Receipt:
    """One adapter on one server."""

    uri: str
    name: str
    """The registered model."""
    adapter: str
    """The digest of the adapter folder."""
    key: str
    """The run key."""
    run_id: str
    run_url: str
    """Absolute on a server; for a local store the path below the address of `graft ui` (``/#/experiments/...``)."""
    version: str
    version_url: str
    content: str
    """The digest of all that was uploaded."""
    context: Mapping[str, str | None] = field(default_factory=dict)
    """The :class:`RunContext` that the version stands on."""
    decision: Mapping[str, Any] = field(default_factory=dict)
    """The last promotion decision about this version, as ``Decision.as_json()``, with its ``number`` in this clone."""

    @property
    def place(self) -> str:
        """The key in published.json."""
        return place(self.uri, self.name, self.adapter)


def place(uri: str, name: str, adapter: str) -> str:
    """Return the key of a receipt: one adapter is one version per server and model."""
    return f"{uri}|{name}|{adapter}"


def receipts(workspace: Workspace) -> list[Receipt]:
    """Return all receipts of this project; light."""
    known = {one.name for one in fields(Receipt)}
    return [
        Receipt(**{name: value for name, value in found.items() if name in known})
        for found in _read(workspace).values()
    ]


def published(workspace: Workspace, *, registration_name: str, tracking: TrackingConfig) -> Receipt | None:
    """Return the receipt of exactly what lies on disk now, or None if it was not published; light.

    It does not ask the server: `graft sync` does, and publishes again what a new or emptied server lacks.
    """
    adapter = workspace.package / "adapter"
    if not adapter.is_dir():
        return None
    at = place(resolve_uri(tracking, workspace), registration_name, digest_folder(adapter))
    held = [one for one in receipts(workspace) if one.place == at]
    return held[0] if held and held[0].content == content_digest(workspace) else None


def write(workspace: Workspace, receipt: Receipt) -> None:
    """Add or replace a receipt."""
    with locked(_lock(workspace), purpose="write a receipt", wait_seconds=10):
        write_json(workspace.published, _read(workspace) | {receipt.place: asdict(receipt)})


def write_decision(workspace: Workspace, at: str, decision: Mapping[str, Any]) -> None:
    """Add a decision to a receipt, if there is one at ``at``, numbered as the last one."""
    with locked(_lock(workspace), purpose="write a receipt", wait_seconds=10):
        held = _read(workspace)
        number = 1 + max((one.get("decision", {}).get("number", 0) for one in held.values()), default=0)
        if at in held:
            write_json(workspace.published, held | {at: {**held[at], "decision": {**decision, "number": number}}})


def champion_known(workspace: Workspace, *, name: str, tracking: TrackingConfig) -> str | None:
    """Return the version that is champion by the last decision of this clone; light, so a move elsewhere is not seen.

    None: no decision of this clone made one champion.
    """
    uri = resolve_uri(tracking, workspace)
    decisions = [one.decision for one in receipts(workspace) if (one.uri, one.name) == (uri, name) and one.decision]
    last = max(decisions, key=lambda one: one.get("number", 0), default={})
    found: str | None = last.get("after")
    return found


def first_context(workspace: Workspace, adapter: str, now: RunContext) -> RunContext:
    """Return what the adapter was first published with: a later run of the same adapter stands on a later commit."""
    for one in receipts(workspace):
        if one.adapter == adapter and one.context.get("git_commit"):
            return RunContext(**one.context)
    return now


def _read(workspace: Workspace) -> dict[str, dict[str, Any]]:
    if not workspace.published.is_file():
        return {}
    found = read_json(workspace.published)
    if not isinstance(found, dict):
        raise ConfigError(f"{workspace.published}: must be a JSON object; remove it and run `graft sync`")
    return found


def _lock(workspace: Workspace) -> Any:
    return workspace.published.with_name(workspace.published.name + ".lock")
