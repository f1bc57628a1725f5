"""Temporary worktrees: a run that stands on a commit, beside the user's files, with the clone's cache and home.

A git worktree shares the clone's objects and refs, and nothing of DVC: the cache, ``config.local`` and relative remote
addresses have to be carried over. A lock file beside each worktree is held while it is used; the kernel frees it when
the process dies, and that is how the next run knows which ones were left behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, GraftError, Locked
from graft.repository.git import Git
from graft.workspace import HOME_VARIABLE, Workspace, locked

BASES_VARIABLE = "GRAFT_BASES"


@contextlib.contextmanager
def worktree(workspace: Workspace, git: Git, commit: str) -> Iterator[Workspace]:
    """Yield the project of ``workspace`` in a new worktree at ``commit``; see ``Repository.worktree``."""
    remove_stale(workspace, git)
    place = _folder(workspace).resolve() / f"{commit[:12]}-{secrets.token_hex(4)}"
    inner = Workspace(place / workspace.name)
    # The lock comes first: a folder without a held lock is one that another run may remove.
    with locked(_lock(place), purpose=f"a run on commit {commit[:12]}"):
        try:
            git.run("worktree", "add", "--quiet", "--detach", "--force", str(place), commit)
            carry_dvc_settings(workspace, inner)
            with environment_of(workspace, home=workspace.home):
                yield inner
        finally:
            _remove(git, place)
    _lock(place).unlink(missing_ok=True)


def remove_stale(workspace: Workspace, git: Git) -> list[str]:
    """Remove worktrees whose run has ended without doing so; return their names."""
    removed = []
    folder = _folder(workspace)
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not place.is_dir():
            continue
        try:
            with locked(_lock(place), purpose="removing what a killed run left"):
                _remove(git, place)
        except Locked:
            continue
        _lock(place).unlink(missing_ok=True)
        removed.append(place.name)
    return removed


def _folder(workspace: Workspace) -> Path:
    return workspace.home / ".graft" / "worktrees"


def _lock(place: Path) -> Path:
    return place.with_name(place.name + ".lock")


def _remove(git: Git, place: Path) -> None:
    with contextlib.suppress(GraftError):
        git.run("worktree", "remove", "--force", "--force", str(place))
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(GraftError):
        git.run("worktree", "prune")


def carry_dvc_settings(workspace: Workspace, inner: Workspace, *, cache: bool = True) -> None:
    """Write ``config.local`` for ``inner``: the clone's own settings, its cache, and every path made absolute."""
    from dvc.config import Config

    dvc = dvc_folder(workspace)
    merged: dict[str, Any] = {}
    for level in ("repo", "local"):  # each path is resolved against the file that it stands in
        _merge(merged, Config(str(dvc), validate=False).load_one(level))
    if cache:
        merged["cache"].setdefault("dir", str(dvc / "cache"))
    else:
        merged["cache"].pop("dir", None)
        for remote in merged.get("remote", {}).values():  # what is part of the repository is taken as the commit has it
            remote["url"] = _moved(str(remote.get("url", "")), workspace.repository, inner.repository)
    target = inner.repository / dvc.relative_to(workspace.repository)
    with Config(str(target), validate=False).edit("local") as settings:
        _merge(settings, merged)


def _moved(url: str, repository: Path, to: Path) -> str:
    path = Path(url)
    return str(to / path.relative_to(repository)) if "://" not in url and path.is_relative_to(repository) else url


def dvc_folder(workspace: Workspace) -> Path:
    """Return the ``.dvc`` folder that serves the project.

    Raises:
        ConfigError: there is none.
    """
    for folder in (workspace.root, *workspace.root.parents):
        if (folder / ".dvc").is_dir():
            return folder / ".dvc"
        if folder == workspace.repository:
            break
    raise ConfigError(f"{workspace.repository}: no DVC repository; run `dvc init`")


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put ``values`` into ``into``, section by section; a path becomes a plain string, which DVC keeps absolute."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = str(value) if isinstance(value, str) else value


def _bases(workspace: Workspace) -> str:
    """Return ``GRAFT_BASES`` with the folder that a relative ``base.source`` names from here put first.

    From the worktree the same path means another folder; the base is found by its digest instead. So is one from
    scratch in the clone's ``bases/``.
    """
    from graft.config import read_yaml

    own = str(workspace.bases) if workspace.bases.is_dir() else ""
    given = os.pathsep.join(filter(None, (os.environ.get(BASES_VARIABLE, ""), own)))
    with contextlib.suppress(ConfigError):
        section = read_yaml(workspace.params)[0].get("base")
        source = section.get("source") if isinstance(section, dict) else None
        if isinstance(source, str) and source.startswith("."):
            folder = (workspace.root / source).resolve()
            return os.pathsep.join(filter(None, (str(folder), given)))
    return given


@contextlib.contextmanager
def environment_of(workspace: Workspace, *, home: Path) -> Iterator[None]:
    """Let code of another copy of ``workspace`` find ``home`` and the project's base while the block lasts."""
    values = {HOME_VARIABLE: str(home), BASES_VARIABLE: _bases(workspace)}
    before = {name: os.environ.get(name) for name, value in values.items() if value}
    os.environ.update({name: values[name] for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
