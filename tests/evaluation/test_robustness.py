"""Noise in test rows: what the texts become, and what the probe makes of the answers."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft import artifact, stages, tasks
from graft.data import DataConfig, Record
from graft.evaluation import EvaluationConfig
from graft.evaluation.prediction import read
from graft.evaluation.probes import About, Material, Subject
from graft.evaluation.probes.perturbations import NEIGHBOURS, PERTURBATIONS, of_words
from graft.evaluation.probes.robustness import PROBE, RobustnessConfig, changes
from graft.evaluation.probes.rows import asked_texts, row_scores, sample
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace, read_json

TEXT = "Return the number of items, e.g. 3.5 in a list; don't raise anything."


def distance(one: str, other: str) -> int:
    """Return the Damerau-Levenshtein distance (swaps of neighbours count once), by the textbook's table."""
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    table[:, 0], table[0, :] = range(len(one) + 1), range(len(other) + 1)
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            cost = int(one[i - 1] != other[j - 1])
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + cost)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return int(table[-1, -1])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("dose", "edits"), [(0.001, 1), (0.1, 4), (0.25, 10)])
def test_the_dose_is_the_number_of_mistyped_letters(seed: int, dose: float, edits: int) -> None:
    letters = sum(len(word) for word in ("Return", "the", "number", "items", "list", "don", "raise", "anything"))
    assert edits == max(1, round(dose * letters))
    found, _ = PERTURBATIONS["typos"](TEXT, dose, random.Random(seed))
    assert distance(TEXT, found) == edits
    assert [word[0] for word in found.split()] == [word[0] for word in TEXT.split()]


def test_neighbours_are_mutual_and_beside_each_other() -> None:
    assert len(NEIGHBOURS) == 26
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)
    assert sorted(NEIGHBOURS["g"]) == sorted("tyfhvb")


@pytest.mark.parametrize("seed", range(12))
def test_casing_changes_capitals_alone(seed: int) -> None:
    found, way = PERTURBATIONS["casing"](TEXT, 1, random.Random(seed))
    assert found.lower() == TEXT.lower()
    expected = {"lower case": TEXT.lower(), "upper case": TEXT.upper()}
    assert found == expected.get(way, "Return The Number Of Items, E.G. 3.5 In A List; Don'T Raise Anything.")


@pytest.mark.parametrize("seed", range(12))
def test_punctuation_changes_marks_alone(seed: int) -> None:
    found, way = PERTURBATIONS["punctuation"](TEXT, 0.2, random.Random(seed))
    bare = [sign for sign in TEXT if not unicodedata.category(sign).startswith("P")]
    assert [sign for sign in found if not unicodedata.category(sign).startswith("P")] == bare
    assert "don't" in found
    assert "3.5" in found
    if way == "punctuation removed":
        assert found == "Return the number of items e.g 3.5 in a list don't raise anything"
    else:
        assert len(found) == len(TEXT) + 2  # 9 words without a mark behind them


@pytest.mark.parametrize("seed", range(12))
def test_white_space_keeps_the_words(seed: int) -> None:
    found, _ = PERTURBATIONS["whitespace"](TEXT, 0.25, random.Random(seed))
    assert found != TEXT
    assert found.split() == TEXT.split()


@pytest.mark.parametrize("seed", range(6))
def test_scripts_without_capitals_and_spaces_are_left_or_get_their_own_marks(seed: int) -> None:
    text = "这个餐厅的菜很好吃送餐也快"
    assert PERTURBATIONS["casing"](text, 1, random.Random(seed))[0] == text
    found, _ = PERTURBATIONS["punctuation"](text, 0.1, random.Random(seed))
    assert found[:-1] == text
    assert found[-1] in "。，！"
    typed, _ = PERTURBATIONS["typos"](text, 0.1, random.Random(seed))
    assert distance(text, typed) == 1
    assert set(typed) <= set(text)


def test_words_with_tags_keep_their_number() -> None:
    words = ["Book", "a", "table", "at", "the", "Ritz"]
    for kind in ("typos", "casing"):
        found, _ = of_words(kind, words, 0.1, random.Random(0))
        assert len(found) == len(words)
        assert found != words
    assert of_words("casing", words, 1, random.Random(0))[0] in (
        [word.lower() for word in words],
        [word.upper() for word in words],
        [word.title() for word in words],
    )


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("text_classification", ["text", "text_pair"]),
        ("question_answering", ["question"]),
        ("token_classification", ["tokens"]),
        ("translation", ["source"]),
        ("text_generation", []),
        ("chat", ["prompt", "system"]),
        ("image_classification", []),
    ],
)
def test_what_may_be_changed_of_a_task(task: str, fields: list[str]) -> None:
    config: Any = tasks.config_class(task).model_construct(name=task)
    given = config if task != "text_classification" else tasks.config_class(task).model_validate({"name": task})
    assert [field.name for field in asked_texts(tasks.get(task), given)] == fields


def test_samples_are_seeded_and_in_order() -> None:
    assert sample(1000, 5, 3, "robustness") == sample(1000, 5, 3, "robustness") != sample(1000, 5, 4, "robustness")
    assert sample(4, 9, 0, "x") == [0, 1, 2, 3]


def table_of(clean: list[float], noisy: list[float]) -> dict[str, np.ndarray]:
    rows = len(clean)
    return {
        "row": np.array([f"data/test/a.jsonl:{row}#typos" for row in range(rows)], dtype=object),
        "kind": np.full(rows, "typos", dtype=object),
        "variant": np.full(rows, "typos", dtype=object),
        "metric": np.full(rows, "accuracy", dtype=object),
        "clean": np.array(clean, dtype=float),
        "score": np.array(noisy, dtype=float),
    }


def test_the_change_is_paired_and_rows_left_alone_do_not_count(tmp_path: Path) -> None:
    clean, noisy = [1.0] * 30 + [0.0] * 10 + [1.0], [0.0] * 9 + [1.0] * 22 + [0.0] * 9 + [np.nan]
    config = EvaluationConfig(resamples=200)
    found = changes(table_of(clean, noisy), config, "kind")["typos"]
    assert (found.rows, found.difference) == (40, pytest.approx((1 - 9) / 40))
    assert (found.only_reference, found.only_candidate) == (9, 1)
    assert found.p_worse == pytest.approx(11 / 1024)  # 9 or 10 of 10 rows that differ, each by a fair coin
    about = About(tasks.get("text_classification"), {}, PrivacyConfig())
    said = PROBE.finding(config, {"adapter": table_of(clean, noisy)}, tmp_path, about)
    assert said.values["adapter"]["typos_change"].value == pytest.approx(-0.2)
    assert said.values["adapter"]["typos_change"].high < 0
    assert said.limits == [f"Noise costs: typos changes the mean row score (accuracy) by {found.difference:+.3f} "
                           f"({found.low:+.3f} to {found.high:+.3f}, 40 rows)."]  # fmt: skip
    assert said.tables["Change by kind of noise"][0]["left as they were"] == 1


def test_a_smaller_metric_is_turned_so_that_greater_is_better() -> None:
    task = tasks.get("regression")
    table = {name: np.array([1.0, 2.0]) for name in ("row", "reference")} | {"prediction": np.array([1.5, 2.0])}
    assert row_scores(task, table).tolist() == [-0.5, 0.0]


def test_a_metric_without_row_scores_is_taken_of_each_row() -> None:
    table = {"row": np.array(["a", "b"]), "nll": np.array([8.0, 4.0]), "bytes": np.array([4, 4])}
    assert row_scores(tasks.get("text_generation"), table) == pytest.approx([-2 / np.log(2), -1 / np.log(2)])


def test_the_stage_writes_the_scores_of_noisy_rows(evaluated: Workspace) -> None:
    table = read(evaluated.evaluation / "probes" / "robustness" / "adapter.parquet")
    assert len(table["row"]) == 4 * 15
    assert table["row"][0] == "data/test/part-0000.jsonl:1#typos"
    assert "text" not in table
    # By hand: the first row that punctuation changed, through `predict`, which also serves.
    number = int(np.flatnonzero((table["kind"] == "punctuation") & np.isfinite(table["score"]))[0])
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    line = int(table["row"][number].partition("#")[0].rpartition(":")[2])
    row = evaluated.data.joinpath("test", "part-0000.jsonl").read_text().splitlines()[line - 1]
    text, label = json.loads(row)["text"], json.loads(row)["label"]
    chance = random.Random(f"0:punctuation:data/test/part-0000.jsonl:{line}")
    noisy = PERTURBATIONS["punctuation"](text, 0.1, chance)[0]
    assert noisy != text
    assert table["score"][number] == (artifact.predict(loaded, [{"text": noisy}])[0]["label"] == label)
    metrics = read_json(evaluated.evaluation / "metrics.json")["probes"]["robustness"]
    for system in ("adapter", "base"):
        one = read(evaluated.evaluation / "probes" / "robustness" / f"{system}.parquet")
        chosen = (one["kind"] == "typos") & np.isfinite(one["score"])
        expected = (one["score"] - one["clean"])[chosen].mean()
        assert metrics[system]["typos_change"]["value"] == pytest.approx(expected, abs=1e-6)
    assert ">Robustness</h2>" in (evaluated.evaluation / "report.html").read_text()


@pytest.mark.parametrize(("section", "reason"), [({"rows": 0}, "off"), ({"kinds": ()}, "off"), ({}, None)])
def test_it_can_be_switched_off(evaluated: Workspace, section: dict[str, Any], reason: str | None) -> None:
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    material = Material([Record({"text": "a cat"}, "x:1")], DataConfig(), evaluated.root)
    config = EvaluationConfig(robustness=RobustnessConfig(**section))
    assert PROBE.left_out(config, Subject("adapter", loaded, {}, 8), material) == reason
    assert stages.get("evaluate").params == ("task", "data", "base", "evaluation")
