"""The command line on a real chain: a run, the same run again, and what can be done with its result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.workspace import Workspace

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "mlflow", "great_expectations", "prefect", "pandas", "sklearn")
SECTIONS = "data: {}\nvalidation: {}\npromotion: {}\n"


class Clone:
    """A clone with a tiny project, and the command line in it."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.environment = {**os.environ, "PYTHONPATH": str(root / "src"), "GRAFT_PYTHON": sys.executable}

    def graft(self, *arguments: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *flags, "-m", "graft", *arguments]
        return subprocess.run(
            command, cwd=self.workspace.root, env=self.environment, capture_output=True, text=True, check=False
        )

    def git(self, *arguments: str) -> None:
        settings = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *arguments], cwd=self.workspace.root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Clone:
    """A clone whose default project is the tiny one, after one `graft run`."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("chain") / "clone"
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "sample*")
    for name in ("src", "pipelines", "infra"):
        shutil.copytree(ROOT / name, root / name, ignore=skipped)
    for name in ("requirements.lock", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    made = Clone(root)
    _write_project(made.workspace, tiny_base)
    made.git("init", "-q", "-b", "main")
    Repo.init(str(root)).close()
    (root / ".gitignore").write_text("__pycache__/\n.graft/\nartifacts/\n/data\n/mlflow/store/\n")
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n[cache]\n    type = reflink,copy\n")
    made.git("add", "-A")
    made.git("commit", "-qm", "first")
    done = made.graft("run", "--add-data")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def _write_project(workspace: Workspace, base: Path) -> None:
    from graft.stages import render

    _conftest("write_project")(workspace.root, base, {"training": {"max_steps": 4}, "data": {}, "validation": {}})
    (workspace.root / "dvc.yaml").write_text(render(workspace.root, workspace.root))


def _conftest(name: str) -> Callable[..., object]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("graft_conftest", ROOT / "tests" / "conftest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., object] = getattr(module, name)
    return found


pytestmark = pytest.mark.slow


def test_second_run_has_nothing_to_do_and_imports_nothing_heavy(clone: Clone) -> None:
    before = sorted(clone.workspace.runs.iterdir())
    done = clone.graft("run", flags=("-X", "importtime"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing to do: data, parameters, code and base are those of this version" in done.stdout
    assert re.search(r"model +toy-topic version 1 \(@\w+\) at sqlite://", done.stdout)
    assert re.search(r"adapter +sha256 [0-9a-f]{64}", done.stdout)
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "pydantic" in imported
    assert imported & set(HEAVY) == set()
    assert sorted(clone.workspace.runs.iterdir()) == before


def test_changed_parameter_is_something_to_do_and_status_names_it(clone: Clone) -> None:
    text = clone.workspace.params.read_text()
    clone.workspace.params.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    try:
        state = json.loads(clone.graft("status", "--json").stdout)
        assert [one["text"] for one in state["stages"]["train"]] == ["training.learning_rate: 0.01 -> 0.02"]
        assert state["stages"]["validate"] == []
        printed = clone.graft("status").stdout
        assert "training.learning_rate: 0.01 -> 0.02" in printed
        assert re.search(r"evaluate +up to date, until train has run", printed)
        refused = clone.graft("sync")
        assert refused.returncode == 2
        assert "training.learning_rate: 0.01 -> 0.02" in refused.stderr
    finally:
        clone.workspace.params.write_text(text)


def test_changed_data_is_refused_by_name(clone: Clone) -> None:
    part = clone.workspace.data / "test" / "part-0000.jsonl"
    text = part.read_text()
    before = sorted(path.name for path in clone.workspace.artifacts.iterdir())
    part.write_text(text + json.dumps({"id": "new", "text": "rain and wind", "label": "weather"}) + "\n")
    try:
        done = clone.graft("run")
        assert done.returncode == 2
        assert "data/test/part-0000.jsonl: modified" in done.stdout + done.stderr
        assert sorted(path.name for path in clone.workspace.artifacts.iterdir()) == before
    finally:
        part.write_text(text)


def test_status_says_what_is_published(clone: Clone) -> None:
    state = json.loads(clone.graft("status", "--json").stdout)
    assert [(one["name"], one["version"], one["current"]) for one in state["published"]] == [("toy-topic", "1", True)]
    assert state["data"] == []
    assert set(state["stages"]) == {"validate", "tokenize", "train", "evaluate", "register"}
    assert not any(state["stages"].values())


def test_predict_answers_with_the_adapter_and_with_the_version(clone: Clone, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    source.write_text("note,text\na,the cat meows\nb,boil the soup\nc,\n")
    for place in ((), ("--model", "models:/toy-topic/1")):
        out = tmp_path / "answers.csv"
        done = clone.graft("predict", "--file", str(source), "--out", str(out), *place)
        assert done.returncode == 0, done.stderr
        head, *rows = out.read_text().splitlines()
        assert head.startswith("note,text,predicted_label,predicted_score")
        assert [row.split(",")[0] for row in rows] == ["a", "b", "c"]
        assert "note: new.csv:4: the text is empty; the answer is about nothing" in done.stderr
        told = r"version 1 of toy-topic\); (it is the champion|there is no champion), by what this clone knows"
        assert bool(re.search(told, done.stderr)) == (not place)
        assert all(row.split(",")[2] in ("animals", "cooking", "weather") for row in rows)


def test_predict_names_the_line_of_a_bad_row(clone: Clone, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text('{"text": "a cat"}\n' * 600 + '{"txt": "a cat"}\n')
    done = clone.graft("predict", "--file", str(source), "--out", str(tmp_path / "out.jsonl"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: new.jsonl:601: text: missing; a row needs text"
    assert not (tmp_path / "out.jsonl").exists()


def test_predict_names_a_column_that_is_not_there_before_it_loads_the_model(clone: Clone, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    source.write_text("id,texts\n1,a cat\n")
    done = clone.graft("predict", "--file", str(source), flags=("-X", "importtime"))
    assert done.returncode == 2
    expected = "error: new.csv:2: text: expected a column of that name, found only 'id, texts'; did you mean 'texts'?"
    assert expected in done.stderr.splitlines()
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_sync_and_history_find_what_is_there(clone: Clone) -> None:
    assert "toy-topic version 1" in clone.graft("sync").stdout
    (entry,) = json.loads(clone.graft("history", "--json").stdout)
    assert entry["candidate"] == "1"
    assert entry["verdict"] in ("promote", "reject", "undecided")


def test_status_flags_an_alias_that_was_moved_by_hand(clone: Clone) -> None:
    import mlflow

    before = json.loads(clone.graft("status", "--registry", "--json").stdout)
    assert before["registry"]["moved_by_hand"] is False
    client = mlflow.MlflowClient(before["published"][0]["uri"])
    champion = before["registry"]["champion"]
    if champion is None:
        client.set_registered_model_alias("toy-topic", "champion", "1")
    else:
        client.delete_registered_model_alias("toy-topic", "champion")
    try:
        after = json.loads(clone.graft("status", "--registry", "--json").stdout)["registry"]
        assert after["moved_by_hand"] is True
        assert "moved by hand" in clone.graft("status", "--registry").stdout
    finally:
        if champion is None:
            client.delete_registered_model_alias("toy-topic", "champion")
        else:
            client.set_registered_model_alias("toy-topic", "champion", champion)


def test_doctor_and_gc_on_a_clone_in_use(clone: Clone) -> None:
    found = json.loads(clone.graft("doctor", "--json").stdout)["findings"]
    assert {one["check"] for one in found if one["state"] == "fail"} <= {"remotes", "packages", "disk"}
    listed = json.loads(clone.graft("gc", "--older-than", "0", "--json").stdout)
    assert listed["removed"] is False
    removed = json.loads(clone.graft("gc", "--older-than", "0", "--yes", "--json").stdout)
    assert {one["kind"] for one in removed["items"]} == {one["kind"] for one in listed["items"]}
    assert "nothing to do" in clone.graft("run").stdout
