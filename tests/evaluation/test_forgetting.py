"""Perplexity of general text with an adapter on and off, against transformers' own loss; else how states moved."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertForMaskedLM,
)

from graft import artifact, projects, stages, tasks
from graft.data import DataConfig
from graft.errors import ConfigError
from graft.evaluation import EvaluationConfig
from graft.evaluation.prediction import read
from graft.evaluation.probes import About, Material, Subject
from graft.evaluation.probes.forgetting import MEASURES, PROBE, STATES, ForgettingConfig, perplexity
from graft.evaluation.probes.general_text import TEXTS
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace, read_json
from tests.conftest import validated, write_project

ABOUT = About(tasks.get("text_classification"), {}, PrivacyConfig())

ROOT = Path(__file__).parents[2]

Make = Callable[..., Workspace]
LINES = "the cat is small and barks\nsome rain and snow today here\n\nbread with salt\nthe horse was old and cold\n"


def trained(workspace: Workspace) -> Workspace:
    """Run the stages up to train, and spoil the adapter's layers, so that on and off differ."""
    validated(workspace)
    for stage in ("tokenize", "train"):
        stages.run(stage, workspace)
    (workspace.root / "general.txt").write_text(LINES)
    return workspace


def measured(workspace: Workspace, system: str, spoil: float = 0.0, **section: Any) -> Any:
    """Return the probe's table of one system, and the adapter."""
    loaded = artifact.load(workspace.adapter, workspace.root)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            weight.data += spoil * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    config = EvaluationConfig(forgetting=ForgettingConfig(**{"text": "general.txt", **section}), resamples=100)
    subject = Subject(system, loaded, {}, 3)
    material = Material([], DataConfig(), workspace.root)
    assert PROBE.left_out(config, subject, material) is None
    return PROBE.measure(config, subject, material), loaded, config


def put_head(base: Path) -> None:
    """Give the tiny BERT of a project a masked-language head."""
    whole = BertForMaskedLM.from_pretrained(base)
    torch.manual_seed(3)
    for one in whole.cls.parameters():
        one.data = torch.randn(one.shape) * 0.3
    whole.save_pretrained(base)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Workspace:
    """A trained classifier on a base with a masked-language head."""
    base = tmp_path_factory.mktemp("masked") / "base"
    shutil.copytree(tiny_base, base)
    put_head(base)
    return trained(write_project(base.parent / "project", base, {"training.epochs": 1}))


def test_general_texts_are_a_hundred_distinct_sentences() -> None:
    assert len(TEXTS) == len(set(TEXTS)) == 100
    assert all(text[0].isupper() and text.endswith(".") and text.isascii() for text in TEXTS)


def test_base_of_a_classifier_predicts_masked_tokens_as_transformers_does(classifier: Workspace) -> None:
    table, loaded, _ = measured(classifier, "base")
    assert table["row"].tolist() == [f"general.txt:{line}" for line in (1, 2, 4, 5)]
    assert set(table["measure"]) == {MEASURES["encoder"]}
    whole = AutoModelForMaskedLM.from_pretrained(classifier.root / "base").eval()
    for text, score, count in zip(LINES.split("\n")[:2], table["score"], table["tokens"], strict=False):
        ids = torch.tensor(loaded.processor(text).input_ids)
        places = range(1, len(ids) - 1)
        assert count == len(places)
        total = 0.0
        for first in range(7):  # each pass by transformers' own loss, which is a mean over the masked tokens
            masked = [at for number, at in enumerate(places) if number % 7 == first]
            if not masked:
                continue
            read_ids, labels = ids.clone(), torch.full_like(ids, -100)
            read_ids[masked], labels[masked] = loaded.processor.mask_token_id, ids[masked]
            with torch.no_grad():
                total += float(whole(input_ids=read_ids[None], labels=labels[None]).loss) * len(masked)
        assert score == pytest.approx(-total / len(places) / math.log(2), abs=1e-4)


def test_only_the_adapter_makes_a_difference(classifier: Workspace) -> None:
    base = measured(classifier, "base", 0.5)[0]["score"]
    np.testing.assert_allclose(base, measured(classifier, "base")[0]["score"], atol=1e-5)
    adapter, champion = (measured(classifier, system, 0.5)[0]["score"] for system in ("adapter", "champion"))
    assert np.abs(adapter - base).max() > 0.1
    assert adapter.tolist() == champion.tolist()


def test_finding_says_what_was_forgotten(classifier: Workspace, tmp_path: Path) -> None:
    adapter, _, config = measured(classifier, "adapter", 0.5)
    tables = {"adapter": adapter, "base": measured(classifier, "base", 0.5)[0]}
    found = PROBE.finding(config, tables, tmp_path, ABOUT)
    for system, table in tables.items():
        mean = (table["score"] * table["tokens"]).sum() / table["tokens"].sum()
        assert found.values[system]["perplexity"].value == pytest.approx(math.exp(-mean * math.log(2)))
    change = found.values["adapter"]["change_bits_per_token"]
    assert change.value == pytest.approx((tables["adapter"]["score"] - tables["base"]["score"]).mean())
    assert change.low <= change.value <= change.high
    assert MEASURES["encoder"] in found.text
    worse = {"adapter": {**tables["base"], "score": tables["base"]["score"] - np.array([0.9, 1.0, 1.1, 1.0])}}
    said = PROBE.finding(config, worse | {"base": tables["base"]}, tmp_path, ABOUT)
    assert said.limits[0].startswith("It forgets: perplexity on general text goes from ")
    assert said.values["adapter"]["change_bits_per_token"].value == pytest.approx(-1)


def test_base_without_a_head_is_measured_by_its_states(evaluated: Workspace) -> None:
    for system in ("adapter", "base"):
        table = read(evaluated.evaluation / "probes" / "forgetting" / f"{system}.parquet")
        assert set(table["measure"]) == {STATES}
        assert len(table["row"]) == 100
        if system == "base":
            np.testing.assert_allclose(table["score"], 1.0, atol=1e-9)
    metrics = read_json(evaluated.evaluation / "metrics.json")["probes"]["forgetting"]
    assert metrics["base"]["similarity"]["value"] == 1
    # By hand, of the first text.
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    states = {}
    for system in ("adapter", "base"):
        with Subject(system, loaded, {}, 1).model() as model, torch.no_grad():
            bert = model.get_base_model().bert
            given = [loaded.processor(text, truncation=True, max_length=64, return_tensors="pt") for text in TEXTS]
            states[system] = [
                bert(input_ids=one.input_ids, attention_mask=one.attention_mask).last_hidden_state[0, 1:-1].double()
                for one in given
            ]
    middle = torch.cat(states["base"]).mean(0)
    ours, theirs = states["adapter"][0] - middle, states["base"][0] - middle
    expected = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean()
    found = read(evaluated.evaluation / "probes" / "forgetting" / "adapter.parquet")["score"]
    assert found[0] == pytest.approx(float(expected), abs=1e-6)
    assert found[0] < 1


@pytest.mark.slow
def test_decoder_predicts_each_token_as_transformers_does(tiny_decoder: Path, tmp_path: Path) -> None:
    for task in ("text_classification", "text_generation"):
        workspace = write_project(
            tmp_path / task,
            tiny_decoder,
            {"task.name": task, "training.epochs": 1, "adapter.target_modules": "all-linear"},
        )
        table, loaded, _ = measured(trained(workspace), "base")
        assert set(table["measure"]) == {MEASURES["decoder"]}
        whole = AutoModelForCausalLM.from_pretrained(tiny_decoder).eval()
        text = LINES.split("\n")[0]
        bare = loaded.processor(text, add_special_tokens=False).input_ids
        start = loaded.processor(text).input_ids[: -len(bare)] or [loaded.processor.eos_token_id]
        ids = torch.tensor([[*start, *bare]])
        with torch.no_grad():
            loss = float(whole(input_ids=ids, labels=ids).loss)
        assert table["tokens"][0] == len(bare)
        assert table["score"][0] == pytest.approx(-loss / math.log(2), abs=1e-4)
        assert np.abs(measured(workspace, "adapter", 0.5)[0]["score"] - table["score"]).max() > 0.05


def test_encoder_decoder_goes_on_with_the_second_half(tiny_t5: Path, tmp_path: Path) -> None:
    workspace = write_project(tmp_path / "p", tiny_t5, {"training.epochs": 1, "adapter.target_modules": ["q", "v"]})
    table, loaded, _ = measured(trained(workspace), "base")
    assert set(table["measure"]) == {MEASURES["encoder-decoder"]}
    whole = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    ids = loaded.processor(LINES.split("\n")[0], add_special_tokens=False).input_ids
    source = loaded.processor(loaded.processor.decode(ids[: len(ids) // 2])).input_ids
    with torch.no_grad():
        loss = float(whole(input_ids=torch.tensor([source]), labels=torch.tensor([ids[len(ids) // 2 :]])).loss)
    assert table["score"][0] == pytest.approx(-loss / math.log(2), abs=1e-4)
    assert np.abs(measured(workspace, "adapter", 0.5)[0]["score"] - table["score"]).max() > 0.01


def test_a_prompt_leaves_the_layers_of_the_base_alone(tiny_base: Path, tmp_path: Path) -> None:
    adapter = {
        "method": "prompt_tuning",
        "num_virtual_tokens": 2,
        "r": None,
        "lora_alpha": None,
        "target_modules": None,
    }
    workspace = write_project(tmp_path / "p", tiny_base, {"training.epochs": 1})
    text = workspace.params.read_text()
    raw = yaml.safe_load(text)
    raw["adapter"] = {name: value for name, value in adapter.items() if value is not None}
    workspace.params.write_text(yaml.safe_dump(raw))
    loaded = artifact.load(trained(workspace).adapter, workspace.root)
    config, material = EvaluationConfig(), Material([], DataConfig(), workspace.root)
    reason = PROBE.left_out(config, Subject("adapter", loaded, {}, 3), material)
    assert reason is not None
    assert "a prompt before the task's input" in reason


def test_perplexity_is_of_all_tokens_together() -> None:
    table = {"score": np.array([-1.0, -3.0]), "tokens": np.array([30, 10])}
    assert perplexity(table) == pytest.approx(2**1.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, r"evaluation\.forgetting\.text: no such file 'gone\.txt'"),
        ("../up.txt", b"x", r"evaluation\.forgetting\.text: '\.\./up\.txt' must be a path inside the repository"),
        ("blank.txt", b"\n \n", r"evaluation\.forgetting\.text: blank\.txt has no text"),
        ("latin.txt", b"caf\xe9", r"evaluation\.forgetting\.text: latin\.txt is not UTF-8 \(byte 3\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_message(
    classifier: Workspace, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (classifier.root / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        measured(classifier, "base", text=name)


def test_dvc_watches_the_file_that_params_name(make_project: Make, tmp_path: Path) -> None:
    named = {"text": "texts/general.txt"}
    workspace = make_project(tmp_path / "p", evaluation={"forgetting": named})
    document = yaml.safe_load(stages.render(workspace.root, ROOT))
    variable = "${evaluation.forgetting.text}"
    assert [name for name, one in document["stages"].items() if variable in one["deps"]] == ["evaluate"]
    (workspace.root / "dvc.yaml").write_text("stages:\n  evaluate:\n    cmd: x\n    deps: [data]\n")
    with pytest.raises(
        ConfigError, match=r"evaluation\.forgetting\.text: dvc\.yaml does not name 'texts/general\.txt'"
    ):
        stages.run("evaluate", workspace)
    made = projects.derived(workspace, workspace.root / "projects" / "x", {})
    assert yaml.safe_load(made["params.yaml"])["evaluation"]["forgetting"]["text"] == "../../texts/general.txt"
    assert variable in made["dvc.yaml"]
