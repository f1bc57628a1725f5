"""Whether what is installed is what a lock file pins, and an environment that is."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graft.errors import IntegrityError, ResourceMissing
from graft.identity import digest_file
from graft.reproduction.environments import Environment, differences, environment_of_clone

PROJECT = '[project]\nname = "graft"\ndependencies = ["torch>=2", "dvc[s3]>=3", "plain"]\n'
LOCK = """\
# made by a tool
torch==2.13.0
dvc==3.67.1
dvc-s3==3.3.0
numpy==2.4.0 ; python_version < '3.12'
numpy==2.5.0 ; python_version >= '3.12'
ruff==1.0
typing_extensions==4.0
"""
INSTALLED = {
    "torch": ("2.13.0+cpu", ["numpy>=2", "colorama ; sys_platform == 'win32'"]),
    "dvc": ("3.67.1", ['dvc-s3 ; extra == "s3"', 'dvc-ssh ; extra == "ssh"', "Typing.Extensions"]),
    "dvc-s3": ("3.3.0", []),
    "numpy": ("2.4.0", []),
    "typing-extensions": ("4.0", []),
    "plain": ("9", []),
    "ruff": ("0.1", []),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "requirements.lock").write_text(LOCK)
    return tmp_path


def quiet(line: str) -> None:
    """Print nothing."""


def found(root: Path, python: str = "3.11.9", **changed: Any) -> list[tuple[str, str, str]]:
    installed = {**INSTALLED, **changed}
    return list(differences(root, python, {name: one for name, one in installed.items() if one}))


def test_what_is_pinned_is_there(root: Path) -> None:
    """Another build of torch is that torch; what the code does not need (ruff) may be another version."""
    assert found(root) == []


def test_other_versions_missing_ones_and_another_python_are_named(root: Path) -> None:
    assert found(root, numpy=("2.5.0", [])) == [("numpy", "2.4.0", "2.5.0")]
    assert found(root, **{"dvc-s3": None}) == [("dvc-s3", "3.3.0", "none")]
    assert found(root, **{"typing-extensions": ("4.1", [])}) == [("typing-extensions", "4.0", "4.1")]
    # The pin that holds for another Python is another one.
    assert found(root, "3.12.1") == [("numpy", "2.5.0", "2.4.0")]
    recorded = {"versions": {"python": "3.11"}}
    assert ("python", "3.11", "3.12.1") in differences(root, "3.12.1", INSTALLED, recorded)


def check(root: Path, recorded: dict[str, Any] | None = None, **options: bool) -> Environment:
    wanted = {"build": False, "whatever": False, **options}
    return environment_of_clone(root, recorded=recorded, on_line=quiet, **wanted)


def test_this_interpreter_is_asked(root: Path) -> None:
    (root / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["pydantic"]\n')
    version = importlib.metadata.version("pydantic")
    (root / "requirements.lock").write_text(f"pydantic=={version}\n")
    environment = check(root)
    assert (environment.differences, environment.lock) == ((), digest_file(root / "requirements.lock"))
    assert environment.version == "{}.{}.{}".format(*sys.version_info[:3])
    (root / "requirements.lock").write_text("pydantic==0.1\n")
    with pytest.raises(ResourceMissing, match=r"another environment than .*`--venv` builds it") as caught:
        check(root)
    assert caught.value.problems == (f"pydantic: the version's lock file pins 0.1, here is {version}",)
    assert check(root, whatever=True).differences == (("pydantic", "0.1", version),)


def test_another_lock_file_than_the_version_was_trained_with_is_refused(root: Path) -> None:
    with pytest.raises(IntegrityError, match=f"trained with sha256 {'0' * 64}, its commit holds"):
        check(root, {"environment": "0" * 64})


def test_no_lock_file_pins_nothing(tmp_path: Path) -> None:
    assert check(tmp_path).lock is None


def test_the_environment_is_built_by_the_script_of_the_commit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/code/of/this/checkout")
    script = (
        'echo "$3 [$PYTHONPATH]" > asked\nmkdir -p "$2/bin"\nprintf \'#!/bin/sh\\nexec "%s" "$@"\\n\' "$1" '
        '> "$2/bin/python"\nchmod +x "$2/bin/python"\necho made\n'
    )
    (root / "infra").mkdir()
    (root / "infra/install").write_text(script)
    said: list[str] = []
    recorded = {"base": {"quantization": "4bit"}}
    environment = environment_of_clone(root, recorded=recorded, build=True, whatever=False, on_line=said.append)
    assert environment.built
    assert environment.python == str(root / ".venv/bin/python")
    assert said == ["made"]
    assert (root / "asked").read_text() == "demo,quantized []\n"
    assert json.dumps(environment.as_json())
    (root / "infra/install").write_text("echo no such package >&2\nexit 3\n")
    with pytest.raises(ResourceMissing, match=r"failed \(exit code 3\): no such package"):
        environment_of_clone(root, recorded=None, build=True, whatever=False, on_line=quiet)


@pytest.mark.parametrize("code", [0, 1])
def test_the_set_up_says_how_far_it_is_and_what_is_wrong(tmp_path: Path, code: int) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\n[ "$3" = install ] || exit 0\n'
        "echo \"WARNING: Location 'file:///a' is ignored: it lacks a scheme\" >&2\n"
        f'echo "Installing collected packages: a, b, c"\necho "ERROR: no match" >&2\nexit {code}\n'
    )
    python.chmod(0o755)
    script = Path(__file__).parents[2] / "infra" / "install"
    done = subprocess.run(["sh", script, sys.executable, tmp_path, "demo"], capture_output=True, encoding="utf-8")
    assert done.returncode == 7 * code
    assert "\n  installing 3 packages\n" in done.stdout
    assert done.stderr == "ERROR: no match\n"


def test_a_commit_that_does_not_say_how_it_is_made_is_refused(root: Path) -> None:
    with pytest.raises(ResourceMissing, match=r"no requirements\.lock or no infra/install"):
        check(root, build=True)
