"""Whether bytes are what their record says: DVC compares times and sizes, and never hashes its cache again.

A damaged cache object is checked out, used ("up to date", exit code 0) and pushed. So what a stage reads is hashed from
its bytes before the stage runs: a pass over the inputs, at the disk's speed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import DataError, IntegrityError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

SHORT = 8


def refuse_changed_data(outs: Iterable[Output]) -> None:
    """Refuse data that differs from data.dvc: DVC would record a hash that no cache and no remote holds."""
    for out in outs:
        if out.stage.is_data_source and out.get_hash() != out.hash_info:
            title = "data/ differs from data.dvc; `graft run --add-data` records it, `dvc checkout data.dvc` undoes it"
            raise DataError.from_problems(title, differences(out))


def refuse_damaged(repo: Repo, root: Path, outs: Iterable[Output]) -> None:
    """Hash the files of ``outs`` and compare with their records.

    Raises:
        IntegrityError: with each file that differs.
    """
    problems = [problem for out in outs if out.hash_info for problem in _damage(repo, root, out)]
    if problems:
        title = "files differ from what was recorded; the next run makes them anew (data: `dvc pull --force data.dvc`)"
        raise IntegrityError.from_problems(title, problems)


def _damage(repo: Repo, root: Path, out: Output) -> Iterator[str]:
    """Yield each file of ``out`` whose bytes are not those that its record names."""
    place = Path(out.fs_path)
    if not place.exists():
        return
    names = _listing(out.get_obj()) if out.hash_info.isdir else {"": str(out.hash_info.value)}
    if names is None:  # the listing is not in the cache: DVC's own comparison is all there is
        if out.get_hash() != out.hash_info:
            yield f"{place.relative_to(root).as_posix()}: modified"
        return
    for name, expected in names.items():
        path = place / name if name else place
        found = md5_of(path) if path.is_file() else None
        if found != expected:
            note = _expose(path, Path(repo.cache.local.oid_to_path(expected)), expected)
            said = f"md5 {found[:SHORT]}" if found else "missing"
            yield f"{path.relative_to(root).as_posix()}: {said}, recorded {expected[:SHORT]}{note}"


def _expose(path: Path, cached: Path, expected: str) -> str:
    """Let DVC see the damage, so that the next run mends it: a new time on the file, no damaged object in the cache."""
    with contextlib.suppress(OSError):
        os.utime(path)
    if cached.is_file() and md5_of(cached) != expected:
        cached.unlink()
        return "; its object in the cache was damaged and has been removed"
    return ""


def md5_of(path: Path) -> str:
    """Return the md5 of a file's bytes, which is what DVC calls it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def differences(out: Output) -> Iterator[str]:
    """Yield each file that differs from what data.dvc records; the folder alone where the listing is not at hand."""
    old, new = _listing(out.get_obj()), _listing(_build(out))
    if old is None or new is None:
        yield f"{out.def_path}: modified"
        return
    for name in sorted({**old, **new}):
        if old.get(name) != new.get(name):
            kind = "added" if name not in old else "deleted" if name not in new else "modified"
            yield f"{out.def_path}/{name}: {kind}"


def _build(out: Output) -> Any:
    from dvc_data.hashfile.build import build

    return build(out.cache, out.fs_path, out.fs, "md5", ignore=out.dvcignore, dry_run=True)[2]


def _listing(tree: Any) -> dict[str, str] | None:
    """Return ``{path below the folder: md5}`` of a DVC tree object; ``None`` where it is not a folder's."""
    from dvc_data.hashfile.tree import Tree

    if not isinstance(tree, Tree):
        return None
    return {"/".join(key): str(hash_info.value) for key, _, hash_info in tree}
