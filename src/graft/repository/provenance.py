"""Where data comes from, kept in data.dvc under ``meta``: what DVC leaves as it is, and git versions with the data."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from graft.workspace import write_text

KEY = "import"


def provenance(path: Path) -> dict[str, Any]:
    """Return what a .dvc file says about where its data comes from; empty where it says nothing."""
    content = None
    with contextlib.suppress(yaml.YAMLError, OSError):  # DVC names what is wrong with the file
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    meta = content.get("meta") if isinstance(content, dict) else None
    found = meta.get(KEY) if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else {}


def record(path: Path, found: Mapping[str, Any] | None) -> bool:
    """Write where the data comes from into a .dvc file; return whether that is new.

    None removes what was said of other data.
    """
    if provenance(path) == dict(found or {}):
        return False
    writer = _round_trip()
    content = writer.load(path.read_text(encoding="utf-8"))
    meta = content.setdefault("meta", {})
    meta.pop(KEY, None)
    if found:
        meta[KEY] = dict(found)
    if not meta:
        del content["meta"]
    text = io.StringIO()
    writer.dump(content, text)
    write_text(path, text.getvalue())
    return True


def described(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where data comes from, in words: its source with the commit, then the layouts of its conversations."""
    revision = f" at {found['revision'][:12]}" if "revision" in found else ""
    parts = [f"{name} {found[name]}" for name in ("config", "splits") if name in found]
    yield ", ".join([f"imported from {found.get('source', 'an unnamed source')}{revision}", *parts])
    layouts: dict[str, list[str]] = {}
    for name, layout in (found.get("layouts") or {}).items():
        layouts.setdefault(layout, []).append(name)
    yield from (f"layout of {', '.join(names)}: {layout}" for layout, names in layouts.items())


def _round_trip() -> Any:
    """Return YAML as DVC writes it, comments kept."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.width = 1 << 12
    return writer
