"""Find, pin, fingerprint and load a base model; `scratch` makes one from nothing.

A name like ``org/model`` or a folder says where a base is, not which bytes it holds. ``graft lock`` resolves the name
once and writes the sha256 of every file that transformers would read to ``sources.lock``; every later stage finds the
folder again by what it holds, and refuses other bytes. The price is one hash of the weights per process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graft.base import quantization
from graft.base.contents import Fingerprint, chat_template_digest, differing, fingerprint
from graft.base.places import BASES_VARIABLE, candidates, hub_folder, package_folder, resolve_hub
from graft.base.section import BaseConfig, Kind
from graft.base.tokenizer import load_tokenizer, pad_token_of
from graft.errors import ConfigError, IntegrityError, ResourceMissing, shown
from graft.workspace import Workspace, read_json, write_json

__all__ = [
    "BaseConfig",
    "LockedBase",
    "chat_template_digest",
    "load_processor",
    "load_tokenizer",
    "lock",
    "locked",
    "pad_token_of",
    "quantization",
]


@dataclass(frozen=True, kw_only=True)
class LockedBase(Fingerprint):
    """A base as ``sources.lock`` pins it."""

    source: str
    kind: Kind
    requested: str | None
    """The revision that params asked for; for a base from scratch the digest of its settings."""
    revision: str | None
    """The commit it was resolved to; null for packages and folders, the settings' digest from scratch."""

    def folder(self, root: Path, *, weights: bool = True) -> Path:
        """Return the folder that holds this base here, its files verified against their sha256.

        Looked for at ``source`` (relative to the project ``root``), then by digest below the folders that the
        environment variable ``GRAFT_BASES`` lists, then, for a Hub id, on the Hub; one from scratch also below
        ``bases/``, and it is made again where the project's params and data allow it. ``weights=False`` verifies only
        the small files, for a stage that reads no weights.

        Raises:
            IntegrityError: the folder at ``source`` holds other bytes, and no other folder holds the right ones.
            ResourceMissing: it is nowhere.
        """
        wanted = {name: sha for name, sha in self.files.items() if weights or not name.endswith(".safetensors")}
        named = self._named_folder(root)
        wrong = differing(named, wanted, root) if named else []
        if named and not wrong:
            return named
        for candidate in self._candidates(root):
            if not differing(candidate, wanted, root, first=True):
                return candidate
        if named:
            raise IntegrityError(
                f"base.source: {shown(self.source)} is not what sources.lock pins: {', '.join(wrong)} changed or "
                f"missing; put the files back, name a folder above a copy of them in {BASES_VARIABLE} (base digest "
                f"{self.digest}), or run `graft lock` if the new ones are meant"
            )
        if self.kind == "hub":
            return self._downloaded(wanted, root)
        if self.kind == "scratch":
            return self._made_again(wanted, root)
        raise ResourceMissing(self._missing())

    def _candidates(self, root: Path) -> Iterator[Path]:
        if self.kind == "scratch":
            from graft.base.scratch import places

            yield from places(root)
        yield from candidates()

    def _made_again(self, wanted: dict[str, str], root: Path) -> Path:
        from graft.base.scratch import made_again

        folder = made_again(root, str(self.revision))
        if folder is None:
            raise ResourceMissing(self._missing())
        wrong = differing(folder, wanted, root)
        if wrong:
            raise IntegrityError(
                f"base: {self.source}, made again, is not what sources.lock pins: {', '.join(wrong)} differ, since the "
                f"training data or a library's version is another; run `graft lock` for a new base, or name a folder "
                f"above the old one in {BASES_VARIABLE} (base digest {self.digest})"
            )
        return folder

    def _named_folder(self, root: Path) -> Path | None:
        if self.kind == "scratch":
            return None
        if self.kind == "package":
            return package_folder(self.source)
        if self.kind == "folder":
            folder = root / self.source
            return folder if folder.is_dir() else None
        return hub_folder(self.source, str(self.revision), list(self.files), local=True)

    def _downloaded(self, wanted: dict[str, str], root: Path) -> Path:
        folder = hub_folder(self.source, str(self.revision), list(self.files), local=False)
        if folder is None:
            raise ResourceMissing(self._missing())
        wrong = differing(folder, wanted, root)
        if wrong:
            raise IntegrityError(
                f"base.source: {self.source} at {self.revision} on the Hub is not what sources.lock pins: "
                f"{', '.join(wrong)} differ; run `graft lock` if the new files are meant"
            )
        return folder

    def _missing(self) -> str:
        where = {
            "package": "install the package that has it (the demo's: `pip install 'graft[demo]'`)",
            "folder": "put the folder back",
            "hub": "connect to the Hub (HF_HUB_OFFLINE is set, or it cannot be reached)",
            "scratch": "get its project's data (`dvc pull data.dvc`), from which it is made again",
        }[self.kind]
        key = "base" if self.kind == "scratch" else "base.source"
        return (
            f"{key}: {shown(self.source)} is not here; {where}, or name a folder above a copy of it in "
            f"{BASES_VARIABLE} (base digest {self.digest})"
        )


def load_processor(kind: Literal["tokenizer", "image"], folder: Path, trust_remote_code: bool = False) -> Any:
    """Load what turns rows into inputs of the base in ``folder``: its tokenizer, or its image processor.

    Raises:
        ConfigError: the folder holds none that transformers can read.
    """
    if kind == "tokenizer":
        return load_tokenizer(folder, trust_remote_code)
    from graft.base.images import load_image_processor

    return load_image_processor(folder)


def lock(workspace: Workspace, config: BaseConfig) -> LockedBase:
    """Resolve the base that ``config`` names, fingerprint its files, and write it to ``sources.lock``.

    Raises:
        ConfigError: ``base.source`` leads to no usable base.
        ResourceMissing: the package or the Hub is not there.
    """
    revision = config.recipe
    if config.kind == "scratch":
        from graft.base.scratch import make

        folder = make(workspace, config)
    elif config.kind == "package":
        found_folder = package_folder(config.name)
        if found_folder is None:
            module = config.name.removeprefix("package:").partition("/")[0]
            raise ResourceMissing(
                f"base.source: {shown(config.source)}: module {module} is not installed or has no such folder; install "
                f"the package (the demo's: `pip install 'graft[demo]'`) or correct base.source"
            )
        folder = found_folder
    elif config.kind == "folder":
        folder = workspace.root / config.name
        if not folder.is_dir():
            raise ConfigError(f"base.source: no folder {shown(config.source)} (looked at {folder}); correct the path")
    else:
        folder, revision = resolve_hub(config.name, config.revision or "main", workspace.root)
    found = fingerprint(folder, config.name, trust_remote_code=config.trust_remote_code)
    locked = LockedBase(
        source=config.name,
        kind=config.kind,
        requested=config.revision or config.recipe,
        revision=revision,
        **dataclasses.asdict(found),
    )
    known = read_json(workspace.sources_lock) if workspace.sources_lock.is_file() else {}
    # Stages depend on keys of this file: those of the champion and the warm start must be there, also without one.
    write_json(
        workspace.sources_lock,
        {"champion": None, "init": None, **known, "format": 1, "base": dataclasses.asdict(locked)},
    )
    return locked


def locked(workspace: Workspace, config: BaseConfig) -> LockedBase:
    """Return the base as ``sources.lock`` pins it.

    Raises:
        ConfigError: there is no lock, or it pins another base than ``config`` names.
    """
    if not workspace.sources_lock.is_file():
        raise ConfigError("sources.lock: not there; run `graft lock`")
    try:
        found = LockedBase(**read_json(workspace.sources_lock)["base"])
    except (KeyError, TypeError):
        raise ConfigError("sources.lock: pins no base in a form known here; run `graft lock`") from None
    if config.kind == found.kind == "scratch" and config.recipe != found.requested:
        raise ConfigError(
            "base: params.yaml describes another base from scratch than sources.lock pins; run `graft lock`"
        )
    for name, wanted, pinned in (
        ("source", config.name, found.source),
        ("revision", config.revision or config.recipe, found.requested),
    ):
        if wanted != pinned:
            if config.kind == "folder" and not (workspace.root / config.name).is_dir():
                raise ConfigError(f"base.source: no folder {shown(config.source)}; correct the path")
            raise ConfigError(
                f"base.{name}: params.yaml has {shown(wanted)}, sources.lock pins {shown(pinned)}; run `graft lock`"
            )
    return found
