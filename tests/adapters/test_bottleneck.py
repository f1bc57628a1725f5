from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.adapters import AdapterConfig, attach, describe, peft_config, register
from graft.errors import ConfigError

ARCHITECTURES = ("houlsby", "pfeiffer", "parallel")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def tiny(kind: str) -> Any:
    """Return a random model of two layers of width 16, in evaluation mode."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    words = {"vocab_size": 20, "pad_token_id": 0}
    made: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**TINY, **words)),
        "roberta": lambda: t.RobertaForTokenClassification(t.RobertaConfig(**TINY, **words)),
        "distilbert": lambda: t.DistilBertForSequenceClassification(
            t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, **words)
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**TINY, **words)),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0, **words)
        ),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**TINY, image_size=8, patch_size=4)),
    }
    return made[kind]().eval()


def batch(kind: str) -> dict[str, Any]:
    import torch

    if kind == "vit":
        return {"pixel_values": torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))}
    ids = {"input_ids": torch.arange(1, 13).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    return {**ids, "decoder_input_ids": torch.arange(1, 9).view(2, 4)} if kind == "t5" else ids


def logits(model: Any, kind: str) -> Any:
    import torch

    with torch.inference_mode():
        return model(**batch(kind)).logits


def adapter(architecture: str, **more: Any) -> AdapterConfig:
    return AdapterConfig(method="bottleneck", architecture=architecture, reduction_factor=4, **more)


def shaken(model: Any) -> Any:
    """Give every bottleneck random weights."""
    import torch

    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bottleneck_" in name:
                value.normal_(std=0.5)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit"])
def test_bottleneck_starts_as_the_base_and_switches_off(kind: str, architecture: str) -> None:
    import torch

    alone = logits(tiny(kind), kind)
    wrapped = attach(tiny(kind), adapter(architecture), [])
    assert torch.equal(logits(wrapped, kind), alone)
    assert not torch.allclose(logits(shaken(wrapped), kind), alone, atol=1e-3)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped, kind), alone)


@pytest.mark.parametrize(
    ("kind", "architecture", "ends"),
    [
        ("bert", "houlsby", {"attention.output.dense", "output.dense"}),
        ("bert", "pfeiffer", {"output.dense"}),
        ("bert", "parallel", {"output.dense"}),
        ("distilbert", "houlsby", {"attention.out_lin", "ffn.lin2"}),
        ("distilbert", "parallel", {"ffn"}),
        ("gpt2", "houlsby", {"attn.c_proj", "mlp.c_proj"}),
        ("gpt2", "parallel", {"mlp"}),
        ("llama", "pfeiffer", {"mlp.down_proj"}),
        ("vit", "houlsby", {"attention.o_proj", "mlp.fc2"}),
    ],
)
def test_bottleneck_stands_where_its_paper_puts_it(kind: str, architecture: str, ends: set[str]) -> None:
    modules = describe(attach(tiny(kind), adapter(architecture), [])).modules
    assert len(modules) == 2 * len(ends)
    assert {name.partition(".0.")[2] or name.partition(".1.")[2] for name in modules} == ends


def test_bottleneck_reaches_cross_attention_and_both_stacks_of_a_t5() -> None:
    modules = describe(attach(tiny("t5"), adapter("houlsby"), [])).modules
    assert len(modules) == 4 + 2 * 3  # two encoder blocks of two places, two decoder blocks of three
    assert sum("EncDecAttention.o" in name for name in modules) == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bottleneck_computes_its_formula(architecture: str) -> None:
    """Second route: numpy, on what hooks see at the borders of a BERT layer's blocks."""
    import numpy as np

    model = shaken(attach(tiny("bert"), adapter(architecture, scaling=3.0, non_linearity="tanh"), []))
    layer = model.base_model.model.bert.encoder.layer[0]
    seen: dict[str, Any] = {}

    def noting(name: str, module: Any) -> None:
        module.register_forward_hook(
            lambda _, given, out: seen.update({f"{name}.in": given[0].numpy(), f"{name}.out": out.numpy()})
        )

    places = {"feed_forward": layer.output.dense}
    if architecture == "houlsby":
        places["attention"] = layer.attention.output.dense
    noting("block", layer.intermediate)
    for name, module in places.items():
        noting(name, module)
        noting(f"{name}.plain", module.base_layer)
    logits(model, "bert")
    for name, module in places.items():
        down, up = module.bottleneck_down["default"], module.bottleneck_up["default"]
        a, b, c, d = (value.detach().numpy() for value in (down.weight, down.bias, up.weight, up.bias))
        assert a.shape == (4, 16)
        plain = seen[f"{name}.plain.out"]
        reads = seen["block.in"] if architecture == "parallel" else plain
        wanted = plain + 3.0 * (np.tanh(reads @ a.T + b) @ c.T + d)
        np.testing.assert_allclose(seen[f"{name}.out"], wanted, rtol=1e-4, atol=1e-5)


def test_parallel_reads_the_input_of_a_block_that_is_a_module() -> None:
    """Second route: numpy around a Llama's whole feed-forward block."""
    import numpy as np
    import torch

    model = shaken(attach(tiny("llama"), adapter("parallel", scaling=4.0), []))
    block = model.base_model.model.model.layers[0].mlp
    x = torch.rand(1, 3, 16)
    with torch.inference_mode():
        plain, found = block.base_layer(x).numpy(), block(x).numpy()
    down, up = block.bottleneck_down["default"], block.bottleneck_up["default"]
    a, b, c, d = (value.detach().numpy() for value in (down.weight, down.bias, up.weight, up.bias))
    inner = np.maximum(x.numpy() @ a.T + b, 0.0)
    np.testing.assert_allclose(found, plain + 4.0 * (inner @ c.T + d), rtol=1e-4, atol=1e-5)


def test_without_residual_the_bottleneck_replaces_what_it_reads() -> None:
    import torch

    model = shaken(attach(tiny("bert"), adapter("pfeiffer", residual=False, init="normal"), []))
    part = model.base_model.model.bert.encoder.layer[1].output.dense
    x = torch.rand(1, 2, 24)
    with torch.inference_mode():
        down, up = part.bottleneck_down["default"], part.bottleneck_up["default"]
        assert torch.allclose(part(x), up(torch.relu(down(part.base_layer(x)))))


def test_layers_to_transform_takes_some_layers() -> None:
    assert {
        name.split(".")[3]
        for name in describe(attach(tiny("bert"), adapter("houlsby", layers_to_transform=[1]), [])).modules
    } == {"1"}
    wrapped = attach(tiny("t5"), adapter("pfeiffer", layers_to_transform=0, layers_pattern="block"), [])
    assert {name.split(".")[2] for name in describe(wrapped).modules} == {"0"}


def test_targets_can_be_named_and_excluded() -> None:
    wrapped = attach(
        tiny("bert"), adapter("pfeiffer", target_modules=["output.dense"], exclude_modules=["1.output.dense"]), []
    )
    assert len(describe(wrapped).modules) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "series"}, r"adapter\.architecture: .*houlsby"),
        ({"reduction_factor": 0}, r"adapter: reduction_factor: must be above 0"),
        ({"non_linearity": "bend"}, r"adapter: non_linearity: 'bend' is none of"),
        ({"residual": False}, r"adapter: residual: .*set `init: normal` too"),
        ({"residual": False, "init": "normal", "architecture": "parallel"}, r"adapter: residual: a parallel"),
        ({"layers_pattern": "layer"}, r"adapter: layers_pattern: .*layers_to_transform"),
        ({"reduction_facter": 8}, r"did you mean `adapter\.reduction_factor`"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        peft_config(AdapterConfig(method="bottleneck", **keys))


def test_base_without_default_lists_its_modules() -> None:
    import transformers as t

    model = t.AlbertForSequenceClassification(
        t.AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=24)
    )
    with pytest.raises(ConfigError, match=r"target_modules.*the base has .*ffn_output"):
        attach(model, adapter("pfeiffer"), [])


def test_merge_is_refused_with_the_reason() -> None:
    wrapped = attach(tiny("bert"), adapter("pfeiffer"), [])
    for merge in (wrapped.merge_and_unload, wrapped.merge_adapter):
        with pytest.raises(ValueError, match=r"non-linearity.*cannot be folded"):
            merge()


def test_several_adapters_switch_and_delete() -> None:
    import torch

    wrapped = shaken(attach(tiny("llama"), adapter("parallel"), []))
    first = logits(wrapped, "llama")
    wrapped.add_adapter("second", peft_config(adapter("houlsby"), task_type="CAUSAL_LM"))
    assert torch.equal(logits(wrapped, "llama"), first)
    wrapped.set_adapter("second")
    assert torch.equal(logits(wrapped, "llama"), logits(tiny("llama"), "llama"))
    second = shaken(wrapped)
    changed = logits(second, "llama")
    wrapped.set_adapter("default")
    assert not torch.equal(logits(wrapped, "llama"), changed)
    wrapped.delete_adapter("second")
    assert wrapped.active_adapters == ["default"]
    assert not any("second" in name for name, _ in wrapped.named_parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_and_its_off_switch(architecture: str) -> None:
    import torch

    ids = {**batch("llama"), "do_sample": False, "max_new_tokens": 4, "pad_token_id": 0}
    base = tiny("llama").generate(**ids)
    wrapped = shaken(attach(tiny("llama"), adapter(architecture), []))
    adapted = wrapped.generate(**ids)
    assert adapted.shape == base.shape
    with wrapped.disable_adapter():
        assert torch.equal(wrapped.generate(**ids), base)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_base_trains_float32_bottlenecks(architecture: str) -> None:
    import torch

    wrapped = shaken(attach(tiny("bert").bfloat16(), adapter(architecture), ["classifier"]))
    assert {one.dtype for one in wrapped.parameters() if one.requires_grad} == {torch.float32}
    wrapped(**batch("bert")).logits.sum().backward()
    gradients = [one.grad for one in wrapped.parameters() if one.requires_grad]
    assert all(one is not None and one.dtype == torch.float32 for one in gradients)


def test_unload_gives_the_base_back() -> None:
    import torch

    wrapped = shaken(attach(tiny("bert"), adapter("parallel"), []))
    assert torch.equal(logits(wrapped.unload(), "bert"), logits(tiny("bert"), "bert"))


def test_pefts_own_loading_works_in_a_fresh_process(tmp_path: Path) -> None:
    """``PeftModel.from_pretrained``, which knows nothing of Graft but the registered method."""
    import torch

    register()
    tiny("bert").save_pretrained(tmp_path / "base")
    wrapped = shaken(attach(tiny("bert"), adapter("parallel", modules_to_save=["classifier"]), []))
    wrapped.save_pretrained(tmp_path / "adapter")
    torch.save(logits(wrapped, "bert"), tmp_path / "logits.pt")
    script = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from graft.adapters import register
register()
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder + "/base")
model = PeftModel.from_pretrained(model, folder + "/adapter").eval()
with torch.inference_mode():
    found = model(input_ids=torch.arange(1, 13).view(2, 6), attention_mask=torch.ones(2, 6, dtype=torch.int64)).logits
print("equal" if torch.equal(found, torch.load(folder + "/logits.pt")) else "differ")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split()[-1:] == ["equal"], done.stderr
