from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, preview, procedure_of
from graft.artifact.files import adapter_state
from graft.errors import ConfigError, Interrupted
from graft.training import TrainingConfig
from graft.training.checkpoints import Checkpoints
from graft.training.record import Record
from graft.training.signals import Stop

STATE = {"labels": ["animals", "cooking", "weather"]}
TASK = tasks.get("text_classification")
CONFIG = tasks.config_class("text_classification")(name="text_classification")
ADALORA = {"method": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "target_modules": ["query"]}
PISSA = {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa", "target_modules": ["query", "value"]}


@pytest.fixture
def inputs_of(tiny_base: Path, tiny_rows: list[dict[str, Any]]) -> Callable[..., Any]:
    """``inputs_of(adapter, **training)``: the loop's inputs, the same ones at each call."""

    def make(adapter: dict[str, Any], **training: Any) -> Any:
        import torch
        from transformers import AutoTokenizer

        from graft.training.loop import Inputs

        torch.manual_seed(7)
        model, new = TASK.load_model(str(tiny_base), CONFIG, STATE)
        wrapped = attach(model, AdapterConfig(**adapter), new)
        tokenizer = AutoTokenizer.from_pretrained(tiny_base)
        rows = TASK.encode(CONFIG, tiny_rows, tokenizer, 32)
        rows = [{**row, "row": f"part:{line}"} for line, row in enumerate(rows, start=1)]
        settings = {"batch_rows": 8, "learning_rate": 1e-2, "seed": 7, "device": "cpu", "max_steps": 8, **training}
        return Inputs(
            model=wrapped,
            task=TASK,
            task_config=CONFIG,
            state=STATE,
            train_rows=rows[:45],
            validation_rows=rows[45:],
            pad_token_id=tokenizer.pad_token_id,
            config=TrainingConfig(**settings),
            device="cpu",
        )

    return make


def run(inputs: Any, folder: Path, stop_after: int | None = None) -> None:
    from graft.training.loop import fit

    class Signalling(Record):
        def add(self, line: dict[str, Any]) -> None:
            super().add(line)
            if line["step"] == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        fit(inputs, Checkpoints(folder / "c", "key"), lambda step: Signalling(folder / "m.jsonl", step), stop)


def outputs(inputs: Any) -> Any:
    import torch

    with torch.inference_mode():
        return TASK.outputs(
            CONFIG, inputs.model.eval(), TASK.collate(inputs.train_rows[:5], inputs.pad_token_id, STATE)
        )


@pytest.mark.parametrize("adapter", [ADALORA, PISSA])
def test_method_state_resumes_bit_identically(inputs_of: Any, adapter: dict[str, Any], tmp_path: Path) -> None:
    whole, rest = inputs_of(adapter, keep="last"), inputs_of(adapter, keep="last")
    run(whole, tmp_path / "whole")
    with pytest.raises(Interrupted, match="after step 4 of 8"):
        run(inputs_of(adapter, keep="last"), tmp_path / "parts", stop_after=4)
    run(rest, tmp_path / "parts")
    one, other = adapter_state(whole.model), adapter_state(rest.model)
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    assert whole.model.peft_config["default"].to_dict() == rest.model.peft_config["default"].to_dict()


def test_adalora_ends_with_the_ranks_it_was_asked_for(inputs_of: Any, tmp_path: Path) -> None:
    inputs = inputs_of(ADALORA, keep="last")
    run(inputs, tmp_path)
    config = inputs.model.peft_config["default"]
    assert config.total_step == 8  # from the plan
    kept = {name: sum(marks) for name, marks in config.rank_pattern.items()}
    assert sum(kept.values()) == 2 * 2  # two modules of target_r
    state = adapter_state(inputs.model)
    found = {name: value.shape[0] for name, value in state.items() if name.endswith("lora_E")}
    assert {name.removeprefix("base_model.model."): rank for name, rank in found.items()} == kept


def test_adalora_penalty_is_what_peft_adds_to_its_loss(inputs_of: Any) -> None:
    """Second route: PEFT's own forward, which adds the penalty where the model computes the loss itself."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs = inputs_of(ADALORA)
    penalty = procedure_of(inputs.model).penalty()
    batch = TASK.collate(inputs.train_rows[:5], inputs.pad_token_id, STATE)
    inputs.model.eval()
    with torch.no_grad():
        whole = inputs.model(**batch).loss
        labels = batch.pop("labels")
        bare = cross_entropy(inputs.model(**batch).logits, labels)
    assert penalty is not None
    assert penalty.requires_grad
    assert float(whole - bare) == pytest.approx(float(penalty.detach()), rel=1e-4)


def test_adalora_without_a_step_for_its_budget_is_refused(inputs_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.tinit: 1 steps before and 9 .* leave none of 8"):
        run(inputs_of({**ADALORA, "tfinal": 9}), tmp_path)
    with pytest.raises(ConfigError, match=r"adapter\.total_step: 9, but training has 8 steps, .* leave it out"):
        run(inputs_of({**ADALORA, "total_step": 9}), tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
@pytest.mark.parametrize("rslora", [False, True])
def test_start_from_the_base_trains_as_pefts_and_leaves_the_base(
    inputs_of: Any, tiny_base: Path, start: str, rslora: bool, tmp_path: Path
) -> None:
    """Second route: PEFT's own start, which changes the base, trained by the same loop."""
    import torch
    from peft import LoraConfig, get_peft_model

    keys = {**PISSA, "init_lora_weights": start, "use_rslora": rslora}
    ours, theirs = inputs_of(keys, keep="last", max_steps=3), inputs_of(PISSA, keep="last", max_steps=3)
    alone = TASK.load_model(str(tiny_base), CONFIG, STATE)[0]
    torch.manual_seed(7)
    model, new = TASK.load_model(str(tiny_base), CONFIG, STATE)
    config = LoraConfig(**keys, task_type="SEQ_CLS", modules_to_save=new)
    object.__setattr__(theirs, "model", get_peft_model(model, config))
    for name, value in ours.model.base_model.model.bert.state_dict().items():
        if name.endswith("base_layer.weight"):
            assert value.equal(alone.bert.state_dict()[name.replace("base_layer.", "")])
    if "niter" not in start:  # a randomized decomposition differs from draw to draw
        assert torch.allclose(outputs(ours), outputs(theirs), atol=1e-5)
        run(ours, tmp_path / "ours")
        run(theirs, tmp_path / "theirs")
        assert torch.allclose(outputs(ours), outputs(theirs), atol=1e-3)
    else:
        run(ours, tmp_path / "ours")
    config = ours.model.peft_config["default"]
    assert (config.r, config.init_lora_weights) == (8, True)


def test_start_from_the_base_is_off_when_the_adapter_is(inputs_of: Any, tiny_base: Path) -> None:
    import torch

    inputs = inputs_of(PISSA)
    torch.manual_seed(7)
    base = TASK.load_model(str(tiny_base), CONFIG, STATE)[0].eval()
    batch = TASK.collate(inputs.train_rows[:5], inputs.pad_token_id, STATE)
    with torch.inference_mode(), inputs.model.eval().disable_adapter():
        assert TASK.outputs(CONFIG, inputs.model, batch).equal(TASK.outputs(CONFIG, base, batch))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"init_lora_weights": "eva"}, r"adapter\.init_lora_weights: 'eva' needs a pass over data .*`pissa`"),
        ({"init_lora_weights": "corda"}, r"'corda' needs a pass over data"),
        ({"init_lora_weights": "loftq"}, r"'loftq' quantizes the base itself"),
        ({"init_lora_weights": "pissa", "use_dora": True}, r"'pissa' with `use_dora` cannot be turned"),
        ({"method": "cpt", "cpt_token_ids": [1], "cpt_mask": [1], "cpt_tokens_type_mask": [1]}, r"causal language"),
        ({"method": "shadow"}, r"'shadow' runs beside the layers of a causal language model"),
        ({"method": "trainable_tokens", "token_indices": [1]}, r"cannot save modules that are new"),
    ],
)
def test_check_refuses_what_would_go_wrong(tiny_base: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preview(TASK, CONFIG, STATE, tiny_base, AdapterConfig(**keys))


def test_loraplus_groups_are_pefts(inputs_of: Any) -> None:
    """Second route: ``peft.optimizers.create_loraplus_optimizer``."""
    import torch
    from peft.optimizers import create_loraplus_optimizer

    from graft.training.loop import adamw
    from graft.training.loraplus import split_groups

    inputs = inputs_of({"r": 4, "target_modules": ["query", "value"]}, weight_decay=0.1)
    weights = {name: value for name, value in inputs.model.named_parameters() if value.requires_grad}
    ours = adamw(weights, inputs.config)
    split_groups(ours, weights, 16.0)
    theirs = create_loraplus_optimizer(
        inputs.model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.1
    )

    def rates(optimizer: Any, scale: bool) -> dict[int, tuple[float, float]]:
        return {
            id(one): (round(group.get("scale", 1.0) * 1e-2 if scale else group["lr"], 9), group["weight_decay"])
            for group in optimizer.param_groups
            for one in group["params"]
        }

    assert rates(ours, True) == rates(theirs, False)


def test_loraplus_leaves_the_rate_of_the_base_alone() -> None:
    import torch

    from graft.training.loop import adamw
    from graft.training.loraplus import split_groups

    shapes = {"lora_A": (2, 3), "lora_B": (3, 2), "head.bias": (3,), "norm.bias": (3,), "dense.weight": (3, 3)}
    weights = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    own = frozenset({"norm.bias", "dense.weight"})
    optimizer = adamw(weights, TrainingConfig(learning_rate=1e-2, unfreeze_learning_rate=1e-3), own)
    split_groups(optimizer, weights, 16.0, own)
    names = {id(value): name for name, value in weights.items()}
    scales = {names[id(one)]: group["scale"] for group in optimizer.param_groups for one in group["params"]}
    fast, base = pytest.approx(16.0), pytest.approx(0.1)
    assert scales == {"lora_A": 1.0, "lora_B": fast, "head.bias": fast, "norm.bias": base, "dense.weight": base}


def test_loraplus_needs_a_lora(inputs_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.loraplus_lr_ratio: the adapter has no `lora_B`"):
        run(
            inputs_of({"method": "ia3", "target_modules": ["key"], "feedforward_modules": []}, loraplus_lr_ratio=4),
            tmp_path,
        )


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_prompt_is_off_under_generate_and_keeps_the_rows_length(
    method: str, family_base: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(family_base("decoder")).eval()
    wrapped = attach(
        AutoModelForCausalLM.from_pretrained(family_base("decoder")),
        AdapterConfig(method=method, num_virtual_tokens=3),
        [],
    ).eval()
    batch = {"input_ids": torch.arange(5, 17).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    settings = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0}
    with torch.inference_mode():
        assert wrapped(**batch).logits.shape[1] == 6
        wanted, adapted = base.generate(**batch, **settings), wrapped.generate(**batch, **settings)
        with wrapped.disable_adapter():
            assert wrapped.generate(**batch, **settings).equal(wanted)
            assert wrapped(**batch).logits.equal(base(**batch).logits)
        assert wrapped.generate(**batch, **settings).equal(adapted)


@pytest.mark.parametrize("method", ["ln_tuning", "frod", "vera"])
def test_bfloat16_base_reloads_what_is_not_trained_in_float32(method: str, tiny_base: Path) -> None:
    import torch
    from peft import PeftConfig

    from graft.adapters import wrap
    from graft.artifact.files import plain_config

    targets = ["LayerNorm"] if method == "ln_tuning" else ["query", "value"]
    model, new = TASK.load_model(str(tiny_base), CONFIG, STATE, dtype=torch.bfloat16)
    trained = attach(model, AdapterConfig(method=method, target_modules=targets), new)
    config = {**plain_config(trained.peft_config["default"]), "inference_mode": True}
    again = wrap(
        TASK.load_model(str(tiny_base), CONFIG, STATE, dtype=torch.bfloat16)[0], PeftConfig.from_peft_type(**config)
    )
    for one in (trained, again):
        assert {value.dtype for value in adapter_state(one).values() if value.is_floating_point()} == {torch.float32}
