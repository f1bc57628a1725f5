"""Rebuilding from a commit in a clean clone: identical, equivalent, different; from remotes alone; what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from graft import tasks
from graft.errors import InputError, IntegrityError, ResourceMissing
from graft.evaluation.intervals import Drawn
from graft.identity import digest_file, digest_folder
from graft.repository import Repository
from graft.reproduction import Margin, Options, Recorded, parsed, rebuild, recorded, reproduce
from graft.reproduction.verdicts import equivalence
from graft.tracking import TrackingConfig
from graft.workspace import Workspace
from tests.conftest import copied_clone

Executed = Callable[[], list[str]]
Git = Callable[..., str]
Write = Callable[[Path, str, str], None]
ADAPTER_STAGE = """\
import json, os, pathlib
out = pathlib.Path("artifacts/adapter")
out.mkdir(parents=True, exist_ok=True)
text = pathlib.Path("artifacts/first/upper.txt").read_text()
(out / "adapter.bin").write_text(text * 2 + os.environ.get("DRIFT", ""))
task = {"name": "text_classification"}
identity = {"data": text, "test": 1, "task": task, "device": os.environ.get("DRIFT", "cpu")}
(out / "identity.json").write_text(json.dumps(identity))
"""
# 2,000 rows of which 1,600 are right; GAINED and LOST say how many answers become right, and wrong.
EVALUATE_STAGE = """\
import os, pathlib
import pyarrow as pa
import pyarrow.parquet as pq
out = pathlib.Path("artifacts/evaluation/predictions")
out.mkdir(parents=True, exist_ok=True)
rows, lost, gained = 2000, int(os.environ.get("LOST", 0)), int(os.environ.get("GAINED", 0))
right = [lost <= row < 1600 + gained for row in range(rows)]
table = {
    "row": [f"data/test/a.jsonl:{row + 1}" for row in range(rows)],
    "reference": pa.array([1] * rows, pa.int32()),
    "prediction": pa.array([int(one) for one in right], pa.int32()),
    "score": [0.9 + 1e-7 * len(os.environ.get("DRIFT", ""))] * rows,
}
pq.write_table(pa.table(table), out / "adapter.parquet")
"""
DVC_STAGES = """\
  second:
    cmd: sh run.sh second
    deps: [artifacts/first, second.py]
    params: [adapter]
    outs: [artifacts/adapter]
  third:
    cmd: sh run.sh third
    deps: [artifacts/adapter, third.py]
    outs: [artifacts/evaluation]
"""
STAGES = ["first", "second", "third"]


def quiet(line: str) -> None:
    """Print nothing."""


def alter(remote: Path, digest: str, old: bytes, new: bytes) -> None:
    """Change an object of a DVC remote."""
    path = remote / "files" / "md5" / digest[:2] / digest[2:]
    path.chmod(0o644)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def record_of(workspace: Workspace, commit: str, number: int = 1) -> Recorded:
    """Return what a registry would record of the adapter on disk."""
    identity = json.loads((workspace.adapter / "identity.json").read_text())
    lock = digest_file(workspace.dvc_lock)
    return Recorded(f"models:/toy/{number}", commit, digest_folder(workspace.adapter), identity, dvc_lock=lock)


def bring(repository: Repository, stage: str) -> None:
    """Run a stage through DVC in this process."""
    with contextlib.chdir(repository.workspace.root):
        repository.dvc.reproduce(stage, force=False, pull=False)


def run_and_push(repository: Repository, stages: Sequence[str] = STAGES, number: int = 1) -> Recorded:
    """Run all stages, push everything, and return what a registry would record."""
    for name in stages:
        bring(repository, name)
    repository.push()
    commit = repository.snapshot()
    repository.push_snapshot(commit)
    return record_of(repository.workspace, commit, number)


@pytest.fixture(scope="module")
def pushed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded]:
    """A project whose stages make an adapter and its predictions, run and pushed: data, outputs, the run's commit."""
    folder = tmp_path_factory.mktemp("pushed")
    root = copied_clone(template, folder).root
    (root / "second.py").write_text(ADAPTER_STAGE)
    (root / "third.py").write_text(EVALUATE_STAGE)
    text = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text[: text.index("  second:")] + DVC_STAGES)
    return folder, run_and_push(Repository(Workspace(root)))


@pytest.fixture
def clone(pushed: tuple[Path, Recorded], tmp_path: Path, executed: Executed) -> Workspace:
    """A copy of it: ``tmp/clone``, its git remote ``tmp/origin.git``, its DVC remote ``tmp/shared``."""
    shutil.copytree(pushed[0] / "shared", tmp_path / "shared")
    return copied_clone(pushed[0], tmp_path)


@pytest.fixture
def trained(pushed: tuple[Path, Recorded]) -> Recorded:
    """What a registry would record of its adapter."""
    return pushed[1]


# -- identical


def test_rebuild_in_a_clean_clone_gives_the_same_bytes(clone: Workspace, trained: Recorded, executed: Executed) -> None:
    head = Repository(clone).commit()
    receipt = rebuild(clone, trained, on_line=quiet, options=Options(who="Ada"))
    assert receipt["verdict"] == "identical"
    assert receipt["first_difference"] is None
    assert receipt["adapter"] == {"recorded": trained.adapter, "rebuilt": trained.adapter}
    assert [(one["stage"], one["path"]) for one in receipt["outputs"]] == [
        ("first", "artifacts/first"),
        ("second", "artifacts/adapter"),
        ("third", "artifacts/evaluation"),
    ]
    assert receipt["who"] == "Ada"
    assert executed() == STAGES  # nothing came out of a cache
    (written,) = (clone.dot / "receipts").iterdir()
    assert json.loads(written.read_text()) == receipt
    assert Repository(clone).commit() == head


def test_a_clone_that_has_nothing_rebuilds_from_the_remotes_alone(
    clone: Workspace, trained: Recorded, second_clone: Workspace, tmp_path: Path, executed: Executed
) -> None:
    """The first clone, with its cache, its run cache and the run's commit, is gone."""
    shutil.rmtree(clone.root)
    receipt = rebuild(second_clone, trained, on_line=quiet)
    assert receipt["verdict"] == "identical"
    assert receipt["fetched_from"] == str(tmp_path / "origin.git")
    assert executed() == STAGES


@pytest.mark.slow
def test_a_commit_that_was_not_pushed_is_said(clone: Workspace, trained: Recorded, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "origin.git")
    assert rebuild(clone, trained, on_line=quiet)["fetched_from"] == "this repository"


def test_a_commit_that_nobody_has_is_refused(second_clone: Workspace) -> None:
    with pytest.raises(ResourceMissing, match=r"commit e{12}: .*push it from the clone that made the run"):
        rebuild(second_clone, Recorded("models:/toy/1", "e" * 40, "0" * 64), on_line=quiet)


@pytest.mark.slow
def test_the_remote_that_a_version_names_must_be_one_of_ours(
    clone: Workspace, trained: Recorded, git: Git, tmp_path: Path
) -> None:
    """Else whoever can set a tag in the registry could have any code run here."""
    named = replace(trained, remote="https://git.example.org/toy.git")
    with pytest.raises(InputError, match=r"https://git.example.org/toy.git'.*none of this repository's.*--from"):
        rebuild(clone, named, on_line=quiet)
    # With a password in the clone's own configuration, which git maps to the folder that stands for the server.
    git(clone.root, "remote", "add", "team", "https://ada:secret@git.example.org/toy.git")
    place = f"{tmp_path / 'origin.git'}"
    git(clone.root, "config", f"url.{place}.insteadOf", "https://ada:secret@git.example.org/toy.git")
    receipt = rebuild(clone, named, on_line=quiet)
    assert receipt["verdict"] == "identical"
    assert receipt["fetched_from"] == "https://git.example.org/toy.git"
    assert "secret" not in json.dumps(receipt)


@pytest.mark.slow
def test_the_user_may_name_another_remote(second_clone: Workspace, trained: Recorded, tmp_path: Path) -> None:
    (tmp_path / "origin.git").rename(tmp_path / "moved.git")
    source = (tmp_path / "moved.git").as_uri()
    receipt = rebuild(second_clone, trained, on_line=quiet, options=Options(source=source))
    assert (receipt["verdict"], receipt["fetched_from"]) == ("identical", source)


@pytest.mark.slow
def test_older_code_runs_as_its_commit_has_it(
    repository: Repository, trained: Recorded, write: Write, executed: Executed
) -> None:
    """Since then the stages changed, one of them has another name, and the data is other data."""
    root = repository.workspace.root
    write(root, "data/train/a.txt", "good new text\n")
    Repository(repository.workspace).add_data()
    write(root, "second.py", ADAPTER_STAGE.replace("text * 2", "text * 3"))
    (root / "dvc.yaml").write_text(
        (root / "dvc.yaml").read_text().replace("  third:", "  last:").replace("third", "last")
    )
    (root / "third.py").rename(root / "last.py")
    newer = run_and_push(repository, ["first", "second", "last"], 2)
    assert newer.adapter != trained.adapter
    executed_before = len(executed())
    assert rebuild(repository.workspace, trained, on_line=quiet)["verdict"] == "identical"
    assert rebuild(repository.workspace, newer, on_line=quiet)["verdict"] == "identical"
    assert executed()[executed_before:] == [*STAGES, "first", "second", "last"]


# -- not identical


@pytest.mark.slow
def test_other_bytes_with_the_same_answers_are_equivalent(
    clone: Workspace, trained: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT", "cuda")
    receipt = rebuild(clone, trained, on_line=quiet)
    assert receipt["verdict"] == "equivalent"
    assert receipt["equivalence"]["how"] == "same answers"
    first = receipt["first_difference"]
    assert (first["stage"], [one["path"] for one in first["outputs"]]) == ("second", ["artifacts/adapter"])
    assert first["fields"] == {"device": ["cpu", "cuda"]}
    assert "bytes differ from stage second on" in receipt["reason"]


@pytest.mark.slow
def test_other_answers_are_different(clone: Workspace, trained: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOST", "200")
    receipt = rebuild(clone, trained, on_line=quiet)
    assert receipt["verdict"] == "different"
    assert receipt["first_difference"]["stage"] == "third"
    assert receipt["adapter"]["recorded"] == receipt["adapter"]["rebuilt"]
    assert "accuracy 0.7000 against 0.8000 recorded, on 2000 test rows: -0.1000" in receipt["reason"]


def answers(gained: int = 0, lost: int = 0, rows: int = 2000) -> dict[str, np.ndarray]:
    """Return a prediction table of which 80 % is right, but for so many that are won and lost."""
    right = np.arange(rows) < int(0.8 * rows) + gained
    right[:lost] = False
    return {
        "row": np.array([f"data/test/a.jsonl:{row + 1}" for row in range(rows)], object),
        "reference": np.ones(rows, np.int32),
        "prediction": right.astype(np.int32),
        "score": np.full(rows, 0.9),
    }


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "equivalent"),
    [
        (3, 3, None, True),  # no difference, and 1.645 * sqrt(6) / 2000 = 0.002 < 0.01 * 0.8
        (60, 60, None, False),  # no difference, but 1.645 * sqrt(120) / 2000 = 0.009: these rows cannot show it
        (60, 60, 0.02, True),
        (0, 12, 0.02, False),  # -0.006 is within the margin, and significant: p = 2 / 2^12
        (0, 200, None, False),
    ],
)
def test_no_difference_and_an_interval_within_the_margin_are_equivalence(
    gained: int, lost: int, margin: float | None, equivalent: bool
) -> None:
    metric = tasks.get("text_classification").metric("accuracy")
    found = equivalence(
        metric, answers(gained, lost), answers(), margin=Margin(margin=margin), resampling=Drawn(resamples=200)
    )
    assert (found.equivalent, found.how) == (equivalent, "two one-sided tests"), found.reason
    assert found.difference == pytest.approx((gained - lost) / 2000)
    assert found.same_scores == pytest.approx(1 - (gained + lost) / 2000)
    assert (found.confidence, found.margin) == (pytest.approx(0.9), pytest.approx(margin or 0.008))
    assert found.p == pytest.approx(min(1.0, binomtest(gained, gained + lost, 0.5).pvalue))
    wald = 1.645 * np.sqrt(gained + lost - (gained - lost) ** 2 / 2000) / 2000
    assert found.low == pytest.approx(found.difference - wald, abs=1.5e-3)
    assert found.high == pytest.approx(found.difference + wald, abs=1.5e-3)


def test_equal_answers_need_no_test_and_few_rows_do_not_pass_one() -> None:
    metric = tasks.get("text_classification").metric("accuracy")
    few = answers(rows=20)
    how: dict[str, Any] = {"margin": Margin(), "resampling": Drawn(resamples=200)}
    assert equivalence(metric, {**few, "score": few["score"] + 1e-6}, few, **how).how == "same answers"
    assert not equivalence(metric, answers(1, 1, rows=20), few, **how).equivalent
    # Another wrong answer than before: each row scores as it did, the answers are not the same.
    other = {**few, "prediction": np.where(few["prediction"] == 1, 1, 2).astype(np.int32)}
    assert not equivalence(metric, other, few, **how).equivalent


@pytest.mark.slow
def test_without_recorded_outputs_the_identities_say_where_it_began(
    clone: Workspace, trained: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit's dvc.lock is of another run; the version has no predictions elsewhere."""
    monkeypatch.setenv("DRIFT", "cuda")
    receipt = rebuild(clone, replace(trained, dvc_lock="0" * 64), on_line=quiet)
    assert receipt["verdict"] == "different"
    assert receipt["outputs"] == []
    assert receipt["first_difference"]["stage"] == "train"
    assert "predictions are neither in DVC nor in an MLflow run" in receipt["reason"]


# -- data


def test_data_that_was_never_pushed_is_named(clone: Workspace, trained: Recorded, tmp_path: Path) -> None:
    (lost,) = (
        path for path in (tmp_path / "shared").rglob("*") if path.is_file() and path.read_bytes() == b"good text\n"
    )
    lost.unlink()
    with pytest.raises(ResourceMissing, match="the remote `shared` lacks what commit") as caught:
        rebuild(clone, trained, on_line=quiet)
    assert caught.value.problems == (f"data/train/a.txt: md5 {lost.parent.name}{lost.name}",)
    shutil.rmtree(tmp_path / "shared")
    with pytest.raises(ResourceMissing, match="objects are neither in the DVC cache nor in the remote `shared`"):
        rebuild(clone, trained, on_line=quiet)


@pytest.mark.parametrize("verify", [False, True])
def test_data_altered_in_the_remote_is_refused_with_both_digests(
    clone: Workspace, trained: Recorded, tmp_path: Path, executed: Executed, write: Write, verify: bool
) -> None:
    expected = hashlib.md5(b"good text\n").hexdigest()
    found = hashlib.md5(b"goof text\n").hexdigest()
    alter(tmp_path / "shared", expected, b"good", b"goof")
    if verify:
        config = (clone.root / ".dvc/config").read_text()
        write(clone.root, ".dvc/config", config.replace("url = ../../shared", "url = ../../shared\n    verify = true"))
    with pytest.raises(IntegrityError, match="remote `shared` does not hold what commit") as caught:
        rebuild(clone, trained, on_line=quiet)
    assert caught.value.problems == (f"data/train/a.txt: expected md5 {expected}, found {found}",)
    assert executed() == []  # no stage ran on it


def test_an_altered_list_of_files_is_refused(clone: Workspace, trained: Recorded, tmp_path: Path) -> None:
    (listing,) = (path for path in (tmp_path / "shared").rglob("*.dir") if b"train/a.txt" in path.read_bytes())
    digest = listing.parent.name + listing.name
    alter(tmp_path / "shared", digest, b"train/a.txt", b"train/b.txt")
    with pytest.raises(
        IntegrityError, match=rf"data \(its list of files\): expected md5 {digest}, found [0-9a-f]{{32}}.dir"
    ):
        rebuild(clone, trained, on_line=quiet)


# -- the registry


@pytest.mark.parametrize(
    ("reference", "expected"), [("models:/a b/3", ("a b", "3")), ("models:/toy@champion", ("toy", "@champion"))]
)
def test_references_are_read(reference: str, expected: tuple[str, str]) -> None:
    assert parsed(reference) == expected


@pytest.mark.parametrize("reference", ["toy", "models:/toy", "models:/toy/latest", "runs:/1/model"])
def test_other_references_are_refused(reference: str) -> None:
    with pytest.raises(InputError, match="models:/NAME@ALIAS"):
        parsed(reference)


def test_a_version_without_a_commit_cannot_be_rebuilt() -> None:
    version: Any = SimpleNamespace(tags={}, run_id=None, adapter="0" * 64, uri="models:/toy/1")
    connection: Any = SimpleNamespace()
    with pytest.raises(IntegrityError, match=r"models:/toy/1: records no commit"):
        recorded(connection, version)


@pytest.mark.slow
def test_reproduce_reads_the_registry_and_keeps_its_receipt_there(
    clone: Workspace, trained: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.tracking import registry, reproductions
    from graft.tracking.server import connect

    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    connection = connect(tracking, clone)
    client = connection.client
    client.create_registered_model("toy")
    run = client.create_run(client.create_experiment("toy", (tmp_path / "artifacts").as_uri()))
    client.log_artifacts(run.info.run_id, str(clone.evaluation), "evaluation")
    client.log_artifacts(run.info.run_id, str(clone.adapter), "artifacts/adapter")
    source = run.info.artifact_uri
    tags = {"graft.git_commit": trained.commit, "graft.adapter": trained.adapter, "graft.dvc_lock": trained.dvc_lock}
    made = client.create_model_version("toy", source, run.info.run_id, tags=tags)
    client.set_registered_model_alias("toy", "champion", made.version)

    receipt = reproduce(clone, "models:/toy@champion", tracking=tracking, options=Options(who="Ada"), on_line=quiet)
    assert receipt["verdict"] == "identical"
    version = registry.get(connection, "toy", "1")
    assert version.tags["graft.reproduced"] == "identical"
    assert version.tags["graft.reproduced_adapter"] == trained.adapter
    assert version.tags["graft.reproduced_by"] == "Ada"
    kept = client.get_run(version.tags["graft.reproduced_run"])
    path = client.download_artifacts(kept.info.run_id, "receipt.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == receipt

    # Where DVC has lost the recorded predictions, those in MLflow are compared; a second receipt, the first stays.
    monkeypatch.setenv("DRIFT", "cuda")
    client.set_model_version_tag("toy", "1", "graft.dvc_lock", "0" * 64)
    receipt = reproduce(clone, "models:/toy/1", tracking=tracking, on_line=quiet)
    assert (receipt["verdict"], receipt["equivalence"]["how"]) == ("equivalent", "same answers")
    registered = registry.get(connection, "toy", "1").tags["graft.reproduced"]
    with monkeypatch.context() as patch:
        patch.setattr(reproductions, "record", lambda *_: (_ for _ in ()).throw(ResourceMissing("MLflow: gone")))
        said: list[str] = []
        assert reproduce(clone, "models:/toy/1", tracking=tracking, on_line=said.append)["verdict"] == registered
    assert said[-1] == "warning: the receipt is in .graft/receipts, and not in MLflow: MLflow: gone"
    found = reproductions.reproductions(connection, "toy")
    assert sorted(one["verdict"] for one in found) == ["equivalent", "identical"]
