"""From ``adapter: {method: ..., key: ...}`` to PEFT's configuration object, with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.adapters.adalora import OPEN_STEPS
from graft.adapters.section import AdapterConfig
from graft.adapters.tuners import register
from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    from peft import PeftConfig

OWN_KEYS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "new_head",
        "num_columns",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
    }
)
"""Keys of PEFT's classes that Graft fills in."""
REFUSED = {
    "multitask_prompt_tuning": "its batches need task ids",
    "poly": "its batches need task ids",
    "xlora": "it mixes adapters that must exist already",
}
TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""End of a transformers class name -> PEFT's task type; other classes have none."""


@dataclass(frozen=True)
class Key:
    """One key of a method, as PEFT declares it."""

    name: str
    type: str
    default: Any
    description: str


def methods() -> list[str]:
    """Return the names of the methods that can be used here, in lower case."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    register()
    return sorted({str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - REFUSED.keys())


def keys(method: str) -> dict[str, Key]:
    """Return the keys of a method, by name, in PEFT's order.

    Raises:
        ConfigError: PEFT has no such method, or it cannot be used here.
    """
    return {
        field.name: Key(field.name, str(field.type), _default(field), _help(field))
        for field in dataclasses.fields(_config_class(method))
        if field.name not in OWN_KEYS
    }


def peft_config(adapter: AdapterConfig, *, task_type: str | None = None, new_modules: Sequence[str] = ()) -> PeftConfig:
    """Return PEFT's configuration of ``adapter``.

    ``new_modules`` (a fresh classifier head) always go to ``modules_to_save``: PEFT would otherwise leave them out of
    the adapter's file, and a reload would start from new random weights without a word.

    Raises:
        ConfigError: with every unknown key and wrong value, each with its dotted path.
    """
    config_class = _config_class(adapter.method)
    known = keys(adapter.method)
    problems = [_unknown(name, adapter.method, list(known)) for name in adapter.keys if name not in known]
    problems += list(_wrong_types(config_class, {name: adapter.keys[name] for name in adapter.keys if name in known}))
    if new_modules and "modules_to_save" not in known:
        problems.append(
            f"adapter.method: {shown(adapter.method)} cannot save modules that are new ({', '.join(new_modules)}), "
            f"which this task adds; choose a method that can, such as lora"
        )
    if problems:
        raise ConfigError.from_problems(f"adapter: {len(problems)} problem{'s' if len(problems) > 1 else ''}", problems)
    given = dict(adapter.keys)
    if adapter.method == "adalora":
        given.setdefault("total_step", OPEN_STEPS)
    if adapter.method == "cpt":  # it exists for one type alone, and refuses to be made without
        task_type = task_type or "CAUSAL_LM"
    if new_modules:
        given["modules_to_save"] = sorted({*(given.get("modules_to_save") or ()), *new_modules})
    try:
        return config_class(**given, task_type=task_type)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"adapter: {_sentence(error)}; correct the keys of `{adapter.method}`") from None


def task_type_of(model_class: str) -> str | None:
    """Return PEFT's task type of a transformers class name, None where PEFT has none."""
    return next((kind for end, kind in TASK_TYPES.items() if model_class.endswith(end)), None)


def _config_class(method: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    register()
    by_name = {str(kind.value).lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if method in REFUSED:
        raise ConfigError(f"adapter.method: {shown(method)} cannot be trained here: {REFUSED[method]}")
    if method not in by_name:
        near = difflib.get_close_matches(method.lower(), by_name, n=1)
        advice = f"did you mean `{near[0]}`?" if near else f"PEFT has {', '.join(methods())}"
        raise ConfigError(f"adapter.method: no method {shown(method)}; {advice}")
    return by_name[method]


def _unknown(name: str, method: str, known: list[str]) -> str:
    if name in OWN_KEYS:
        return f"adapter.{name}: Graft fills this key in; leave it out"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean `adapter.{near[0]}`?" if near else f"`{method}` has {', '.join(sorted(known))}"
    return f"adapter.{name}: unknown key; {advice}"


def _wrong_types(config_class: Any, given: dict[str, Any]) -> typing.Iterator[str]:
    """Yield the values that do not fit PEFT's annotation of their key, where that annotation can be evaluated."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        hints = typing.get_type_hints(config_class)
    except (NameError, TypeError):
        return
    for name, value in given.items():
        if "number of iters" in str(hints[name]):  # PEFT documents a pattern as if it were a literal
            continue
        try:
            made = TypeAdapter(hints[name]).validate_python(value)
        except PydanticUserError:
            continue
        except ValidationError as error:
            wanted = dict.fromkeys(_lowered(item["msg"]) for item in error.errors(include_url=False))
            yield f"adapter.{name}: {', or '.join(wanted)} (got {shown(value)})"
            continue
        # PEFT takes the value as it is: what pydantic would make of "8" or 8.0 is what has to be written.
        if _differs(value, made):
            yield f"adapter.{name}: {shown(value)} is of another type than the key; write {_as_yaml(made)}"


def _differs(given: Any, made: Any) -> bool:
    """Return whether a value, or one inside it, became one of another type (an integer is a number too)."""
    if isinstance(given, list) and isinstance(made, list | tuple):
        return any(map(_differs, given, made))
    if isinstance(given, dict) and isinstance(made, dict):
        return any(map(_differs, [*given, *given.values()], [*made, *made.values()]))
    if type(given) is int and type(made) is float:
        return False
    return isinstance(given, bool | int | float | str) and not isinstance(made, type(given))


def _as_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(_plain(value), default_flow_style=True, width=1000)).removesuffix("\n...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _help(field: Any) -> str:
    return " ".join(str(field.metadata.get("help", "")).split())


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return getattr(field.default, "value", field.default)
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return made if isinstance(made, dict | list | str | int | float | bool | None) else None


def _sentence(error: Exception) -> str:
    return _lowered(" ".join(str(error).split()).rstrip("."))


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
