"""Results of single parts through the DVC remote: made by one clone, found by another, and never believed unchecked."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages
from graft.artifact.starts import Start, folder_of, pin, place_of
from graft.artifact.warm_start import keep
from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.identity import digest_folder
from graft.repository import Repository, exchange
from graft.repository.exchange import Exchange
from graft.workspace import Workspace
from tests.conftest import copied_clone, validated, write_clone, write_project

PARTS = {"train": 4, "validation": 1, "test": 1}
LABELS = ("a", "b")


def rows(split: str, part: int) -> str:
    lines = ({"text": f"{split} text {part} {n}", "label": LABELS[n % 2]} for n in range(6))
    return "".join(json.dumps(one) + "\n" for one in lines)


FILES = {
    "params.yaml": "task: {name: text_classification}\nbase: {source: ./base}\n",
    "dvc.yaml": "stages: {}\n",
    ".gitignore": "/data\nartifacts/\n.graft/\n",
    ".dvcignore": ".graft/\n",
    ".dvc/config": "[core]\n    remote = shared\n['remote \"shared\"']\n    url = ../../shared\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    **{f"data/{split}/part-{n}.jsonl": rows(split, n) for split, count in PARTS.items() for n in range(count)},
}
COUNT = sum(PARTS.values())
"""How many results each of the two rounds has: what the rows of a part tell of labels, and what is wrong with them."""


@pytest.fixture(scope="session")
def many_parts(tmp_path_factory: pytest.TempPathFactory, own_settings: None) -> Path:
    """A committed clone whose data are several parts."""
    root = tmp_path_factory.mktemp("many") / "clone"
    write_clone(root, FILES)
    return root.parent


@pytest.fixture
def clones(many_parts: Path, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """Two copies of the clone with one DVC remote beside them."""
    first = copied_clone(many_parts, tmp_path)
    shutil.copytree(first.root, tmp_path / "second")
    return first, Workspace(tmp_path / "second")


def exchange_of(workspace: Workspace) -> Exchange:
    return Exchange(Repository(workspace).dvc, "validate")


@pytest.mark.slow
def test_what_one_clone_has_validated_another_finds(clones: tuple[Workspace, Workspace]) -> None:
    first, second = clones
    assert exchange_of(first).pull() == {"pulled": 0, "missing": COUNT, "bytes": sum(map(len, _all_rows()))}
    stages.run("validate", first)
    assert exchange_of(first).push() == {"pushed": 2 * COUNT}
    assert exchange_of(first).push() == {"pushed": 0}
    assert exchange_of(second).pull() == {"pulled": 2 * COUNT, "missing": 0, "bytes": 0}
    made = {path: path.stat().st_ino for path in (second.store / "validate").glob("*/part.json")}
    stages.run("validate", second)
    assert {path: path.stat().st_ino for path in (second.store / "validate").glob("*/part.json")} == made
    assert digest_folder(second.validation) == digest_folder(first.validation)


def _all_rows() -> list[str]:
    return [rows(split, n) for split, count in PARTS.items() for n in range(count)]


def test_shares_meet_in_the_remote_and_no_part_is_made_twice(clones: tuple[Workspace, Workspace]) -> None:
    made: list[dict[str, int]] = []
    work = [threading.Thread(target=lambda n=n: made.append(exchange_of(clones[n]).share(n + 1, 2))) for n in (0, 1)]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert sum(one["made"] for one in made) == 2 * COUNT
    assert exchange_of(clones[0]).pull()["missing"] == 0


def test_a_share_that_never_comes_is_made_by_those_that_are_there(
    clones: tuple[Workspace, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(exchange, "POLL_SECONDS", 0.0)
    # Of two rounds the first must be complete: its other half is made here too; the second half of the next one is not.
    assert exchange_of(clones[0]).share(1, 2) == {"made": COUNT + COUNT // 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_text("[]"), lambda path: path.unlink()],
    ids=["other bytes", "a file is gone"],
)
def test_a_damaged_result_in_the_remote_is_refused(
    clones: tuple[Workspace, Workspace], damage: Callable[[Path], Any]
) -> None:
    first, second = clones
    stages.run("validate", first)
    exchange_of(first).push()
    [damaged] = list((first.root.parent / "shared" / "graft" / "validate").glob("*/part.json"))[:1]
    damage(damaged)
    with pytest.raises((IntegrityError, ResourceMissing), match="DVC remote: "):
        exchange_of(second).pull()
    stages.run("validate", second)
    assert digest_folder(second.validation) == digest_folder(first.validation)


def test_data_that_is_wrong_is_left_to_the_stage(clones: tuple[Workspace, Workspace]) -> None:
    shutil.rmtree(clones[0].data / "test")
    assert exchange_of(clones[0]).pull() == {"pulled": 0, "missing": 0, "bytes": 0}
    assert exchange_of(clones[0]).share(1, 2) == {"made": 0}


def test_the_exchange_runs_in_a_process_of_its_own(clones: tuple[Workspace, Workspace]) -> None:
    lines: list[str] = []
    found = Repository(clones[0]).share_parts("validate", 1, 1, lines.append)
    assert found == {"made": 2 * COUNT}
    told = [line for line in lines if "rows/s" not in line]
    assert told == ["learn: 6 of 6 parts made here", "validate: 6 of 6 parts made here"]
    assert Repository(clones[1]).pull_parts("validate", lines.append)["pulled"] == 2 * COUNT
    assert Repository(clones[1]).push_parts("validate", lines.append) == {"pushed": 0}


@pytest.fixture(scope="session")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, own_settings: None) -> Path:
    """A trained adapter."""
    project = write_project(tmp_path_factory.mktemp("start") / "project", tiny_base, {"training": {"max_steps": 1}})
    validated(project)
    for stage in ("tokenize", "train"):
        stages.run(stage, project)
    return project.adapter


def pin_both(clones: tuple[Workspace, Workspace], adapter: Path) -> Start:
    """Pin the adapter in both clones; only the first one has it."""
    start = Start("models:/toy@champion", keep(clones[0], adapter), "toy", "1")
    for clone in clones:
        pin(clone, start)
    return start


def test_adapter_to_start_from_goes_to_a_clone_that_lacks_it(
    clones: tuple[Workspace, Workspace], adapter: Path, tmp_path: Path
) -> None:
    (first, second), start = clones, pin_both(clones, adapter)
    assert not Repository(second).pull_start(start.source)  # the remote does not have it either: the stage says so
    with pytest.raises(ResourceMissing, match=r"toy version 1 .* is not in"):
        Repository(second).push_start(start.source)
    assert not any((tmp_path / "shared").rglob("digests.json"))
    assert Repository(first).push_start(start.source)
    assert not Repository(first).push_start(start.source)
    assert not Repository(second).push_start(start.source)
    assert Repository(second).pull_start(start.source)
    assert not Repository(second).pull_start(start.source)
    assert digest_folder(folder_of(second, start)) == start.digest == digest_folder(adapter)
    assert not Repository(second).push_start(None)
    assert not Repository(second).pull_start(None)
    with pytest.raises(ConfigError, match="run `graft lock`"):
        Repository(second).pull_start("models:/toy@other")


@pytest.mark.parametrize("with_digests", [False, True])
def test_another_adapter_in_the_remote_is_refused(
    clones: tuple[Workspace, Workspace], adapter: Path, tmp_path: Path, with_digests: bool
) -> None:
    start = pin_both(clones, adapter)
    Repository(clones[0]).push_start(start.source)
    there = tmp_path / "shared" / "graft" / "models" / start.digest
    (there / "adapter_model.safetensors").write_bytes(b"planted")
    if with_digests:  # whoever plants one changes these too
        digests = json.loads((there / "digests.json").read_text())
        digests["adapter_model.safetensors"] = hashlib.sha256(b"planted").hexdigest()
        (there / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(
        IntegrityError, match="is not the adapter that sources.lock pins" if with_digests else "damaged"
    ):
        Repository(clones[1]).pull_start(start.source)
    assert not place_of(clones[1], start.digest).exists()


def test_without_a_remote_nothing_is_exchanged(clones: tuple[Workspace, Workspace]) -> None:
    (clones[0].root / ".dvc" / "config").write_text("")
    with pytest.raises(ResourceMissing, match="no default remote is set"):
        Repository(clones[0]).pull_parts("validate")


def test_a_stage_without_parts_has_nothing_to_exchange(clones: tuple[Workspace, Workspace]) -> None:
    assert Exchange(Repository(clones[0]).dvc, "train").pull() == {"pulled": 0, "missing": 0, "bytes": 0}
