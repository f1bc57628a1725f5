"""The stage graph: each stage's function, the params sections it gets, what it reads and what it writes.

``dvc.yaml`` is rendered from this table (``render``), and a test holds the two together. ``python -m graft stage NAME``
ends here without passing the CLI, so that a stage imports what it needs and nothing else.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, GraftError, shown
from graft.identity import LOCK_FILE, PLUGINS, code_of
from graft.orphans import end_with_parent
from graft.part_results import Round
from graft.workspace import PROFILE_VARIABLE, RESTORES_VARIABLE, Workspace

PINS = "sources.lock"
CONTRACT = "${validation.contract}"
"""In dvc.yaml, the contract file of a project that has one."""


@dataclass(frozen=True)
class Stage:
    """One stage. ``reads`` and ``writes`` are paths below the project; ``params`` are sections of params.yaml.

    ``pins`` are keys of sources.lock: a stage depends on what it reads of it, so that another champion, which validate
    compares the data with, is no reason to train again.
    """

    name: str
    does: str
    """What it does, in a line of help."""
    target: str
    params: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    pins: tuple[str, ...]
    parts: str = ""
    """The function in its module that yields the rounds of work on single parts, where it has any."""
    files: tuple[str, ...] = ()
    """Dotted params that may name a file which the stage reads."""

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    def load(self) -> Any:
        """Import and return the stage's function."""
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)


STAGES: tuple[Stage, ...] = (
    Stage(
        "validate",
        "hold every part file to the data contract",
        "graft.validation:validate",
        ("task", "data", "validation"),
        ("data",),
        ("artifacts/validation", "artifacts/data_docs", "artifacts/quarantine"),
        ("champion",),
        parts="part_rounds",
        files=("validation.contract",),
    ),
    Stage(
        "tokenize",
        "make token tables of the rows, and check them",
        "graft.tokenization:tokenize",
        ("task", "data", "base", "tokenization"),
        ("data", "artifacts/validation"),
        ("artifacts/tokens",),
        ("base",),
        parts="part_rounds",
    ),
    Stage(
        "train",
        "train the adapter on its frozen base",
        "graft.training:train",
        ("task", "base", "adapter", "training"),
        ("artifacts/tokens",),
        ("artifacts/adapter", "artifacts/training", "artifacts/repeats"),
        ("base", "init"),
    ),
    Stage(
        "evaluate",
        "score base and adapter on the test rows",
        "graft.evaluation:evaluate",
        ("task", "data", "base", "evaluation"),
        ("data", "artifacts/tokens", "artifacts/adapter", "artifacts/repeats"),
        ("artifacts/evaluation", "artifacts/cost"),
        ("base",),
        files=("evaluation.behaviour", "evaluation.forgetting.text"),
    ),
    Stage(
        "register",
        "pack the adapter, and prove in a fresh process that it loads",
        "graft.registration:register",
        ("task", "base", "registration"),
        ("artifacts/adapter",),
        ("artifacts/package",),
        ("base",),
    ),
)
METRICS = ("artifacts/evaluation/metrics.json",)
LOSS = {"loss": {"x": "step", "y": {"artifacts/training/curves.csv": "loss"}, "title": "Training loss"}}
SLICES = {
    "slices": {
        "x": "value",
        "y": {"artifacts/evaluation/plots/slices.csv": "slice"},
        "template": "bar_horizontal",
        "title": "The headline metric by slice (test)",
    }
}
"""The plots of every task; a task names its own."""


def get(name: str) -> Stage:
    """Return a stage by name.

    Raises:
        ConfigError: no such stage.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"stage {shown(name)}: there are {', '.join(stage.name for stage in STAGES)}")


def before(name: str) -> list[str]:
    """Return the names of the stages that come before one."""
    return [stage.name for stage in STAGES[: STAGES.index(get(name))]]


def run(name: str, workspace: Workspace) -> None:
    """Run one stage's function on the project's params.

    Raises:
        GraftError: whatever the stage refuses.
    """
    from graft import params

    stage = get(name)
    loaded = params.load(workspace.params)
    for path in stage.files:
        if unseen := unseen_file(workspace, path, attrgetter(path)(loaded)):
            raise ConfigError(unseen)
    stage.load()(workspace, **{section: getattr(loaded, section) for section in stage.params})


def unseen_file(workspace: Workspace, path: str, value: str | None) -> str | None:
    """Say that dvc.yaml does not name a file, so that DVC would not see it change; None where it does.

    Args:
        workspace: The project.
        path: The dotted param that names the file.
        value: The file's name; None where there is none.
    """
    from graft.config import read_yaml

    described = workspace.root / "dvc.yaml"
    if value is None or not described.is_file():
        return None
    stages = read_yaml(described)[0].get("stages") or {}
    watched = {
        dep for stage in STAGES if path in stage.files for dep in (stages.get(stage.name) or {}).get("deps") or ()
    }
    if {f"${{{path}}}", value} & watched:
        return None
    return f"{path}: dvc.yaml does not name {shown(value)}; {renewal(workspace)}"


def unseen_contract(workspace: Workspace, contract: str | None) -> str | None:
    """Say that dvc.yaml does not name the contract file; None where it does."""
    return unseen_file(workspace, "validation.contract", contract)


FILES = tuple(path for stage in STAGES for path in stage.files)
"""The dotted params that name a file."""


def named_files(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that params, as they stand in their file, name: dotted param -> path."""
    found = {}
    for path in FILES:
        value: Any = raw
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value:
            found[path] = str(value)
    return found


def nameless_files(project: Path) -> list[str]:
    """Return the dotted params that dvc.yaml takes a file's name from, and that params.yaml sets to null."""
    from graft.config import read_yaml

    text = (project / "dvc.yaml").read_text(encoding="utf-8")
    asked = [path for path in FILES if f"${{{path}}}" in text]
    if not asked:
        return []
    raw = read_yaml(project / "params.yaml")[0]
    named = named_files(raw)
    return [path for path in asked if path not in named and _is_there(raw, path)]


def _is_there(raw: Mapping[str, Any], path: str) -> bool:
    *sections, last = path.split(".")
    for key in sections:
        raw = raw.get(key) or {}
    return last in raw


def renewal(workspace: Workspace) -> str:
    """Say how dvc.yaml is written anew."""
    project = "" if workspace.name == "." else f" PROJECT={shlex.quote(workspace.name)}"
    return f"`make dvc.yaml{project}` writes it anew"


def rounds(name: str, workspace: Workspace) -> Iterator[Round]:
    """Yield what a stage makes of single parts with the project's params; nothing for a stage that takes all at once.

    A round whose results are needed must be complete before the next one is asked for.

    Raises:
        GraftError: whatever the stage refuses before it begins.
    """
    from graft import params

    stage = get(name)
    if stage.parts:
        loaded = params.load(workspace.params)
        function = getattr(importlib.import_module(stage.module), stage.parts)
        yield from function(workspace, **{section: getattr(loaded, section) for section in stage.params})


def main(arguments: list[str]) -> int:
    """``python -m graft stage NAME``: run one stage in the current project; return the exit code."""
    if arguments[1:] == ["--profile"] and arguments[0] == "train":
        os.environ[PROFILE_VARIABLE] = "1"
        arguments = arguments[:1]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(
            "usage: graft stage NAME, graft stage train --profile",
            *(f"  {stage.name:10} {stage.does}" for stage in STAGES),
            sep="\n",
        )
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    end_with_parent()
    # Deprecations inside the libraries are the maintainers' business (tests show them), not a user's.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        run(arguments[0], Workspace.find())
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if "DVC_STAGE" in os.environ and RESTORES_VARIABLE not in os.environ:  # DVC removes outputs before a stage runs
            print("hint: `dvc checkout` puts this stage's previous outputs back", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr, flush=True)
        return 75
    return 0


def render(project: Path, repository: Path, task: str | None = None, *, files: Collection[str] = ()) -> str:
    """Return the text of a project's dvc.yaml, with the plots of its task; paths to the code are relative to it.

    Args:
        project: The folder of the project.
        repository: The root of the code.
        task: Its task, ``None``: what its params.yaml says, also of the files that it names.
        files: The dotted params of its that name a file.
    """
    import yaml

    from graft import tasks
    from graft.config import read_yaml

    up = Path(os.path.relpath(repository, project)).as_posix()
    prefix = "" if up == "." else f"{up}/"
    if task is None:
        raw = read_yaml(project / "params.yaml")[0]
        task, files = _task_in(raw), named_files(raw)
    source = repository / "src"
    methods = source.joinpath(*PLUGINS.split("."))
    stages: dict[str, Any] = {}
    for stage in STAGES:
        modules = code_of(stage.module, source)
        # One dependency, so that a new adapter method, which is a new file there, changes nothing in dvc.yaml.
        deps = sorted({methods if path.is_relative_to(methods) else path for path in modules})
        code = [prefix + path.relative_to(repository).as_posix() for path in deps]
        # As a variable, so that an override of a file's name is followed.
        reads = [*stage.reads, *(f"${{{path}}}" for path in stage.files if path in files)]
        stages[stage.name] = {
            "cmd": f"sh {prefix}infra/python -m graft stage {stage.name}",
            "deps": [*reads, *code, f"{prefix}src/graft/tasks/${{task.name}}.py", f"{prefix}{LOCK_FILE}"],
            "params": [*stage.params, {PINS: list(stage.pins)}],
            "outs": list(stage.writes),
        }
    curves = tasks.get(task).curves if task in tasks.names() else ()
    document = {"stages": stages, "metrics": list(METRICS), "plots": [LOSS, SLICES, *(dict(one) for one in curves)]}
    head = "# Written by `make dvc.yaml` from src/graft/stages.py; a test holds the two together.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _task_in(raw: dict[str, Any]) -> str:
    """Return the task that a params file names."""
    task = raw.get("task")
    return str(task.get("name")) if isinstance(task, dict) else ""


if __name__ == "__main__":  # `make dvc.yaml`: python -m graft.stages render
    _workspace = Workspace.find()
    print(render(_workspace.root, _workspace.repository), end="")
