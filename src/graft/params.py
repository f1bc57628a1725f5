"""params.yaml as a whole: the sections of all modules put together, and the JSON Schema that editors complete from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError

from graft import tasks
from graft.adapters import AdapterConfig, Key, keys, methods
from graft.base import BaseConfig
from graft.config import Section, read_yaml, validate
from graft.data import DataConfig
from graft.errors import ConfigError
from graft.evaluation import EvaluationConfig
from graft.promotion import PromotionConfig
from graft.registration import RegistrationConfig
from graft.tasks import TaskConfig
from graft.tokenization import TokenizationConfig
from graft.tracking import TrackingConfig
from graft.training import TrainingConfig
from graft.validation import ValidationConfig, with_contract

StageName = Literal["validate", "tokenize", "train", "evaluate", "register"]


class Params(Section):
    """One project: what is adapted, to what, how, and what happens with the result."""

    task: SerializeAsAny[TaskConfig]
    """What the model learns to do."""

    base: BaseConfig
    """The pretrained model."""

    data: DataConfig = DataConfig()
    """How part files are read."""

    validation: ValidationConfig = ValidationConfig()
    """What the data must be."""

    tokenization: TokenizationConfig = TokenizationConfig()
    """How rows become tokens."""

    adapter: AdapterConfig = AdapterConfig()
    """The adapter."""

    training: TrainingConfig = TrainingConfig()
    """The training loop."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """How the test split is scored."""

    registration: RegistrationConfig = RegistrationConfig()
    """The registered model."""

    promotion: PromotionConfig = PromotionConfig()
    """When a candidate becomes champion."""

    tracking: TrackingConfig = TrackingConfig()
    """Where runs are recorded."""

    placement: dict[StageName, str] = Field(default={})
    """Stage -> Prefect work pool that runs it (``{train: gpu}``); stages not named run where the flow runs."""


def load(path: Path) -> Params:
    """Read and validate a params file, and the contract file that it may name.

    Raises:
        ConfigError: with every problem, each at ``file:line`` with its dotted path.
    """
    loaded = load_alone(path)
    return loaded.model_copy(update={"validation": with_contract(loaded.validation, path.parent)})


def load_alone(path: Path) -> Params:
    """Read and validate a params file, without the contract file that it may name.

    Raises:
        ConfigError: with every problem, each at ``file:line`` with its dotted path.
    """
    raw, lines = read_yaml(path)
    return validate(_model_for(raw), raw, source=path.name, lines=lines)


def partial(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the sections that are right, by name, and every problem of the file.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    raw, lines = read_yaml(path)
    model = _model_for(raw)
    try:
        loaded = validate(model, raw, source=path.name, lines=lines)
    except ConfigError as error:
        sections, problems = dict(_valid_sections(model, raw)), list(error.problems)
    else:
        sections, problems = {name: getattr(loaded, name) for name in model.model_fields}, []
    if "validation" in sections:
        try:
            sections["validation"] = with_contract(sections["validation"], path.parent)
        except ConfigError as error:
            problems += error.problems or [str(error)]
            del sections["validation"]
    return sections, problems


def _valid_sections(model: type[Params], raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if name not in raw:
            if not field.is_required():
                yield name, field.get_default(call_default_factory=True)
            continue
        with contextlib.suppress(ValidationError):
            yield name, TypeAdapter[Any](field.annotation or Any).validate_python(raw[name])


def schema() -> dict[str, Any]:
    """Return the JSON Schema of params.yaml over all tasks and adapter methods; imports PEFT, whose keys those are."""
    result = TypeAdapter(_model(*tasks.names())).json_schema()
    adapter = result["$defs"]["AdapterConfig"]
    known = methods()
    adapter["properties"]["method"]["enum"] = known
    # Keys belong to a method, so each method says which ones it has: editors complete those and mark the others.
    adapter["allOf"] = [_method_schema(name) for name in known]
    return result


def _method_schema(name: str) -> dict[str, Any]:
    found = keys(name)
    method: dict[str, Any] = {"properties": {"method": {"const": name}}}
    if name != AdapterConfig.model_fields["method"].default:
        method["required"] = ["method"]
    described = {key: _key_schema(one) for key, one in found.items()}
    return {"if": method, "then": {"properties": described, "propertyNames": {"enum": ["method", *found]}}}


def _key_schema(key: Key) -> dict[str, Any]:
    plain = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    # PEFT's own words name the type; a printed Union is no text to keep: its order depends on what was imported before.
    entry: dict[str, Any] = {"description": key.description, "default": key.default}
    if key.type in plain:
        entry["type"] = plain[key.type]
    return entry


def _model_for(raw: dict[str, Any]) -> type[Params]:
    """Return ``Params`` with the task section of the task that ``raw`` names."""
    section = raw.get("task")
    name = section.get("name") if isinstance(section, dict) else None
    return _model(name) if isinstance(name, str) and name in tasks.names() else _model(*tasks.names())


def _model(*task_names: str) -> type[Params]:
    from functools import reduce
    from operator import or_
    from typing import Annotated

    from pydantic import Discriminator, create_model

    if not task_names:
        raise ConfigError("task.name: no task is installed")
    union: Any = reduce(or_, (tasks.config_class(name) for name in task_names))
    if len(task_names) > 1:
        union = Annotated[union, Discriminator("name")]
    field = Params.model_fields["task"]
    return create_model("Params", __base__=Params, __doc__=Params.__doc__, task=(union, field))
