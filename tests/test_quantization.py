"""Bases in few bits: what is refused anywhere, and the chain where bitsandbytes is installed (it has CPU kernels)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from graft import params, stages
from graft.adapters import AdapterConfig, peft_config, refuse_quantized
from graft.artifact import load, verified
from graft.base import BaseConfig
from graft.base.quantization import arguments, quantization_config
from graft.errors import ConfigError, ResourceMissing
from graft.workspace import Workspace, read_json
from tests.conftest import validated

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"load_in_8bit": True}
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the `quantized` extra (bitsandbytes)"
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_in_4bits": True}, r"base.quantization.load_in_4bits: unknown key; did you mean `load_in_4bit`"),
        ({**NF4, "bnb_4bit_quant_type": "nf5"}, r"bnb_4bit_quant_type must be `nf4` or `fp4`"),
        ({"load_in_8bit": False}, r"needs load_in_4bit or load_in_8bit"),
        ({"load_in_4bit": True, "load_in_8bit": True}, r"only one can be used at the same time"),
        ({"load_in_4bit": "yes"}, r"must be a boolean"),
        ({**INT8, "llm_int8_skip_modules": ["classifier"]}, r"llm_int8_skip_modules: Graft fills this key in"),
    ],
)
def test_what_bitsandbytes_refuses_is_named_by_its_path(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantization_config(settings)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization_config(NF4)  # transformers itself looks for it
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceMissing, match=r"needs bitsandbytes, which is not installed: `make venv EXTRAS="):
        arguments(NF4, "cpu")
    assert arguments(None, "cpu") == {}


def test_another_type_of_the_rest_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"dtype stays float32; quantization.bnb_4bit_compute_dtype is"):
        BaseConfig(source="./base", quantization=NF4, dtype="bfloat16")


@pytest.mark.parametrize(
    ("method", "unfreeze", "message"),
    [
        ("full", False, "adapter.method: full trains weights of the base"),
        ("lora", True, "training.unfreeze: trains weights of the base"),
        ("lokr", False, "PEFT has no layers of 'lokr' for matrices in few bits"),
    ],
)
def test_what_cannot_be_trained_on_few_bits_is_refused(method: str, unfreeze: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_quantized(peft_config(AdapterConfig(method=method)), unfreeze)


@pytest.mark.parametrize(
    "method", ["lora", "ia3", "randlora", "ln_tuning", "probe", "output_mlp", "bottleneck", "prefix_tuning"]
)
def test_what_can_be_trained_on_few_bits_is_not_refused(method: str) -> None:
    refuse_quantized(peft_config(AdapterConfig(method=method)), unfreeze=False)


@pytest.fixture
def tokenized(tmp_path: Path, make_project: Callable[..., Workspace]) -> Callable[..., Workspace]:
    def made(quantization: dict[str, Any], **overrides: Any) -> Workspace:
        settings = {"epochs": 1, "max_steps": 4, "learning_rate": 0.02, "checkpoint_every_steps": 2}
        workspace = make_project(
            tmp_path / "project", training=settings, **{"base.quantization": quantization}, **overrides
        )
        validated(workspace)
        stages.run("tokenize", workspace)
        return workspace

    return made


@needs_library
@pytest.mark.parametrize("settings", [NF4, INT8], ids=["nf4", "int8"])
def test_adapter_is_trained_and_loaded_on_the_same_bits(tokenized: Any, settings: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModel

    workspace = tokenized(settings)
    stages.run("train", workspace)
    identity = verified(workspace.adapter)
    assert identity["base"]["quantization"] == settings
    assert "bitsandbytes" in identity["versions"]
    loaded = load(workspace.adapter, workspace.root)
    inner = loaded.model.get_base_model()
    matrix = inner.bert.encoder.layer[0].intermediate.dense.weight
    assert matrix.dtype == (torch.uint8 if "load_in_4bit" in settings else torch.int8)
    assert inner.bert.embeddings.word_embeddings.weight.dtype == torch.float32
    assert {value.dtype for name, value in inner.named_parameters() if "classifier" in name or "LayerNorm" in name} == {
        torch.float32
    }
    # The second route: the base as it was, whose hidden states few bits must only blur.
    plain = AutoModel.from_pretrained(workspace.root / "base").eval()
    ids = torch.arange(5, 25).view(2, 10)
    with torch.inference_mode(), loaded.model.disable_adapter():
        exact, blurred = plain(ids).last_hidden_state, inner.bert(ids).last_hidden_state
    difference = (exact - blurred).abs().mean() / exact.abs().mean()
    assert 0 < difference < (0.2 if "load_in_4bit" in settings else 0.05)


@needs_library
def test_training_twice_gives_the_same_bytes(tokenized: Any) -> None:
    workspace = tokenized(NF4)
    stages.run("train", workspace)
    first = {path.name: path.read_bytes() for path in workspace.adapter.iterdir()}
    stages.run("train", workspace)
    assert {path.name: path.read_bytes() for path in workspace.adapter.iterdir()} == first


@needs_library
def test_full_training_on_few_bits_is_refused(tokenized: Any) -> None:
    workspace = tokenized(NF4, **{"training.unfreeze": [".*LayerNorm.*"]})
    with pytest.raises(ConfigError, match=r"training.unfreeze: trains weights of the base"):
        stages.run("train", workspace)


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("settings", [NF4, INT8], ids=["nf4", "int8"])
def test_reload_is_proved_in_a_new_process(tokenized: Any, settings: dict[str, Any]) -> None:
    workspace = tokenized(settings)
    for stage in ("train", "register"):
        stages.run(stage, workspace)
    assert read_json(workspace.package / "proof.json")["reload_difference"] == 0


@needs_library
@pytest.mark.gpu
def test_gpu_and_cpu_agree_on_a_quantised_base(tokenized: Any) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    workspace = tokenized(NF4)
    described = params.load(workspace.params)
    assert described.training.device == "cpu"
    workspace.params.write_text(workspace.params.read_text().replace("device: cpu", "device: cuda"))
    for stage in ("train", "register"):
        stages.run(stage, workspace)
    assert read_json(workspace.package / "proof.json")["passed"]
