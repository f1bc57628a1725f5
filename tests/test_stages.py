"""The stage graph: dvc.yaml, the stages' signatures, the imports and the table agree."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from graft import params, stages, tasks
from graft.errors import ConfigError
from graft.identity import DISPATCHERS, _imports_of, code_of
from graft.stages import STAGES, Stage
from graft.workspace import Workspace

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
INPUTS = {"data", "sources.lock"}
by_name = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def test_committed_dvc_yaml_is_the_rendered_one() -> None:
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == stages.render(ROOT, ROOT), "run `make dvc.yaml`"


ADAPTERS = "../../src/graft/adapters"
"""One dependency: a new file in it, an adapter method, changes no dvc.yaml."""


def test_render_of_a_project_points_up_to_the_code(tmp_path: Path) -> None:
    document = yaml.safe_load(stages.render(ROOT / "projects" / "reviews", ROOT, task="text_classification"))
    train = document["stages"]["train"]
    assert train["cmd"] == "sh ../../infra/python -m graft stage train"
    assert "../../src/graft/training/__init__.py" in train["deps"]
    assert "../../src/graft/tasks/${task.name}.py" in train["deps"]
    assert "../../requirements.lock" in train["deps"]
    assert "artifacts/tokens" in train["deps"]
    for one in train["deps"]:
        path = (ROOT / "projects" / "reviews" / one).resolve()
        assert "${" in one or one in stages.get("train").reads or path.is_file() or one == ADAPTERS
    assert [one for one in train["deps"] if "/adapters" in one] == [ADAPTERS]


@by_name
def test_signature_takes_the_params_sections(stage: Stage) -> None:
    signature = inspect.signature(stage.load())
    first, *rest = signature.parameters.values()
    assert first.name == "workspace"
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {one.name for one in rest} == set(stage.params)
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is one.empty for one in rest)


@by_name
def test_function_is_named_by_the_verb(stage: Stage) -> None:
    assert stage.load().__name__ == stage.name


@by_name
def test_params_sections_exist(stage: Stage) -> None:
    assert set(stage.params) <= set(params.Params.model_fields)


def test_stage_names_are_those_that_placement_knows() -> None:
    assert tuple(stage.name for stage in STAGES) == params.StageName.__args__  # type: ignore[attr-defined]


@by_name
def test_what_a_stage_reads_was_written_before_it(stage: Stage) -> None:
    before = [path for one in STAGES[: STAGES.index(stage)] for path in one.writes]
    assert set(stage.reads) <= INPUTS | set(before)


def test_no_output_is_written_twice_or_inside_another() -> None:
    outputs = [path for stage in STAGES for path in stage.writes]
    assert len(outputs) == len(set(outputs))
    assert not [(one, two) for one in outputs for two in outputs if one != two and f"{two}/".startswith(f"{one}/")]


def test_outputs_are_the_workspace_s_places() -> None:
    workspace = Workspace(ROOT)
    places = {
        getattr(workspace, name).relative_to(ROOT).as_posix()
        for name in (
            *("validation", "data_docs", "quarantine", "tokens"),
            *("adapter", "training", "repeats", "evaluation", "cost", "package"),
        )
    }
    assert {path for stage in STAGES for path in stage.writes} == places


def test_metrics_and_plots_lie_in_stage_outputs() -> None:
    outputs = tuple(f"{path}/" for stage in STAGES for path in stage.writes)
    plots = [stages.LOSS, stages.SLICES, *(plot for name in tasks.names() for plot in tasks.get(name).curves)]
    plotted = [path for plot in plots for one in plot.values() for path in one["y"]]
    assert all(path.startswith(outputs) for path in [*stages.METRICS, *plotted])


def test_plots_are_the_loss_and_those_of_the_project_s_task(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("task: {name: text_classification}\n")
    document = yaml.safe_load(stages.render(tmp_path, ROOT))
    assert document["plots"] == [stages.LOSS, stages.SLICES, *map(dict, tasks.get("text_classification").curves)]
    (tmp_path / "params.yaml").write_text("task: {name: not-there-yet}\n")
    assert yaml.safe_load(stages.render(tmp_path, ROOT))["plots"] == [stages.LOSS, stages.SLICES]


@by_name
def test_code_holds_every_module_that_importing_the_stage_loads(stage: Stage) -> None:
    code = f"import json, sys, {stage.module}\nprint(json.dumps([m for m in sys.modules if m.startswith('graft')]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        Path(importlib.util.find_spec(name).origin or "")  # type: ignore[union-attr]
        for name in json.loads(done.stdout.splitlines()[-1])
        if name not in DISPATCHERS and not (name.startswith("graft.tasks.") and name.count(".") == 2)
    }
    assert loaded <= set(code_of(stage.module, SOURCE))


@by_name
def test_stage_depends_on_no_door(stage: Stage) -> None:
    """A stage that depended on the CLI, on git or on the registry would run again for changes that cannot matter."""
    names = {path.relative_to(SOURCE / "graft").parts[0].removesuffix(".py") for path in code_of(stage.module, SOURCE)}
    doors = {"cli", "checks", "projects", "services", "housekeeping", "repository", "reproduction", "publication"}
    assert not names & doors


@by_name
@pytest.mark.parametrize("task", tasks.names())
def test_task_file_imports_nothing_that_the_stage_does_not_depend_on(stage: Stage, task: str) -> None:
    """Only the task file itself is a dep beside the stage's code, so what it imports must be in there already."""
    path = SOURCE / "graft" / "tasks" / f"{task}.py"
    needed = {one for name in set(_imports_of(path, SOURCE)) - {f"graft.tasks.{task}"} for one in code_of(name, SOURCE)}
    assert needed <= set(code_of(stage.module, SOURCE))


def test_unknown_stage_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"stage 'trian': there are validate, tokenize, train, evaluate, register"):
        stages.get("trian")


def run_stage(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graft", "stage", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_stage_outside_a_project_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    done = run_stage(tmp_path, "validate")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_stage_with_a_bad_key_reports_it_before_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("task: {name: text_classification}\nbase: {source: ./b}\ntrainning: {}\n")
    done = run_stage(tmp_path, "train")
    assert done.returncode == 2
    assert "params.yaml:3: trainning: unknown key; did you mean `training`?" in done.stderr


def test_stage_usage(tmp_path: Path) -> None:
    usage, *lines = run_stage(tmp_path, "--help").stdout.splitlines()
    assert usage == "usage: graft stage NAME, graft stage train --profile"
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert all(stage.does in line for stage, line in zip(STAGES, lines, strict=True))
    assert run_stage(tmp_path).returncode == 2


def test_stage_dies_with_its_parent(tmp_path: Path) -> None:
    child = (
        "import time\nfrom graft.orphans import end_with_parent\nend_with_parent()\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, os, signal\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
