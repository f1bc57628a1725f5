"""Sign statements, and check who signed one: DSSE envelopes by securesystemslib, keys as PEM files.

A signature is over the statement's bytes and their type together (the envelope's pre-authentication encoding), and only
what was verified is parsed. Keys are found by their id, the sha256 of the public key in securesystemslib's canonical
form, so a key that was taken out of the trusted ones is a stranger like any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.provenance import ENVIRONMENT, Trust
from graft.provenance.statements import (
    ENVELOPE,
    PAYLOAD_TYPE,
    decoded,
    dependencies,
    encoded,
    model_of,
    refuse_other_files,
)

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

PASSWORD_VARIABLE = "GRAFT_SIGNING_PASSWORD"
SHOWN_ID = 16
ADVICE = "`graft sync` with tracking.signing.key publishes it signed"


@dataclass(frozen=True)
class Signed:
    """A statement whose signature was verified."""

    statement: Mapping[str, Any]
    key: str
    """The id of the key that signed."""
    file: str
    """The file of that key, as params.yaml names it."""

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "file": self.file, "statement": dict(self.statement)}

    @property
    def dependencies(self) -> dict[str, str]:
        return dependencies(self.statement)


# -- signing


def signer_of(trust: Trust) -> CryptoSigner | None:
    """Return what signs, None where no key is configured.

    Raises:
        ConfigError: the key lies in the repository, or is no private key.
        ResourceMissing: the file or the environment variable is not there.
    """
    from securesystemslib.signer import CryptoSigner

    key = trust.config.key
    if key is None:
        return None
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        return CryptoSigner(load_pem_private_key(_private(key, trust), password.encode() if password else None))
    except (ValueError, TypeError):  # what is wrong with it is not said: it could show some of it
        raise ConfigError(
            f"tracking.signing.key: {key} holds no private key in PEM (PKCS 8: ed25519, ECDSA, RSA), or needs another "
            f"password than {PASSWORD_VARIABLE}; `openssl genpkey -algorithm ed25519` makes one"
        ) from None


def _private(key: str, trust: Trust) -> bytes:
    if key.startswith(ENVIRONMENT):
        name = key.removeprefix(ENVIRONMENT)
        if not os.environ.get(name):
            raise ResourceMissing(f"tracking.signing.key: the environment variable {name} is not set; it holds the key")
        return os.environ[name].encode()
    path = Path(key).expanduser()
    if any(path.resolve().is_relative_to(one.resolve()) for one in (trust.repository, trust.root)):
        raise ConfigError(
            f"tracking.signing.key: {key} lies in the repository, which is committed and pushed; move it out of there, "
            f"such as to ~/.config/graft/, and make a new one if it was ever committed"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResourceMissing(f"tracking.signing.key: {key} cannot be read ({error.strerror})") from None


def signed(statement: Mapping[str, Any], signer: CryptoSigner) -> dict[str, Any]:
    """Return the envelope of a statement, as JSON holds it."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(encoded(statement), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    found: dict[str, Any] = envelope.to_dict()
    return found


# -- checking


def trusted_keys(trust: Trust) -> dict[str, tuple[SSlibKey, str]]:
    """Return the trusted keys by their ids, each with the name that it has in params.yaml.

    Raises:
        ConfigError: a file holds no public key.
        ResourceMissing: a file is not there.
    """
    from securesystemslib.signer import SSlibKey

    found = {}
    for path, name in zip(trust.public_keys, trust.config.public_keys, strict=True):
        try:
            from cryptography.hazmat.primitives.serialization import load_pem_public_key

            key = SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
        except OSError as error:
            raise ResourceMissing(f"tracking.signing.public_keys: {name} cannot be read ({error.strerror})") from None
        except ValueError:
            raise ConfigError(
                f"tracking.signing.public_keys: {name} holds no public key in PEM; `openssl pkey -in KEY -pubout` "
                f"writes the one of a private key"
            ) from None
        found[key.keyid] = (key, name)
    return found


def check(adapter: Path, envelope: Path | None, trust: Trust, name: str, *, model: str | None = None) -> Signed | None:
    """Refuse an adapter that nobody trusted has signed; return who did, None where no key is trusted.

    Args:
        adapter: The adapter's folder.
        envelope: Its envelope; None: it has none.
        trust: The keys.
        name: What the version is called in messages.
        model: The registered model that it is a version of.

    Raises:
        IntegrityError: no envelope, no signature by a trusted key, a statement that was changed after it was signed,
            about other files, or about another model.
        ConfigError: a trusted key cannot be read.
    """
    if not trust.config.public_keys:
        return None
    if envelope is None or not envelope.is_file():
        raise IntegrityError(f"{name}: is not signed, and tracking.signing.public_keys asks for a signature; {ADVICE}")
    found = verified(envelope, trust, name)
    refuse_other_files(found.statement, adapter, name)
    if model is not None and model_of(found.statement) != model:
        raise IntegrityError(
            f"{name}: its signed statement is about a version of {model_of(found.statement)}, not of {model}"
        )
    return found


def check_beside(adapter: Path, trust: Trust) -> Signed | None:
    """Check an adapter against what lies beside its folder, where a packaged model keeps it; return who signed it.

    Without trusted keys a statement must at least be about these files.

    Raises:
        IntegrityError: as :func:`check`, or the statement is about other files.
    """
    envelope = adapter.parent / ENVELOPE
    if trust.config.public_keys:
        return check(adapter, envelope, trust, "the model")
    if envelope.is_file():
        said, _ = unproved(envelope, "the model")
        refuse_other_files(said, adapter, "the model")
    return None


def verified(path: Path, trust: Trust, name: str) -> Signed:
    """Return the statement of an envelope that a trusted key has signed.

    Raises:
        IntegrityError: there is no such signature, or the statement is not what was signed.
    """
    from securesystemslib.exceptions import UnverifiedSignatureError

    envelope, keys = read(path, name), trusted_keys(trust)
    ours = [one for one in envelope.signatures.values() if one.keyid in keys]
    for signature in ours:
        key, file = keys[signature.keyid]
        try:
            key.verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        if envelope.payload_type != PAYLOAD_TYPE:
            raise IntegrityError(f"{name}: a signed {envelope.payload_type}, not {PAYLOAD_TYPE}")
        return Signed(decoded(envelope.payload, name), signature.keyid, file)
    if ours:
        raise IntegrityError(
            f"{name}: {ENVELOPE} is not what key {ours[0].keyid[:SHOWN_ID]} ({keys[ours[0].keyid][1]}) signed: the "
            f"statement or the signature was changed"
        )
    signers = ", ".join(one.keyid[:SHOWN_ID] for one in envelope.signatures.values()) or "nobody"
    raise IntegrityError(
        f"{name}: signed by {signers}, which is none of the keys in tracking.signing.public_keys (never trusted, or "
        f"revoked); {ADVICE}"
    )


def holds(path: Path, key: SSlibKey) -> bool:
    """Return whether the signature of ``key`` in an envelope is one of what it holds."""
    from securesystemslib.exceptions import UnverifiedSignatureError

    envelope = read(path, ENVELOPE)
    try:
        key.verify_signature(envelope.signatures[key.keyid], envelope.pae())
    except (KeyError, UnverifiedSignatureError):
        return False
    return True


def read(path: Path, name: str) -> Envelope:
    """Read an envelope; nothing in it is proved.

    Raises:
        IntegrityError: it is none.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError

    try:
        return Envelope.from_dict(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, FormatError):
        raise IntegrityError(f"{name}: {ENVELOPE} is no DSSE envelope; {ADVICE}") from None


def unproved(path: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return what an envelope says and the ids of those who are said to have signed it; nothing is proved.

    Raises:
        IntegrityError: it holds no statement.
    """
    envelope = read(path, name)
    return decoded(envelope.payload, name), [one.keyid for one in envelope.signatures.values()]
