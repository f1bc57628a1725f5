"""Which pictures each part names, so that no other picture decides what is made of the part.

Rows name their pictures, so a part is read for it once, with its pictures left closed; the names are kept by the part's
content, like everything that is made of parts. Where rows have no pictures, nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data import DataConfig, named_pictures
from graft.identity import digest_json
from graft.part_results import Job, PartResults, Round, key_of
from graft.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from graft.tasks import Field

STAGE, NAMES = "pictures", "names.json"


def picture_digests(
    workspace: Workspace,
    fields: Sequence[Field],
    config: DataConfig,
    digests: Mapping[str, str],
    paths: Sequence[Path],
) -> dict[Path, str]:
    """Return for each part one digest of the pictures that it names, with their names.

    Args:
        workspace: where the data lies, and the store.
        fields: the fields of a row.
        config: how files become rows.
        digests: ``{path below the data folder: sha256}``, as :func:`graft.data.data_digests` returns them.
        paths: the parts.
    """
    if all(one.type != "image" for one in fields):
        return dict.fromkeys(paths, "")
    one, found = naming(workspace, fields, config, digests, paths), _Pictures(workspace.data, digests)
    one.make()
    return {path: digest_json(found.named(names)) for path, names in names_of(one).items()}


def naming(
    workspace: Workspace,
    fields: Sequence[Field],
    config: DataConfig,
    digests: Mapping[str, str],
    paths: Sequence[Path],
    results: PartResults | None = None,
) -> Round:
    """Return what is to be done to know the pictures that each part names.

    Args:
        workspace: where the data lies.
        fields: the fields of a row.
        config: how files become rows.
        digests: ``{path below the data folder: digest}``; any digest of the bytes, by which the names are kept.
        paths: the parts.
        results: where the names are kept; by default the workspace's store.
    """
    made_of = {
        "images": [one.name for one in fields if one.type == "image"],
        "data": config.model_dump(mode="json", exclude={"clean", "privacy"}),
    }
    jobs = [Job(key_of(path, digests[_below(path, workspace.data)], made_of), path, path) for path in paths]
    work = _Naming(workspace.root, tuple(fields), config)
    return Round(results or PartResults.of(workspace, STAGE), jobs, work)


def names_of(one: Round) -> dict[Path, list[str]]:
    """Return the pictures that each part names, sorted, from what :func:`naming` made."""
    return {job.path: read_json(one.results.folder / job.key / NAMES) for job in one.jobs}


@dataclass(frozen=True)
class _Naming:
    """Writes the names of the pictures of a part; picklable, for processes."""

    root: Path
    fields: tuple[Field, ...]
    config: DataConfig

    def __call__(self, path: Path, folder: Path, add: Callable[[int], None]) -> None:
        names = set[str]()
        for name in named_pictures(path, self.root, self.fields, self.config):
            names.add(name)
            add(1)
        write_json(folder / NAMES, sorted(names))


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a data folder by name."""

    folder: Path
    digests: Mapping[str, str]

    def named(self, names: Sequence[str]) -> list[list[str]]:
        """Return each name with what it stands for."""
        return [[name, self.digests.get(name) or self._behind(name)] for name in names]

    def _behind(self, name: str) -> str:
        """Return the digest of the file that a name leads to by links, or why there is none."""
        try:
            real = (self.folder / name).resolve(strict=True)
            return self.digests.get(_below(real, self.folder.resolve()), "no picture of the folder")
        except (OSError, ValueError, RuntimeError):  # absent, outside or too long; a NUL in the name; a link to itself
            return "not there"


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
