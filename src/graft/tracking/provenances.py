"""Statements and signatures of versions in the registry: written beside the adapter, checked before it is used.

They lie in the model's folder, ``artifacts/provenance.json`` and ``artifacts/provenance.dsse.json`` beside
``artifacts/adapter``, and are added to a model that is there already: an adapter that was published unsigned is signed
by the next ``graft sync``, and a second key adds its signature to that of the first.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, ResourceMissing
from graft.provenance import ENVELOPE, STATEMENT, signatures, statement
from graft.provenance.signatures import Signed
from graft.tracking import RunContext, models
from graft.workspace import read_json, write_json

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    from graft.tracking.registry import Version
    from graft.tracking.server import Connection

FOLDER = "artifacts"
SIGNERS_TAG = "graft.signed_by"
NOBODY = "nobody"


def attach(
    connection: Connection,
    logged: LoggedModel,
    adapter: Path,
    identity: Mapping[str, Any],
    *,
    model: str,
    project: str,
    context: RunContext,
) -> str:
    """Put the statement, and where a key is configured its envelope, beside a model's adapter; return who signed it.

    Raises:
        ConfigError: the key cannot be used.
        ResourceMissing: it, or the artifact store, is not there.
    """
    known = {"git_commit": context.git_commit, "git_remote": context.git_remote, "dvc_lock": context.dvc_lock}
    made = statement(adapter, identity, model=model, project=project, context=known)
    signer = signatures.signer_of(connection.trust)
    with tempfile.TemporaryDirectory(prefix="graft-provenance-") as temporary:
        folder = Path(temporary)
        there = _files(connection, logged.artifact_location, folder / "there")
        new, signers = folder / "new", _signers(there.get(ENVELOPE), made, signer)
        if signer is None and ENVELOPE in there:  # what somebody signed stays what it is
            return _said(signatures.read(there[ENVELOPE], ENVELOPE).signatures)
        if STATEMENT not in there or read_json(there[STATEMENT]) != made:
            write_json(new / STATEMENT, made)
        if signer and signer.public_key.keyid not in signers:
            write_json(new / ENVELOPE, _with_signature(there.get(ENVELOPE) if signers else None, made, signer))
            signers.append(signer.public_key.keyid)
        if new.is_dir():
            connection.client.log_model_artifacts(logged.model_id, str(new), FOLDER)
    return _said(signers)


def _said(signers: Iterable[str]) -> str:
    return ", ".join(one[: signatures.SHOWN_ID] for one in signers) or NOBODY


def _files(connection: Connection, location: str, to: Path) -> dict[str, Path]:
    """Return those of the two files that a model has."""
    to.mkdir()
    found = {}
    for name in (STATEMENT, ENVELOPE):
        with contextlib.suppress(ResourceMissing):
            found[name] = models.download(connection, location, f"{FOLDER}/{name}", to)
    return found


def _signers(path: Path | None, made: Mapping[str, Any], signer: CryptoSigner | None) -> list[str]:
    """Return the ids in an envelope of this very statement; none where it is about another.

    That of ``signer`` only where it signed: one whose signature was damaged signs anew.
    """
    if path is None:
        return []
    try:
        said, ids = signatures.unproved(path, ENVELOPE)
    except GraftError:
        return []
    own = signer.public_key if signer else None
    broken = own is not None and own.keyid in ids and not signatures.holds(path, own)
    return [one for one in ids if said == made and not (broken and own and one == own.keyid)]


def _with_signature(path: Path | None, made: Mapping[str, Any], signer: CryptoSigner) -> dict[str, Any]:
    """Return the envelope with one more signature, or a new one."""
    if path is None:
        return signatures.signed(made, signer)
    envelope: Envelope = signatures.read(path, ENVELOPE)
    envelope.sign(signer)
    found: dict[str, Any] = envelope.to_dict()
    return found


def envelope_of(connection: Connection, version: Version, to: Path) -> Path | None:
    """Download a version's envelope to ``to``; None where it has none."""
    return _files(connection, models.location(connection, version), to / "provenance").get(ENVELOPE)


def check(connection: Connection, version: Version, adapter: Path) -> Signed | None:
    """Refuse a version's adapter that nobody trusted has signed; return who did, None where no key is trusted.

    Raises:
        IntegrityError: it is unsigned, signed by a stranger, or not what was signed.
    """
    if not connection.trust.config.public_keys:
        return None
    with tempfile.TemporaryDirectory(prefix="graft-signature-") as folder:
        envelope = envelope_of(connection, version, Path(folder))
        return signatures.check(adapter, envelope, connection.trust, version.uri, model=version.name)
