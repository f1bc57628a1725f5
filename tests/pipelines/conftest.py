"""A clone with this checkout's flows and a chain of five stages that take no time: what is tested is the control plane.

Its stages are shell lines around a few words of Python; git and DVC remotes are folders beside it. The Prefect server
is a real one on the loopback address, with its own home.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from graft import runs, services
from graft.stages import STAGES
from graft.workspace import Workspace
from tests.conftest import copied_clone, write_clone

ROOT = Path(__file__).parents[2]
PARAMS = """\
task:
  name: text_classification
base:
  source: ./base
data: {}
validation: {}
tokenization: {}
adapter:
  method: lora
training:
  seed: 7
  epochs: 2
evaluation: {}
registration:
  name: toy
"""
# ./trace counts the executions; NAP makes a stage last; `bad` in its input makes it refuse.
STAGE = """\
import json, os, pathlib, sys, time
name, outs, *deps = sys.argv[1:]
if os.environ.get("TRACE"):
    with open(os.environ["TRACE"], "a") as file:
        file.write(f"{name} {os.getcwd()}\\n")
text = "".join(path.read_text() for dep in deps for path in sorted(pathlib.Path(dep).rglob("*")) if path.is_file())
print(f"{name}: {len(text)} characters", flush=True)
if "bad" in text:
    problem = "data/train/a.txt:1: text: expected good, found bad"
    docs = pathlib.Path(".graft/failed/validate/data_docs")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "index.html").write_text("refused")
    report = {"passed": False, "total": 1, "problems": [{"message": problem}], "checks": []}
    (docs.parent / "report.json").write_text(json.dumps(report))
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)
if name == "train" and os.environ.get("NAP"):
    pathlib.Path(os.environ["NAP"]).write_text(str(os.getpid()))
    time.sleep(120)
for out in outs.split(","):
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(out) / "result.txt").write_text(f"{name} " + text[:40])
"""


def dvc_yaml() -> str:
    """Return the real chain's stages, with their params and paths, around ``stage.py``."""
    lines = ["stages:"]
    for stage in STAGES:
        reads = [path for path in stage.reads if path != "sources.lock"]
        read = {path for one in STAGES for path in one.reads}
        outs = [path for number, path in enumerate(stage.writes) if number == 0 or path in read]
        lines += [
            f"  {stage.name}:",
            f"    cmd: $GRAFT_PYTHON stage.py {stage.name} {','.join(outs)} {' '.join(reads)}",
            f"    deps: [{', '.join(['stage.py', *reads])}]",
            f"    params: [{', '.join(stage.params)}]",
            f"    outs: [{', '.join(outs)}]",
        ]
    return "\n".join(lines) + "\n"


FILES = {
    "dvc.yaml": dvc_yaml(),
    "stage.py": STAGE,
    "params.yaml": PARAMS,
    ".gitignore": "/data\nartifacts/\n.graft/\n__pycache__/\n",
    ".dvcignore": ".graft/\n",
    ".dvc/config": "[core]\n    remote = shared\n['remote \"shared\"']\n    url = ../../shared\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    "data/train/a.txt": "good text\n",
}


@pytest.fixture(scope="session", autouse=True)
def _settings(own_settings: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, _settings: None) -> Path:
    """The committed clone with its data in DVC, and its git remote; tests copy it."""
    root = tmp_path_factory.mktemp("template") / "clone"
    for name in ("pipelines", "src"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "prefect.yaml", root / "prefect.yaml")
    write_clone(root, FILES)
    return root.parent


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Workspace:
    """A copy of the template: ``tmp/clone``, its git remote ``tmp/origin.git``, its DVC remote ``tmp/shared``."""
    return copied_clone(template, tmp_path)


class Api:
    """A Prefect server as seen from outside: plain HTTP, no client of Prefect's."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: Any) -> Any:
        return self._asked("POST", path, json=body)

    def get(self, path: str) -> Any:
        return self._asked("GET", path)

    def _asked(self, method: str, path: str, **body: Any) -> Any:
        for _ in range(20):
            answer = httpx.request(method, f"{self.url}/{path}", timeout=20, **body)
            if answer.status_code != 503:  # SQLite is locked for a moment; Prefect's own client tries again too
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json()

    def online(self, pool: str) -> set[str]:
        """Return the names of the workers of a pool that are there; none where there is no such pool."""
        try:
            found = self.post(f"work_pools/{pool}/workers/filter", {})
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            found = []
        return {one["name"] for one in found if one["status"] == "ONLINE"}

    def flow_run(self, identifier: str) -> dict[str, Any]:
        """Return a flow run as JSON."""
        found: dict[str, Any] = self.get(f"flow_runs/{identifier}")
        return found

    def resume(self, flow_run: str, form: dict[str, Any]) -> str:
        """Answer a form as the UI does; return ``ACCEPT`` or ``REJECT``."""
        status: str = self.post(f"flow_runs/{flow_run}/resume", {"run_input": form})["status"]
        return status

    def tasks(self, flow_run: str) -> dict[str, dict[str, Any]]:
        """Return the task runs of a flow run by name."""
        found = self.post("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 100})
        return {one["name"]: one for one in found}

    def outcomes(self, flow_run: str) -> dict[str, str]:
        """Return the names of the states of a flow run's tasks."""
        return {name: one["state_name"] for name, one in self.tasks(flow_run).items()}

    def messages(self, flow_run: str) -> list[str]:
        """Return the log lines of a flow run."""
        found = self.post("logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200})
        return [one["message"] for one in found]

    def artifacts(self, flow_run: str) -> dict[str, str]:
        """Return the artifacts of a flow run: key -> what they hold."""
        found = self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
        return {one["key"]: one["data"] for one in found}

    def cancel(self, flow_run: str) -> None:
        """Do what the UI's button does."""
        self.post(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory, _settings: None) -> Iterator[Api]:
    """A real Prefect server with scheduler, for all tests of a process."""
    place = Workspace(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(place.root / "prefect"))
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "1")
        server = services.start_prefect(place, port=services.free_port())
    try:
        server.wait()
        yield Api(server.url)
    finally:
        server.end()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(api: Api, clone: Workspace, tmp_path: Path) -> Iterator[Start]:
    """``start("pipelines.finetune", "--force", NAP=...)``: start a module in the clone, against the server."""
    started: list[subprocess.Popen[str]] = []

    def begin(module: str, *arguments: str, at: Workspace = clone, **environment: str) -> subprocess.Popen[str]:
        variables = {
            **os.environ,
            "PREFECT_API_URL": api.url,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PYTHONPATH": os.pathsep.join([str(at.root / "src"), str(at.root)]),
            "TRACE": str(tmp_path / "trace"),
            **environment,
        }
        with (tmp_path / f"{module}-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=at.root,
                env=variables,
                text=True,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


@pytest.fixture
def run(start: Start, clone: Workspace, tmp_path: Path) -> Callable[..., tuple[int, runs.Run, str]]:
    """``run("--force")``: run the chain to its end; return exit code, record and what it printed."""

    def finish(*arguments: str, at: Workspace = clone, **environment: str) -> tuple[int, runs.Run, str]:
        process = start("pipelines.finetune", "--no-publish", *arguments, at=at, **environment)
        code = process.wait(120)
        text = max(tmp_path.glob("pipelines.finetune-*.log"), key=lambda path: path.stat().st_mtime_ns).read_text()
        return code, runs.listed(at)[0], text

    return finish


@pytest.fixture
def executed(tmp_path: Path) -> Callable[[], list[str]]:
    """Return the stages that were executed so far, in order."""
    trace = tmp_path / "trace"
    return lambda: [line.split()[0] for line in trace.read_text().splitlines()] if trace.exists() else []


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """``until(true, seconds)``: poll until ``true()`` is something true; return it."""

    def poll(true: Callable[[], Any], seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while True:
            found = true()
            if found or time.monotonic() > end:
                return found
            time.sleep(0.1)

    return poll
