"""prefect.yaml: every deployment loads, has a typed form, belongs to a pool, and names no path and no secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from pipelines import deployments

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
DECLARED: dict[str, Any] = yaml.safe_load(TEXT)


@pytest.mark.parametrize("entrypoint", sorted({one["entrypoint"] for one in DECLARED["deployments"]}))
def test_every_parameter_of_a_flow_has_a_title_and_a_description(entrypoint: str) -> None:
    schema = parameter_schema(load_flow_from_entrypoint(str(ROOT / entrypoint))).model_dump()
    assert schema["properties"]
    for name, one in schema["properties"].items():
        assert one.get("description"), f"{entrypoint}: {name}"


def test_the_form_offers_nothing_that_touches_the_users_files() -> None:
    flow = load_flow_from_entrypoint(str(ROOT / "pipelines/finetune.py:finetune"))
    assert set(parameter_schema(flow).properties) - set(deployments.form(flow)["properties"]) == {
        "in_place",
        "add_data",
    }


def test_it_holds_no_path_of_a_machine_and_no_secret() -> None:
    lines = [line for line in TEXT.splitlines() if not line.strip().startswith("#")]
    assert not [line for line in lines if re.search(r"(^|\s|[\"'])(/|~/|[A-Z]:\\)", line)]
    assert not re.search(r"(password|token|secret|key)\s*:", TEXT, re.IGNORECASE)
    directory = DECLARED["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"]
    assert directory == "{{ $GRAFT_CLONE }}"


def test_there_is_a_nightly_run_and_each_pool_has_its_deployments() -> None:
    local = {
        (one["entrypoint"].rpartition(":")[2], one["name"]): one
        for one in deployments.deployments_of(DECLARED, "graft")
    }
    names = {("finetune", "on-demand"), ("finetune", "nightly"), ("promote", "decide"), ("approval_timer", "timer")}
    assert set(local) == names
    assert deployments._schedule(local["finetune", "nightly"]["schedules"][0]).schedule.cron == "0 2 * * *"
    assert [one["name"] for one in deployments.deployments_of(DECLARED, "gpu")] == ["gpu"]
    assert deployments.deployments_of(DECLARED, "a100") == [
        {"name": "a100", "entrypoint": "pipelines/stage.py:gpu_stage"}
    ]


def test_the_version_follows_the_file_and_the_flows(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "finetune.py").write_text("a = 1\n")
    (tmp_path / "prefect.yaml").write_text("name: x\n")
    first = deployments.version_of(tmp_path)
    assert deployments.version_of(tmp_path) == first
    (tmp_path / "pipelines" / "finetune.py").write_text("a = 2\n")
    second = deployments.version_of(tmp_path)
    (tmp_path / "prefect.yaml").write_text("name: y\n")
    assert len({first, second, deployments.version_of(tmp_path)}) == 3
