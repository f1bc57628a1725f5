"""What two commits or model versions differ in, each kind of difference once, and whether the metric's is real."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from graft.errors import InputError
from graft.identity import digest_folder
from graft.repository import Repository
from graft.tracking import TrackingConfig
from graft.version_diff import compare
from graft.workspace import Workspace
from tests.conftest import copied_clone

Git = Callable[..., str]
EVALUATE = """\
import json, pathlib
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
out = pathlib.Path("artifacts/evaluation")
(out / "predictions").mkdir(parents=True, exist_ok=True)
rows, right = 200, 100 + params["training"]["epochs"]
table = {
    "row": [f"data/test/a.jsonl:{row + 1}" for row in range(rows)],
    "reference": pa.array([1] * rows, pa.int32()),
    "prediction": pa.array([int(row < right) for row in range(rows)], pa.int32()),
}
pq.write_table(pa.table(table), out / "predictions" / "adapter.parquet")
digest = pathlib.Path("data/test/b.txt").read_text()
cell = {"value": right / rows, "low": 0.4, "high": 0.7}
metrics = {"headline": "accuracy", "metrics": ["accuracy"], "test": {"rows": rows, "digest": digest}}
(out / "metrics.json").write_text(json.dumps({**metrics, "adapter": {"accuracy": cell}}))
"""
STAGE = """\
  evaluate:
    cmd: sh run.sh evaluate
    deps: [data, src/evaluate.py, 'src/tasks/${task.name}.py', src/methods, requirements.lock]
    params: [training]
    outs: [artifacts/evaluation]
"""
ROWS = [{"id": str(number), "text": f"the cat number {number}", "label": "ab"[number % 2]} for number in range(6)]


def write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    path = root / "data" / "train" / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(repository: Repository, git: Git, message: str) -> str:
    """Record the data, run the stage through DVC, push its outputs, commit; return the commit."""
    repository.add_data()
    with contextlib.chdir(repository.workspace.root):
        repository.dvc.reproduce("evaluate", force=False, pull=False)
    repository.push()
    git(repository.workspace.root, "add", "-A")
    git(repository.workspace.root, "commit", "--quiet", "-m", message)
    return git(repository.workspace.root, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def evaluated(template: Path, tmp_path_factory: pytest.TempPathFactory, git: Git) -> tuple[Path, str, str]:
    """A project with two evaluated commits: the later one differs from the first in everything but its test rows."""
    folder = tmp_path_factory.mktemp("evaluated")
    root = copied_clone(template, folder).root
    (root / "data/train/a.txt").unlink()
    for name in ("src/tasks", "src/methods"):
        (root / name).mkdir(parents=True)
    (root / "src/tasks/text_classification.py").write_text("1")
    (root / "src/tasks/regression.py").write_text("1")
    (root / "src/methods/lora.py").write_text("1")
    (root / "src/evaluate.py").write_text(EVALUATE)
    (root / "run.sh").write_text('exec "$GRAFT_PYTHON" "src/$1.py"\n')
    (root / "dvc.yaml").write_text(f"stages:\n{STAGE}")
    (root / "requirements.lock").write_text("torch==2.12.0\nnumpy==2.4.0 ; python_version < '3.12'\nold==1\n")
    (root / "sources.lock").write_text(json.dumps({"base": {"source": "./base", "digest": "a" * 64}, "champion": None}))
    write_rows(root, ROWS)
    repository = Repository(Workspace(root))
    first = run(repository, git, "first version")
    (root / "src/tasks/text_classification.py").write_text("2")
    (root / "src/tasks/regression.py").write_text("2")
    (root / "src/methods/ia3.py").write_text("new")
    (root / "README.md").write_text("no code of a stage")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "a method more")
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(
        params.replace("epochs: 2", "epochs: 30\n  warmup: 3").replace("r: 4  # the", "r: 8  #")
    )
    (root / "requirements.lock").write_text("torch==2.13.0\nnumpy==2.4.0 ; python_version < '3.12'\nnew==2\n")
    (root / "sources.lock").write_text(json.dumps({"base": {"source": "./base", "digest": "b" * 64}, "champion": None}))
    write_rows(root, [{**ROWS[0], "text": "another text"}, *ROWS[2:], {"id": "9", "text": "a new one", "label": "a"}])
    second = run(repository, git, "second version")
    return folder, first, second


@pytest.fixture
def clone(evaluated: tuple[Path, str, str], tmp_path: Path) -> Workspace:
    shutil.copytree(evaluated[0] / "shared", tmp_path / "shared")
    return copied_clone(evaluated[0], tmp_path)


TRACKING = TrackingConfig(uri="sqlite:////tmp/never-made/mlflow.db")


def test_each_kind_of_difference_is_named(clone: Workspace, evaluated: tuple[Path, str, str]) -> None:
    _, first, second = evaluated
    found = compare(clone, first, second, tracking=TRACKING)
    assert found.params == {
        "adapter.r": (4, 8),
        "training.epochs": (2, 30),
        "training.warmup": (None, 3),
    }
    assert found.base == {"base.digest": ("a" * 64, "b" * 64)}
    assert found.environment == {"new": (None, "2"), "old": ("1", None), "torch": ("2.12.0", "2.13.0")}
    # The task that params name, not another one; a file more in a folder of code; no file that no stage reads.
    assert sorted(found.code) == ["src/methods/ia3.py", "src/tasks/text_classification.py"]
    assert found.code["src/methods/ia3.py"][0] is None
    assert [line[10:] for line in found.log] == ["a method more"]
    assert found.log[0].startswith("+ ")
    train = found.data["splits"]["train"]
    assert (train["added"], train["removed"], train["changed"]) == (1, 1, 1)
    assert found.data["splits"]["test"] == {"rows": (0, 0), "added": 0, "removed": 0, "changed": 0}
    assert not found.is_empty
    assert found.notes == []


def test_the_stored_predictions_say_whether_the_difference_is_real(
    clone: Workspace, evaluated: tuple[Path, str, str]
) -> None:
    _, first, second = evaluated
    found = compare(clone, first, second, tracking=TRACKING).metrics
    assert found is not None
    assert (found.same_rows, found.rows, found.headline) == (True, (200, 200), "accuracy")
    assert [one["value"] for one in found.values["accuracy"]] == [0.51, 0.65]
    assert found.comparison is not None
    assert found.comparison["difference"] == pytest.approx(0.14)
    assert found.p == pytest.approx(binomtest(28, 28, 0.5).pvalue)
    assert found.real


def test_the_working_tree_is_a_side(clone: Workspace, evaluated: tuple[Path, str, str], git: Git) -> None:
    _, _, second = evaluated
    assert compare(clone, second, None, tracking=TRACKING).is_empty
    (clone.root / "src/evaluate.py").write_text(EVALUATE + "# more\n")
    (clone.root / "params.yaml").write_text((clone.root / "params.yaml").read_text().replace("r: 8", "r: 16"))
    found = compare(clone, "HEAD", None, tracking=TRACKING)
    assert found.params == {"adapter.r": (8, 16)}
    assert sorted(found.code) == ["src/evaluate.py"]
    assert found.data["a"] == found.data["b"]
    assert found.b["name"] == "the working tree"
    assert git(clone.root, "status", "--porcelain") == "M params.yaml\n M src/evaluate.py"


def test_scores_on_other_test_rows_are_not_tested(clone: Workspace, evaluated: tuple[Path, str, str], git: Git) -> None:
    _, first, _ = evaluated
    (clone.root / "data/test/b.txt").write_text("new test rows\n")
    third = run(Repository(clone), git, "third version")
    found = compare(clone, first, third, tracking=TRACKING)
    assert found.metrics is not None
    assert (found.metrics.same_rows, found.metrics.comparison, found.metrics.real) == (False, None, None)


def test_what_is_lost_is_said_and_the_rest_compared(clone: Workspace, evaluated: tuple[Path, str, str]) -> None:
    _, first, second = evaluated
    shutil.rmtree(clone.root.parent / "shared")
    shutil.rmtree(clone.root / ".dvc/cache")
    found = compare(clone, first, second, tracking=TRACKING)
    assert found.metrics is None
    assert found.params
    assert [note.partition(":")[0] for note in found.notes] == ["data", first]
    with pytest.raises(InputError, match="no such git revision here"):
        compare(clone, "elsewhere", None, tracking=TRACKING)


@pytest.mark.slow
def test_versions_are_found_by_the_registry_and_scored_by_their_runs(
    clone: Workspace, evaluated: tuple[Path, str, str], tmp_path: Path
) -> None:
    """The DVC cache and remote are gone: what a version's run has uploaded is compared."""
    from graft.tracking.server import connect

    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = connect(tracking, clone).client
    client.create_registered_model("toy")
    experiment = client.create_experiment("toy", (tmp_path / "artifacts").as_uri())
    for commit in evaluated[1:]:
        with Repository(clone).worktree(commit) as inner, contextlib.chdir(inner.root):
            Repository(inner).pull()
            made = client.create_run(experiment)
            client.log_artifacts(made.info.run_id, str(inner.evaluation), "evaluation")
            tags = {"graft.git_commit": commit, "graft.adapter": digest_folder(inner.evaluation)}
            client.create_model_version("toy", made.info.artifact_uri, made.info.run_id, tags=tags)
    shutil.rmtree(tmp_path / "shared")
    shutil.rmtree(clone.root / ".dvc/cache")
    found = compare(clone, "models:/toy/1", "models:/toy/2", tracking=tracking)
    assert found.metrics is not None
    assert found.metrics.real
    assert found.params["training.epochs"] == (2, 30)
    assert (found.a["commit"], found.b["commit"]) == evaluated[1:]
