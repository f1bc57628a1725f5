"""params.yaml as a whole: the committed file loads, problems have their line, the schema knows every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from graft import params, tasks
from graft.errors import ConfigError
from graft.tasks import TaskConfig

ROOT = Path(__file__).parent.parent
SMALLEST = "task:\n  name: text_classification\nbase:\n  source: ./base\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_committed_params_load() -> None:
    loaded = params.load(ROOT / "params.yaml")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert loaded.training.learning_rate == raw["training"]["learning_rate"]
    assert loaded.task.name == raw["task"]["name"]


def test_smallest_file_gets_the_defaults(tmp_path: Path) -> None:
    loaded = params.load(write(tmp_path, SMALLEST))
    assert loaded.training == params.TrainingConfig()
    assert loaded.placement == {}


def test_missing_sections_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml: 2 problems") as caught:
        params.load(write(tmp_path, ""))
    assert sorted(caught.value.problems) == [
        "params.yaml: base: required, but not given",
        "params.yaml: task: required, but not given",
    ]


def test_problems_of_several_sections_have_their_lines(tmp_path: Path) -> None:
    text = SMALLEST + "training:\n  epoch: 3\n  seed: -1\nregistration:\n  name: a/b\nplacement:\n  trian: gpu\n"
    with pytest.raises(ConfigError, match="4 problems") as caught:
        params.load(write(tmp_path, text))
    places = sorted(": ".join(one.split(": ")[:2]) for one in caught.value.problems)
    assert places == [
        "params.yaml:11: placement.trian",
        "params.yaml:6: training.epoch",
        "params.yaml:7: training.seed",
        "params.yaml:9: registration.name",
    ]
    assert any("did you mean `training.epochs`" in one for one in caught.value.problems)


def test_unknown_task_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml:2: task\.name: must be .*text_classification"):
        params.load(write(tmp_path, SMALLEST.replace("text_classification", "text_clasification")))


def test_adapter_keys_go_to_the_method(tmp_path: Path) -> None:
    loaded = params.load(write(tmp_path, SMALLEST + "adapter: {method: lora, r: 4, target_modules: [query]}\n"))
    assert loaded.adapter.model_extra == {"r": 4, "target_modules": ["query"]}


class Ranking(TaskConfig):
    """A second task."""

    name: Literal["ranking"] = "ranking"
    depth: int


@pytest.fixture
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, type[TaskConfig]] = {
        "ranking": Ranking,
        "text_classification": tasks.config_class("text_classification"),
    }
    monkeypatch.setattr(tasks, "names", lambda: sorted(known))
    monkeypatch.setattr(tasks, "config_class", known.__getitem__)


@pytest.mark.usefixtures("two_tasks")
def test_each_task_has_its_own_keys(tmp_path: Path) -> None:
    loaded = params.load(write(tmp_path, "task: {name: ranking, depth: 3}\nbase: {source: ./base}\n"))
    assert isinstance(loaded.task, Ranking)
    assert loaded.model_dump()["task"] == {"name": "ranking", "depth": 3}
    with pytest.raises(ConfigError, match=r"params\.yaml:1: task\.detph: unknown key; did you mean `task\.depth`"):
        params.load(write(tmp_path, "task: {name: ranking, depth: 1, detph: 3}\nbase: {source: ./base}\n"))
    with pytest.raises(ConfigError, match=r"params\.yaml:3: task\.depth: unknown key"):
        params.load(write(tmp_path, "task:\n  name: text_classification\n  depth: 3\nbase: {source: ./base}\n"))


@pytest.mark.usefixtures("two_tasks")
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{name: rankin, depth: 1}", r"params\.yaml:1: task\.name: must be one of .*did you mean `ranking`"),
        ("{depth: 1}", r"params\.yaml:1: task\.name: required, but not given"),
        ("{name: [ranking]}", r"params\.yaml:1: task"),
        ("ranking", r"params\.yaml:1: task: must be"),
        ("", r"params\.yaml:1: task: must be"),
    ],
)
def test_task_that_cannot_be_found_out(tmp_path: Path, section: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        params.load(write(tmp_path, f"task: {section}\nbase: {{source: ./base}}\n"))


@pytest.mark.usefixtures("two_tasks")
def test_schema_of_several_tasks_is_told_apart_by_name() -> None:
    task = params.schema()["properties"]["task"]
    assert sorted(task["discriminator"]["mapping"]) == ["ranking", "text_classification"]


def described(node: Any, definitions: dict[str, Any], path: str = "") -> list[str]:
    """Return the dotted paths of all properties without a description."""
    missing = []
    node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for name, value in node.get("properties", {}).items():
        target = definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        if not (value.get("description") or target.get("description")):
            missing.append(f"{path}{name}")
        missing += described(value, definitions, f"{path}{name}.")
    return missing


def test_every_key_is_documented() -> None:
    schema = params.schema()
    assert described(schema, schema["$defs"]) == []


def test_schema_refuses_unknown_keys_everywhere_but_in_the_adapter() -> None:
    schema = params.schema()
    open_sections = [name for name, value in schema["$defs"].items() if value.get("additionalProperties", True)]
    assert open_sections in ([], ["AdapterConfig"])
    assert schema["additionalProperties"] is False


def test_schema_gives_each_adapter_method_peft_s_own_keys() -> None:
    import dataclasses

    from peft import IA3Config, LoraConfig

    entries = params.schema()["$defs"]["AdapterConfig"]["allOf"]
    by_method = {entry["if"]["properties"]["method"]["const"]: entry for entry in entries}
    assert by_method["lora"]["then"]["properties"]["lora_alpha"]["type"] == "integer"
    assert "required" not in by_method["lora"]["if"]  # the default method needs no `method:`
    assert by_method["ia3"]["if"]["required"] == ["method"]
    for name, config in (("lora", LoraConfig), ("ia3", IA3Config)):
        allowed = by_method[name]["then"]["propertyNames"]["enum"]
        assert set(allowed) - {"method"} <= {field.name for field in dataclasses.fields(config)}
        assert "target_modules" in allowed
        assert "peft_type" not in allowed


def test_committed_schema_is_the_printed_one() -> None:
    committed = (ROOT / "infra" / "params.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == params.schema(), "run `make schema`"


def test_committed_params_point_editors_to_the_schema() -> None:
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (ROOT / first.partition("=")[2]).is_file()
