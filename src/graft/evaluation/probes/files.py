"""Files of a project that the section ``evaluation`` names."""

from __future__ import annotations

from pathlib import Path

from graft.errors import ConfigError, shown
from graft.workspace import Workspace


def project_file(name: str, root: Path, key: str) -> Path:
    """Return the file that ``key``, a dotted path of params.yaml in ``root``, names.

    Raises:
        ConfigError: it is not there, or not in the repository, where the commit of a run would hold it.
    """
    path = Workspace(root).named(name, key)
    if not path.is_file():
        raise ConfigError(f"{key}: no such file {shown(name)}; it is looked for beside params.yaml")
    return path


def lines_of(path: Path, name: str, key: str) -> list[tuple[str, str]]:
    """Return place (``file:line``) and text of each line that is not blank.

    Raises:
        ConfigError: it is not UTF-8, or has no such line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {name} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    found = [
        (f"{name}:{number}", line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    if not found:
        raise ConfigError(f"{key}: {name} has no text; write one text on each line")
    return found
