"""Which adapter a training starts from, as sources.lock pins it.

Which version an alias names stands in a registry, which no stage may ask. So `graft lock` fetches the adapter, keeps it
in ``.graft/store/models`` by its digest, and pins the digest under ``init`` in sources.lock. The digest is part of the
identity: where the pin moves, `dvc repro` trains anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from graft.errors import ConfigError, ResourceMissing, shown
from graft.identity import digest_folder
from graft.workspace import Workspace, read_json, write_json

KEY = "init"
PARAM = "training.init_from"


@dataclass(frozen=True)
class Start:
    """The adapter that a training starts from, as sources.lock pins it."""

    source: str
    """``training.init_from``."""
    digest: str
    """The digest of the adapter folder."""
    name: str | None = None
    """The registered model, where it came from a registry."""
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" if self.name else self.source


def place_of(workspace: Workspace, digest: str) -> Path:
    """Return where the clone keeps the adapter of this digest."""
    return workspace.store / "models" / digest


def pin(workspace: Workspace, start: Start | None) -> None:
    """Write the pin to sources.lock; None: trainings start from new weights."""
    known = read_json(workspace.sources_lock) if workspace.sources_lock.is_file() else {}
    write_json(workspace.sources_lock, {**known, KEY: asdict(start) if start else None})


def pinned(workspace: Workspace, source: str | None) -> Start | None:
    """Return the adapter that sources.lock pins for ``training.init_from``, None where that is null.

    Raises:
        ConfigError: nothing is pinned, or an adapter for another value.
    """
    if source is None:
        return None
    found = read_json(workspace.sources_lock).get(KEY) if workspace.sources_lock.is_file() else None
    try:
        start = Start(**found) if found else None
    except TypeError:
        start = None
    if start is None or start.source != source:
        held = shown(start.source) if start else "none"
        raise ConfigError(f"{PARAM}: params.yaml has {shown(source)}, sources.lock pins {held}; run `graft lock`")
    return start


def is_here(workspace: Workspace, start: Start) -> bool:
    """Return whether the clone has the pinned adapter, every file as it was pinned."""
    folder = place_of(workspace, start.digest)
    return folder.is_dir() and digest_folder(folder) == start.digest


def folder_of(workspace: Workspace, start: Start) -> Path:
    """Return the folder of the pinned adapter, every file as it was pinned.

    Raises:
        ResourceMissing: it is not here.
    """
    folder = place_of(workspace, start.digest)
    if not is_here(workspace, start):
        raise ResourceMissing(
            f"{PARAM}: {start} (digest {start.digest[:12]}) is not in {place_of(workspace, '')}, or was changed there; "
            f"`graft lock` fetches what {shown(start.source)} names now"
        )
    return folder
