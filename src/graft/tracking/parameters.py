"""Params sections as MLflow parameters: flat, short, without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_VALUE_CHARACTERS = 1000
"""MLflow's own limit is 6000 characters; over it, SQLite stores cut silently and servers refuse."""

SECRET = re.compile(r"passw|secret|credential|api_?key|access_?key|(^|[._])token$|private_?key", re.IGNORECASE)


def flat(sections: Mapping[str, Any]) -> dict[str, str]:
    """Return ``{dotted path: value}`` of nested sections; lists stay one value, None is left out."""
    return {path: _text(path, value) for path, value in _leaves(sections, "")}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{path}.")
        elif inner is not None:
            yield re.sub(r"[^\w./ -]", "_", path), inner


def _text(path: str, value: Any) -> str:
    if SECRET.search(path):
        return "(not recorded)"
    text = json.dumps(list(value), ensure_ascii=False) if isinstance(value, list | tuple) else str(value)
    text = re.sub(r"//([^/:@\s]+):[^/@\s]+@", r"//\1:…@", text)
    if len(text) <= LONGEST_VALUE_CHARACTERS:
        return text
    mark = f"… [cut, {len(text)} characters]"
    return text[: LONGEST_VALUE_CHARACTERS - len(mark)] + mark
