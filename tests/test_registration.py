from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import params, stages
from graft.base import BaseConfig, lock
from graft.errors import IntegrityError, ResourceMissing
from graft.identity import digest_file, digest_folder
from graft.registration import judged, main, prove, prove_in_new_process
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import validated

WEIGHTS = "adapter_model.safetensors"
MADE: dict[str, Workspace] = {}
BASE = BaseConfig(source="./base")


@pytest.fixture
def trained(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, make_project: Callable[..., Workspace]
) -> Workspace:
    """A copy of a trained project; trained once per process."""
    if not MADE:
        workspace = make_project(tmp_path_factory.mktemp("trained") / "project")
        validated(workspace)
        for stage in ("tokenize", "train"):
            stages.run(stage, workspace)
        MADE["project"] = workspace
    shutil.copytree(MADE["project"].root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def rewrite_digests(folder: Path) -> None:
    identity = read_json(folder / "identity.json")
    identity["files"] = {name: digest_file(folder / name) for name in identity["files"]}
    identity["adapter"]["config"] = read_json(folder / "adapter_config.json")
    write_json(folder / "identity.json", identity)


def edit_weights(folder: Path, change: Callable[[str, Any], Any]) -> None:
    from safetensors.torch import load_file, save_file

    changed = {name: change(name, value) for name, value in load_file(folder / WEIGHTS).items()}
    save_file({name: value for name, value in changed.items() if value is not None}, folder / WEIGHTS)


def without_head(folder: Path) -> None:
    edit_weights(folder, lambda name, value: None if "classifier" in name else value)


def test_prove_finds_the_trainers_outputs_and_an_effect(trained: Workspace) -> None:
    from safetensors.numpy import load_file

    found = prove(trained.adapter, trained.root)
    probe = load_file(trained.adapter / "probe.safetensors")
    effect = abs(probe["adapter_outputs"] - probe["base_outputs"]).max()
    assert found == {"rows": 8, "reload_difference": 0.0, "effect": pytest.approx(effect, rel=0.01)}


def test_prove_sees_a_changed_weight_that_digests_hide(trained: Workspace) -> None:
    edit_weights(trained.adapter, lambda name, value: value * 1.5 if "lora_B" in name else value)
    rewrite_digests(trained.adapter)
    found = prove(trained.adapter, trained.root)
    with pytest.raises(
        IntegrityError, match=r"differ from the trainer's by 0\.\d+ \(registration.tolerance is 0.0001\)"
    ):
        judged(found, 1e-4)


def test_prove_sees_a_changed_lora_alpha_that_digests_hide(trained: Workspace) -> None:
    path = trained.adapter / "adapter_config.json"
    write_json(path, {**read_json(path), "lora_alpha": 64})
    rewrite_digests(trained.adapter)
    with pytest.raises(IntegrityError, match=r"outputs differ from the trainer's"):
        judged(prove(trained.adapter, trained.root), 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"dtype": "bfloat16"}},
        {"adapter": {"use_dora": True}, "training.unfreeze": [r".*\.bias"]},
        {"adapter": {"init_lora_weights": "pissa", "target_modules": "all-linear"}},
        {"adapter": {"target_modules": ["query", "word_embeddings"]}},
        {
            "adapter": None,
            "adapter.method": "ia3",
            "adapter.target_modules": ["key"],
            "adapter.feedforward_modules": [],
        },
        {"adapter": None, "adapter.method": "oft", "adapter.target_modules": ["key"], "adapter.oft_block_size": 4},
        {"adapter": None, "adapter.method": "prompt_tuning", "adapter.num_virtual_tokens": 4},
        {"adapter": None, "adapter.method": "prefix_tuning", "adapter.num_virtual_tokens": 4},
    ],
    ids=str,
)
def test_other_methods_are_reloaded_to_the_bit(
    tmp_path: Path, make_project: Callable[..., Workspace], changes: dict[str, Any]
) -> None:
    workspace = make_project(tmp_path / "project", **changes, **{"training.max_steps": 4})
    validated(workspace)
    for stage in ("tokenize", "train"):
        stages.run(stage, workspace)
    proof = judged(prove(workspace.adapter, workspace.root), 1e-6)
    assert proof["reload_difference"] == 0.0


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"reload_difference": 2e-4, "effect": 1.0}, r"differ from the trainer's by 0\.0002"),
        ({"reload_difference": math.nan, "effect": 1.0}, r"differ from the trainer's by nan"),
        ({"reload_difference": 0.0, "effect": 0.0}, r"differ from the base's by 0 at most: the adapter does nothing"),
        ({"reload_difference": 0.0, "effect": 9e-4}, r"the adapter does nothing"),
        ({"reload_difference": 0.0, "effect": math.nan}, r"the adapter does nothing"),
    ],
)
def test_judged_refuses(found: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        judged(found, 1e-4)


def test_judged_passes_what_holds() -> None:
    found = {"rows": 8, "reload_difference": 1e-4, "effect": 2e-3}
    assert judged(found, 1e-4) == {**found, "passed": True, "tolerance": 1e-4}


def test_judged_with_tolerance_zero_wants_equal_bits_and_any_effect() -> None:
    assert judged({"reload_difference": 0.0, "effect": 1e-6}, 0.0)["passed"]
    with pytest.raises(IntegrityError, match="does nothing"):
        judged({"reload_difference": 0.0, "effect": 0.0}, 0.0)


def test_main_prints_json_or_one_error_line(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained.adapter), str(trained.root)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 8
    without_head(trained.adapter)
    assert main([str(trained.adapter), str(trained.root)]) == 6
    assert capsys.readouterr().err.startswith("error: ")


def test_register_refuses_another_base_before_it_starts_a_process(trained: Workspace) -> None:
    from safetensors.torch import load_file, save_file

    path = trained.root / "base" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    lock(trained, params.load(trained.params).base)
    with pytest.raises(IntegrityError, match=r"trained on base ./base .*but sources.lock pins"):
        stages.run("register", trained)


def test_register_refuses_a_flipped_bit_before_it_starts_a_process(trained: Workspace) -> None:
    content = bytearray((trained.adapter / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (trained.adapter / WEIGHTS).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"adapter_model.safetensors differ from identity.json"):
        stages.run("register", trained)
    assert not trained.package.exists()


@pytest.mark.slow
def test_register_packs_what_a_new_process_can_load(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    stages.run("register", trained)
    assert "register: reloaded on 8 rows, difference 0.0e+00" in capsys.readouterr().out
    first = digest_folder(trained.package)
    proof = read_json(trained.package / "proof.json")
    assert proof == {
        "adapter": digest_folder(trained.adapter),
        "effect": proof["effect"],
        "passed": True,
        "reload_difference": 0.0,
        "rows": 8,
        "tolerance": 1e-4,
    }
    assert digest_folder(trained.package / "adapter") == proof["adapter"]
    example = read_json(trained.package / "input_example.json")
    assert set(example) == {"text"}
    assert "[CLS]" not in example["text"]
    stages.run("register", trained)
    assert digest_folder(trained.package) == first


@pytest.mark.slow
def test_register_refuses_an_adapter_without_its_head(trained: Workspace) -> None:
    trained.package.mkdir(parents=True)
    (trained.package / "earlier").touch()
    without_head(trained.adapter)
    rewrite_digests(trained.adapter)
    with pytest.raises(IntegrityError, match=r"classifier.bias is missing"):
        stages.run("register", trained)
    assert [path.name for path in trained.package.iterdir()] == ["earlier"]
    assert "classifier" in read_json(trained.failed / "register" / "report.json")["error"]


@pytest.mark.slow
def test_error_of_the_new_process_keeps_its_class(trained: Workspace) -> None:
    shutil.rmtree(trained.root / "base")
    with pytest.raises(ResourceMissing, match=r"base.source: './base' is not here"):
        prove_in_new_process(trained.adapter, trained.root, BASE)
