"""How fast LoRA is learnt on a GPU by models of the usual sizes: Graft beside Trainer, TRL, Liger and Unsloth.

Random models in the shape of Qwen2.5-0.5B, Llama-3.2-1B and Llama-3.1-8B (speed does not depend on the weights), LoRA
r=16 on all linear layers, bfloat16, rows with the lengths of real rows. Each way trains `--steps` steps of `--tokens`
real tokens on the same rows, after `--warm` steps that are not timed; at most `--seconds` each.

- `graft`: Graft's loop, rows packed;
- `graft_compiled`: the same with each layer compiled but for its attention (on a GPU alone: compiled.py is about CPUs);
- `trainer`: transformers' Trainer, padded to the longest of a batch, bf16;
- `trl`: SFTTrainer with packing (needs `trl`; where flash attention is there, `padding_free` too);
- `trl_liger`: the same with Liger's kernels (needs `liger_kernel`);
- `unsloth`: TRL on a model that Unsloth patched (needs `unsloth`).

What is not installed is named and left out. Printed: real tokens per second, MFU (4 N flops per token for N frozen
parameters in products of matrices, against the largest product measured on the same device), peak memory, first and
last loss; then ratios.

    python benchmarks/gpu_speed.py [--shape qwen-0.5b llama-1b llama-8b] [--steps 40] [--tokens 16384]

Without a GPU, `--shape tiny` runs it on the CPU, to see that it works.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.compiled import attention_as_it_is  # noqa: E402
from graft.artifact import reproducible  # noqa: E402  (sets what torch reads when it loads)

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "kind": "Llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen-0.5b": {
        "kind": "Qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "kind": "Llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "kind": "Llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
LEARNING_RATE = 2e-4
LONGEST = 2048


@dataclass(frozen=True)
class Case:
    """What all ways share."""

    shape: str
    device: str
    rows: list[dict[str, Any]]
    steps: int
    warm: int
    tokens: int
    seconds: float

    @functools.cached_property
    def batches(self) -> list[list[dict[str, Any]]]:
        """The rows of each step: about ``tokens`` real tokens."""
        found: list[list[dict[str, Any]]] = [[]]
        count = 0
        for row in self.rows:
            if count and count + len(row["input_ids"]) > self.tokens:
                found.append([])
                count = 0
            found[-1].append(row)
            count += len(row["input_ids"])
        return found[: self.steps + self.warm]


@dataclass(frozen=True)
class Measured:
    """One way."""

    tokens_per_second: float
    peak_bytes: int
    losses: list[float]


def lengths_of(path: Path | None, count: int, longest: int) -> list[int]:
    """Return lengths in tokens: of a JSON list of numbers in ``path``, or log-normal as those of instructions are."""
    draw = random.Random(0)
    if path is not None:
        return [min(longest, draw.choice(json.loads(path.read_text(encoding="utf-8")))) for _ in range(count)]
    return [max(8, min(longest, int(draw.lognormvariate(5.4, 0.8)))) for _ in range(count)]


def case_of(options: argparse.Namespace, shape: str, device: str) -> Case:
    words = SHAPES[shape]["vocab_size"]
    longest = 64 if shape == "tiny" else LONGEST
    draw = random.Random(1)
    count = 4 * (options.steps + options.warm) * max(1, options.tokens // 200)
    rows = []
    for number, length in enumerate(lengths_of(options.lengths, count, longest)):
        ids = [draw.randrange(3, words) for _ in range(length)]
        asked = length // 3
        rows.append({"row": str(number), "input_ids": ids, "labels": [-100] * asked + ids[asked:]})
    return Case(shape, device, rows, options.steps, options.warm, options.tokens, options.seconds)


def model_of(case: Case) -> Any:
    """Return a random model of the shape with LoRA on all its linear layers."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    shape = dict(SHAPES[case.shape])
    kind = shape.pop("kind")
    config = getattr(transformers, f"{kind}Config")(
        **shape, max_position_embeddings=LONGEST, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    with torch.device(case.device):
        model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, dtype=torch.bfloat16)
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    return get_peft_model(model, lora)


def watched(case: Case, step: Callable[[int], float]) -> Measured:
    """Run the steps, time those after the warm ones, and read the peak of memory."""
    import torch

    cuda = case.device == "cuda"
    losses = []
    for number in range(case.warm):
        losses.append(step(number))
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started, tokens = time.perf_counter(), 0
    for number in range(case.warm, len(case.batches)):
        losses.append(step(number))
        tokens += sum(len(row["input_ids"]) for row in case.batches[number])
        if time.perf_counter() - started > case.seconds:
            break
    if cuda:
        torch.cuda.synchronize()
    spent = time.perf_counter() - started
    return Measured(tokens / spent, torch.cuda.max_memory_allocated() if cuda else 0, losses)


def graft(case: Case, *, compiled: bool = False) -> Measured:
    """Train by Graft's loop: one call of it per step, as its own loop makes it."""
    import torch

    from graft import tasks
    from graft.training import TrainingConfig
    from graft.training.forward import efficient
    from graft.training.loop import Inputs, adamw

    task, config = tasks.get("chat"), tasks.config_class("chat")(name="chat")
    model = model_of(case).train()
    settings = TrainingConfig(learning_rate=LEARNING_RATE, weight_decay=0.0)
    inputs = Inputs(model, task, config, {}, case.rows, case.rows[:4], 0, settings, case.device)
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = adamw(weights, settings)
    with efficient(inputs) as forward:
        assert forward.packed
        assert forward.fused_layers
        if compiled:
            attention_as_it_is()
            for layer in model.get_base_model().model.layers:
                layer.compile(dynamic=True)

        def step(number: int) -> float:
            batch = task.collate(case.batches[number], 0, {})
            loss, items = task.loss(config, model, {name: one.to(case.device) for name, one in batch.items()})
            (loss / items).backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach()) / items

        return watched(case, step)


def trainer(case: Case) -> Measured:
    """Train by a step as Trainer makes it: padded rows, the model's own loss, bf16 autocast."""
    import torch

    model = model_of(case).train()
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(number: int) -> float:
        rows = case.batches[number]
        width = max(len(row["input_ids"]) for row in rows)

        def filled(name: str, by: int) -> torch.Tensor:
            return torch.tensor([[*row[name], *[by] * (width - len(row[name]))] for row in rows], device=case.device)

        ids = filled("input_ids", 0)
        with torch.autocast(case.device, torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=filled("labels", -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return watched(case, step)


def trl(case: Case, *, liger: bool = False, unsloth: bool = False) -> Measured:
    """Train by SFTTrainer with packing; tokens per second from the times of its steps."""
    import datasets
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    if unsloth:
        from unsloth import FastLanguageModel

        model = FastLanguageModel.for_training(model_of(case))
    else:
        model = model_of(case)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, SHAPES[case.shape]["vocab_size"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="</s>"
    )
    chosen = [row for batch in case.batches for row in batch]
    rows = datasets.Dataset.from_list(
        [
            {"input_ids": row["input_ids"], "completion_mask": [int(one != -100) for one in row["labels"]]}
            for row in chosen
        ]
    )
    longest = 64 if case.shape == "tiny" else LONGEST
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if case.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        arguments = SFTConfig(
            output_dir=name,
            per_device_train_batch_size=max(1, case.tokens // longest),
            num_train_epochs=1,
            max_steps=case.steps + case.warm,
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            max_length=longest,
            packing=True,
            bf16=True,
            gradient_checkpointing=False,
            use_liger_kernel=liger,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=case.device == "cpu",
            dataloader_pin_memory=case.device == "cuda",
        )
        one = SFTTrainer(
            model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]
        )
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        one.train()
    each = sum(len(row["input_ids"]) for row in chosen) / max(1, len(times))
    timed = times[case.warm :] if len(times) > case.warm + 1 else times
    spent = (timed[-1] - timed[0]) / max(1, len(timed) - 1)
    losses = [line["loss"] for line in one.state.log_history if "loss" in line]
    return Measured(each / spent, torch.cuda.max_memory_allocated() if case.device == "cuda" else 0, losses)


def peak_flops(device: str) -> float:
    """Return the flops per second of a large product of matrices in bfloat16: the median of a few."""
    import torch

    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    found = []
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(2 * size**3 / (time.perf_counter() - started))
    return statistics.median(found[4:])


def frozen_parameters(shape: str) -> int:
    """Return how many parameters stand in products of matrices: all layers, and the head."""
    one = SHAPES[shape]
    width, heads, groups = one["hidden_size"], one["num_attention_heads"], one["num_key_value_heads"]
    attention = width * width * 2 + 2 * width * (width // heads) * groups
    layers = one["num_hidden_layers"] * (attention + 3 * width * one["intermediate_size"])
    return int(layers + width * one["vocab_size"])


def ways(device: str) -> dict[str, Callable[[Case], Measured]]:
    """Return the ways that can run here; name the others."""
    found: dict[str, Callable[[Case], Measured]] = {"trainer": trainer, "graft": graft}
    if device == "cuda":
        found["graft_compiled"] = functools.partial(graft, compiled=True)
    needed = {
        "trl": (("trl",), trl),
        "trl_liger": (("trl", "liger_kernel"), functools.partial(trl, liger=True)),
        "unsloth": (("trl", "unsloth"), functools.partial(trl, unsloth=True)),
    }
    for name, (packages, way) in needed.items():
        missing = [one for one in packages if importlib.util.find_spec(one) is None]
        if missing:
            print(f"{name}: left out, {', '.join(missing)} not installed")
        else:
            found[name] = way
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["qwen-0.5b", "llama-1b", "llama-8b"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16384, help="real tokens per step")
    parser.add_argument("--seconds", type=float, default=60, help="at most, per way and shape")
    parser.add_argument("--lengths", type=Path, help="a JSON list of row lengths in tokens")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and options.shape != ["tiny"]:
        parser.error("no CUDA device here; try --shape tiny")
    name = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    peak = peak_flops(device)
    print(f"{name}, {peak / 1e12:.1f} TFLOP/s in bfloat16; torch {torch.__version__}")
    for shape in options.shape:
        case = case_of(options, shape, device)
        found: dict[str, Measured] = {}
        for way, run in ways(device).items():
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
            try:
                with (
                    reproducible(2) if way.startswith("graft") else contextlib.nullcontext(),
                    contextlib.redirect_stdout(sys.stderr),
                ):
                    found[way] = run(case)
            except torch.OutOfMemoryError as error:
                print(f"{shape} {way}: out of memory ({str(error).splitlines()[0]})")
        for way, one in found.items():
            share = 4 * frozen_parameters(shape) * one.tokens_per_second / peak
            print(
                f"{shape:<10} {way:<10}{one.tokens_per_second:>12,.0f} tokens/s   MFU {share:6.1%}   "
                f"{one.peak_bytes / 2**30:6.1f} GiB   loss {one.losses[0]:.3f} -> {one.losses[-1]:.3f}"
            )
        for way, one in found.items():
            if way != "graft" and "graft" in found:
                print(f"{shape}: graft against {way}: {found['graft'].tokens_per_second / one.tokens_per_second:.2f}x")


if __name__ == "__main__":
    main()
