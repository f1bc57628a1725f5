"""A tiny git and DVC repository: two stages of one-line Python, data, a folder remote and a git remote, all local."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.repository import Repository
from graft.workspace import Workspace

DVC_YAML = """\
stages:
  first:
    cmd: sh run.sh first
    deps: [data, first.py]
    params: [training]
    outs: [artifacts/first]
  second:
    cmd: sh run.sh second
    deps: [artifacts/first, second.py]
    params: [adapter]
    outs: [artifacts/second]
"""
# ./trace counts the executions; it is no dep and no output.
RUN = 'echo "$1" >> "${TRACE:-/dev/null}"\nexec "$GRAFT_PYTHON" "$1.py"\n'
FIRST = """\
import pathlib, shutil, sys
text = pathlib.Path("data/train/a.txt").read_text()
out = pathlib.Path("artifacts/first")
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
if text.startswith("bad"):
    print("error: data/train/a.txt:1: text: expected good\\n  - found bad", file=sys.stderr)
    sys.exit(2)
(out / "upper.txt").write_text(text.upper())
(out / "count.txt").write_text(str(len(text)))
print("first: done")
"""
SECOND = """\
import pathlib
out = pathlib.Path("artifacts/second")
out.mkdir(parents=True, exist_ok=True)
(out / "result.txt").write_text(pathlib.Path("artifacts/first/upper.txt").read_text() * 2)
print("second: done")
"""
PARAMS = """\
# what is learnt
task:
  name: text_classification
base:
  source: ./base
adapter:
  method: lora
  r: 4  # the rank
training:
  seed: 7
  epochs: 2
registration:
  name: toy-topic
tracking:
  experiment: toy
"""
CONFIG = """\
[core]
    remote = shared
[cache]
    type = copy
['remote "shared"']
    url = ../../shared
['remote "sample"']
    url = ../sample
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "run.sh": RUN,
    "first.py": FIRST,
    "second.py": SECOND,
    "params.yaml": PARAMS,
    ".gitignore": "/data\n/artifacts\n/.graft\n",
    ".dvcignore": ".graft/\n",
    ".dvc/config": CONFIG,
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}


def run_git(folder: Path, *arguments: str) -> str:
    """Run git as a person with a name would."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a file, with its parents."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    """Return the function that runs git in a folder."""
    return run_git


@pytest.fixture(scope="session")
def write() -> Callable[[Path, str, str], None]:
    """Return the function that writes a file below a folder."""
    return write_text


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No git identity and no DVC settings of the person who runs the tests."""
    place = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        for name in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
            patch.setenv(f"DVC_{name}_DIR", str(place / name))
        patch.setenv("GRAFT_PYTHON", sys.executable)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, _own_settings: None) -> Path:
    """One committed repository with its data in DVC; tests copy it."""
    root = tmp_path_factory.mktemp("template") / "clone"
    for name, text in FILES.items():
        write_text(root, name, text)
    run_git(root.parent, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    run_git(root.parent, "init", "--quiet", "--initial-branch=main", str(root))
    write_text(root, "data/train/a.txt", "good text\n")
    write_text(root, "data/test/b.txt", "other text\n")
    Repository(Workspace(root)).add_data()
    run_git(root, "add", "-A")
    run_git(root, "commit", "--quiet", "-m", "start")
    run_git(root, "remote", "add", "origin", "../origin.git")
    run_git(root, "push", "--quiet", "origin", "main")
    return root.parent


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Workspace:
    """A copy of the template: ``tmp/clone``, its git remote ``tmp/origin.git``, its DVC remote ``tmp/shared``."""
    for part in ("clone", "origin.git"):
        shutil.copytree(template / part, tmp_path / part, symlinks=True)
    return Workspace(tmp_path / "clone")


@pytest.fixture
def repository(clone: Workspace) -> Repository:
    return Repository(clone)


@pytest.fixture
def second_clone(clone: Workspace, tmp_path: Path) -> Workspace:
    """Another clone of the same git remote, beside the first: the DVC remote is the same folder."""
    run_git(tmp_path, "clone", "--quiet", "origin.git", "second")
    return Workspace(tmp_path / "second")


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return the stages that were executed so far, in order."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("TRACE", str(trace))
    return lambda: trace.read_text().split() if trace.exists() else []


@pytest.fixture
def bring() -> Callable[[Repository, str], None]:
    """Return a function that runs a stage through DVC in this process: for what a test needs and is not about."""

    def run(repository: Repository, stage: str) -> None:
        with contextlib.chdir(repository.workspace.root):
            repository.dvc.reproduce(stage, force=False, pull=False)

    return run
