"""What the chain costs when there is nothing to compute: ten rows, a tiny model, all of it is overhead.

In one run, interleaved: ``graft run`` in a fresh clone (five stages, snapshots, caching, reload proof, publication, a
promotion decision) and ``naive_chain.py`` (the stock stack in one script); then a no-op ``graft run`` beside
``dvc status``. Prints CPU seconds (of the whole process tree, by the kernel's accounting of children) and wall seconds,
medians, their ratios, and where ours go.

    .venv/bin/python benchmarks/overhead.py [--repeats 3] [--no-op-repeats 7]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROWS = {"train": 6, "validation": 2, "test": 2}
LIBRARIES = ("torch", "transformers", "peft", "great-expectations", "prefect", "mlflow", "dvc")


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds of one command."""

    cpu: float
    wall: float


def measure(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> Cost:
    """Run a command to its end and return its cost; a failure prints the end of its log."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("ab") as file:
        code = subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file, check=False).returncode
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        sys.exit(f"{' '.join(command)} exited with {code}:\n{log.read_text(errors='replace')[-2000:]}")
    return Cost(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall)


def fresh_project(folder: Path, environment: dict[str, str]) -> None:
    """Clone the repository and put the ten rows and the tiny base in the demo's place."""
    from tests.conftest import overridden, toy_rows, write_rows, write_tiny_base

    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True, env=environment)
    for seed, (split, count) in enumerate(ROWS.items()):
        write_rows(folder / "data" / split / "part-0000.jsonl", toy_rows(count, seed))
    write_tiny_base(folder / "base")
    params = overridden({"validation": {}, "data": {}, "evaluation": {"resamples": 100}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "graft", "lock"], cwd=folder, check=True, env=environment, capture_output=True
    )
    (folder / "data.dvc").unlink()
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=folder, check=True, env=environment)


def line(name: str, ours: list[Cost], peer: list[Cost], peer_name: str) -> str:
    """Return medians of both and the median of the pairwise ratios."""
    cpu, wall = (statistics.median(getattr(one, of) for one in ours) for of in ("cpu", "wall"))
    peer_cpu, peer_wall = (statistics.median(getattr(one, of) for one in peer) for of in ("cpu", "wall"))
    ratio_cpu = statistics.median(a.cpu / b.cpu for a, b in zip(ours, peer, strict=True))
    ratio_wall = statistics.median(a.wall / b.wall for a, b in zip(ours, peer, strict=True))
    return (
        f"{name:22s} {cpu:7.2f} CPU s {wall:7.2f} s wall"
        f" | {peer_name:16s} {peer_cpu:7.2f} CPU s {peer_wall:7.2f} s wall"
        f" | ratio {ratio_cpu:.2f} CPU, {ratio_wall:.2f} wall"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-op-repeats", type=int, default=7)
    options = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    environment |= {"GRAFT_PYTHON": sys.executable, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    work = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        ours, naive, stages = [], [], []
        for number in range(options.repeats + 1):  # the first pair warms the page cache and is not counted
            clone = work / f"clone-{number}"
            fresh_project(clone, environment | {"PYTHONPATH": f"{clone}/src:{clone}"})
            own = environment | {"PYTHONPATH": f"{clone}/src:{clone}"}
            subprocess.run(
                [sys.executable, "-m", "compileall", "-q", "src", "pipelines"], cwd=clone, check=True, env=own
            )
            costs = (
                measure([sys.executable, "-m", "graft", "run"], clone, work / "graft.log", own),
                measure(
                    [
                        sys.executable,
                        str(ROOT / "benchmarks/naive_chain.py"),
                        f"{clone}/base",
                        f"{clone}/data",
                        str(clone),
                    ],
                    work,
                    work / "naive.log",
                    environment | {"PREFECT_HOME": f"{clone}/naive-prefect", "PREFECT_LOGGING_LEVEL": "WARNING"},
                ),
            )
            if number:
                ours.append(costs[0])
                naive.append(costs[1])
                run = next((clone / ".graft" / "runs").glob("*/run.json"))
                stages.append({name: one["seconds"] for name, one in json.loads(run.read_text())["stages"].items()})
        print(line("graft run, ten rows", ours, naive, "naive script"))
        wall = statistics.median(one.wall for one in ours)
        table = {name: statistics.median(one[name] for one in stages) for name in stages[0]}
        for name, seconds in {**table, "flow, publish, promote": wall - sum(table.values())}.items():
            print(f"    {name:24s} {seconds:6.2f} s wall  {seconds / wall:4.0%}")
        no_op, status = [], []
        for _ in range(options.no_op_repeats):
            no_op.append(measure([sys.executable, "-m", "graft", "run"], clone, work / "no-op.log", own))
            status.append(measure([sys.executable, "-m", "dvc", "status"], clone, work / "status.log", own))
        print(line("graft run, no-op", no_op, status, "dvc status"))
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
        print(f"{options.repeats} repeats; bytecode compiled; {os.cpu_count()} CPUs {platform.machine()}; {versions}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
