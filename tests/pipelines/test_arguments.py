"""The command line of the chain: what is an override, and where a run then works."""

from __future__ import annotations

from typing import Any

import pytest

from graft.errors import ConfigError
from graft.workspace import Workspace
from pipelines import arguments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=5", ("training.epochs", 5)),
        ("training.learning_rate=2.0e-3", ("training.learning_rate", 0.002)),
        ("adapter.target_modules=[query, value]", ("adapter.target_modules", ["query", "value"])),
        ("registration.description=a = b", ("registration.description", "a = b")),
        ("tracking.uri=", ("tracking.uri", None)),
    ],
)
def test_override_reads_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert arguments.override(text) == expected


@pytest.mark.parametrize("text", ["training.epochs", "=5", "  =5"])
def test_override_without_path_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a dotted path and a value"):
        arguments.override(text)


def test_override_with_broken_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.target_modules: not a YAML value"):
        arguments.override("adapter.target_modules=[query")


def test_a_plain_run_works_in_place_and_overrides_do_not(clone: Workspace) -> None:
    assert arguments._what_to_run(clone, "", {}) == ("", True)
    assert arguments._what_to_run(clone, "abc", {}) == ("abc", False)
    commit, in_place = arguments._what_to_run(clone, "", {"training.epochs": 5})
    assert not in_place
    assert len(commit) == 40


def test_bad_arguments_end_with_a_message(clone: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.finetune_main(["--project", str(clone.root), "--set", "epochs"]) == 2
    assert capsys.readouterr().err.startswith("error: --set: must be a dotted path")
