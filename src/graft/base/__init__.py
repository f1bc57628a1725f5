"""Find, pin, fingerprint and load a base model.

A name like ``org/model`` or a folder says where a base is, not which bytes it holds. ``graft lock`` resolves the name
once and writes the sha256 of every file that transformers would read to ``sources.lock``; every later stage finds the
folder again by what it holds, and refuses other bytes. The price is one hash of the weights per process.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from graft.base.contents import Fingerprint, differing, fingerprint
from graft.base.places import BASES_VARIABLE, candidates, hub_folder, package_folder, resolve_hub
from graft.base.tokenizer import load_tokenizer, pad_token_of
from graft.config import Section
from graft.errors import ConfigError, IntegrityError, ResourceMissing, shown
from graft.workspace import Workspace, read_json, write_json

__all__ = ["BaseConfig", "LockedBase", "load_processor", "load_tokenizer", "lock", "locked", "pad_token_of"]

Kind = Literal["package", "folder", "hub"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class BaseConfig(Section):
    """The pretrained model that is adapted. It is never changed."""

    source: str
    """``package:<module>/<folder>`` (a folder inside an installed Python package), a local folder (absolute, or relative to params.yaml, starting with ``.`` or ``/``), or a Hub id (``org/name``)."""  # noqa: E501

    revision: str | None = None
    """Branch, tag or commit of a Hub id; ``graft lock`` pins the commit. Only for Hub ids."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the frozen weights. ``bfloat16`` is faster where the processor has it; adapter weights stay float32."""  # noqa: E501

    trust_remote_code: bool = False
    """Whether Python code that comes with a Hub model may run here."""

    @property
    def kind(self) -> Kind:
        """Where the base comes from, as the form of ``source`` says."""
        if self.source.startswith("package:"):
            return "package"
        return "folder" if self.source.startswith((".", "/")) else "hub"

    @model_validator(mode="after")
    def _check_source(self) -> BaseConfig:
        if self.kind == "package" and not re.fullmatch(r"package:[A-Za-z_][\w.]*(/[^/].*)?", self.source):
            raise ValueError("source must be package:<module>/<folder>")
        if self.kind == "hub" and not HUB_ID.fullmatch(self.source):
            raise ValueError(
                "source must be package:<module>/<folder>, a Hub id (org/name), or a folder: absolute, or relative to "
                f"params.yaml and starting with ./ or ../ (~ is not expanded); got {shown(self.source)}"
            )
        if self.revision is not None and self.kind != "hub":
            raise ValueError("revision is only for Hub ids; leave it out")
        return self


@dataclass(frozen=True, kw_only=True)
class LockedBase(Fingerprint):
    """A base as ``sources.lock`` pins it."""

    source: str
    kind: Kind
    requested: str | None
    """The revision that params asked for."""
    revision: str | None
    """The commit it was resolved to; null for packages and folders."""

    def folder(self, root: Path, *, weights: bool = True) -> Path:
        """Return the folder that holds this base here, its files verified against their sha256.

        Looked for at ``source`` (relative to the project ``root``), then by digest below the folders that the
        environment variable ``GRAFT_BASES`` lists, then, for a Hub id, on the Hub. ``weights=False`` verifies only
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
        for candidate in candidates():
            if not differing(candidate, wanted, root, first=True):
                return candidate
        if named:
            raise IntegrityError(
                f"base.source: {shown(self.source)} is not what sources.lock pins: {', '.join(wrong)} changed or "
                f"missing; put the files back, or run `graft lock` if the new ones are meant"
            )
        if self.kind == "hub":
            return self._downloaded(wanted, root)
        raise ResourceMissing(self._missing())

    def _named_folder(self, root: Path) -> Path | None:
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
        }[self.kind]
        return (
            f"base.source: {shown(self.source)} is not here; {where}, or name a folder above a copy of it in "
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
    revision = None
    if config.kind == "package":
        folder = package_folder(config.source)
        if folder is None:
            module = config.source.removeprefix("package:").partition("/")[0]
            raise ResourceMissing(
                f"base.source: {shown(config.source)}: module {module} is not installed or has no such folder; install "
                f"the package (the demo's: `pip install 'graft[demo]'`) or correct base.source"
            )
    elif config.kind == "folder":
        folder = workspace.root / config.source
        if not folder.is_dir():
            raise ConfigError(f"base.source: no folder {shown(config.source)} (looked at {folder}); correct the path")
    else:
        folder, revision = resolve_hub(config.source, config.revision or "main", workspace.root)
    found = fingerprint(folder, config.source, trust_remote_code=config.trust_remote_code)
    locked = LockedBase(
        source=config.source,
        kind=config.kind,
        requested=config.revision,
        revision=revision,
        **dataclasses.asdict(found),
    )
    known = read_json(workspace.sources_lock) if workspace.sources_lock.is_file() else {}
    write_json(workspace.sources_lock, {**known, "format": 1, "base": dataclasses.asdict(locked)})
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
    for name, wanted, pinned in (
        ("source", config.source, found.source),
        ("revision", config.revision, found.requested),
    ):
        if wanted != pinned:
            if config.kind == "folder" and not (workspace.root / config.source).is_dir():
                raise ConfigError(f"base.source: no folder {shown(config.source)}; correct the path")
            raise ConfigError(
                f"base.{name}: params.yaml has {shown(wanted)}, sources.lock pins {shown(pinned)}; run `graft lock`"
            )
    return found
