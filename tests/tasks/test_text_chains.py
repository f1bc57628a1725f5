"""Every stage on tiny bases, for each task that puts a head on whole texts: the adapter must beat the base."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages
from graft.artifact import load, predict
from graft.workspace import Workspace, read_json
from tests.conftest import FILLERS, SPLIT_ROWS, TOPICS, write_project, write_rows

pytestmark = pytest.mark.slow
NAMES = sorted(TOPICS)


def words(source: random.Random, topics: list[str]) -> str:
    chosen = [word for topic in topics for word in source.sample(TOPICS[topic], 3)]
    chosen += source.sample(FILLERS, 3)
    source.shuffle(chosen)
    return " ".join(chosen)


def labelled(source: random.Random, number: int) -> dict[str, Any]:
    topic = NAMES[number % 3]
    return {"text": words(source, [topic]), "label": topic, "length": number % 7}


def several(source: random.Random, number: int) -> dict[str, Any]:
    topics = [topic for place, topic in enumerate(NAMES) if (number >> place) & 1]
    return {"text": words(source, topics), "labels": topics}


def similar(source: random.Random, number: int) -> dict[str, Any]:
    """Say whether two texts are about one topic: about 4 if so, about 1 if not."""
    first, second = source.choice(NAMES), source.choice(NAMES) if number % 2 else None
    second = second or first
    near = 4.0 if first == second else 1.0
    return {"text": words(source, [first]), "text_pair": words(source, [second]), "score": near + source.random() / 5}


CHAINS: list[tuple[str, str, Callable[[random.Random, int], dict[str, Any]], dict[str, Any], dict[str, Any]]] = [
    (
        "decoder",
        "tiny_decoder",
        labelled,
        {"name": "text_classification", "numeric_columns": ["length"]},
        {"adapter": {"target_modules": ["q_proj", "v_proj"]}},
    ),
    (
        "encoder-decoder",
        "tiny_t5",
        labelled,
        {"name": "text_classification"},
        {"adapter": {"target_modules": ["q", "v"]}, "training": {"epochs": 4}},
    ),
    ("multi-label", "tiny_base", several, {"name": "multi_label_classification", "pooling": "mean"}, {}),
    (
        "regression",
        "tiny_base",
        similar,
        {"name": "regression", "pair": "bi"},
        {"data": {"columns": {"target": "score"}}},
    ),
    (
        "regression-cross",
        "tiny_decoder",
        similar,
        {"name": "regression"},
        {
            "data": {"columns": {"target": "score"}},
            "adapter": {"target_modules": "all-linear"},
            "training": {"epochs": 12},
        },
    ),
]


@pytest.mark.parametrize(("base", "make", "task", "more"), [one[1:] for one in CHAINS], ids=[one[0] for one in CHAINS])
def test_the_chain_ends_with_an_adapter_that_beats_its_base(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    base: str,
    make: Callable[[random.Random, int], dict[str, Any]],
    task: dict[str, Any],
    more: dict[str, Any],
) -> None:
    project = write_project(tmp_path / "project", request.getfixturevalue(base), {"task": task, **more})
    numbers = itertools.count()
    for seed, (split, count) in enumerate(SPLIT_ROWS.items()):
        source = random.Random(seed)
        rows = [{"id": f"{split}-{line}", **make(source, next(numbers))} for line in range(2 * count)]
        write_rows(project.data / split / "part-0000.jsonl", rows)
    for stage in stages.STAGES:
        stages.run(stage.name, project)
    metrics = read_json(project.evaluation / "metrics.json")
    headline = metrics["headline"]
    adapter, untouched = (metrics[name][headline]["value"] for name in ("adapter", "base"))
    trivial = metrics["mean" if task["name"] == "regression" else "majority"][headline]["value"]
    assert adapter > max(untouched, trivial)
    assert_predicts(project, make)


def assert_predicts(project: Workspace, make: Callable[[random.Random, int], dict[str, Any]]) -> None:
    loaded = load(project.adapter, project.root)
    row = make(random.Random(99), 5)
    asked = {name: value for name, value in row.items() if name not in ("label", "labels", "score")}
    [answer] = predict(loaded, [asked])
    assert set(answer) in ({"label", "score", "scores"}, {"labels", "scores"}, {"value"})
