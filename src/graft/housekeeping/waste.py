"""What `graft gc` removes: things remade from other files, and records that nothing reads any more.

Checkpoints, the store and worktrees are remade when they are needed. Old logs and the refs of old runs that were never
published are gone for good, so they go last and by age; a published version's commit is always kept.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, Locked
from graft.workspace import TEMPORARY, Workspace, locked

if TYPE_CHECKING:
    from graft.runs import Run

DAY_SECONDS = 86_400.0
KEPT_RUNS = 20


@dataclass(frozen=True)
class Waste:
    """Something that can go: a folder or file, or a git ref."""

    kind: str
    name: str
    size_bytes: int
    age_seconds: float
    path: Path | None = None


def waste(workspace: Workspace, *, older_than_days: float = 7.0) -> list[Waste]:
    """Return what `graft gc` would remove: unused for ``older_than_days``, and remains of killed processes.

    Checkpoints and the store are left alone while a run of any project of this clone lives.
    """
    from graft import projects

    every = projects.found(workspace.home) or [workspace]
    busy = any(_living(one) for one in every)
    found: list[Waste] = [*_worktrees(workspace), *_refs(workspace, every, older_than_days)]
    if not busy:
        found += _store(workspace, older_than_days)
        found += [one for project in every for one in _remains(project)]
    found += [one for project in every for one in _old_runs(project, older_than_days)]
    return found


def _living(workspace: Workspace) -> list[Run]:
    from graft import runs

    return runs.running(workspace)


def _store(workspace: Workspace, days: float) -> Iterator[Waste]:
    """Yield the entries of the store by kind (``checkpoints/<key>``), by when they were last written or used."""
    for kind in _folders(workspace.store):
        for entry in _folders(kind):
            age = time.time() - max((path.stat().st_mtime for path in _all(entry)), default=0.0)
            if age >= days * DAY_SECONDS:
                yield Waste(kind.name, entry.name, bytes_of(entry), age, entry)


def _remains(workspace: Workspace) -> Iterator[Waste]:
    """Yield what a killed process left beside the outputs: their temporary folders and files."""
    for path in (
        place
        for folder in (workspace.artifacts, workspace.root, workspace.bases)
        for place in folder.glob(f".*{TEMPORARY}")
    ):
        yield Waste("remains", path.name, bytes_of(path), time.time() - path.stat().st_mtime, path)


def _old_runs(workspace: Workspace, days: float) -> Iterator[Waste]:
    from graft import runs

    for one in runs.listed(workspace)[KEPT_RUNS:]:
        age = time.time() - float(one.facts.get("ended") or one.facts.get("started") or 0.0)
        if age >= days * DAY_SECONDS and one.state != "running":
            yield Waste("runs", one.folder.name, bytes_of(one.folder), age, one.folder)


def _worktrees(workspace: Workspace) -> Iterator[Waste]:
    """Yield the worktrees of runs that ended without removing them: nobody holds their lock."""
    for place in _folders(workspace.home / ".graft" / "worktrees"):
        with contextlib.suppress(Locked), locked(place.with_name(f"{place.name}.lock"), purpose="graft gc looks"):
            yield Waste("worktrees", place.name, bytes_of(place), time.time() - place.stat().st_mtime, None)


def _refs(workspace: Workspace, every: Iterable[Workspace], days: float) -> Iterator[Waste]:
    """Yield the refs of runs of which nothing was published: a published version names its commit."""
    from graft.repository import Repository

    kept = {commit for one in every for commit in _published_commits(one)}
    try:
        listing = Repository(workspace).git.run(
            "for-each-ref", "--format=%(refname) %(objectname) %(creatordate:unix)", "refs/graft/runs"
        )
    except GraftError:
        return
    for line in listing.splitlines():
        name, commit, made = line.split()
        run = _run_times(every, commit)
        age = time.time() - max([float(made), *run])
        if commit not in kept and age >= days * DAY_SECONDS:
            yield Waste("refs", name, 0, age, None)


def _published_commits(workspace: Workspace) -> Iterator[str]:
    from graft import runs

    with contextlib.suppress(OSError, ValueError):
        for receipt in json.loads(workspace.published.read_text(encoding="utf-8")).values():
            yield from (value for key, value in _flat(receipt) if "commit" in key)
    yield from (str(one.facts.get("commit")) for one in runs.listed(workspace) if one.facts.get("version"))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, name)
    elif isinstance(value, str):
        yield key, value


def _run_times(every: Iterable[Workspace], commit: str) -> list[float]:
    """Return when runs on ``commit`` began: a snapshot's own date is its parent's."""
    from graft import runs

    found = (run for one in every for run in runs.listed(one))
    return [float(run.facts.get("started", 0.0)) for run in found if run.facts.get("commit") == commit]


def remove(workspace: Workspace, items: Iterable[Waste]) -> Iterator[Waste]:
    """Remove ``items`` and yield each one that is gone."""
    from graft.repository import Repository

    repository = Repository(workspace)
    stale: list[str] | None = None
    for one in items:
        if one.kind == "worktrees":
            stale = repository.remove_stale_worktrees() if stale is None else stale
        elif one.kind == "refs":
            repository.git.run("update-ref", "-d", one.name)
        elif one.path is not None and one.path.is_dir():
            shutil.rmtree(one.path)
        elif one.path is not None:
            one.path.unlink(missing_ok=True)
        yield one


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _all(place: Path) -> Iterator[Path]:
    yield place
    yield from place.rglob("*")


def bytes_of(place: Path) -> int:
    """Return the bytes of a file or folder on disk; a file with several hard links counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in _all(place) if place.exists() else ():
        with contextlib.suppress(OSError):
            status = path.lstat()
            if not path.is_dir() or path.is_symlink():
                seen[(status.st_dev, status.st_ino)] = status.st_size
    return sum(seen.values())
