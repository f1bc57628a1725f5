"""Typed, frozen configuration: what every section of params.yaml is made of.

Each module defines its own :class:`Section` beside the code that uses it; ``params.py`` assembles them. A file is
read once, with the line of every key, so that all its problems are reported together, each with ``file:line``, the
dotted path, the value received and the nearest known key.
"""

from __future__ import annotations

import datetime
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Lines = dict[tuple[str | int, ...], int]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused. The docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, data: Any) -> Any:
        """Let ``seed: yes`` be refused, which Python (and so pydantic) takes for 1."""
        if not isinstance(data, dict) or not any(isinstance(value, bool) for value in data.values()):
            return data
        fields = cls.model_fields
        return {
            key: _TruthValue(value) if isinstance(value, bool) and key in fields and _is_number(fields[key]) else value
            for key, value in data.items()
        }


@dataclass(frozen=True)
class _TruthValue:
    """A truth value where a number belongs: no number, and shown as what the user wrote."""

    value: bool

    def __repr__(self) -> str:
        return repr(self.value)


def _is_number(field: FieldInfo) -> bool:
    members = {field.annotation, *typing.get_args(field.annotation)}
    return bool({int, float} & members) and bool not in members


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and the line of every key.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, not a mapping, or repeats a key.
    """
    node, value = _parse(path, _text(path))
    if value is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(value, dict):
        raise ConfigError(f"{path}:1: must be a mapping of sections")
    lines: Lines = {}
    repeated = list(_walk(node, (), lines, set()))
    if repeated:
        found = [f"{path}:{line}: {'.'.join(map(str, at))}: key given twice" for at, line in repeated]
        raise ConfigError.from_problems(f"{path}: repeated keys", found)
    return value, lines


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `graft init` writes one") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check what it is and its permissions") from None


def _parse(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """Return the tree of nodes, which knows the lines, and the value."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # a date or number in YAML's notation that cannot be, such as 2024-13-45
        raise ConfigError(f"{path}: not valid YAML: {error}; quote text that looks like a date or a number") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def _walk(
    node: yaml.Node, at: tuple[str | int, ...], lines: Lines, visited: set[int]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Fill ``lines`` and yield repeated keys. An alias (``*name``) is walked once, where its anchor stands."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*at, key)
            lines[here] = key_node.start_mark.line + 1
            if key in seen:
                yield here, lines[here]
            seen.add(key)
            yield from _walk(value_node, here, lines, visited)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            yield from _walk(item, (*at, index), lines, visited)


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
        problems = problems_of(model, error, raw, source=source, lines=lines or {})
        title = f"{source}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError.from_problems(title, problems) from None


def problems_of(
    model: type[BaseModel], error: ValidationError, raw: Mapping[str, Any], *, source: str, lines: Lines
) -> list[str]:
    """Turn pydantic's findings into one line for each key: place, dotted path, what is wrong, what to do."""
    found: dict[tuple[str | int, ...], str] = {}
    for item in error.errors(include_url=False):
        at = _path(item, raw)
        what = _what(model, item, at)
        received = "" if item["type"] in _WITHOUT_VALUE else f" (got {shown(_input(item))})"
        if at in found:  # the members of a union refuse one value, each in its own words
            found[at] = f"{found[at].removesuffix(received)}, or {what}{received}"
        else:
            found[at] = f"{what}{received}"
    places = {at: f"{source}:{line_of(lines, at)}" if lines else source for at in found}
    return [f"{places[at]}: {'.'.join(map(str, at)) or '(top level)'}: {text}" for at, text in found.items()]


_WITHOUT_VALUE = ("extra_forbidden", "missing", "union_tag_not_found")


def _path(item: ErrorDetails, raw: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return the keys of a finding as they stand in ``raw``.

    Pydantic's ``loc`` also holds the tag of a union's member, which is no key of the file; a missing key is kept.
    """
    path: list[str | int] = []
    value: Any = raw
    for index, part in enumerate(item["loc"]):
        if isinstance(value, Mapping):
            known = {str(key): key for key in value}
            if str(part) in known:
                path.append(part)
                value = value[known[str(part)]]
            elif index == len(item["loc"]) - 1 and item["type"] == "missing":
                path.append(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(_discriminator(item))
    return tuple(path)


def _what(model: type[BaseModel], item: ErrorDetails, at: tuple[str | int, ...]) -> str:
    match item["type"]:
        case "extra_forbidden":
            near = nearest_key(model, at)
            return f"unknown key; did you mean `{near}`?" if near else "unknown key; `graft schema` lists the keys"
        case "missing" | "union_tag_not_found":
            return "required, but not given"
        case "union_tag_invalid":
            context = item["ctx"]
            known = context["expected_tags"].replace("'", "").split(", ")
            near = nearest(str(context["tag"]), known)
            return f"must be one of {', '.join(known)}" + (f"; did you mean `{near}`?" if near else "")
        case "string_type" if isinstance(item["input"], (bool, int, float, datetime.date)):
            return "must be text: YAML reads this value as something else, so put it in quotes"
        case "model_type":
            return "must be a mapping of keys"
        case "recursion_loop":
            return "must not contain itself"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = "must " + message.removeprefix("should ") if message.startswith("should ") else message
    return message[:1].lower() + message[1:]


def _input(item: ErrorDetails) -> Any:
    """Return the value received; of a union the tag alone, which is what is wrong."""
    return item["ctx"]["tag"] if item["type"] == "union_tag_invalid" else item["input"]


def _discriminator(item: ErrorDetails) -> str:
    return str(item["ctx"]["discriminator"]).strip("'")


def nearest_key(model: type[BaseModel], at: tuple[str | int, ...]) -> str | None:
    """Return the dotted path of the known key that an unknown key at ``at`` most likely means, or None.

    A near miss in the same section comes first, then the same name in another section.
    """
    name, parent = str(at[-1]), at[:-1]
    siblings = known_keys(model, parent)
    typo = nearest(name, siblings, 0.75)
    elsewhere = next((field for field in model.model_fields if name in known_keys(model, (field,))), None)
    if typo is None and elsewhere is not None:
        return f"{elsewhere}.{name}"
    near = typo or nearest(name, siblings)
    return ".".join(map(str, (*parent, near))) if near else None


def known_keys(model: type[BaseModel], at: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the section at ``at`` below ``model``, over all members of a union.

    Positions in a list and keys of a mapping stand for any of its sections.
    """
    models: list[type[BaseModel]] = [model]
    for part in at:
        holding = [one for one in models if isinstance(part, str) and part in one.model_fields]
        if holding:
            models = [nested for one in holding for nested in _models_in(one.model_fields[str(part)].annotation)]
    return sorted({name for one in models for name in one.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def nearest(name: str, known: Sequence[str], cutoff: float = 0.5) -> str | None:
    """Return which of the ``known`` names is most like ``name``, for a message; None where none is."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return matches[0] if matches else None
