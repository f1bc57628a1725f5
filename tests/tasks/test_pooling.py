"""What a head reads: against transformers' own heads, and without regard to padding, whatever stands in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach
from graft.base import load_tokenizer, pad_token_of
from graft.errors import ConfigError
from graft.pooling import last_of, mean_of
from graft.tasks.text_classification import TASK, Config

STATE = {"labels": ["animals", "cooking", "weather"]}
TEXTS = ("the cat barks", "soup", "rain and wind with some snow today", "a dog on a big horse here", "old bread")


def loaded(folder: Path, pooling: str) -> tuple[Any, list[str], Config]:
    import torch

    torch.manual_seed(0)
    config = Config(pooling=pooling)  # type: ignore[arg-type]
    model, new = TASK.load_model(str(folder), config, STATE)
    return model.eval(), new, config


def batches(folder: Path, filler: int | None = None) -> tuple[Any, list[Any]]:
    """Return one batch of all texts, and one of each text alone."""
    tokenizer = load_tokenizer(folder)
    rows = TASK.encode(Config(), [{"text": text} for text in TEXTS], tokenizer, 32)
    pad = pad_token_of(tokenizer) if filler is None else filler
    return TASK.collate(rows, pad, STATE), [TASK.collate([row], pad, STATE) for row in rows]


def test_mean_and_last_leave_padding_out() -> None:
    import torch

    hidden = torch.randn(2, 4, 3)
    right, left = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(last_of(hidden, right), torch.stack([hidden[0, 1], hidden[1, 3]]))
    assert torch.equal(last_of(hidden, left), hidden[:, 3])
    assert torch.equal(last_of(hidden, right.float()), last_of(hidden, right))
    mean = hidden[0, :2].mean(0)
    torch.testing.assert_close(mean_of(hidden, right)[0], mean / mean.norm() * 3**0.5)


@pytest.mark.parametrize("filler", [0, 2, 7])
def test_a_decoders_head_reads_the_last_own_token_whatever_fills_the_rows(tiny_decoder: Path, filler: int) -> None:
    """Second route: transformers' own model, one row at a time, where no padding can mislead it."""
    import torch

    model, new, config = loaded(tiny_decoder, "model")
    assert new == ["score"]
    together, alone = batches(tiny_decoder, filler)
    assert together["attention_mask"].min() == 0
    with torch.no_grad():
        found = TASK.outputs(config, model, together)
        expected = [type(model).forward(model, input_ids=one["input_ids"]).logits for one in alone]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_an_encoder_decoders_head_is_transformers_own(tiny_t5: Path) -> None:
    import torch

    model, new, config = loaded(tiny_t5, "model")
    assert new == ["classification_head"]
    together, alone = batches(tiny_t5)
    with torch.no_grad():
        found = TASK.outputs(config, model, together)
        expected = [type(model).forward(model, input_ids=one["input_ids"]).logits for one in alone]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_singles_and_pairs_of_an_encoder_decoder_share_a_batch(tiny_t5: Path) -> None:
    """transformers refuses rows with unequally many end tokens."""
    import torch

    model, _, config = loaded(tiny_t5, "model")
    rows = [{"text": "the cat"}, {"text": "the cat", "text_pair": "a dog"}]
    encoded = TASK.encode(config, rows, load_tokenizer(tiny_t5), 32)
    batch = TASK.collate(encoded, 0, STATE)
    assert (batch["input_ids"] == 1).sum(1).tolist() == [1, 2]
    with torch.no_grad():
        assert TASK.outputs(config, model, batch).isfinite().all()
    with pytest.raises(ValueError, match="same number of <eos>"):
        type(model).forward(model, input_ids=batch["input_ids"])


@pytest.mark.parametrize("pooling", ["model", "mean", "last"])
@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "lora", "r": 4, "target_modules": "all-linear"},
        {"method": "prompt_tuning", "num_virtual_tokens": 3},
        {"method": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 8},
        {"method": "prefix_tuning", "num_virtual_tokens": 3},
    ],
    ids=lambda adapter: adapter["method"],
)
@pytest.mark.parametrize("base", ["tiny_decoder", "tiny_base"])
def test_outputs_do_not_depend_on_padding_under_any_method(
    request: pytest.FixtureRequest, base: str, adapter: dict[str, Any], pooling: str
) -> None:
    import torch

    folder = request.getfixturevalue(base)
    if base == "tiny_base" and pooling == "model" and adapter["method"] != "lora":
        pytest.skip("transformers' own head: what PEFT makes of it is PEFT's")
    model, new, config = loaded(folder, pooling)
    wrapped = attach(model, AdapterConfig(**adapter), new).eval()
    for name, value in wrapped.named_parameters():
        if value.requires_grad and "original_module" not in name:
            torch.nn.init.normal_(value, std=0.3)
    together, alone = batches(folder)
    with torch.no_grad():
        found = TASK.outputs(config, wrapped, together)
        each = torch.cat([TASK.outputs(config, wrapped, one) for one in alone])
        with wrapped.disable_adapter():
            plain = TASK.outputs(config, wrapped, together)
    torch.testing.assert_close(found, each, rtol=0, atol=2e-4)
    assert not torch.allclose(found, plain)


def test_mean_and_last_give_an_encoder_one_new_head(tiny_base: Path) -> None:
    import torch

    for pooling in ("mean", "last"):
        model, new, config = loaded(tiny_base, pooling)
        assert new == ["classifier"]
        assert model.bert.pooler is None
        together, _ = batches(tiny_base)
        with torch.no_grad():
            inputs = {name: together[name] for name in ("input_ids", "attention_mask")}
            hidden = model.bert(**inputs).last_hidden_state
            read = mean_of if pooling == "mean" else last_of
            expected = model.classifier(read(hidden, together["attention_mask"]))
            torch.testing.assert_close(TASK.outputs(config, model, together), expected)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_without_a_mask_every_token_is_the_rows_own(tiny_base: Path, pooling: str) -> None:
    import torch

    model, _, _ = loaded(tiny_base, pooling)
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta", "DebertaV2", "Electra"])
def test_other_encoders_can_be_read_too(tmp_path: Path, kind: str) -> None:
    import torch
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "DistilBert":
        sizes = {"dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, max_position_embeddings=40, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    batch = {"input_ids": torch.arange(5, 15).view(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    for pooling in ("mean", "last"):
        model, new, task_config = loaded(tmp_path, pooling)
        assert new == ["classifier"]
        assert TASK.outputs(task_config, model, batch).shape == (2, 3)
        trained = attach(model, AdapterConfig(r=2, target_modules="all-linear"), new)
        assert TASK.outputs(task_config, trained, batch).shape == (2, 3)


def test_the_mean_of_an_encoder_decoder_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.pooling: mean needs an encoder or a decoder"):
        TASK.load_model(str(tiny_t5), Config(pooling="mean"), STATE)


def test_a_prompt_before_an_encoder_decoders_classifier_is_refused(tiny_t5: Path) -> None:
    model, new, _ = loaded(tiny_t5, "model")
    with pytest.raises(ConfigError, match=r"adapter.method: .* encoder-decoder"):
        attach(model, AdapterConfig(method="prompt_tuning", num_virtual_tokens=3), new)


def test_the_task_knows_which_bases_it_can_do() -> None:
    assert {tasks.get(name).families for name in ("text_classification", "regression")} == {TASK.families}
