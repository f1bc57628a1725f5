"""What remains of a training step on a CPU: where its time goes by kind of operation, and the floor of each kind.

The case is that of training_speed.py (MiniLM, LoRA r=16 on query, key, value and dense, a new head, bfloat16, dropout
off, rows packed end to end). Warm steps are seen by PyTorch's profiler with the shapes of what operations read.

The floor of products is their FLOPs over the measured peak of large square products, that of everything else the bytes
that it reads and writes (2 each) over the rate of a measured copy of a tensor as large as a layer's activations; thin
products and those of attention have the larger of both. What is in no operation is Python, and has no floor. The
profiler itself makes each operation some microseconds slower: what a step takes without it is printed too. So that
other work on the machine changes little, an operation's time is the lower quartile of its calls with the same shapes,
and a step's is that of the CPU. Shares are of the sum.

    python benchmarks/training_profile.py --data FOLDER [--rows 3000] [--steps 60] [--batch-rows 32] [--threads 1]

FOLDER holds train.jsonl and test.jsonl, rows with `text` and `label`; without it, the rows are made of word lists.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.paired import by_graft, surroundings  # noqa: E402
from benchmarks.training_speed import case_of, inputs_of  # noqa: E402

THIN = 64
"""A product of matrices with a side this short is LoRA's, or the head's."""
WIDTH = 1536
"""The widest activations."""
BYTES = 2
KINDS = {
    "attention's products": ("aten::bmm", "aten::baddbmm"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "layer norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "optimizer and gradient norm": (
        *("aten::_fused_adamw_", "aten::_foreach_mul_", "aten::_foreach_norm", "aten::linalg_vector_norm"),
        *("Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad", "aten::_foreach_add_", "aten::stack"),
    ),
    "copies": (
        *("aten::copy_", "aten::cat", "aten::zero_", "aten::fill_", "aten::clone", "aten::_to_copy", "aten::index"),
        *("aten::index_copy_", "aten::index_select", "aten::embedding", "aten::block_diag", "aten::index_copy"),
    ),
    "sums and scaling": (
        *("aten::add", "aten::add_", "aten::mul", "aten::mul_", "aten::sum", "aten::div", "aten::div_", "aten::tanh"),
        *("aten::tanh_backward", "aten::sub", "aten::neg", "aten::addcmul_"),
    ),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
THICK, LORA, OTHERS, PYTHON = "thick products", "thin products (LoRA, head)", "other operations", "no operation: Python"


def kind_of(name: str, shapes: Sequence[Any]) -> str:
    """Return the kind of an operation."""
    if name in PRODUCTS:
        return LORA if min(sides(name, shapes)) <= THIN else THICK
    return next((kind for kind, names in KINDS.items() if name in names), OTHERS)


def sides(name: str, shapes: Sequence[Any]) -> tuple[int, ...]:
    """Return rows, inner side and columns of a product, and before them how many products it is."""
    left, right = [one for one in shapes if one][-2:] if "mm" in name else shapes[:2]
    return (*left[:-2], left[-2], left[-1], right[-1]) if left[:-2] else (left[-2], left[-1], right[-1])


def floor_seconds(name: str, kind: str, shapes: Sequence[Any], peak: float, rate: float) -> float:
    """Return the least time of an operation; 0 where it is unknown."""
    read = [math.prod(one) for one in shapes if isinstance(one, list) and one and isinstance(one[0], int)]
    if kind in (THICK, LORA, "attention's products"):
        work = sides(name, shapes)
        written = math.prod(work[:-2]) * work[-1]
        moved = 0.0 if kind == THICK else BYTES * (sum(read) + written) / rate
        return max(2.0 * math.prod(work) / peak, moved)
    written = 0 if name.endswith("_") else max(read, default=0)  # what is changed in place is among the shapes
    return BYTES * (sum(read) + written) / rate


def copy_rate(tokens: int) -> float:
    """Return the bytes per second, read and written, of copying a layer's widest activations."""
    import torch

    source = torch.randn(tokens, WIDTH).bfloat16()
    target, best = torch.empty_like(source), float("inf")
    for _ in range(200):
        started = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - started)
    return 2 * BYTES * source.numel() / best


def trained(options: argparse.Namespace) -> tuple[Any, list[dict[str, Any]], list[float]]:
    """Train with the last half of the steps profiled; return profile, record and the CPU seconds of each step."""
    from torch.profiler import ProfilerActivity, profile

    from graft.training.profiling import Profiler
    from graft.training.record import Record

    case = case_of(options)
    inputs = inputs_of(case, 0, epochs=1000, max_steps=options.steps)
    seen = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    cpu: list[float] = []

    class Half(Profiler):
        def before(self, step: int, steps: int) -> None:
            if step == steps // 2 + 1:
                seen.start()
            cpu.append(time.process_time())

    class Ending(Record):
        def add(self, line: dict[str, Any]) -> None:
            if line["step"] == options.steps and "loss" in line:
                cpu.append(time.process_time())
                seen.stop()
            super().add(line)

    one = by_graft(inputs, lambda _: 0.0, record=Ending, profiler=Half("cpu"))
    return seen, list(one.steps), [after - before for before, after in itertools.pairwise(cpu)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--test-rows", type=int, default=64)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.epochs = 1
    logging.disable(logging.WARNING)
    import torch
    import transformers

    from graft.hardware import matmul_peak

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    profile, steps, seconds = trained(options)
    ends = [0, *(line["tokens"] for line in steps)]
    tokens = [after - before for before, after in itertools.pairwise(ends)]
    peak, rate = matmul_peak("cpu", torch.bfloat16, options.threads), copy_rate(round(statistics.mean(tokens)))
    warm, count = slice(len(steps) // 4, len(steps) // 2), len(steps) - len(steps) // 2
    plain, whole = (1000 * statistics.median(seconds[part]) for part in (warm, slice(-count, None)))
    print(surroundings(options.threads))
    print(
        f"{statistics.mean(tokens):.0f} tokens a step; {plain:.1f} CPU ms a step, {whole:.1f} with the profiler; "
        f"peak {peak / 1e9:.0f} GFLOP/s; copies at {rate / 1e9:.1f} GB/s\n"
    )
    found: dict[str, list[float]] = {}
    calls_of: dict[Any, list[Any]] = {}
    for one in profile.events():
        calls_of.setdefault((one.name, str(one.input_shapes)), []).append(one)
    for (name, _), calls in calls_of.items():
        shapes = [shape for shape in calls[0].input_shapes or [] if shape]
        kind = kind_of(name, shapes)
        least = 0.0 if kind == OTHERS else floor_seconds(name, kind, shapes, peak, rate)
        spent = sorted(one.self_cpu_time_total for one in calls)[len(calls) // 4] / 1e6
        sums = found.setdefault(kind, [0.0, 0.0, 0.0])
        for place, value in enumerate((1, 1000 * spent, 1000 * least)):
            sums[place] += value * len(calls) / count
    found[PYTHON] = [0.0, max(0.0, whole - sum(one[1] for one in found.values())), 0.0]
    whole = sum(one[1] for one in found.values())
    print("| kind | calls a step | ms a step | share | floor, ms | of its time |\n|---|---|---|---|---|---|")
    for kind, (calls, spent, least) in sorted(found.items(), key=lambda item: -item[1][1]):
        reached = f"{least / spent:.0%}" if least and spent else ""
        floor = f"{least:.2f}" if least else ""
        print(f"| {kind} | {calls:.0f} | {spent:.2f} | {spent / whole:.1%} | {floor} | {reached} |")
    least = sum(one[2] for one in found.values())
    print(f"| all | | {whole:.2f} | 100.0% | {least:.2f} | {least / whole:.0%} |")


if __name__ == "__main__":
    main()
