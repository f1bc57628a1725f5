import math

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from graft import artifact, stages, tasks
from graft.adapters import AdapterConfig, attach
from graft.tasks import Task
from graft.tasks.text_generation import TASK, Config, TextGeneration, windows_of
from graft.training import TrainingConfig
from graft.training.batching import Plan
from graft.training.loop import Inputs, _backward
from graft.training.throughput import Meter
from graft.workspace import read_json
from tests.conftest import check_rows, problems_of, toy_rows

CONFIG = Config(generation={"max_new_tokens": 5})
LORA = AdapterConfig(r=4, init_lora_weights=False, target_modules="all-linear")
TEXTS = [{"text": "a small cat"}, {"text": "Grüße, 中文 und mehr, was lang ist"}]


@pytest.fixture(scope="module")
def model(bos_llama):
    return TASK.load_model(str(bos_llama), CONFIG, {})[0].eval()


def encoded(tokenizer, limit):
    rows = TASK.encode(CONFIG, TEXTS, tokenizer, limit)
    return [{**row, "length": len(row["input_ids"])} for row in rows]


@pytest.mark.parametrize(("tokens", "limit"), [(5, 8), (8, 8), (9, 8), (15, 8), (16, 8), (40, 4)])
def test_windows_predict_every_token_once(tokens, limit):
    windows = windows_of(tokens, limit)
    predicted = [place for start, stop in windows for place in range(start + 1, stop)]
    assert predicted == list(range(1, tokens))
    assert all(stop - start <= limit for start, stop in windows)


def test_text_stands_between_one_bos_and_one_end(bos_tokenizer):
    texts = [{"text": "ab"}, {"text": "<s>ab</s>"}]
    rows = TASK.encode(CONFIG, texts, bos_tokenizer, 50)
    assert [bos_tokenizer.decode(row["input_ids"]) for row in rows] == ["<s>ab</s>"] * 2


def test_text_begins_with_the_end_token_where_there_is_no_bos(chat_tokenizer):
    row = TASK.encode(CONFIG, [{"text": "ab"}], chat_tokenizer, 50)[0]
    assert chat_tokenizer.decode(row["input_ids"]) == "</s>ab</s>"


def test_outputs_equal_the_sum_over_the_text(model, bos_tokenizer):
    rows = encoded(bos_tokenizer, 100)
    found = TASK.outputs(CONFIG, model, TASK.collate(rows, 0, {}))
    for row, (nll, tokens) in zip(rows, found.tolist(), strict=True):
        ids = torch.tensor(row["input_ids"])
        chances = log_softmax(model(ids[None]).logits[0, :-1], dim=1)
        assert nll == pytest.approx(-chances.gather(1, ids[1:, None]).sum().item(), rel=1e-5)
        assert tokens == len(ids) - 1
        assert ids[-1] == bos_tokenizer.eos_token_id


def test_windows_of_a_row_are_summed_in_any_number_of_passes(model, bos_tokenizer, monkeypatch):
    rows = encoded(bos_tokenizer, 8)
    batch = TASK.collate(rows, 0, {})
    assert len(batch["input_ids"]) > len(rows)
    together = TASK.outputs(CONFIG, model, batch)
    monkeypatch.setattr("graft.tasks.text_generation.WINDOWS_TOGETHER", 2)
    torch.testing.assert_close(TASK.outputs(CONFIG, model, batch), together)
    assert together[:, 1].tolist() == [len(row["text"].encode()) + 1 for row in TEXTS]
    loss, items = TASK.loss(CONFIG, model, batch)
    assert (loss.item(), items) == (pytest.approx(together[:, 0].sum().item()), together[:, 1].sum())


@pytest.mark.parametrize("micro_batch_rows", [None, 1])
def test_step_of_long_texts_takes_no_more_windows_at_once_than_rows(bos_llama, bos_tokenizer, micro_batch_rows):
    rows = encoded(bos_tokenizer, 8)
    assert len(rows[1]["windows"]) > 2

    def trained(cut):
        torch.manual_seed(7)
        wrapped = attach(TASK.load_model(str(bos_llama), CONFIG, {})[0].eval(), LORA, [])
        config = TrainingConfig(batch_rows=2, micro_batch_rows=micro_batch_rows, device="cpu")
        task = TASK if cut else TextGeneration()
        if not cut:
            task.pieces = lambda batch, most: Task.pieces(task, batch, most)
        lines = []
        wrapped.get_base_model().register_forward_pre_hook(
            lambda _, __, named: lines.append(len(named["input_ids"])), with_kwargs=True
        )
        inputs = Inputs(wrapped, task, CONFIG, {}, rows, rows, 0, config, "cpu")
        found = _backward(inputs, Plan([row["length"] for row in rows], config), 1, Meter(inputs))
        gradients = [one.grad for one in wrapped.parameters() if one.grad is not None]
        return found, gradients, max(lines)

    (loss, items), gradients, most = trained(cut=True)
    (whole_loss, whole_items), whole, together = trained(cut=False)
    assert (most, items) == (micro_batch_rows or 2, whole_items)
    assert together > 2
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert any(one.any() for one in gradients)
    for one, other in zip(gradients, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_texts_of_one_window_stay_together(bos_tokenizer):
    batch = TASK.collate(encoded(bos_tokenizer, 100), 0, {})
    (piece,) = TASK.pieces(batch, 2)
    assert all(piece[name].equal(batch[name]) for name in batch)


def test_padding_with_the_end_token_changes_nothing(model, bos_tokenizer):
    rows = encoded(bos_tokenizer, 100)
    torch.testing.assert_close(
        TASK.outputs(CONFIG, model, TASK.collate(rows, 2, {})), TASK.outputs(CONFIG, model, TASK.collate(rows, 0, {}))
    )


def test_text_goes_on_after_all_its_windows(model, bos_tokenizer):
    rows = encoded(bos_tokenizer, 8)
    found = TASK.generate(CONFIG, model, rows, bos_tokenizer, 0)
    for text, answer in zip(TEXTS, found, strict=True):
        ids = bos_tokenizer(text["text"], return_tensors="pt").input_ids
        whole = model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
        assert answer.encode() == bos_tokenizer.decode(whole, skip_special_tokens=True).encode()


def test_empty_text_is_refused(bos_tokenizer):
    kept, found = check_rows(TASK, CONFIG, [{"text": ""}, {"text": "a"}], bos_tokenizer, limit=50)
    assert [row["supervised"] for row in kept] == [0, 2]
    assert problems_of(found) == [("empty", "data/train/part.jsonl:1", "text")]


def test_bases_of_other_kinds_are_refused(tiny_base):
    from graft.errors import ConfigError

    with pytest.raises(ConfigError, match="bert is an encoder, and this task needs a decoder"):
        TASK.load_model(str(tiny_base), CONFIG, {})


@pytest.mark.slow
def test_chain_learns_text_and_continues_it(language_project, bos_llama):
    texts = [row["text"] for row in toy_rows(90, 3)]
    project = language_project(
        bos_llama, lambda n: {"text": texts[n]}, {"name": "text_generation", "generation": {"max_new_tokens": 4}}
    )
    for stage in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(stage, project)
    metrics = read_json(project.evaluation / "metrics.json")
    assert metrics["headline"] == "bits_per_byte"
    values = {system: metrics[system]["bits_per_byte"]["value"] for system in ("adapter", "base", "unigram", "bigram")}
    assert values["adapter"] < values["base"]
    assert values["bigram"] < values["unigram"] < math.log2(257)
    assert "perplexity" in metrics["base"]
    assert "perplexity" not in metrics["unigram"]
    loaded = artifact.load(project.adapter, project.root)
    answers = artifact.predict(loaded, [{"text": "the cat"}, {"text": "中"}])
    assert all(isinstance(one["text"], str) for one in answers)
    assert TASK is tasks.get("text_generation")
    assert np.isfinite(list(values.values())).all()
