"""Rebuild a model version from its recorded commit, and say whether the same bytes came out.

The proof is worth what the rebuild does not share with the original: a clone of its own at that commit, data pulled
from the remote by hash, an empty cache, no run cache, no checkpoints, every stage forced. What it does share is this
machine's Python environment; the identity names the library versions on both sides. The trade-off is time: nothing is
reused, so a reproduction costs a full training.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, InputError, IntegrityError, shown
from graft.identity import digest_folder
from graft.repository import Repository
from graft.repository.git import ref_of
from graft.repository.worktrees import carry_dvc_settings, environment_of
from graft.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from graft.tracking import TrackingConfig
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection

REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|(?P<alias>@[^/@]+))")
# Which stage decides a part of the identity; what is not named here is decided by train.
DECIDED = (("validate", ("data", "task", "clean", "columns")), ("tokenize", ("test", "max_length_tokens")))


@dataclass(frozen=True)
class Recorded:
    """What is known of a version: the commit that its run stood on, its adapter's digest, its identity."""

    reference: str
    commit: str
    adapter: str
    identity: Mapping[str, Any] | None = None


def reproduce(
    workspace: Workspace, reference: str, *, tracking: TrackingConfig, on_line: Callable[[str], None] = print
) -> dict[str, Any]:
    """Rebuild the version that ``reference`` (``models:/NAME@champion``, ``models:/NAME/3``) names; return the receipt.

    The receipt is written to ``.graft/receipts`` and set as tags of the version.

    Raises:
        InputError: no such version.
        IntegrityError: the version does not record what it was made from.
        ResourceMissing: the registry, the commit, the data or the base is not there.
        GraftError: a stage failed.
    """
    from graft.tracking import registry
    from graft.tracking.server import connect

    name, number = parsed(reference)
    connection = connect(tracking, workspace)
    version = registry.get(connection, name, number)
    receipt = rebuild(workspace, recorded(connection, version), on_line=on_line)
    tags = {
        "graft.reproduced": "identical" if receipt["identical"] else "different",
        "graft.reproduced_adapter": receipt["rebuilt"],
        "graft.reproduced_on": receipt["on"],
    }
    registry.set_tags(connection, version, tags)
    return receipt


def parsed(reference: str) -> tuple[str, str]:
    """Return the name, and the number or ``@alias``, of a model reference.

    Raises:
        InputError: it is not of that form.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(f"{shown(reference)}: must be models:/NAME@ALIAS or models:/NAME/NUMBER")
    return found["name"], found["number"] or found["alias"]


def recorded(connection: Connection, version: Version) -> Recorded:
    """Read what the registry records about a version.

    Raises:
        IntegrityError: its commit or its adapter's digest is not recorded.
    """
    from graft.tracking import models

    commit = commit_of(connection, version)
    if not version.adapter:
        raise _unrecorded(version, "adapter digest (tag graft.adapter)")
    identity = None
    with tempfile.TemporaryDirectory(prefix="graft-identity-") as folder, contextlib.suppress(GraftError):
        identity = read_json(
            models.download(connection, version.source, "artifacts/adapter/identity.json", Path(folder))
        )
    return Recorded(version.uri, commit, version.adapter, identity)


def commit_of(connection: Connection, version: Version) -> str:
    """Return the commit that the run of a version stood on.

    Raises:
        IntegrityError: it is not recorded.
    """
    run_tags = connection.client.get_run(version.run_id).data.tags if version.run_id else {}
    commit = version.tags.get("graft.git_commit") or run_tags.get("graft.git_commit")
    if not commit:
        raise _unrecorded(version, "commit (tag graft.git_commit)")
    return str(commit)


def _unrecorded(version: Version, what: str) -> IntegrityError:
    return IntegrityError(f"{version.uri}: records no {what}; only versions that graft published can be rebuilt")


def rebuild(workspace: Workspace, of: Recorded, *, on_line: Callable[[str], None] = print) -> dict[str, Any]:
    """Rebuild the adapter in a clean clone at the recorded commit; write and return the receipt.

    Raises:
        ResourceMissing: the commit or the data is not there.
        GraftError: a stage failed.
    """
    started = time.monotonic()
    with clean_clone(workspace, of.commit) as clone:
        run_all(clone, on_line)
        rebuilt = digest_folder(clone.adapter)
        identity = read_json(clone.adapter / "identity.json") if (clone.adapter / "identity.json").is_file() else None
    identical = rebuilt == of.adapter
    receipt = {
        "format": 1,
        "reference": of.reference,
        "commit": of.commit,
        "recorded": of.adapter,
        "rebuilt": rebuilt,
        "identical": identical,
        "first_difference": None if identical else first_difference(of.identity, identity),
        "on": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(workspace.dot / "receipts" / f"{of.adapter[:12]}-{of.commit[:12]}.json", receipt)
    return receipt


@contextlib.contextmanager
def clean_clone(workspace: Workspace, commit: str) -> Iterator[Workspace]:
    """Yield the project in a temporary clone at ``commit``, with an empty cache and a home of its own."""
    repository = Repository(workspace)
    repository.fetch_snapshot(commit)
    repository.git.keep(commit)  # a plain clone brings branches; this ref is fetched by name
    with tempfile.TemporaryDirectory(prefix="graft-reproduce-") as folder:
        root = Path(folder).resolve() / "clone"
        repository.git.run("clone", "--quiet", "--no-hardlinks", "--no-checkout", str(workspace.repository), str(root))
        clone = Repository(Workspace(root / workspace.name))
        clone.git.run("fetch", "--quiet", "--no-tags", "origin", f"{ref_of(commit)}:{ref_of(commit)}")
        clone.git.run("checkout", "--quiet", "--detach", commit)
        carry_dvc_settings(workspace, clone.workspace, cache=False)
        with environment_of(workspace, home=root):
            yield clone.workspace


def run_all(workspace: Workspace, on_line: Callable[[str], None]) -> None:
    """Pull the data and run the stages, forced, up to the one that makes the adapter."""
    repository = Repository(workspace)
    repository.pull_data()
    for stage in repository.status():
        repository.run_stage(stage, force=True, on_line=on_line)
        if workspace.adapter.is_dir():
            return
    raise IntegrityError(f"{workspace.root / 'dvc.yaml'}: no stage made {workspace.adapter.name}; not a Graft project?")


def first_difference(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the first stage whose part of the identity differs, and each differing field with both values."""
    if old is None or new is None:
        return {"stage": None, "fields": {}, "note": "the version or the rebuild has no readable identity"}
    differing = {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    for stage, fields in DECIDED:
        found = {name: differing[name] for name in fields if name in differing}
        if found:
            return {"stage": stage, "fields": found}
    return {"stage": "train", "fields": differing}
