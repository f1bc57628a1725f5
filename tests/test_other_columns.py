"""Expectations on columns of the files that the task does not read, and the contract that such columns give."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.checks import check
from graft.cleaning import Cleaning
from graft.data import DataConfig, Problem, read_part
from graft.errors import ConfigError, DataError
from graft.tasks.text_classification import Config, TextClassification
from graft.validation import ValidationConfig, validate
from graft.validation.column_profile import ColumnProfile
from graft.validation.contract import fields_beside
from graft.validation.profile import profiled
from graft.workspace import SPLITS, Workspace
from tests.conftest import write_rows
from tests.test_cli import invoke

COLUMNS = {"city": "string", "price": "number"}
IN_SET = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "city", "value_set": ["Bend", "Gary"]}}
BETWEEN = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "price", "min_value": 1, "max_value": 40}}
Rows = list[dict[str, Any]]
ALIKE = dict.fromkeys(("near_duplicates", "leakage", "outliers"), "ignore")


def rows_of(split: str, count: int = 20) -> Rows:
    return [
        {"text": f"{split} says {n}", "label": "xy"[n % 2], "city": ("Bend", "Gary")[n % 2], "price": 10 + n % 3}
        for n in range(count)
    ]


def write(root: Path, kind: str = "jsonl", **more: Rows) -> Workspace:
    for split in SPLITS:
        path = root / "data" / split / f"part.{kind}"
        rows = [*rows_of(split), *more.get(split, [])]
        if kind == "jsonl":
            write_rows(path, rows)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "city", "price"])
            writer.writeheader()
            writer.writerows(rows)
    (root / "params.yaml").write_text("")
    return Workspace(root)


def run(workspace: Workspace, clean: tuple[str, ...] = (), **settings: Any) -> list[dict[str, Any]]:
    """Validate, and return the train rows in quarantine."""
    settings = {"max_quarantined_share": 0.5, **settings, "severity": ALIKE | settings.get("severity", {})}
    data = DataConfig.model_validate({"clean": clean})
    validate(workspace, task=Config(), data=data, validation=ValidationConfig.model_validate(settings))
    [path] = [*(workspace.quarantine / "train").glob("*.jsonl")] or [None]
    return [json.loads(line) for line in path.read_text().splitlines()] if path else []


def odd(**changed: Any) -> dict[str, Any]:
    return {"text": "an odd row", "label": "x", "city": "Bend", "price": 12, **changed}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_is_kept_aside_for_what_stands_beside_its_text(tmp_path: Path, kind: str) -> None:
    own = [{**IN_SET, "severity": "quarantine"}, {**BETWEEN, "severity": "quarantine"}]
    train = [odd(city="Bxnd"), odd(price=99, text="dear"), odd(city=None, price=None, text="no value is none wrong")]
    aside = run(write(tmp_path, kind, train=train), columns=COLUMNS, expectations=own)
    assert [(row["place"], one["field"], one["found"]) for row in aside for one in row["reasons"]] == [
        (f"data/train/part.{kind}:{21 + (kind == 'csv')}", "city", "'Bxnd'"),
        (f"data/train/part.{kind}:{22 + (kind == 'csv')}", "price", "99.0"),
    ]
    assert aside[0]["row"]["city"] == "Bxnd"


def test_a_row_that_cannot_be_read_lacks_no_value(tmp_path: Path) -> None:
    """It has none in Great Expectations' frame, whatever it was refused for: its other columns may be filled."""
    filled = [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": name}} for name in COLUMNS]
    mostly = [{**one, "kwargs": {**one["kwargs"], "mostly": 0.9}} for one in filled]
    train = [odd(price="much"), odd(city=None, text="nowhere")]
    workspace = write(tmp_path, train=train)
    settings: dict[str, Any] = {"columns": COLUMNS, "severity": {"readable": "quarantine"}}
    own = [{**one, "severity": "quarantine"} for one in filled]
    aside = run(workspace, expectations=own, **settings)
    assert [(row["place"][-2:], row["reasons"][0]["field"]) for row in aside] == [("21", "price"), ("22", "city")]
    found = json.loads((workspace.validation / "verdict.json").read_text())["checks"]
    failed = {one["column"]: one["failed"] for one in found if one["expectation"].endswith("not_be_null")}
    assert (failed["city"], failed["price"]) == (1, 0)
    assert len(run(workspace, expectations=mostly, **settings)) == 1


def test_a_label_that_a_set_of_the_contract_does_not_have_is_kept_aside_whole(tmp_path: Path) -> None:
    """Of other reasons the label would be lost unsaid; here the contract says that it is none."""
    known = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "label", "value_set": ["x", "y"]}}
    workspace = write(tmp_path, train=[odd(label="xx"), odd(label="z", text="short"), odd(label="z", text="brief")])
    aside = run(workspace, expectations=[{**known, "severity": "quarantine"}])
    assert [row["row"]["label"] for row in aside] == ["xx", "z", "z"]
    assert json.loads((workspace.validation / "verdict.json").read_text())["state"]["labels"] == ["x", "y"]
    with pytest.raises(DataError, match=r"data/train: all rows with the label 'z' are in quarantine"):
        run(workspace, min_characters=8, severity={"min_characters": "quarantine"})


def test_a_row_that_is_only_reported_stays(tmp_path: Path) -> None:
    workspace = write(tmp_path, train=[odd(city="Bxnd")])
    assert run(workspace, columns=COLUMNS, expectations=[{**IN_SET, "severity": "warn"}]) == []
    [line] = (workspace.validation / "warned.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], json.loads(line)["field"]) == ("data/train/part.jsonl:21", "city")
    assert json.loads((workspace.validation / "verdict.json").read_text())["splits"]["train"]["rows"] == 21


def test_a_number_is_one_as_text_too(tmp_path: Path) -> None:
    """An imported table has text in the columns that the task does not read."""
    own = [{**BETWEEN, "severity": "quarantine"}]
    train = [
        odd(price="12.5"),
        odd(price="99", text="dear"),
        odd(price="", text="no price"),
        odd(price=" 7 ", text="b"),
    ]
    aside = run(write(tmp_path, train=train), columns=COLUMNS, expectations=own)
    assert [row["reasons"][0]["found"] for row in aside] == ["99.0"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_value_of_another_type_is_named(tmp_path: Path, kind: str) -> None:
    workspace = write(tmp_path, kind, train=[odd(price="12.0 oz")])
    said = rf"part\.{kind}:2[12]: price: expected a finite number, found the string '12\.0 oz'"
    with pytest.raises(DataError, match=said):
        run(workspace, columns=COLUMNS)
    [aside] = run(workspace, columns=COLUMNS, severity={"readable": "quarantine"})
    assert aside["reasons"][0]["field"] == "price"


def test_a_column_that_a_part_does_not_have_is_named_once_with_the_nearest(tmp_path: Path) -> None:
    workspace = write(tmp_path)
    with pytest.raises(DataError, match="citty") as caught:
        run(workspace, columns={"citty": "string"}, expectations=[])
    [one] = [problem for problem in caught.value.problems if "data/train/" in problem]
    assert one.startswith("data/train/part.jsonl:1: citty: expected a column of that name, found only 'text, label,")
    assert one.endswith("did you mean 'city'? Write that in validation.columns")
    rows = [{**row, "city": None} for row in rows_of("train")]
    write_rows(workspace.data / "train" / "part.jsonl", [{k: v for k, v in rows[0].items() if k != "city"}, *rows])
    assert run(workspace, columns={"city": "string"}) == []  # the column is there; a row needs no value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expectations": [IN_SET]}, r"expectations\.0\.kwargs\.column: no column 'city'; .* \(\{city: string\}\)"),
        ({"columns": {"text": "string"}}, r"validation\.columns\.text: the task's own column"),
        ({"columns": {"text (characters)": "number"}}, r"validation\.columns\.text \(characters\): the task's own"),
    ],
)
def test_a_column_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(write(tmp_path), **settings)


def test_a_column_that_the_task_reads_under_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"validation\.columns\.body: is the task's text by data\.columns"):
        fields_beside(TextClassification.fields, {"body": "string"}, DataConfig(columns={"text": "body"}))


def test_the_rows_are_those_that_later_stages_read(tmp_path: Path) -> None:
    """Which rows are equal does not depend on the columns beside them, nor on whether these can be read."""
    twice = odd(text="twice")
    workspace = write(tmp_path, train=[{**twice, "price": "much"}, twice, {**twice, "city": "Gary"}, odd()])
    data, path = DataConfig(clean=("duplicates",)), workspace.data / "train" / "part.jsonl"
    own = TextClassification.fields

    def read(fields: Any) -> list[str]:
        found = read_part(path, workspace.root, fields, data, Cleaning(data.clean, data.privacy))
        return [one.place for one in found if not isinstance(one, Problem)]

    [aside] = run(workspace, ("duplicates",), columns=COLUMNS, severity={"readable": "quarantine"})
    assert aside["place"] == "data/train/part.jsonl:21"
    beside = read((*own, *fields_beside(own, COLUMNS)))
    assert beside == [one for one in read(own) if one != aside["place"]]
    assert beside[-1] == "data/train/part.jsonl:24"
    assert len(beside) == 21


def test_no_private_value_beside_the_text_is_shown(tmp_path: Path) -> None:
    mail = "ann.smith@mail-host.org"
    workspace = write(tmp_path, train=[odd(city=mail)])
    run(workspace, columns=COLUMNS, expectations=[{**IN_SET, "severity": "quarantine"}])
    written = [path for path in (workspace.root / "artifacts").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if mail.encode() in path.read_bytes()] == []


def test_graft_check_finds_a_column_that_is_not_there(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", **{"validation.columns": {"source": "string"}})
    found = [one.text for one in check(project).failures if one.check == "data"]
    assert len(found) == len(SPLITS)
    assert all("source: expected a column of that name" in one for one in found)


# -- what a column gives


def profile(values: list[Any]) -> ColumnProfile:
    found = ColumnProfile("c")
    for number, value in enumerate(values):
        found.add(f"p:{number}", value)
    return found


def rules(values: list[Any]) -> dict[str, dict[str, Any]]:
    made = (one for one, _ in profile(values).expectations())
    return {one["type"].removeprefix("expect_column_values_to_"): one["kwargs"] for one in made}


def test_a_type_is_what_nearly_all_values_are() -> None:
    assert profile(["1", "2.5", "-3e2"]).type == "number"
    assert profile([1, 2.5]).type == "number"
    assert profile(["1"] * 9 + ["N/A"]).type == "number"
    assert profile(["35007"] * 50 + ["01970"]).type == "string"
    assert profile(["0", "0.5", "10"]).type == "number"
    assert profile(["1"] * 8 + ["N/A"] * 2).type == "string"


@pytest.mark.parametrize(
    ("values", "right", "wrong"),
    [
        ([f"{n} patients" for n in range(30)] + ["empty"], "99 patients", "3x patients"),
        ([f"{n}:{n:02} a.m." for n in range(30)], "11:59 a.m.", "12/02 6:55 a.m."),
        ([f"({'ab' * (n + 1)}) [x]" for n in range(300)], "(qq) [yy]", "(q1) [y]"),
    ],
)
def test_forms_are_expressions_that_match_values_of_that_form(values: list[str], right: str, wrong: str) -> None:
    regex = rules(values)["match_regex"]["regex"]
    assert all(re.match(regex, one) for one in [*values, right])
    assert not re.match(regex, wrong)


def test_few_values_are_a_set_without_slips() -> None:
    values = ["birmingham"] * 60 + ["boaz"] * 30 + ["birminghxm"]
    found = [*profile(values).expectations()]
    assert [one["kwargs"].get("value_set") for one, _ in found] == [None, ["birmingham", "boaz"]]
    assert found[1][1] == ["'birminghxm' in 1 row (p:90): left out, as 'birmingham' has 60"]
    assert "not_be_null" in rules(values)
    assert "not_be_null" not in rules([*values, ""])


def test_what_has_nothing_in_common_gets_no_rule() -> None:
    assert [*rules([f"{'word ' * n}{n * 'a'}-{n}" for n in range(1, 60)])] == ["not_be_null"]
    assert rules(["", None]) == {}


def test_a_value_that_is_no_text_is_refused_by_its_place() -> None:
    with pytest.raises(DataError, match=r"p:1: c: expected a string or a number, found a list"):
        profile(["a", ["b"]])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_proposal_holds_for_its_data_and_not_for_a_dirty_copy(tmp_path: Path, kind: str) -> None:
    workspace = write(tmp_path, kind)
    proposal = profiled(workspace.data, Config(), DataConfig(), None, ["city", "price"])
    assert proposal.broken == []
    assert "city (beside the task's columns): a string, 2 values in 60 rows" in proposal.seen
    assert proposal.section["columns"] == COLUMNS
    section = {**proposal.section, "severity": {}, "unique_ids": True}
    assert run(workspace, **section) == []
    assert not (workspace.validation / "warned.jsonl").exists()
    write(tmp_path, kind, train=[odd(city="Bxnd"), odd(text="another", price=99), odd(text="third", city=None)])
    run(workspace, **section)
    said = [json.loads(line) for line in (workspace.validation / "warned.jsonl").read_text().splitlines()]
    assert sorted((int(one["row"].rpartition(":")[2]) - (kind == "csv"), one["field"]) for one in said) == [
        (21, "city"),
        (22, "price"),
        (23, "city"),
    ]
    with pytest.raises(DataError, match=r"data: no column 'citty'; there are .*did you mean 'city'\?"):
        profiled(workspace.data, Config(), DataConfig(), None, ["citty"])


def test_the_command_proposes_columns_and_keeps_to_them(
    make_project: Callable[..., Workspace], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path / "p")
    for split in SPLITS:
        path = project.data / split / "part-0000.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [{**row, "source": "ab"[n % 2], "price": n % 9} for n, row in enumerate(rows)])
    assert invoke("-C", str(project.root), "contract", "--column", "source", "--write") == 0
    assert 'added columns.source: "string"' in capsys.readouterr().out
    section = yaml.safe_load(project.params.read_text())["validation"]
    assert section["columns"] == {"source": "string"}
    assert invoke("-C", str(project.root), "contract", "--column", "price") == 0
    added = yaml.safe_load(capsys.readouterr().out)["validation"]
    assert added["columns"] == {"price": "number"}
    assert invoke("-C", str(project.root), "contract", "--column", "text") == 2
    assert "validation.columns.text: the task's own column" in capsys.readouterr().err


# -- names, numbers and results of any kind


@pytest.mark.parametrize("name", ["", "rows that cannot be read", "text (private data)", "text (encoding)"])
def test_a_name_that_something_else_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"validation\.columns\.{re.escape(name)}: .* rename it in the files"):
        fields_beside(TextClassification.fields, {name: "string"})


@pytest.mark.parametrize("name", ["source", "id"])
def test_a_column_is_called_as_in_the_files(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"validation\.columns\.{name}: data\.columns reads '{name}' from 'key'"):
        fields_beside(TextClassification.fields, {name: "string"}, DataConfig(columns={name: "key"}))


@pytest.mark.parametrize(
    ("type_", "kwargs", "found"),
    [
        ("compound_columns_to_be_unique", {"column_list": ["city", "price"]}, r":19: expected .* 'Bend'.* 10\.0"),
        ("multicolumn_sum_to_equal", {"column_list": ["price", "price"], "sum_total": 1}, r":1: expected .* 10\.0"),
        (
            "column_pair_values_to_be_equal",
            {"column_A": "city", "column_B": "label"},
            r":1: expected .* \['Bend', 'x'\]",
        ),
        (
            "column_distinct_values_to_be_in_set",
            {"column": "city", "value_set": ["Bend"]},
            r"city: .*'unexpected': \['Gary'\]",
        ),
        (
            "column_distinct_values_to_equal_set",
            {"column": "price", "value_set": [1]},
            r"price: .*'missing': \[1\], 'unexpected': \[10\.0",
        ),
        (
            "column_quantile_values_to_be_between",
            {"column": "price", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[1, 2]]}},
            r"price: .*'values': \[11",
        ),
    ],
)
def test_any_expectation_may_fail(tmp_path: Path, type_: str, kwargs: dict[str, Any], found: str) -> None:
    """Great Expectations says what failed as values, mappings, lists or numpy's scalars."""
    own = [{"type": f"expect_{type_}", "kwargs": kwargs, "severity": "fail"}]
    with pytest.raises(DataError, match=r"data: \d+ problem") as caught:
        run(write(tmp_path), columns=COLUMNS, expectations=own)
    assert any(re.search(found, one) for one in caught.value.problems), caught.value.problems


def test_a_card_in_a_column_of_numbers_is_not_shown(tmp_path: Path) -> None:
    card = 4111111111111111
    workspace = write(tmp_path, train=[odd(price=card)])
    pair = {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": "price", "column_B": "price_2"}}
    for path in workspace.data.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [{**row, "price_2": row["price"] % 9} for row in rows])
    own = [{**BETWEEN, "severity": "quarantine"}, {**pair, "severity": "warn"}]
    [aside] = run(workspace, columns={**COLUMNS, "price_2": "number"}, expectations=own)
    assert aside["reasons"][0]["found"] == "'<CARD>'"
    written = [path for path in workspace.root.rglob("*") if path.is_file() and workspace.data not in path.parents]
    assert len(written) > 5
    assert [path for path in written if str(card).encode() in path.read_bytes()] == []


def test_nothing_private_is_proposed() -> None:
    mails = [f"ann{n}.smith@mail-host.org" for n in range(3)]
    assert "value_set" not in str(rules(mails * 10))
    assert "mail" not in str(rules(mails * 10))
    cards = profile([4111111111111111, 1.5])
    assert [one["type"] for one, _ in cards.expectations()] == ["expect_column_values_to_not_be_null"]
    few = profile(["Bend"] * 30 + ["Gary"] * 30 + mails[:1])
    *_, (rule, said) = few.expectations()
    assert rule["kwargs"]["value_set"] == ["Bend", "Gary"]
    assert said == ["'<EMAIL>' in 1 row (p:60): left out, as it is private"]


def test_a_number_that_no_float_holds_is_none() -> None:
    found = profile([*range(20), 10**400])
    *_, (rule, said) = found.expectations()
    assert (rule["kwargs"]["max_value"], len(said)) == (19, 1)
    assert profile(["1e999"] * 5).type == "string"


def test_values_that_the_proposed_type_refuses_are_said() -> None:
    texts = profile(["a"] * 9 + [1, 2])
    assert [*texts.unreadable()] == ["a number without quotes in 2 rows (p:9, ...), which cannot be read as a string"]
    assert [*profile([1] * 19 + ["2"]).unreadable()] == []


@pytest.mark.parametrize("to", [(), ("--to", "contracts/c.yaml")])
def test_names_of_columns_are_written_as_they_are(
    make_project: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: tuple[str, ...]
) -> None:
    project = make_project(tmp_path / "p")
    monkeypatch.chdir(project.root)
    names = ["price.usd", "price", "yes", "#x", "12"]
    for path in project.data.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [{**row, **dict.fromkeys(names, "ab"[n % 2])} for n, row in enumerate(rows)])
    asked = [part for name in names for part in ("--column", name)]
    assert invoke("contract", *asked[:4], "--write") == 0
    assert invoke("contract", *asked, *(to or ("--write",))) == 0
    file = Path(to[1]) if to else project.params
    said = yaml.safe_load(file.read_text())
    assert (said if to else said["validation"])["columns"] == dict.fromkeys(names, "string")
