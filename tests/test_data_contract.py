"""What follows from a broken contract: the chain stops, a row is kept aside, or it is reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.classification import label_problems
from graft.data import DataConfig, Problem
from graft.errors import ConfigError, DataError
from graft.quarantine import most_rows, why
from graft.tasks.chat import Config as Chat
from graft.tasks.regression import Config as Regression
from graft.tasks.text_classification import Config
from graft.validation import ValidationConfig, validate
from graft.validation.profile import profiled
from graft.workspace import SPLITS, Workspace

Rows = list[dict[str, Any]]
ALIKE = {"near_duplicates": "ignore", "leakage": "ignore"}
"""The rows here say nearly the same."""


def rows_of(split: str, count: int = 10) -> Rows:
    return [{"id": f"{split}-{n}", "text": f"{split} text {n}", "label": "xy"[n % 2]} for n in range(count)]


def write(root: Path, **changed: Rows) -> Workspace:
    for split in ("train", "validation", "test"):
        path = root / "data" / split / "part.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in changed.get(split, rows_of(split))))
    (root / "params.yaml").write_text("")
    return Workspace(root)


def run(workspace: Workspace, data: Any = None, **settings: Any) -> dict[str, Any]:
    settings["severity"] = ALIKE | settings.get("severity", {})
    validation = ValidationConfig.model_validate({"max_quarantined_share": 0.2, **settings})
    validate(workspace, task=Config(), data=DataConfig.model_validate(data or {}), validation=validation)
    verdict: dict[str, Any] = json.loads((workspace.validation / "verdict.json").read_text())
    return verdict


def aside(workspace: Workspace, split: str) -> list[dict[str, Any]]:
    path = workspace.quarantine / split / "part.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


BREACHES: dict[str, tuple[dict[str, Any], str]] = {
    "min_characters": ({"text": "  "}, "at least 1 visible character (validation.min_characters)"),
    "placeholders": ({"text": "NaN"}, "a text, not a placeholder for a missing one (validation.placeholders)"),
    "unique_ids": ({"id": "train-0"}, "an id that no other row has"),
    "max_characters": ({"text": "a" * 100_001}, "at most 100000 characters (validation.max_characters)"),
    "labels": ({"label": "z"}, "one of x, y"),
    "readable": ({"text": 5}, "a string"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_row_in_quarantine_is_kept_with_its_reasons_and_counts_nowhere(tmp_path: Path, name: str) -> None:
    change, expected = BREACHES[name]
    rows = rows_of("test")
    rows[4] |= change
    workspace = write(tmp_path, test=rows)
    with pytest.raises(DataError, match=r"data/test/part\.jsonl:5"):
        run(workspace)
    verdict = run(workspace, severity={name: "quarantine"})
    assert verdict["quarantined"] == ["data/test/part.jsonl:5"]
    assert verdict["splits"]["test"]["rows"] == 9
    assert verdict["counts"]["test"] == {"x": 4, "y": 5}
    [one] = aside(workspace, "test")
    assert json.loads((workspace.quarantine / "summary.json").read_text()) == {"rows": {"test": 1}}
    assert one["place"] == "data/test/part.jsonl:5"
    assert [reason["expected"] for reason in one["reasons"]] == [expected]
    assert one["row"] == rows[4]
    assert "test: 1 row in quarantine" in (workspace.data_docs / "index.html").read_text()


def test_rows_in_quarantine_stand_in_the_order_of_their_part(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[9] |= {"text": "NaN"}
    rows[1] |= {"id": rows[0]["id"]}  # found across parts, after what a part shows by itself
    workspace = write(tmp_path, test=rows)
    severity = {"placeholders": "quarantine", "unique_ids": "quarantine"}
    run(workspace, severity=severity)
    places = [one["place"] for one in aside(workspace, "test")]
    assert places == ["data/test/part.jsonl:2", "data/test/part.jsonl:10"]


def test_rows_in_quarantine_are_as_in_their_files_which_may_share_a_stem(tmp_path: Path) -> None:
    rows = [
        {"key": one["id"], "body": one["text"], "topic": one["label"], "more": [1, None]} for one in rows_of("test")
    ]
    columns = {"columns": {"id": "key", "text": "body", "label": "topic"}}
    workspace = write(tmp_path, **dict.fromkeys(("train", "validation", "test"), rows[:-1]))
    train = workspace.data / "train"
    (train / "part.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*rows, rows[0] | {"body": "null"}]))
    (train / "part.csv").write_text("topic,body,key,note\nx,NaN,7,to jane.roe@example.org\ny,a fine text,8,\n")
    (train / "other.csv").write_text("topic,body,key\nx,null,9\ny,another fine text,10\n")
    run(workspace, columns, severity={"placeholders": "quarantine", "unique_ids": "ignore"})
    folder = workspace.quarantine / "train"
    found = {
        path.name: [json.loads(line)["row"] for line in path.read_text().splitlines()] for path in folder.iterdir()
    }
    assert found == {
        "other.jsonl": [{"topic": "x", "body": "null", "key": "9"}],
        "part.csv.jsonl": [{"topic": "x", "body": "NaN", "key": "7", "note": "to <EMAIL_1>"}],
        "part.jsonl.jsonl": [rows[0] | {"body": "null"}],
    }


def test_a_row_in_quarantine_shows_no_private_number_or_key(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[4] |= {"text": "NaN", "card": 4111111111111111, "more": {"jane.roe@example.org": [4111111111111111, 7]}}
    workspace = write(tmp_path, test=rows)
    run(workspace, severity={"placeholders": "quarantine"})
    [one] = aside(workspace, "test")
    assert (one["row"]["card"], one["row"]["more"]) == ("<CARD_1>", {"<EMAIL_1>": ["<CARD_1>", 7]})


@pytest.mark.parametrize("name", ["min_characters", "placeholders", "unique_ids", "max_characters"])
def test_a_row_that_is_reported_stays(tmp_path: Path, name: str) -> None:
    rows = rows_of("test")
    rows[4] |= BREACHES[name][0]
    workspace = write(tmp_path, test=rows)
    verdict = run(workspace, severity={name: "warn"})
    assert verdict["splits"]["test"]["rows"] == 10
    assert "quarantined" not in verdict
    assert len(verdict["warnings"]) == 1 + (name == "max_characters")  # which is filler too
    has = "has an id that an earlier row has" if name == "unique_ids" else "not as expected: "
    assert verdict["warnings"][-1].startswith(f"test: 1 row {has}")
    found = {"unique_ids": "the id of data/train/part.jsonl:1", "placeholders": "'NaN'"}.get(name, "")
    told = "an id that an earlier row has" if name == "unique_ids" else BREACHES[name][1]
    assert f"{told} (data/test/part.jsonl:5); the first has {found}" in " ".join(verdict["warnings"])
    assert len(run(workspace, severity={name: "ignore"})["warnings"]) == (name == "max_characters")


MAIL = "write to " + "jane.roe" + "@" + "example.org"
NOTHING_PRIVATE = "a text without private data (data.privacy; data.clean: [redact] replaces it)"
CARD = "pay with 4111 1111 " + "1111 1111"


@pytest.mark.parametrize("severity", ["fail", "quarantine", "warn"])
def test_private_data_is_found_and_nowhere_shown(
    tmp_path: Path, severity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of("test")
    rows[3]["text"] = f"{MAIL}, or {CARD}, or {MAIL} again"
    rows[5] |= {"text": MAIL, "label": MAIL}  # shown by the check of labels, and cut short there
    workspace = write(tmp_path, test=rows)
    settings: dict[str, Any] = {"severity": {"private_data": severity, "labels": "quarantine"}}
    settings["expectations"] = [{**STARTS, "severity": "warn"}]
    if severity == "fail":
        with pytest.raises(DataError, match=r"data: \d+ problems?") as caught:
            run(workspace, **settings)
        assert caught.value.problems == (
            f"data/test/part.jsonl:4: text: expected {NOTHING_PRIVATE}, found 2 email, 1 card",
            f"data/test/part.jsonl:6: text: expected {NOTHING_PRIVATE}, found 1 email",
        )
        printed = str(caught.value)
    else:
        verdict = run(workspace, **settings)
        printed = json.dumps(verdict)
        wanted = {
            "quarantine": ["data/test/part.jsonl:4", "data/test/part.jsonl:6"],
            "warn": ["data/test/part.jsonl:6"],
        }
        assert verdict["quarantined"] == wanted[severity]
        where = "(data/test/part.jsonl:4); the first has 2 email, 1 card"  # the other is aside for its label
        assert any(one.endswith(where) and "private data" in one for one in verdict["warnings"]) == (severity == "warn")
    [kept] = [one for one in aside(workspace, "test") if one["place"].endswith(":4")] or [{"row": None}]
    if severity == "quarantine":
        assert kept["row"]["text"] == "write to <EMAIL_1>, or pay with <CARD_1>, or write to <EMAIL_1> again"
    written = [
        path.read_bytes().decode("utf-8", "ignore")
        for path in tmp_path.rglob("*")
        if path.is_file() and "data" not in path.parts[-3:-1]
    ]
    for text in (printed, *capsys.readouterr(), *written):
        for secret in ("jane.roe", "jane", "1111 1111", "4111"):
            assert secret not in text


DAMAGED: dict[str, tuple[str, str, str]] = {
    "mojibake": ("encoding", "das schöne Wetter".encode().decode("latin-1"), "mojibake"),
    "replaced": ("encoding", "caf\ufffd au lait", "1 replacement character,"),
    "bell": ("encoding", "a\x07b text", "1 control character,"),
    "tags": ("markup", "<p>Hello there</p>", "HTML in 2 places,"),
    "reference": ("markup", "salt &amp; pepper", "HTML, as in"),
    "language": ("language", "Gestern war das Wetter im ganzen Land sehr schlecht.", "de"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_text_is_reported_and_may_go_into_quarantine(tmp_path: Path, name: str) -> None:
    kind, text, found = DAMAGED[name]
    rows = [row | {"text": f"this is a simple English sentence, number {n}"} for n, row in enumerate(rows_of("test"))]
    rows[2]["text"] = text
    workspace = write(tmp_path, test=rows)
    languages = ["en"]
    [warning] = run(workspace, languages=languages)["warnings"]
    assert warning.startswith("test: 1 row not as expected: text: text ")
    assert "(data/test/part.jsonl:3); the first has " in warning
    assert found in warning.partition("; the first has ")[2]
    assert run(workspace, languages=languages, severity={kind: "ignore"})["warnings"] == []
    verdict = run(workspace, languages=languages, severity={kind: "quarantine"})
    assert verdict["quarantined"] == ["data/test/part.jsonl:3"]
    [reason] = aside(workspace, "test")[0]["reasons"]
    assert found in reason["found"]


def test_any_language_is_fine_unless_some_are_named(tmp_path: Path) -> None:
    workspace = write(tmp_path, test=[row | {"text": DAMAGED["language"][1]} for row in rows_of("test")])
    assert not any("languages" in one for one in run(workspace)["warnings"])
    assert not any("languages" in one for one in run(workspace, languages=["en", "de"])["warnings"])


LONG = "the committee will meet again on thursday to talk about the new budget of the city library"


@pytest.mark.parametrize(
    ("kind", "split", "text", "label", "expected", "has"),
    [
        ("leakage", "test", LONG, "x", "a text that train does not have", "the text of a row of train"),
        (
            *("leakage", "test", LONG.upper() + "!", "x", "a text that train does not have, nor nearly"),
            "the text, or nearly, of a row of train",
        ),
        (
            *("leakage", "validation", LONG.replace("city", "town"), "x"),
            *("a text that train does not have, nor nearly", "the text, or nearly, of a row of train"),
        ),
        (
            *("near_duplicates", "train", LONG.replace("city", "town"), "x"),
            "a text that no other row of its split has, nor nearly",
            "the text, or nearly, of an earlier row of the split",
        ),
        (
            *("contradictions", "test", LONG, "y", "the label that the same text has elsewhere"),
            "another label than the same text has elsewhere",
        ),
    ],
)
def test_likeness_across_rows_has_its_severity(
    tmp_path: Path, kind: str, split: str, text: str, label: str, expected: str, has: str
) -> None:
    rows = {name: rows_of(name) for name in ("train", "validation", "test")}
    words = ["apple", "river", "stone", "cloud", "window", "paper", "garden", "letter", "music", "bridge"]
    for name, some in rows.items():
        for number, row in enumerate(some):
            row["text"] = " ".join(f"{word}{name}{number * 7 + place}" for place, word in enumerate(words))
    rows["train"][2] |= {"text": LONG, "label": "x"}
    rows[split][6] |= {"text": text, "label": label}
    workspace = write(tmp_path, **rows)
    [warning] = run(workspace, severity={kind: "warn"})["warnings"]
    start = f"{split}: 1 row has {has} (validation.severity.{kind}) (data/{split}/part.jsonl:7)"
    assert warning.startswith(f"{start}; the first has ")
    assert "data/train/part.jsonl:3" in warning
    with pytest.raises(DataError, match=rf"data/{split}/part\.jsonl:7: text: expected {expected}.*part\.jsonl:3"):
        run(workspace, severity={kind: "fail"})
    verdict = run(workspace, severity={kind: "quarantine"})
    assert verdict["quarantined"] == [f"data/{split}/part.jsonl:7"]
    assert verdict["splits"][split]["rows"] == sum(verdict["counts"][split].values()) == 9
    assert aside(workspace, split)[0]["row"]["text"] == text
    assert run(workspace, severity={kind: "ignore"})["warnings"] == []


def test_beyond_a_size_only_equal_texts_are_looked_for_and_a_warning_says_so(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[2]["text"], rows[3]["text"] = "TRAIN text... 4", "train text, four and no more"
    workspace = write(tmp_path, test=rows)
    leak, near = run(workspace, severity={"leakage": "warn"}, duplicates={"near_megabytes": 0})["warnings"]
    assert near.startswith(
        "nearly equal texts are not looked for: the parts have 0 MB, more than validation.duplicates"
    )
    assert leak.startswith("test: 1 row has the text, or nearly, of a row of train")
    assert leak.endswith("(data/test/part.jsonl:3); the first has the text of data/train/part.jsonl:5")
    assert not list(workspace.store.rglob("sketch.safetensors"))


def test_equal_texts_are_named_once_for_each_split_that_has_them(tmp_path: Path) -> None:
    rows = {split: [row | {"text": f"{row['text']} {split * 3}"} for row in rows_of(split)] for split in SPLITS}
    rows["train"][1]["text"] = rows["train"][0]["text"]
    rows["validation"][5]["text"] = rows["train"][0]["text"].upper()
    rows["test"][7]["text"] = rows["train"][0]["text"]
    workspace = write(tmp_path, **rows)
    warnings = run(workspace, severity={"leakage": "warn"}, duplicates={"threshold": 1.0})["warnings"]
    told = {one.partition(" (")[0]: one.rpartition("; ")[2] for one in warnings if "of a row of" in one}
    start = "1 row has the text"
    assert told == {
        f"validation: {start}, or nearly, of a row of train": "the first has the text of data/train/part.jsonl:1",
        f"test: {start} of a row of train": "the first has the text of data/train/part.jsonl:1",
        f"test: {start}, or nearly, of a row of validation": "the first has the text of data/validation/part.jsonl:6",
    }


def test_a_label_that_is_private_data_always_stops_the_chain_and_stands_nowhere(tmp_path: Path) -> None:
    rows = rows_of("train")
    rows[3]["label"] = MAIL.split()[-1]
    workspace = write(tmp_path, train=rows)
    with pytest.raises(DataError, match=r"data/train: 1 row with private data as label") as caught:
        run(workspace, severity={"private_data": "ignore", "labels": "quarantine"})
    [problem] = caught.value.problems
    assert problem.startswith("data/train/part.jsonl:4: label: expected a label without private data")
    assert problem.endswith("found email")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts[-3:-1]]
    assert not [path for path in written if b"jane.roe" in path.read_bytes()]
    run(workspace, {"privacy": {"kinds": []}}, severity={"labels": "quarantine"})


def test_private_data_may_be_ignored(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[3]["text"] = MAIL
    workspace = write(tmp_path, test=rows)
    assert run(workspace, severity={"private_data": "ignore"})["warnings"] == []
    assert run(workspace, {"privacy": {"kinds": ["card"]}})["warnings"] == []
    [warning] = run(workspace)["warnings"]
    place = "(data/test/part.jsonl:4); the first has 1 email"
    assert warning == f"test: 1 row not as expected: text: {NOTHING_PRIVATE} {place}"


def test_a_redacted_text_has_no_private_data(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[3]["text"] = f"{MAIL}, or {CARD}, or {MAIL} again"
    workspace = write(tmp_path, test=rows)
    verdict = run(workspace, {"clean": ["redact"]}, severity={"private_data": "fail"})
    assert verdict["warnings"] == []
    assert verdict["cleaned"] == {"redact": 1}
    assert verdict["privacy"] == DataConfig().privacy.model_dump(mode="json")
    diff = (workspace.validation / "cleaning.diff").read_text().splitlines()
    assert diff[-2:] == [
        "-'write to <EMAIL>, or pay with <CARD>, or write to <EMAIL> again'",
        "+'write to <EMAIL_1>, or pay with <CARD_1>, or write to <EMAIL_1> again'",
    ]


def test_no_message_shows_private_data_that_could_not_be_read_or_that_a_column_is_about(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[3]["text"] = [f"a list, not a text, in which somebody says: {MAIL}"]
    rows[4]["text"] = {"of": "x" * 60 + MAIL}
    rows += [row | {"id": f"again-{number}"} for number, row in enumerate([rows[5] | {"text": MAIL}] * 4)]
    most = {"type": "expect_column_most_common_value_to_be_in_set", "kwargs": {"column": "text", "value_set": ["x"]}}
    for severity in ("warn", "ignore"):
        workspace = write(tmp_path / severity, test=rows)
        with pytest.raises(DataError, match=r"data: \d+ problems?") as caught:
            run(workspace, severity={"private_data": severity}, expectations=[most])
        problems = "\n".join(caught.value.problems)
        assert "not a text, in which somebody says: write to <EMAIL" in problems
        assert "found ['write to <EMAIL>']" in problems
        report = workspace.failed / "validate"
        for text in (problems, *(path.read_text() for path in report.rglob("*") if path.is_file())):
            assert "jane" not in text


def test_more_rows_in_quarantine_than_the_share_stop_the_chain(tmp_path: Path) -> None:
    rows = rows_of("train")
    for row in rows[:3]:
        row["text"] = " "
    workspace = write(tmp_path, train=rows)
    with pytest.raises(DataError, match=r"data: \d+ problems?") as caught:
        run(workspace, severity={"min_characters": "quarantine"})
    assert caught.value.problems == (
        "data/train: expected at most 2 rows in quarantine (20%: validation.max_quarantined_share), found 3 of 10 "
        "(data/train/part.jsonl:1, data/train/part.jsonl:2, data/train/part.jsonl:3): "
        "3 for text: at least 1 visible character (validation.min_characters); mend the rows; or raise "
        "validation.max_quarantined_share; or let what they break be reported only (validation.severity: warn), where "
        "that is possible; or split the data again",
    )
    assert not workspace.validation.exists()
    folder = workspace.failed / "validate" / "quarantine"
    assert json.loads((folder / "summary.json").read_text()) == {"rows": {"train": 3}}
    lines = (folder / "train" / "part.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"]["text"] for line in lines] == [" "] * 3
    verdict = run(workspace, severity={"min_characters": "quarantine"}, max_quarantined_share=0.3)
    assert len(verdict["quarantined"]) == 3


def test_one_row_may_be_in_quarantine_unless_the_share_is_nothing(tmp_path: Path) -> None:
    rows = rows_of("train")
    rows[3] |= {"text": " ", "id": "train-0"}
    workspace = write(tmp_path, train=rows)
    severity = {"min_characters": "quarantine", "unique_ids": "quarantine"}
    assert run(workspace, severity=severity, max_quarantined_share=0.001)["quarantined"] == ["data/train/part.jsonl:4"]
    with pytest.raises(DataError, match="data: 1 problem; report: ") as caught:
        run(workspace, severity=severity, max_quarantined_share=0)
    [problem] = caught.value.problems
    assert "expected at most 0 rows in quarantine (0%: " in problem
    assert "found 1 of 10 (data/train/part.jsonl:4): 1 for " in problem


def test_rows_over_the_share_are_counted_once_each(tmp_path: Path) -> None:
    text, number = Problem("", "", "a text", "none"), Problem("", "id", "more", "1")
    found = why([{"b:10": [text, number, text], "b:9": [text]}, {f"a:{line}": [number] for line in range(12, 8, -1)}])
    assert found == "(a:9, a:10, a:11, a:12, b:9, ...): 4 for id: more; 1 for a text and id: more; 1 for a text"
    parts = [{f"a:{line}": [Problem("", "", reason, "")] for line, reason in enumerate(["x", "x", "y", "z", "v", "w"])}]
    assert why(parts).endswith(": 2 for x; 1 for y; 1 for z; 2 for other reasons")
    assert [most_rows(0.07, 100), most_rows(0.07, 101), most_rows(0.01, 1), most_rows(0.0, 99)] == [7, 8, 1, 0]


def test_a_missing_column_stops_the_chain_whatever_the_severity(tmp_path: Path) -> None:
    workspace = write(tmp_path, test=[{"text": row["text"]} for row in rows_of("test")])
    with pytest.raises(DataError, match="label: expected a column of that name"):
        run(workspace, severity={"readable": "quarantine", "missing": "quarantine"}, max_quarantined_share=1)


@pytest.mark.parametrize(("aside", "other"), [("missing", "readable"), ("readable", "missing")])
def test_a_missing_value_and_a_row_that_cannot_be_read_have_severities_of_their_own(
    tmp_path: Path, aside: str, other: str
) -> None:
    lost, unread = {"id": "m", "text": None, "label": "x"}, {"id": "u", "text": ["a"], "label": "x"}
    given = {"missing": lost, "readable": unread}
    workspace = write(tmp_path, train=[*rows_of("train"), given[aside]])
    found = run(workspace, severity={aside: "quarantine"}, max_quarantined_share=1)
    assert len(found["quarantined"]) == 1
    workspace = write(tmp_path, train=[*rows_of("train"), given[aside], given[other]])
    with pytest.raises(DataError, match="data: 1 problem") as caught:
        run(workspace, severity={aside: "quarantine"}, max_quarantined_share=1)
    assert f"train/part.jsonl:{len(rows_of('train')) + 2}: text: expected" in caught.value.problems[0]


def test_a_label_that_only_rows_in_quarantine_have_stops_the_chain(tmp_path: Path) -> None:
    aside = [{"id": "w", "text": " ", "label": "x"}, {"id": "z", "text": " ", "label": "z"}]
    workspace = write(tmp_path, train=[*rows_of("train"), *aside])
    said = r"data/train: all rows with the label 'z' are in quarantine \(data/train/part.jsonl:12\);"
    with pytest.raises(DataError, match=said):  # not line 11, which has another label
        run(workspace, severity={"min_characters": "quarantine"})


def test_warnings_that_are_not_printed_are_counted_with_their_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dirt = [{"id": f"d{n}", "label": "x", "text": text} for n, text in enumerate(["a\x07b text", "salt &amp; pepper"])]
    splits = {}
    for split in SPLITS:
        own = [row | {"id": f"{split}-{row['id']}", "text": f"{row['text']} {split}"} for row in dirt]
        splits[split] = [*rows_of(split), *own]
    assert len(run(write(tmp_path, **splits))["warnings"]) == 6
    assert "validate: 6 warnings; 1 more in artifacts/data_docs/index.html\n" in capsys.readouterr().out


def test_a_profiled_contract_holds_for_the_data_it_was_made_from_and_not_for_others(tmp_path: Path) -> None:
    workspace = write(tmp_path)
    proposal = profiled(workspace.data, Config(), DataConfig())
    section = proposal.section
    assert proposal.broken == []
    assert proposal.seen == [
        "rows: train 10, validation 10, test 10",
        "text (visible characters): 9 to 15",
        "text (characters): 11 to 17",
        "label: 2 labels",
    ]
    assert section["max_characters"] == 34
    assert section["min_rows"] == 5
    assert run(workspace, **section)["warnings"] == []
    write(tmp_path, test=rows_of("test", 4), train=[*rows_of("train"), {"id": "l", "text": "l" * 35, "label": "z"}])
    with pytest.raises(DataError, match=r"data: \d+ problems?") as caught:
        run(workspace, **section)
    assert [one.split(": expected")[0] for one in caught.value.problems] == [
        "data/train/part.jsonl:11: text",
        "data/train/part.jsonl:11: label",
        "data/test",
    ]


def test_a_profile_of_numbers_bounds_them(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        path = tmp_path / "data" / split / "part.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text('{"text": "a", "target": 1.5}\n{"text": "bc", "target": -2}\n')
    section = profiled(tmp_path / "data", Regression(), DataConfig()).section
    [one] = section["expectations"]
    assert one["kwargs"] == {"column": "target", "min_value": -2, "max_value": 1.5}
    assert one["severity"] == "warn"
    assert section["unique_ids"] is False


def test_a_profile_makes_no_rule_of_dirt_and_says_where_it_is(tmp_path: Path) -> None:
    labels = ["neutral"] * 60 + ["Neutral"] * 20 + ["neutrall"]
    train = [{"id": str(n), "text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    train[3]["text"], train[5]["id"] = " \u200b", "4"
    write(tmp_path, train=train, validation=train[30:40], test=train[40:50])
    part = tmp_path / "data" / "test" / "part.jsonl"
    part.write_text(part.read_text() + "{\n")
    proposal = profiled(tmp_path / "data", Config(), DataConfig())
    assert proposal.section["min_characters"] == 1
    [one] = proposal.section["expectations"]
    assert one["kwargs"]["value_set"] == ["Neutral", "neutral"]
    of_labels = "expectations.expect_column_values_to_be_in_set.label"
    assert proposal.broken == [
        ("severity.readable", "1 problem of reading: `graft run` names each"),
        ("min_characters", "text: 1 row is empty (data/train/part.jsonl:4)"),
        ("unique_ids", "id: 21 rows have an id that another row has"),
        (
            of_labels,
            "label: label 'Neutral' has 20 rows (data/train/part.jsonl:61, ...) and 'neutral' has 80: both are kept; "
            "are they one?",
        ),
        (of_labels, "label: label 'neutrall' has 1 row (data/train/part.jsonl:81): left out, as 'neutral' has 80"),
    ]


def test_a_profile_of_other_columns_is_refused_with_their_names(tmp_path: Path) -> None:
    others = [{"body": "a b", "stars": 3}] * 2
    write(tmp_path, train=others, validation=others, test=others)
    with pytest.raises(
        DataError, match="data: columns of the task text_classification are missing: text, label"
    ) as caught:
        profiled(tmp_path / "data", Config(), DataConfig())
    assert len(caught.value.problems) == 6
    message = r"columns of the task chat are missing: no row has a value in any of prompt, .* \(got 'body, stars'\)"
    with pytest.raises(DataError, match=message):
        profiled(tmp_path / "data", Chat(), DataConfig())
    write(tmp_path, test=[{"text": 1, "label": "a"}])
    with pytest.raises(DataError, match="data/test: no row can be read"):
        profiled(tmp_path / "data", Config(), DataConfig())


STARTS: dict[str, Any] = {
    "type": "expect_column_values_to_match_regex",
    "kwargs": {"column": "text", "regex": "^(train|test|validation) "},
}


@pytest.mark.slow
def test_own_expectations_have_their_severity(tmp_path: Path) -> None:
    rows = rows_of("test")
    rows[6]["text"] = "Test text 6"
    workspace = write(tmp_path, test=rows)
    with pytest.raises(DataError, match=r"part\.jsonl:7: text: expected values to match regex: regex '\^\(train"):
        run(workspace, expectations=[STARTS])
    assert run(workspace, expectations=[{**STARTS, "severity": "quarantine"}])["quarantined"] == [
        "data/test/part.jsonl:7"
    ]
    [warning] = run(workspace, expectations=[{**STARTS, "severity": "warn"}])["warnings"]
    assert warning.startswith("test: 1 row not as expected: text: values to match regex")
    rows[6]["id"] = "train-1"
    write(tmp_path, test=rows)
    verdict = run(workspace, severity={"unique_ids": "quarantine"}, expectations=[{**STARTS, "severity": "warn"}])
    assert (len(verdict["quarantined"]), verdict["warnings"]) == (1, []), "what is kept aside is not reported too"
    rows[6]["id"] = "test-6"
    write(tmp_path, test=rows)
    mostly = {**STARTS, "kwargs": {**STARTS["kwargs"], "mostly": 0.9}}
    assert run(workspace, expectations=[mostly])["warnings"] == []


def test_an_expectation_about_a_part_names_the_part(tmp_path: Path) -> None:
    workspace = write(tmp_path)
    fewest = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 11}}
    with pytest.raises(DataError, match=r"data: \d+ problems?") as caught:
        run(workspace, expectations=[fewest])
    assert caught.value.problems[0] == (
        "data/train/part.jsonl: expected row count to be between: min_value 11, found 10"
    )
    likely = {"type": "expect_column_most_common_value_to_be_in_set", "kwargs": {"column": "label", "value_set": ["z"]}}
    [warning, *_] = run(workspace, expectations=[{**likely, "severity": "warn"}])["warnings"]
    assert warning.startswith("train: 1 part not as expected: label: most common value to be in set")


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        (
            {"type": "expect_column_values_to_match_rgex", "kwargs": {"column": "text"}},
            r"validation\.expectations\.0\.type: great_expectations has no .*; did you mean expect_column_values_to_m",
        ),
        (
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "text", "min_valu": 3}},
            r"validation\.expectations\.0\.kwargs: min_valu: .*; did you mean min_value\?$",
        ),
        (
            {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "text", "value_sett": ["a"]}},
            r"validation\.expectations\.0\.kwargs: value_sett: .*; did you mean value_set\?$",
        ),
        (
            {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "txt"}},
            r"validation\.expectations\.0\.kwargs\.column: no column 'txt'; there are text, text \(visible char",
        ),
        (
            {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 10}, "severity": "quarantine"},
            r"validation\.expectations\.0\.severity: .* says nothing of single rows",
        ),
        (
            {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "text", "regex": "("}},
            r"validation\.expectations\.0: great_expectations cannot evaluate",
        ),
    ],
)
def test_an_expectation_that_cannot_be_is_refused_by_its_path(
    tmp_path: Path, expectation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(write(tmp_path), expectations=[expectation])


def test_an_expectation_on_two_columns_is_shown(tmp_path: Path) -> None:
    pair = {
        "type": "expect_column_pair_values_to_be_equal",
        "kwargs": {"column_A": "text", "column_B": "label"},
        "severity": "warn",
    }
    verdict = run(write(tmp_path), expectations=[pair])
    assert any("pair values to be equal" in one for one in verdict["warnings"])


def test_an_expectation_that_cannot_be_evaluated_is_named(tmp_path: Path) -> None:
    wrong = {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "text", "value_set": {"$PARAMETER": "nowhere"}},
    }
    with pytest.raises(ConfigError, match=r"validation\.expectations\.0: .*nowhere"):
        run(write(tmp_path), expectations=[wrong])


def test_limits_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_characters \(5\) is below min_characters \(10\)"):
        ValidationConfig(min_characters=10, max_characters=5)


def results_of(workspace: Workspace) -> dict[tuple[str, str], Any]:
    """Return the results of the one test part by type and column of the expectation."""
    told = [json.loads(path.read_text()) for path in workspace.store.rglob("validate/*/suite.json")]
    [found] = [one for one in told if one["results"][0]["result"]["element_count"] == 11]
    configs = ((one["expectation_config"], one) for one in found["results"])
    return {(one["type"], one["kwargs"].get("column", "")): result for one, result in configs}


def test_a_missing_value_counts_for_its_own_field(tmp_path: Path) -> None:
    rows = [*rows_of("test"), {"id": "m", "text": "a text without a label"}]
    workspace = write(tmp_path, test=rows)
    assert len(run(workspace, severity={"missing": "quarantine"})["quarantined"]) == 1
    found = results_of(workspace)
    not_null = "expect_column_values_to_not_be_null"
    assert found[not_null, "label"]["result"]["unexpected_count"] == 1
    assert not found[not_null, "label"]["success"]
    assert found[not_null, "text"]["result"]["unexpected_count"] == 0
    assert found[not_null, "text"]["success"]


def test_nothing_is_said_of_an_optional_column_that_no_row_has(tmp_path: Path) -> None:
    rows = [*rows_of("test"), rows_of("more", 1)[0]]
    workspace = write(tmp_path, test=rows)
    run(workspace)
    assert not any(column.startswith("text_pair") for _, column in results_of(workspace))
    assert "text_pair" not in (workspace.data_docs / "index.html").read_text()
    write(tmp_path, test=[row | {"text_pair": "another text"} for row in rows])
    verdict = run(workspace)
    assert "text_pair" in (workspace.data_docs / "index.html").read_text()
    assert any(one["column"].startswith("text_pair") for one in verdict["checks"])


def test_an_expectation_on_a_column_of_the_files_says_its_name_here_and_its_line(tmp_path: Path) -> None:
    workspace = write(tmp_path)
    expectations = [STARTS, {**STARTS, "kwargs": {"column": "query", "regex": "^a"}}]
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump({"expectations": expectations}))
    (tmp_path / "params.yaml").write_text("validation:\n  contract: contract.yaml\n")
    for split in SPLITS:
        part = tmp_path / "data" / split / "part.jsonl"
        part.write_text(part.read_text().replace('"text"', '"query"'))
    with pytest.raises(ConfigError, match="'query' is called 'text' here") as caught:
        run(workspace, data={"columns": {"text": "query"}}, expectations=expectations)
    lines = (tmp_path / "contract.yaml").read_text().splitlines()
    line = next(number for number, one in enumerate(lines, start=1) if "query" in one)
    [_, at, *_] = str(caught.value).split(":")
    assert abs(int(at) - line) <= 1, lines
    assert "'query' is called 'text' here, by data.columns; write `column: text`" in str(caught.value)


def test_a_wrong_label_is_told_with_the_one_that_it_may_be() -> None:
    labels = [f"label_{number:02}" for number in range(12)]
    [(_, expected, found)] = label_problems("lable_07", labels)
    assert found == "'lable_07'; did you mean 'label_07'?"
    assert expected == f"one of {', '.join(labels[:10])} and 2 more"
    [(_, expected, found)] = label_problems("z", ["x", "y"])
    assert (expected, found) == ("one of x, y", "'z'")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"ticket": "t", "again": "s"}, "the column 'ticket' has another value in each row: if it is an id, write "),
        ({"again": "s"}, "no column id: unique_ids is false; `data.columns: {id: COLUMN}` in params.yaml names one"),
    ],
)
def test_a_contract_without_ids_says_how_to_name_them(tmp_path: Path, rows: dict[str, str], said: str) -> None:
    data = {
        split: [
            {"text": row["text"], "label": row["label"], **rows, **({"ticket": row["id"]} if "ticket" in rows else {})}
            for row in rows_of(split)
        ]
        for split in SPLITS
    }
    workspace = write(tmp_path, **data)
    proposal = profiled(workspace.data, Config(), DataConfig())
    assert proposal.section["unique_ids"] is False
    assert said in proposal.seen[-1]
    if "ticket" in rows:
        named = profiled(workspace.data, Config(), DataConfig(columns={"id": "ticket"}))
        assert named.section["unique_ids"] is True
        assert not any("no column id" in line for line in named.seen)
