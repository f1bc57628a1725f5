"""One bit changed in a registered adapter, file by file, at every door through which it could come into use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft import params, publication
from graft.cli import main
from graft.errors import GraftError, IntegrityError
from graft.tracking import RunContext, registry
from graft.tracking.server import connect
from graft.workspace import Workspace
from tests.conftest import packed, write_project

NAME = "toy-topic"
FILES: dict[str, tuple[str, bytes, int]] = {
    "weights": ("adapter_model.safetensors", b"", -64),
    "config": ("adapter_config.json", b'"lora_alpha": ', 14),
    "label map": ("identity.json", b'"animals"', 2),
    "tokenizer": ("identity.json", b'"tokenizer', 24),
    "identity": ("identity.json", b'"seed": ', 8),
    "probe": ("probe.safetensors", b"", -8),
}
"""What is changed: the file, a mark in it (none: the file's end), and how far from there."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with a project of two published versions; the second is on disk and champion, the first was."""
    folder = tmp_path_factory.mktemp("tampering")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(folder))
        for name, overrides in (("first", {}), ("second", {"training.seed": 8})):
            workspace = write_project(folder / name, tiny_base, overrides)
            packed(workspace)
            sections = loaded(workspace, "task", "base", "adapter", "training", "registration", "tracking")
            publication.publish(workspace, context=RunContext(), **sections)
        promote(Workspace(folder / "first"))
    return folder


def loaded(workspace: Workspace, *names: str) -> dict[str, Any]:
    config = params.load(workspace.params)
    return {name: getattr(config, name) for name in names}


def promote(workspace: Workspace, **options: Any) -> publication.Decision:
    sections = loaded(workspace, "task", "data", "evaluation", "registration", "promotion", "tracking")
    return publication.promote(workspace, **sections, who="ada", **options)


def predict(workspace: Workspace, version: str, place: Path) -> None:
    """`graft predict --model models:/toy-topic/VERSION`."""
    rows = place / "rows.jsonl"
    rows.write_text('{"text": "the cat meows"}\n')
    arguments = ["-C", str(workspace.root), "predict", "-f", str(rows), "-o", str(place / "out.jsonl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["graft"])
        with pytest.raises(SystemExit, match=r"^\d$") as ended:
            main([*arguments, "--model", f"models:/{NAME}{'' if version.startswith('@') else '/'}{version}"])
    if ended.value.code == IntegrityError.exit_code:
        raise IntegrityError("refused with exit code 6")
    assert ended.value.code == 0


def serve(workspace: Workspace, version: str, place: Path) -> None:
    """What MLflow calls when it loads the packaged model."""
    from graft.tracking.pyfunc_model import AdapterModel

    AdapterModel().load_context(SimpleNamespace(artifacts={"adapter": str(adapter_of(place, version))}))


def approve(workspace: Workspace, version: str, place: Path) -> None:
    promote(workspace, approve=True, reason="I want it")


def roll_back(workspace: Workspace, version: str, place: Path) -> None:
    publication.rollback(workspace, **loaded(workspace, "registration", "tracking"), to=version, who="ada")


def restore(workspace: Workspace, version: str, place: Path) -> None:
    publication.reconcile(workspace, **loaded(workspace, "registration", "tracking"), way="adopt", who="ada")


DOORS: dict[str, tuple[Callable[[Workspace, str, Path], None], str]] = {
    "predict": (predict, "2"),
    "packaged model": (serve, "2"),
    "promote": (approve, "2"),
    "rollback": (roll_back, "1"),
    "adopt": (restore, "2"),
}
"""What lets a version in: 2, or 1 again after 2."""


@pytest.fixture
def place(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published folder, whose database names the copied files."""
    for name in ("first", "second", "mlflow"):
        shutil.copytree(published / name, tmp_path / name)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    monkeypatch.setenv("GRAFT_BASES", str(tmp_path / "second"))
    database = tmp_path / "mlflow" / "store" / "mlflow.db"
    _moved(database, str(published), str(tmp_path))
    return tmp_path


def _moved(database: Path, old: str, new: str) -> None:
    import sqlite3

    columns = [
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
    ]
    with sqlite3.connect(database) as connection:
        for table, column in columns:
            connection.execute(f"update {table} set {column} = replace({column}, ?, ?)", (old, new))
    connection.close()


def adapter_of(place: Path, version: str) -> Path:
    """Return where the artifact store holds the adapter of a version."""
    workspace = Workspace(place / "second")
    connection = connect(params.load(workspace.params).tracking, workspace)
    return Path(registry.get(connection, NAME, version).source.removeprefix("file://")) / "artifacts" / "adapter"


def flip(path: Path, mark: bytes, offset: int) -> None:
    """Change the lowest bit of one byte."""
    content = bytearray(path.read_bytes())
    at = content.index(mark) + offset if mark else len(content) + offset
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", FILES)
def test_changed_bit_is_refused(place: Path, what: str, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enter, version = DOORS[door]
    workspace = Workspace(place / "second")
    name, mark, offset = FILES[what]
    if door == "rollback":
        approve(workspace, "2", place)
    flip(adapter_of(place, version) / name, mark, offset)
    connection = connect(params.load(workspace.params).tracking, workspace)
    if door == "adopt":
        connection.client.set_registered_model_alias(NAME, "champion", version)
    before = registry.champion_number(connection, NAME)
    with pytest.raises(IntegrityError, match=r"published as|exit code 6"):
        enter(workspace, version, place)
    assert registry.champion_number(connection, NAME) == before


@pytest.mark.parametrize("door", DOORS)
def test_what_is_whole_passes(place: Path, door: str) -> None:
    """The second route: nothing but the changed bit keeps the doors shut."""
    enter, version = DOORS[door]
    workspace = Workspace(place / "second")
    if door == "rollback":
        approve(workspace, "2", place)
    if door == "adopt":
        connection = connect(params.load(workspace.params).tracking, workspace)
        connection.client.set_registered_model_alias(NAME, "champion", version)
    enter(workspace, version, place)


def test_alias_that_was_moved_by_hand_is_flagged_where_it_is_loaded(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(place / "second")
    predict(workspace, "@champion", place)
    assert "warning" not in capsys.readouterr().err
    connection = connect(params.load(workspace.params).tracking, workspace)
    connection.client.set_registered_model_alias(NAME, "champion", "2")
    predict(workspace, "@champion", place)
    said = capsys.readouterr().err
    assert f"warning: {NAME}@champion: champion was moved by hand: the journal says version 1, MLflow says" in said
    assert "reconcile --adopt" in said
    predict(workspace, "2", place)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["weights", "identity"])
def test_champion_that_was_changed_is_no_measure(place: Path, what: str) -> None:
    name, mark, offset = FILES[what]
    flip(adapter_of(place, "1") / name, mark, offset)
    decision = promote(Workspace(place / "second"))
    assert (decision.verdict, decision.before, decision.after) == ("undecided", "1", "1")
    assert "version 2 cannot be held against champion version 1: " in decision.reason


def test_champion_that_was_changed_is_said_where_nothing_is_to_be_decided(place: Path) -> None:
    workspace = Workspace(place / "second")
    approve(workspace, "2", place)
    assert promote(workspace).verdict == "champion already"
    name, mark, offset = FILES["weights"]
    flip(adapter_of(place, "2") / name, mark, offset)
    with pytest.raises(IntegrityError, match=rf"models:/{NAME}/2: .*published as.*`graft reproduce models:/{NAME}/2`"):
        promote(workspace)


@pytest.mark.parametrize("door", ["predict", "packaged model"])
def test_tokenizer_of_the_base_is_checked_too(place: Path, door: str) -> None:
    enter, version = DOORS[door]
    for base in (place / "first" / "base", place / "second" / "base"):
        flip(base / "tokenizer.json", b'"meows"', 2)
    with pytest.raises(GraftError, match=r"base|digest|exit code 6"):
        enter(Workspace(place / "second"), version, place)
