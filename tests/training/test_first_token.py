"""The last layer for first tokens alone: what is learnt is the same, and no other token runs through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from graft.adapters import layer_lists
from graft.training.fused_lora import fused
from graft.training.packing import packed
from tests.training.test_packing import (
    LENGTHS,
    MODELS,
    SMALL,
    TARGET_LENGTHS,
    batch_of,
    check_equal,
    learnt,
    loss_of,
    model_of,
)

FITTING = {
    "bert": MODELS["bert"],
    "roberta": MODELS["roberta"],
    "distilbert": MODELS["distilbert"],
    "electra": lambda: model_of("Electra", "ForSequenceClassification", ["query", "value", "dense"], **SMALL),
    "bert, keys alone": lambda: model_of("Bert", "ForSequenceClassification", ["key"], **SMALL),
}
UNFIT = {
    "albert, whose layers are one": MODELS["albert"],
    "modernbert, with a norm between": MODELS["modernbert, windows of 4"],
    "gpt2, a decoder": MODELS["gpt2"],
    "llama, a decoder": MODELS["llama"],
    "t5, two bodies": MODELS["t5"],
    "a head that reads every token": lambda: model_of("Bert", "ForTokenClassification", ["query"], **SMALL),
}


def everything(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if hasattr(model.get_base_model(), "lm_head") or model.config.is_encoder_decoder:
        return loss_of(model, batch).reshape(1)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten()


@contextmanager
def running(model: Any, batch: dict[str, torch.Tensor]) -> Iterator[list[int]]:
    """Yield how many tokens the last layer gives, call by call."""
    seen: list[int] = []

    def run() -> None:
        everything(model, batch)

    with packed(model, run, lambda: everything(model, batch)) as is_packed, fused(model, run):
        assert is_packed
        last = layer_lists(model.get_base_model())[-1][-1]
        hook = last.register_forward_hook(
            lambda _, __, found: seen.append((found if torch.is_tensor(found) else found[0]).shape[1])
        )
        try:
            yield seen
        finally:
            hook.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", FITTING)
def test_a_classifier_learns_the_same(kind: str, dtype: torch.dtype) -> None:
    exact = FITTING[kind]()
    batch = batch_of(exact)
    wanted = learnt(exact, batch)
    model = FITTING[kind]().to(dtype)
    with running(model, batch) as tokens:
        found = learnt(model, batch)
        again = learnt(model, batch)
    assert tokens == [len(LENGTHS)] * 2
    assert all(torch.equal(again[1][name], one) for name, one in found[1].items())
    if dtype == torch.float32:
        check_equal(wanted, found)
    else:
        for name, one in wanted[1].items():
            assert float((found[1][name].float() - one).norm()) < 0.1 * float(one.norm()), name
    assert not [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]


@pytest.mark.parametrize("kind", UNFIT)
def test_other_models_run_their_last_layer_for_all_tokens(kind: str) -> None:
    model = UNFIT[kind]()
    batch = batch_of(model)
    with running(model, batch) as tokens:
        everything(model, batch)
    assert tokens
    assert min(tokens) >= sum(TARGET_LENGTHS if model.config.is_encoder_decoder else LENGTHS)


def test_a_step_that_failed_leaves_nothing_in_the_layer() -> None:
    """Memory was full: the next try needs what the failed one took, and no batch runs on another one's tokens."""
    import gc
    import weakref

    model = MODELS["bert"]()
    batch = batch_of(model)
    alone = {"input_ids": batch["input_ids"][:2]}  # without a mask: not packed
    expected = model(**alone).logits
    read: list[Any] = []

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with running(model, batch):
        last = layer_lists(model.get_base_model())[-1][-1]
        hooks = [last.attention.self.key.register_forward_hook(lambda _, given, __: read.append(weakref.ref(given[0])))]
        learnt(model, batch)
        for part in (last.output, model.get_base_model().classifier):  # within the layer, and after it
            hooks.append(part.register_forward_pre_hook(refuse))
            with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
                learnt(model, batch)
            hooks.pop().remove()
        gc.collect()
        assert [one() for one in read] == [None] * 3
        assert torch.allclose(model(**alone).logits, expected, atol=1e-6)
        hooks.pop().remove()


def test_a_bottleneck_on_values_sees_all_tokens() -> None:
    """At its start it is the identity, which shows nothing of where it stands."""
    from graft.adapters import AdapterConfig, attach

    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(**SMALL))
    section = AdapterConfig(method="bottleneck", reduction_factor=4, target_modules=["value"])
    model = attach(base, section, ["classifier"]).eval()
    batch = batch_of(model)
    with running(model, batch) as tokens:
        for name, one in model.named_parameters():
            if "bottleneck_up" in name:
                torch.nn.init.normal_(one, std=0.1)
        found = learnt(model, batch)
    assert tokens == [len(LENGTHS)]
    check_equal(learnt(model, batch), found)


def test_states_decide_where_a_new_head_says_little_of_them() -> None:
    """A layer that asks for its keys first: the second projection, taken for that of keys, is that of queries."""
    model = model_of("Bert", "ForSequenceClassification", ["query"], **SMALL, initializer_range=0.5)
    last = layer_lists(model.get_base_model())[-1][-1]

    def ask_for_keys(part: Any, given: tuple[Any, ...]) -> None:
        part.key(given[0])

    last.attention.self.register_forward_pre_hook(ask_for_keys)
    with torch.no_grad():
        model.get_base_model().classifier.bias.fill_(1e4)
    batch = batch_of(model)
    with running(model, batch) as tokens:
        everything(model, batch)
    assert min(tokens) >= sum(LENGTHS)


def test_a_head_that_averages_all_tokens_reads_them_all() -> None:
    class Averaging(DistilBertForSequenceClassification):
        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            states = self.distilbert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
            return type("Output", (), {"logits": self.classifier(mean)})()

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    small = DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    model: Any = get_peft_model(Averaging(small), LoraConfig(r=4, target_modules=["q_lin"])).eval()
    batch = batch_of(model)
    with running(model, batch) as tokens:
        everything(model, batch)
    assert tokens
    assert min(tokens) >= sum(LENGTHS)
