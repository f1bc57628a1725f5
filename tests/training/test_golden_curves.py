"""Loss curves of five pairs of task and method, step by step: what the loop learns does not drift between versions.

``golden_curves.json`` was written by this file (``python -m tests.training.test_golden_curves``); a change that moves a
curve must say why. They are in float32 on one thread; processors differ in the last digits.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach
from graft.artifact import reproducible
from graft.base import load_processor, pad_token_of
from graft.training import TrainingConfig
from graft.training.checkpoints import Checkpoints
from graft.training.forward import efficient, set_dropout
from graft.training.record import Record, lines
from graft.training.signals import Stop
from tests.adapters.conftest import EXAMPLES, write_base

CURVES = Path(__file__).with_name("golden_curves.json")
PAIRS: dict[str, AdapterConfig] = {
    "text_classification": AdapterConfig(method="lora", r=4, target_modules=["query", "key", "value", "dense"]),
    "token_classification": AdapterConfig(method="bottleneck", architecture="pfeiffer", reduction_factor=4),
    "translation": AdapterConfig(method="lora", r=4, target_modules=["q", "k", "v", "o"]),
    "chat": AdapterConfig(method="lora", r=4, target_modules="all-linear", use_dora=True),
    "image_classification": AdapterConfig(method="full"),
}
STEPS = 24
SEED = 7


def curve_of(name: str, *, packed: bool) -> list[float]:
    """Return the loss of each step."""
    import torch

    from graft.training.loop import Inputs, fit

    example, task = EXAMPLES[name][0], tasks.get(name)
    config = tasks.config_class(name)(name=name, **example.settings)
    with tempfile.TemporaryDirectory() as folder, reproducible(1):
        base = Path(folder) / "base"
        write_base(base, example.family)
        processor = load_processor(task.processor, base, trust_remote_code=False)
        state = task.learn(config, iter(example.rows))
        encoded = task.encode(config, example.rows, processor, 32)
        rows = [{**row, "row": f"data/train/part.jsonl:{line}"} for line, row in enumerate(encoded, start=1)]
        torch.manual_seed(SEED)
        model, new = task.load_model(str(base), config, state)
        model = attach(model, PAIRS[name], new)
        set_dropout(model, 0.0)
        settings = TrainingConfig(
            max_steps=STEPS, epochs=STEPS, batch_rows=2, learning_rate=2e-2, seed=SEED, threads=1, keep="last"
        )
        pad = pad_token_of(processor) if task.processor == "tokenizer" else 0
        inputs = Inputs(model, task, config, state, rows, rows, pad, settings, "cpu")
        record = Path(folder) / "metrics.jsonl"
        with efficient(inputs) if packed else contextlib.nullcontext() as forward:
            assert forward is None or forward.packed == (example.family != "vision")
            fit(inputs, Checkpoints(Path(folder) / "none", "key"), lambda step: Record(record, step), Stop())
        return [line["loss"] for line in lines(record) if "loss" in line]


@pytest.mark.parametrize("name", PAIRS)
def test_losses_are_those_of_the_curve(name: str) -> None:
    expected = json.loads(CURVES.read_text(encoding="utf-8"))[name]
    assert sum(expected[-4:]) < 0.95 * sum(expected[:4])
    assert curve_of(name, packed=True) == pytest.approx(expected, rel=1e-3)
    assert curve_of(name, packed=False) == pytest.approx(expected, rel=1e-3)


if __name__ == "__main__":
    found = {name: [round(loss, 6) for loss in curve_of(name, packed=False)] for name in PAIRS}
    CURVES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print({name: (losses[0], losses[-1]) for name, losses in found.items()})
