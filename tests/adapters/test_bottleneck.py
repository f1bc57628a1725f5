from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from graft.adapters import AdapterConfig, attach, describe, peft_config, register
from graft.errors import ConfigError

ARCHITECTURES = ("houlsby", "pfeiffer", "parallel")
KINDS = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit")
PAIRS = tuple(itertools.permutations(ARCHITECTURES, 2))
BLOCKS = {
    "distilbert": "distilbert.transformer.layer.0.ffn",
    "gpt2": "transformer.h.1.mlp",
    "llama": "model.layers.1.mlp",
    "t5": "decoder.block.0.layer.2.DenseReluDense",
    "vit": "vit.layers.0.mlp",
}
"""Feed-forward blocks that are modules of their own."""
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
@pytest.mark.parametrize("kind", KINDS)
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
        ("distilbert", "parallel", {"ffn.lin2"}),
        ("gpt2", "houlsby", {"attn.c_proj", "mlp.c_proj"}),
        ("gpt2", "parallel", {"mlp.c_proj"}),
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


@pytest.mark.parametrize(("kind", "name"), BLOCKS.items())
def test_parallel_reads_the_input_of_a_block_that_is_a_module(kind: str, name: str) -> None:
    """Second route: numpy around the whole feed-forward block of a base without adapters."""
    import numpy as np
    import torch

    model = shaken(attach(tiny(kind), adapter("parallel", scaling=4.0), []))
    block = model.get_base_model().get_submodule(name)
    (part,) = (one for one in block.modules() if hasattr(one, "bottleneck_up"))
    x = torch.rand(1, 3, 16)
    with torch.inference_mode():
        plain, found = tiny(kind).get_submodule(name)(x).numpy(), block(x).numpy()
    down, up = part.bottleneck_down["default"], part.bottleneck_up["default"]
    a, b, c, d = (value.detach().numpy() for value in (down.weight, down.bias, up.weight, up.bias))
    assert a.shape == (4, 16)
    inner = np.maximum(x.numpy() @ a.T + b, 0.0)
    np.testing.assert_allclose(found, plain + 4.0 * (inner @ c.T + d), rtol=1e-4, atol=1e-5)


def test_parallel_follows_a_block_that_computes_a_few_tokens_at_a_time() -> None:
    import torch

    model = shaken(attach(tiny("distilbert"), adapter("parallel"), []))
    whole = logits(model, "distilbert")
    for layer in model.get_base_model().distilbert.transformer.layer:
        layer.ffn.chunk_size_feed_forward = 2
    assert torch.allclose(logits(model, "distilbert"), whole, atol=1e-5)


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


def together(kind: str, architectures: Iterable[str]) -> Any:
    """Return a model with one shaken adapter for each architecture, under the architecture's name."""
    from peft import get_peft_model

    first, *others = architectures
    model = get_peft_model(tiny(kind), peft_config(adapter(first)), adapter_name=first)
    for other in others:
        model.add_adapter(other, peft_config(adapter(other)))
    return shaken(model).eval()


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_two_architectures_are_kept_and_read_alone_and_together(
    kind: str, pair: tuple[str, str], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    base, model = logits(tiny(kind), kind), together(kind, pair)
    model.save_pretrained(tmp_path)
    wanted = {}
    for name in pair:
        model.set_adapter(name)
        wanted[name] = logits(model, kind)
        assert not torch.allclose(wanted[name], base, atol=1e-3)
    assert not torch.allclose(wanted[pair[0]], wanted[pair[1]], atol=1e-3)

    for name in pair:
        found = load_file(tmp_path / name / "adapter_model.safetensors")
        assert set(found) == set(get_peft_model_state_dict(together(kind, [name]), adapter_name=name))
        alone = PeftModel.from_pretrained(tiny(kind), tmp_path / name).eval()
        assert torch.equal(logits(alone, kind), wanted[name])
    for first, second in (pair, pair[::-1]):
        both = PeftModel.from_pretrained(tiny(kind), tmp_path / first, adapter_name=first).eval()
        both.load_adapter(tmp_path / second, second)
        for name in (second, first):
            both.set_adapter(name)
            assert torch.equal(logits(both, kind), wanted[name])
        with both.disable_adapter():
            assert torch.equal(logits(both, kind), base)
        both.base_model.set_adapter(list(pair))
        model.base_model.set_adapter(list(pair))
        assert torch.equal(logits(both, kind), logits(model, kind))

    both.delete_adapter(pair[0])
    assert both.active_adapters == [pair[1]]
    assert torch.equal(logits(both, kind), wanted[pair[1]])
    with both.disable_adapter():
        assert torch.equal(logits(both, kind), base)
    assert torch.equal(logits(both.unload(), kind), base)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_copy_of_a_model_computes_with_its_own_bottlenecks(kind: str) -> None:
    import torch

    model = together(kind, ["parallel"])
    wanted, copied = logits(model, kind), copy.deepcopy(model)
    assert torch.equal(logits(copied, kind), wanted)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bottleneck_" in name:
                value.zero_()
    assert torch.equal(logits(copied, kind), wanted)
    gone = model.unload()
    del model
    assert torch.equal(logits(copy.deepcopy(gone), kind), logits(tiny(kind), kind))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (adapter("parallel", target_modules=r".*\.mlp"), adapter("houlsby")),
        (adapter("houlsby"), adapter("parallel", target_modules=["mlp"])),
    ],
)
def test_a_block_and_a_layer_in_it_are_not_both_wrapped(first: AdapterConfig, second: AdapterConfig) -> None:
    import torch

    model = shaken(attach(tiny("llama"), first, []))
    wanted = logits(model, "llama")
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.down_proj lies in model\.layers\.0\.mlp, .*one of the two"):
        model.add_adapter("second", peft_config(second))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model, "llama"), wanted)
    with pytest.raises(ConfigError, match=r"down_proj lies in model\.layers\.0\.mlp"):
        attach(tiny("llama"), adapter("parallel", target_modules=["mlp", "down_proj"]), [])


@pytest.mark.parametrize(("kind", "name"), BLOCKS.items())
def test_a_parallel_adapter_on_whole_blocks_is_the_same_function(kind: str, name: str, tmp_path: Path) -> None:
    """Adapters were saved so before every architecture had the same places."""
    import torch
    from peft import PeftModel

    ends = name.rpartition(".")[2]
    model = shaken(attach(tiny(kind), adapter("parallel", target_modules=[ends]), []))
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(PeftModel.from_pretrained(tiny(kind), tmp_path).eval(), kind), logits(together(kind, ["parallel"]), kind)
    )


def test_a_file_without_all_weights_is_refused(tmp_path: Path) -> None:
    """As those of the second of two architectures were, whose names held the first one's ``base_layer``."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    together("llama", ["pfeiffer"]).save_pretrained(tmp_path)
    path = tmp_path / "pfeiffer" / "adapter_model.safetensors"
    save_file({name.replace(".mlp.", ".mlp.base_layer."): value for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"lacks 8 of its weights, such as .*layers\.0\.mlp\.down_proj\.bottleneck"):
        PeftModel.from_pretrained(tiny("llama"), path.parent)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (
            "bert",
            "attention",
            r"bert\.encoder\.layer\.0\.attention is a BertAttention, which gives more than one tensor",
        ),
        ("llama", "self_attn", r"model\.layers\.0\.self_attn is a LlamaAttention, which gives more than one tensor"),
        ("bert", "encoder", r"bert\.encoder is a BertEncoder, which gives more than one tensor"),
        ("bert", "layer", r"bert\.encoder\.layer is a ModuleList, which computes nothing itself"),
    ],
)
def test_targets_that_give_no_tensor_are_refused(kind: str, target: str, message: str, architecture: str) -> None:
    with pytest.raises(ConfigError, match=rf"adapter\.target_modules: {message}; name the linear layer at the block's"):
        attach(tiny(kind), adapter(architecture, target_modules=[target]), [])


def test_targets_that_turn_out_to_give_no_tensor_are_refused() -> None:
    """T5 does not say what its modules return."""
    wrapped = attach(tiny("t5"), adapter("pfeiffer", target_modules=["SelfAttention"]), [])
    with pytest.raises(
        ConfigError,
        match=r"adapter\.target_modules: encoder\.block\.0\.\S*SelfAttention gives a tuple, not a tensor; name",
    ):
        logits(wrapped, "t5")


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


@pytest.mark.slow
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
