"""What `graft reproduce` and `graft diff` print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import graft.cli
from graft import reproduction
from graft.reproduction import Options
from graft.workspace import Workspace

RECEIPT: dict[str, Any] = {
    "reference": "models:/toy/1",
    "verdict": "identical",
    "reason": "the same bytes of every output of train",
    "adapter": {"recorded": "a" * 64, "rebuilt": "a" * 64},
    "commit": "c" * 40,
    "fetched_from": "https://git.example.org/toy.git",
    "environment": {"python": "3.11.9", "lock": "e" * 64, "built": False, "differences": []},
    "first_difference": None,
    "equivalence": None,
    "seconds": 61.0,
}
DIFFERENT = {
    **RECEIPT,
    "verdict": "different",
    "reason": "bytes differ from stage train on; the test rows are others",
    "adapter": {"recorded": "a" * 64, "rebuilt": "b" * 64},
    "first_difference": {
        "stage": "train",
        "outputs": [{"stage": "train", "path": "artifacts/adapter", "recorded": "1" * 32, "rebuilt": "2" * 32}],
        "fields": {"device": ["cpu", "cuda"]},
    },
}


def invoke(*arguments: str) -> int:
    with pytest.raises(SystemExit, match=r"^\d*$") as caught:
        graft.cli.main(list(arguments))
    return int(str(caught.value.code or 0))


def rebuilding(monkeypatch: pytest.MonkeyPatch, receipt: dict[str, Any]) -> list[Options]:
    """Let a rebuild end with a receipt; return what it is asked."""
    asked: list[Options] = []

    def instead(place: Workspace, reference: str, *, tracking: Any, options: Options, on_line: Any) -> dict[str, Any]:
        asked.append(options)
        on_line("train: step 1")
        return receipt

    monkeypatch.setattr(reproduction, "reproduce", instead)
    return asked


def test_identical_ends_with_0_and_different_with_6(
    clone: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = rebuilding(monkeypatch, RECEIPT)
    assert invoke("-C", str(clone.root), "reproduce", "models:/toy/1", "--from", "x", "--margin", "0.02", "--venv") == 0
    assert (asked[0].source, asked[0].margin.margin, asked[0].build, asked[0].whatever) == ("x", 0.02, True, False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: step 1"
    assert lines[1] == "models:/toy/1: IDENTICAL: the same bytes of every output of train"
    assert lines[3] == "commit   cccccccccccccccc, fetched from https://git.example.org/toy.git"
    rebuilding(monkeypatch, DIFFERENT)
    assert invoke("-C", str(clone.root), "reproduce", "models:/toy/1") == 6
    said = capsys.readouterr().out
    assert f"  train: artifacts/adapter: md5 {'1' * 32} recorded, {'2' * 32} now" in said
    assert "  identity.device: 'cpu' recorded, 'cuda' now" in said


def test_json_is_the_receipt_alone(
    clone: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuilding(monkeypatch, RECEIPT)
    assert invoke("-C", str(clone.root), "reproduce", "models:/toy/1", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == RECEIPT
    assert captured.err == "train: step 1\n"
    assert invoke("-C", str(clone.root), "reproduce", "models:/toy/1", "--venv", "--any-environment") == 2


def test_diff_prints_what_the_working_tree_changes(clone: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = clone.params
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 5"))
    Path(clone.root / "first.py").write_text("changed = True\n")
    assert invoke("-C", str(clone.root), "diff", "HEAD") == 0
    said = capsys.readouterr().out
    assert "data: the same" in said
    assert "params: 1 differ\n  training.epochs: 2 -> 5\n" in said
    assert "environment: the same" in said
    assert "code that the stages depend on: 1 differ\n  first.py: " in said
    assert "no evaluation is recorded" in said
    assert invoke("-C", str(clone.root), "diff", "HEAD", "--json") == 0
    assert json.loads(capsys.readouterr().out)["params"] == {"training.epochs": [2, 5]}
