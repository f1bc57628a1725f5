"""Fetch the champion's data profile from the registry, for `graft lock` to pin."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graft.publication.facts import PROFILE_FOLDER
from graft.publication.receipts import champion_known
from graft.registration import RegistrationConfig
from graft.tracking import TrackingConfig, resolve_uri
from graft.validation.champion import PROFILE, Pin, digest_profile, pin, pinned, pinned_profile, read_profile
from graft.workspace import Workspace

if TYPE_CHECKING:
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection


def pin_champion(workspace: Workspace, *, registration: RegistrationConfig, tracking: TrackingConfig) -> Pin | None:
    """Pin the present champion and its data profile in sources.lock; return it, None where there is no champion.

    Raises:
        ResourceMissing: MLflow is not reachable; the pin stays what it was.
        ConfigError: what was published as the profile is none.
    """
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    uri = resolve_uri(tracking, workspace)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        pin(workspace, None)  # nothing was ever published there; opening the store would make it
        return None
    connection = connect(tracking, workspace)
    with reported(connection.uri):
        champion = registry.champion(connection, registration.name)
        profile = _profile(connection, champion) if champion else None
    if champion is None:
        pin(workspace, None)
        return None
    found = Pin(champion.name, champion.version, champion.adapter or "", digest_profile(profile) if profile else None)
    pin(workspace, found, profile)
    return found


def _profile(connection: Connection, version: Version) -> bytes | None:
    """Return the profile that was published with a version's run; None: it has none, or its run is deleted."""
    from graft.tracking.models import download

    if version.run_id is None:
        return None
    run = connection.client.get_run(version.run_id)
    path = f"{PROFILE_FOLDER}/{PROFILE}"
    if run.info.lifecycle_stage != "active":
        return None
    if path not in {one.path for one in connection.client.list_artifacts(version.run_id, PROFILE_FOLDER)}:
        return None
    with tempfile.TemporaryDirectory(prefix="graft-profile-") as temporary:
        file = download(connection, run.info.artifact_uri, path, Path(temporary))
        read_profile(file)
        return file.read_bytes()


def described_pin(
    workspace: Workspace, *, registration: RegistrationConfig, tracking: TrackingConfig
) -> tuple[str, bool]:
    """Return what the data is compared with, in words, and whether `graft lock` would pin another champion; light.

    Who is champion is taken from the last decision of this clone; only the registry knows of others.

    Raises:
        ConfigError: sources.lock pins no champion in a form known here.
        IntegrityError: the profile is not what it pins.
    """
    held, current = pinned(workspace), champion_known(workspace, name=registration.name, tracking=tracking)
    pinned_profile(workspace)
    text = "no champion is pinned: the data is compared with no other"
    if held is not None:
        compared = "the data is compared with its data" if held.profile else "published without a data profile"
        text = f"{held}: {compared}"
    same = held is not None and (held.name, held.version) == (registration.name, current)
    if current is None or same:
        return text, False
    return f"{text}; champion is {registration.name} version {current} by now: `graft lock` pins it", True
