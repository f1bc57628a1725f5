"""How fast a causal language model learns to answer on a CPU: Graft beside TRL's SFTTrainer, padded and packed.

LoRA r=16 on all linear layers of stories260K (a Llama of 260,000 parameters; `--model FOLDER`), or of a random Llama of
19 million with GPT-2's vocabulary (`--random TOKENIZER_FOLDER`): the same token rows, of which the answers alone are
learnt, the same tokens per step, epochs, learning rate and schedule, interleaved in one process, for each seed.

- `trl`: SFTTrainer as its documentation shows it, rows padded to the longest of their batch;
- `trl_packed`: with `packing=True`, its best-fit packing into lines of `max_length` tokens;
- `graft`: Graft's loop.

Only real tokens count. Needs `pip install trl` beside Graft; without it, Graft's figure alone is printed.

    python benchmarks/language_model_speed.py --data FOLDER --model FOLDER [--rows 784] [--epochs 1] [--seeds 3]

FOLDER holds train.jsonl and test.jsonl, rows with `prompt` and `completion`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.paired import Measured, by_graft, by_trainer, compare, surroundings  # noqa: E402
from graft.artifact import attention, raw_outputs  # noqa: E402  (sets what torch reads when it loads)

MAX_TOKENS = 256
LEARNING_RATE = 2e-3
WARMUP = 0.06
RANDOM = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 8}


@dataclass
class Case:
    """What all ways share."""

    folder: Path
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    tokenizer: Any
    batch_rows: int
    epochs: float
    threads: int
    dtype: str

    @property
    def tokens(self) -> int:
        return round(sum(len(row["input_ids"]) for row in self.train) * self.epochs)


def task_and_config() -> tuple[Any, Any]:
    from graft import tasks

    return tasks.get("chat"), tasks.config_class("chat")(name="chat")


def case_of(options: argparse.Namespace, folder: Path) -> Case:
    from transformers import AutoTokenizer

    if options.random:
        random_model(folder, options.random)
    else:
        folder = options.model
    task, config = task_and_config()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for split, limit in (("train", options.rows), ("test", options.test_rows)):
        with (options.data / f"{split}.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line, _ in zip(file, range(limit), strict=False)]
        encoded = task.encode(config, rows, tokenizer, MAX_TOKENS)
        found.append([{**row, "row": str(number)} for number, row in enumerate(encoded) if row["supervised"]])
    return Case(folder, *found, tokenizer, options.batch_rows, options.epochs, options.threads, options.dtype)


def random_model(folder: Path, tokenizer_folder: Path) -> None:
    """Write a Llama with random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    config = LlamaConfig(
        **RANDOM, vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=end, eos_token_id=end
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_of(case: Case, seed: int, *, ours: bool) -> Any:
    """Return the base with LoRA on all its linear layers; Graft's in its type and with its attention."""
    import torch

    from graft.adapters import AdapterConfig, attach

    task, config = task_and_config()
    torch.manual_seed(seed)
    chosen = attention("cpu", MAX_TOKENS) if ours else {}
    dtype = getattr(torch, case.dtype if ours else "float32")
    model, new = task.load_model(str(case.folder), config, {}, dtype=dtype, **chosen)
    return attach(model, AdapterConfig(method="lora", r=16, lora_alpha=32, target_modules="all-linear"), new)


def nll_of(model: Any, case: Case) -> float:
    """Return the mean negative log-likelihood of the test rows' supervised tokens, in nats."""
    task, config = task_and_config()
    model.eval()
    found = raw_outputs(
        *(model, task, config, {}, case.test), pad_token_id=case.tokenizer.eos_token_id, batch_rows=16, device="cpu"
    )
    return float(found[:, 0].sum() / found[:, 1].sum())


def graft(case: Case, seed: int) -> Measured:
    """Train by Graft's loop."""
    from graft.training import TrainingConfig
    from graft.training.loop import Inputs

    task, config = task_and_config()
    settings = TrainingConfig(
        seed=seed,
        epochs=case.epochs,
        batch_rows=case.batch_rows,
        learning_rate=LEARNING_RATE,
        warmup_share=WARMUP,
        weight_decay=0.0,
        keep="last",
        evaluate_every_epochs=1000,
        threads=case.threads,
        checkpoint_every_steps=10**6,
    )
    pad = case.tokenizer.eos_token_id
    model = model_of(case, seed, ours=True)
    inputs = Inputs(model, task, config, {}, case.train, case.test[:4], pad, settings, "cpu")
    return by_graft(inputs, lambda trained: nll_of(trained, case))


def trl(case: Case, seed: int, *, packing: bool) -> Measured:
    """Train by TRL's SFTTrainer; a packed step has as many tokens as a padded one has real ones."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    rows = datasets.Dataset.from_list(
        [
            {"input_ids": row["input_ids"], "completion_mask": [int(one != -100) for one in row["labels"]]}
            for row in case.train
        ]
    )
    lines = sum(len(row["input_ids"]) for row in case.train) / MAX_TOKENS
    batch = max(1, round(lines / (len(case.train) / case.batch_rows))) if packing else case.batch_rows

    def made(folder: str) -> SFTTrainer:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=case.epochs,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP,
            weight_decay=0.0,
            lr_scheduler_type="linear",
            max_length=MAX_TOKENS,
            packing=packing,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=case.dtype == "bfloat16",
            gradient_checkpointing=False,
            seed=seed,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        model = model_of(case, seed, ours=False)
        return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=case.tokenizer)

    return by_trainer(made, lambda trained: nll_of(trained, case))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--random", type=Path, metavar="TOKENIZER_FOLDER")
    parser.add_argument("--rows", type=int, default=784)
    parser.add_argument("--test-rows", type=int, default=100)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    if not options.model and not options.random:
        parser.error("give --model or --random")
    logging.disable(logging.WARNING)
    import transformers

    transformers.logging.set_verbosity_error()
    ways: dict[str, Any] = {"graft": graft}
    if importlib.util.find_spec("trl"):
        ways = {
            "trl": functools.partial(trl, packing=False),
            "trl_packed": functools.partial(trl, packing=True),
            **ways,
        }
    with tempfile.TemporaryDirectory() as name:
        case = case_of(options, Path(name))
        told = f"{len(case.train)} rows, {case.tokens:,} real tokens in {case.epochs:g} epochs, {case.dtype}"
        print(f"{told}; {surroundings(options.threads)}")
        bound = {name: functools.partial(one, case) for name, one in ways.items()}
        compare(bound, seeds=options.seeds, threads=options.threads, tokens=case.tokens, metric="nll")


if __name__ == "__main__":
    main()
