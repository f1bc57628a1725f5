"""The validate stage: bad data is one clear error with its rows, good data a verdict and Data Docs of equal bytes."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.data import DataConfig, data_digest
from graft.errors import DataError
from graft.identity import digest_files, digest_folder
from graft.tasks import RowProblem
from graft.tasks.text_classification import Config
from graft.validation import ValidationConfig, validate
from graft.validation.pages import masked, masked_message
from graft.workspace import Workspace

Rows = list[dict[str, Any]]
ALIKE = {"near_duplicates": "ignore"}
"""The rows here say nearly the same."""
GOOD_ROWS = b'{"text": "a text", "label": "x"}\n{"text": "another one", "label": "y"}\n'


def rows_of(split: str, count: int = 8) -> Rows:
    return [{"id": f"{split}-{n}", "text": f"{split} text {n}", "label": "xy"[n % 2]} for n in range(count)]


def write(path: Path, rows: Rows | str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, list):
        rows = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(rows if isinstance(rows, bytes) else rows.encode())


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a good project that was validated once."""
    root = tmp_path_factory.mktemp("validated")
    for split in ("train", "validation", "test"):
        write(root / "data" / split / "part.jsonl", rows_of(split))
    write(root / "params.yaml", "")
    run(Workspace(root))
    return Workspace(root)


@pytest.fixture
def workspace(validated: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of the good, validated project."""
    shutil.copytree(validated.root, tmp_path / "project")
    return Workspace(tmp_path / "project")


def run(
    workspace: Workspace, *, labels: tuple[str, ...] | None = None, data: Any = None, **settings: Any
) -> dict[str, Any]:
    validate(
        workspace,
        task=Config(labels=labels),
        data=DataConfig(**(data or {})),
        validation=ValidationConfig(**{"severity": ALIKE, **settings}),
    )
    verdict: dict[str, Any] = json.loads((workspace.validation / "verdict.json").read_text())
    return verdict


def refusal(workspace: Workspace, **settings: Any) -> list[str]:
    """Return the problems of a refused run, and hold what every refusal must leave behind."""
    before = {name: digest_folder(folder) for name, folder in kept(workspace).items()}
    with pytest.raises(DataError, match=r"(?s)data.*") as caught:
        run(workspace, **settings)
    assert caught.value.exit_code == 2
    assert {name: digest_folder(folder) for name, folder in kept(workspace).items()} == before
    report = json.loads((workspace.failed / "validate" / "report.json").read_text())
    assert report["passed"] is False
    assert [problem["message"] for problem in report["problems"]] == list(
        caught.value.problems
    ) or not caught.value.problems
    return list(caught.value.problems) or [str(caught.value)]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("part.jsonl", GOOD_ROWS.decode().encode("utf-16"), "part.jsonl:1: expected JSONL text in UTF-8, found UTF-16"),
        (
            "part.jsonl",
            gzip.compress(GOOD_ROWS, mtime=0),
            "part.jsonl:1: expected JSONL text in UTF-8, found a gzip file",
        ),
        ("part.jsonl.gz", gzip.compress(GOOD_ROWS, mtime=0)[:-5], "part.jsonl.gz: expected a whole gzip file"),
        ("part.jsonl", b"", "part.jsonl: expected at least one row, found an empty file"),
        ("part.csv", b"text;label\nabc;x\n", "part.csv:1: expected columns that are separated by commas"),
        ("part.csv", b"text,label\nabc,x\nabd,x,y\n", "part.csv:3: expected 2 columns as in the header, found 3"),
    ],
)
def test_training_rows_that_cannot_be_read_are_named_before_the_labels_that_they_would_have(
    workspace: Workspace, name: str, content: bytes, found: str
) -> None:
    (workspace.data / "train" / "part.jsonl").unlink()
    write(workspace.data / "train" / name, content)
    told = refusal(workspace)
    assert told[0].startswith(f"data/train/{found}")
    assert "a classifier needs two or more labels" in told[-1]


def kept(workspace: Workspace) -> dict[str, Path]:
    return {path.name: path for path in (workspace.validation, workspace.data_docs) if path.exists()}


def edited(number: int, **change: Any) -> Callable[[Rows], Rows]:
    def edit(rows: Rows) -> Rows:
        rows[number] |= change
        return rows

    return edit


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{key: value for key, value in row.items() if key != name} for row in rows]


BAD_ROWS: list[tuple[str, Callable[[Rows], Rows | str | bytes], list[str]]] = [
    (
        "missing column",
        without("label"),
        ["data/test/part.jsonl:1: label: expected a column of that name, found only 'id, text"],
    ),
    ("unknown label", edited(2, label="z"), ["data/test/part.jsonl:3: label: expected one of x, y, found 'z'"]),
    ("empty file", lambda rows: b"", ["data/test/part.jsonl: expected at least one row, found an empty file"]),
    (
        "broken JSON on line 7",
        lambda rows: "\n".join([*(json.dumps(row) for row in rows[:6]), '{"text": "a"', json.dumps(rows[7])]),
        ["data/test/part.jsonl:7: expected one JSON object per line, found broken JSON at column 13"],
    ),
    (
        "wrong encoding",
        lambda rows: json.dumps(rows[0]).encode() + b"\n" + '{"text": "café", "label": "x"}\n'.encode("latin-1"),
        ["data/test/part.jsonl:2: expected UTF-8, found the byte 0xe9"],
    ),
    (
        "NaN",
        edited(1, text=float("nan")),
        ["data/test/part.jsonl:2: expected JSON values (null where there is none), found NaN"],
    ),
    (
        "NaN text",
        edited(1, text="nan"),
        ["data/test/part.jsonl:2: text: expected a text, not a placeholder for a missing one"],
    ),
    (
        "duplicate ids",
        edited(4, id="train-2"),
        ["data/test/part.jsonl:5: id: expected an id that no other row has, found the id of data/train/part.jsonl:3"],
    ),
    (
        "invisible text",
        edited(3, text=" \u200b\u00a0"),
        ["data/test/part.jsonl:4: text: expected at least 1 visible character (validation.min_characters)"],
    ),
]


@pytest.mark.parametrize(("edit", "expected"), [case[1:] for case in BAD_ROWS], ids=[case[0] for case in BAD_ROWS])
def test_bad_rows_are_named_by_file_and_line_and_nothing_is_written(
    workspace: Workspace, edit: Callable[[Rows], Rows | str | bytes], expected: list[str]
) -> None:
    write(workspace.data / "test" / "part.jsonl", edit(rows_of("test")))
    found = [one for one in refusal(workspace) if "data/test: expected at least" not in one]
    assert len(found) == len(expected), found
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


def test_absent_split_is_refused_with_what_to_do(workspace: Workspace) -> None:
    (workspace.data / "test" / "part.jsonl").unlink()
    (workspace.data / "test").rmdir()
    assert refusal(workspace) == ["data/test: no such split; put test rows there, or let `graft import` split the data"]


@pytest.mark.parametrize("doubtful", ["ignore", "warn"])
def test_a_doubt_about_a_field_hides_nothing_that_the_contract_says_of_it(
    workspace: Workspace, doubtful: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt = RowProblem("text", "a text without doubts", "some")
    monkeypatch.setattr(type(tasks.get("text_classification")), "doubt_row", lambda *_: [doubt])
    rows = rows_of("train")
    rows[2]["text"] = "pay with 4111111111111111"
    write(workspace.data / "train" / "part.jsonl", rows)
    severity = {**ALIKE, "private_data": "fail", "doubtful": doubtful}
    assert "found 1 card" in "".join(refusal(workspace, severity=severity))


def test_train_with_one_label_is_refused(workspace: Workspace) -> None:
    write(workspace.data / "train" / "part.jsonl", [row | {"label": "x"} for row in rows_of("train")])
    assert "holds 'x' only" in refusal(workspace)[0]


def test_all_problems_are_reported_together_in_order(workspace: Workspace) -> None:
    train = rows_of("train")
    train[5]["text"] = ""
    train[2]["label"] = 1.5
    write(workspace.data / "train" / "part.jsonl", train)
    write(workspace.data / "validation" / "part.jsonl", edited(0, label="z", text="None")(rows_of("validation")))
    assert [re.split(": (?=expected)", one)[0] for one in refusal(workspace, min_rows=8)] == [
        "data/train/part.jsonl:3: label",
        "data/train/part.jsonl:6: text",
        "data/validation/part.jsonl:1: label",
        "data/validation/part.jsonl:1: text",
        "data/train",
    ]


def test_twenty_of_many_problems_are_shown_and_all_are_kept(workspace: Workspace) -> None:
    write(workspace.data / "test" / "part.jsonl", [row | {"text": ""} for row in rows_of("test", 50)])
    said = r"data: 50 problems; report: .*validate/data_docs/index\.html\n(.*\n){20}  \.\.\. and 30 more$"
    with pytest.raises(DataError, match=said):
        run(workspace)
    report = json.loads((workspace.failed / "validate" / "report.json").read_text())
    assert len(report["problems"]) == 50
    assert report["problems"][0] | {"message": ""} == {
        "message": "",
        "place": "data/test/part.jsonl:1",
        "field": "text",
        "expected": "at least 1 visible character (validation.min_characters)",
        "found": "0 visible characters",
    }
    assert {check["failed"] for check in report["checks"]} == {0, 50}


def test_verdict_says_what_was_checked(workspace: Workspace) -> None:
    verdict = run(workspace)
    part = workspace.data / "train" / "part.jsonl"
    assert verdict["passed"] is True
    assert verdict["data"] == data_digest(workspace.data)
    assert verdict["state"] == {"labels": ["x", "y"]}
    assert verdict["splits"]["train"] == {
        "rows": 8,
        "parts": {"part.jsonl": {"rows": 8, "digest": digest_files(part.parent)["part.jsonl"]}},
    }
    assert verdict["counts"] == {split: {"x": 4, "y": 4} for split in ("train", "validation", "test")}
    assert verdict["warnings"] == []
    assert {check["failed"] for check in verdict["checks"]} == {0}
    in_set = {"expectation": "expect_column_values_to_be_in_set", "column": "label", "severity": "fail", "failed": 0}
    assert in_set in verdict["checks"]


def test_success_removes_the_report_of_an_earlier_refusal(workspace: Workspace) -> None:
    good = (workspace.data / "test" / "part.jsonl").read_bytes()
    write(workspace.data / "test" / "part.jsonl", "{")
    refusal(workspace)
    write(workspace.data / "test" / "part.jsonl", good)
    run(workspace)
    assert not (workspace.failed / "validate").exists()


def test_repeated_texts_a_byte_order_mark_and_absent_labels_are_warnings(workspace: Workspace) -> None:
    test = rows_of("test")[:4:2]
    write(
        workspace.data / "test" / "part.jsonl", [test[0] | {"text": "train text 1"}, test[1] | {"text": "train text 1"}]
    )
    write(workspace.data / "validation" / "more.csv", b"\xef\xbb\xbftext,label\nsome,x\n")
    assert run(workspace)["warnings"] == [
        "test: 2 rows have the text of a row of train (validation.severity.leakage) "
        "(data/test/part.jsonl:1, data/test/part.jsonl:2); the first has the text of data/train/part.jsonl:2",
        "validation/more.csv: starts with a byte order mark, which is skipped",
        "validation: 1 row has no id, which other rows have (validation.severity.outliers) "
        "(data/validation/more.csv:2); the first has none",
        "test: 2 rows have another label than the same text has elsewhere "
        "(validation.severity.contradictions) (data/test/part.jsonl:1, data/test/part.jsonl:2); the first has another "
        "label than data/train/part.jsonl:2",
        "test: no row of 1 of the labels ('y')",
    ]


def test_a_row_that_is_kept_aside_is_in_no_warning(workspace: Workspace) -> None:
    words = {
        "train": (
            "a cat sleeps",
            "rain falls on roofs",
            "seven old boats",
            "nobody sings here",
            "why not",
            "my left hand",
        ),
        "validation": ("green apples", "we met at noon"),
        "test": ("the door is open", "his uncle knows"),
    }
    for split, texts in words.items():
        rows = [{"text": text, "label": "xy"[n % 2]} for n, text in enumerate(texts)]
        again = [{"text": texts[0], "label": "y"}] if split == "train" else []
        write(workspace.data / split / "part.jsonl", [*rows, *again])
    severity = {"near_duplicates": "quarantine", "contradictions": "warn"}
    verdict = run(workspace, severity=severity, max_quarantined_share=0.5)
    assert verdict["quarantined"] == ["data/train/part.jsonl:7"]
    assert verdict["warnings"] == []


def test_all_rows_that_are_only_reported_are_listed(workspace: Workspace) -> None:
    rows = [{"text": f"write to ada{n}@example.org about {n} boats", "label": "xy"[n % 2]} for n in range(9)]
    write(workspace.data / "train" / "part.jsonl", rows)
    verdict = run(workspace, severity={"private_data": "warn", "near_duplicates": "ignore"})
    assert verdict["warnings"][0].count("data/train/part.jsonl:") == 5
    written = (workspace.validation / "warned.jsonl").read_text()
    listed = [one for one in map(json.loads, written.splitlines()) if "private data" in one["expected"]]
    assert [one["row"] for one in listed] == [f"data/train/part.jsonl:{n}" for n in range(1, 10)]
    assert {one["found"] for one in listed} == {"1 email"}
    assert "ada" not in written


def test_pairs_of_texts_that_were_not_compared_are_counted_in_the_docs(workspace: Workspace) -> None:
    rows = [{"text": f"the same words in all of these rows, and number {n}", "label": "xy"[n % 2]} for n in range(300)]
    write(workspace.data / "train" / "part.jsonl", rows)
    run(workspace, severity={"near_duplicates": "warn"})
    page = (workspace.data_docs / "index.html").read_text()
    said = re.search(r"Near-duplicates: ([\d,]+) pairs of texts were compared; ([\d,]+) were not", page)
    assert said
    assert all(int(one.replace(",", "")) > 1000 for one in said.groups())


def test_settings_move_the_limits(workspace: Workspace) -> None:
    write(workspace.data / "test" / "part.jsonl", edited(0, id="test-1", text="nan")(rows_of("test")))
    assert len(refusal(workspace)) == 2
    run(workspace, unique_ids=False, placeholders=())
    train_and_validation = 8 + 8  # "train text 0" has 12 characters, "test text 1" 11
    assert len(refusal(workspace, unique_ids=False, placeholders=(), max_characters=11)) == train_and_validation


def test_cleaning_is_counted_and_comes_before_the_checks(workspace: Workspace) -> None:
    write(workspace.data / "test" / "part.jsonl", edited(0, text="<p> </p>")(rows_of("test")))
    assert "text: expected at least 1 visible" in refusal(workspace, data={"clean": ["strip_html", "nfc"]})[0]
    write(workspace.data / "test" / "part.jsonl", edited(0, text="<p>a</p>")(rows_of("test")))
    assert run(workspace, data={"clean": ["strip_html", "nfc"]})["cleaned"] == {"strip_html": 1, "nfc": 0}


def test_what_cleaning_changed_is_written_as_a_diff(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of("test")
    write(workspace.data / "test" / "a.jsonl", [{"text": "<i>caf\u00e9</i>", "label": "x"}])
    write(
        workspace.data / "test" / "part.jsonl", [*rows, rows[0] | {"id": "again"}, rows[1] | {"id": "2", "label": "x"}]
    )
    write(
        workspace.data / "test" / "z.jsonl", [{"text": "<b>cafe\u0301</b>", "label": "x"}, {"text": "a", "label": "y"}]
    )
    verdict = run(workspace, data={"clean": ["duplicates", "strip_html", "nfc"]})
    assert verdict["clean"] == ["duplicates", "strip_html", "nfc"]
    assert verdict["cleaned"] == {"duplicates": 2, "strip_html": 2, "nfc": 1}
    assert verdict["splits"]["test"]["rows"] == 11
    assert verdict["counts"]["test"] == {"x": 6, "y": 5}
    disagreeing = "test: 1 row with the text of an earlier row and another label (data/test/part.jsonl:10)"
    assert disagreeing in verdict["warnings"]
    assert (workspace.validation / "cleaning.diff").read_text() == DIFF
    changes = json.loads((workspace.validation / "cleaning.json").read_text())["steps"]
    assert [(one["step"], one["rows"]["test"], len(one["examples"])) for one in changes] == [
        ("duplicates", 2, 2),
        ("strip_html", 2, 2),
        ("nfc", 1, 1),
    ]
    out = capsys.readouterr().out
    assert "validate: nfc: 1 row changed (train 0, validation 0, test 1); " in out
    assert "validate: train: 8 rows in 1 part\n" in out
    assert "validate: test: 11 rows in 3 parts\n" in out


DIFF = """\
# duplicates: 2 rows dropped (train 0, validation 0, test 2)
--- data/test/part.jsonl:9 text
+++ /dev/null
-'test text 0'
--- data/test/z.jsonl:1 text
+++ /dev/null
-'caf\u00e9'
# strip_html: 2 rows changed (train 0, validation 0, test 2)
--- data/test/a.jsonl:1 text
+++ data/test/a.jsonl:1 text (strip_html)
-'<i>caf\u00e9</i>'
+'caf\u00e9'
--- data/test/z.jsonl:1 text
+++ data/test/z.jsonl:1 text (strip_html)
-'<b>cafe\u0301</b>'
+'cafe\u0301'
# nfc: 1 row changed (train 0, validation 0, test 1)
--- data/test/z.jsonl:1 text
+++ data/test/z.jsonl:1 text (nfc)
-'cafe\\u0301'
+'caf\\xe9'
"""


def test_a_part_of_duplicates_only_is_fine_and_no_step_writes_no_diff(workspace: Workspace) -> None:
    write(workspace.data / "train" / "z.jsonl", rows_of("train", 2))
    verdict = run(workspace, data={"clean": ["duplicates"]})
    assert {name: one["rows"] for name, one in verdict["splits"]["train"]["parts"].items()} == {
        "part.jsonl": 8,
        "z.jsonl": 0,
    }
    (workspace.data / "train" / "z.jsonl").unlink()
    verdict = run(workspace)
    assert (verdict["clean"], verdict["columns"], verdict["cleaned"]) == ([], {}, {})
    written = {path.name for path in workspace.validation.iterdir()}
    assert written == {"drift.json", "profile.json", "suite.json", "verdict.json"}


def test_columns_named_otherwise_are_named_as_in_the_file(workspace: Workspace) -> None:
    for split in ("train", "validation", "test"):
        rows = [{"body": row["text"], "kind": row["label"], "key": row["id"]} for row in rows_of(split)]
        write(workspace.data / split / "part.jsonl", rows)
    columns = {"columns": {"text": "body", "label": "kind", "id": "key"}}
    assert run(workspace, data=columns)["counts"]["train"] == {"x": 4, "y": 4}
    write(workspace.data / "test" / "part.jsonl", [{"body": "", "kind": "z", "key": "train-0"}])
    assert [one.split(": ")[1] for one in refusal(workspace, data=columns)] == ["kind", "body", "key"]


def test_all_formats_of_one_text_get_one_verdict(workspace: Workspace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.feather import write_feather

    table = rows_of("test")
    verdict = json.loads((workspace.validation / "verdict.json").read_text())
    lines = ["id,text,label", *(",".join(row.values()) for row in table)]
    folder = workspace.data / "test"
    (folder / "part.jsonl").unlink()
    forms: dict[str, Callable[[Path], Any]] = {
        "part.csv": lambda path: write(path, "\n".join(lines)),
        "part.tsv": lambda path: write(path, "\n".join(lines).replace(",", "\t")),
        "part.csv.gz": lambda path: write(path, gzip.compress("\n".join(lines).encode())),
        "part.json": lambda path: write(path, json.dumps(table)),
        "part.json.zst": lambda path: write(path, pa.compress(json.dumps(table).encode(), codec="zstd", asbytes=True)),
        "part.arrow": lambda path: write_feather(pa.Table.from_pylist(table), str(path)),
        "part.parquet": lambda path: pq.write_table(pa.Table.from_pylist(table), path),
    }
    for name, make in forms.items():
        make(folder / name)
        found = run(workspace)
        assert found["counts"] == verdict["counts"]
        assert found["splits"]["test"]["rows"] == 8
        (folder / name).unlink()


def test_data_docs_and_verdict_are_the_same_bytes_in_two_places(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "elsewhere" / "deep")
    shutil.copytree(workspace.data, other.data)
    run(other)
    assert digest_folder(workspace.data_docs) == digest_folder(other.data_docs)
    assert digest_folder(workspace.validation) == digest_folder(other.validation)
    pages = {path.name for path in workspace.data_docs.rglob("*.html")}
    assert {"index.html", "rows.html", "0000-train_part.jsonl.html"} <= pages
    text = "".join(path.read_text() for path in workspace.data_docs.rglob("*.html"))
    assert "great-expectations-web-assets" not in text
    assert str(workspace.root) not in text


def test_data_docs_of_a_refusal_show_no_text_and_escape_what_they_show(workspace: Workspace) -> None:
    secret = "the secret text of a row"
    labels = ("x", "y", "<script>alert(1)</script>", "$column")
    (workspace.data / "train" / "part.jsonl").rename(workspace.data / "train" / "<i>.jsonl")
    write(
        workspace.data / "test" / "part.jsonl",
        edited(1, label="<s>a</s>")(edited(0, text=secret, label="<img src=x onerror=alert(2)>")(rows_of("test"))),
    )
    assert len(refusal(workspace, labels=labels, max_characters=20)) == 3
    text = "".join(path.read_text() for path in (workspace.failed / "validate" / "data_docs").rglob("*.html"))
    assert "28 characters" in text
    assert secret not in text
    assert "alert(2)" not in text
    assert "<script>alert(1)" not in text
    assert "<s>a</s>" not in text
    assert "&lt;s&gt;a&lt;/s&gt;" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<i>.jsonl" not in text


def loaded(folder: Path) -> tuple[list[str], list[Path]]:
    """Return what the pages below a folder load or link to elsewhere, and the files that their links lead to."""
    away, near = [], []
    for page in folder.rglob("*.html"):
        text = page.read_text()
        away += re.findall(r"<(?:script|link|footer|input|button)\b|\son\w+=\"|url\(|@import|//[a-z]", text)
        links = re.findall(r"(?:src|href)=[\"']?([^\"' >]*)", text)
        near += [page.parent / link.partition("#")[0] for link in links if not link.startswith("#")]
    return away, near


def test_pages_load_nothing_and_their_links_lead_somewhere(workspace: Workspace) -> None:
    write(workspace.data / "train" / "more #1.jsonl", edited(0, text="a", id="m")(rows_of("more")))
    run(workspace)
    write(workspace.data / "test" / "part.jsonl", edited(0, label="z")(rows_of("test")))
    refusal(workspace)
    for folder in (workspace.data_docs, workspace.failed / "validate" / "data_docs"):
        away, near = loaded(folder)
        assert away == []
        assert {path.suffix for path in folder.rglob("*.*") if path.is_file()} == {".html"}
        assert all(path.is_file() for path in near)
        assert {path.resolve() for path in near} >= {path.resolve() for path in folder.rglob("*.html")}


def test_the_index_shows_the_verdict_the_parts_and_what_failed(workspace: Workspace) -> None:
    test = edited(1, text="train text 1")(rows_of("test"))
    write(workspace.data / "test" / "part.jsonl", test)
    run(workspace)
    cells = table_rows(workspace.data_docs / "index.html")
    assert [row[:7] for row in cells if row[0] in ("train", "validation", "test")] == [
        [split, "part.jsonl", "✓ passed", "8", "0", "16", "0"] for split in ("train", "validation", "test")
    ]
    text = (workspace.data_docs / "index.html").read_text()
    assert "The data passed.</b>Every part keeps the contract, with 1 warning." in text
    place = "(data/test/part.jsonl:2); the first has the text of data/train/part.jsonl:2</li>"
    assert f"1 row has the text of a row of train (validation.severity.leakage) {place}" in text
    write(workspace.data / "test" / "part.jsonl", edited(2, label="a label that is long")(test))
    refusal(workspace)
    index = workspace.failed / "validate" / "data_docs" / "index.html"
    cells = table_rows(index)
    assert ["data/test/part.jsonl:3", "label", "one of x, y", "&#39;a la…&#39;"] in cells
    assert ["test", "part.jsonl", "✗ failed", "8", "1", "15", "1", "every expectation"] in cells
    assert [
        "label",
        "one of the 2 labels of the training rows",
        "expect_column_values_to_be_in_set",
        "stops the chain",
        "1",
    ] in cells
    headings = re.findall("<h2>(.*?)</h2>", index.read_text())
    assert headings[:2] == ["Problems", "Warnings"]  # what stops the chain comes first
    assert "The data failed.</b>1 problem;" in index.read_text()
    (workspace.data / "test" / "part.jsonl").unlink()
    refusal(workspace)
    assert "The data failed." in index.read_text()
    assert ["data/test: no part files; put test rows there, or let `graft import` split the data"] in table_rows(index)


def table_rows(page: Path) -> list[list[str]]:
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", page.read_text(), re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in found]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("0 visible characters", "0 visible characters"),
        ("'short'", "'short'"),
        ("'train-00002', which data/a.jsonl:2 has too", "'trai…', which data/a.jsonl:2 has too"),
        ('"it\'s a secret" and more', '"it\'s…" and more'),
        ("'a long value that was cut…", "'a lo…'"),
        ("'never closed", "'neve…'"),
    ],
)
def test_masked_values_keep_only_their_start(found: str, expected: str) -> None:
    assert masked(found) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("the labels' names 'rare' and \"it's a secret\" stay", "the labels' names 'rare' and \"it's…\" stay"),
        ("found 'a long value that was cut…", "found 'a lo…'"),
        ("'a long value that was cut… and 'another secret', then", "'a lo…', then"),
        (r"'it\'s \"quoted\" or secret' here", "'it\\'…' here"),
    ],
)
def test_a_masked_message_is_whole_but_for_its_values(said: str, expected: str) -> None:
    assert masked_message(said) == expected


def test_the_workers_home_and_folder_stay_clean(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    run(workspace)
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in workspace.root.iterdir()) == [".graft", "artifacts", "data", "params.yaml"]
