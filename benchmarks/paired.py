"""Trainings beside each other, in one process and in turn: what the scripts on training speed share."""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "graft"
"""The way that the others are compared with."""
LAST_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """One training."""

    cpu: float
    """CPU seconds, without start-up and evaluation."""
    wall: float
    norm: float
    """The smallest gradient norm of all steps."""
    score: float
    """The metric on the test rows."""
    losses: Sequence[float]
    steps: Sequence[Mapping[str, Any]]
    """What was recorded of each step."""


def by_graft(inputs: Any, score: Callable[[Any], float], **how: Any) -> Measured:
    """Train by Graft's loop, as the stage does, and score the model.

    ``how``: what else the loop takes, as keywords, and ``record``: the class of the record.
    """
    from graft.training.checkpoints import Checkpoints
    from graft.training.forward import efficient
    from graft.training.loop import fit
    from graft.training.record import Record, lines
    from graft.training.signals import Stop

    kind = how.pop("record", Record)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        record = Path(name) / "metrics.jsonl"
        started = time.process_time(), time.perf_counter()
        with Stop() as stop, efficient(inputs):
            fit(inputs, Checkpoints(Path(name) / "none", "key"), lambda step: kind(record, step), stop, **how)
        spent = time.process_time() - started[0], time.perf_counter() - started[1]
        steps = [line for line in lines(record) if "loss" in line]
    norm = min(line["gradient_norm"] for line in steps)
    return Measured(*spent, norm, score(inputs.model), [line["loss"] for line in steps], steps)


def by_trainer(made: Callable[[str], Any], score: Callable[[Any], float]) -> Measured:
    """Train by a Trainer of transformers, which ``made`` makes for a folder, and score the model."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        one = made(name)
        started = time.process_time(), time.perf_counter()
        one.train()
        spent = time.process_time() - started[0], time.perf_counter() - started[1]
    steps = [line for line in one.state.log_history if "loss" in line]
    norm = min(float(line["grad_norm"]) for line in steps)
    return Measured(*spent, norm, score(one.model), [line["loss"] for line in steps], steps)


def surroundings(threads: int) -> str:
    """Return what a figure depends on beside the script."""
    import peft
    import torch
    import transformers

    return (
        f"{threads} thread(s), {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, peft {peft.__version__}; "
        f"bytecode {'not written' if sys.dont_write_bytecode else 'compiled'}"
    )


def compare(
    ways: Mapping[str, Callable[[int], Measured]], *, seeds: int, threads: int, tokens: int, metric: str
) -> dict[str, list[Measured]]:
    """Train each way once per seed, in an order that changes with the seed, and print the table and the ratios.

    Args:
        ways: what trains with a seed, by name; ``graft`` runs under its own settings of determinism.
        seeds: how many.
        threads: CPU threads of each.
        tokens: real tokens of one training.
        metric: what the scores are.
    """
    import torch

    from graft.artifact import reproducible

    found: dict[str, list[Measured]] = {name: [] for name in ways}
    names = list(ways)
    for seed in range(seeds):
        for name in [*names[seed % len(names) :], *names[: seed % len(names)]]:
            torch.set_num_threads(threads)
            with reproducible(threads) if name == OURS else contextlib.nullcontext():
                one = ways[name](seed)
            found[name].append(one)
            print(f"  seed {seed}, {name}: {one.cpu:.1f} CPU s, {metric} {one.score:.4f}", flush=True)
    _tell(found, tokens, metric)
    return found


def _tell(found: Mapping[str, Sequence[Measured]], tokens: int, metric: str) -> None:
    print(f"{'way':<14}{'CPU s':>9}{'wall s':>9}{'tokens/CPU s':>14}{metric:>20}{'least norm':>12}{'last loss':>11}")
    for name, runs in found.items():
        cpu, wall = (statistics.median(getattr(one, kind) for one in runs) for kind in ("cpu", "wall"))
        last = statistics.median(statistics.mean(one.losses[-LAST_STEPS:]) for one in runs)
        score = f"{statistics.mean(one.score for one in runs):.4f} ± {error(runs):.4f}"
        least = min(one.norm for one in runs)
        print(f"{name:<14}{cpu:>9.1f}{wall:>9.1f}{tokens / cpu:>14,.0f}{score:>20}{least:>12.2g}{last:>11.3f}")
    for name, runs in found.items():
        if name == OURS or OURS not in found:
            continue
        ratios = [peer.cpu / own.cpu for peer, own in zip(runs, found[OURS], strict=True)]
        apart = statistics.mean(one.score for one in found[OURS]) - statistics.mean(one.score for one in runs)
        both = (error(runs) ** 2 + error(found[OURS]) ** 2) ** 0.5
        print(
            f"{OURS} against {name}: {statistics.median(ratios):.2f}x fewer CPU seconds "
            f"({', '.join(f'{one:.2f}' for one in ratios)}); {metric} {apart:+.4f}, one standard error {both:.4f}"
        )


def error(runs: Sequence[Measured]) -> float:
    """Return the standard error of the mean score; NaN of one run."""
    scores = [one.score for one in runs]
    return statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
