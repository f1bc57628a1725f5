"""The data of a revision, so that it can be read beside the working tree's: a commit, a model version, or what is here.

A revision is what git and DVC recorded: which files, by md5; how they become rows (its own params.yaml); what its run
found out about them (the verdict of validate). Bytes come from the DVC cache or the remote, only those that are asked
for, into a folder of their own: neither the working tree nor its index is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import params
from graft.errors import ConfigError, GraftError, InputError, shown
from graft.repository import Repository
from graft.repository.objects import Tracked, output, tracked
from graft.reproduction import commit_of, parsed
from graft.workspace import TEMPORARY, Workspace

if TYPE_CHECKING:
    from graft.data import DataConfig
    from graft.tasks import TaskConfig
    from graft.tracking import TrackingConfig

WORKING_TREE = "the working tree"


@dataclass(frozen=True)
class Revision:
    """The data of one revision."""

    name: str
    commit: str | None
    """None: the working tree."""
    data: str
    """The md5 of the listing, as data.dvc has it."""
    files: Mapping[str, str]
    """Path below data/ -> md5."""
    task: TaskConfig
    config: DataConfig
    verdict: Mapping[str, Any] | None
    """What validate found out about this data; None: nothing is recorded."""
    note: str
    """What is not as the revision itself has it; empty: nothing."""
    place: Workspace
    """Where its files are read: the project itself, or a folder that they are put into."""
    repository: Repository
    remote: str | None = None

    def bring(self, names: Collection[str]) -> None:
        """Put files where they are read, as links to the cache where the file system has them.

        Raises:
            ResourceMissing: neither the cache nor the remote has them.
        """
        if self.commit is None:
            return
        wanted = {name: self.files[name] for name in names if not (self.place.data / name).is_file()}
        found = self.repository.dvc.fetch(set(wanted.values()), self.remote) if wanted else {}
        for name, digest in wanted.items():
            _put(found[digest], self.place.data / name)


def _put(cached: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(cached, place)


@contextlib.contextmanager
def revision(workspace: Workspace, name: str | None) -> Iterator[Revision]:
    """Yield the data of ``name``: a git revision, ``models:/NAME/3``, ``models:/NAME@champion``; None: what is here.

    Raises:
        InputError: no such revision or version.
        IntegrityError: the version records no commit.
        ConfigError: the commit has no data.dvc.
        ResourceMissing: the commit or its data cannot be had.
    """
    repository = Repository(workspace)
    if name is None:
        if not workspace.data.is_dir():
            raise ConfigError("data: no such folder; `dvc pull` gets what data.dvc names, or name two revisions")
        digest, files = repository.dvc.present()
        loaded = params.load_alone(workspace.params)
        lock = workspace.dvc_lock.read_text(encoding="utf-8") if workspace.dvc_lock.is_file() else ""
        verdict = _verdict(repository, lock, digest)
        yield Revision(WORKING_TREE, None, digest, files, loaded.task, loaded.data, verdict, "", workspace, repository)
        return
    commit = commit_named(repository, workspace, name)
    found = tracked(_read(repository, commit, workspace.data_dvc, name), f"data.dvc at {name}")
    workspace.dot.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="diff-", suffix=TEMPORARY, dir=workspace.dot) as folder:
        place = Workspace(Path(folder).resolve())
        task, config, note = _settings(repository, commit, workspace, place)
        try:
            lock = repository.git.read(commit, _path(workspace, workspace.dvc_lock))
        except ConfigError:
            lock = ""
        yield Revision(
            name,
            commit,
            found.digest,
            repository.dvc.listing(found),
            task,
            config,
            _verdict(repository, lock, found.digest),
            note,
            place,
            repository,
            found.remote,
        )


def commit_named(repository: Repository, workspace: Workspace, name: str) -> str:
    """Return the commit that a git revision or a model version stands for; it is here afterwards.

    Raises:
        InputError: no such revision or version.
        IntegrityError: the version records no commit.
        ResourceMissing: the commit cannot be had.
    """
    if name.startswith("models:"):
        commit = _commit_of_version(workspace, name, params.load_alone(workspace.params).tracking)
        repository.fetch_snapshot(commit)
        return commit
    found = repository.git.resolve(name)
    if found is None and repository.git.head() is None:
        raise InputError(
            f"{shown(name)}: nothing is committed here yet, so there is no version of the data to compare with; run "
            f"`git init`, `git add -A` and `git commit`, or give a model version (models:/NAME/3)"
        )
    if found is None:
        raise InputError(
            f"{shown(name)}: no such git revision here; give a commit, tag or branch (`git fetch` gets others), or a "
            f"model version (models:/NAME/3)"
        )
    return found


def _commit_of_version(workspace: Workspace, reference: str, config: TrackingConfig) -> str:
    from graft.tracking import registry
    from graft.tracking.server import connect

    name, number = parsed(reference)
    connection = connect(config, workspace)
    return commit_of(connection, registry.get(connection, name, number))


def _path(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.repository).as_posix()


def _read(repository: Repository, commit: str, path: Path, name: str) -> str:
    try:
        return repository.git.read(commit, _path(repository.workspace, path))
    except ConfigError:
        raise ConfigError(f"{name}: commit {commit[:12]} has no {path.name}: its data is not in DVC") from None


def _settings(
    repository: Repository, commit: str, workspace: Workspace, place: Workspace
) -> tuple[TaskConfig, DataConfig, str]:
    """Return the task and the reading of rows as the revision has them, else as the project has them now."""
    try:
        place.params.write_text(repository.git.read(commit, _path(workspace, workspace.params)), encoding="utf-8")
        sections, _ = params.partial(place.params)
        return sections["task"], sections["data"], ""
    except (GraftError, KeyError):
        loaded = params.load_alone(workspace.params)
        note = "its params.yaml cannot be used by this version of Graft; its rows are read as params.yaml says now"
        return loaded.task, loaded.data, note


def _verdict(repository: Repository, lock: str, data: str) -> Mapping[str, Any] | None:
    """Return what dvc.lock's validate found out about this data; None where it or its bytes are not there."""
    found = output(lock, "validate", "artifacts/validation", data)
    if found is None:
        return None
    try:
        name = "verdict.json"
        digest = repository.dvc.listing(Tracked(found.digest))[name]
        verdict: dict[str, Any] = json.loads(repository.dvc.fetch([digest], None)[digest].read_bytes())
    except (GraftError, KeyError, ValueError):
        return None
    return verdict
