"""Data folders and the rows of a task: schema, labels as text, ids, cleaning, what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, Record, data_digest, parts, read_part, rows_of
from graft.errors import ConfigError, DataError
from graft.reading import LACKING
from graft.tasks import Field

TEXT = Field("text", "string", text=True)
LABEL = Field("label", "label")
FIELDS = (TEXT, LABEL)


def part(folder: Path, rows: list[dict[str, Any]] | str, name: str = "part.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(content, encoding="utf-8")
    return path


def read(path: Path, fields: tuple[Field, ...] = FIELDS, **config: Any) -> list[Record | Problem]:
    return list(read_part(path, path.parent, fields, DataConfig(**config)))


def messages(found: list[Record | Problem]) -> list[str]:
    return [str(one) for one in found if isinstance(one, Problem)]


def test_record_has_fields_place_and_id(tmp_path: Path) -> None:
    path = part(tmp_path, [{"id": 12, "text": " a ", "label": "x", "more": [1]}, {"text": "b", "label": "y"}])
    assert read(path) == [
        Record({"text": " a ", "label": "x"}, "part.jsonl:1", "12"),
        Record({"text": "b", "label": "y"}, "part.jsonl:2", None),
    ]


@pytest.mark.parametrize(
    ("value", "label"),
    [("007", "007"), (7, "7"), (True, "true"), (False, "false"), ("7.0", "7.0"), (10**20, str(10**20))],
)
def test_label_is_kept_as_text(tmp_path: Path, value: Any, label: str) -> None:
    (found,) = read(part(tmp_path, [{"text": "a", "label": value}]))
    assert isinstance(found, Record)
    assert found.row["label"] == label


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": 1.0}, "label: expected a label (string, integer or boolean), found the number 1.0"),
        ({"text": "a", "label": " "}, "label: expected a label, found an empty one, ' '"),
        ({"text": "a", "label": None}, "label: expected a label (string, integer or boolean), found null"),
        ({"text": 5, "label": "x"}, "text: expected a string, found the integer 5"),
        ({"text": ["a"], "label": "x"}, "text: expected a string, found a list: ['a']"),
        ({"text": "a", "label": "x", "id": 1.5}, "id: expected an id (string or integer), found the number 1.5"),
    ],
)
def test_wrong_type_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = part(tmp_path, [{"text": "a", "label": "x"}, row])
    assert messages(read(path)) == [f"part.jsonl:2: {message}"]


def test_all_problems_of_a_row_are_reported(tmp_path: Path) -> None:
    assert len(messages(read(part(tmp_path, [{"text": 1, "label": 1.5, "id": []}])))) == 3


def test_missing_column_is_named_once_with_the_nearest(tmp_path: Path) -> None:
    path = part(tmp_path, [{"text": "a", "lable": "x"}] * 3)
    (message,) = messages(read(path))
    assert message == (
        "part.jsonl:1: label: expected a column of that name, found only 'text, lable'; did you mean 'lable'? "
        "Set data.columns.label"
    )


def test_missing_answer_is_likely_the_column_that_others_call_so(tmp_path: Path) -> None:
    (found,) = messages(
        read(part(tmp_path, [{"text": "a", "score": 1}]), (Field("text", "string"), Field("target", "number")))
    )
    assert found.endswith("found only 'text, score'; did you mean 'score'? Set data.columns.target")


def test_missing_column_of_a_table_is_named_at_its_header(tmp_path: Path) -> None:
    (message,) = messages(read(part(tmp_path, "text,kind\na,x\nb,y\n", "part.csv")))
    assert message.startswith(
        "part.csv:1: label: expected a column of that name, found only 'text, kind'; data.columns.label"
    )


def test_row_that_lacks_a_column_which_others_have_is_named(tmp_path: Path) -> None:
    path = part(tmp_path, [{"text": "a", "label": "x"}, {"text": "b"}, {"text": "c"}])
    assert [message.partition(" ")[0] for message in messages(read(path))] == ["part.jsonl:2:", "part.jsonl:3:"]


@pytest.mark.parametrize("name", ["part.jsonl", "part.json"])
def test_a_first_row_without_a_column_that_later_ones_have_is_a_row_and_no_part(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "c", "label": "x"}, {"text": "d"}]
    written = part(tmp_path, rows).read_text()
    path = part(tmp_path, written if name.endswith("l") else f"[{','.join(written.splitlines())}]", name)
    found = read(path)
    problems = [one for one in found if isinstance(one, Problem)]
    assert [(one.field, one.found, one.of_part) for one in problems] == [("label", LACKING, False)] * 3
    places = [one.place for one in found]
    assert len(set(places)) == 4
    assert isinstance(found[2], Record)


def test_columns_map_fields_to_columns(tmp_path: Path) -> None:
    path = part(tmp_path, [{"body": "a", "kind": 3, "key": "k"}])
    columns = {"text": "body", "label": "kind", "id": "key"}
    assert read(path, columns=columns) == [Record({"text": "a", "label": "3"}, "part.jsonl:1", "k")]
    assert "id: expected" not in "".join(messages(read(path)))
    assert "ident: expected a column" in messages(read(path, columns=columns | {"id": "ident"}))[0]


def test_columns_of_an_unknown_field_are_refused(tmp_path: Path) -> None:
    path = part(tmp_path, [{"text": "a", "label": "x"}])
    with pytest.raises(
        ConfigError, match=re.escape("data.columns.txt: the task has no such field; its fields are text, label")
    ):
        read(path, columns={"txt": "body"})


def test_optional_field_may_be_absent_null_or_an_empty_cell(tmp_path: Path) -> None:
    fields = (TEXT, Field("pair", "string", required=False))
    for path in (
        part(tmp_path, [{"text": "a"}, {"text": "a", "pair": None}]),
        part(tmp_path, "text,pair\na,\n", "part.csv"),
        part(tmp_path, "text\na\n", "other.csv"),
    ):
        found = read(path, fields)
        assert found
        assert all(isinstance(one, Record) and one.row == {"text": "a", "pair": None} for one in found)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("3", 3), ("-1.5", -1.5), ("2e3", 2000.0), ("nan", None), ("1_000", None), ("", None), ("1e999", None)],
)
def test_number_in_a_table_is_a_plain_finite_number(tmp_path: Path, cell: str, value: float | None) -> None:
    (found,) = read(part(tmp_path, f"score,x\n{cell},1\n", "part.csv"), (Field("score", "number"),))
    if value is None:
        assert str(found).startswith("part.csv:2: score: expected a finite number")
    else:
        assert isinstance(found, Record)
        assert found.row["score"] == value


@pytest.mark.parametrize("value", [True, "3", 10**400])
def test_json_number_is_neither_boolean_nor_text_nor_too_large(tmp_path: Path, value: Any) -> None:
    (found,) = read(part(tmp_path, [{"score": value}]), (Field("score", "number"),))
    assert "score: expected a finite number, found the" in str(found)


def test_strings_are_a_list_in_json_and_json_in_a_table(tmp_path: Path) -> None:
    fields = (Field("tags", "strings", text=True),)
    for path in (part(tmp_path, [{"tags": ["a", "b"]}]), part(tmp_path, 'tags\n"[""a"", ""b""]"\n', "part.csv")):
        assert read(path, fields) == [Record({"tags": ["a", "b"]}, f"{path.name}:{1 + (path.suffix == '.csv')}")]
    assert "tags: expected a list of strings, found a list: [1]" in str(
        read(part(tmp_path, [{"tags": [1]}]), fields)[0]
    )
    nested = part(tmp_path, "tags\n" + "[" * 50_000 + "\n", "deep.csv")
    assert "tags: expected a list of strings, as JSON" in str(read(nested, fields)[0])


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ANSWERS = {"text": ["Bonn", "in Bonn"], "answer_start": [3, 0]}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("labels", ["a", 7, True], ["a", "7", "true"]),
        ("labels", [], []),
        ("messages", MESSAGES, MESSAGES),
        ("answers", ANSWERS, ANSWERS),
        ("answers", {"text": [], "answer_start": []}, {"text": [], "answer_start": []}),
    ],
)
def test_structured_fields_are_themselves_in_json_and_json_in_a_table(
    tmp_path: Path, kind: Any, value: Any, expected: Any
) -> None:
    fields = (Field("it", kind),)
    cell = json.dumps(value).replace('"', '""')
    for path in (part(tmp_path, [{"it": value}]), part(tmp_path, f'it\n"{cell}"\n', "part.csv")):
        assert read(path, fields) == [Record({"it": expected}, f"{path.name}:{1 + (path.suffix == '.csv')}")]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("labels", "a", "expected a list of labels (strings, integers or booleans), found the string 'a'"),
        ("labels", ["a", 1.5], "expected a list of labels (strings, integers or booleans), found a list"),
        ("labels", ["a", " "], "expected a label, found an empty one"),
        ("labels", None, "expected a list of labels (strings, integers or booleans), found null"),
        ("messages", [{"role": "user"}], "expected a list of messages, each with a role and a content (strings)"),
        ("messages", ["Hi"], "expected a list of messages, each with a role and a content (strings)"),
        ("messages", {"role": "user", "content": "Hi"}, "expected a list of messages"),
        ("answers", {"text": ["a"], "answer_start": []}, "expected an object with text (strings) and answer_start"),
        ("answers", {"text": ["a"], "answer_start": [1.5]}, "expected an object with text (strings) and answer_start"),
        ("answers", {"text": ["a"], "answer_start": [True]}, "expected an object with text (strings) and answer_start"),
        ("answers", {"text": ["a"]}, "expected an object with text (strings) and answer_start"),
        ("answers", ["a"], "expected an object with text (strings) and answer_start"),
    ],
)
def test_structured_fields_of_another_shape_are_refused(tmp_path: Path, kind: Any, value: Any, message: str) -> None:
    (found,) = read(part(tmp_path, [{"it": value}]), (Field("it", kind),))
    assert f"part.jsonl:1: it: {message}" in str(found)


def test_cleaning_touches_text_fields_only_and_is_counted_by_step(tmp_path: Path) -> None:
    path = part(tmp_path, [{"text": "<b>a</b>  b", "label": "<i>  x"}, {"text": "a b", "label": "x"}])
    config = DataConfig(clean=("nfc", "strip_html", "whitespace"))
    cleaning = Cleaning(config.clean, config.privacy)
    first, second = read_part(path, tmp_path, FIELDS, config, cleaning)
    assert first == Record({"text": "a b", "label": "<i>  x"}, "part.jsonl:1")
    assert second == Record({"text": "a b", "label": "x"}, "part.jsonl:2")
    assert cleaning.counts == {"nfc": 0, "strip_html": 1, "whitespace": 1}
    assert read(path, clean=["nfc", "strip_html", "whitespace"]) == [first, second]


def test_duplicates_of_a_split_are_dropped_after_the_other_steps_and_other_labels_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train", "validation", "test")
    rows = [("a", "x"), ("a", "y"), ("b", 1)]
    part(folder / "train", [{"text": text, "label": label} for text, label in rows], "1.jsonl")
    part(folder / "train", 'text,label\n" b",1\nb,2\n', "1.csv")
    part(folder / "test", [{"text": "train", "label": "x"}])

    def places(split: str, *steps: str) -> list[str]:
        found = rows_of(folder, split, FIELDS, DataConfig.model_validate({"clean": steps}))
        return [one.place.removeprefix("data/") for one in found]

    csv = ["train/1.csv:2", "train/1.csv:3"]
    jsonl = [f"train/1.jsonl:{line}" for line in (1, 2, 3)]
    assert places("train") == places("train", "duplicates") == [*csv, *jsonl, "train/part.jsonl:1"]
    assert places("train", "duplicates", "whitespace") == [*csv, *jsonl[:2], "train/part.jsonl:1"]
    assert places("test", "duplicates") == ["test/part.jsonl:1"]


def folder_of(root: Path, *splits: str) -> Path:
    for split in splits:
        part(root / "data" / split, [{"text": split, "label": "x"}])
    return root / "data"


def test_parts_are_sorted_and_hidden_files_ignored(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train", "validation", "test")
    part(folder / "train", "text,label\n", "a.csv")
    (folder / "train" / ".DS_Store").write_bytes(b"x")
    found = parts(folder)
    assert [path.name for path in found["train"]] == ["a.csv", "part.jsonl"]
    assert list(found) == ["train", "validation", "test"]


def test_absent_splits_strange_folders_and_files_are_refused_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train", "dev")
    (folder / "test").mkdir()
    part(folder / "train", "x", "notes.txt")
    with pytest.raises(DataError, match="data: cannot be used as a data folder") as caught:
        parts(folder)
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "data/dev: not a split",
        "data/train/notes.txt: not a part file",
        "data/validation: no such split",
        "data/test: no part files",
    ]


def test_absent_folder_says_how_to_get_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; `graft import FILE` makes it"):
        parts(tmp_path / "data")


def test_digest_depends_on_contents_in_their_order_only(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", "train", "validation", "test")
    two = folder_of(tmp_path / "two", "test", "validation", "train")
    (two / ".gitkeep").write_bytes(b"")
    assert data_digest(one) == data_digest(two)
    (two / "train" / "part.jsonl").rename(two / "train" / "other.jsonl")
    assert data_digest(one) == data_digest(two)
    for number, folder in enumerate((one, two)):
        part(folder / "train", '{"text": "more"}', f"{'az'[number]}.jsonl")
    assert data_digest(one) != data_digest(two)  # before the other part, and after it
    (two / "train" / "z.jsonl").rename(two / "train" / "a.jsonl")
    assert data_digest(one) == data_digest(two)
    (two / "train" / "a.jsonl").rename(two / "train" / "a.json")
    assert data_digest(one) != data_digest(two)


def test_rows_of_stops_at_the_first_problem(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train", "validation", "test")
    assert [record.place for record in rows_of(folder, "train", FIELDS, DataConfig())] == ["data/train/part.jsonl:1"]
    part(folder / "train", "{", "z.jsonl")
    with pytest.raises(
        DataError, match=re.escape("data/train/z.jsonl:1: expected one JSON object per line, found broken")
    ):
        list(rows_of(folder, "train", FIELDS, DataConfig()))


def test_number_that_was_imported_as_text_says_how_to_mend_it(tmp_path: Path) -> None:
    path = part(tmp_path, [{"size": "1"}, {"size": "big"}])
    first, second = messages(read(path, (Field("size", "number"),)))
    assert "write it without quotes, or import the table again" in first
    assert "graft import --replace" in first
    assert "import" not in second
