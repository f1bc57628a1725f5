"""Statements that in-toto's own library accepts, signatures that openssl verifies, and everything that is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError

from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.identity import digest_file
from graft.provenance import SigningConfig, Trust, signatures, statement
from graft.provenance.signatures import check, check_beside, signed, signer_of
from graft.workspace import write_json

IDENTITY: dict[str, Any] = {
    "task": {"name": "text_classification", "config": {}},
    "data": "1" * 64,
    "test": "2" * 64,
    "params": "3" * 64,
    "code": "4" * 64,
    "environment": "5" * 64,
    "seed": 7,
    "threads": 1,
    "device": "cpu",
    "versions": {"torch": "2.13.0"},
    "base": {
        "source": "org/model",
        "kind": "hub",
        "revision": "e" * 40,
        "digest": "6" * 64,
        "files": {"model.safetensors": "7" * 64},
    },
}
CONTEXT = {"git_commit": "c" * 40, "git_remote": "https://git.example.org/toy.git", "dvc_lock": "8" * 64}
KEYS: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


def write_keys(folder: Path, name: str, kind: str = "ed25519", password: bytes | None = None) -> Path:
    """Write ``name.pem`` and ``name.pub``; return the private one."""
    key = KEYS[kind]()
    how = BestAvailableEncryption(password) if password else NoEncryption()
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder outside the repository with the keys of Ada and of Eve."""
    for name in ("ada", "eve"):
        write_keys(tmp_path / "keys", name)
    return tmp_path / "keys"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "model" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "identity.json").write_text("{}")
    return folder


def stated(adapter: Path, model: str = "toy") -> dict[str, Any]:
    return statement(adapter, IDENTITY, model=model, project=".", context=CONTEXT)


def trust(keys: Path, *trusted: str, key: str | None = None, root: Path | None = None) -> Trust:
    private = str(keys / f"{key}.pem") if key else None
    config = SigningConfig(key=private, public_keys=tuple(f"{one}.pub" for one in trusted))
    return Trust(config, root or keys, keys.parent / "repository")


def sign(adapter: Path, keys: Path, who: str = "ada", **said: Any) -> Path:
    """Sign the adapter's statement, beside its folder."""
    signer = signer_of(trust(keys, key=who, root=keys.parent / "project"))
    assert signer is not None
    path = adapter.parent / "provenance.dsse.json"
    write_json(path, signed({**stated(adapter), **said}, signer))
    return path


def refused(adapter: Path, envelope: Path | None, keys: Path, *trusted: str, match: str) -> None:
    with pytest.raises(IntegrityError, match=match):
        check(adapter, envelope, trust(keys, *trusted), "models:/toy/1", model="toy")


# -- the statement


def test_the_statement_is_what_in_toto_and_slsa_say(adapter: Path) -> None:
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    found = stated(adapter)
    parsed = ParseDict(found, statement_pb2.Statement())  # refuses a field that the specification does not have
    Statement.copy_from_pb(parsed).validate()
    predicate = ParseDict(found["predicate"], provenance_pb2.Provenance())
    depends = {one.name: dict(one.digest) for one in predicate.build_definition.resolved_dependencies}
    assert {one.name: one.digest["sha256"] for one in parsed.subject} == {
        "adapter_model.safetensors": digest_file(adapter / "adapter_model.safetensors"),
        "identity.json": digest_file(adapter / "identity.json"),
    }
    assert depends == {
        "commit": {"gitCommit": "c" * 40},
        "data": {"sha256": "1" * 64},
        "test rows": {"sha256": "2" * 64},
        "params": {"sha256": "3" * 64},
        "training code": {"sha256": "4" * 64},
        "requirements.lock": {"sha256": "5" * 64},
        "dvc.lock": {"sha256": "8" * 64},
        "base": {"sha256": "6" * 64},
        "base/model.safetensors": {"sha256": "7" * 64},
    }
    assert dict(predicate.build_definition.external_parameters)["command"] == "graft run"
    assert predicate.run_details.builder.id


def test_equal_facts_are_equal_bytes_and_equal_signatures(adapter: Path, keys: Path) -> None:
    first = sign(adapter, keys).read_bytes()
    assert sign(adapter, keys).read_bytes() == first


# -- who signed


@pytest.mark.parametrize("kind", KEYS)
def test_a_trusted_signature_holds_with_each_kind_of_key(adapter: Path, tmp_path: Path, kind: str) -> None:
    keys = tmp_path / "keys"
    write_keys(keys, "ada", kind)
    found = check(adapter, sign(adapter, keys), trust(keys, "ada"), "models:/toy/1", model="toy")
    assert found is not None
    assert (found.file, found.dependencies["commit"]) == ("ada.pub", "c" * 40)


def test_openssl_verifies_the_signature_without_our_libraries(adapter: Path, keys: Path, tmp_path: Path) -> None:
    """DSSE's pre-authentication encoding by hand, as its specification writes it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    envelope = json.loads(sign(adapter, keys).read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    (tmp_path / "pae").write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))

    def verified(key: str) -> bool:
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / key), "-rawin", "-in", "pae"]
        done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, check=False)
        return done.returncode == 0

    assert kind == "application/vnd.in-toto+json"
    assert verified("ada.pub")
    assert not verified("eve.pub")
    assert json.loads(payload)["subject"] == stated(adapter)["subject"]


def test_no_trusted_key_asks_for_nothing(adapter: Path, keys: Path) -> None:
    assert check(adapter, None, trust(keys), "models:/toy/1") is None


def test_a_strangers_signature_and_a_revoked_key_are_refused(adapter: Path, keys: Path) -> None:
    by_eve = sign(adapter, keys, "eve")
    refused(adapter, by_eve, keys, "ada", match=r"models:/toy/1: signed by [0-9a-f]{16}, which is none of the keys")
    by_ada = sign(adapter, keys, "ada")
    assert check(adapter, by_ada, trust(keys, "eve", "ada"), "models:/toy/1") is not None
    refused(adapter, by_ada, keys, "eve", match=r"never trusted, or revoked")


def test_a_strangers_signature_under_a_trusted_id_is_refused(adapter: Path, keys: Path) -> None:
    ada = json.loads(sign(adapter, keys, "ada").read_text())["signatures"][0]["keyid"]
    path = sign(adapter, keys, "eve")
    envelope = json.loads(path.read_text())
    envelope["signatures"][0]["keyid"] = ada
    path.write_text(json.dumps(envelope))
    refused(adapter, path, keys, "ada", match=r"is not what key [0-9a-f]{16} \(ada.pub\) signed")


def test_a_missing_envelope_or_one_without_signatures_is_refused(adapter: Path, keys: Path) -> None:
    refused(adapter, None, keys, "ada", match="is not signed, and tracking.signing.public_keys asks for a signature")
    path = sign(adapter, keys)
    envelope = json.loads(path.read_text())
    path.write_text(json.dumps({**envelope, "signatures": []}))
    refused(adapter, path, keys, "ada", match="signed by nobody")
    path.write_text("{}")
    refused(adapter, path, keys, "ada", match="is no DSSE envelope")


def test_an_altered_statement_is_refused(adapter: Path, keys: Path) -> None:
    path = sign(adapter, keys)
    envelope = json.loads(path.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"c" * 40, b"d" * 40)
    path.write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    refused(adapter, path, keys, "ada", match="the statement or the signature was changed")


def test_another_type_of_payload_is_refused(adapter: Path, keys: Path) -> None:
    """A signature is over the type too: what a key signed elsewhere does not count as a statement."""
    path = sign(adapter, keys)
    path.write_text(json.dumps({**json.loads(path.read_text()), "payloadType": "text/plain"}))
    refused(adapter, path, keys, "ada", match="the statement or the signature was changed")
    refused(
        adapter, sign(adapter, keys, predicateType="https://example.org/x"), keys, "ada", match="a statement of type"
    )


def test_one_changed_byte_a_lost_and_an_added_file_are_refused(adapter: Path, keys: Path) -> None:
    path = sign(adapter, keys)
    (adapter / "adapter_model.safetensors").write_bytes(b"weightz")
    refused(adapter, path, keys, "ada", match=r"adapter_model.safetensors: sha256 [0-9a-f]{16}, the statement says")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, path, keys, "ada", match="adapter_model.safetensors: sha256 missing")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "more.py").write_text("")
    refused(adapter, path, keys, "ada", match=r"more.py: sha256 [0-9a-f]{16}, the statement says nothing")


def test_a_signature_does_not_hold_for_another_model(adapter: Path, keys: Path) -> None:
    with pytest.raises(IntegrityError, match="about a version of toy, not of other"):
        check(adapter, sign(adapter, keys), trust(keys, "ada"), "models:/other/1", model="other")


def test_a_packaged_model_checks_what_lies_beside_its_adapter(
    adapter: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_beside(adapter, Trust.of_environment()) is None
    monkeypatch.setenv("GRAFT_PUBLIC_KEYS", f"{keys / 'eve.pub'}:{keys / 'ada.pub'}")
    with pytest.raises(IntegrityError, match="the model: is not signed"):
        check_beside(adapter, Trust.of_environment())
    sign(adapter, keys)
    found = check_beside(adapter, Trust.of_environment())
    assert found is not None
    assert found.file == str(keys / "ada.pub")
    monkeypatch.delenv("GRAFT_PUBLIC_KEYS")
    (adapter / "identity.json").write_text("{ }")
    with pytest.raises(IntegrityError, match=r"identity.json: sha256"):
        check_beside(adapter, Trust.of_environment())


# -- the private key


def test_a_key_in_the_repository_is_refused(tmp_path: Path, keys: Path) -> None:
    repository = tmp_path / "repository"
    inside = write_keys(repository, "mine")
    (keys / "link.pem").symlink_to(inside)
    for key in (inside, keys / "link.pem"):
        with pytest.raises(ConfigError, match=r"tracking.signing.key: .* lies in the repository"):
            signer_of(Trust(SigningConfig(key=str(key)), repository / "projects" / "a", repository))


def test_a_key_comes_from_the_environment_and_may_have_a_password(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Trust(SigningConfig(key="env:ADAS_KEY"), tmp_path / "project", tmp_path / "project")
    with pytest.raises(ResourceMissing, match="the environment variable ADAS_KEY is not set"):
        signer_of(config)
    monkeypatch.setenv("ADAS_KEY", write_keys(keys, "locked", password=b"open").read_text())
    with pytest.raises(ConfigError, match="needs another password than GRAFT_SIGNING_PASSWORD"):
        signer_of(config)
    monkeypatch.setenv("GRAFT_SIGNING_PASSWORD", "open")
    signer = signer_of(config)
    assert signer is not None
    known = signatures.trusted_keys(trust(keys, "locked"))
    assert list(known) == [signer.public_key.keyid]


def test_a_message_about_a_bad_key_shows_nothing_of_it(keys: Path) -> None:
    (keys / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="holds no private key in PEM") as caught:
        signer_of(trust(keys, key="bad", root=keys.parent / "project"))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ResourceMissing, match=r"none.pem cannot be read"):
        signer_of(trust(keys, key="none", root=keys.parent / "project"))


def test_the_key_itself_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="key"):
        SigningConfig(key="-----BEGIN PRIVATE KEY-----")
    with pytest.raises(ValidationError, match="key"):
        SigningConfig(key="keys/ada.pem")


def test_a_bad_public_key_is_named(keys: Path) -> None:
    (keys / "bad.pub").write_text("no key")
    with pytest.raises(ConfigError, match=r"public_keys: bad.pub holds no public key in PEM"):
        signatures.trusted_keys(trust(keys, "bad"))
    with pytest.raises(ResourceMissing, match=r"public_keys: lost.pub cannot be read"):
        signatures.trusted_keys(trust(keys, "lost"))
