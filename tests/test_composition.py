"""Drift, shifts and rare labels in validate, with the champion's profile pinned as `graft lock` pins it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from graft.data import DataConfig
from graft.errors import ConfigError, DataError, IntegrityError
from graft.identity import digest_folder
from graft.tasks.text_classification import Config
from graft.validation import ValidationConfig, validate
from graft.validation.champion import Pin, digest_profile, pin, pinned, pinned_profile, read_profile
from graft.workspace import Workspace, read_json, write_json

WORDS = [f"{a}{b}" for a in ("riv", "sto", "gar", "win") for b in ("er", "ne", "den", "ter")]
ROWS = {"train": 400, "validation": 120, "test": 120}


def write(root: Path, seed: int, rare: float = 0.5, words: int = 9) -> Workspace:
    """Write a project whose label ``b`` has a share of ``rare``, and whose texts have about so many words."""
    dice = random.Random(seed)
    for split, count in ROWS.items():
        lines = [
            {
                "text": " ".join(dice.choices(WORDS, k=dice.randint(words // 2, 2 * words))) + f" {split} {number}",
                "label": "b" if dice.random() < rare else "a",
            }
            for number in range(count)
        ]
        for part, chosen in enumerate((lines[: count // 2], lines[count // 2 :])):
            path = root / "data" / split / f"part-{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (root / "params.yaml").touch()
    return Workspace(root)


ALIKE = dict.fromkeys(("near_duplicates", "leakage", "contradictions"), "ignore")
"""Rows of a few words are like each other."""


def run(workspace: Workspace, severity: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    settings["severity"] = ALIKE | (severity or {})
    validate(workspace, task=Config(), data=DataConfig(), validation=ValidationConfig(**settings))
    verdict: dict[str, Any] = read_json(workspace.validation / "verdict.json")
    return verdict


def pin_profile_of(workspace: Workspace, champion: Workspace) -> None:
    profile = (champion.validation / "profile.json").read_bytes()
    pin(workspace, Pin("topic", "3", "f" * 64, digest_profile(profile)), profile)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = write(tmp_path_factory.mktemp("champion"), seed=1)
    run(workspace)
    return workspace


def page(workspace: Workspace) -> str:
    return (workspace.data_docs / "index.html").read_text(encoding="utf-8")


def test_profile_is_written_for_each_split(champion: Workspace) -> None:
    found = read_profile(champion.validation / "profile.json")
    assert {split: one.rows for split, one in found.items()} == ROWS
    verdict = read_json(champion.validation / "verdict.json")
    assert {split: dict(one.labels["label"]) for split, one in found.items()} == verdict["counts"]


def test_without_a_champion_it_is_said_once_and_is_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = write(tmp_path, seed=2)
    assert run(workspace)["warnings"] == []
    assert capsys.readouterr().out.count("no champion is pinned") == 1
    assert "No champion is pinned" in page(workspace)


def test_like_data_passes_without_a_warning(champion: Workspace, tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=2)
    pin_profile_of(workspace, champion)
    assert run(workspace)["warnings"] == []
    found = read_json(workspace.validation / "drift.json")
    assert found["champion"]["version"] == "3"
    compared = {(one["split"], one["kind"]) for one in found["comparisons"] if "version 3" in one["against"]}
    assert len(compared) == 9
    assert not [one for one in found["comparisons"] if one["drift"]]


def test_drift_is_reported_with_what_changed_and_drawn(champion: Workspace, tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=2, rare=0.1)
    pin_profile_of(workspace, champion)
    [warning] = [one for one in run(workspace)["warnings"] if one.startswith("train")]
    assert re.match(
        r"train: label: expected labels like the champion's data \(version 3\): PSI above chance at most 0.2 "
        r"\(validation.drift.max_label_psi\), found \d\.\d+, 0\.\d+ by chance; 'a' 5\d\.\d% -> 9\d\.\d%",
        warning,
    )
    html = page(workspace)
    assert "✗ drift" in html
    assert html.count("<svg") == html.count("</svg>") >= 2
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_drift_stops_the_chain_where_the_contract_says_so(champion: Workspace, tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=2, words=30)
    pin_profile_of(workspace, champion)
    severity = {"length_drift": "fail", "label_shift": "ignore", "vocabulary_drift": "ignore"}
    with pytest.raises(DataError, match=r"data/train: text: expected lengths like the champion's data \(version 3\)"):
        run(workspace, severity=severity)
    assert not workspace.validation.exists()
    docs = workspace.failed / "validate" / "data_docs" / "index.html"
    assert "✗ drift" in docs.read_text(encoding="utf-8")
    run(workspace, severity={**severity, "length_drift": "ignore"})
    assert read_json(workspace.validation / "drift.json")["comparisons"] == []


def test_a_shift_between_own_splits_is_reported_at_most(tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=2, rare=0.9)
    write(tmp_path / "other", seed=3, rare=0.1)
    for part in (tmp_path / "other" / "data" / "test").iterdir():
        part.replace(workspace.data / "test" / part.name)
    warnings = run(workspace, severity={"label_shift": "fail"})["warnings"]
    assert [one[:43] for one in warnings] == ["test: label: expected labels like train: PS"]


@pytest.mark.slow
def test_outputs_are_the_same_in_every_run(champion: Workspace, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        workspace = write(tmp_path / name, seed=4, rare=0.2)
        pin_profile_of(workspace, champion)
        run(workspace)
        digests.append((digest_folder(workspace.validation), digest_folder(workspace.data_docs)))
    assert digests[0] == digests[1]


def test_rows_in_quarantine_are_not_in_the_profile(tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=5)
    with (workspace.data / "train" / "part-0.jsonl").open("a") as file:
        file.write(json.dumps({"text": "N/A", "label": "a"}) + "\n")
    run(workspace, severity={"placeholders": "quarantine"})
    assert read_profile(workspace.validation / "profile.json")["train"].rows == ROWS["train"]


@pytest.mark.parametrize(("severity", "rows"), [("warn", 2), ("ignore", 2), ("fail", 2), ("warn", 3)])
def test_rare_labels_follow_their_severity(tmp_path: Path, severity: str, rows: int) -> None:
    workspace = write(tmp_path, seed=6)
    with (workspace.data / "train" / "part-0.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": f"an odd row {n}", "label": "c"}) + "\n" for n in range(rows))
    expected = "at least 3 rows of each label (validation.balance.min_label_rows)"
    settings = {"severity": {"imbalance": severity}, "balance": {"min_even_share": 0}}
    if severity == "fail":
        with pytest.raises(DataError, match=re.escape(f"data/train: label: expected {expected}, found 1 of 3")):
            run(workspace, **settings)
        return
    warnings = [one for one in run(workspace, **settings)["warnings"] if "balance" in one]
    named = f"train: label: expected {expected}, found 1 of 3 labels below: 'c' ({rows} rows)"
    assert warnings == ([named] if severity == "warn" and rows < 3 else [])


def test_a_profile_that_is_not_the_pinned_one_is_refused(champion: Workspace, tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=2)
    pin_profile_of(workspace, champion)
    with workspace.champion_profile.open("a") as file:
        file.write(" ")
    with pytest.raises(IntegrityError, match=r"champion_profile.json: is not what sources.lock pins .*topic version 3"):
        run(workspace)


def test_pin_keeps_what_else_is_locked_and_can_be_taken_off(champion: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_json(workspace.sources_lock, {"base": {"digest": "x"}})
    pin_profile_of(workspace, champion)
    found = pinned_profile(workspace)
    assert found is not None
    assert str(found[0]) == "topic version 3"
    assert read_json(workspace.sources_lock)["base"] == {"digest": "x"}
    pin(workspace, None)
    assert pinned(workspace) is None
    assert not workspace.champion_profile.exists()
    assert read_json(workspace.sources_lock) == {"base": {"digest": "x"}, "champion": None}


def test_a_champion_without_a_profile_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = write(tmp_path, seed=2)
    pin(workspace, Pin("topic", "1", "f" * 64, None))
    run(workspace)
    assert "topic version 1 was published without a data profile" in capsys.readouterr().out


def test_a_pin_of_another_form_is_refused(tmp_path: Path) -> None:
    write_json(Workspace(tmp_path).sources_lock, {"champion": {"number": 1}})
    with pytest.raises(ConfigError, match=r"sources.lock: pins a champion in a form not known here; run `graft lock`"):
        pinned(Workspace(tmp_path))
    (tmp_path / "profile.json").write_text('{"splits": {"train": {"rows": 1}}}')
    with pytest.raises(ConfigError, match=r"profile.json: is no data profile in a form known here"):
        read_profile(tmp_path / "profile.json")


def test_label_errors_are_listed_where_asked(tmp_path: Path) -> None:
    workspace = write(tmp_path, seed=7)
    run(workspace)
    assert not (workspace.validation / "label_errors.jsonl").exists()
    run(workspace, severity={"label_errors": "warn"})
    lines = (workspace.validation / "label_errors.jsonl").read_text().splitlines()
    assert f"train: {len(lines)} rows have a label" in page(workspace)
