"""Import of every other format: packed files, plain text, chat layouts, data sets of the datasets library."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.data import DataConfig, Record, parts, read_part
from graft.errors import DataError, IntegrityError, ResourceMissing
from graft.identity import digest_bytes, digest_folder
from graft.importing import Choices, ImportSummary, import_data
from graft.tasks import Field
from graft.workspace import SPLITS, Workspace

FIELDS = (Field("text", "string", text=True), Field("label", "label"))
CHAT = tasks.get("chat").fields
SHARES = (60, 20, 20)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "project").mkdir()
    return Workspace(tmp_path / "project")


def rows(count: int = 20) -> list[dict[str, Any]]:
    return [{"text": f"text “{number}”", "label": "ab"[number % 2], "n": number} for number in range(count)]


def load(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        for split, files in parts(workspace.data).items()
    }


def merged(workspace: Workspace) -> list[dict[str, Any]]:
    return [row for table in load(workspace).values() for row in table]


def save(folder: Path, name: str, table: list[dict[str, Any]]) -> Path:
    """Write a table by the libraries that people have."""
    import pandas as pd
    import pyarrow as pa

    path = folder / name
    if name.startswith("saved"):
        import datasets

        datasets.Dataset.from_list(table).save_to_disk(path)
    elif ".json" in name:
        packing = {"gz": "gzip", "zst": None}.get(name.rpartition(".")[2])
        content = pd.DataFrame(table).to_json(orient="records", lines=".jsonl" in name, force_ascii=False).encode()
        path.write_bytes(gzip.compress(content) if packing else content)
        if name.endswith(".zst"):
            path.write_bytes(pa.compress(content, codec="zstd", asbytes=True))
    elif name.endswith(".arrow"):
        pd.DataFrame(table).to_feather(path)
    else:
        pd.DataFrame(table).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl.gz", "a.jsonl.zst", "a.csv.gz", "a.arrow", "saved"])
def test_every_format_gives_the_same_parts(workspace: Workspace, tmp_path: Path, name: str) -> None:
    table = [row | {"n": str(row["n"])} for row in rows()]  # a table of text has no numbers
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    digests = []
    for source in (tmp_path / "plain.jsonl", save(tmp_path, name, table), tmp_path / name):
        summary = import_data(source, workspace, fields=FIELDS, split=SHARES, replace=True)
        digests.append(digest_folder(workspace.data))
    assert len(set(digests)) == 1
    assert summary.rows == {"train": 12, "validation": 4, "test": 4}
    assert summary.provenance == {"source": name, "rows": summary.rows}


def test_a_damaged_packing_costs_no_data(workspace: Workspace, tmp_path: Path) -> None:
    import_data(save(tmp_path, "good.json", rows()), workspace)
    before = digest_folder(workspace.data)
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(save(tmp_path, "whole.jsonl.gz", rows()).read_bytes()[:-10])
    with pytest.raises(DataError, match=r"in\.jsonl\.gz: expected a whole gzip file, found one that is cut off"):
        import_data(source, workspace, replace=True)
    assert digest_folder(workspace.data) == before


def test_a_file_of_problems_names_the_first_and_counts_all(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([7] * 3000))
    with pytest.raises(DataError, match=r"in\.json: nothing imported, 3000 problems\n  - in\.json:1: ") as error:
        import_data(tmp_path / "in.json", workspace)
    assert len(error.value.problems) == 1000


def test_nested_values_of_arrow_become_json(workspace: Workspace, tmp_path: Path) -> None:
    import datetime

    table = [{"text": str(n), "seen": {"days": [datetime.date(2024, 5, 1)], "score": float("nan")}} for n in range(10)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(table), tmp_path / "in.parquet")
    import_data(tmp_path / "in.parquet", workspace)
    assert load(workspace)["train"][0]["seen"] == {"days": ["2024-05-01"], "score": None}


# -- plain text


def test_plain_text_becomes_rows_of_the_unit_that_is_named(workspace: Workspace, tmp_path: Path) -> None:
    fields = tasks.get("text_generation").fields
    source = tmp_path / "book.txt.gz"
    source.write_bytes(gzip.compress("".join(f"one {n}\ntwo {n}\n\n" for n in range(10)).encode()))
    with pytest.raises(DataError, match=r"book\.txt\.gz: plain text: say what a row is, by --rows line"):
        import_data(source, workspace, fields=fields)
    summary = import_data(source, workspace, fields=fields, choices=Choices(unit="paragraph"))
    assert sum(summary.rows.values()) == 10
    assert load(workspace)["train"][0] == {"text": "one 0\ntwo 0"}
    import_data(source, workspace, fields=fields, choices=Choices(unit="line"), replace=True)
    assert len(merged(workspace)) == 20
    folder = tmp_path / "stories"
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        for number in range(3):
            (folder / split / f"{number}.txt").write_text(f"{split}\n\n{number}\n")
    with pytest.raises(DataError, match=r"\d\.txt: plain text: say what a row is"):
        import_data(folder, workspace, fields=fields, replace=True)
    import_data(folder, workspace, fields=fields, choices=Choices(unit="file"), replace=True)
    assert load(workspace)["test"] == [{"text": f"test\n\n{number}"} for number in range(3)]


def test_plain_text_goes_to_the_column_of_the_text_where_the_task_has_one(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(10))))
    line = Choices(unit="line")
    fields = tasks.get("text_generation").fields
    import_data(tmp_path / "a.txt", workspace, fields=fields, choices=line, data=DataConfig(columns={"text": "body"}))
    assert load(workspace)["train"][0] == {"body": "0"}
    with pytest.raises(DataError, match=r"a\.txt: plain text has the column text alone; the task reads prompt, system"):
        import_data(tmp_path / "a.txt", workspace, fields=CHAT, choices=line, replace=True)
    with pytest.raises(DataError, match=r"--rows line: only for plain text, and in\.json has none"):
        import_data(save(tmp_path, "in.json", rows()), workspace, choices=line, replace=True)


# -- chat


SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Hi {n}?"}, {"from": "gpt", "value": f"Hello {n}."}]}
    for n in range(10)
]
ALPACA = [{"instruction": f"Say {n}.", "input": "", "output": str(n)} for n in range(10)]


def write(path: Path, table: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, ensure_ascii=False))
    return path


def test_a_chat_layout_is_converted_and_named(workspace: Workspace, tmp_path: Path) -> None:
    summary = import_data(write(tmp_path / "in.json", SHAREGPT), workspace, fields=CHAT)
    assert load(workspace)["train"][0] == {
        "messages": [{"role": "user", "content": "Hi 0?"}, {"role": "assistant", "content": "Hello 0."}]
    }
    assert summary.layouts == {"in.json": "sharegpt; role human -> user; role gpt -> assistant"}
    assert summary.provenance["layouts"] == summary.layouts
    found = [
        read_part(path, workspace.root, CHAT, DataConfig())
        for files in parts(workspace.data).values()
        for path in files
    ]
    assert all(isinstance(one, Record) for part in found for one in part)


def test_each_file_has_a_layout_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    for split, table in (("train", SHAREGPT), ("validation", ALPACA), ("test", ALPACA)):
        write(tmp_path / "in" / f"{split}.json", table)
    summary = import_data(tmp_path / "in", workspace, fields=CHAT)
    assert {name: text.partition(";")[0] for name, text in summary.layouts.items()} == {
        "in/train.json": "sharegpt",
        "in/validation.json": "alpaca",
        "in/test.json": "alpaca",
    }


def test_what_is_ambiguous_needs_the_option_and_what_is_mixed_names_rows(workspace: Workspace, tmp_path: Path) -> None:
    both = [one | two for one, two in zip(SHAREGPT, ALPACA, strict=True)]
    source = write(tmp_path / "both.json", both)
    with pytest.raises(DataError, match=r"both\.json: the layouts sharegpt and alpaca fit its rows; say which"):
        import_data(source, workspace, fields=CHAT)
    assert not workspace.data.exists()
    summary = import_data(source, workspace, fields=CHAT, choices=Choices(layout="alpaca"))
    assert summary.columns == ("conversations", "prompt", "completion")
    mixed = write(tmp_path / "mixed.json", [*SHAREGPT, *ALPACA])
    with pytest.raises(
        DataError, match=r"sharegpt in 10 \(first mixed\.json:1\), alpaca in 10 \(first mixed\.json:1:\d+\)"
    ):
        import_data(mixed, workspace, fields=CHAT, replace=True)
    with pytest.raises(DataError, match=r"nothing imported, 10 problems\n.*expected the layout sharegpt \(a list of"):
        import_data(mixed, workspace, fields=CHAT, choices=Choices(layout="sharegpt"), replace=True)


def test_columns_that_are_named_are_no_layout(workspace: Workspace, tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", ALPACA)
    columns = DataConfig(columns={"prompt": "instruction", "completion": "output"})
    summary = import_data(source, workspace, fields=CHAT, data=columns)
    assert (summary.layouts, summary.columns) == ({}, ("instruction", "input", "output"))
    with pytest.raises(DataError, match=r"--layout and data\.columns\.prompt both say where conversations lie"):
        import_data(source, workspace, fields=CHAT, data=columns, choices=Choices(layout="alpaca"), replace=True)


def test_conversations_in_the_cells_of_a_table_are_json(workspace: Workspace, tmp_path: Path) -> None:
    import pandas as pd

    cells = [{"conversations": json.dumps(one["conversations"]), "n": "1"} for one in SHAREGPT]
    pd.DataFrame(cells).to_csv(tmp_path / "in.csv", index=False)
    summary = import_data(tmp_path / "in.csv", workspace, fields=CHAT)
    assert summary.layouts["in.csv"].startswith("sharegpt")
    assert load(workspace)["train"][0]["messages"][0] == {"role": "user", "content": "Hi 0?"}
    cells[3]["conversations"] = "[{]"
    pd.DataFrame(cells).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(DataError, match=r"in\.csv:5: conversations: expected a list, as JSON"):
        import_data(tmp_path / "in.csv", workspace, fields=CHAT, replace=True)


# -- data sets of the datasets library


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def typed(library: Any, count: int = 10) -> Any:
    features = library.Features(
        {
            "text": library.Value("string"),
            "label": library.ClassLabel(names=["no", "yes"]),
            "tags": library.List(library.ClassLabel(names=["O", "B-x"])),
            "translation": library.Translation(["de", "en"]),
            "answers": {"text": library.List(library.Value("string")), "kind": library.ClassLabel(names=["a"])},
        }
    )
    table = [
        {
            "text": f"text {n}",
            "label": n % 2,
            "tags": [0, 1],
            "translation": {"de": f"d{n}", "en": f"e{n}"},
            "answers": {"text": ["x"], "kind": 0},
        }
        for n in range(count)
    ]
    return library.Dataset.from_list(table, features=features)


PLAIN = {
    "text": "text 1",
    "label": "yes",
    "tags": ["O", "B-x"],
    "de": "d1",
    "en": "e1",
    "answers": {"text": ["x"], "kind": "a"},
}


def test_a_saved_data_set_gives_plain_values_and_keeps_its_splits(
    workspace: Workspace, tmp_path: Path, library: Any
) -> None:
    found = typed(library)
    library.DatasetDict(train=found, dev=found.select([1]), test=found.select([2])).save_to_disk(tmp_path / "saved")
    summary = import_data(tmp_path / "saved", workspace, fields=FIELDS)
    assert summary.rows == {"train": 10, "validation": 1, "test": 1}
    assert load(workspace)["validation"] == [PLAIN]
    assert summary.notes[0] == "splits kept as they were"
    found.save_to_disk(tmp_path / "single")
    summary = import_data(tmp_path / "single", workspace, fields=FIELDS, replace=True, split=SHARES)
    assert PLAIN in merged(workspace)
    assert summary.rows == {"train": 6, "validation": 2, "test": 2}


def test_a_row_without_a_label_has_none(workspace: Workspace, tmp_path: Path, library: Any) -> None:
    features = library.Features({"text": library.Value("string"), "label": library.ClassLabel(names=["no", "yes"])})
    table = {"text": [f"text {n}" for n in range(10)], "label": [-1, *[0, 1, 1] * 3]}
    library.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved:1: label: expected a label .*, found null"):
        import_data(tmp_path / "saved", workspace, fields=FIELDS, split=SHARES)


def test_splits_are_taken_by_name(workspace: Workspace, tmp_path: Path, library: Any) -> None:
    found = typed(library)
    library.DatasetDict(train=found, unsupervised=found, held_out=found.select([1])).save_to_disk(tmp_path / "saved")

    def imported(**take: str | None) -> ImportSummary:
        choices = Choices(take=take)
        return import_data(tmp_path / "saved", workspace, fields=FIELDS, choices=choices, split=SHARES, replace=True)

    with pytest.raises(DataError, match=r"saved: has the splits train, unsupervised, held_out; say what they become"):
        imported()
    with pytest.raises(DataError, match=r"--take nothing: saved has the splits train, unsupervised, held_out"):
        imported(nothing=None)
    assert imported(train=None).rows == {"train": 6, "validation": 2, "test": 2}
    assert imported(unsupervised=None).rows == {"train": 6, "validation": 2, "test": 2}
    summary = imported(train="train", held_out="test")
    assert (summary.rows["test"], load(workspace)["test"]) == (1, [PLAIN])
    assert summary.provenance["splits"] == "train as train, held_out as test"


def test_pictures_of_a_data_set_become_files(
    workspace: Workspace, tmp_path: Path, library: Any, picture_of: Any
) -> None:
    contents = [picture_of("left", number) for number in range(10)]
    table = {"image": [{"bytes": one, "path": None} for one in contents], "label": [0, 1] * 5}
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["left", "right"])})
    library.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "saved")
    fields = tasks.get("image_classification").fields
    import_data(tmp_path / "saved", workspace, fields=fields, split=SHARES)
    found = merged(workspace)
    assert {digest_bytes((workspace.data / row["image"]).read_bytes()) for row in found} == set(
        map(digest_bytes, contents)
    )
    assert {row["label"] for row in found} == {"left", "right"}
    with pytest.raises(
        DataError, match="saved: image: is of type Image, which the task does not read; remove the column"
    ):
        import_data(tmp_path / "saved", workspace, fields=FIELDS, replace=True)


def test_a_picture_outside_the_data_set_is_not_read(
    workspace: Workspace, tmp_path: Path, library: Any, picture_of: Any
) -> None:
    (tmp_path / "mine.png").write_bytes(picture_of("left", 1))
    stored = library.Features(
        {
            "image": {"bytes": library.Value("binary"), "path": library.Value("string")},
            "label": library.Value("string"),
        }
    )
    table = {"image": [{"bytes": None, "path": str(tmp_path / "mine.png")}] * 10, "label": ["a", "b"] * 5}
    library.Dataset.from_dict(table, features=stored).save_to_disk(tmp_path / "saved")
    path = tmp_path / "saved" / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"features": info["features"] | {"image": {"_type": "Image"}}}))
    fields = tasks.get("image_classification").fields
    with pytest.raises(DataError, match=r"saved:1: image: expected a picture"):
        import_data(tmp_path / "saved", workspace, fields=fields)


def test_a_damaged_saved_data_set_is_named(workspace: Workspace, tmp_path: Path, library: Any) -> None:
    typed(library).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(DataError, match="saved: cannot be loaded by the datasets library"):
        import_data(tmp_path / "saved", workspace)


@pytest.fixture
def clone(tmp_path: Path, library: Any) -> Path:
    """A clone of a Hub repository: Parquet files, and a card that names two configurations."""
    folder = tmp_path / "clone"
    for config in ("en", "de"):
        (folder / config).mkdir(parents=True)
        typed(library, 10 if config == "en" else 20).to_parquet(folder / config / "train-00000-of-00001.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train*\n" for name in ("en", "de"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


def test_a_clone_of_the_hub_is_loaded_by_its_card(workspace: Workspace, clone: Path) -> None:
    with pytest.raises(DataError, match=r"Config name is missing.*'en', 'de'.*; name one by --config"):
        import_data(f"hub:{clone}", workspace, fields=FIELDS)
    choices = Choices(config="de")
    summary = import_data(f"hub:{clone}", workspace, fields=FIELDS, choices=choices, split=SHARES)
    assert sum(summary.rows.values()) == 20
    assert summary.provenance == {"source": "hub:clone", "config": "de", "rows": summary.rows}
    assert PLAIN in merged(workspace)
    with pytest.raises(DataError, match="--revision: only for a data set on the Hub"):
        import_data(f"hub:{clone}", workspace, choices=Choices(config="de", revision="main"), replace=True)
    with pytest.raises(DataError, match=r"hub:\./nowhere: no such folder"):
        import_data("hub:./nowhere", workspace, replace=True)
    (clone.parent / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot be loaded by the datasets library: .*doesn't contain any data files"):
        import_data(f"hub:{clone.parent / 'empty'}", workspace, replace=True)


def test_offline_says_what_to_do(workspace: Workspace, library: Any) -> None:
    message = (
        r"hub:org/name: the Hub cannot be reached \(OfflineModeIsEnabled\); connect \(HF_HUB_OFFLINE=0\), give "
        r"--revision as the full commit .*load_dataset\('org/name'\)\.save_to_disk\('folder'\)`, and import that folder"
    )
    with pytest.raises(ResourceMissing, match=message):
        import_data("hub:org/name", workspace)
    with pytest.raises(ResourceMissing, match=r"hub:org/name: the Hub cannot be reached"):
        import_data("hub:org/name", workspace, choices=Choices(revision=COMMIT))
    with pytest.raises(DataError, match=r"must be hub:org/name or hub:\./folder"):
        import_data("hub:or g/na/me", workspace)


def test_without_a_connection_the_cache_serves_its_own_commit_alone(
    workspace: Workspace, tmp_path: Path, library: Any, clone: Path
) -> None:
    """The library takes the newest that its cache holds, whatever commit was asked for."""
    builder = library.load_dataset_builder(str(clone), name="en")
    builder.download_and_prepare()
    place = tmp_path / "cache" / "org___name" / "en" / "0.0.0" / COMMIT
    shutil.copytree(builder.cache_dir, place)
    for path in place.glob("*.arrow"):
        path.rename(path.with_name(path.name.replace("clone-", "name-")))
    wanted = Choices(config="en", revision=COMMIT)
    summary = import_data("hub:org/name", workspace, fields=FIELDS, choices=wanted, split=SHARES)
    assert summary.provenance["revision"] == COMMIT
    assert len(merged(workspace)) == 10
    with pytest.raises(IntegrityError, match=f"holds commit {COMMIT}, not {'f' * 40}; connect to the Hub"):
        import_data("hub:org/name", workspace, choices=Choices(config="en", revision="f" * 40), replace=True)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(revision="main"), "--revision: only for a data set on the Hub"),
        (Choices(config="en"), "--config: only for a data set on the Hub or its clone"),
        (Choices(take={"train": None}), "--take: only for a data set with splits"),
    ],
)
def test_options_of_data_sets_are_refused_for_files(
    workspace: Workspace, tmp_path: Path, choices: Choices, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        import_data(save(tmp_path, "in.json", rows()), workspace, choices=choices)


def test_files_are_imported_without_the_datasets_library(tmp_path: Path) -> None:
    """It takes seconds to import."""
    save(tmp_path, "in.json", rows())
    (tmp_path / "project").mkdir()
    code = (
        "import sys; from pathlib import Path; from graft.importing import import_data; from graft.workspace import "
        "Workspace; import_data(Path('in.json'), Workspace(Path('project'))); assert 'datasets' not in sys.modules"
    )
    source = str(Path(tasks.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": source})
