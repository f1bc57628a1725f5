"""The README and the guides name only commands, targets, files and keys that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

from graft.cli import GROUPS
from graft.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
for _group in GROUPS:
    importlib.import_module(f"graft.cli.{_group}")
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def code_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return "\n".join([*re.findall(r"```sh\n(.*?)```", text, re.S), *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_graft_command_and_option_exists(page: Path) -> None:
    for words in re.findall(r"(?:^|[\s/])graft((?: -C \S+)? [a-z]+[^\n#;&|`]*)", code_of(page), re.M):
        name, *arguments = re.sub(r"^ -C \S+", "", words).split()
        assert name in COMMANDS, f"{page.name}: graft {name}"
        command = COMMANDS[name]
        if inner := getattr(command, "commands", None):
            command = inner[arguments.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for argument in arguments:
            if re.fullmatch(r"--?[A-Za-z][\w-]*", argument) and argument != "--help":
                assert argument in known, f"{page.name}: graft {name} {argument}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w.-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in re.findall(r"(?:^|`)make ([^\n#`]+)", code_of(page), re.M):
        for word in line.split():
            assert "=" in word or word in targets or not re.fullmatch(r"[a-z][\w.-]*", word), (
                f"{page.name}: make {word}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
