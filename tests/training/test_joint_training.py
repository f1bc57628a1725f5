"""Parts of the base trained beside an adapter: through the stage, a kill, a fresh process, and back to the base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages
from graft.adapters import unfrozen
from graft.artifact import BASE_WEIGHTS, apply_to_base, changed_weights, load, verified
from graft.errors import ConfigError, IntegrityError
from graft.identity import digest_file, digest_folder
from graft.registration import prove_in_new_process
from graft.workspace import Workspace, read_json, write_json

Make = Callable[..., Workspace]
UNFREEZE = [r"bert\.encoder\.layer\.1\..*", r"bert\.embeddings\.LayerNorm\..*"]
TRAINING = {"unfreeze": UNFREEZE, "unfreeze_learning_rate": 1e-3, "epochs": 1}
SOURCE = str(Path(__file__).parents[2] / "src")


def base_config(workspace: Workspace) -> Any:
    from graft import params

    return params.load(workspace.params).base


@pytest.fixture
def joint(make_tokenized: Make, tmp_path: Path) -> Workspace:
    workspace = make_tokenized(tmp_path / "project", training=TRAINING)
    stages.run("train", workspace)
    return workspace


def test_changed_weights_are_saved_in_a_file_of_their_own(joint: Workspace) -> None:
    from safetensors.torch import load_file

    identity = verified(joint.adapter)
    found = load_file(joint.adapter / BASE_WEIGHTS)
    original = load_file(joint.root / "base" / "model.safetensors")
    assert identity["files"][BASE_WEIGHTS] == digest_file(joint.adapter / BASE_WEIGHTS)
    assert identity["adapter"]["unfrozen"] == sorted(found)
    assert set(found) == {
        f"bert.{name}" for name in original if "encoder.layer.1." in name or "embeddings.LayerNorm" in name
    }
    assert all(value.dtype.is_floating_point and value.dtype.itemsize == 4 for value in found.values())
    assert not any(value.equal(original[name.removeprefix("bert.")]) for name, value in found.items())
    adapter = load_file(joint.adapter / "adapter_model.safetensors")
    assert not any("base_layer" in name or "LayerNorm" in name for name in adapter)


def test_loaded_adapter_has_them_and_gives_the_base_back(joint: Workspace) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded = load(joint.adapter, joint.root)
    weights = changed_weights(joint.adapter, verified(joint.adapter))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in unfrozen(loaded.model).items())
    ids = torch.arange(6, 20).view(2, 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = AutoModelForSequenceClassification.from_pretrained(
        joint.root / "base", num_labels=3, attn_implementation="eager"
    ).eval()
    plain.classifier = loaded.model.get_base_model().classifier.original_module
    with loaded.model.disable_adapter():
        states = loaded.model.get_base_model().bert(**batch).last_hidden_state
    assert torch.equal(states, plain.bert(**batch).last_hidden_state)
    assert not torch.allclose(loaded.model.get_base_model().bert(**batch).last_hidden_state, states)
    # What `graft merge` needs: the same weights on a plain base.
    apply_to_base(plain, weights, joint.adapter)
    assert all(torch.equal(dict(plain.named_parameters())[name], value) for name, value in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_fresh_process_gives_the_trainers_outputs(
    make_tokenized: Make, tmp_path: Path, method: str, dtype: str
) -> None:
    overrides: dict[str, Any] = {"training": TRAINING, "base": {"dtype": dtype}}
    if method == "full":
        overrides = {"training": {"epochs": 1}, "base": {"dtype": dtype}, "adapter": None, "adapter.method": "full"}
    workspace = make_tokenized(tmp_path / "project", **overrides)
    stages.run("train", workspace)
    proof = prove_in_new_process(workspace.adapter, workspace.root, base_config(workspace))
    assert proof["reload_difference"] == 0
    assert proof["effect"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["output_linear", "output_mlp", "probe"])
def test_fresh_process_gives_the_trainers_outputs_of_head_methods(
    make_tokenized: Make, tmp_path: Path, method: str
) -> None:
    workspace = make_tokenized(tmp_path / "project", **{"adapter": None, "adapter.method": method})
    stages.run("train", workspace)
    proof = prove_in_new_process(workspace.adapter, workspace.root, base_config(workspace))
    assert proof["reload_difference"] == 0
    assert proof["effect"] > 1e-3


def tampered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the file's tensors as somebody would who also corrects the identity's digest."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / BASE_WEIGHTS)
    change(tensors)
    save_file(tensors, folder / BASE_WEIGHTS)
    identity = read_json(folder / "identity.json")
    identity["files"][BASE_WEIGHTS] = digest_file(folder / BASE_WEIGHTS)
    write_json(folder / "identity.json", identity)


def test_weights_that_do_not_fit_are_refused(joint: Workspace) -> None:
    import torch

    name = "bert.embeddings.LayerNorm.bias"
    tampered(joint.adapter, lambda tensors: tensors.update({name: torch.zeros(31)}))
    with pytest.raises(IntegrityError, match=r"bert\.embeddings\.LayerNorm\.bias is \[31\], not \[32\]"):
        load(joint.adapter, joint.root)
    tampered(joint.adapter, lambda tensors: tensors.update({name: torch.zeros(32, dtype=torch.float64)}))
    with pytest.raises(IntegrityError, match=r"is torch\.float64, not float32"):
        load(joint.adapter, joint.root)
    tampered(joint.adapter, lambda tensors: tensors.pop(name))
    with pytest.raises(IntegrityError, match="does not hold the weights that the identity names"):
        load(joint.adapter, joint.root)
    (joint.adapter / BASE_WEIGHTS).unlink()
    with pytest.raises(IntegrityError, match=r"base_weights\.safetensors differ"):
        load(joint.adapter, joint.root)


def test_weights_of_another_base_are_refused_on_a_plain_one(joint: Workspace) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    other = BertForSequenceClassification(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(IntegrityError, match="does not belong to the base"):
        apply_to_base(other, changed_weights(joint.adapter, verified(joint.adapter)), joint.adapter)


def test_unfrozen_parts_have_their_own_learning_rate(make_inputs: Callable[..., Any]) -> None:
    from graft.training.loop import adamw

    inputs = make_inputs(learning_rate=1e-2, unfreeze_learning_rate=1e-4)
    weights = {name: value for name, value in inputs.model.named_parameters() if value.requires_grad}
    own = frozenset(name for name in weights if name.endswith("lora_A.default.weight"))
    groups = adamw(weights, inputs.config, own).param_groups
    rates = {id(value): group["scale"] * 1e-2 for group in groups for value in group["params"]}
    assert len(rates) == len(weights)
    assert {name for name in weights if rates[id(weights[name])] == pytest.approx(1e-4)} == own
    assert {name for name in weights if rates[id(weights[name])] == pytest.approx(1e-2)} == weights.keys() - own


def test_first_step_moves_each_part_by_its_rate(make_tokenized: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # AdamW's first step moves a weight by its learning rate, whatever its gradient (Kingma and Ba, 2015, section 2.1).
    training = {"unfreeze": UNFREEZE, "unfreeze_learning_rate": 1e-4, "max_steps": 1, "weight_decay": 0}
    workspace = make_tokenized(tmp_path / "project", training={**training, "warmup_share": 0, "schedule": "constant"})
    stages.run("train", workspace)
    original = load_file(workspace.root / "base" / "model.safetensors")
    found = load_file(workspace.adapter / BASE_WEIGHTS)
    moved = {name: (value - original[name.removeprefix("bert.")]).abs().max() for name, value in found.items()}
    assert all(float(value) == pytest.approx(1e-4, rel=0.02) for name, value in moved.items() if "key.bias" not in name)


def test_pattern_without_a_match_ends_the_stage(make_tokenized: Make, tmp_path: Path) -> None:
    workspace = make_tokenized(tmp_path / "project", training={"unfreeze": ["encoder"]})
    with pytest.raises(ConfigError, match=r"training\.unfreeze\[0\]: 'encoder' matches the full name of no parameter"):
        stages.run("train", workspace)


KILLED = """
import os, signal, sys
from graft.training import checkpoints
save = checkpoints.Checkpoints.save
def save_and_die(self, checkpoint):
    save(self, checkpoint)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = save_and_die
from graft.stages import main
sys.exit(main(["train"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "output_mlp"])
def test_kill_9_and_rerun_gives_the_same_folder(make_tokenized: Make, tmp_path: Path, method: str) -> None:
    overrides: dict[str, Any] = {"training": {**TRAINING, "epochs": 2}}
    if method != "lora":
        overrides = {"training": {"epochs": 2}, "adapter": None, "adapter.method": method}
    whole, killed = make_tokenized(tmp_path / "whole", **overrides), make_tokenized(tmp_path / "killed", **overrides)
    stages.run("train", whole)
    environment = {**os.environ, "PYTHONPATH": SOURCE}

    def start(code: list[str]) -> Any:
        return subprocess.run([sys.executable, *code], cwd=killed.root, env=environment, capture_output=True, text=True)

    assert start(["-c", KILLED]).returncode == -signal.SIGKILL
    done = start(["-m", "graft", "stage", "train"])
    assert done.returncode == 0, done.stderr
    assert "going on from the checkpoint of step 5" in done.stdout
    assert ("taken from .graft/store/frozen" in done.stdout) == (method == "output_mlp")
    assert digest_folder(killed.adapter) == digest_folder(whole.adapter)
    assert (whole.adapter / BASE_WEIGHTS).exists() == (method != "output_mlp")
    assert json.loads((killed.training / "summary.json").read_text())["resumed_from_step"] == 5
