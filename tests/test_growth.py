"""A new part costs itself alone: what the other parts gave is found by their content, and no byte depends on that."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.data import DataConfig, read_part
from graft.errors import DataError
from graft.identity import digest_folder
from graft.tasks import TaskConfig
from graft.tasks.multi_label_classification import Config as SeveralLabels
from graft.tasks.regression import Config as Regression
from graft.tasks.text_classification import Config
from graft.tasks.token_classification import Config as Tags
from graft.validation import ValidationConfig, part_rounds, validate
from graft.validation.inspecting import Inspector
from graft.workspace import SPLITS, Workspace

SEVERITY = {"unique_ids": "quarantine", "placeholders": "quarantine", "near_duplicates": "warn", "leakage": "warn"}
LOOSE = {"max_quarantined_share": 0.9, "severity": SEVERITY}


def row(dice: random.Random, number: int) -> dict[str, Any]:
    words = " ".join(dice.choices(["alpha", "beta", "gamma", "delta", "<b>", "caf\ufffd"], k=dice.randint(1, 3)))
    text = dice.choice([words, words, words, "NaN"])
    return {"id": f"r{dice.randint(0, 60)}-{number % 7}", "text": text, "label": "xy"[number % 2]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a project of seven parts with rows that are wrong in several ways, within parts and across them."""
    dice = random.Random(5)
    for split, parts in {"train": 4, "validation": 1, "test": 2}.items():
        for part in range(parts):
            write(tmp_path / "data" / split / f"part-{part}.jsonl", [row(dice, number) for number in range(30)])
    (tmp_path / "params.yaml").write_text("")
    return Workspace(tmp_path)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def run(workspace: Workspace, data: Any = None, task: Any = None, **settings: Any) -> dict[str, Any]:
    validation = ValidationConfig.model_validate(LOOSE | settings)
    validate(workspace, task=task or Config(), data=DataConfig(**(data or {})), validation=validation)
    verdict: dict[str, Any] = json.loads((workspace.validation / "verdict.json").read_text())
    return verdict


def written(workspace: Workspace) -> dict[str, str]:
    return {
        path.name: digest_folder(path) for path in (workspace.validation, workspace.data_docs, workspace.quarantine)
    }


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the parts that are inspected from now on."""
    found: list[str] = []
    inspect = Inspector.__call__

    def noted(self: Inspector, path: Path, folder: Path, add: Callable[[int], None]) -> None:
        found.append(f"{path.parent.name}/{path.name}")
        inspect(self, path, folder, add)

    monkeypatch.setattr(Inspector, "__call__", noted)
    return found


def afresh(workspace: Workspace, data: Any = None) -> dict[str, str]:
    """Return what is written where nothing is kept."""
    shutil.rmtree(workspace.store)
    run(workspace, data)
    return written(workspace)


CHANGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "nothing": (lambda data: None, []),
    "a part is added": (
        lambda data: write(data / "train" / "part-9.jsonl", [{"id": "new", "text": "new text", "label": "x"}]),
        ["train/part-9.jsonl"],
    ),
    "a part is renamed": (lambda data: (data / "train" / "part-1.jsonl").rename(data / "train" / "z.jsonl"), []),
    "a part moves to another split": (
        lambda data: (data / "train" / "part-3.jsonl").rename(data / "test" / "part-3.jsonl"),
        [],
    ),
    "a part is copied": (lambda data: shutil.copy(data / "test" / "part-0.jsonl", data / "test" / "part-5.jsonl"), []),
    "a part is removed": (lambda data: (data / "test" / "part-1.jsonl").unlink(), []),
    "a new label": (
        lambda data: write(data / "train" / "part-9.jsonl", [{"id": "new", "text": "new text", "label": "z"}]),
        ["train/part-9.jsonl"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_only_what_is_new_is_inspected_and_no_byte_depends_on_it(
    workspace: Workspace, looked_at: list[str], name: str
) -> None:
    run(workspace)
    assert len(looked_at) == 7
    looked_at.clear()
    change, expected = CHANGES[name]
    change(workspace.data)
    verdict = run(workspace)
    assert looked_at == expected
    assert verdict["quarantined"]
    found = written(workspace)
    assert found == afresh(workspace)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the parts that are read from now on, for what they teach or to be inspected."""
    found: list[str] = []

    def noted(path: Path, *others: Any) -> Any:
        found.append(f"{path.parent.name}/{path.name}")
        return read_part(path, *others)

    for module in ("sources", "inspecting"):
        monkeypatch.setattr(f"graft.validation.{module}.read_part", noted)
    return found


NAMED: dict[str, tuple[TaskConfig, Callable[[str, str], dict[str, Any]], str]] = {
    "label": (Config(), lambda text, name: {"text": text, "label": name}, "one of I-x, I-y, found 'I-z'"),
    "labels": (SeveralLabels(), lambda text, name: {"text": text, "labels": [name]}, "some of I-x, I-y, found 'I-z'"),
    "tags": (
        Tags(),
        lambda text, name: {"tokens": [*text.split(), "in"], "tags": [*["O"] * 4, name]},
        "one of O, I-x, I-y, found 'I-z', tag 5",
    ),
}
"""A task, its row of a text of four words and a name, and what is said of a name that no training row has."""


@pytest.mark.slow
@pytest.mark.parametrize("clean", [(), ("duplicates",)], ids=["each by itself", "one after the other"])
@pytest.mark.parametrize("field", NAMED)
def test_a_new_name_in_the_training_rows_makes_those_parts_new_that_have_it(
    tmp_path: Path, read: list[str], field: str, clean: tuple[str, ...]
) -> None:
    task, row_of, said = NAMED[field]
    workspace, parts = Workspace(tmp_path), ["train/a.jsonl", "validation/a.jsonl", "test/a.jsonl", "test/z.jsonl"]
    (tmp_path / "params.yaml").write_text("")

    def add(part: str, name: str) -> None:
        rows = [row_of(f"the {part} number {n}", f"I-{one}") for n, one in enumerate(["x", "y", name])]
        write(workspace.data / part, rows)

    def accepted() -> dict[str, str]:
        read.clear()
        run(workspace, {"clean": clean}, task, severity={"near_duplicates": "ignore"})
        return written(workspace)

    def refused() -> tuple[str, str]:
        read.clear()
        with pytest.raises(DataError, match=f"data/test/u.jsonl:3: {field}: expected {said}") as refusal:
            run(workspace, {"clean": clean}, task, severity={"near_duplicates": "ignore"})
        return str(refusal.value), digest_folder(workspace.failed / "validate")

    for part in parts:
        add(part, "x")
    accepted()
    assert sorted(read) == sorted(parts * 2)  # once for its names, once for what is wrong
    add("test/u.jsonl", "z")
    without = refused()
    assert read == ["test/u.jsonl"] * 2 + ["test/z.jsonl"] * len(clean)
    add("train/b.jsonl", "z")
    taught = accepted()
    assert read == ["train/b.jsonl"] * 2 + ["test/u.jsonl"]
    pages = [path.read_text() for path in (workspace.data_docs / "validations").rglob("*.html")]
    assert len(pages) == 6
    assert all(("I-z" in page) == (field == "label") for page in pages)
    assert not any("$PARAMETER" in page for page in pages)
    (workspace.data / "train" / "b.jsonl").rename(tmp_path / "b.jsonl")
    assert refused() == without
    assert not read
    (tmp_path / "b.jsonl").rename(workspace.data / "train" / "b.jsonl")
    assert accepted() == taught
    assert not read
    shutil.rmtree(workspace.store)
    assert accepted() == taught
    (workspace.data / "train" / "b.jsonl").unlink()
    assert refused() == without


def test_what_is_said_of_an_unknown_label_names_all_that_are_known(workspace: Workspace, read: list[str]) -> None:
    severity = {"severity": {**SEVERITY, "labels": "quarantine"}}
    write(workspace.data / "test" / "u.jsonl", [{"id": "u", "text": "a row of its own", "label": "ann@example.com"}])

    def said() -> tuple[str, str]:
        [line] = (workspace.quarantine / "test" / "u.jsonl").read_text().splitlines()
        [reason] = json.loads(line)["reasons"]
        return reason["expected"], reason["found"]

    run(workspace, **severity)
    assert said() == ("one of x, y", "'<EMAIL>'")
    write(workspace.data / "train" / "part-9.jsonl", [{"id": "new", "text": "new text", "label": "z"}])
    read.clear()
    verdict = run(workspace, **severity)
    assert read == ["train/part-9.jsonl"] * 2 + ["test/u.jsonl"]
    assert said() == ("one of x, y, z", "'<EMAIL>'")
    found = written(workspace)
    kept = [path.read_bytes() for path in (workspace.store / "learn").rglob("*.json")]
    assert any(b'"z"' in one for one in kept)
    assert not any(b"ann@example.com" in one for one in kept)
    shutil.rmtree(workspace.store)
    validation = ValidationConfig.model_validate(LOOSE | severity)
    for one in part_rounds(workspace, task=Config(), data=DataConfig(), validation=validation):
        assert one.make() == len(one.jobs)
    read.clear()
    assert run(workspace, **severity) == verdict
    assert read == [f"train/part-{n}.jsonl" for n in range(4)]  # to learn without their rows in quarantine
    assert written(workspace) == found


def test_each_step_of_cleaning_by_the_rows_of_a_split_follows_the_order_of_parts(
    workspace: Workspace, looked_at: list[str]
) -> None:
    data = {"clean": ("whitespace", "duplicates")}
    first = run(workspace, data)
    assert first["cleaned"]["duplicates"] > 10
    assert len(first["dropped"]) == first["cleaned"]["duplicates"]
    looked_at.clear()
    write(workspace.data / "train" / "part-2a.jsonl", [{"id": "new", "text": "alpha", "label": "x"}] * 2)
    run(workspace, data)
    assert looked_at == ["train/part-2a.jsonl", "train/part-3.jsonl"]  # the earlier ones, and the other splits, stay
    found = written(workspace)
    assert found == afresh(workspace, data)


@pytest.mark.slow
def test_the_number_of_processes_changes_no_byte(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run(workspace)
    alone = written(workspace)
    monkeypatch.setenv("GRAFT_PROCESSES", "2")
    assert afresh(workspace) == alone


def test_a_damaged_result_is_made_again(workspace: Workspace, looked_at: list[str]) -> None:
    run(workspace)
    before = written(workspace)
    [damaged] = list((workspace.store / "validate").glob("*/part.json"))[:1]
    damaged.write_text(damaged.read_text().replace("alpha", "omega"), encoding="utf-8")
    damaged.write_bytes(damaged.read_bytes() + b" ")
    looked_at.clear()
    run(workspace)
    assert len(looked_at) == 1
    assert written(workspace) == before


def test_rows_across_parts_are_those_of_a_loop_over_all_rows(workspace: Workspace) -> None:
    verdict = run(workspace, severity={**SEVERITY, "placeholders": "ignore"})
    ids: dict[str, str] = {}
    texts: dict[str, set[str]] = {}
    twice, doubles = [], Counter[tuple[str, str]]()
    for split in SPLITS:
        for path in sorted((workspace.data / split).iterdir()):
            for line, text in enumerate(path.read_text().splitlines(), start=1):
                one, place = json.loads(text), f"data/{split}/{path.name}:{line}"
                if ids.setdefault(one["id"], place) != place:
                    twice.append((place, ids[one["id"]]))
                    continue
                doubles.update((split, other) for other in texts.setdefault(one["text"], set()))
                texts[one["text"]].add(split)
    assert verdict["quarantined"] == sorted(place for place, _ in twice)
    reasons = {
        line["place"]: line["reasons"][-1]["found"]
        for path in workspace.quarantine.rglob("*.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
    }
    assert all(reasons[place] == f"the id of {first}" for place, first in twice)
    for split in SPLITS:
        for other in SPLITS:
            text = f"the text of {f'a row of {other}' if other != split else 'an earlier row of the split'}"
            lines = [one for one in verdict["warnings"] if one.startswith(f"{split}: ") and f"{text} (" in one]
            told = [one.split()[1] for one in lines]
            assert told == [str(doubles[split, other])] * (doubles[split, other] > 0)


def test_moments_of_parts_are_those_of_all_rows(tmp_path: Path) -> None:
    import numpy as np

    dice, targets = random.Random(1), list[float]()
    for part, count in enumerate((3, 50, 1, 17)):
        rows = [{"text": f"text {part} {n}", "target": dice.gauss(1e6, 2)} for n in range(count)]
        targets += [one["target"] for one in rows]
        write(tmp_path / "data" / "train" / f"part-{part}.jsonl", rows)
    for split in ("validation", "test"):
        write(tmp_path / "data" / split / "part.jsonl", [{"text": split, "target": 1.0}])
    (tmp_path / "params.yaml").write_text("")
    found = run(Workspace(tmp_path), task=Regression())["state"]["target"]
    assert found["mean"] == pytest.approx(np.mean(targets), rel=1e-12)
    assert found["std"] == pytest.approx(np.std(targets), rel=1e-6)
    assert (found["min"], found["max"]) == (min(targets), max(targets))


def test_a_refusal_is_the_same_from_kept_results(workspace: Workspace, looked_at: list[str]) -> None:
    write(workspace.data / "test" / "part-1.jsonl", [{"id": "bad", "text": 5, "label": "x"}])
    with pytest.raises(DataError, match="data: ") as first:
        run(workspace)
    report = digest_folder(workspace.failed / "validate")
    looked_at.clear()
    with pytest.raises(DataError, match="data: ") as second:
        run(workspace)
    assert (str(first.value), report) == (str(second.value), digest_folder(workspace.failed / "validate"))
    assert "data/test/part-1.jsonl:1: text: expected a string, found the integer 5" in str(second.value)
    assert not looked_at


@pytest.mark.slow
def test_kept_results_need_no_great_expectations(workspace: Workspace) -> None:
    code = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_growth; "
        "from graft.workspace import Workspace; test_growth.run(Workspace(Path(sys.argv[1]))); "
        "print('great_expectations' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(workspace.root), str(Path(__file__).parent)]
    found = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1] for _ in range(2)]
    assert found == ["True", "False"]


def test_rows_that_are_only_reported_take_no_place_from_those_for_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.validation.assembling.REPORTED_PROBLEMS", 5)
    train = [{"text": f"text number {n}", "label": "xy"[n % 2]} for n in range(40)]
    train += [{"text": "the same", "label": "x"}] * 30
    write(tmp_path / "data" / "train" / "part.jsonl", train)
    write(tmp_path / "data" / "validation" / "part.jsonl", [{"text": "other words", "label": "x"}])
    leaked = [{"text": f"text number {n}", "label": "xy"[n % 2]} for n in range(4)]
    clean = [{"text": f"of its own {n}", "label": "xy"[n % 2]} for n in range(200)]
    write(tmp_path / "data" / "test" / "part.jsonl", [*clean, *leaked])
    (tmp_path / "params.yaml").write_text("")
    severity = {"leakage": "quarantine", "near_duplicates": "warn", "contradictions": "ignore"}
    verdict = run(Workspace(tmp_path), severity=severity, max_quarantined_share=0.05)
    assert {f"data/test/part.jsonl:{201 + n}" for n in range(4)} <= set(verdict["quarantined"])


def test_each_row_of_a_part_that_goes_aside_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.validation.contract.REPORTED_PROBLEMS", 3)
    for split in SPLITS:
        rows = [{"text": f"{split} words {n}", "label": "xy"[n % 2]} for n in range(60)]
        write(tmp_path / "data" / split / "a.jsonl", rows)
    write(tmp_path / "data" / "train" / "b.jsonl", [{"text": "NaN", "label": "x"}] * 12)
    (tmp_path / "params.yaml").write_text("")
    verdict = run(Workspace(tmp_path), severity={"placeholders": "quarantine", "near_duplicates": "ignore"})
    assert verdict["quarantined"] == sorted(f"data/train/b.jsonl:{n}" for n in range(1, 13))


@pytest.mark.parametrize(("texts", "said"), [(["x", ""], "all rows with the label 'y'"), (["", ""], "all rows")])
def test_a_quarantine_that_takes_a_label_away_is_refused_with_its_rows(
    tmp_path: Path, texts: list[str], said: str
) -> None:
    for split in SPLITS:
        text = texts if split == "train" else ["some", "words"]
        rows = [{"text": one and f"{split} {one} {n}", "label": "xy"[n % 2]} for n in range(8) for one in [text[n % 2]]]
        write(tmp_path / "data" / split / "part.jsonl", rows)
    (tmp_path / "params.yaml").write_text("")
    workspace = Workspace(tmp_path)
    place = r"data/train/part\.jsonl:[12]"
    with pytest.raises(DataError, match=rf"data/train: {said} are in quarantine \({place}, ") as refusal:
        run(workspace, severity={"min_characters": "quarantine"})
    count = texts.count("") * 4
    assert f"); {count} for text: at least 1 visible character (validation.min_characters); mend" in str(refusal.value)
    report = workspace.failed / "validate"
    assert said in (report / "report.json").read_text()
    lines = (report / "quarantine" / "train" / "part.jsonl").read_text().splitlines()
    assert len(lines) == count


def test_a_part_with_a_long_name_has_its_page(tmp_path: Path) -> None:
    for split in SPLITS:
        rows = [{"text": f"{split} words {n}", "label": "xy"[n % 2]} for n in range(6)]
        write(tmp_path / "data" / split / f"{'x' * 240}.jsonl", rows)
    (tmp_path / "params.yaml").write_text("")
    run(Workspace(tmp_path))
    assert len(list((tmp_path / "artifacts" / "data_docs" / "validations").rglob("*.html"))) == 3
