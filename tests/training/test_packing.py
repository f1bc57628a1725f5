"""Rows packed end to end, and fused LoRA: up to rounding, what PEFT and transformers compute on padded rows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from peft import LilyConfig, LoraConfig, PeftConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from graft.likelihood import total_likelihood
from graft.padding import WHOLE_TOKENS
from graft.training.forward import set_dropout
from graft.training.fused_lora import fused
from graft.training.packing import pack_of, packed

LENGTHS = (3, 9, 5, 5, 9, 1)
TARGET_LENGTHS = (2, 4, 4, 1, 3, 2)
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
LINEAR = "all-linear"


def model_of(kind: str, head: str, targets: Any, **config: Any) -> Any:
    """Return a small random model with LoRA that is not at its start."""
    torch.manual_seed(0)
    built = getattr(transformers, f"{kind}Config")(**config)
    model = get_peft_model(getattr(transformers, f"{kind}{head}")(built), LoraConfig(r=4, target_modules=targets))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return model.eval()


def both_sides(kind: str, **config: Any) -> Any:
    """Return a model of BART's kind: encoder and decoder, with embeddings of positions."""
    sides = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    each = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()}
    sizes = {"vocab_size": 99, "d_model": 32, "max_position_embeddings": 64}
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    return model_of(
        kind, "ForConditionalGeneration" if kind != "Marian" else "MTModel", targets, **each, **sizes, **config
    )


MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: model_of("Bert", "ForSequenceClassification", ["query", "key", "value", "dense"], **SMALL),
    "roberta": lambda: model_of(
        "Roberta", "ForSequenceClassification", ["query", "value"], **{**SMALL, "pad_token_id": 1}
    ),
    "distilbert": lambda: model_of(
        "DistilBert",
        "ForSequenceClassification",
        ["q_lin"],
        vocab_size=99,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
    ),
    "albert": lambda: model_of("Albert", "ForSequenceClassification", ["query", "value"], **SMALL, embedding_size=16),
    "modernbert, windows of 4": lambda: model_of(
        "ModernBert", "ForSequenceClassification", ["Wqkv"], **SMALL, cls_token_id=1, sep_token_id=2, local_attention=4
    ),
    "llama": lambda: model_of("Llama", "ForCausalLM", LINEAR, **GROUPED),
    "mistral, windows of 4": lambda: model_of(
        "Mistral", "ForCausalLM", ["q_proj", "k_proj"], **GROUPED, sliding_window=4
    ),
    "gemma2, capped": lambda: model_of("Gemma2", "ForCausalLM", LINEAR, **GROUPED, head_dim=8, sliding_window=4),
    "gpt2": lambda: model_of("GPT2", "LMHeadModel", ["c_attn"], vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    "t5": lambda: model_of(
        *("T5", "ForConditionalGeneration", ["q", "k", "v", "o", "wi", "wo"]),
        **{"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        decoder_start_token_id=0,
    ),
    "bart": lambda: both_sides("Bart"),
    "marian": lambda: both_sides("Marian", pad_token_id=0, decoder_start_token_id=0),
    "pegasus": lambda: both_sides("Pegasus"),
}
UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "deberta": (
        lambda: model_of("DebertaV2", "ForSequenceClassification", ["query_proj"], **SMALL),
        "DebertaV2Model does not take packed rows: their states differ",
    ),
    "bloom": (
        lambda: model_of(
            "Bloom", "ForCausalLM", ["query_key_value"], vocab_size=99, hidden_size=32, n_layer=2, n_head=4
        ),
        "BloomModel does not take packed rows: their states differ",
    ),
    "m2m100": (lambda: both_sides("M2M100"), "M2M100Encoder does not take packed rows"),
}


def batch_of(model: Any) -> dict[str, torch.Tensor]:
    """Return rows of unlike length, two of them equally long and one of a single token."""
    generator = torch.Generator().manual_seed(1)
    width = max(LENGTHS)
    mask = torch.tensor([[1] * size + [0] * (width - size) for size in LENGTHS])
    padding = model.config.pad_token_id or 0
    ids = torch.where(mask == 1, torch.randint(3, 99, mask.shape, generator=generator), padding)
    if model.config.is_encoder_decoder:
        labels = torch.tensor([[7] * size + [-100] * (max(TARGET_LENGTHS) - size) for size in TARGET_LENGTHS])
    else:
        labels = torch.where(mask == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if "Sequence" in type(model.get_base_model()).__name__:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.logsumexp(-1).sum()
    return total_likelihood(model, batch)[0]


def learnt(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return a batch's loss and its gradients."""
    model.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return float(loss.detach()), found


def check_equal(
    before: tuple[float, dict[str, torch.Tensor]], after: tuple[float, dict[str, torch.Tensor]], within: float = 1e-5
) -> None:
    assert after[0] == pytest.approx(before[0], rel=within)
    assert after[1].keys() == before[1].keys()
    for name, gradient in before[1].items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        assert float((after[1][name] - gradient).abs().max()) <= within * largest, name


@contextlib.contextmanager
def both(model: Any, batch: dict[str, torch.Tensor]) -> Iterator[tuple[bool, int]]:
    def run() -> None:
        loss_of(model, batch)

    with packed(model, run) as is_packed, fused(model, run) as layers:
        yield is_packed, layers


@pytest.mark.parametrize("kind", MODELS)
def test_packed_rows_have_the_loss_and_gradients_of_padded_rows(kind: str) -> None:
    model = MODELS[kind]()
    batch = batch_of(model)
    reference = learnt(model, batch)
    with both(model, batch) as (is_packed, layers):
        assert is_packed
        assert layers > 0 or kind == "gpt2"
        check_equal(reference, learnt(model, batch))
    check_equal(reference, learnt(model, batch), within=0)


PROMPTS: dict[str, tuple[Callable[[], Any], PeftConfig]] = {
    "bert, prompt": (
        lambda: BertForSequenceClassification(BertConfig(**SMALL)),
        PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    ),
    "llama, p-tuning": (
        lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16),
    ),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_rows_that_begin_with_a_learnt_prompt_are_packed(kind: str) -> None:
    torch.manual_seed(0)
    build, config = PROMPTS[kind]
    model = get_peft_model(build(), config).eval()
    batch = batch_of(model)

    reference = learnt(model, batch)
    with both(model, batch) as (is_packed, _):
        assert is_packed
        check_equal(reference, learnt(model, batch))


def test_an_adapter_that_mixes_the_tokens_of_a_batch_runs_padded(capsys: pytest.CaptureFixture[str]) -> None:
    """It is silent at its start, so that no difference would be seen."""
    model = get_peft_model(
        BertForSequenceClassification(BertConfig(**SMALL)), LilyConfig(r=4, target_modules=["query"], stride_A=1)
    ).eval()
    batch = batch_of(model)
    with both(model, batch) as (is_packed, _):
        assert not is_packed
    assert "in lily, what one token gets depends on all tokens of the batch" in capsys.readouterr().out


@pytest.mark.parametrize("kind", UNFIT)
def test_a_model_that_cannot_be_packed_runs_padded_and_says_why(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    build, reason = UNFIT[kind]
    model = build()
    batch = batch_of(model)
    reference = learnt(model, batch)
    with both(model, batch) as (is_packed, _):
        assert not is_packed
        check_equal(reference, learnt(model, batch))
    assert reason in capsys.readouterr().out


def test_rows_of_a_pack_are_sorted_by_length_and_filled_up() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    pack = pack_of(mask)
    assert pack.index.tolist() == [8, 6, 7, 12, 13, 0, 1, 2]
    assert pack.positions.tolist() == [0, 0, 1, 0, 1, 0, 1, 2]
    assert pack.blocks == ((1, 1), (2, 2), (1, 3))
    assert pack.bounds.tolist() == [0, 1, 3, 5, 8]
    assert (len(pack.index) + pack.filler) % WHOLE_TOKENS == 0
    values = torch.arange(16.0).view(4, 4, 1)
    assert torch.equal(pack.batch(pack.line(values), (4, 4)), values * mask[..., None])


def test_dropout_of_attention_is_applied_in_packed_rows() -> None:
    model = MODELS["bert"]()
    batch = batch_of(model)
    with packed(model, lambda: loss_of(model, batch)):
        still = float(loss_of(model, batch).detach())
        model.train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        assert float(loss_of(model, batch).detach()) == pytest.approx(still, rel=1e-6)
        for part in model.modules():
            if type(part).__name__ == "BertSelfAttention":
                part.dropout.p = 0.5
        assert float(loss_of(model, batch).detach()) != pytest.approx(still, rel=1e-6)


def test_bfloat16_rows_stay_within_their_rounding() -> None:
    model = MODELS["bert"]().to(torch.bfloat16)
    batch = batch_of(model)
    exact = learnt(MODELS["bert"](), batch)
    with both(model, batch) as (is_packed, layers):
        assert is_packed
        assert layers
        found = learnt(model, batch)
    assert found[0] == pytest.approx(exact[0], rel=0.02)
    for name, gradient in exact[1].items():
        assert float((found[1][name].float() - gradient).norm()) < 0.1 * float(gradient.norm()), name


def test_heads_of_which_positions_turn_a_part_are_packed_in_bfloat16() -> None:
    """GPT-NeoX puts its queries together anew: they lie head by head, and not token by token."""
    built = functools.partial(model_of, "GPTNeoX", "ForCausalLM", ["dense"], **SMALL, rotary_pct=0.25)
    exact, model = built(), built().to(torch.bfloat16)
    batch = batch_of(model)
    expected = learnt(exact, batch)
    with both(model, batch) as (is_packed, _):
        assert is_packed
        found = learnt(model, batch)
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    for name, gradient in expected[1].items():
        assert float((found[1][name].float() - gradient).norm()) < 0.1 * float(gradient.norm()), name


# -- fused LoRA


@pytest.mark.parametrize("change", [{"lora_dropout": 0.5}, {"use_dora": True}], ids=["dropout", "dora"])
def test_lora_with_dropout_or_a_variant_runs_through_peft(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    inner = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    model = get_peft_model(inner, LoraConfig(r=4, target_modules=["query"], **change)).train()
    batch = batch_of(model)
    torch.manual_seed(3)
    model.zero_grad()
    expected = learnt(model, batch)[1]
    with fused(model, lambda: loss_of(model, batch)):
        torch.manual_seed(3)
        found = learnt(model, batch)[1]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_without_the_adapter_the_base_alone_runs() -> None:
    model = MODELS["llama"]()
    batch = batch_of(model)
    with torch.no_grad(), model.disable_adapter():
        alone = float(loss_of(model, batch))
    with both(model, batch), torch.no_grad():
        assert float(loss_of(model, batch)) != pytest.approx(alone, rel=1e-4)
        with model.disable_adapter():
            assert float(loss_of(model, batch)) == pytest.approx(alone, rel=1e-6)


def test_nothing_is_computed_below_the_lowest_adapter() -> None:
    model = model_of("Bert", "ForSequenceClassification", ["query"], **SMALL)
    lowest = model.get_base_model().bert.encoder.layer[0].attention.self.query
    batch = batch_of(model)
    seen: list[bool] = []
    with both(model, batch):
        hook = lowest.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].requires_grad))
        learnt(model, batch)
        hook.remove()
    assert seen == [False]


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_no_dropout_is_none_wherever_a_model_keeps_it(kind: str) -> None:
    model = MODELS[kind]()
    for part in model.modules():
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.5
    batch = batch_of(model)
    expected = float(loss_of(model, batch).detach())
    model.train()
    assert float(loss_of(model, batch).detach()) != pytest.approx(expected, rel=1e-6)
    set_dropout(model, 0.0)
    assert float(loss_of(model, batch).detach()) == pytest.approx(expected, rel=1e-6)
