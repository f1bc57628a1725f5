"""Rebuilding from a commit in a clean clone: the same bytes, the first difference, what a version must record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft.errors import InputError, IntegrityError, ResourceMissing
from graft.identity import digest_folder
from graft.repository import Repository
from graft.reproduction import Recorded, first_difference, parsed, rebuild, recorded, reproduce
from graft.tracking import TrackingConfig
from graft.workspace import Workspace

Bring = Callable[[Repository, str], None]
Executed = Callable[[], list[str]]
Git = Callable[..., str]
Write = Callable[[Path, str, str], None]
ADAPTER_STAGE = """\
import json, os, pathlib
out = pathlib.Path("artifacts/adapter")
out.mkdir(parents=True, exist_ok=True)
text = pathlib.Path("artifacts/first/upper.txt").read_text()
(out / "adapter.bin").write_text(text * 2 + os.environ.get("DRIFT", ""))
identity = {"data": text, "test": 1, "device": os.environ.get("DRIFT", "cpu")}
(out / "identity.json").write_text(json.dumps(identity))
"""


def quiet(line: str) -> None:
    """Print nothing."""


@pytest.fixture
def trained(repository: Repository, executed: Executed, write: Write, bring: Bring) -> Recorded:
    """A project whose second stage makes artifacts/adapter, run and pushed, and what a registry would record of it."""
    root = repository.workspace.root
    write(root, "second.py", ADAPTER_STAGE)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("artifacts/second", "artifacts/adapter"))
    commit = repository.snapshot()
    for name in ("first", "second"):
        bring(repository, name)
    repository.push()
    identity = json.loads((repository.workspace.adapter / "identity.json").read_text())
    return Recorded("models:/toy/1", commit, digest_folder(repository.workspace.adapter), identity)


def test_rebuild_in_a_clean_clone_gives_the_same_bytes(clone: Workspace, trained: Recorded, executed: Executed) -> None:
    head = Repository(clone).commit()
    receipt = rebuild(clone, trained, on_line=quiet)
    assert receipt["identical"]
    assert receipt["first_difference"] is None
    assert receipt["rebuilt"] == trained.adapter
    assert executed() == ["first", "second"] * 2  # nothing came out of a cache
    (written,) = (clone.dot / "receipts").iterdir()
    assert json.loads(written.read_text()) == receipt
    assert Repository(clone).commit() == head


def test_rebuild_names_the_first_difference(
    clone: Workspace, trained: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT", "cuda")
    receipt = rebuild(clone, trained, on_line=quiet)
    assert not receipt["identical"]
    assert receipt["first_difference"] == {"stage": "train", "fields": {"device": ["cpu", "cuda"]}}


def test_rebuild_without_pushed_data_says_what_is_missing(repository: Repository) -> None:
    record = Recorded("models:/toy/1", repository.snapshot(), "0" * 64)
    with pytest.raises(ResourceMissing, match="cannot get data/"):
        rebuild(repository.workspace, record, on_line=quiet)


def test_first_difference_goes_by_the_order_of_the_stages() -> None:
    old = {"data": 1, "test": 2, "files": {"a": "x"}}
    assert first_difference(old, {**old, "test": 3, "files": {"a": "y"}}) == {
        "stage": "tokenize",
        "fields": {"test": [2, 3]},
    }
    assert first_difference(old, {**old, "data": 9, "test": 3})["stage"] == "validate"
    assert first_difference(old, {**old, "files": {"a": "y"}})["fields"] == {"files": [{"a": "x"}, {"a": "y"}]}
    assert first_difference(None, old)["stage"] is None


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
def test_reproduce_reads_the_registry_and_writes_its_receipt_as_tags(
    clone: Workspace, trained: Recorded, tmp_path: Path
) -> None:
    from graft.tracking import registry
    from graft.tracking.server import connect

    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    connection = connect(tracking, clone)
    connection.client.create_registered_model("toy")
    source = (clone.root / "model").as_uri()
    tags = {"graft.git_commit": trained.commit, "graft.adapter": trained.adapter}
    made = connection.client.create_model_version("toy", source, tags=tags)
    connection.client.set_registered_model_alias("toy", "champion", made.version)
    receipt = reproduce(clone, "models:/toy@champion", tracking=tracking, on_line=quiet)
    assert receipt["identical"]
    version = registry.get(connection, "toy", "1")
    assert version.tags["graft.reproduced"] == "identical"
    assert version.tags["graft.reproduced_adapter"] == trained.adapter
