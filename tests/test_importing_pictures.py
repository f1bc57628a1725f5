"""Import of rows with pictures: copied once per content, paths rewritten, all or nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.data import DataConfig, Record, parts, read_part
from graft.errors import DataError
from graft.identity import digest_bytes, digest_folder
from graft.importing import ImportSummary, import_data
from graft.workspace import SPLITS, Workspace

FIELDS = tasks.get("image_classification").fields
SHARES = (60, 20, 20)
LABELS = ("left", "right", "top")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "project").mkdir()
    return Workspace(tmp_path / "project")


@pytest.fixture
def source(tmp_path: Path, picture_of: Any) -> Path:
    """A folder with pictures, and a JSONL file of 30 rows that name them: each picture twice."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(30):
        label, name = LABELS[number // 2 % 3], f"images/{number}.PNG"
        (folder / name).write_bytes(picture_of(label, number // 2))
        rows.append({"image": name, "label": label, "note": number})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def imported(source: Path, workspace: Workspace, **options: Any) -> ImportSummary:
    return import_data(source, workspace, fields=FIELDS, data=options.pop("data", DataConfig()), **options)


def records(workspace: Workspace) -> dict[str, list[Record]]:
    found = parts(workspace.data)
    read = {
        split: [one for path in found[split] for one in read_part(path, workspace.root, FIELDS, DataConfig())]
        for split in SPLITS
    }
    assert all(isinstance(one, Record) for rows in read.values() for one in rows)
    return read  # type: ignore[return-value]


def test_pictures_are_copied_once_per_content_and_rows_name_the_copies(source: Path, workspace: Workspace) -> None:
    summary = imported(source, workspace, split=SHARES)
    assert summary.columns == ("image", "label", "note")
    copies = [path for path in (workspace.data / "files").rglob("*") if path.is_file()]
    assert sorted(path.name for path in copies) == sorted({f"{digest_bytes(path.read_bytes())}.png" for path in copies})
    assert len(copies) == 15
    lines = [json.loads(line) for path in workspace.data.rglob("*.jsonl") for line in path.read_text().splitlines()]
    for line in lines:
        original = (source.parent / f"images/{line['note']}.PNG").read_bytes()
        digest = digest_bytes(original)
        assert line["image"] == f"files/{digest[:2]}/{digest}.png"
        assert (workspace.data / line["image"]).read_bytes() == original
    shutil.rmtree(source.parent)
    assert sum(map(len, records(workspace).values())) == 30


def test_rows_with_equal_pictures_stay_in_one_split(source: Path, workspace: Workspace) -> None:
    summary = imported(source, workspace, split=SHARES)
    assert summary.notes[0] == "stratified by label, rows with equal picture stay together"
    pictures = [{one.row["image"] for one in rows} for rows in records(workspace).values()]
    assert sum(map(len, pictures)) == len(set().union(*pictures)) == 15


def test_import_is_deterministic(source: Path, workspace: Workspace) -> None:
    digests = []
    for _ in range(2):
        imported(source, workspace, split=SHARES, replace=True)
        digests.append(digest_folder(workspace.data))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("form", ["bytes", "struct", "uri", "csv"])
def test_every_form_of_a_source_becomes_files(tmp_path: Path, source: Path, workspace: Workspace, form: str) -> None:
    import base64
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line) for line in source.read_text().splitlines()]
    contents = [(source.parent / row["image"]).read_bytes() for row in rows]
    path = source.with_name("other.parquet")
    labels = [row["label"] for row in rows]
    if form == "csv":
        path = path.with_suffix(".csv")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("picture", "label"), *((row["image"], row["label"]) for row in rows)])
    elif form == "uri":
        path = path.with_suffix(".jsonl")
        uris = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in contents]
        lines = [{"picture": uri, "label": label} for uri, label in zip(uris, labels, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        values = contents if form == "bytes" else [{"bytes": content, "path": None} for content in contents]
        pq.write_table(pa.table({"picture": values, "label": labels}), path)
    import_data(path, workspace, fields=FIELDS, split=SHARES, data=DataConfig(columns={"image": "picture"}))
    found = [json.loads(line) for part in workspace.data.rglob("*.jsonl") for line in part.read_text().splitlines()]
    assert {(workspace.data / line["picture"]).read_bytes() for line in found} == set(contents)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("images/none.png", r"rows\.jsonl:31: image: expected a picture, found 'images/none\.png', which is not there"),
        ("../project/x.png", r"rows\.jsonl:31: image: expected the path of a picture in the folder of its file"),
        ("/tmp/x.png", r"rows\.jsonl:31: image: expected the path of a picture in the folder of its file"),
        ("rows.jsonl", r"rows\.jsonl:31: image: expected a picture \(png, jpg, .*\), found bytes of no known format"),
    ],
)
def test_a_bad_picture_stops_the_import_at_its_line(
    source: Path, workspace: Workspace, name: str, message: str
) -> None:
    with source.open("a") as file:
        file.write(json.dumps({"image": name, "label": "top", "note": 0}) + "\n")
    with pytest.raises(DataError, match=message):
        imported(source, workspace)
    assert not workspace.data.exists()


def test_linked_pictures_of_a_source_are_followed(source: Path, workspace: Workspace, tmp_path: Path) -> None:
    (source.parent / "images").rename(tmp_path / "store")
    (source.parent / "images").symlink_to(tmp_path / "store")
    imported(source, workspace, split=SHARES)
    assert not any(path.is_symlink() for path in workspace.data.rglob("*"))


def test_splits_of_a_folder_find_their_pictures_beside_their_file(
    source: Path, workspace: Workspace, tmp_path: Path
) -> None:
    folder = source.parent
    lines = source.read_text().splitlines(keepends=True)
    source.unlink()
    for split, chosen in (("train", lines[:20]), ("validation", lines[20:24]), ("test", lines[24:])):
        (folder / f"{split}.jsonl").write_text("".join(chosen))
    assert imported(folder, workspace).rows == {"train": 20, "validation": 4, "test": 6}
