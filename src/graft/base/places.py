"""Where a base can lie: an installed package, a folder that GRAFT_BASES lists, the Hub's cache or the Hub."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from graft.base.contents import CHAT_TEMPLATE_FILES, CONFIG_FILES, TOKENIZER_FILES, WEIGHTS_INDEX
from graft.errors import ConfigError, ResourceMissing, shown

BASES_VARIABLE = "GRAFT_BASES"
COMMIT = re.compile(r"[0-9a-f]{40}")


def package_folder(source: str) -> Path | None:
    """Return the folder in an installed package, without importing the package."""
    module, _, below = source.removeprefix("package:").partition("/")
    top, *inner = module.split(".")
    found = importlib.util.find_spec(top)
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place).joinpath(*inner, below)
        if folder.is_dir():
            return folder
    return None


def candidates() -> Iterator[Path]:
    """Yield the model folders at, one and two levels below the folders that GRAFT_BASES lists."""
    for place in filter(None, os.environ.get(BASES_VARIABLE, "").split(os.pathsep)):
        for pattern in ("config.json", "*/config.json", "*/*/config.json"):
            yield from (path.parent for path in sorted(Path(place).glob(pattern)))


def hub_folder(name: str, commit: str, files: list[str], *, local: bool) -> Path | None:
    """Return the Hub's snapshot of ``commit``, from the local cache if ``local``; None where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=files, local_files_only=local))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def resolve_hub(name: str, revision: str, root: Path) -> tuple[Path, str]:
    """Return the snapshot folder of a Hub id and the commit that ``revision`` names now.

    Raises:
        ConfigError: the Hub has no such model or revision.
        ResourceMissing: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *CHAT_TEMPLATE_FILES, "model*.safetensors", WEIGHTS_INDEX]
    hint = f"; a folder {name} lies in the project: write ./{name}" if (root / name).is_dir() else ""
    try:
        commit = revision if COMMIT.fullmatch(revision) else str(HfApi().model_info(name, revision=revision).sha)
    except RevisionNotFoundError:
        raise ConfigError(f"base.revision: {name} has no revision {shown(revision)} on the Hub") from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"base.source: no model {shown(name)} on the Hub, or it is private: `hf auth login`; a local folder starts "
            f"with ./ or /{hint}"
        ) from None
    except Exception as error:
        raise _unreachable(name, revision, hint, error) from None
    folder = hub_folder(name, commit, patterns, local=True)
    if folder is None or not list(folder.glob("*.safetensors")):
        folder = hub_folder(name, commit, patterns, local=False)
    if folder is None:
        raise _unreachable(name, commit, hint, None)
    return folder, commit


def _unreachable(name: str, revision: str, hint: str, error: Exception | None) -> ResourceMissing:
    reason = f" ({type(error).__name__})" if error else ""
    return ResourceMissing(
        f"base.source: {name} at {shown(revision)} cannot be looked up on the Hub{reason}: connect (HF_HUB_OFFLINE=0), "
        f"give base.revision as a commit that the local cache holds, or name a folder (./...) or package:...{hint}"
    )
