"""The DVC remotes of a project: where they are, and whether they can be reached and written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo

    from graft.repository.dvc import Dvc


@dataclass(frozen=True)
class Remote:
    """One remote. ``writable`` is None where only a push would tell."""

    name: str
    url: str
    default: bool
    problem: str | None
    """Why it cannot be reached; None where it can, or where a push makes it."""
    writable: bool | None


def remotes(dvc: Dvc) -> list[Remote]:
    """Return the remotes of the project, the default one first; each is asked once whether it is there."""
    with dvc.repo("look at the remotes") as repo:
        default = repo.config["core"].get("remote")
        names = sorted(repo.config["remote"], key=lambda name: (name != default, name))
        return [_remote(repo, name, default == name) for name in names]


def _remote(repo: Repo, name: str, default: bool) -> Remote:
    url = str(repo.config["remote"][name].get("url", ""))
    if "://" not in url:
        return _folder(name, Path(url), default)
    try:
        found = repo.cloud.get_remote(name)
        found.fs.exists(found.path)
    except Exception as error:  # each file system has errors of its own, none in common
        text = str(error).strip().splitlines()
        return Remote(name, url, default, f"{type(error).__name__}: {text[0] if text else ''}", None)
    return Remote(name, url, default, None, None)


def _folder(name: str, path: Path, default: bool) -> Remote:
    """Return a remote that is a folder: one that is not there yet is made by the first push, where that is allowed."""
    place = next(one for one in (path, *path.parents) if one.exists())
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    problem = None if path.is_dir() or writable else f"no such folder, and it cannot be made below {place}"
    return Remote(name, str(path), default, problem, writable)
