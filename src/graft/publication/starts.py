"""Fetch adapters of model versions into the clone's store, and pin the one that a training starts from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graft.artifact.starts import PARAM, Start, pin, place_of
from graft.artifact.warm_start import keep
from graft.errors import ConfigError, InputError, shown
from graft.identity import digest_folder
from graft.publication.cases import fetch
from graft.tracking import TrackingConfig
from graft.training import TrainingConfig
from graft.workspace import Workspace

if TYPE_CHECKING:
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection


def fetched(workspace: Workspace, connection: Connection, version: Version) -> Path:
    """Return the adapter of a model version, from the store where it was downloaded before.

    Raises:
        IntegrityError: its bytes are not those that were published, or nobody trusted signed them.
        ResourceMissing: the artifact store does not have it.
    """
    from graft.tracking import provenances

    folder = place_of(workspace, str(version.adapter))
    if folder.is_dir() and digest_folder(folder) == version.adapter:
        provenances.check(connection, version, folder)  # the key may have been revoked since
        return folder
    with tempfile.TemporaryDirectory(prefix="graft-fetch-") as temporary:
        keep(workspace, fetch(connection, version, Path(temporary)))
    return folder


def pin_start(workspace: Workspace, *, training: TrainingConfig, tracking: TrackingConfig) -> Start | None:
    """Pin the adapter that ``training.init_from`` names in sources.lock, and keep its files; None: it names none.

    Raises:
        ConfigError: the folder that it names is not there.
        InputError: no such version.
        IntegrityError: the adapter is damaged, or not what was published.
        ResourceMissing: MLflow is not reachable; the pin stays what it was.
    """
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    source = training.init_from
    if source is None:
        start = None
    elif source.startswith(registry.MODEL_URI):
        connection = connect(tracking, workspace)
        with reported(connection.uri):
            try:
                version = registry.get(connection, *registry.parsed(source))
            except InputError as error:
                raise InputError(f"{PARAM}: {error}") from None
            fetched(workspace, connection, version)
        start = Start(source, str(version.adapter), version.name, version.version)
    else:
        folder = workspace.root / source
        if not folder.is_dir():
            raise ConfigError(f"{PARAM}: no folder {shown(source)} (looked at {folder}); correct the path")
        start = Start(source, keep(workspace, folder))
    pin(workspace, start)
    return start
