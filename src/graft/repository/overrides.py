"""Dotted overrides put into the text of a params.yaml, so that a run with overrides stands on a commit like any other.

Comments and order are kept (ruamel's round trip, which DVC itself uses for its files), so the commit's diff shows the
overrides and nothing else. The result is checked as a whole params file before anything runs.
"""

from __future__ import annotations

import io
import tempfile
import textwrap
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from graft.errors import ConfigError, shown


def checked(text: str, overrides: Mapping[str, Any]) -> str:
    """Return ``text`` with ``overrides`` put in, a valid params file; a contract file that it names is not read.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value is wrong.
    """
    from graft import params

    result = overridden(text, overrides)
    with tempfile.TemporaryDirectory(prefix="graft-params-") as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(result, encoding="utf-8")
        try:
            params.load_alone(path)
        except ConfigError as error:
            named = ", ".join(f"{name}={shown(value)}" for name, value in overrides.items())
            raise ConfigError(f"{f'overrides {named}: ' * bool(named)}{error}", problems=error.problems) from None
    return result


def overridden(text: str, overrides: Mapping[str, Any] | Mapping[tuple[str, ...], Any]) -> str:
    """Return ``text`` with each dotted path of ``overrides`` set to its value; absent sections are added.

    A path may be the tuple of its keys, where a key is a name from the data and has dots of its own.

    Raises:
        ConfigError: a path is empty, or leads through something that is not a section.
    """
    editor = _editor()
    document = editor.load(text) or editor.load("{}")
    for path, value in overrides.items():
        _set(document, path, editor.load(_plain(value)), lambda name: next(iter(editor.load(_plain({name: None})))))
    return _written(editor, document)


def alone(text: str, section: str, *, without: str) -> str:
    """Return a section of ``text`` as a document of its own, with its comments and ``without`` one of its keys."""
    editor = _editor()
    found: Any = editor.load(text).get(section) or {}
    found.pop(without, None)
    if not found:
        return ""
    found.fa.set_block_style()
    inside = _written(editor, {section: found}).split("\n", 1)[1]  # comments stay at the keys that they stand above
    return textwrap.dedent(inside).strip() + "\n"


def _editor() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor


def _written(editor: Any, document: Any) -> str:
    result = io.StringIO()
    editor.dump(document, result)
    return result.getvalue()


def without_files(text: str, paths: Collection[str]) -> str:
    """Return a dvc.yaml without the dependencies on files whose names the dotted params ``paths`` say."""
    editor = _editor()
    document = editor.load(text)
    for stage in document["stages"].values():
        for name in (f"${{{path}}}" for path in paths):
            if name in stage.get("deps", ()):
                stage["deps"].remove(name)
    return _written(editor, document)


def _plain(value: Any) -> str:
    """Return ``value`` as the YAML that a YAML 1.1 reader, like the one of params.yaml, reads back as ``value``."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=4096)


def _set(document: Any, path: str | tuple[str, ...], value: Any, quoted: Callable[[str], str]) -> None:
    *sections, last = path.split(".") if isinstance(path, str) else path
    dotted = ".".join([*sections, last])
    if not all([*sections, last]):
        raise ConfigError(f"override {shown(dotted)}: must be a dotted path such as training.epochs")
    here = document
    for depth, name in enumerate(sections):
        if here.get(name) is None:
            here[name] = {}
        here = here[name]
        if not isinstance(here, dict):
            above = ".".join(sections[: depth + 1])
            raise ConfigError(f"override {dotted}: `{above}` is a value ({shown(here)}), not a section")
    here[last if last in here else quoted(last)] = value
