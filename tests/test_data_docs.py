"""The index of the Data Docs says what it means: rows that are kept, expectations that are not met, worst rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from graft import tasks
from graft.data import DataConfig
from graft.privacy.section import PrivacyConfig
from graft.tasks.text_classification import Config
from graft.validation import ValidationConfig, validate
from graft.validation.drawing import listed
from graft.validation.label_errors import LabelError, LabelErrors
from graft.validation.pages import Index, Part
from graft.validation.summary import passed
from graft.validation.worst import read_again
from graft.workspace import SPLITS, Workspace
from tests.conftest import write_rows


def write(root: Path, **rows: list[dict[str, Any]]) -> Workspace:
    for split in SPLITS:
        given = [{"text": f"{split} has {n}", "label": "xy"[n % 2]} for n in range(20)] + rows.get(split, [])
        write_rows(root / "data" / split / "part.jsonl", given)
    (root / "params.yaml").write_text("")
    return Workspace(root)


def index_of(workspace: Workspace, **settings: Any) -> str:
    validation = ValidationConfig.model_validate({"max_quarantined_share": 0.5, **settings})
    validate(workspace, task=Config(), data=DataConfig(), validation=validation)
    return (workspace.data_docs / "index.html").read_text()


def rows_of(page: str, heading: str) -> list[list[str]]:
    table = page.split(f"<h2>{heading}</h2>")[1].split("</table>")[0]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    return [
        [re.sub("<[^>]*>", "", one).strip() for one in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)]
        for line in lines
    ]


def test_rows_in_quarantine_are_not_among_those_that_are_kept(tmp_path: Path) -> None:
    workspace = write(tmp_path, train=[{"text": "", "label": "x"}], test=[{"text": "<b>Bold</b>", "label": "x"}])
    page = index_of(workspace, severity={"min_characters": "quarantine", "near_duplicates": "ignore"})
    assert '<p class="sub">61 rows kept of 62, 3 parts' in page
    heads, *parts = rows_of(page, "Parts")
    assert heads[3:7] == ["rows kept", "problems", "expectations met", "not met"]
    assert [(part[1], part[2], part[3], part[6]) for part in parts] == [
        ("part.jsonl", "✓ passed, with rows in quarantine", "20", "1"),
        ("part.jsonl", "✓ passed", "20", "0"),
        ("part.jsonl", "✓ passed, with warnings", "21", "1"),
    ]
    summary = passed(workspace)
    assert "\n| split | rows kept | parts | in quarantine |\n" in summary
    assert "\n61 rows kept of 62.\n" in summary


def test_the_worst_rows_begin_with_their_text_wherever_their_fault_was_found(tmp_path: Path) -> None:
    doubled = [
        {"text": "ann.smith@mail-host.org has sent us this", "label": "x"},
        {"text": "A row of the training data that is in test", "label": "x"},
    ]
    unseen = [
        {"text": "\u200b\u200b", "label": "x"},
        {"text": " \t\u00a0\u3000", "label": "x"},
        {"text": "", "label": "x"},
    ]
    # More rows are faulty by themselves than are named of a part, so that those across parts are not among these.
    bold = [{"text": f"<b>bold {n}</b>", "label": "xy"[n % 2]} for n in range(30)]
    workspace = write(tmp_path, train=doubled + unseen, test=[*bold, *doubled])
    settings = {
        "min_characters": "warn",
        "private_data": "ignore",
        "near_duplicates": "ignore",
        "leakage": "quarantine",
    }
    page = index_of(workspace, severity=settings)
    begins = {row[0]: row[1] for row in rows_of(page, "The worst rows")[1:]}
    assert begins["data/test/part.jsonl:51"] == "&lt;EMAIL&gt; has …"
    assert begins["data/test/part.jsonl:52"] == "A row of the…"
    assert begins["data/train/part.jsonl:23"] == r"\u200b\u200b"
    assert begins["data/train/part.jsonl:24"] == r"\x20\t\xa0…"
    assert begins["data/train/part.jsonl:25"] == "–"


def test_a_template_is_compiled_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_of(write(tmp_path / "first"))
    compiled: list[str | None] = []
    compiles = Environment.compile

    def counted(self: Environment, source: Any, name: str | None = None, *rest: Any, **named: Any) -> Any:
        compiled.append(name)
        return compiles(self, source, name, *rest, **named)

    monkeypatch.setattr(Environment, "compile", counted)
    workspace = write(tmp_path / "second", train=[{"text": "another row", "label": "x"}])
    index_of(workspace)
    assert len([*workspace.data_docs.rglob("*.html")]) > 4
    assert [name for name in compiled if name and name.endswith(".j2") and "page" in name] == []
    assert len(compiled) < 5


def test_a_row_that_cannot_be_read_has_no_beginning(tmp_path: Path) -> None:
    fields, part = tasks.get("text_classification").fields_of(Config()), tmp_path / "a.jsonl"
    part.write_text('{"text": "A first one", "label": "x"}\n{"text": \n{"text": "A third", "label": 3}\n')
    places = [f"a.jsonl:{n}" for n in (1, 2, 3, 9)]
    found = read_again(part, tmp_path, fields, DataConfig(), places)
    assert found == {"a.jsonl:1": "A first one", "a.jsonl:3": "A third"}


@pytest.mark.parametrize(
    ("is_passed", "aside", "said"),
    [
        (True, 0, "1,015 rows kept, 1 part,"),
        (True, 30, "1,015 rows kept of 1,045, 1 part,"),
        (False, 0, "1,015 rows that can be read, 1 part,"),
        (False, 30, "1,015 rows that can be read, beside 30 in quarantine, 1 part,"),
    ],
)
def test_the_index_says_which_rows_it_counts(tmp_path: Path, is_passed: bool, aside: int, said: str) -> None:
    Index(is_passed, 0, 1, parts=[Part("train", "a.jsonl", 1015, 0)], aside=aside).write(tmp_path)
    assert f'<p class="sub">{said}' in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("thing", "measure"), [("label", "probability"), ("number", "nearness")])
def test_the_score_of_a_likely_label_error_stands_beside_what_it_is_of(
    tmp_path: Path, thing: str, measure: str
) -> None:
    found = [LabelError("data/train/a.jsonl:1", "given", "likely", 0.0123, "text")]
    errors = LabelErrors(9, 9, found, 1, f"row has a {thing}")
    Index(True, 0, 1, label_errors=listed(errors, PrivacyConfig())).write(tmp_path)
    heads, row = rows_of((tmp_path / "index.html").read_text(), "Likely label errors")
    assert heads == ["row", f"{thing} given", f"{measure} of the given {thing}", "more likely", "text"]
    assert row[1:4] == ["&#39;given&#39;", "0.012", "&#39;likely&#39;"]
