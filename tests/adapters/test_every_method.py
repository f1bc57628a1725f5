"""Every method on every task: what ``graft check`` accepts trains, saves and reloads alike; what it refuses says why.

The pairs are generated from PEFT's own list of methods and the files in ``tasks/``. A sample in which each method and
each task occurs is quick; the rest is marked slow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, describe, keys, methods, preview
from graft.adapters.methods import REFUSED
from graft.artifact import base_identity, load
from graft.artifact.files import adapter_state, save
from graft.base import BaseConfig, LockedBase, load_processor, pad_token_of
from graft.base.contents import fingerprint
from graft.errors import ConfigError
from graft.training import TrainingConfig
from graft.training.checkpoints import Checkpoints
from graft.training.record import Record
from graft.training.signals import Stop
from tests.adapters.conftest import EXAMPLES, Example

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
STARTS = ("pissa", "olora")
NAMES = methods()
CASES = [(task, example) for task in tasks.names() for example in EXAMPLES.get(task, ())]
MAX_TOKENS, SEED = 48, 7
RELOAD = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from graft.artifact import load
for folder in sorted(Path(sys.argv[1]).iterdir()):
    loaded, batch = load(folder, folder), load_file(folder / "probe.safetensors")
    wanted = batch.pop("adapter_outputs")
    with torch.inference_mode():
        found = loaded.task.outputs(loaded.config, loaded.model, batch)
    assert found.shape == wanted.shape and found.nan_to_num(-1.0).equal(wanted.nan_to_num(-1.0)), folder.name
    print(folder.name)
"""


def adapter_of(method: str, family: str) -> AdapterConfig:
    """Return a small adapter; ``lora+pissa`` is LoRA with that start."""
    name, _, start = method.partition("+")
    more = dict(KEYS.get(name, {}))
    if start:
        more |= {"r": 4, "init_lora_weights": start}
    if name == "ln_tuning":
        more["target_modules"] = NORMS[family]
    elif "target_modules" in keys(name) and name not in WITHOUT_TARGETS and _is_pefts(name):
        more["target_modules"] = TARGETS[family]
    return AdapterConfig(method=name, **more)


def _is_pefts(method: str) -> bool:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()].__module__.startswith("peft.")


def pairs() -> list[Any]:
    """Return every pair of method and case; a sample that covers both is quick."""
    found = []
    for number, method in enumerate([*NAMES, *(f"lora+{start}" for start in STARTS)]):
        for place, (task, example) in enumerate(CASES):
            quick = place == number % len(CASES)
            found.append(
                pytest.param(
                    method,
                    task,
                    example,
                    id=f"{method}-{task}-{example.family}",
                    marks=() if quick else pytest.mark.slow,
                )
            )
    return found


class Pair:
    """One method on one case: everything that a training reads, from the real pieces."""

    def __init__(self, method: str, task: str, example: Example, base: Path) -> None:
        self.task, self.base = tasks.get(task), base
        self.config = tasks.config_class(task)(name=task, **example.settings)
        self.state = self.task.learn(self.config, iter(example.rows))
        self.adapter = adapter_of(method, example.family)
        self.processor = load_processor(self.task.processor, base)
        encoded = self.task.encode(self.config, example.rows, self.processor, self.state, MAX_TOKENS)
        self.summary: Any = None
        self.rows = [{**row, "row": f"data/train/part.jsonl:{line}"} for line, row in enumerate(encoded, start=1)]

    def attached(self) -> tuple[Any, list[str]]:
        import torch

        torch.manual_seed(SEED)
        model, new = self.task.load_model(str(self.base), self.config, self.state)
        return attach(model, self.adapter, new), new

    def preview(self) -> Any:
        return preview(self.task, self.config, self.state, self.base, self.adapter)

    def refusal(self) -> str:
        try:
            self.preview()
        except ConfigError as error:
            return str(error)
        return ""

    def trained(self, folder: Path) -> tuple[Any, list[str]]:
        from graft.training.loop import Inputs, fit

        model, new = self.attached()
        self.summary = describe(model)
        pad = pad_token_of(self.processor) if self.task.processor == "tokenizer" else 0
        settings = TrainingConfig(max_steps=2, epochs=2, batch_rows=2, learning_rate=1e-2, seed=SEED, device="cpu")
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
        fit(inputs, Checkpoints(folder / "checkpoints", "key"), lambda step: Record(folder / "m.jsonl", step), Stop())
        return model, new

    def batch(self) -> dict[str, Any]:
        pad = pad_token_of(self.processor) if self.task.processor == "tokenizer" else 0
        return self.task.collate(self.rows, pad)

    def outputs(self, model: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.task.outputs(self.config, model.eval(), self.batch())

    def saved(self, model: Any, new: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        probe = {**self.batch(), "adapter_outputs": self.outputs(model)}
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


def test_every_task_has_its_examples() -> None:
    assert set(tasks.names()) <= EXAMPLES.keys()


def test_every_method_of_peft_is_here_or_refused() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    every = {str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert every == {*NAMES, *REFUSED}
    assert "bottleneck" in NAMES


@pytest.mark.parametrize(("method", "task", "example"), pairs())
def test_pair_trains_saves_and_reloads_or_says_why_not(
    method: str, task: str, example: Example, family_base: Callable[[str], Path], tmp_path: Path
) -> None:
    pair = Pair(method, task, example, family_base(example.family))
    refusal = pair.refusal()
    if refusal:
        assert len(refusal.rpartition("'")[2].split()) >= 5, refusal
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
    loaded = load(tmp_path / "adapter", tmp_path).model
    assert same(pair.outputs(loaded), before)
    with model.disable_adapter(), loaded.disable_adapter():
        off = pair.outputs(model)
        assert same(pair.outputs(loaded), off)
    assert same(pair.outputs(model), before)


@pytest.mark.slow
def test_adapters_reload_alike_in_a_fresh_process(family_base: Callable[[str], Path], tmp_path: Path) -> None:
    sample = ("bottleneck", "adalora", "lora+pissa", "vera", "prefix_tuning", "ia3", "oft", "vblora")
    for number, method in enumerate(sample):
        task, example = CASES[number % len(CASES)]
        pair = Pair(method, task, example, family_base(example.family))
        if pair.refusal():
            continue
        model, new = pair.trained(tmp_path / f"work-{number}")
        pair.saved(model, new, tmp_path / "adapters" / method)
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path / "adapters")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(path.name for path in (tmp_path / "adapters").iterdir())
