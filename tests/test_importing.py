"""Import: any of the four formats, split or kept as split, all or nothing."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.data import DataConfig, parts
from graft.errors import DataError
from graft.identity import digest_folder
from graft.importing import Choices, import_data
from graft.tasks import Field
from graft.workspace import Workspace

Rows = list[dict[str, Any]]
FIELDS = (Field("text", "string", text=True), Field("label", "label"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "project").mkdir()
    return Workspace(tmp_path / "project")


def rows(count: int = 40) -> Rows:
    return [
        {
            "id": f"{n:03}",
            "text": f"text, “{n}”",
            "label": "ab"[n % 2],
            "user": n // 4,
            "day": f"2024-01-{1 + n // 2:02}",
        }
        for n in range(count)
    ]


def save(path: Path, table: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(table)
    return path


def load(workspace: Workspace) -> dict[str, Rows]:
    return {
        split: [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        for split, files in parts(workspace.data).items()
    }


def ids(table: Rows) -> set[str]:
    return {row["id"] for row in table}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_file_is_split_with_all_its_columns(workspace: Workspace, tmp_path: Path, suffix: str) -> None:
    summary = import_data(save(tmp_path / f"in{suffix}", rows()), workspace)
    found = load(workspace)
    assert summary.rows == {"train": 32, "validation": 4, "test": 4}
    assert summary.counts == {"train": {"a": 16, "b": 16}, "validation": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}
    assert summary.columns == ("id", "text", "label", "user", "day")
    assert summary.notes == ("stratified by label, rows with equal text stay together",)
    text = [{name: str(value) for name, value in row.items()} for row in rows()]
    merged = sorted((row for table in found.values() for row in table), key=lambda row: str(row["id"]))
    assert merged == (text if suffix in (".csv", ".tsv") else rows())


def test_import_is_deterministic_and_the_seed_moves_rows(workspace: Workspace, tmp_path: Path) -> None:
    source = save(tmp_path / "in.csv", rows())
    digests = []
    for seed in (1, 1, 2):
        import_data(source, workspace, seed=seed, replace=True)
        digests.append(digest_folder(workspace.data))
    assert digests[0] == digests[1] != digests[2]


def test_parts_hold_a_number_of_rows_at_most(workspace: Workspace, tmp_path: Path) -> None:
    summary = import_data(save(tmp_path / "in.jsonl", rows()), workspace, part_rows=15)
    assert summary.parts == {"train": 3, "validation": 1, "test": 1}
    assert [path.name for path in parts(workspace.data)["train"]] == [f"part-{number:04}.jsonl" for number in range(3)]
    assert [len(path.read_text().splitlines()) for path in parts(workspace.data)["train"]] == [15, 15, 2]


def test_groups_do_not_straddle(workspace: Workspace, tmp_path: Path) -> None:
    import_data(save(tmp_path / "in.jsonl", rows()), workspace, group="user")
    users = [{row["user"] for row in table} for table in load(workspace).values()]
    assert sum(map(len, users)) == len(set().union(*users)) == 10


def test_rows_with_equal_text_stay_together(workspace: Workspace, tmp_path: Path) -> None:
    table = [row | {"text": f"text {number // 5}"} for number, row in enumerate(rows(100))]
    import_data(save(tmp_path / "in.jsonl", table), workspace)
    texts = [{row["text"] for row in table} for table in load(workspace).values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 20


@pytest.mark.parametrize("task", ["translation", "preference", "token_classification", "question_answering"])
def test_rows_that_ask_the_same_stay_together_in_every_task(workspace: Workspace, tmp_path: Path, task: str) -> None:
    fields = tasks.get(task).fields
    values = {
        "source": "same {}",
        "prompt": "same {}",
        "tokens": ["same", "{}"],
        "question": "same {}",
        "context": "a context",
    }
    answers = {"target": "t {}", "chosen": "c {}", "rejected": "r {}", "tags": ["O", "O"]}
    table = [
        {"id": str(row), "answers": {"text": [], "answer_start": []}}
        | {name: _numbered(value, row // 10) for name, value in values.items()}
        | {name: _numbered(value, row) for name, value in answers.items()}
        for row in range(200)
    ]
    summary = import_data(save(tmp_path / "rows.jsonl", table), workspace, fields=fields)
    places: dict[str, set[str]] = {}
    for split, files in parts(workspace.data).items():
        for row in (json.loads(line) for path in files for line in path.read_text().splitlines()):
            places.setdefault(json.dumps([row[name] for name in values]), set()).add(split)
    assert all(len(splits) == 1 for splits in places.values()), summary.notes


def _numbered(value: Any, number: int) -> Any:
    return [one.format(number) for one in value] if isinstance(value, list) else value.format(number)


@pytest.mark.parametrize("column", ["day", "user"])
def test_time_split_trains_on_the_oldest(workspace: Workspace, tmp_path: Path, column: str) -> None:
    import_data(save(tmp_path / "in.csv", rows()[::-1]), workspace, time=column)
    found = {split: [float(row["user"]) for row in table] for split, table in load(workspace).items()}
    assert max(found["train"]) <= min(found["validation"]) <= max(found["validation"]) <= min(found["test"])


@pytest.mark.parametrize("form", ["{split}.jsonl", "{split}/any.csv", "{split}-00000-of-00001.parquet"])
def test_splits_of_a_folder_are_kept(workspace: Workspace, tmp_path: Path, form: str) -> None:
    for split, table in (("train", rows()[:5]), ("dev", rows()[5:8]), ("test", rows()[8:9])):
        save(tmp_path / "in" / form.format(split=split), table)
    summary = import_data(tmp_path / "in", workspace)
    assert summary.rows == {"train": 5, "validation": 3, "test": 1}
    assert ids(load(workspace)["validation"]) == {"005", "006", "007"}
    with pytest.raises(
        DataError, match="in: has its own train, validation and test, which are kept; leave the options"
    ):
        import_data(tmp_path / "in", workspace, split=(80, 10, 10), replace=True)


def test_absent_validation_is_taken_from_train(workspace: Workspace, tmp_path: Path) -> None:
    save(tmp_path / "in" / "train.jsonl", rows()[:36])
    save(tmp_path / "in" / "test.jsonl", rows()[36:])
    (tmp_path / "in" / "README.md").write_text("read me")
    summary = import_data(tmp_path / "in", workspace)
    assert summary.rows == {"train": 32, "validation": 4, "test": 4}
    assert ids(load(workspace)["test"]) == {"036", "037", "038", "039"}
    assert summary.notes[0].startswith("validation taken from train, stratified by label")
    assert summary.notes[1] == "left out: README.md"


def test_folder_of_tables_without_split_names_is_one_source(workspace: Workspace, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.csv", rows()[:20])
    save(tmp_path / "in" / "b.csv", rows()[20:])
    assert sum(import_data(tmp_path / "in", workspace).rows.values()) == 40


def test_bad_rows_are_named_and_existing_data_stays(workspace: Workspace, tmp_path: Path) -> None:
    import_data(save(tmp_path / "good.jsonl", rows()), workspace)
    before = digest_folder(workspace.data)
    source = save(tmp_path / "in.jsonl", rows())
    lines = source.read_text().splitlines()
    lines[6] = lines[6][:-1]
    lines[8] = "[]"
    source.write_text("\n".join(lines))
    with pytest.raises(
        DataError, match=r"in\.jsonl: nothing imported, 2 problems\n  - in\.jsonl:7: .*\n  - in\.jsonl:9: "
    ):
        import_data(source, workspace, replace=True)
    assert digest_folder(workspace.data) == before
    assert [path.name for path in workspace.root.iterdir()] == ["data"]


def test_existing_data_is_replaced_on_request_only(workspace: Workspace, tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", rows())
    import_data(source, workspace)
    with pytest.raises(DataError, match="there is data already; --replace replaces it"):
        import_data(source, workspace)
    assert sum(import_data(source, workspace, replace=True).rows.values()) == 40


def test_project_data_can_be_split_anew(workspace: Workspace, tmp_path: Path) -> None:
    import_data(save(tmp_path / "in.jsonl", rows()), workspace)
    merged = save(workspace.root / "all.jsonl", [row for table in load(workspace).values() for row in table])
    assert import_data(merged, workspace, split=(50, 25, 25), replace=True).rows == {
        "train": 20,
        "validation": 10,
        "test": 10,
    }


def test_shares_that_are_no_percentages_are_said(workspace: Workspace, tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", rows())
    [note] = import_data(source, workspace, split=(80, 10, 20)).notes
    assert note.endswith("; the shares 80/10/20 add up to 110: train 72.7%, validation 9.09%, test 18.2%")
    [note] = import_data(source, workspace, split=(70, 10, 20), replace=True).notes
    assert "add up" not in note


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_row_without_label_is_named_with_a_way_on_and_taken_where_validate_keeps_it_aside(
    workspace: Workspace, tmp_path: Path, suffix: str
) -> None:
    table = rows()
    table[3]["label"] = "" if suffix == ".csv" else None
    source = save(tmp_path / f"in{suffix}", table)
    with pytest.raises(DataError, match=r"nothing imported, 1 problem; with `validation.severity.missing: quarantine`"):
        import_data(source, workspace, fields=FIELDS)
    summary = import_data(source, workspace, fields=FIELDS, choices=Choices(takes_missing=True))
    assert sum(summary.rows.values()) == len(table)
    assert summary.notes[0].startswith("stratified by label")
    assert [row["label"] for split in load(workspace).values() for row in split].count(table[3]["label"]) == 1
    bad = save(tmp_path / "bad.jsonl", [*table, {"text": ["no text"], "label": "a"}])
    with pytest.raises(DataError, match=r"nothing imported, 1 problem\n"):
        import_data(bad, workspace, fields=FIELDS, choices=Choices(takes_missing=True), replace=True)


def test_a_column_that_an_option_named_is_mended_there(workspace: Workspace, tmp_path: Path) -> None:
    source = save(tmp_path / "in.csv", [{"body": "b", "label": "a"}] * 9)
    data, choices = DataConfig(columns={"text": "boddy"}), Choices(options={"text": "--text"})
    with pytest.raises(DataError, match=r"did you mean 'body'\? Give --text"):
        import_data(source, workspace, fields=FIELDS, data=data, choices=choices)


def test_fields_give_tables_their_types_and_missing_columns_their_name(workspace: Workspace, tmp_path: Path) -> None:
    source = save(
        tmp_path / "in.csv", [{"body": "b", "score": f"{n}.5", "label": "007", "note": "1"} for n in range(10)]
    )
    fields = (*FIELDS, Field("score", "number"))
    with pytest.raises(DataError, match=r"in\.csv:1: text: expected a column of that name"):
        import_data(source, workspace, fields=fields)
    import_data(source, workspace, fields=fields, data=DataConfig(columns={"text": "body"}), group="score")
    row = load(workspace)["train"][0]
    assert {type(value) for name, value in row.items() if name != "score"} == {str}
    assert isinstance(row["score"], float)
    assert row["label"] == "007"


def test_parquet_times_become_text_and_missing_numbers_null(workspace: Workspace, tmp_path: Path) -> None:
    import datetime
    import decimal

    day = datetime.datetime(2024, 5, 1, 12, 0)
    table = [{"text": str(n), "at": day + datetime.timedelta(n), "n": float("nan")} for n in range(10)]
    import_data(save(tmp_path / "in.parquet", table), workspace, time="at")
    assert load(workspace)["train"][0] == {"text": "0", "at": "2024-05-01T12:00:00", "n": None}
    other = save(tmp_path / "other.parquet", [{"text": "a", "price": decimal.Decimal("1.5")}])
    with pytest.raises(
        DataError, match=r"other\.parquet:1: price: expected a value that JSON has, found Decimal '1.5'"
    ):
        import_data(other, workspace, replace=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": (80, 10)}, "give three whole numbers"),
        ({"split": (0, 10, 10)}, "give three whole numbers"),
        ({"time": "day", "group": "user"}, "rows are split by time alone"),
        ({"part_rows": 0}, "give a number of rows above 0"),
        ({"group": "nobody"}, r"in\.csv:2: nobody: expected a column of that name, found only "),
        ({"time": "text"}, r"in\.csv:2: text: expected a time \(ISO 8601 or a finite number\), found 'text, “0”'"),
        ({"stratify": "nothing"}, r"in\.csv:2: nothing: expected a value to stratify by"),
        ({"split": (1, 1, 0)}, "too few for test"),
    ],
)
def test_bad_options_are_refused(workspace: Workspace, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_data(save(tmp_path / "in.csv", rows()), workspace, **options)
    assert not workspace.data.exists()


def test_source_that_is_not_there_or_mixed_or_too_small_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        import_data(tmp_path / "nothing.csv", workspace)
    with pytest.raises(DataError, match="2 rows in 2 groups: too few for validation and test"):
        import_data(save(tmp_path / "in.csv", rows(2)), workspace)
    save(tmp_path / "mixed" / "train.csv", rows())
    save(tmp_path / "mixed" / "more.csv", rows())
    with pytest.raises(DataError, match=r"some files are named as splits, but not more\.csv"):
        import_data(tmp_path / "mixed", workspace)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.jsonl, \.json, .* files in it"):
        import_data(tmp_path / "empty", workspace)
    save(tmp_path / "headless" / "test.csv", rows())
    with pytest.raises(DataError, match="has test, but nothing named train"):
        import_data(tmp_path / "headless", workspace)


def test_labels_are_shown_a_line_each_the_most_frequent_first(
    tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    from graft.cli.project import _print_import

    table = [
        {"text": f"text {number} {copy}", "label": f"a label with a long name, number {number} {'x' * 200}"}
        for number in range(12)
        for copy in range(10 if number else 20)
    ]
    _print_import(import_data(save(tmp_path / "in.jsonl", table), workspace))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    [head] = [number for number, line in enumerate(lines) if line.startswith("label ")]
    assert lines[head].split() == ["label", "train", "validation", "test"]
    assert lines[head + 1].startswith("a label with a long name, number 0 xxx")
    assert sum(map(int, lines[head + 1].split("…")[1].split())) == 20
    assert lines[head + 11] == "and 2 more labels"
