"""Of all pictures, those that a part names decide what is made of it; which they are is found once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graft.data import DataConfig, data_digests, named_pictures
from graft.part_pictures import picture_digests
from graft.tasks.image_classification import TASK, Config
from graft.tasks.text_classification import FIELDS as TEXTS
from graft.validation import ValidationConfig
from graft.validation.sources import Sources
from graft.workspace import SPLITS, Workspace
from tests.conftest import write_rows

STATE = {"labels": ["x", "y"]}


@pytest.fixture
def workspace(tmp_path: Path, picture_of: Any) -> Workspace:
    """Return two training parts and one of each other split, of two pictures each."""
    workspace = Workspace(tmp_path)
    for number, (split, part) in enumerate([("train", "a"), ("train", "b"), ("validation", "a"), ("test", "a")]):
        add_part(workspace, split, part, [f"{number}{n}" for n in range(2)], picture_of)
    return workspace


def add_part(workspace: Workspace, split: str, part: str, names: list[str], picture_of: Any) -> Path:
    (workspace.data / "files").mkdir(parents=True, exist_ok=True)
    for name in names:
        (workspace.data / "files" / f"{name}.png").write_bytes(picture_of("left", int(name)))
    path = workspace.data / split / f"{part}.jsonl"
    write_rows(path, [{"image": f"files/{name}.png", "label": "xy"[n % 2]} for n, name in enumerate(names)])
    return path


def digests(workspace: Workspace) -> dict[str, str]:
    paths = [path for split in SPLITS for path in sorted((workspace.data / split).iterdir())]
    found = picture_digests(workspace, TASK.fields, DataConfig(), data_digests(workspace.data), paths)
    return {path.relative_to(workspace.data).as_posix(): digest for path, digest in found.items()}


def keys(workspace: Workspace) -> dict[str, str]:
    """Return the keys of what validate makes of each part."""
    sources = Sources(workspace, Config(), DataConfig(), ValidationConfig())
    jobs = [*sources.learning().jobs, *sources.inspecting(STATE).jobs]
    assert len(jobs) == len({job.key for job in jobs})
    return {job.key: job.path.name for job in jobs}


def test_names_are_those_of_the_rows_and_bytes_have_none(tmp_path: Path) -> None:
    values = ["files/./a.png", {"path": "files//b.png", "bytes": None}, "data:image/png;base64,AAAA", 5, None]
    values += ["/etc/a.png", "files/../../a.png", {"bytes": "AAAA", "path": "files/c.png"}]
    path = tmp_path / "data" / "train" / "a.jsonl"
    write_rows(path, [{"picture": value} for value in values])
    path.write_text(path.read_text() + "no JSON\n")
    config = DataConfig(columns={"image": "picture"})
    assert list(named_pictures(path, tmp_path, TASK.fields, config)) == [
        *("files/a.png", "files/b.png", "files/../../a.png")
    ]


def test_an_added_part_and_its_pictures_change_nothing_for_the_others(workspace: Workspace, picture_of: Any) -> None:
    before = keys(workspace)
    add_part(workspace, "train", "c", ["77"], picture_of)
    after = keys(workspace)
    assert before.items() <= after.items()
    assert {after[key] for key in after.keys() - before.keys()} == {"c.jsonl"}
    assert len(after) == len(before) + 2
    (workspace.data / "files" / "nobody.png").write_bytes(picture_of("top", 5))
    assert keys(workspace) == after


def test_a_picture_that_changed_appears_or_goes_makes_the_parts_new_that_name_it(
    workspace: Workspace, picture_of: Any
) -> None:
    before, place = digests(workspace), workspace.data / "files" / "00.png"
    content = place.read_bytes()
    seen = [before]
    for change in (lambda: place.write_bytes(picture_of("top", 5)), place.unlink):
        change()
        seen.append(digests(workspace))
        assert {name for name in before if seen[-1][name] != seen[-2][name]} == {"train/a.jsonl"}
    place.write_bytes(content)
    assert digests(workspace) == before


def test_a_picture_behind_a_linked_folder_counts_by_its_content(workspace: Workspace, picture_of: Any) -> None:
    files = workspace.data / "files"
    (files / "real").mkdir()
    (files / "link").symlink_to("real")
    path = workspace.data / "train" / "c.jsonl"
    write_rows(path, [{"image": "files/link/a.png", "label": "x"}])
    seen = []
    for seed in (1, 2):
        (files / "real" / "a.png").write_bytes(picture_of("left", seed))
        seen.append(digests(workspace))
    (files / "real" / "a.png").unlink()
    seen.append(digests(workspace))
    assert len({one["train/c.jsonl"] for one in seen}) == 3
    assert len({json.dumps({**one, "train/c.jsonl": ""}) for one in seen}) == 1


def test_names_are_read_once_and_never_where_rows_have_no_pictures(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(workspace)
    monkeypatch.setattr("graft.part_pictures.named_pictures", lambda *_: pytest.fail("read again"))
    assert digests(workspace) == before
    path = workspace.data / "train" / "a.jsonl"
    assert picture_digests(workspace, TEXTS, DataConfig(), {}, [path]) == {path: ""}


def test_names_that_no_file_can_have_are_not_there(workspace: Workspace) -> None:
    path = workspace.data / "train" / "c.jsonl"
    write_rows(path, [{"image": f"files/{name}", "label": "x"} for name in ("x" * 300, "a\0b", "files/../..")])
    assert digests(workspace)["train/c.jsonl"]
