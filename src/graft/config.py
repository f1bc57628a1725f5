"""Typed, frozen configuration: what every section of params.yaml is made of.

Each module defines its own :class:`Section` beside the code that uses it; ``params.py`` assembles them. A file is
read once, with the line of every key, so that all its problems are reported together, each with ``file:line``, the
dotted path, the value received and the nearest known key.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from graft.errors import ConfigError, shown

Lines = dict[tuple[str | int, ...], int]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused. The docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line of every key.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, not a mapping, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `graft init` writes one") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: must be a mapping of sections")
    lines: Lines = {}
    repeated = list(_walk(node, (), lines))
    if repeated:
        raise ConfigError.from_problems(
            f"{path}: repeated keys", [f"{path}:{line}: {'.'.join(map(str, at))}: key given twice" for at, line in repeated]
        )
    return yaml.safe_load(text), lines


def _walk(node: yaml.Node, at: tuple[str | int, ...], lines: Lines) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*at, key)
            lines[here] = key_node.start_mark.line + 1
            if key in seen:
                yield here, lines[here]
            seen.add(key)
            yield from _walk(value_node, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            yield from _walk(item, (*at, index), lines)


def line_of(lines: Lines, at: tuple[str | int, ...]) -> int:
    """Return the line of the key at ``at``, or of its nearest parent; 1 where none is known."""
    for length in range(len(at), 0, -1):
        if at[:length] in lines:
            return lines[at[:length]]
    return 1


def validate(model: type[S], raw: Mapping[str, Any], *, source: str, lines: Lines | None = None) -> S:
    """Return ``raw`` as ``model``.

    Raises:
        ConfigError: with every problem found, each at ``source:line``.
    """
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        problems = problems_of(model, error, source=source, lines=lines or {})
        title = f"{source}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError.from_problems(title, problems) from None


def problems_of(model: type[BaseModel], error: ValidationError, *, source: str, lines: Lines) -> list[str]:
    """Turn pydantic's findings into one line each: place, dotted path, what is wrong, what to do."""
    found = []
    for item in error.errors(include_url=False):
        at = tuple(part for part in item["loc"] if not _is_union_tag(part, item["loc"], lines))
        place = f"{source}:{line_of(lines, at)}" if lines else source
        dotted = ".".join(map(str, at)) or "(top level)"
        if item["type"] == "extra_forbidden":
            near = _nearest(str(at[-1]), known_keys(model, at[:-1]))
            parent = ".".join(map(str, at[:-1]))
            advice = f"; did you mean `{parent + '.' if parent else ''}{near}`?" if near else "; `graft schema` lists the keys"
            found.append(f"{place}: {dotted}: unknown key{advice}")
        elif item["type"] == "missing":
            found.append(f"{place}: {dotted}: required, but not given")
        else:
            message = item["msg"].removeprefix("Value error, ")
            found.append(f"{place}: {dotted}: {message[:1].lower()}{message[1:]} (got {shown(item['input'])})")
    return found


def _is_union_tag(part: str | int, loc: tuple[str | int, ...], lines: Lines) -> bool:
    """Pydantic puts the tag of a discriminated union into ``loc``; no key of that name stands in the file."""
    index = loc.index(part)
    return bool(lines) and isinstance(part, str) and 0 < index < len(loc) - 1 and loc[: index + 1] not in lines and (
        loc[:index] in lines
    )


def known_keys(model: type[BaseModel], at: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the section at ``at`` below ``model``, over all members of a union."""
    models: list[type[BaseModel]] = [model]
    for part in at:
        models = [
            nested
            for one in models
            if isinstance(part, str) and part in one.model_fields
            for nested in _models_in(one.model_fields[part].annotation)
        ]
    return sorted({name for one in models for name in one.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _nearest(name: str, known: list[str]) -> str | None:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return matches[0] if matches else None
