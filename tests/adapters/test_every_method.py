"""Every method on every task: what ``graft check`` accepts trains, saves and reloads alike; what it refuses says why.

The pairs are generated from PEFT's own list of methods and the files in ``tasks/``; ``REFUSALS`` says which of them are
refused, so a pair can neither be lost nor gained without a change here. What is covered by which:

- every method of PEFT and of our own, with its defaults: on each example that is not ``by_sample``;
- forms of a method (``FORMS``: starts from the base, DoRA, rsLoRA, the three bottlenecks): the same;
- what is ``by_sample`` (other families under the same head, ``pooling: mean``, ``pair: bi``, numeric columns, a
  decoder's prompt in place of an encoder-decoder): by ``SAMPLED``, one method of each kind;
- ``features: columns``: on the case that has numeric columns; refused on all others.

The accepted pairs of a covering sample, in which each method and each case occurs, and all refusals are quick; the rest
is marked slow. The same sample is reloaded in fresh processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, columns_of, describe, keys, methods, preview
from graft.adapters.methods import REFUSED
from graft.artifact import base_identity, load
from graft.artifact.files import adapter_state, save
from graft.base import BaseConfig, LockedBase, load_processor, pad_token_of
from graft.base.contents import fingerprint
from graft.errors import ConfigError
from graft.training import TrainingConfig
from graft.training.checkpoints import Checkpoints
from graft.training.forward import efficient
from graft.training.record import Record
from graft.training.signals import Stop
from tests.adapters.conftest import EXAMPLES

PROMPT = {"num_virtual_tokens": 3}
KEYS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2},
    "adamss": {"r": 4, "num_subspaces": 2},
    "adaption_prompt": {"adapter_len": 3, "adapter_layers": 2},
    "bottleneck": {"architecture": "houlsby", "reduction_factor": 4},
    "c3a": {"block_size": 8},
    "cartridge": PROMPT,
    "cpt": {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 1, 1]},
    "fourierft": {"n_frequency": 20},
    "ia3": {"feedforward_modules": []},
    "lily": {"r": 4},
    "miss": {"r": 4},
    "p_tuning": PROMPT,
    "prefix_tuning": PROMPT,
    "prompt_tuning": PROMPT,
    "pvera": {"r": 4},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [5, 6]},
    "vblora": {"r": 2, "vector_length": 8, "num_vectors": 8},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 20},
}
"""What a method needs on a base as small as these; other methods run with PEFT's defaults."""
TARGETS = {
    "encoder": ["query", "value"],
    "decoder": ["q_proj", "v_proj"],
    "encoder-decoder": ["q", "v"],
    "vision": ["q_proj", "v_proj"],
}
NORMS = {
    "encoder": ["LayerNorm"],
    "decoder": ["input_layernorm"],
    "encoder-decoder": ["layer_norm"],
    "vision": ["layernorm_before"],
}
WITHOUT_TARGETS = {"adaption_prompt", "bottleneck", "shadow", "trainable_tokens"}
FORMS: dict[str, dict[str, Any]] = {
    "bottleneck+parallel": {"architecture": "parallel"},
    "bottleneck+pfeiffer": {"architecture": "pfeiffer"},
    "lora+dora": {"r": 4, "use_dora": True},
    "lora+olora": {"r": 4, "init_lora_weights": "olora"},
    "lora+pissa": {"r": 4, "init_lora_weights": "pissa"},
    "lora+rslora": {"r": 4, "use_rslora": True},
    "output_linear+columns": {"features": "columns"},
    "output_mlp+columns": {"features": "columns"},
}
"""Forms of a method that are another computation: ``METHOD+FORM`` -> their keys."""
NAMES = methods()
METHODS = [*NAMES, *FORMS]
SAMPLED = {
    *("bottleneck", "full", "ia3", "ln_tuning", "lora", "lora+dora", "output_mlp", "prefix_tuning", "prompt_tuning"),
    *("output_linear+columns", "output_mlp+columns"),
}
"""Methods that try the examples that are ``by_sample``: one of each kind."""
CASES = {
    "-".join(filter(None, (task, example.family, example.variant))): (task, example)
    for task in tasks.names()
    for example in EXAMPLES.get(task, ())
}
NO_NEW, NO_TOKENS = "cannot save modules that are new", "stands before tokens, and vit reads pictures"
CAUSAL, BESIDE = "made for causal language models alone", "beside the layers of a causal language model"
NO_COLUMNS = dict.fromkeys(("encoder", "decoder", "encoder-decoder", "vision"), "but the rows have none")
NO_COLUMNS["text_classification-encoder-columns"] = ""
OWN_HEAD = {
    f"{task}-encoder-decoder": "made for text to text alone"
    for task in ("multi_label_classification", "regression", "text_classification")
}
REFUSALS: dict[str, dict[str, str]] = {
    "adaption_prompt": {
        "encoder": NO_NEW,
        "vision": NO_NEW,
        "encoder-decoder": "Unsupported model type",
        "text_classification-decoder": NO_NEW,
    },
    "cartridge": {"vision": NO_TOKENS},
    "cpt": {"encoder": CAUSAL, "vision": NO_TOKENS, "encoder-decoder": CAUSAL, "text_classification-decoder": CAUSAL},
    "output_linear+columns": NO_COLUMNS,
    "output_mlp+columns": NO_COLUMNS,
    "p_tuning": {"vision": NO_TOKENS},
    "prefix_tuning": {"vision": NO_TOKENS, **OWN_HEAD},
    "prompt_tuning": {"vision": NO_TOKENS, **OWN_HEAD},
    "shadow": {"encoder": BESIDE, "vision": BESIDE, "encoder-decoder": BESIDE, "text_classification-decoder": BESIDE},
    "trainable_tokens": {"encoder": NO_NEW, "vision": "vit has none", "text_classification-decoder": NO_NEW},
}
"""Method -> family of the base, or case (which goes first) -> words of the reason. Other pairs must be accepted."""
HEAD_ALONE = {"probe"}
"""Methods that train a head and nothing else; with the head put back, they are the base by definition."""
MAX_TOKENS, SEED = 48, 7
LEAST_CHANGE = 1e-5
"""Of the largest output: above what float32 leaves of a sum in another order, which is all that no training changes."""
FILL = 1e30
"""Tasks put values beyond this where a row has no score."""
RELOAD = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from graft.artifact import load
def same(one, other):
    return one.shape == other.shape and one.nan_to_num(-1.0).equal(other.nan_to_num(-1.0))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    loaded, batch = load(folder, folder), load_file(folder / "probe.safetensors")
    wanted, base = batch.pop("adapter_outputs"), batch.pop("base_outputs")
    with torch.inference_mode():
        assert same(loaded.task.outputs(loaded.config, loaded.model, batch), wanted), folder.name
        with loaded.model.disable_adapter():
            assert same(loaded.task.outputs(loaded.config, loaded.model, batch), base), folder.name
    print(folder.name)
"""


def adapter_of(method: str, family: str) -> AdapterConfig:
    """Return a small adapter; ``lora+pissa`` is LoRA in that form."""
    name = method.partition("+")[0]
    more = KEYS.get(name, {}) | FORMS.get(method, {})
    if name == "ln_tuning":
        more["target_modules"] = NORMS[family]
    elif "target_modules" in keys(name) and name not in WITHOUT_TARGETS and _is_pefts(name):
        more["target_modules"] = TARGETS[family]
    return AdapterConfig(method=name, **more)


def _is_pefts(method: str) -> bool:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()].__module__.startswith("peft.")


def refusal_of(method: str, case: str) -> str:
    """Return words of the reason for which ``REFUSALS`` wants the pair refused; empty: it must be accepted."""
    reasons = REFUSALS.get(method, {})
    return reasons.get(case, reasons.get(CASES[case][1].family, ""))


def tried(method: str, case: str) -> bool:
    """Return whether the pair is part of the matrix."""
    return method in SAMPLED or not CASES[case][1].by_sample


@functools.cache
def sample() -> dict[str, list[str]]:
    """Return accepted pairs in which each method occurs once, by case: each on the case that has the fewest so far."""
    found: dict[str, list[str]] = {case: [] for case in CASES}
    for method in METHODS:
        accepted = [case for case in CASES if tried(method, case) and not refusal_of(method, case)]
        found[min(accepted, key=lambda case: len(found[case]))].append(method)
    return found


def pairs() -> list[Any]:
    """Return every pair of the matrix; the sample and the refusals are quick."""
    return [
        pytest.param(
            method,
            case,
            id=f"{method}-{case}",
            marks=() if method in sample()[case] or refusal_of(method, case) else pytest.mark.slow,
        )
        for method in METHODS
        for case in CASES
        if tried(method, case)
    ]


class Pair:
    """One method on one case: everything that a training reads, from the real pieces."""

    def __init__(self, method: str, case: str, base_of: Callable[[str], Path]) -> None:
        task, example = CASES[case]
        self.task, self.base = tasks.get(task), base_of(example.family)
        self.config = tasks.config_class(task)(name=task, **example.settings)
        self.state = self.task.learn(self.config, iter(example.rows))
        self.adapter = adapter_of(method, example.family)
        self.processor = load_processor(self.task.processor, self.base)
        encoded = self.task.encode(self.config, example.rows, self.processor, MAX_TOKENS)
        self.summary: Any = None
        self.untrained: Any = None
        self.base_outputs: Any = None
        self.rows = [{**row, "row": f"data/train/part.jsonl:{line}"} for line, row in enumerate(encoded, start=1)]

    def attached(self) -> tuple[Any, list[str]]:
        import torch

        torch.manual_seed(SEED)
        model, new = self.task.load_model(str(self.base), self.config, self.state)
        return attach(model, self.adapter, new, columns=columns_of(self.config)), new

    def preview(self) -> Any:
        return preview(self.task, self.config, self.state, self.base, self.adapter)

    def refusal(self) -> str:
        try:
            self.preview()
        except ConfigError as error:
            return str(error)
        return ""

    def trained(self, folder: Path) -> tuple[Any, list[str]]:
        """Train for two steps; what the model is and says before them is kept here."""
        from graft.training.loop import Inputs, fit

        model, new = self.attached()
        self.summary, self.untrained = describe(model), self.outputs(model)
        with model.disable_adapter():
            self.base_outputs = self.outputs(model)
        pad = pad_token_of(self.processor) if self.task.processor == "tokenizer" else 0
        settings = TrainingConfig(max_steps=2, epochs=2, batch_rows=2, learning_rate=1e-1, seed=SEED, device="cpu")
        inputs = Inputs(
            model=model,
            task=self.task,
            task_config=self.config,
            state=self.state,
            train_rows=self.rows,
            validation_rows=self.rows,
            pad_token_id=pad,
            config=settings,
            device="cpu",
        )
        checkpoints = Checkpoints(folder / "checkpoints", "key")
        with efficient(inputs):
            fit(inputs, checkpoints, lambda step: Record(folder / "m.jsonl", step), Stop())
        return model, new

    def batch(self) -> dict[str, Any]:
        pad = pad_token_of(self.processor) if self.task.processor == "tokenizer" else 0
        return self.task.collate(self.rows, pad, self.state)

    def outputs(self, model: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.task.outputs(self.config, model.eval(), self.batch())

    def saved(self, model: Any, new: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        probe = {**self.batch(), "adapter_outputs": self.outputs(model), "base_outputs": self.base_outputs}
        identity = {
            "format": 1,
            "task": {"name": self.task.name, "config": self.config.model_dump(mode="json"), "state": self.state},
            "base": base_identity(_locked(self.base), BaseConfig(source=str(self.base))),
            "clean": [],
            "columns": {},
            "max_length_tokens": 1024,  # the base's own attention, as here
            "data": "0" * 64,
            "seed": SEED,
            "threads": 1,
        }
        save(model, folder, json.loads(json.dumps(identity)), probe, new)


def _locked(base: Path) -> LockedBase:
    return LockedBase(
        **vars(fingerprint(base, str(base))), source=str(base), kind="folder", revision=None, requested=None
    )


def same(one: Any, other: Any) -> bool:
    """Return whether two outputs are equal bit by bit; what fills them up counts as equal."""
    return bool(one.shape == other.shape and one.nan_to_num(-1.0).equal(other.nan_to_num(-1.0)))


def change(one: Any, other: Any) -> float:
    """Return the largest difference of two outputs as a share of the largest output."""
    assert one.shape == other.shape
    scores = one.isfinite() & (one.abs() < FILL)
    assert (scores == (other.isfinite() & (other.abs() < FILL))).all()
    return float((one - other)[scores].abs().max() / one[scores].abs().max())


@contextlib.contextmanager
def heads_as_they_began(model: Any) -> Iterator[None]:
    """Run a block with the untrained copy of each new head in place of the trained one."""
    from peft.utils.other import ModulesToSaveWrapper

    heads = [part for part in model.modules() if isinstance(part, ModulesToSaveWrapper)]
    trained = [(part, part.modules_to_save["default"]) for part in heads]
    for part in heads:
        part.modules_to_save["default"] = part.original_module
    try:
        yield
    finally:
        for part, head in trained:
            part.modules_to_save["default"] = head


def test_every_task_has_its_examples() -> None:
    assert set(tasks.names()) <= EXAMPLES.keys()


def test_refusals_name_methods_and_cases_that_exist() -> None:
    assert set(METHODS) >= REFUSALS.keys() | SAMPLED
    families = {example.family for _, example in CASES.values()}
    assert {*CASES, *families} >= {place for reasons in REFUSALS.values() for place in reasons}


def test_sample_covers_every_method_and_every_task() -> None:
    assert sorted(method for chosen in sample().values() for method in chosen) == sorted(METHODS)
    assert all(sample().values())
    assert {CASES[case][0] for case in sample()} == set(tasks.names())
    whole = {(task, example.family) for task, example in CASES.values()}
    assert whole == {(name, family) for name in tasks.names() for family in tasks.get(name).families}
    assert {CASES[case][0] for case in CASES if tried("lora+rslora", case)} == set(tasks.names())
    assert not any(refusal_of(method, case) for case, chosen in sample().items() for method in chosen)


def test_every_method_of_peft_is_here_or_refused() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    every = {str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert every == {*NAMES, *REFUSED}
    assert "bottleneck" in NAMES


@pytest.mark.parametrize(("method", "case"), pairs())
def test_pair_trains_saves_and_reloads_or_says_why_not(
    method: str, case: str, family_base: Callable[[str], Path], tmp_path: Path
) -> None:
    pair = Pair(method, case, family_base)
    refusal, wanted = pair.refusal(), refusal_of(method, case)
    assert bool(refusal) == bool(wanted), refusal or f"accepted; REFUSALS wants it refused: {wanted}"
    if refusal:
        assert wanted in refusal
        with pytest.raises(ConfigError, match=r"adapter"):
            pair.attached()
        return
    summary = pair.preview()
    model, new = pair.trained(tmp_path)
    assert pair.summary == dataclasses.replace(summary, head_input=())
    assert 0 < summary.share <= 1
    pair.saved(model, new, tmp_path / "adapter")
    written = adapter_state(model)
    if method not in ("adalora", "full"):  # the ranks that training takes away are known afterwards
        assert summary.adapter_bytes == sum(value.numel() * value.element_size() for value in written.values())
    before = pair.outputs(model)
    assert change(pair.untrained, before) > LEAST_CHANGE
    with heads_as_they_began(model):  # it is not the head alone that has learnt
        assert method in HEAD_ALONE or change(pair.untrained, pair.outputs(model)) > LEAST_CHANGE
    loaded = load(tmp_path / "adapter", tmp_path).model
    assert same(pair.outputs(loaded), before)
    with model.disable_adapter(), loaded.disable_adapter():
        assert same(pair.outputs(model), pair.base_outputs)
        assert same(pair.outputs(loaded), pair.base_outputs)
    assert same(pair.outputs(model), before)


def reload_afresh(chosen: list[tuple[str, str]], base_of: Callable[[str], Path], folder: Path) -> None:
    """Train and save each pair in this process, and reload all of them in one fresh process."""
    names = [f"{method}-{case}" for method, case in chosen]
    for name, (method, case) in zip(names, chosen, strict=True):
        pair = Pair(method, case, base_of)
        assert not pair.refusal()
        model, new = pair.trained(folder / "work" / name)
        assert change(pair.untrained, pair.outputs(model)) > LEAST_CHANGE
        pair.saved(model, new, folder / "adapters" / name)
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(folder / "adapters")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in names] == sorted(names)


@pytest.mark.slow
def test_method_of_our_own_reloads_alike_in_a_fresh_process(family_base: Callable[[str], Path], tmp_path: Path) -> None:
    reload_afresh([("bottleneck", "regression-encoder")], family_base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({example.family for _, example in CASES.values()}))
def test_sample_reloads_alike_in_a_fresh_process(
    family: str, family_base: Callable[[str], Path], tmp_path: Path
) -> None:
    chosen = [(method, case) for case in CASES if CASES[case][1].family == family for method in sample()[case]]
    reload_afresh(chosen, family_base, tmp_path)
