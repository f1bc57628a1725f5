"""Base and adapter in one: plain transformers gives the same logits, and what has no plain form is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from graft import merging, stages
from graft.artifact import load
from graft.base import BaseConfig, load_tokenizer, lock
from graft.cli import main
from graft.errors import ConfigError, IntegrityError
from graft.merging import proof
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import TOPICS, validated

Train = Callable[..., Workspace]


@pytest.fixture
def train(tmp_path: Path, make_project: Callable[..., Workspace]) -> Train:
    """``train(**overrides)``: a project that was trained for two steps."""

    def trained(name: str = "project", **overrides: Any) -> Workspace:
        settings = {"epochs": 1, "max_steps": 2, "learning_rate": 0.05, **overrides.pop("training", {})}
        adapter = overrides.pop("adapter", None)
        workspace = make_project(tmp_path / name, training=settings, **overrides)
        if adapter:  # in place of the default one's keys, not among them
            described = yaml.safe_load(workspace.params.read_text())
            workspace.params.write_text(yaml.safe_dump({**described, "adapter": adapter}))
        validated(workspace)
        for stage in ("tokenize", "train"):
            stages.run(stage, workspace)
        return workspace

    return trained


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the proof here: a new process costs five seconds, and one test has one."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = proof.main(*command[3:])
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    monkeypatch.setattr(merging.subprocess, "run", run)


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"method": "lora", "r": 4, "target_modules": ["query", "dense"]}},
    "ia3": {"adapter": {"method": "ia3", "target_modules": ["key", "value"], "feedforward_modules": []}},
    "dora": {"adapter": {"method": "lora", "r": 4, "use_dora": True, "target_modules": ["query"]}},
    "ln_tuning": {"adapter": {"method": "ln_tuning", "target_modules": ["LayerNorm"]}},
    "probe": {"adapter": {"method": "probe"}},
    "full": {"adapter": {"method": "full"}},
    "joint": {
        "adapter": {"method": "lora", "r": 4, "target_modules": ["query"]},
        "training": {"unfreeze": [r".*layer\.1\.output.*"]},
    },
    "bfloat16": {"base.dtype": "bfloat16"},
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", METHODS)
def test_merged_model_gives_the_logits_of_base_and_adapter(train: Train, tmp_path: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    workspace = train(**METHODS[name])
    merged = merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")
    assert merged.difference <= merged.allowed == pytest.approx(1e-4 * max(1.0, merged.largest))
    assert merged.rows == 8
    loaded = load(workspace.adapter, workspace.root)
    batch = AutoTokenizer.from_pretrained(merged.folder)(["the cat barks", "rain"], padding=True, return_tensors="pt")
    plain = AutoModelForSequenceClassification.from_pretrained(merged.folder).eval()
    with torch.inference_mode():
        expected = loaded.model.float()(**batch).logits
        with loaded.model.disable_adapter():
            base = loaded.model(**batch).logits
        found = plain(**batch).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, base, atol=1e-3)
    assert plain.dtype == torch.float32
    assert plain.config.id2label == dict(enumerate(sorted(TOPICS)))
    assert bool(merged.notes) == (name in ("full", "joint", "bfloat16"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": (
        {"adapter": {"method": "prefix_tuning", "num_virtual_tokens": 4}},
        "puts learnt vectors before the input",
    ),
    "output": ({"adapter": {"method": "output_linear"}}, "output_linear cannot become weights of the base"),
    "mean": ({"task": {"pooling": "mean"}}, "task.pooling: mean is a head that plain transformers does not have"),
    "last": ({"task": {"pooling": "last"}}, "task.pooling: last is a head that plain transformers does not have"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_plain_form_is_refused_with_the_reason(train: Train, tmp_path: Path, name: str) -> None:
    overrides, message = REFUSED[name]
    workspace = train(**overrides)
    with pytest.raises(ConfigError, match=message):
        merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")
    assert not list(tmp_path.glob("*merged*"))


def test_two_texts_apart_have_no_plain_form(train: Train, tmp_path: Path) -> None:
    workspace = train()
    path = workspace.adapter / "identity.json"
    identity = read_json(path)
    config = {"name": "regression", "pair": "bi"}
    write_json(path, {**identity, "task": {**identity["task"], "name": "regression", "config": config}})
    with pytest.raises(ConfigError, match=r"task.pair: bi compares two texts by a head that plain transformers"):
        merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")


def test_proof_counts_every_label_also_where_there_are_as_many_as_tokens() -> None:
    import torch

    padded = {"attention_mask": torch.tensor([[1, 1, 0]])}
    assert proof._counted("logits", torch.ones(1, 3), padded).numel() == 3
    assert proof._counted("start_logits", torch.ones(1, 3), padded).numel() == 2
    assert proof._counted("logits", torch.ones(1, 3, 5), padded).numel() == 10


def test_a_quantised_base_is_refused(train: Train, tmp_path: Path) -> None:
    workspace = train()
    path = workspace.adapter / "identity.json"
    identity = read_json(path)
    write_json(path, {**identity, "base": {**identity["base"], "quantization": {"load_in_4bit": True}}})
    with pytest.raises(ConfigError, match="round the adapter to the base's few bits"):
        merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")


def test_a_classifying_decoder_gets_the_padding_token_that_batches_need(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = LlamaForSequenceClassification(LlamaConfig(**sizes, vocab_size=40, num_labels=3)).eval()
    assert model.config.pad_token_id is None
    loaded: Any = SimpleNamespace(pad_token_id=2, base=SimpleNamespace(folder=lambda root: root))
    (tmp_path / "base").mkdir()
    merging._write(tmp_path / "merged", model, loaded, tmp_path / "base")
    plain = LlamaForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.inference_mode():
        found = plain(torch.tensor([[5, 6, 7], [5, 6, 2]])).logits
        expected = [plain(torch.tensor([row])).logits[0] for row in ([5, 6, 7], [5, 6])]
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)


@pytest.mark.slow
def test_on_disagreement_nothing_is_left(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge loses the head: the proof, not the code that merges, must see it."""
    from transformers import PreTrainedModel

    workspace = train()
    save = PreTrainedModel.save_pretrained

    def forgetful(model: Any, *arguments: Any, **named: Any) -> None:
        model.classifier.weight.mul_(1.01)
        save(model, *arguments, **named)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", forgetful)
    with pytest.raises(
        IntegrityError, match=r"logits differ by .* on 8 rows \(allowed 1.00e-04\); nothing was written"
    ):
        merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")
    assert not list(tmp_path.glob("*merged*"))
    with pytest.raises(IntegrityError, match="nothing was written"):
        merging.merge(workspace.adapter, workspace.root, tmp_path / "merged", tolerance=0.0)


@pytest.mark.slow
def test_command_writes_folder_and_card(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = train()
    out = tmp_path / "merged"
    command = ["-C", str(workspace.root), "merge", "--adapter", str(workspace.adapter), "--out", str(out)]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == "BertForSequenceClassification"
    card = (out / "README.md").read_text()
    assert read_json(workspace.adapter / "identity.json")["base"]["digest"] in card
    assert "base_model_relation: finetune" in card
    assert str(tmp_path) not in card
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(out))
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    assert loaded["model"](**loaded["tokenizer"]("the cat", return_tensors="pt")).logits.shape == (1, 3)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "is there already" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_merged_folder_is_the_base_of_the_next_project(train: Train, tmp_path: Path) -> None:
    workspace = train()
    merged = merging.merge(workspace.adapter, workspace.root, tmp_path / "merged")
    following = train("following")
    shutil.rmtree(following.root / "base")
    shutil.copytree(merged.folder, following.root / "base")
    assert lock(following, BaseConfig(source="./base")).digest == merged.digest
    assert load_tokenizer(following.root / "base")("the cat")["input_ids"]
    for stage in ("tokenize", "train"):
        stages.run(stage, following)
    assert load(following.adapter, following.root).base.digest == merged.digest
