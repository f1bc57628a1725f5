"""Every task on real data: each case of results.yaml goes through the whole chain, and becomes a line of a table.

A case names a data set (a folder below ``--data``), a recipe, how the data is imported and which parameters differ from
the recipe. Its project is ``projects/results-<case>``: made, imported, locked, checked and run by the same commands
that a user types, Prefect flow and MLflow version included. Run it in a clone, one case or several:

    .venv/bin/python benchmarks/results.py --data DATA --models MODELS banking77 stsb

``{data}`` and ``{models}`` in results.yaml stand for the folders given; ``{project:case}`` for another case's project,
which must have run before. Prints one Markdown line a case, and appends what it is made of to ``--out`` as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from graft.evaluation.overview import format_cell, summary
from graft.repository.overrides import checked
from graft.workspace import Workspace

ROOT = Path(__file__).parent.parent
CASES = Path(__file__).with_suffix(".yaml")
COLUMNS = (
    *("data", "task", "base", "method", "rows (train / test)", "metric", "adapter", "base alone", "best trivial"),
    *("better than both", "minutes"),
)


def graft(project: Path | None, *arguments: str) -> None:
    """Run one command of the CLI; its output goes to the terminal."""
    place = ["-C", str(project)] if project else []
    command = [sys.executable, "-m", "graft", *place, *arguments]
    print(f"$ graft {' '.join([*place, *arguments])}", file=sys.stderr, flush=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def filled(value: Any, places: dict[str, str]) -> Any:
    """Return ``value`` with the placeholders of every text in it replaced."""
    if isinstance(value, dict):
        return {name: filled(one, places) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, places) for one in value]
    for name, text in places.items():
        value = value.replace(f"{{{name}}}", text) if isinstance(value, str) else value
    return value


def gathered(case: dict[str, Any], folder: Path) -> Path:
    """Return what to import: a folder as it is, or one made of the file or files of each split, or by a script.

    ``where`` keeps the rows of a folder's JSONL files that have one of the given values in each column.
    """
    if "script" in case:
        script, *arguments = case["script"]
        command = [sys.executable, str(CASES.with_name(script)), str(folder), *arguments]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return folder
    files: str | dict[str, str | list[str]] = case["files"]
    where: dict[str, list[Any]] = case.get("where", {})
    if isinstance(files, str) and not where:
        return Path(files)
    if isinstance(files, str):
        for path in Path(files).iterdir():
            if path.suffix == ".jsonl":
                lines = path.read_bytes().splitlines(keepends=True)
                chosen = (one for one in lines if all(json.loads(one)[name] in where[name] for name in where))
                (folder / path.name).write_bytes(b"".join(chosen))
            elif path.is_dir():
                (folder / path.name).symlink_to(path.resolve())  # what rows name: pictures
        return folder
    for split, given in files.items():
        names = [given] if isinstance(given, str) else given
        texts = (Path(name).read_text(encoding="utf-8") for name in names)
        (folder / f"{split}{Path(names[0]).suffix}").write_text("".join(texts), encoding="utf-8")
    return folder


def prepared(name: str, case: dict[str, Any], replace: bool) -> Path:
    """Make the case's project, with its data and its parameters; return its folder."""
    project = ROOT / "projects" / f"results-{name}"
    if replace:
        shutil.rmtree(project, ignore_errors=True)
    if not project.is_dir():
        graft(None, "init", project.name, "--task", case["task"])
        params = project / "params.yaml"
        params.write_text(checked(params.read_text(encoding="utf-8"), case.get("set", {})), encoding="utf-8")
        with tempfile.TemporaryDirectory() as temporary:
            source = gathered(case, Path(temporary))
            graft(project, "import", str(source), *map(str, case.get("import", [])))
        for command in case.get("before", []):
            graft(None, *command)
        graft(project, "lock")
    return project


def measured(name: str, case: dict[str, Any], project: Path, seconds: float) -> dict[str, Any]:
    """Return what the case's run says of itself."""
    workspace = Workspace(project)
    metrics = json.loads((workspace.evaluation / "metrics.json").read_text())
    compared = json.loads((workspace.evaluation / "comparison.json").read_text())["against"]
    identity = json.loads((workspace.adapter / "identity.json").read_text())
    training = json.loads((workspace.training / "summary.json").read_text())
    return {
        "case": name,
        "data": case["data"],
        "task": identity["task"]["name"],
        "base": case.get("base", identity["base"]["source"]),
        "method": identity["adapter"]["method"],
        "rows": training["rows"],
        "metrics": metrics,
        "against": compared,
        "minutes": round(seconds / 60, 1),
        "training": training,
    }


def line(found: dict[str, Any]) -> str:
    """Return a case's line of the table: the headline metric of each system, with intervals."""
    headline, rows = found["metrics"]["headline"], {row.system: row for row in summary(found["metrics"])}
    trivial = [name for name in rows if name not in ("adapter", "base")]
    best = min(trivial, key=lambda name: found["against"][name]["difference"])
    better = all(found["against"][name]["low"] > 0 for name in ("base", best))
    cells = [format_cell(*rows[name].metrics[headline]) for name in ("adapter", "base", best)]
    test = found["metrics"]["test"]["rows"]
    arrow = " ↓" if headline in found["metrics"]["smaller_is_better"] else ""
    facts = [found["data"], found["task"], found["base"], found["method"], f"{found['rows']} / {test}"]
    scores = [f"{headline}{arrow}", cells[0], cells[1], f"{cells[2]} ({rows[best].label})", "yes" if better else "no"]
    return f"| {' | '.join([*facts, *scores, str(found['minutes'])])} |"


def main() -> None:
    """Run the cases named, all of them by default."""
    known = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(known)}")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=ROOT / "bases")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--replace", action="store_true", help="make the projects anew")
    given = parser.parse_args()
    places = {"data": str(given.data.resolve()), "models": str(given.models.resolve())}
    places |= {f"project:{name}": str(ROOT / "projects" / f"results-{name}") for name in known}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    lines = []
    for name in given.cases or known:
        case = filled(known[name], places)
        project = prepared(name, case, given.replace)
        started = time.monotonic()
        graft(project, "run")
        found = measured(name, case, project, time.monotonic() - started)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
        lines.append(line(found))
        print(lines[-1], flush=True)
    print("\n".join(["", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *lines]))


if __name__ == "__main__":
    main()
