"""Rebuild a model version from its recorded commit, and say whether the same bytes, or the same answers, came out.

The proof is worth what the rebuild does not share with the original: a clone of the git remote at that commit, which
brings its own code and its own stages; data pulled from the remote and hashed; the environment that the commit's lock
file pins; an empty cache, no run cache, no checkpoints, every stage forced. What it does share is the machine's
processor, and the base where that is no part of a remote (a package, a folder): it is found by its digest. The
trade-off is time: nothing is reused, so a reproduction costs a full run of the chain.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.artifact.starts import place_of
from graft.artifact.warm_start import keep
from graft.errors import DataError, GraftError, IntegrityError
from graft.identity import digest_file, digest_folder
from graft.repository import Repository
from graft.reproduction.clones import clean_clone
from graft.reproduction.environments import PYTHON_VARIABLE, Environment, environment_of_clone
from graft.reproduction.records import EVALUATION, Recorded, commit_of, parsed, recorded, signed_commit, tags_of
from graft.reproduction.verdicts import VERDICT, Equivalence, Margin, Output, equivalence, first_difference, outputs
from graft.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.intervals import Resampling
    from graft.tracking import TrackingConfig

__all__ = ["Margin", "Options", "Recorded", "commit_of", "parsed", "rebuild", "recorded", "reproduce", "tags_of"]

FORMAT = 2
TABLE = "predictions/adapter.parquet"


@dataclass(frozen=True)
class Options:
    """How a version is rebuilt."""

    source: str | None = None
    """A git URL in place of the remote that the version names."""
    build: bool = False
    """Build the environment that the commit's lock file pins."""
    whatever: bool = False
    """Rebuild in the environment that is here although it differs."""
    margin: Margin = field(default_factory=Margin)
    who: str = ""
    """Whose receipt it is; default: the user."""


def reproduce(
    workspace: Workspace,
    reference: str,
    *,
    tracking: TrackingConfig,
    options: Options | None = None,
    on_line: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Rebuild the version that ``reference`` (``models:/NAME@champion``, ``models:/NAME/3``) names; return the receipt.

    The receipt is written to ``.graft/receipts``, set as tags of the version, and kept beside the ledger of decisions;
    that MLflow does not take it is a warning.

    Raises:
        InputError: no such version, or it names a git remote that this repository does not have.
        IntegrityError: the version does not record what it was made from, nobody trusted signed it, or data is not what
            was recorded.
        ResourceMissing: the registry, the commit, the data, the base or the environment is not there.
        GraftError: a stage failed.
    """
    from graft.tracking import registry, reproductions
    from graft.tracking.server import connect, reported

    name, number = parsed(reference)
    connection = connect(tracking, workspace)
    with reported(connection.uri):
        version = registry.get(connection, name, number)
        signed = signed_commit(connection, version)
        of = recorded(connection, version)
        of = replace(of, commit=signed) if signed else of
    receipt = rebuild(workspace, of, options=options, on_line=on_line)
    try:
        with reported(connection.uri):
            reproductions.record(connection, tracking, workspace, version, receipt)
    except GraftError as error:  # an hour's verdict is not lost to a registry that went away meanwhile
        on_line(f"warning: the receipt is in .graft/receipts, and not in MLflow: {error}")
    return receipt


def rebuild(
    workspace: Workspace,
    of: Recorded,
    *,
    options: Options | None = None,
    on_line: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Rebuild the adapter in a clean clone at the recorded commit; write and return the receipt.

    Raises:
        IntegrityError: data in the remote is not what the commit recorded.
        ResourceMissing: the commit, the data or the environment is not there.
        GraftError: a stage failed.
    """
    options = options or Options()
    started = time.monotonic()
    start = place_of(workspace, of.identity["init"]) if of.identity and "init" in of.identity else None
    with clean_clone(workspace, of.commit, remote=of.remote, source=options.source) as clone:
        on_line(f"commit {of.commit[:12]} from {clone.fetched_from}")
        if start is not None and start.is_dir():  # found by its digest, as the base is
            keep(clone.workspace, start)
        environment = environment_of_clone(
            clone.workspace.repository,
            recorded=of.identity,
            build=options.build,
            whatever=options.whatever,
            on_line=on_line,
        )
        lock = _recorded_lock(clone.workspace, of)
        with _python(environment):
            run_all(clone.workspace, of.commit, on_line)
        found = _compared(workspace, clone.workspace, of, lock, options.margin)
    receipt = {
        "format": FORMAT,
        "reference": of.reference,
        "commit": of.commit,
        "fetched_from": clone.fetched_from,
        "environment": environment.as_json(),
        **found,
        "who": options.who or _user(),
        "on": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(workspace.dot / "receipts" / f"{of.adapter[:12]}-{of.commit[:12]}.json", receipt)
    return receipt


def _recorded_lock(clone: Workspace, of: Recorded) -> str:
    """Return the commit's dvc.lock if it is the one that the version's stages wrote; empty where it is not."""
    if not clone.dvc_lock.is_file() or of.dvc_lock not in (None, digest_file(clone.dvc_lock)):
        return ""
    return clone.dvc_lock.read_text(encoding="utf-8")


@contextlib.contextmanager
def _python(environment: Environment) -> Iterator[None]:
    """Let the stages run in an environment while the block lasts."""
    before = os.environ.get(PYTHON_VARIABLE)
    os.environ[PYTHON_VARIABLE] = environment.python
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PYTHON_VARIABLE, None)
        else:
            os.environ[PYTHON_VARIABLE] = before


def run_all(clone: Workspace, commit: str, on_line: Callable[[str], None]) -> None:
    """Pull the data, check its bytes, and run every stage of the commit, forced.

    Raises:
        IntegrityError: data in the remote is not what the commit recorded, or no stage makes an adapter.
    """
    repository = Repository(clone)
    repository.pull_recorded_data(f"commit {commit[:12]}")
    for stage in repository.status():
        repository.run_stage(stage, force=True, on_line=on_line)
    if not clone.adapter.is_dir():
        raise IntegrityError(f"{clone.name}/dvc.yaml: no stage made {clone.adapter.name}; not a Graft project?")


def _compared(here: Workspace, clone: Workspace, of: Recorded, lock: str, margin: Margin) -> dict[str, Any]:
    """Return what the rebuild in ``clone`` is, against what was recorded."""
    rebuilt, identity = digest_folder(clone.adapter), _identity(clone.adapter)
    found = outputs(lock, clone.dvc_lock.read_text(encoding="utf-8")) if lock else []
    same = rebuilt == of.adapter
    result: dict[str, Any] = {
        "adapter": {"recorded": of.adapter, "rebuilt": rebuilt},
        "outputs": [one.as_json() for one in found],
        "equivalence": None,
        "first_difference": None,
    }
    if same and all(one.same for one in found):
        checked = ", ".join(dict.fromkeys(one.stage for one in found)) or "train (no dvc.lock of the run in its commit)"
        return {**result, "verdict": "identical", "reason": f"the same bytes of every output of {checked}"}
    difference = first_difference(found, of.identity, identity)
    tested, why = _tested(here, clone, of, identity, found, margin)
    verdict: VERDICT = "equivalent" if tested and tested.equivalent else "different"
    bytes_differ = f"bytes differ from stage {difference['stage'] or '(unknown)'} on"
    return {
        **result,
        "verdict": verdict,
        "first_difference": difference,
        "equivalence": tested.as_json() if tested else None,
        "reason": f"{bytes_differ}; {tested.reason if tested else why}",
    }


def _identity(adapter: Path) -> Mapping[str, Any] | None:
    path = adapter / "identity.json"
    found: Mapping[str, Any] | None = read_json(path) if path.is_file() else None
    return found


def _tested(
    here: Workspace,
    clone: Workspace,
    of: Recorded,
    identity: Mapping[str, Any] | None,
    found: list[Output],
    margin: Margin,
) -> tuple[Equivalence | None, str]:
    """Return the test of the two prediction tables; where none is possible, None and why."""
    from graft import tasks
    from graft.evaluation import prediction

    if of.identity is None or identity is None or "task" not in identity:
        return None, "the version or the rebuild has no readable identity, so their answers are not compared"
    if of.identity.get("test") != identity.get("test"):
        return None, "the test rows are others, so the answers cannot be compared"
    try:
        task = tasks.get(identity["task"]["name"])
        theirs = _recorded_table(here, of, found)
        ours = prediction.read(clone.evaluation / TABLE)
        tested = equivalence(task.metric(task.headline), ours, theirs, margin=margin, resampling=_resampling(clone))
    except GraftError as error:
        return None, f"the answers cannot be compared: {error}"
    return tested, tested.reason


def _resampling(clone: Workspace) -> Resampling:
    """Return how the commit's own params resample; the defaults where this Graft cannot read them."""
    from graft import params
    from graft.evaluation import EvaluationConfig

    with contextlib.suppress(GraftError):
        sections, _ = params.partial(clone.params)
        if "evaluation" in sections:
            config: Resampling = sections["evaluation"]
            return config
    return EvaluationConfig()


def _recorded_table(here: Workspace, of: Recorded, found: list[Output]) -> dict[str, np.ndarray]:
    """Return the version's prediction table: by the hash that its dvc.lock records, else from its MLflow run.

    Raises:
        DataError: neither has it.
    """
    from graft.evaluation import prediction
    from graft.repository.objects import Tracked

    evaluation = next((one.recorded for one in found if one.path == "artifacts/evaluation"), None)
    if evaluation:
        with contextlib.suppress(GraftError, KeyError):
            dvc = Repository(here).dvc
            digest = dvc.listing(Tracked(evaluation))[TABLE]
            return prediction.read(dvc.fetch([digest], None)[digest])
    if of.download is None:
        raise DataError("the version's predictions are neither in DVC nor in an MLflow run")
    with tempfile.TemporaryDirectory(prefix="graft-predictions-") as folder:
        return prediction.read(of.download(f"{EVALUATION}/{TABLE}", Path(folder)))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
