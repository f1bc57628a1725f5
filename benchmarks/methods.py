"""Every adapter method on one classification set, at one training budget: metric, parameters, bytes, seconds.

The project (a folder with params.yaml, its data validated and tokenized) gives task, base, rows and budget; each method
trains through the real stage with the same seed, steps and batch, at the learning rate of its kind, and is scored on
the test rows. Methods that the task or the base refuses are listed with the reason.

    .venv/bin/python benchmarks/methods.py projects/results-sentiment --steps 60

Prints a Markdown table, the best first. One run a method: the intervals are those of the test rows, not of the seed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft import artifact, params, tasks
from graft.adapters import AdapterConfig, keys, methods
from graft.base import locked
from graft.errors import ConfigError, GraftError
from graft.evaluation.intervals import interval
from graft.evaluation.prediction import score
from graft.tokenization import read_tokens
from graft.training import train
from graft.workspace import Workspace, read_json

ATTENTION = ["query", "key", "value"]
PROMPT = {"num_virtual_tokens": 16}
KEYS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 12, "target_r": 8},
    "adaption_prompt": {"adapter_len": 10, "adapter_layers": 2, "target_modules": None},
    "bottleneck": {"architecture": "pfeiffer", "reduction_factor": 16},
    "c3a": {"block_size": 96},
    "cartridge": PROMPT,
    "ia3": {"target_modules": ["key", "value"], "feedforward_modules": []},
    "ln_tuning": {"target_modules": ["LayerNorm"]},
    "lora": {"r": 8, "lora_alpha": 16},
    "output_linear": {},
    "output_mlp": {},
    "p_tuning": PROMPT,
    "prefix_tuning": PROMPT,
    "prompt_tuning": PROMPT,
    "trainable_tokens": {"token_indices": list(range(1000, 1016))},
    "vblora": {"vector_length": 96, "num_vectors": 64},
}
"""Keys of a method; others run with PEFT's defaults on the attention's projections."""
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "lora (DoRA)": ("lora", {"r": 8, "lora_alpha": 16, "use_dora": True}),
    "lora (rsLoRA)": ("lora", {"r": 8, "lora_alpha": 16, "use_rslora": True}),
    "lora (LoRA+)": ("lora", {"r": 8, "lora_alpha": 16}),
    "lora (PiSSA)": ("lora", {"r": 8, "lora_alpha": 16, "init_lora_weights": "pissa"}),
    "bottleneck (Houlsby)": ("bottleneck", {"architecture": "houlsby", "reduction_factor": 16}),
    "bottleneck (parallel)": ("bottleneck", {"architecture": "parallel", "reduction_factor": 16}),
}
TRAINING: dict[str, dict[str, Any]] = {"lora (LoRA+)": {"loraplus_lr_ratio": 8.0}}
"""Settings of the training that belong to a method."""
RATES = {
    "full": 1e-4,
    "probe": 1e-2,
    "output_linear": 1e-2,
    "fourierft": 2e-2,
    "vera": 1e-2,
    "ia3": 1e-2,
} | dict.fromkeys(("prompt_tuning", "p_tuning", "prefix_tuning", "trainable_tokens", "ln_tuning"), 1e-2)
USUAL_RATE = 2e-3


@dataclass(frozen=True)
class Line:
    """What one method came to."""

    name: str
    value: float
    low: float
    high: float
    rate: float
    trained: int
    size: int
    seconds: float

    def __str__(self) -> str:
        """Return the line of the table."""
        return (
            f"| {self.name} | {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] | {self.rate:g} | {self.trained:,} | "
            f"{self.size:,} | {self.seconds:.0f} |"
        )


def adapter_of(method: str, given: dict[str, Any]) -> AdapterConfig:
    """Return a method's section, on the attention's projections where it takes targets and names none."""
    own = method in ("bottleneck", "output_linear", "output_mlp", "probe", "full", "trainable_tokens")
    targets = {} if own or "target_modules" not in keys(method) else {"target_modules": ATTENTION}
    return AdapterConfig(method=method, **(targets | given))


def measured(workspace: Workspace, name: str, adapter: AdapterConfig, steps: int) -> Line:
    """Train and score one method in a copy of the project."""
    sections = params.load(workspace.params)
    rate = RATES.get(adapter.method, USUAL_RATE)
    training = sections.training.model_copy(
        update={
            "max_steps": steps,
            "epochs": 1000.0,
            "learning_rate": rate,
            "keep": "last",
            "evaluate_every_epochs": 1e6,
            **TRAINING.get(name, {}),
        }
    )
    # A method must not find what another one computed of the base.
    shutil.rmtree(workspace.store, ignore_errors=True)
    started = time.perf_counter()
    train(workspace, task=sections.task, base=sections.base, adapter=adapter, training=training)
    seconds = time.perf_counter() - started
    loaded = artifact.load(workspace.adapter, workspace.root, pinned=locked(workspace, sections.base))
    with artifact.reproducible(training.threads):
        table = score(loaded, read_tokens(workspace.tokens, "test"), batch_rows=64, name=name)
    task = tasks.get(sections.task.name)
    found = interval(task.metric(task.headline), table, sections.evaluation)
    size = sum(path.stat().st_size for path in workspace.adapter.glob("*.safetensors") if path.name != artifact.PROBE)
    trained = read_json(workspace.training / "summary.json")["parameters_trained"]
    return Line(name, found.value, found.low, found.high, rate, trained, size, seconds)


def main() -> None:
    """Measure all methods, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("names", nargs="*", metavar="METHOD")
    given = parser.parse_intermixed_args()  # names may follow options
    wanted = {name: (name, KEYS.get(name, {})) for name in methods()} | MORE
    lines, refused = [], []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Workspace(Path(temporary).resolve() / "project")
        shutil.copytree(given.project, copy.root, symlinks=True)
        for name in given.names or wanted:
            method, more = wanted[name]
            try:
                lines.append(measured(copy, name, adapter_of(method, more), given.steps))
                print(lines[-1], flush=True)
            except ConfigError as error:
                refused.append(f"- `{name}`: {' '.join(str(error).split())[:300]}")
            except GraftError as error:
                refused.append(f"- `{name}`: did not end well: {' '.join(str(error).split())[:300]}")
    print("\n| method | headline [interval] | learning rate | trained parameters | bytes | seconds |")
    print("|---|---|---|---|---|---|")
    print("\n".join(map(str, sorted(lines, key=lambda line: -line.value))))
    print("\nRefused:\n\n" + "\n".join(refused))


if __name__ == "__main__":
    main()
