"""What ``graft provenance`` finds out about a version: the statement, who signed it, whether it holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from graft.errors import IntegrityError, ResourceMissing
from graft.provenance import STATEMENT, signatures
from graft.provenance.statements import dependencies, refuse_other_files, subjects
from graft.tracking import TrackingConfig
from graft.workspace import Workspace, read_json

SHOWN_DIGEST = 16


@dataclass(frozen=True)
class Examined:
    """A version's statement, and what is proved of it."""

    reference: str
    state: Literal["signed", "unproved", "unsigned", "refused"]
    """``signed`` by a trusted key; ``unproved``: signed, and no key is trusted here; ``unsigned``, and none is asked
    for; ``refused``: what predict, promote, rollback and reproduce refuse."""
    reason: str
    signers: tuple[str, ...]
    """The ids of the keys that the envelope names."""
    statement: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield f"{self.reference}: {self.state.upper()}: {self.reason}"
        if self.statement is None:
            return
        definition = self.statement["predicate"]["buildDefinition"]
        parameters = definition["externalParameters"]
        yield f"made by   {parameters['command']} of project {parameters['project']}, task {parameters['task']}"
        for name, digest in subjects(self.statement).items():
            yield f"adapter   {name}: sha256 {digest[:SHOWN_DIGEST]}"
        for name, digest in dependencies(self.statement).items():
            yield f"made of   {name}: {digest[:SHOWN_DIGEST]}"
        yield f"on        {definition['internalParameters']['device']}, seed {definition['internalParameters']['seed']}"


def examined(workspace: Workspace, reference: str, *, tracking: TrackingConfig) -> Examined:
    """Look at a version's statement and envelope, and check them against its adapter's bytes.

    Raises:
        InputError: no such version.
        ResourceMissing: the registry or its artifacts are not there.
    """
    from graft.tracking import models, provenances, registry
    from graft.tracking.registry import parsed
    from graft.tracking.server import connect, reported

    connection = connect(tracking, workspace)
    name, number = parsed(reference)
    with reported(connection.uri), tempfile.TemporaryDirectory(prefix="graft-provenance-") as temporary:
        folder, version = Path(temporary), registry.get(connection, name, number)
        place = models.location(connection, version)
        adapter = models.download(connection, place, "artifacts/adapter", folder)
        envelope = provenances.envelope_of(connection, version, folder)
        statement, signers = None, list[str]()
        try:
            if envelope is not None:
                statement, signers = signatures.unproved(envelope, version.uri)
            else:
                statement = _plain(models.download(connection, place, f"artifacts/{STATEMENT}", folder))
        except (IntegrityError, ResourceMissing):
            statement = None
        try:
            signed = provenances.check(connection, version, adapter)
            if statement is not None:
                refuse_other_files(statement, adapter, version.uri)
        except IntegrityError as error:
            return Examined(version.uri, "refused", str(error), tuple(signers), statement)
    if signed is not None:
        reason = f"by key {signed.key[:SHOWN_DIGEST]} ({signed.file}), over every file of the adapter"
        return Examined(version.uri, "signed", reason, tuple(signers), statement)
    if signers:
        said = ", ".join(one[:SHOWN_DIGEST] for one in signers)
        reason = f"says that key {said} signed it; name that key in tracking.signing.public_keys to verify"
        return Examined(version.uri, "unproved", reason, tuple(signers), statement)
    reason = "nobody signed it; `graft sync` with tracking.signing.key does"
    return Examined(version.uri, "unsigned", reason, (), statement)


def _plain(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path)
    return found
