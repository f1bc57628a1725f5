"""Base and adapter share what lies below the adapter: the same bytes as two whole passes, the lower layers run once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graft import artifact, stages
from graft.artifact import LoadedAdapter, SharedTrunk
from graft.evaluation.prediction import score, score_base
from graft.tokenization import read_tokens
from graft.workspace import Workspace
from tests.conftest import validated

TOP = {"layers_to_transform": [1], "layers_pattern": ["layer"]}


@pytest.fixture(scope="module")
def kept() -> dict[str, Workspace]:
    return {}


@pytest.fixture
def trained(
    kept: dict[str, Workspace], tmp_path_factory: pytest.TempPathFactory, make_project: Callable[..., Workspace]
) -> Workspace:
    if not kept:
        kept["project"] = make_project(
            tmp_path_factory.mktemp("shared") / "project", adapter=TOP, training={"epochs": 1}
        )
        validated(kept["project"])
        for stage in ("tokenize", "train"):
            stages.run(stage, kept["project"])
    return kept["project"]


@pytest.fixture
def runs(trained: Workspace) -> tuple[LoadedAdapter, list[str]]:
    """The adapter on its base, and a list that grows with each run of a layer: its number."""
    loaded, found = artifact.load(trained.adapter, trained.root), list[str]()
    for number, layer in enumerate(loaded.model.get_base_model().bert.encoder.layer):
        layer.intermediate.register_forward_hook(lambda *_, number=number: found.append(str(number)))
    return loaded, found


def test_tables_have_the_bytes_of_two_whole_passes(trained: Workspace, runs: tuple[LoadedAdapter, list[str]]) -> None:
    (loaded, ran), tokens = runs, read_tokens(trained.tokens, "test")
    shared = SharedTrunk(loaded, tokens.to_pylist())
    wanted = [one(loaded, tokens, batch_rows=4) for one in (score, score_base)]
    ran.clear()
    with shared.remembering():
        adapter = score(loaded, tokens, batch_rows=4)
    assert ran.count("0") == ran.count("1") == 4
    ran.clear()
    with shared.starting_there():
        base = score_base(loaded, tokens, batch_rows=4)
    assert set(ran) == {"1"}
    for found, whole in zip((adapter, base), wanted, strict=True):
        np.testing.assert_array_equal(found["probabilities"], whole["probabilities"])
    assert not np.array_equal(adapter["probabilities"], base["probabilities"])
    ran.clear()
    score(loaded, tokens, batch_rows=4)
    assert ran.count("0") == 4


def test_batches_beyond_the_memory_run_whole(trained: Workspace, runs: tuple[LoadedAdapter, list[str]]) -> None:
    (loaded, ran), tokens = runs, read_tokens(trained.tokens, "test")
    wanted = score_base(loaded, tokens, batch_rows=4)
    shared = SharedTrunk(loaded, tokens.to_pylist(), kept_bytes=32 * 4 * 4 * 16)
    with shared.remembering():
        score(loaded, tokens, batch_rows=4)
    ran.clear()
    with shared.starting_there():
        base = score_base(loaded, tokens, batch_rows=4)
    assert 0 < ran.count("0") < ran.count("1") == 4
    np.testing.assert_array_equal(base["probabilities"], wanted["probabilities"])


def test_stage_gives_these_tables(
    trained: Workspace, runs: tuple[LoadedAdapter, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.evaluation.prediction import read

    loaded, tokens = runs[0], read_tokens(trained.tokens, "test")
    shared: list[int] = []
    start = SharedTrunk.starting_there
    monkeypatch.setattr(SharedTrunk, "starting_there", lambda self: shared.append(len(self.states)) or start(self))
    stages.run("evaluate", trained)
    assert shared == [1]
    for name, one in (("adapter", score), ("base", score_base)):
        found = read(trained.evaluation / "predictions" / f"{name}.parquet")
        wanted = one(loaded, tokens, batch_rows=64)
        np.testing.assert_array_equal(found["probabilities"], wanted["probabilities"])


def test_adapter_in_all_layers_shares_nothing(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    workspace = make_project(tmp_path / "project", training={"epochs": 1, "max_steps": 1})
    validated(workspace)
    for stage in ("tokenize", "train"):
        stages.run(stage, workspace)
    loaded = artifact.load(workspace.adapter, workspace.root)
    assert SharedTrunk(loaded, read_tokens(workspace.tokens, "test").to_pylist()).trunk is None
