"""What the registry records about a version: enough to rebuild it on a machine that has never seen it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, IntegrityError
from graft.tracking.registry import parsed
from graft.workspace import read_json

__all__ = ["Recorded", "commit_of", "parsed", "recorded", "signed_commit", "tags_of"]

if TYPE_CHECKING:
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection

ADAPTER = "artifacts/adapter"
EVALUATION = "evaluation"
"""Of a run's artifacts: what the stage evaluate wrote."""


@dataclass(frozen=True)
class Recorded:
    """What is known of a version: the commit that its run stood on, its adapter's digest, its identity."""

    reference: str
    commit: str
    adapter: str
    """The digest of the adapter folder."""
    identity: Mapping[str, Any] | None = None
    remote: str | None = None
    """Where the commit can be had: the git remote that the run named, without credentials."""
    dvc_lock: str | None = None
    """sha256 of the dvc.lock that its stages wrote."""
    download: Callable[[str, Path], Path] | None = None
    """Downloads a file of its run's artifacts into a folder; None: there is no run."""

    @property
    def environment(self) -> str | None:
        """The digest of the lock file that it was trained with."""
        return self.identity.get("environment") if self.identity else None


def recorded(connection: Connection, version: Version) -> Recorded:
    """Read what the registry records about a version.

    Raises:
        IntegrityError: its commit or its adapter's digest is not recorded.
    """
    from graft.tracking import models

    tags = tags_of(connection, version)
    commit = commit_of(connection, version)
    if not version.adapter:
        raise _unrecorded(version, "adapter digest (tag graft.adapter)")
    identity = None
    with tempfile.TemporaryDirectory(prefix="graft-identity-") as folder, contextlib.suppress(GraftError):
        path = f"{ADAPTER}/identity.json"
        identity = read_json(models.download(connection, models.location(connection, version), path, Path(folder)))

    def of_run(path: str, folder: Path) -> Path:
        return models.download_of_run(connection, str(version.run_id), path, folder)

    return Recorded(
        version.uri,
        commit,
        version.adapter,
        identity,
        remote=tags.get("graft.git_remote"),
        dvc_lock=tags.get("graft.dvc_lock"),
        download=of_run if version.run_id else None,
    )


def signed_commit(connection: Connection, version: Version) -> str | None:
    """Return the commit that a version's signed statement names; None where no key is trusted.

    Where keys are trusted it counts, and not the tag: whoever can write the registry can write a tag, and the commit
    says what code will run.

    Raises:
        IntegrityError: the version has no valid signature, or its statement names no commit.
    """
    from graft.tracking import models, provenances

    if not connection.trust.config.public_keys:
        return None
    with tempfile.TemporaryDirectory(prefix="graft-signed-") as folder:
        place = models.location(connection, version)
        signed = provenances.check(connection, version, models.download(connection, place, ADAPTER, Path(folder)))
    commit = signed.dependencies.get("commit") if signed else None
    if commit is None:
        raise IntegrityError(f"{version.uri}: its signed statement names no commit, so it cannot be rebuilt")
    return commit


def commit_of(connection: Connection, version: Version) -> str:
    """Return the commit that the run of a version stood on.

    Raises:
        IntegrityError: it is not recorded.
    """
    commit = tags_of(connection, version).get("graft.git_commit")
    if not commit:
        raise _unrecorded(version, "commit (tag graft.git_commit)")
    return str(commit)


def tags_of(connection: Connection, version: Version) -> dict[str, str]:
    """Return the tags of a version, and those of its run where the version has none of that name."""
    run_tags = connection.client.get_run(version.run_id).data.tags if version.run_id else {}
    return {**run_tags, **version.tags}


def _unrecorded(version: Version, what: str) -> IntegrityError:
    return IntegrityError(f"{version.uri}: records no {what}; only versions that graft published can be rebuilt")
