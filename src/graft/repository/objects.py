"""Data of any commit by content: what data.dvc or dvc.lock recorded there, and the bytes from the cache or a remote.

A folder that DVC tracks is a listing (an object of its own, ``<md5>.dir``) of files by their md5. So what two commits
share is known from two listings, and only what differs is pulled. The working tree is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.repository.integrity import md5_of
from graft.workspace import Workspace

if TYPE_CHECKING:
    from dvc.repo import Repo

MD5 = "md5"
NAMED_FILES = 3
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Tracked:
    """A folder as DVC's files record it: the md5 of its listing, and the remote that has it (None: the default)."""

    digest: str
    remote: str | None = None


def tracked(text: str, where: str) -> Tracked:
    """Return what a data.dvc records.

    Raises:
        ConfigError: it is no file of DVC 3 about one folder.
    """
    try:
        [out] = yaml.safe_load(text)["outs"]
        digest, remote, kind = out[MD5], out.get("remote"), out.get("hash")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{where}: not a file that `dvc add data` writes") from None
    if kind != MD5 or not str(digest).endswith(".dir"):
        raise ConfigError(f"{where}: must record a folder by md5, as DVC 3 does; `dvc add data` there writes it anew")
    return Tracked(str(digest), remote)


def output(text: str, stage: str, path: str, data: str) -> Tracked | None:
    """Return an output that a dvc.lock records of a stage that read the data ``data``; None where it records none."""
    try:
        found = yaml.safe_load(text)["stages"][stage]
        read = {one["path"]: one.get(MD5) for one in found["deps"]}
        [made] = [str(one[MD5]) for one in found["outs"] if one["path"] == path]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return Tracked(made) if read.get("data") == data else None


def listing(repo: Repo, of: Tracked) -> dict[str, str]:
    """Return ``{path below the folder: md5}``; the listing is pulled where the cache lacks it.

    Raises:
        ResourceMissing: neither the cache nor the remote has it.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    fetch(repo, [of.digest], of.remote)
    return _files(Tree.load(repo.cache.local, HashInfo(MD5, of.digest)))


def fetch(repo: Repo, digests: Collection[str], remote: str | None) -> dict[str, Path]:
    """Return the file of each object in the cache; those that it lacks are pulled.

    Raises:
        ResourceMissing: some are neither in the cache nor in the remote.
        IntegrityError: an object's bytes are not those that its name says.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    places = {digest: Path(repo.cache.local.oid_to_path(digest)) for digest in digests}
    missing = [digest for digest, place in places.items() if not place.is_file()]
    if missing:
        repo.cloud.pull([HashInfo(MD5, digest) for digest in missing], remote=remote)
        missing = [digest for digest in missing if not places[digest].is_file()]
    if missing:
        name = remote or repo.config["core"].get("remote")
        raise ResourceMissing(
            f"{len(missing)} of {len(places)} objects are neither in the DVC cache nor in the remote `{name}` "
            f"({', '.join(one[:8] for one in missing[:NAMED_FILES])}); `dvc push` them where they are"
        )
    for digest, place in places.items():
        if md5_of(place) != digest.removesuffix(".dir"):
            raise IntegrityError(
                f"{place}: its bytes are not those that its name says; remove it, and it is pulled again"
            )
    return places


def refuse_altered(repo: Repo, of: Tracked, place: str, recorded_by: str) -> None:
    """Bring a tracked folder into the cache, and hash every byte of it against its record.

    DVC takes what a remote holds under a name for what the name says, or (``verify``) says that it is missing. Here an
    object that is something else is named, with both digests.

    Args:
        repo: DVC's repository.
        of: The folder.
        place: What the folder is called in messages.
        recorded_by: Who says what it must be, for the message.

    Raises:
        IntegrityError: the remote holds other bytes under a recorded name.
        ResourceMissing: it lacks some, or cannot be reached.
    """
    name = of.remote or repo.config["core"].get("remote")
    title = f"{place}: the remote `{name}` does not hold what {recorded_by} recorded; nothing was run"
    listing_digest = _present_digest(repo, of.digest, of.remote)
    if listing_digest not in (None, of.digest.removesuffix(".dir")):
        problem = f"{place} (its list of files): expected md5 {of.digest}, found {listing_digest}.dir"
        raise IntegrityError.from_problems(title, [problem])
    files = listing(repo, of)
    _pull(repo, files.values(), of.remote)
    problems, missing = [], []
    for path, digest in files.items():
        found = _present_digest(repo, digest, of.remote)
        if found is None:
            missing.append(f"{place}/{path}: md5 {digest}")
        elif found != digest:
            problems.append(f"{place}/{path}: expected md5 {digest}, found {found}")
    if problems:
        raise IntegrityError.from_problems(title, problems)
    if missing:
        title = f"cannot get {place}/: the remote `{name}` lacks what {recorded_by} recorded; `dvc push` it"
        raise ResourceMissing.from_problems(title, missing)


def _pull(repo: Repo, digests: Collection[str], remote: str | None) -> None:
    from dvc_data.hashfile.hash_info import HashInfo

    missing = [one for one in dict.fromkeys(digests) if not Path(repo.cache.local.oid_to_path(one)).is_file()]
    if missing:
        repo.cloud.pull([HashInfo(MD5, digest) for digest in missing], remote=remote)


def _present_digest(repo: Repo, digest: str, remote: str | None) -> str | None:
    """Return the md5 of an object's bytes, in the cache, else in the remote; None where neither has it."""
    cached = Path(repo.cache.local.oid_to_path(digest))
    if cached.is_file():
        return md5_of(cached)
    there = repo.cloud.get_remote_odb(remote)
    path = there.oid_to_path(digest)
    if not there.fs.exists(path):
        return None
    hasher = hashlib.md5(usedforsecurity=False)
    with there.fs.open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def present(repo: Repo, workspace: Workspace) -> tuple[str, dict[str, str]]:
    """Return the md5 of the listing of data/ as it is now, and the listing."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build

    built: Any = build(
        repo.cache.local, str(workspace.data), LocalFileSystem(), MD5, ignore=repo.dvcignore, dry_run=True
    )[2]
    return str(built.hash_info.value), _files(built)


def _files(tree: Any) -> dict[str, str]:
    return {"/".join(key): str(info.value) for key, _, info in tree}
