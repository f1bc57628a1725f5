"""What an adapter was made from, as a statement that others can check, signed by a key of the user's.

An in-toto Statement v1 (github.com/in-toto/attestation) with a SLSA provenance v1 predicate (slsa.dev/provenance/v1):
the adapter's files with their digests, what they were made from, by which command and code. Signed, it is a DSSE
envelope (github.com/secure-systems-lab/dsse) that lies beside the adapter; the format is the field's, so that cosign,
slsa-verifier's library or ``openssl`` can check it without Graft. Equal facts give equal bytes: a statement holds no
time and no host, and an ed25519 signature is a function of key and statement.

A digest in a registry's tag protects from accidents: whoever can write the registry can write the tag. The signature
protects from whoever has no key. So the keys that are trusted stand in params.yaml, which git versions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field as Limit

from graft.config import Section
from graft.provenance.statements import ENVELOPE, STATEMENT, statement, subjects

ENVIRONMENT = "env:"
TRUSTED_VARIABLE = "GRAFT_PUBLIC_KEYS"
"""Where a packaged model, which has no params.yaml, finds the keys that it trusts: paths, separated by colons."""

__all__ = ["ENVELOPE", "STATEMENT", "SigningConfig", "Trust", "statement", "subjects"]


class SigningConfig(Section):
    """Who signs versions, and whose signature a version needs."""

    key: str | None = Limit(default=None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|[~/].*)$")
    """The private key that signs what is published from here: the absolute path of a PEM file (PKCS 8: ed25519, ECDSA
    or RSA) outside the repository, or ``env:NAME``, an environment variable that holds the PEM text. Never the key
    itself. A password is taken from the environment variable ``GRAFT_SIGNING_PASSWORD``. Default: nothing is signed."""

    public_keys: tuple[str, ...] = ()
    """PEM files of the public keys that are trusted, relative to params.yaml. Where one is named, predict, promote,
    rollback and reproduce refuse a version without a valid signature by one of them; to revoke a key, remove it."""


@dataclass(frozen=True)
class Trust:
    """A signing section where it stands: relative paths are counted from ``root``."""

    config: SigningConfig = SigningConfig()  # noqa: RUF009 (frozen)
    root: Path = Path()
    repository: Path = Path()

    @property
    def public_keys(self) -> tuple[Path, ...]:
        """The files of the trusted keys."""
        return tuple(self.root / Path(one).expanduser() for one in self.config.public_keys)

    @classmethod
    def of_environment(cls) -> Trust:
        """Return what a packaged model trusts: the keys that ``GRAFT_PUBLIC_KEYS`` lists."""
        found = [one for one in os.environ.get(TRUSTED_VARIABLE, "").split(os.pathsep) if one]
        return cls(SigningConfig(public_keys=tuple(found)), Path.cwd())
