"""What `torch.compile` would change in a training step on a CPU, and what it costs: why the loop does not use it.

One model (an encoder of MiniLM's shape, random, bfloat16; LoRA r=16 on query, key, value and dense) takes steps,
forward and backward, over packed batches whose lengths follow those of short texts, so that hardly any two lines are
equally long. In turn:

- `eager`: as Graft trains;
- `activations`: the activation between the two products of each layer compiled, for lines of any length;
- `layers`: each layer compiled whole, for lines of any length, but for its attention, which depends on the rows.

Printed: the CPU seconds until the first pass over the batches is over (where it compiles), the median CPU time of a
step after that, its ratio to `eager`, how many graphs were compiled, and how far the gradients lie from eager ones.

    python benchmarks/compiled.py [--batches 8] [--repeats 5] [--rows 32] [--ways activations layers] [--threads 1]

It needs a C++ compiler, which nothing else here does.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.paired import surroundings  # noqa: E402
from graft.artifact import reproducible  # noqa: E402  (sets what torch reads when it loads)

EAGER, ACTIVATIONS, LAYERS = "eager", "activations", "layers"
COMPILERS = ("g++", "clang++", "c++")
GRAPHS = 256
"""How many graphs of one function torch may keep before it stops compiling."""


def model_of() -> Any:
    """Return the model, its LoRA matrices not at their start."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=20,
    )
    base = BertForSequenceClassification(config).bfloat16()
    model = get_peft_model(base, LoraConfig(r=16, target_modules=["query", "key", "value", "dense"]))
    for name, one in model.named_parameters():
        if "lora_" in name:
            one.data = one.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.02)
    return model.train()


def batches_of(count: int, rows: int) -> list[dict[str, Any]]:
    """Return batches of random tokens, filled up to their longest row."""
    import torch

    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        drawn = torch.empty(rows).log_normal_(mean=2.6, std=0.4, generator=generator)
        lengths = drawn.round().long().clamp(4, 100)
        mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
        ids = torch.randint(1000, 30000, mask.shape, generator=generator) * mask
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def step(model: Any, batch: dict[str, Any]) -> float:
    """Run forward and backward; return CPU seconds."""
    started = time.process_time()
    model.zero_grad()
    model(**batch).logits.float().logsumexp(-1).sum().backward()
    return time.process_time() - started


def gradients(model: Any) -> Any:
    """Return all gradients as one vector."""
    import torch

    return torch.cat([one.grad.flatten().float() for one in model.parameters() if one.grad is not None])


@contextlib.contextmanager
def compiled(model: Any, way: str) -> Iterator[None]:
    """Run a block with parts of the model compiled; what was compiled once is used again."""
    layers = model.get_base_model().bert.encoder.layer
    parts = {
        EAGER: [],
        ACTIVATIONS: [layer.intermediate.intermediate_act_fn for layer in layers],
        LAYERS: list(layers),
    }[way]
    for part in parts:
        part.forward = KEPT.setdefault((way, part), part.forward)
    try:
        yield
    finally:
        for part in parts:
            part.__dict__.pop("forward", None)


KEPT: dict[tuple[str, Any], Any] = {}


def attention_as_it_is() -> None:
    """Let no compiler look into packed attention, which is another program for each batch."""
    import torch
    from transformers import AttentionInterface

    from graft.training import packing

    AttentionInterface.register(packing.NAME, torch.compiler.disable(packing.attend))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=(ACTIVATIONS, LAYERS), default=(ACTIVATIONS, LAYERS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        sys.exit(f"torch.compile needs a C++ compiler on a CPU ({', '.join(COMPILERS)}); there is none")
    import torch

    from graft.training.fused_lora import fused
    from graft.training.packing import packed

    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = GRAPHS
    print(surroundings(options.threads) + f"; {compiler}")
    model, batches = model_of(), batches_of(options.batches, options.rows)
    sizes = sorted(int(one["attention_mask"].sum()) for one in batches)
    print(f"{options.batches} batches of {sizes[0]} to {sizes[-1]} tokens, {len(set(sizes))} different")

    def run() -> None:
        model(**batches[0])

    with reproducible(options.threads), packed(model, run) as is_packed, fused(model, run):
        assert is_packed
        attention_as_it_is()
        for layer in model.get_base_model().bert.encoder.layer:
            act = layer.intermediate.intermediate_act_fn
            KEPT[ACTIVATIONS, act] = torch.compile(type(act).forward.__get__(act), dynamic=True)
            KEPT[LAYERS, layer] = torch.compile(type(layer).forward.__get__(layer), dynamic=True)
        ways = [EAGER, *options.ways]
        first, graphs, apart = {}, {}, {}
        for way in ways:
            torch._dynamo.utils.counters.clear()
            with compiled(model, way):
                first[way] = sum(step(model, one) for one in batches)
                step(model, batches[0])
            found = gradients(model)
            graphs[way] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            if way == EAGER:
                expected = found
            apart[way] = float((found - expected).norm() / expected.norm())
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(options.repeats):
            for one in batches:
                for way in [*ways[number % len(ways) :], *ways[: number % len(ways)]]:
                    with compiled(model, way):
                        seconds[way].append(step(model, one))
    print("| way | first pass, CPU s | a step, CPU ms | of eager | graphs | gradients apart |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        ratio = statistics.median(own / other for own, other in zip(seconds[way], seconds[EAGER], strict=True))
        middle = 1000 * statistics.median(seconds[way])
        print(f"| {way} | {first[way]:.1f} | {middle:.1f} | {ratio:.2f} | {graphs[way]} | {apart[way]:.1g} |")


if __name__ == "__main__":
    main()
