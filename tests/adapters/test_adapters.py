from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, describe, keys, methods, peft_config, preview
from graft.errors import ConfigError

STATE = {"labels": ["animals", "cooking", "weather"]}
TASK = tasks.get("text_classification")
CONFIG = tasks.config_class("text_classification")(name="text_classification")


def load(base: Path, **kwargs: Any) -> tuple[Any, list[str]]:
    return TASK.load_model(str(base), CONFIG, STATE, **kwargs)


def test_peft_config_is_pefts_own() -> None:
    from peft import LoraConfig

    made = peft_config(AdapterConfig(r=4, lora_alpha=8, target_modules=["query"]), new_modules=["classifier"])
    assert made == LoraConfig(r=4, lora_alpha=8, target_modules=["query"], modules_to_save=["classifier"])


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"lora_aplha": 8}, r"adapter\.lora_aplha: unknown key; did you mean `adapter\.lora_alpha`\?"),
        ({"zzz": 1}, r"adapter\.zzz: unknown key; `lora` has .*target_modules"),
        ({"method": "lorra"}, r"adapter\.method: no method 'lorra'; did you mean `lora`\?"),
        ({"method": "zzz"}, r"adapter\.method: no method 'zzz'; PEFT has .*ia3"),
        ({"method": "poly"}, r"adapter\.method: 'poly' cannot be trained here: its batches need task ids"),
        ({"task_type": "SEQ_CLS"}, r"adapter\.task_type: Graft fills this key in"),
        ({"r": "eight"}, r"adapter\.r: input should be a valid integer.*\(got 'eight'\)"),
        ({"target_modules": 3}, r"adapter\.target_modules: .* \(got 3\)"),
        ({"layers_pattern": "layer"}, r"adapter: .*layers_to_transform"),
        ({"r": "8"}, r"adapter\.r: '8' is of another type than the key; write 8$"),
        ({"r": 8.0}, r"adapter\.r: 8\.0 is of another type than the key; write 8$"),
        ({"r": True}, r"adapter\.r: True is of another type than the key; write 1$"),
        ({"lora_dropout": "0.1"}, r"adapter\.lora_dropout: '0\.1' is of another type than the key; write 0\.1$"),
        ({"use_dora": "true"}, r"adapter\.use_dora: 'true' is of another type than the key; write true$"),
        ({"layers_to_transform": ["0", 1]}, r"adapter\.layers_to_transform: \['0', 1\] is of .* write \[0, 1\]$"),
    ],
)
def test_peft_config_names_the_wrong_key(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        peft_config(AdapterConfig(**adapter))


@pytest.mark.parametrize(
    "adapter",
    [
        {"lora_dropout": 0, "r": 4, "init_lora_weights": True},
        {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "layer"},
        {"target_modules": ["query"], "layers_to_transform": 0},
        {"init_lora_weights": "pissa_niter_4", "rank_pattern": {"query": 4}},
        {"method": "osf", "effective_rank": 0.5, "rank_pattern": {"query": 2}},
        {"method": "prompt_tuning", "num_virtual_tokens": 3, "prompt_tuning_init": "RANDOM"},
        {"method": "p_tuning", "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM"},
    ],
)
def test_peft_config_takes_values_of_the_keys_own_types(adapter: dict[str, Any]) -> None:
    assert peft_config(AdapterConfig(**adapter))


def test_repeated_layers_are_refused_with_the_fix(tiny_base: Path) -> None:
    adapter = AdapterConfig(target_modules=["query"], layer_replication=[[0, 2], [1, 2]])
    message = r"^adapter\.layer_replication: \[\[0, 2\], \[1, 2\]\] repeats layers .*; leave the key out$"
    with pytest.raises(ConfigError, match=message):
        preview(TASK, CONFIG, STATE, tiny_base, adapter)
    model, new = load(tiny_base)
    with pytest.raises(ConfigError, match=message):
        attach(model, adapter, new)


def test_peft_config_reports_all_problems_together() -> None:
    with pytest.raises(ConfigError, match="2 problems") as caught:
        peft_config(AdapterConfig(rr=1, lora_dropout="much"))
    assert len(caught.value.problems) == 2


def test_keys_come_with_pefts_documentation() -> None:
    found = keys("lora")
    assert found["r"].default == 8
    assert "bool" in found["init_lora_weights"].type
    assert found["target_modules"].description
    assert not {"peft_type", "base_model_name_or_path"} & found.keys()
    assert "ia3" in methods()
    assert "poly" not in methods()


@pytest.mark.parametrize("targets", [["query", "quarry"], ["nothing"]])
def test_attach_lists_what_a_wrong_target_could_have_been(tiny_base: Path, targets: list[str]) -> None:
    model, new = load(tiny_base, device_map="meta")
    with pytest.raises(ConfigError, match=r"no module '(quarry|nothing)'; it has dense \(7\), query \(2\)") as caught:
        attach(model, AdapterConfig(target_modules=targets), new)
    assert "classifier" not in str(caught.value)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": "nothing.*"}, r"(?s)adapter: .*not found in the base.*it has|the base has dense"),
        ({"target_modules": ["query"], "r": 0}, r"adapter: .*positive integer"),
        ({"target_modules": ["LayerNorm"]}, r"adapter: .*not supported.*the base has dense"),
    ],
)
def test_attach_turns_pefts_refusals_into_config_errors(tiny_base: Path, adapter: dict[str, Any], message: str) -> None:
    model, new = load(tiny_base)
    with pytest.raises(ConfigError, match=message):
        attach(model, AdapterConfig(**adapter), new)


@pytest.mark.parametrize("targets", [["query", "value"], "all-linear"])
def test_attach_trains_new_modules_in_full_and_freezes_the_base(tiny_base: Path, targets: Any) -> None:
    model, new = load(tiny_base)
    wrapped = attach(model, AdapterConfig(r=4, target_modules=targets), new)
    trained = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    assert new == ["classifier"]
    assert {name for name in trained if "lora_" not in name} == {
        f"base_model.model.classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")
    }
    assert not any("classifier" in name and "lora_" in name for name in trained)


def test_describe_counts_what_the_shapes_give(tiny_base: Path) -> None:
    model, new = load(tiny_base)
    total = sum(value.numel() for value in model.parameters())
    summary = describe(attach(model, AdapterConfig(r=4, target_modules=["query", "value"]), new))
    head = 3 * 32 + 3
    lora = 2 * 2 * (4 * 32 + 32 * 4)  # two layers, two modules, A and B
    assert summary.trainable_parameters == lora + head
    assert summary.total_parameters == total + lora  # the untrained head, which stays beside it, does not count
    assert summary.counted == f"{lora + head:,} of {total + lora:,} parameters ({(lora + head) / (total + lora):.2%})"
    assert summary.adapter_bytes == 4 * (lora + head)
    assert summary.modules == tuple(
        f"bert.encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")
    )
    assert summary.saved_modules == ("classifier",)


@pytest.mark.parametrize(
    ("method", "trained"), [("full", "all 23,523"), ("probe", "99 of 23,523"), ("output_linear", "99 of 23,523")]
)
def test_head_that_is_stood_in_for_does_not_count(tiny_base: Path, method: str, trained: str) -> None:
    model, new = load(tiny_base)
    assert describe(attach(model, AdapterConfig(method=method), new)).counted.startswith(f"{trained} parameters")


def test_preview_equals_describe_without_weights(tiny_base: Path) -> None:
    adapter = AdapterConfig(r=4, target_modules=["query", "dense"], exclude_modules=".*pooler.*")
    model, new = load(tiny_base)
    assert preview(TASK, CONFIG, STATE, tiny_base, adapter) == describe(attach(model, adapter, new))


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "ia3", "target_modules": ["key", "value"], "feedforward_modules": []},
        {"method": "loha", "target_modules": ["query"], "r": 2},
        {"method": "lora", "target_modules": ["query"], "use_dora": True},
        {"method": "prompt_tuning", "num_virtual_tokens": 4},
        {"method": "ln_tuning", "target_modules": ["LayerNorm"]},
    ],
)
def test_attach_takes_other_methods(tiny_base: Path, adapter: dict[str, Any]) -> None:
    import torch

    model, new = load(tiny_base)
    wrapped = attach(model, AdapterConfig(**adapter), new)
    assert describe(wrapped).method == adapter["method"]
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    TASK.outputs(CONFIG, wrapped, batch).sum().backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in wrapped.parameters())


def test_bfloat16_base_keeps_adapter_and_head_in_float32(tiny_base: Path) -> None:
    import torch

    torch.manual_seed(0)
    exact, new = load(tiny_base)
    state = {name: value.clone() for name, value in exact.state_dict().items()}
    model, _ = load(tiny_base, dtype=torch.bfloat16)
    with torch.no_grad():
        model.classifier.weight.copy_(state["classifier.weight"])
    wrapped = attach(model, AdapterConfig(r=4, target_modules=["query", "value"]), new).eval()
    types = {name: value.dtype for name, value in wrapped.named_parameters()}
    assert {types[name] for name in types if "lora_" in name or "classifier" in name} == {torch.float32}
    assert types["base_model.model.bert.encoder.layer.0.attention.self.query.base_layer.weight"] == torch.bfloat16
    batch = {"input_ids": torch.arange(20).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    outputs = wrapped(**batch).logits
    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, outputs.bfloat16().float())  # not rounded by the head
    # A new adapter changes nothing, so the base alone, in float32, is the second route.
    wanted = exact.eval()(**batch).logits
    assert torch.allclose(outputs, wanted, atol=0.02)
    outputs.sum().backward()
    assert {value.grad.dtype for value in wrapped.parameters() if value.grad is not None} == {torch.float32}


def test_bfloat16_base_made_float32_runs_in_float32(tiny_base: Path) -> None:
    import torch

    model, new = load(tiny_base, dtype=torch.bfloat16)
    wrapped = attach(model, AdapterConfig(r=4, target_modules=["query", "value"]), new).eval()
    batch = {"input_ids": torch.arange(20).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    plain, _ = load(tiny_base, dtype=torch.bfloat16)
    plain.load_state_dict(
        {
            **plain.state_dict(),
            **{f"classifier.{k}": v for k, v in model.classifier.original_module.state_dict().items()},
        }
    )
    assert torch.equal(wrapped.float()(**batch).logits, plain.float().eval()(**batch).logits)


def test_all_that_is_trained_is_float32_on_a_bfloat16_base(tiny_base: Path) -> None:
    import torch

    model, new = load(tiny_base, dtype=torch.bfloat16)
    wrapped = attach(model, AdapterConfig(r=4, target_modules=["query"]), new, unfreeze_patterns=[r".*LayerNorm\.bias"])
    trained = {name: value.dtype for name, value in wrapped.named_parameters() if value.requires_grad}
    assert any(name.endswith("LayerNorm.bias") for name in trained)
    assert set(trained.values()) == {torch.float32}


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_weights_of_the_base_are_trained_by_unfreezing_alone(tiny_base: Path, bias: str) -> None:
    model, new = load(tiny_base)
    with pytest.raises(ConfigError, match="bias") as caught:
        attach(model, AdapterConfig(r=4, target_modules=["query"], bias=bias), new)
    message = str(caught.value)
    assert message.startswith(f"adapter.bias: {bias} trains the base's own weights, which could not be switched off")
    patterns = re.findall(r"'(bert[^']*)'", message)
    model, new = load(tiny_base)
    wrapped = attach(model, AdapterConfig(r=4, target_modules=["query"]), new, unfreeze_patterns=patterns)
    assert len(patterns) == (3 if bias == "all" else 2)
    assert all(name.endswith(".bias") for name in describe(wrapped).unfrozen)
    assert len(describe(wrapped).unfrozen) == len(patterns)


def test_prompt_is_switched_off_and_on_again(tiny_base: Path) -> None:
    import torch

    torch.manual_seed(0)
    model, new = load(tiny_base)
    batch = {"input_ids": torch.arange(20).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    alone = model.eval()(**batch).logits
    wrapped = attach(model, AdapterConfig(method="prompt_tuning", num_virtual_tokens=4), new).eval()
    with torch.no_grad():
        wrapped.base_model.classifier.modules_to_save["default"].weight.mul_(2)
    with_prompt = wrapped(**batch).logits
    with wrapped.disable_adapter():
        assert torch.equal(wrapped(**batch).logits, alone)
    assert torch.equal(wrapped(**batch).logits, with_prompt)
    assert not torch.allclose(with_prompt, alone)


@pytest.mark.parametrize(
    "adapter", [{"r": 4, "target_modules": ["query"]}, {"method": "prompt_tuning", "num_virtual_tokens": 4}]
)
def test_switching_off_twice_stays_off_until_the_outer_block_ends(tiny_base: Path, adapter: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(0)
    model, new = load(tiny_base)
    batch = {"input_ids": torch.arange(20).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    wrapped = attach(model, AdapterConfig(**adapter), new).eval()
    for name, value in wrapped.named_parameters():
        if value.requires_grad and "original_module" not in name:
            torch.nn.init.normal_(value, std=0.5)
    adapted = wrapped(**batch).logits
    with wrapped.disable_adapter():
        alone = wrapped(**batch).logits
        with wrapped.disable_adapter():
            assert torch.equal(wrapped(**batch).logits, alone)
        assert torch.equal(wrapped(**batch).logits, alone)
    assert torch.equal(wrapped(**batch).logits, adapted)
    assert not torch.allclose(adapted, alone)
    with pytest.raises(KeyError, match="inside"), wrapped.disable_adapter():
        raise KeyError("inside")
    assert torch.equal(wrapped(**batch).logits, adapted)


def test_adaption_prompt_is_switched_off_and_on_again(family_base: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(family_base("decoder")).eval()
    ids = torch.arange(20).view(2, 10)
    alone = model(input_ids=ids).logits
    wrapped = attach(model, AdapterConfig(method="adaption_prompt", adapter_len=3, adapter_layers=2), []).eval()
    for name, value in wrapped.named_parameters():
        if name.endswith("adaption_gate"):  # 0 at first, and the base's outputs with it
            torch.nn.init.constant_(value, 1.0)
    adapted = wrapped(input_ids=ids).logits
    with wrapped.disable_adapter():
        assert torch.equal(wrapped(input_ids=ids).logits, alone)
    assert torch.equal(wrapped(input_ids=ids).logits, adapted)
    assert not torch.allclose(adapted, alone)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_prompt_without_its_length_names_the_key(tiny_base: Path, method: str) -> None:
    model, new = load(tiny_base)
    with pytest.raises(ConfigError, match=rf"adapter\.num_virtual_tokens: '{method}' needs it"):
        attach(model, AdapterConfig(method=method), new)
