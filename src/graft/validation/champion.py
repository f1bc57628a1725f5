"""The champion's data profile, as sources.lock pins it: what the next data is held against.

Who is champion stands in a registry, which no stage may ask. So `graft lock` fetches the profile that was published
with the champion, writes it to ``champion_profile.json`` and pins its digest under ``champion`` in sources.lock. The
pin moves with that command alone: equal files give an equal verdict, whoever is champion by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from graft.errors import ConfigError, IntegrityError
from graft.identity import digest_bytes, digest_file
from graft.validation.data_profile import DataProfile
from graft.workspace import Workspace, read_json, write_json, write_text

KEY = "champion"
PROFILE = "profile.json"
"""In the outputs of validate: the profile of each split."""


@dataclass(frozen=True)
class Pin:
    """A champion and its data."""

    name: str
    """The registered model."""
    version: str
    adapter: str
    """The digest of the adapter folder."""
    profile: str | None
    """The digest of its data profile; None: it was published without one."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def write_profile(path: Path, splits: Mapping[str, DataProfile]) -> None:
    """Write the profile of each split, a line each."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(one.as_json(), ensure_ascii=False, separators=(',', ':'))}"
        for name, one in splits.items()
    ]
    write_text(path, '{"format": 1, "splits": {\n' + ",\n".join(lines) + "\n}}\n")


def read_profile(path: Path) -> dict[str, DataProfile]:
    """Return the profile of each split.

    Raises:
        ConfigError: the file is missing, or is no profile.
    """
    try:
        return {name: DataProfile.from_json(one) for name, one in read_json(path)["splits"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path.name}: is no data profile in a form known here; run `graft lock`") from None


def pin(workspace: Workspace, found: Pin | None, profile: bytes | None = None) -> None:
    """Write the pin to sources.lock, and ``profile`` beside it (None: there is no profile to compare with)."""
    known = read_json(workspace.sources_lock) if workspace.sources_lock.is_file() else {}
    if profile is None:
        workspace.champion_profile.unlink(missing_ok=True)
    else:
        write_text(workspace.champion_profile, profile.decode("utf-8"))
    write_json(workspace.sources_lock, {**known, KEY: asdict(found) if found else None})


def digest_profile(profile: bytes) -> str:
    """Return the digest that pins a profile."""
    return digest_bytes(profile)


def pinned(workspace: Workspace) -> Pin | None:
    """Return the champion that sources.lock pins, or None.

    Raises:
        ConfigError: it pins one in a form that is not known.
    """
    found = read_json(workspace.sources_lock).get(KEY) if workspace.sources_lock.is_file() else None
    try:
        return Pin(**found) if found is not None else None
    except TypeError:
        raise ConfigError("sources.lock: pins a champion in a form not known here; run `graft lock`") from None


def pinned_profile(workspace: Workspace) -> tuple[Pin, dict[str, DataProfile]] | None:
    """Return the pinned champion and the profile of its data; None where there is nothing to compare with.

    Raises:
        IntegrityError: ``champion_profile.json`` is not what sources.lock pins.
    """
    found = pinned(workspace)
    if found is None or found.profile is None:
        return None
    path = workspace.champion_profile
    if not path.is_file() or digest_file(path) != found.profile:
        raise IntegrityError(
            f"{path.name}: is not what sources.lock pins as the data profile of {found}; put the file back, or run "
            f"`graft lock`"
        )
    return found, read_profile(path)
