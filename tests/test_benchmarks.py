"""Each script in benchmarks/ runs to its end at a tiny size, as its docstring says it is run.

In processes of their own, since the scripts set environment variables and import paths. What they measure at such sizes
says nothing: the tests are about calls of Graft that a change has left behind.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import label_errors, results
from benchmarks.compiled import COMPILERS
from graft import stages
from graft.repository.overrides import checked
from graft.workspace import SPLITS
from tests.conftest import toy_rows, write_project, write_rows
from tests.language.conftest import write_byte_llama

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
RUNS: dict[str, tuple[str, str]] = {
    "compiled.py": ("--batches 2 --repeats 1 --rows 4 --ways activations", r"\| activations \|"),
    "dirty_tables.py": ("{tables}", r"\| toy \| letters replaced by x \| 1 \| 1 \|"),
    "dirty_data.py": ("--kinds 'NUL byte' 'row twice'", r"\| duplicates, train \| .*\n\n2 kinds"),
    "drift.py": ("{labelled}/train.jsonl {plain}/train.jsonl --pairs 1 --sizes 100x100", r"\| labelled \| plain \|"),
    "frozen.py": ("--rows 40 --repeats 1 --threads 1", "ratio of the epochs"),
    "frozen_layers.py": ("--data {root} --sets labelled --epochs 1 --seeds 1", "ratios: training CPU"),
    "gap_sentences.py": ("{out} {prose}", r"train: [1-9]\d* rows"),
    "gpu_speed.py": ("--shape tiny --steps 2 --warm 1 --tokens 128", "graft against trainer"),
    "growth.py": ("--rows 200 --parts 2 --repeats 1", r"\| nothing new \|"),
    "label_errors.py": ("{labelled}/train.jsonl {several} --seeds 1", r"\| several \| multi"),
    "language_model_speed.py": ("--data {spoken} --model {llama} --rows 8 --test-rows 4 --seeds 1", "graft  +[0-9]"),
    "leakage.py": ("{labelled} --rows 10000", "10000 made rows in 1 parts(.|\n)*threshold"),
    "methods.py": ("{project} lora output_linear --steps 2", r"\n\| output_linear \|"),
    "naive_chain.py": ("{project}/base {project}/data {out}", ""),
    "privacy.py": ("--each 1 --data {labelled} --show", "here +[0-9]+ texts/s"),
    "probe.py": ("", "McNemar"),
    "registry_claims.py": ("--uri {store} --processes 2 --rounds 1", r"data set of one digest \| 0, 1, 0 \|"),
    "retellings.py": ("{out} {dialogues} {prose}", r"train: [1-9]\d* rows"),
    "self_play.py": ("{out} {llama} {spoken}", "test: [0-4] of 4 rows"),
    "tokenization.py": ("--in-memory 50 --read 50 --rows 60 --part-rows 30 --repeats 1", r"\| load_dataset, map \|"),
    "tracking_cost.py": ("--steps 4 --repeats 1 --save-every 2", "checkpoint"),
    "training_profile.py": ("--rows 64 --test-rows 8 --batch-rows 8 --steps 8", r"\| all \| \|"),
    "training_speed.py": ("--rows 32 --test-rows 16 --epochs 1 --seeds 1", "graft against expert"),
    "validate.py": ("--rows 60 --part-rows 30 --repeats 1", r"equal \|(.|\n)*\| pandas, one batch \|"),
    "verdicts.py": ("--decisions 4 --retrains 6 --data {labelled}", "repeats: 5, each group"),
}
"""Arguments of each script, and what its output ends with."""
HELP = ("overhead.py", "results.py")
"""They run whole chains in clones and projects of this repository, which takes minutes."""
PARTS = ("clean_rows.py", "corruptions.py", "paired.py")
"""What scripts share; tests/test_corruptions.py and the runs above try it."""
MINILM = (
    "frozen.py",
    "frozen_layers.py",
    "tracking_cost.py",
    "training_profile.py",
    "training_speed.py",
    "verdicts.py",
)
BREAK = "\u0085"
"""It ends a line for `str.splitlines`, and stands as it is in JSON."""
SENTENCES = (
    f"The {{0}} was late{BREAK} again on Monday morning.",
    "Nobody knew where the {0} had been.",
    "We waited for the {0}.",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    """What the scripts read, by name: folders and files of rows, a causal model, a project that was evaluated."""
    root = tmp_path_factory.mktemp("benchmarks")
    made: dict[str, Callable[[int], dict[str, Any]]] = {
        "spoken": lambda n: {
            "prompt": f"What is {n} and {n + 1}?",
            "completion": f"It is {2 * n + 1},{BREAK} I think.",
        },
        "several": lambda n: {
            "text": f"a {('cat', 'dog', 'horse')[n % 3]} and number {n}",
            "labels": ["abcd"[n % 3], "d"],
        },
        "prose": lambda n: {"text": " ".join(one.format(f"train {n}") for one in SENTENCES)},
        "dialogues": lambda n: {"text": "\n".join(f"#Person{1 + n % 2}#: {one.format(n)}" for one in SENTENCES)},
    }
    for number, split in enumerate(SPLITS):
        labelled = [{**row, "text": f"{row['text']}{BREAK}"} for row in toy_rows(200, number)]
        write_rows(root / "labelled" / f"{split}.jsonl", labelled)
        write_rows(root / "plain" / f"{split}.jsonl", toy_rows(200, number + 9))
        for name, row in made.items():
            write_rows(root / name / f"{split}.jsonl", [row(n) for n in range(4 if split == "test" else 60)])
    write_byte_llama(root / "llama", begins=False)
    (root / "tables").mkdir()
    lines = [
        f"{n},a long text and number {n},{('birch', 'maple')[n // 2 % 2]},{('Bend', 'Gary')[n // 3 % 2]}"
        for n in range(60)
    ]
    for name, line in (("clean", lines[7]), ("dirty", lines[7].replace("Bend", "Bxnd"))):
        table = ["index,text,tree,city", *lines[:7], line, *lines[8:]]
        (root / "tables" / f"toy_{name}.csv").write_text("\n".join(table) + "\n")
    project = write_project(root / "project", tiny_base, {})
    for stage in ("validate", "tokenize", "train", "evaluate"):
        stages.run(stage, project)
    files = {name: root / name / "train.jsonl" for name in ("several", "prose", "dialogues")}
    folders = {name: root / name for name in ("labelled", "plain", "spoken", "llama", "project", "tables")}
    return {"root": root, **folders, **files}


def run(script: str, *arguments: str, folder: Path) -> str:
    """Run a script in ``folder`` and return what it prints; its own account if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PREFECT_HOME": str(folder / "prefect")}
    environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "240"
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script} {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_each_script_is_tried() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.py")) == sorted([*RUNS, *HELP, *PARTS])


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS)
def test_a_script_runs_to_its_end(
    script: str, places: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if script in MINILM:
        request.getfixturevalue("minilm")
    if script == "compiled.py" and not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"needs a C++ compiler ({', '.join(COMPILERS)})")
    (tmp_path / "out").mkdir()
    known = {**places, "out": tmp_path / "out", "store": f"sqlite:///{tmp_path / 'claims.db'}"}
    arguments, last = RUNS[script]
    folder = places["project"] if script == "probe.py" else tmp_path
    printed = run(script, *(one.format(**known) for one in shlex.split(arguments)), folder=folder)
    assert re.search(last, printed), printed


@pytest.mark.parametrize("script", HELP)
def test_the_others_start(script: str, tmp_path: Path) -> None:
    assert "usage:" in run(script, "--help", folder=tmp_path)


@pytest.mark.slow
def test_a_line_of_the_results_is_read_from_an_evaluated_project(places: dict[str, Path]) -> None:
    found = results.measured("toy", {"data": "toy rows"}, places["project"], 90.0)
    cells = results.line(json.loads(json.dumps(found))).split(" | ")
    assert cells[0] == "| toy rows"
    assert cells[4:6] == ["60 / 15", "accuracy"]
    assert len(cells) == len(results.COLUMNS)


CASES = yaml.safe_load(results.CASES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_of_a_case_are_those_of_its_recipe(name: str) -> None:
    case = CASES[name]
    recipe = (ROOT / "pipelines" / "recipes" / f"{case['task']}.yaml").read_text(encoding="utf-8")
    folders = {"data": "/data", "models": "/models"} | {f"project:{one}": f"/projects/{one}" for one in CASES}
    checked(recipe, results.filled(case.get("set", {}), folders))


@pytest.mark.parametrize("labels", [["a", "b"], ["a"], []], ids=["every label", "one of two", "none"])
def test_a_row_loses_a_label_where_it_has_them_all_and_gets_one_where_it_has_none(labels: list[str]) -> None:
    for seed in range(20):
        rows = [{"labels": labels}, {"labels": ["a", "b"]}]
        before = [set(row["labels"]) for row in rows]
        assert label_errors.changed(rows, "multi_label_classification", 1.0, seed) == {(1, None), (2, None)}
        assert [len(set(row["labels"]) ^ had) for row, had in zip(rows, before, strict=True)] == [1, 1]
