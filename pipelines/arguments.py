"""The command lines of the flows, read before Prefect is imported: ``graft run`` and others start them as processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from graft.errors import ConfigError, GateRefused, GraftError, shown
from graft.workspace import Workspace
from pipelines.launch import launch, said

REFUSED = ("Kept", "Waiting")
"""The states of a promotion after which the candidate is not champion."""


def override(text: str) -> tuple[str, Any]:
    """Return the dotted path and the YAML value of ``training.epochs=5``.

    Raises:
        ConfigError: not of that form.
    """
    path, separator, value = text.partition("=")
    if not (separator and path.strip()):
        raise ConfigError(f"--set: must be a dotted path and a value, `training.epochs=5`, got {shown(text)}")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set: {path.strip()}: not a YAML value: {shown(value)}") from None


def finetune_main(arguments: Sequence[str]) -> int:
    """Run the flow ``finetune`` once in this process; return the exit code."""
    given = _finetune_parser().parse_args(arguments)
    try:
        workspace = Workspace.find(Path(given.project))
        overrides = dict(override(text) for text in given.set)
        commit, in_place = _what_to_run(workspace, given.commit, overrides)
    except GraftError as error:
        return said(f"error: {error}", error.exit_code)

    parameters = {
        "project": workspace.name,
        "overrides": overrides,
        "force": given.force,
        "commit": commit,
        "in_place": in_place,
        "add_data": given.add_data,
        "pull": given.pull,
        "push": given.push,
        "publish": given.publish,
        "profile": given.profile,
    }

    def load() -> Callable[[], int]:
        from pipelines.finetune import finetune

        return lambda: finetune(**parameters) or 0

    return launch(workspace, load)


def _what_to_run(workspace: Workspace, commit: str, overrides: dict[str, Any]) -> tuple[str, bool]:
    """Return the commit and whether the run works in place: overrides leave the user's params.yaml as it is."""
    if not commit and not overrides:
        return "", True
    from graft.repository import Repository

    return commit or Repository(workspace).snapshot(), False


def _finetune_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.finetune", description="Run the chain once.")
    parser.add_argument("--project", default=".", help="the project's folder (default: here, or the nearest above)")
    parser.add_argument(
        "--set", "-S", action="append", default=[], metavar="KEY=VALUE", help="override a parameter for this run"
    )
    parser.add_argument("--commit", default="", help="run this commit in a worktree, not the files as they are")
    parser.add_argument("--force", action="store_true", help="run every stage though it is current")
    parser.add_argument("--add-data", action="store_true", help="record changed data in data.dvc")
    parser.add_argument("--pull", action="store_true", help="take results that the DVC remote's run cache has")
    parser.add_argument("--push", action="store_true", help="push outputs, run cache and commit at the end")
    parser.add_argument("--profile", action="store_true", help="train, and say where its time goes")
    parser.add_argument("--no-publish", dest="publish", action="store_false", help="leave MLflow out of it")
    return parser


def promote_main(arguments: Sequence[str]) -> int:
    """Run the flow ``promote`` once in this process; return the exit code, 3 for a refusal."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.promote", description="Decide on the candidate.")
    parser.add_argument("--project", default=".", help="the project's folder")
    parser.add_argument("--approve", action="store_true", help="overrule a refusal; needs --reason")
    parser.add_argument("--reason", default="", help="why, in one sentence")
    parser.add_argument("--who", default="", help="who decides (default: the user of the process)")
    given = parser.parse_args(arguments)
    try:
        workspace = Workspace.find(Path(given.project))
    except GraftError as error:
        return said(f"error: {error}", error.exit_code)

    def load() -> Callable[[], int]:
        from pipelines.promote import promote

        choice = {"approve": given.approve, "reason": given.reason, "who": given.who}
        return lambda: GateRefused.exit_code if promote(project=workspace.name, **choice).name in REFUSED else 0

    return launch(workspace, load)
