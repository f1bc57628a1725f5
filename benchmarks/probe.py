"""The adapter of the last run beside a linear probe on the frozen base, on the same test rows.

The probe is logistic regression on mean-pooled last hidden states of the untouched base, its regularisation chosen on
the validation split. Run it after a pipeline run, in the project's folder:

    .venv/bin/python benchmarks/probe.py

Prints both accuracies with Wilson intervals, the ratio of errors, and the exact McNemar test of the difference.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel

from graft import base, params
from graft.tokenization import read_tokens
from graft.workspace import Workspace


def features(model: torch.nn.Module, rows: list[list[int]], batch_rows: int = 64) -> np.ndarray:
    """Return mean-pooled hidden states, float32 [N, hidden], in the order of ``rows``."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    pooled: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        width = max(len(rows[index]) for index in chosen)
        ids = torch.tensor([rows[index] + [0] * (width - len(rows[index])) for index in chosen])
        mask = torch.tensor([[1] * len(rows[index]) + [0] * (width - len(rows[index])) for index in chosen])
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        pooled.update(zip(chosen, (hidden.sum(1) / mask.sum(1, keepdim=True)).float().numpy(), strict=True))
    return np.stack([pooled[index] for index in range(len(rows))])


def main() -> None:
    workspace = Workspace.find()
    config = params.load(workspace.params)
    torch.set_num_threads(config.training.threads)
    started = time.process_time()
    model = AutoModel.from_pretrained(base.locked(workspace, config.base).folder(workspace.root)).eval()
    x, y = {}, {}
    for split in ("train", "validation", "test"):
        table = read_tokens(workspace.tokens, split)
        x[split] = features(model, table["input_ids"].to_pylist())
        y[split] = np.asarray(table["label"].to_pylist())
    probes = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x["train"], y["train"])
        for c in (0.001, 0.01, 0.1, 1.0)
    ]
    probe = max(probes, key=lambda one: one.score(x["validation"], y["validation"]))
    probe_right = probe.predict(x["test"]) == y["test"]
    seconds = time.process_time() - started

    table = pq.read_table(workspace.evaluation / "predictions" / "adapter.parquet")
    adapter_right = np.asarray(table["prediction"].to_pylist()) == np.asarray(table["reference"].to_pylist())
    only_adapter, only_probe = int((adapter_right & ~probe_right).sum()), int((probe_right & ~adapter_right).sum())
    apart = only_adapter + only_probe
    p = binomtest(only_adapter, apart, 0.5, alternative="greater").pvalue if apart else 1.0
    for name, right in (("linear probe", probe_right), ("adapter", adapter_right)):
        low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        print(f"{name:13s} accuracy {right.mean():.4f}  [{low:.4f}, {high:.4f}]  on {len(right)} rows")
    print(f"errors, adapter / probe: {(~adapter_right).sum() / (~probe_right).sum():.3f}")
    print(f"McNemar, one-sided: p = {p:.2g} (adapter alone right {only_adapter}, probe alone right {only_probe})")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "scikit-learn")}
    print(f"probe: {seconds:.0f} CPU s; {platform.machine()}, {config.training.threads} threads, {versions}")


if __name__ == "__main__":
    main()
