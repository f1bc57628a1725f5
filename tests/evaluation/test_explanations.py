"""Integrated gradients over an adapted model: they add up, agree with a second route, and show nothing private."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft import artifact, params, stages, tasks
from graft.data import DataConfig, Record
from graft.evaluation import EvaluationConfig
from graft.evaluation.prediction import read
from graft.evaluation.probes import MARKS, About, Material, Subject
from graft.evaluation.probes.attribution import attribution, pieces_of
from graft.evaluation.probes.explanations import PROBE, SAMPLED, WORST, ExplanationsConfig
from graft.evaluation.probes.questions import log_odds, not_explained
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import validated, write_project, write_rows

ABOUT = About(tasks.get("text_classification"), {}, PrivacyConfig())

TEXT = "the cat with a small tail barks today"
MAIL = "ann" + "@example.org"


def spoiled(folder: Path, root: Path) -> Any:
    """Return an adapter whose layers and head say something."""
    loaded = artifact.load(folder, root)
    source = torch.Generator().manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=source)
    return loaded


def explained(loaded: Any, row: dict[str, Any], steps: int = 64) -> Any:
    found = attribution(loaded, Record(row, "data/test/a.jsonl:1"), PrivacyConfig(), steps)
    assert found is not None
    return found


@pytest.mark.slow
def test_attributions_add_up_and_are_those_of_a_plain_sum_over_the_path(evaluated: Workspace) -> None:
    loaded = spoiled(evaluated.adapter, evaluated.root)
    found = explained(loaded, {"text": TEXT})
    change = found.output - found.baseline
    assert abs(change) > 0.05
    assert abs(found.gap) < 0.01 * abs(change)
    assert sum(weight for _, weight in found.pieces) == pytest.approx(change, abs=0.011 * abs(change))
    # By hand: gradients at the middles of 400 pieces of the path, through `inputs_embeds`.
    model, tokenizer = loaded.model.get_base_model(), loaded.processor
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    empty = ids.clone()
    empty[0, 1:-1] = tokenizer.mask_token_id
    layer = model.get_input_embeddings()
    start, end = layer(empty).detach(), layer(ids).detach()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        label = int(logits[0].argmax())
        assert found.output == pytest.approx(float(torch.logit(logits.softmax(-1)[0, label])), abs=1e-4)
    total = torch.zeros_like(end)
    for step in range(400):
        point = (start + (step + 0.5) / 400 * (end - start)).requires_grad_()
        log_odds(model(inputs_embeds=point).logits, label)[0].backward()
        assert point.grad is not None
        total += point.grad / 400
    by_token = ((end - start) * total).sum(-1)[0]
    offsets = tokenizer(TEXT, return_offsets_mapping=True).offset_mapping
    words = {match.start() for match in re.finditer(r"\S+", TEXT)}
    starts = [place for place, (begin, stop) in enumerate(offsets) if stop > begin and begin in words]
    ends = [*starts[1:], ids.shape[1] - 1]
    expected = [float(by_token[begin:stop].sum()) for begin, stop in zip(starts, ends, strict=True)]
    assert [weight for text, weight in found.pieces if text.strip()] == pytest.approx(expected, abs=0.01 * abs(change))


def test_text_is_whole_and_in_its_order(evaluated: Workspace) -> None:
    loaded = spoiled(evaluated.adapter, evaluated.root)
    assert "".join(text for text, _ in explained(loaded, {"text": TEXT}, 8).pieces) == TEXT
    pair = explained(loaded, {"text": "the cat", "text_pair": "some  rain"}, 8)
    assert "".join(text for text, _ in pair.pieces) == "the cat\nsome  rain"
    assert all(weight for text, weight in pair.pieces if text.strip())
    long = explained(loaded, {"text": "cat " * 40}, 8)
    assert "".join(text for text, _ in long.pieces) == "cat " * 29 + "cat…"  # 32 tokens, two of them special


def test_private_values_are_one_piece() -> None:
    text = f"write to {MAIL}, now"
    end = text.index(",")
    weights = [(0, 0, 5, 1.0), (0, 9, 12, 0.5), (0, 12, end, 0.25), (0, end, end + 1, 4.0), (0, end + 2, end + 5, 2.0)]
    found = pieces_of([text], weights, PrivacyConfig())
    expected = [("write", 1.0), (" ", 0.0), ("to", 0.0), (" ", 0.0), ("<EMAIL>", 0.75), (",", 4.0), (" ", 0.0)]
    assert found == [*expected, ("now", 2.0)]
    assert pieces_of([text], weights, PrivacyConfig(kinds=()))[4] == (f"{MAIL},", 4.75)


def test_characters_of_scripts_without_spaces_are_pieces() -> None:
    found = pieces_of(["好吃 ok"], [(0, 0, 1, 1.0), (0, 1, 2, 2.0), (0, 2, 5, 3.0)], PrivacyConfig())
    assert found == [("好", 1.0), ("吃", 2.0), (" ", 0.0), ("ok", 3.0)]


@pytest.mark.parametrize(
    ("base", "task"),
    [
        ("tiny_decoder", {"name": "text_classification"}),
        ("tiny_base", {"name": "regression"}),
        ("tiny_base", {"name": "regression", "pair": "bi"}),
        ("tiny_decoder", {"name": "regression", "pooling": "mean"}),
        ("tiny_base", {"name": "multi_label_classification"}),
    ],
)
def test_other_heads_and_bases_add_up_too(
    base: str, task: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = {"task": task, "training.epochs": 1, "adapter.target_modules": "all-linear"}
    workspace = write_project(tmp_path / "p", request.getfixturevalue(base), settings)
    for split in ("train", "validation", "test"):
        part = workspace.data / split / "part-0000.jsonl"
        rows = [json.loads(line) for line in part.read_text().splitlines()]
        pair = {"text_pair": "the cat was here"} if task.get("pair") else {}
        answers = (
            {"target": float(n % 5), "labels": [row["label"]], "label": row["label"]} for n, row in enumerate(rows)
        )
        write_rows(part, [{**row, **pair, **answer} for row, answer in zip(rows, answers, strict=True)])
    validated(workspace)
    if task["name"] == "regression":
        section, verdict = params.load(workspace.params).task, read_json(workspace.validation / "verdict.json")
        state = tasks.get("regression").learn(section, iter([{"target": float(n % 5)} for n in range(len(rows))]))
        write_json(workspace.validation / "verdict.json", {**verdict, "state": state})
    for stage in ("tokenize", "train"):
        stages.run(stage, workspace)
    loaded = spoiled(workspace.adapter, workspace.root)
    row = {"text": TEXT, **({"text_pair": "some rain"} if task.get("pair") else {})}
    found = explained(loaded, row)
    assert abs(found.output - found.baseline) > 0.001
    assert abs(found.gap) < 0.05 * abs(found.output - found.baseline) + 1e-4
    outputs = artifact.raw_outputs(
        loaded.model, loaded.task, loaded.config, loaded.state,
        loaded.task.encode(loaded.config, [row], loaded.processor, 32),
        pad_token_id=loaded.pad_token_id, batch_rows=1, device="cpu",
    )  # fmt: skip
    if task["name"] != "text_classification":
        assert found.output == pytest.approx(float(outputs[0].max()), abs=1e-4)


def test_worst_errors_come_first_and_the_report_marks_their_words(evaluated: Workspace) -> None:
    table = read(evaluated.evaluation / "probes" / "explanations" / "adapter.parquet")
    predictions = read(evaluated.evaluation / "predictions" / "adapter.parquet")
    wrong = predictions["row"][predictions["reference"] != predictions["prediction"]]
    assert table["why"].tolist() == [WORST] * 3 + [SAMPLED] * 3
    assert set(table["row"][:3]) <= set(wrong)
    assert len(set(table["row"])) == 6
    assert table["score"].max() <= 0
    assert table["score"].min() > -0.2
    lines = evaluated.data.joinpath("test", "part-0000.jsonl").read_text().splitlines()
    rows = {f"data/test/part-0000.jsonl:{number}": json.loads(line) for number, line in enumerate(lines, 1)}
    for place, pieces, expected in zip(table["row"], table["pieces"], table["expected"], strict=True):
        assert "".join(pieces) == rows[place]["text"]
        assert expected == rows[place]["label"]
    report = (evaluated.evaluation / "report.html").read_text()
    assert report.count('<div class="passage">') == 6
    marked = re.findall(r'<mark class="(for|against) m([1-4])">', report)
    assert {strength for _, strength in marked} == {str(one) for one in range(1, MARKS + 1)}


def test_nothing_private_is_in_the_table_or_the_report(evaluated: Workspace, tmp_path: Path) -> None:
    copy = Workspace(shutil.copytree(evaluated.root, tmp_path / "copy"))
    loaded = artifact.load(copy.adapter, copy.root)
    records = [Record({"text": f"the cat {MAIL} barks", "label": "animals"}, f"data/test/x.jsonl:{n}") for n in (1, 2)]
    config = EvaluationConfig(explanations=ExplanationsConfig(rows=2, steps=8))
    subject = Subject("adapter", loaded, {}, 8)
    subject = Subject("adapter", loaded, subject.predictions(records, "test"), 8)
    material = Material(records, DataConfig(), copy.root)
    assert PROBE.left_out(config, subject, material) is None
    table = PROBE.measure(config, subject, material)
    assert "example" not in json.dumps([list(one) for one in table["pieces"]])
    assert "<EMAIL>" in table["pieces"][0]
    found = PROBE.finding(config, {"adapter": table}, tmp_path, ABOUT)
    assert "<EMAIL>" in [text for text, _ in found.passages[0].pieces]
    assert np.isfinite(found.values["adapter"]["missed_share"].value)


def test_it_can_be_switched_off_and_says_what_it_cannot_explain(evaluated: Workspace) -> None:
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    subject = Subject("adapter", loaded, {}, 8)
    material = Material([Record({"text": "a"}, "x:1")], DataConfig(), evaluated.root)
    assert PROBE.left_out(EvaluationConfig(explanations=ExplanationsConfig(rows=0)), subject, material) == "off"
    other = type("Loaded", (), {"task": tasks.get("preference"), "model": loaded.model})()
    assert not_explained(other) == "answers of preference are comparisons"
