"""The README of a merged model: what it was made of, so that nobody has to guess later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graft import tasks

if TYPE_CHECKING:
    from graft.merging import Merged


def card(merged: Merged, identity: Mapping[str, Any], adapter: str, version: str | None) -> str:
    """Return the model card: lineage, type of the weights, the proof, how to load it."""
    base, task = identity["base"], identity["task"]["name"]
    versions = ", ".join(f"{name} {number}" for name, number in identity["versions"].items())
    commit = f" at {base['revision']}" if base["kind"] == "hub" else ""
    rows = {
        "model version": version or "none (an adapter on disk)",
        "adapter": f"{identity['adapter']['method']}, sha256 {adapter}",
        "base": f"{base['source']}{commit}, digest {base['digest']}",
        "task": f"{task}, up to {identity['max_length_tokens']} tokens",
        "training data": f"digest {identity['data']}",
        "code": f"digest {identity['code']}",
        "trained with": f"{versions}, seed {identity['seed']}, on {identity['device']}",
        "weights": f"float32, {merged.parameters:,} parameters",
        "proof": f"plain transformers gives the logits of base and adapter on {merged.rows} probe rows within "
        f"{merged.difference:.1e} (allowed {merged.allowed:.1e}; largest logit {merged.largest:.3g})",
    }
    reads_pictures = tasks.get(task).processor == "image"
    processor, variable = ("AutoImageProcessor", "processor") if reads_pictures else ("AutoTokenizer", "tokenizer")
    settings = json.dumps(identity["task"]["config"], ensure_ascii=False, sort_keys=True)
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {json.dumps(base['source'])}",
        "base_model_relation: finetune",
        "---",
        "",
        f"# {merged.architecture}: base and adapter in one",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        *(f"\n{note[0].upper()}{note[1:]}." for note in merged.notes),
        "",
        f"Settings of the task: `{settings}`. Rows are to be made as in training"
        + (f" (cleaning: {', '.join(identity['clean'])})." if identity["clean"] else "."),
        "",
        "```python",
        f"from transformers import {processor}, {merged.architecture}",
        "",
        f'{variable} = {processor}.from_pretrained("FOLDER")',
        f'model = {merged.architecture}.from_pretrained("FOLDER")',
        "```",
        "",
    ]
    return "\n".join(lines)
