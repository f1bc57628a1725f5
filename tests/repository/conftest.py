"""A tiny git and DVC repository: two stages of one-line Python, data, a folder remote and a git remote, all local."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.repository import Repository
from graft.workspace import Workspace
from tests.conftest import copied_clone, git, write_clone

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
    "data/train/a.txt": "good text\n",
    "data/test/b.txt": "other text\n",
}


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a file, with its parents."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session", name="git")
def _git() -> Callable[..., str]:
    """Return the function that runs git in a folder."""
    return git


@pytest.fixture(scope="session")
def write() -> Callable[[Path, str, str], None]:
    """Return the function that writes a file below a folder."""
    return write_text


@pytest.fixture(scope="session", autouse=True)
def _settings(own_settings: None) -> None:
    """Let no test of this folder see them."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, own_settings: None) -> Path:
    """One committed repository with its data in DVC; tests copy it."""
    root = tmp_path_factory.mktemp("template") / "clone"
    write_clone(root, FILES)
    return root.parent


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Workspace:
    """A copy of the template: ``tmp/clone``, its git remote ``tmp/origin.git``, its DVC remote ``tmp/shared``."""
    return copied_clone(template, tmp_path)


@pytest.fixture
def repository(clone: Workspace) -> Repository:
    return Repository(clone)


@pytest.fixture
def second_clone(clone: Workspace, tmp_path: Path) -> Workspace:
    """Another clone of the same git remote, beside the first: the DVC remote is the same folder."""
    git(tmp_path, "clone", "--quiet", "origin.git", "second")
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
