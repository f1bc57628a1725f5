"""The page about the data for the Prefect UI: from the verdict of data that passed, or the report of a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graft.data import DataConfig
from graft.errors import DataError
from graft.tasks.text_classification import Config
from graft.validation import ValidationConfig, validate
from graft.validation.summary import LISTED, passed, refused
from graft.workspace import SPLITS, Workspace
from tests.conftest import write_rows

EMAIL = "jane.doe@mail.example.com"


def write(root: Path, test: list[dict[str, Any]]) -> Workspace:
    for split in SPLITS:
        rows = test if split == "test" else [{"text": f"{split} {n}", "label": "xy"[n % 2]} for n in range(20)]
        write_rows(root / "data" / split / "part.jsonl", rows)
    (root / "params.yaml").write_text("")
    return Workspace(root)


def run(workspace: Workspace, **settings: Any) -> None:
    validation = ValidationConfig.model_validate({"max_quarantined_share": 0.5, **settings})
    validate(workspace, task=Config(), data=DataConfig(), validation=validation)


ROWS = [
    {"text": "test 1", "label": "x"},
    {"text": "", "label": "y"},
    {"text": f"write to {EMAIL} | or <b>call</b>", "label": "y"},
]


def cells(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:1] == "|"]


def test_data_that_passed_has_its_rows_its_quarantine_and_its_warnings(tmp_path: Path) -> None:
    workspace = write(tmp_path, ROWS)
    run(workspace, severity={"min_characters": "quarantine", "near_duplicates": "ignore"})
    page = passed(workspace)
    assert page.startswith("# Data: passed, with 2 warnings\n")
    table = cells(page)
    assert [row[0] for row in table[2:5]] == ["train", "validation", "test"]
    assert ["train", "20", "1", "0"] in table
    assert ["test", "2", "1", "1"] in table
    assert ["expect\\_column\\_values\\_to\\_be\\_between", "text (visible characters)", "quarantine", "1"] in table
    assert "- test: 1 row not as expected: text: a text without private data" in page
    assert page.endswith("Every expectation with its result: `artifacts/data_docs/index.html`")
    assert EMAIL not in page
    assert passed(workspace, "http://here/docs").endswith("[Data Docs](http://here/docs)")


def test_data_that_was_refused_has_its_first_problems(tmp_path: Path) -> None:
    other = {"text": "test 4", "label": "nowhere-1234"}
    workspace = write(tmp_path, [*ROWS, other, *[{"text": " ", "label": f"{EMAIL} | *z*"}] * 30])
    with pytest.raises(DataError, match="problems"):
        run(workspace)
    report = workspace.failed / "validate"
    page = refused(report, ".graft/failed/validate")
    total = json.loads((report / "report.json").read_text())["total"]
    assert page.startswith(f"# Data: refused, {total} problems\n")
    assert f"## The first {LISTED} problems" in page
    table = cells(page)
    assert table[-LISTED][:2] == ["data/test/part.jsonl:2", "text"]
    assert {len(row) for row in table[-LISTED:]} == {4}, "what a value holds makes no cell"
    assert "`.graft/failed/validate/data_docs/index.html`" in page
    assert EMAIL not in page
    assert "jane.doe" not in page
    assert "nowh…" in page
    assert "nowhere" not in page


def test_data_that_is_no_data_folder_has_its_problems_too(tmp_path: Path) -> None:
    workspace = write(tmp_path, ROWS)
    (workspace.data / "other").mkdir()
    with pytest.raises(DataError, match="not a split"):
        run(workspace)
    page = refused(workspace.failed / "validate", "x")
    assert page.startswith("# Data: refused, 1 problem\n")
    assert "data/other: not a split" in page


def test_the_most_severe_checks_come_first_and_what_is_cut_is_said(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.validation.mkdir(parents=True)
    kinds = [("warn", 3), ("quarantine", 2)] * 7 + [("warn", 9), ("fail", 1)]
    checks = [
        {"expectation": f"e{n}", "column": "c", "severity": severity, "failed": failed}
        for n, (severity, failed) in enumerate(kinds)
    ]
    warnings = [f"w{n}" for n in range(LISTED + 1)]
    verdict = {"checks": [*checks, {**checks[0], "failed": 0}], "warnings": warnings}
    (workspace.validation / "verdict.json").write_text(json.dumps(verdict))
    page = passed(workspace)
    table = cells(page)[-LISTED:]
    assert table[0] == ["e15", "c", "fail", "1"]
    assert {row[2] for row in table[1:8]} == {"quarantine"}
    assert table[8] == ["e14", "c", "warn", "9"]
    assert f"17 checks of each row, 16 with rows that fail. The first {LISTED} of 16, the most severe first:" in page
    assert f"## The first {LISTED} warnings of 16\n" in page
    verdict |= {"checks": checks[:LISTED], "warnings": warnings[:LISTED]}
    (workspace.validation / "verdict.json").write_text(json.dumps(verdict))
    assert "first" not in passed(workspace)
    assert "\n## Warnings\n" in passed(workspace)


def test_a_problem_without_a_place_is_a_line_of_its_own_and_whole(tmp_path: Path) -> None:
    said = "data/train: all rows with the label 'rare' are in quarantine (data/train/a.jsonl:3); 1 for label: 'm|l'"
    placed = {"message": "m", "place": "data/train/a.jsonl:3", "field": "text", "expected": "a text", "found": "'-'"}
    problems = [{"message": said}, placed, {"message": "found 'a secret of many words' | here"}]
    (tmp_path / "report.json").write_text(json.dumps({"problems": problems}))
    page = refused(tmp_path, "x")
    assert "\n- " + said.replace("|", "\\|") + "\n" in page
    assert "\n- found 'a se…' \\| here\n" in page
    assert [row[0] for row in cells(page)] == ["row", "---|---|---|---", "data/train/a.jsonl:3"]
