"""MFU, padding and supervised shares against a second route: torch's own counter of FLOPs, and hooks on the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach
from graft.training import TrainingConfig, throughput
from graft.training.forward import efficient

Make = Callable[..., Any]
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "llama": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"intermediate_size": 64, "tie_word_embeddings": False},
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, "decoder_start_token_id": 0},
}
TARGETS = {
    "bert": ["query", "key", "value", "dense"],
    "llama": "all-linear",
    "gpt2": ["c_attn"],
    "t5": ["q", "k", "v", "wi", "wo"],
}


WIDTH, LAYERS, VOCABULARY = 32, 2, 96
ONCE_MORE = 2 * WIDTH * VOCABULARY
"""The model's own head runs at one position, before the loss runs it at all."""


def inputs_of(family: str, lengths: Sequence[int], *, task: str, targets: Any = None, answers: int = 6) -> Any:
    """Return the loop's inputs on a tiny random model, rows of ``lengths`` tokens, attention in plain products."""
    import torch
    import transformers

    from graft.training.loop import Inputs

    torch.manual_seed(0)
    classes = {"text_classification": "SequenceClassification", "summarization": "Seq2SeqLM"}
    settings = {**SHAPES[family], "vocab_size": VOCABULARY, "pad_token_id": 0, "attn_implementation": "eager"}
    config = transformers.AutoConfig.for_model(family, **settings)
    kind = getattr(transformers, f"AutoModelFor{classes.get(task, 'CausalLM')}")
    wrapped = attach(
        kind.from_config(config),
        AdapterConfig(r=4, lora_alpha=8, target_modules=targets or TARGETS[family]),
        ["classifier"] if family == "bert" else [],
    )
    one, made = tasks.get(task), tasks.config_class(task)
    rows = []
    for number, length in enumerate(lengths):
        ids = [1 + (number + place) % 90 for place in range(length)]
        row: dict[str, Any] = {"row": f"a.jsonl:{number}", "input_ids": ids, "label": "ab"[number % 2]}
        if task == "chat":
            row["labels"] = [-100] * (length - answers) + ids[-answers:]
        if task == "summarization":
            row |= {"labels": ids[:answers], "prompt_tokens": None}
        if task == "text_generation":
            row["windows"] = [length]
        rows.append(row)
    return Inputs(
        model=wrapped.train(),
        task=one,
        task_config=made(name=task),
        state={"labels": ["a", "b"]},
        train_rows=rows,
        validation_rows=rows,
        pad_token_id=0,
        config=TrainingConfig(batch_rows=len(rows), threads=1),
        device="cpu",
    )


def counted(inputs: Any) -> tuple[throughput.Meter, int]:
    """Return a meter that saw one step, and the FLOPs that torch saw in the same step, done a second time."""
    from torch.utils.flop_counter import FlopCounterMode

    from graft.tokenization import lengths_of
    from graft.training.batching import Plan
    from graft.training.loop import _backward

    plan = Plan(lengths_of(inputs.train_rows), inputs.config)
    _backward(inputs, plan, 1, throughput.Meter(inputs))  # at its first call, a model's head is tried
    meter = throughput.Meter(inputs)
    _backward(inputs, plan, 1, meter)
    counter = FlopCounterMode(display=False)
    with counter:
        _backward(inputs, plan, 1, meter)
    return meter, counter.get_total_flops()


@pytest.mark.parametrize("adapter", ["all", "upper", "lower"])
def test_flops_of_an_encoder_are_those_that_torch_counts(adapter: str) -> None:
    layers = {
        "all": r".*(query|key|value|dense)",
        "upper": r".*layer\.1\..*(query|key|value)",
        "lower": r".*layer\.0\..*(query|key|value)",
    }
    layer = layers[adapter]
    meter, seen = counted(inputs_of("bert", [12, 12, 12], task="text_classification", targets=layer))
    assert meter.flops == seen


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_flops_of_a_decoder_are_those_that_torch_counts(family: str) -> None:
    """But for attention, which computes all pairs here and needs half, and the head, which runs once more in vain."""
    rows, length, answers = 4, 16, 8  # 32 supervised positions: no filler
    meter, seen = counted(inputs_of(family, [length] * rows, task="chat", answers=answers))
    assert meter.flops == seen - ONCE_MORE - rows * LAYERS * 12 * WIDTH * length**2 / 2
    assert meter.facts(1.0)["supervised_share"] == answers / length


def test_flops_of_an_encoder_decoder_are_those_that_torch_counts() -> None:
    rows, length, answers = 4, 12, 8
    meter, seen = counted(inputs_of("t5", [length] * rows, task="summarization", answers=answers))
    assert meter.flops == seen - ONCE_MORE - rows * LAYERS * 12 * WIDTH * answers**2 / 2
    assert meter.facts(1.0)["supervised_share"] == answers / (length + answers)


def test_a_frozen_base_takes_four_flops_a_weight_and_token() -> None:
    """The rule of thumb: within the attention, the lowest layer and what is trained itself."""
    inputs = inputs_of("llama", [8, 8], task="text_generation")
    meter, _ = counted(inputs)
    frozen = [one for one in inputs.model.parameters() if one.ndim == 2 and not one.requires_grad]
    weights = sum(one.numel() for one in frozen) - inputs.model.get_input_embeddings().weight.numel()
    assert meter.flops == pytest.approx(4 * weights * 16, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_flops_count_real_tokens_alone(family: str) -> None:
    """Packed, padded, or row by row: what is needed is the same."""
    task = {"bert": "text_classification", "llama": "text_generation", "t5": "summarization"}[family]
    lengths = [7, 20, 9, 31, 12, 8]
    whole = inputs_of(family, lengths, task=task)
    padded, _ = counted(whole)
    with efficient(inputs_of(family, lengths, task=task)) as forward:
        assert forward.packed
    again = inputs_of(family, lengths, task=task)
    with efficient(again):
        packed, _ = counted(again)
    alone = sum(counted(inputs_of(family, [length], task=task))[0].flops for length in lengths)
    left_out = beyond_first_tokens(again, lengths) if family == "bert" else 0
    assert padded.flops == pytest.approx(packed.flops + left_out, rel=1e-9)
    assert padded.flops == pytest.approx(alone, rel=1e-9)


def beyond_first_tokens(inputs: Any, lengths: Sequence[int]) -> float:
    """Return the FLOPs of BERT's last layer that its classifier does not need: it reads the first token of each row."""
    last = inputs.model.get_base_model().bert.encoder.layer[-1]
    parts = [last.attention.self.query, last.attention.output.dense, last.intermediate.dense, last.output.dense]
    frozen = sum(part.base_layer.weight.numel() for part in parts)
    trained = sum(one.numel() for part in parts for one in part.parameters() if one.requires_grad)
    others = sum(lengths) - len(lengths)
    pairs = sum(length * length for length in lengths) - sum(lengths)
    return others * (4 * frozen + 6 * trained) + 12 * WIDTH * pairs


@pytest.mark.parametrize("packed", [False, True])
def test_padding_share_is_what_layers_compute_for_no_row(packed: bool) -> None:
    import contextlib

    inputs = inputs_of("bert", [5, 40, 9, 33, 12], task="text_classification")
    positions = 0

    def note(_: Any, given: Any, out: Any) -> None:
        nonlocal positions
        positions += out.shape[0] * out.shape[1]

    with efficient(inputs) if packed else contextlib.nullcontext():
        hook = inputs.model.get_base_model().bert.encoder.layer[0].intermediate.dense.register_forward_hook(note)
        meter, _ = counted(inputs)
        hook.remove()
    assert positions == 3 * (128 if packed else 200)
    assert meter.facts(1.0)["padding_share"] == round(1 - 3 * 99 / positions, 4)


def test_mfu_is_flops_over_the_measured_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "matmul_peak", lambda *_: 1e6)
    meter, _ = counted(inputs_of("bert", [12, 12], task="text_classification"))
    assert meter.facts(2.0)["mfu"] == round(meter.flops / 2e6, 4) > 0
    assert meter.peak_facts() == {"matmul_peak_flops_per_second": 1_000_000, "matmul_type": "float32"}


def test_summary_weighs_shares_by_seconds_and_by_tokens() -> None:
    steps = [
        {"step": 1, "loss": 1.0, "tokens": 100, "tokens_per_second": 100.0, "mfu": 0.2, "padding_share": 0.0},
        {"step": 1, "validation_accuracy": 0.5},
        {"step": 2, "loss": 1.0, "tokens": 400, "tokens_per_second": 100.0, "mfu": 0.6, "padding_share": 0.4},
    ]
    assert throughput.summary(steps) == {"mfu": 0.5, "padding_share": 0.3}


def test_every_step_of_a_training_has_them(make_inputs: Make, tmp_path: Path) -> None:
    from graft.training.checkpoints import Checkpoints
    from graft.training.loop import fit
    from graft.training.record import Record, lines
    from graft.training.signals import Stop

    inputs = make_inputs(epochs=1)
    with efficient(inputs):
        fit(inputs, Checkpoints(tmp_path / "none", "key"), lambda step: Record(tmp_path / "m", step), Stop())
    steps = [line for line in lines(tmp_path / "m") if "loss" in line]
    assert all(line["mfu"] > 0 and 0 <= line["padding_share"] < 0.5 for line in steps)
    assert all(math.isfinite(line["device_utilisation"]) for line in steps)
    assert "supervised_share" not in steps[0]


def test_peak_leaves_the_chance_of_a_training_alone() -> None:
    import torch

    from graft.hardware import matmul_peak

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    matmul_peak.cache_clear()
    assert matmul_peak("cpu", torch.float32, 1) > 1e8
    assert torch.equal(torch.rand(2), expected)
