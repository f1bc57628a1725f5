"""Several seeds: each is the training that its seed alone would have made, and an interruption costs only its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages
from graft.artifact import load, switched, verified
from graft.errors import TrainingDiverged
from graft.evaluation.seeds import spread
from graft.identity import digest_folder
from graft.training import checkpoints
from graft.workspace import Workspace, read_json
from tests.conftest import validated, write_project

Make = Callable[..., Workspace]
SHORT = {"max_steps": 6, "checkpoint_every_steps": 3}


@pytest.fixture(scope="module")
def alone(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Digests of the adapters that one training each makes with the seeds 7 and 8."""
    found = {}
    for seed in (7, 8):
        folder = tmp_path_factory.mktemp("alone") / "project"
        workspace = validated(write_project(folder, tiny_base, {"training": {**SHORT, "seed": seed}}))
        stages.run("tokenize", workspace)
        stages.run("train", workspace)
        found[seed] = digest_folder(workspace.adapter)
    return found


def test_each_seed_is_the_training_that_it_would_be_alone(
    make_tokenized: Make, tmp_path: Path, alone: dict[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_tokenized(tmp_path / "p", training={**SHORT, "repeats": 2})
    stages.run("train", workspace)
    assert read_json(workspace.repeats / "seeds.json") == {"seeds": [7, 8]}
    assert digest_folder(workspace.adapter) == alone[7]
    assert digest_folder(workspace.repeats / "seed-8") == alone[8] != alone[7]
    assert read_json(workspace.training / "seed-8" / "summary.json")["steps"] == 6
    assert "train: seed 8, 2 of 2" in capsys.readouterr().out
    assert not [path for path in workspace.checkpoints.iterdir() if path.is_dir()]

    loaded = load(workspace.adapter, workspace.root)
    before = weights(loaded.model)
    with switched(loaded, workspace.repeats / "seed-8") as other:
        assert other is not None
        assert other.identity["seed"] == 8
        fresh = weights(load(workspace.repeats / "seed-8", workspace.root).model)
        assert equal(weights(other.model), fresh)
        assert not equal(fresh, before)
    assert equal(weights(loaded.model), before)


def weights(model: Any) -> dict[str, Any]:
    from graft.artifact.files import adapter_state

    return {name: value.detach().clone() for name, value in adapter_state(model).items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_interruption_in_the_second_training_costs_nothing_of_the_first(
    make_tokenized: Make,
    tmp_path: Path,
    alone: dict[int, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = make_tokenized(tmp_path / "p", training={**SHORT, "repeats": 2})
    saved, save = [], checkpoints.Checkpoints.save

    def save_and_end(self: checkpoints.Checkpoints, checkpoint: Any) -> None:
        save(self, checkpoint)
        saved.append(self.key)
        if len(set(saved)) == 2:
            raise KeyboardInterrupt("second repeat")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Checkpoints, "save", save_and_end)
        with pytest.raises(KeyboardInterrupt, match="second repeat"):
            stages.run("train", workspace)
    assert not workspace.adapter.exists()
    capsys.readouterr()
    stages.run("train", workspace)
    told = capsys.readouterr().out
    assert "it was trained before this was interrupted" in told
    assert told.count("going on from the checkpoint of step 3") == 1
    assert digest_folder(workspace.adapter) == alone[7]
    assert digest_folder(workspace.repeats / "seed-8") == alone[8]


def test_seed_that_diverges_is_named_and_nothing_is_written_without_it(
    make_tokenized: Make, tmp_path: Path, alone: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.training import stage

    workspace = make_tokenized(tmp_path / "p", training={**SHORT, "repeats": 2})
    fit, begun = stage.fit, []

    def diverging(*arguments: Any, **options: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise TrainingDiverged("training.learning_rate: the loss is nan at step 3 of 6", problems=["row"])
        return fit(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "fit", diverging)
        with pytest.raises(TrainingDiverged, match=r"^seed 8, 2 of 2: training.learning_rate: the loss is") as refused:
            stages.run("train", workspace)
    assert refused.value.problems == ("row",)
    assert not workspace.adapter.exists()
    assert not workspace.repeats.exists()
    stages.run("train", workspace)
    assert digest_folder(workspace.adapter) == alone[7]
    assert digest_folder(workspace.repeats / "seed-8") == alone[8]


def test_damaged_finished_training_is_trained_again(make_tokenized: Make, tmp_path: Path) -> None:
    from graft.training.stage import _is_whole

    workspace = make_tokenized(tmp_path / "p", training={"max_steps": 1})
    stages.run("train", workspace)
    done = tmp_path / "x.done"
    done.mkdir()
    assert not _is_whole(done)
    workspace.adapter.rename(done / "adapter")
    workspace.training.rename(done / "training")
    assert _is_whole(done)
    assert verified(done / "adapter")["seed"] == 7
    weights = done / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not _is_whole(done)


@pytest.mark.slow
def test_evaluate_scores_every_seed_and_says_how_far_they_spread(make_tokenized: Make, tmp_path: Path) -> None:
    import numpy as np

    from graft import tasks
    from graft.evaluation import prediction

    workspace = make_tokenized(tmp_path / "p", training={**SHORT, "repeats": 3})
    stages.run("train", workspace)
    stages.run("evaluate", workspace)
    folder = workspace.evaluation / "predictions"
    tables = {7: prediction.read(folder / "adapter.parquet")}
    tables |= {seed: prediction.read(folder / "repeats" / f"seed-{seed}.parquet") for seed in (8, 9)}
    found = read_json(workspace.evaluation / "metrics.json")["repeats"]
    right = [float((table["reference"] == table["prediction"]).mean()) for table in tables.values()]
    losses = [-np.log(t["probabilities"][np.arange(len(t["row"])), t["reference"]]).mean() for t in tables.values()]
    assert found["seeds"] == [7, 8, 9]
    assert found["accuracy"]["values"] == pytest.approx(right, abs=1e-6)
    assert found["log_loss"]["standard_deviation"] == pytest.approx(np.std(losses, ddof=1), abs=1e-4)
    assert found["log_loss"]["standard_deviation"] > 0
    assert spread(tasks.get("text_classification"), tables)["log_loss"]["mean"] == pytest.approx(
        np.mean(losses), abs=1e-4
    )


KILLED = """
import os, signal, sys
from graft.training import checkpoints
save, seen = checkpoints.Checkpoints.save, set()
def save_and_die(self, checkpoint):
    save(self, checkpoint)
    seen.add(self.key)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = save_and_die
from graft.stages import main
sys.exit(main(["train"]))
"""


@pytest.mark.slow
def test_kill_9_in_the_second_training_gives_the_same_adapters(
    make_tokenized: Make, tmp_path: Path, alone: dict[int, str]
) -> None:
    workspace = make_tokenized(tmp_path / "killed", training={**SHORT, "repeats": 2})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}

    def start(code: list[str]) -> Any:
        return subprocess.run(
            [sys.executable, *code], cwd=workspace.root, env=environment, capture_output=True, text=True
        )

    assert start(["-c", KILLED]).returncode == -signal.SIGKILL
    done = start(["-m", "graft", "stage", "train"])
    assert done.returncode == 0, done.stderr
    assert "it was trained before" in done.stdout
    assert "going on from the checkpoint of step 3" in done.stdout
    assert digest_folder(workspace.adapter) == alone[7]
    assert digest_folder(workspace.repeats / "seed-8") == alone[8]
