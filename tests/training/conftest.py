"""A tokenized project, and the loop's inputs on the tiny base, without the seconds that validate's library takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages, tasks
from graft.adapters import AdapterConfig, attach
from graft.training import TrainingConfig
from graft.workspace import Workspace
from tests.conftest import validated

STATE = {"labels": ["animals", "cooking", "weather"]}


@pytest.fixture
def make_tokenized(make_project: Callable[..., Workspace]) -> Callable[..., Workspace]:
    """``make_tokenized(path, **overrides)``: a project whose token tables are there."""

    def make(path: Path, **overrides: Any) -> Workspace:
        workspace = make_project(path, **overrides)
        validated(workspace)
        stages.run("tokenize", workspace)
        return workspace

    return make


@pytest.fixture
def tokenized(tmp_path: Path, make_tokenized: Callable[..., Workspace]) -> Workspace:
    return make_tokenized(tmp_path / "project")


def inputs_on(
    base: Path, rows: list[dict[str, Any]], *, dropout: float = 0.0, dtype: str = "float32", **training: Any
) -> Any:
    """Return inputs of the loop on the base in a folder, with ``rows`` tokenized."""
    import torch
    from transformers import AutoTokenizer

    from graft.training.loop import Inputs

    settings = {"batch_rows": 8, "learning_rate": 1e-2, "epochs": 2, "threads": 1, "seed": 7, **training}
    task = tasks.get("text_classification")
    config = tasks.config_class("text_classification")(name="text_classification")
    torch.manual_seed(7)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model, new = task.load_model(str(base), config, STATE, dtype=getattr(torch, dtype), **rates)
    wrapped = attach(model, AdapterConfig(r=4, lora_alpha=8, target_modules=["query", "value"]), new)
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = task.encode(config, rows, tokenizer, 32)
    encoded = [{**row, "row": f"data/train/part-0000.jsonl:{line}"} for line, row in enumerate(encoded, start=1)]
    return Inputs(
        model=wrapped,
        task=task,
        task_config=config,
        state=STATE,
        train_rows=encoded[:45],
        validation_rows=encoded[45:],
        pad_token_id=tokenizer.pad_token_id,
        config=TrainingConfig(**settings),
        device="cpu",
    )


@pytest.fixture
def make_inputs(tiny_base: Path, tiny_rows: list[dict[str, Any]]) -> Callable[..., Any]:
    """``make_inputs(dropout=0.0, dtype=..., **training)``: inputs of the loop on the tiny base, rows tokenized."""
    return functools.partial(inputs_on, tiny_base, tiny_rows)


def holding(inputs: Any, rows: int) -> tuple[Any, list[int]]:
    """Let the model hold so many rows at once and say the rest as CUDA does; return how many each pass had."""
    import torch

    passes: list[int] = []

    def refuse(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        passes.append(len(named["input_ids"]))
        if passes[-1] > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    inputs.model.get_base_model().register_forward_pre_hook(refuse, with_kwargs=True)
    return inputs, passes
