from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, describe, preview, unfrozen
from graft.errors import ConfigError

STATE = {"labels": ["animals", "cooking", "weather"]}
TASK = tasks.get("text_classification")
CONFIG = tasks.config_class("text_classification")(name="text_classification")
LORA: dict[str, Any] = {"method": "lora", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
LAST = r"bert\.encoder\.layer\.1\..*"


def load(base: Path, dtype: str = "float32") -> tuple[Any, list[str]]:
    import torch

    torch.manual_seed(0)
    return TASK.load_model(str(base), CONFIG, STATE, dtype=getattr(torch, dtype))


def attached(base: Path, *patterns: str, dtype: str = "float32", **adapter: Any) -> Any:
    model, new = load(base, dtype)
    return attach(model, AdapterConfig(**(adapter or LORA)), new, unfreeze_patterns=patterns).eval()


def batch_of() -> dict[str, Any]:
    import torch

    ids = torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def shake(model: Any) -> None:
    import torch

    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=source))


def test_matched_parameters_are_trained_and_no_other(tiny_base: Path) -> None:
    model = attached(tiny_base, LAST, r"bert\.pooler\.dense\.bias")
    base, _ = load(tiny_base)
    wanted = {name for name, _ in base.named_parameters() if "layer.1." in name} | {"bert.pooler.dense.bias"}
    assert set(unfrozen(model)) == wanted
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    # PEFT renames what it wraps; the target's own weight is trained under its new name.
    assert "base_model.model.bert.encoder.layer.1.attention.self.query.base_layer.weight" in trained
    assert not any(".layer.0." in name and "lora_" not in name for name in trained)
    assert len(trained) == len(wanted) + 2 * 2 + 2  # two LoRA pairs, the head's weight and bias


def test_summary_counts_what_is_unfrozen(tiny_base: Path) -> None:
    base, _ = load(tiny_base)
    sizes = {name: value.numel() for name, value in base.named_parameters()}
    summary = describe(attached(tiny_base, LAST))
    own = sum(size for name, size in sizes.items() if "layer.1." in name)
    assert summary.trainable_parameters == own + 2 * 2 * (2 * 32) + 3 * 32 + 3
    assert summary.adapter_bytes == 4 * summary.trainable_parameters
    assert summary.unfrozen == tuple(sorted(name for name in sizes if "layer.1." in name))
    assert summary == preview(TASK, CONFIG, STATE, tiny_base, AdapterConfig(**LORA), unfreeze_patterns=[LAST])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layer.1", r"training\.unfreeze\[0\]: 'layer\.1' matches the full name of no parameter .*layer\.N\."),
        (r"classifier\..*", r"matches the full name of no parameter of the base"),  # new: trained anyway
        ("(", r"training\.unfreeze\[0\]: '\(' is no regular expression"),
    ],
)
def test_pattern_that_matches_nothing_is_refused_with_candidates(tiny_base: Path, pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attached(tiny_base, pattern)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [LORA, {"method": "full"}, {"method": "prompt_tuning", "num_virtual_tokens": 2}])
def test_disabling_gives_the_base_exactly_and_comes_back(tiny_base: Path, adapter: dict[str, Any], dtype: str) -> None:
    import torch

    batch = batch_of()
    alone = attached(tiny_base, dtype=dtype)  # without anything unfrozen, the base as it is scored today
    with torch.inference_mode(), alone.disable_adapter():
        wanted = TASK.outputs(CONFIG, alone, batch)
    model = attached(tiny_base, LAST, dtype=dtype, **adapter)
    assert {value.dtype for value in unfrozen(model).values()} == {torch.float32}
    shake(model)
    trained = TASK.outputs(CONFIG, model, batch)
    assert not torch.allclose(trained, wanted)
    with torch.inference_mode(), model.disable_adapter():
        assert torch.equal(TASK.outputs(CONFIG, model, batch), wanted)
        with model.disable_adapter():
            assert torch.equal(TASK.outputs(CONFIG, model, batch), wanted)
        assert torch.equal(TASK.outputs(CONFIG, model, batch), wanted)
    assert torch.equal(TASK.outputs(CONFIG, model, batch), trained)
    TASK.outputs(CONFIG, model, batch).sum().backward()
    assert all(value.requires_grad for value in unfrozen(model).values())
    assert any(value.grad is not None for value in unfrozen(model).values())


def test_base_is_exact_in_float32_too(tiny_base: Path) -> None:
    import torch

    batch = batch_of()
    plain, _ = load(tiny_base, "bfloat16")
    head = {name: value.clone() for name, value in plain.classifier.state_dict().items()}
    wanted = plain.float().eval()(**batch).logits
    model = attached(tiny_base, dtype="bfloat16", method="full")
    assert all(torch.equal(model.get_base_model().classifier.original_module.state_dict()[k], head[k]) for k in head)
    shake(model)
    model.float()
    with model.disable_adapter():
        assert torch.equal(TASK.outputs(CONFIG, model, batch), wanted)


def test_gradient_flows_through_a_base_that_was_asked_in_between(tiny_base: Path) -> None:
    import torch

    batch = batch_of()

    def gradients(*, ask: bool) -> list[Any]:
        model = attached(tiny_base, LAST)
        shake(model)
        loss = TASK.outputs(CONFIG, model, batch).pow(2).sum()
        if ask:  # as DPO asks for its reference between forward and backward
            with torch.no_grad(), model.disable_adapter():
                TASK.outputs(CONFIG, model, batch)
        loss.backward()
        return [value.grad for value in model.parameters() if value.grad is not None]

    assert all(torch.equal(one, two) for one, two in zip(gradients(ask=False), gradients(ask=True), strict=True))


def test_full_trains_every_weight_of_a_tied_language_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    names = {name for name, _ in model.named_parameters()}
    total = sum(value.numel() for value in model.parameters())
    wrapped = attach(model, AdapterConfig(method="full"), [])
    assert set(unfrozen(wrapped)) == names
    summary = describe(wrapped)
    assert summary.trainable_parameters == summary.total_parameters == total
    assert summary.method == "full"


def test_tied_weight_is_found_by_either_name() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    config.tie_word_embeddings = True
    wrapped = attach(
        LlamaForCausalLM(config), AdapterConfig(method="lora", r=2), [], unfreeze_patterns=[r"lm_head\.weight"]
    )
    assert set(unfrozen(wrapped)) == {"model.embed_tokens.weight"}


def test_a_copied_module_is_no_part_of_the_base(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bert\\\\\.pooler.*' matches the full name of no parameter"):
        attached(tiny_base, r"bert\.pooler\..*", **LORA, modules_to_save=["pooler"])
