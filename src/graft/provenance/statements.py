"""The statement itself: subjects, what they were made from, how, by whom; and what is read back of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft import __version__
from graft.errors import IntegrityError
from graft.identity import digest_files, run_key

STATEMENT = "provenance.json"
"""The statement, readable; it proves nothing."""
ENVELOPE = "provenance.dsse.json"
"""The signed statement."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "urn:graft:chain:v1"
"""What the parameters of a build mean: the stages of dvc.yaml at the commit, run by ``graft run`` or ``dvc repro``."""
BUILDER = "urn:graft:builder:v1"
COMMAND = "graft run"


def statement(
    adapter: Path, identity: Mapping[str, Any], *, model: str, project: str, context: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the statement about the adapter in a folder.

    Args:
        adapter: Its folder; every file in it is a subject.
        identity: Its identity.json, which names what it was made from by digest.
        model: The registered model that it is a version of: a signature does not hold for another one.
        project: The project's folder in the repository.
        context: What the run stood on: ``git_commit``, ``git_remote`` and ``dvc_lock`` (sha256), as far as known.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in digest_files(adapter).items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": COMMAND,
                    "model": model,
                    "project": project,
                    "task": identity["task"]["name"],
                },
                "internalParameters": {
                    "seed": identity["seed"],
                    "threads": identity["threads"],
                    "device": str(identity.get("device", "")),
                    "versions": dict(identity.get("versions", {})),
                },
                "resolvedDependencies": list(_dependencies(identity, context)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"graft": __version__}},
                "metadata": {"invocationId": run_key(identity)},
            },
        },
    }


def _dependencies(identity: Mapping[str, Any], context: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Yield what the adapter was made from, as resource descriptors."""
    commit, remote = context.get("git_commit"), context.get("git_remote")
    if commit:
        where = {"uri": f"git+{remote}@{commit}"} if remote else {}
        yield {"name": "commit", **where, "digest": {"gitCommit": commit}}
    for name, digest in (
        ("data", identity["data"]),
        ("test rows", identity["test"]),
        ("params", identity["params"]),
        ("training code", identity["code"]),
        ("requirements.lock", identity["environment"]),
        ("adapter to start from", identity.get("init")),
        ("dvc.lock", context.get("dvc_lock")),
    ):
        if digest:
            yield {"name": name, "digest": {"sha256": digest}}
    base = identity["base"]
    where = {"uri": f"huggingface://{base['source']}@{base['revision']}"} if base["kind"] == "hub" else {}
    yield {"name": "base", **where, "digest": {"sha256": base["digest"]}}
    for file, digest in base["files"].items():
        yield {"name": f"base/{file}", "digest": {"sha256": digest}}


def encoded(value: Mapping[str, Any]) -> bytes:
    """Return a statement as the bytes that are signed: sorted keys, so that equal statements are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decoded(payload: bytes, name: str) -> dict[str, Any]:
    """Return the statement that a payload holds.

    Raises:
        IntegrityError: it is no statement of the kind that Graft writes.
    """
    try:
        found = json.loads(payload)
        kinds = (found["_type"], found["predicateType"])
        subjects(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{name}: not an in-toto statement; publish the version again (`graft sync`)") from None
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise IntegrityError(f"{name}: a statement of type {kinds[0]} about {kinds[1]}, not {PREDICATE_TYPE}")
    return dict(found)


def subjects(found: Mapping[str, Any]) -> dict[str, str]:
    """Return ``{file: sha256}`` of what a statement is about."""
    return {one["name"]: one["digest"]["sha256"] for one in found["subject"]}


def dependencies(found: Mapping[str, Any]) -> dict[str, str]:
    """Return ``{name: digest}`` of what a statement says its subjects were made from."""
    listed = found["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {one["name"]: next(iter(one["digest"].values())) for one in listed}


def model_of(found: Mapping[str, Any]) -> str | None:
    """Return the registered model that a statement's adapter is a version of."""
    try:
        return str(found["predicate"]["buildDefinition"]["externalParameters"]["model"])
    except (KeyError, TypeError):
        return None


def refuse_other_files(found: Mapping[str, Any], adapter: Path, name: str) -> None:
    """Refuse an adapter whose files are not, one for one, what a statement is about.

    Raises:
        IntegrityError: names each file that differs, is missing, or is not in the statement.
    """
    stated, here = subjects(found), digest_files(adapter)
    problems = [
        f"{file}: sha256 {here.get(file, 'missing')[:16]}, the statement says {stated.get(file, 'nothing')[:16]}"
        for file in sorted({*stated, *here})
        if stated.get(file) != here.get(file)
    ]
    if problems:
        raise IntegrityError.from_problems(f"{name}: the adapter is not the one that the statement is about", problems)
