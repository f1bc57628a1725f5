"""Run as a script by the merge: whether plain transformers gets the expected logits from a merged folder.

Nothing of Graft or PEFT is imported, so that what agrees here agrees wherever transformers alone is installed.

``python -I proof.py FOLDER ARCHITECTURE PROBE``: PROBE holds ``input.<name>`` and ``expected.<name>``; prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(folder: str, architecture: str, probe: str) -> int:
    """Compare and print the largest difference and the largest logit; where rows are padded, real tokens count."""
    import torch
    import transformers
    from safetensors.torch import load_file

    transformers.logging.set_verbosity_error()
    tensors = load_file(probe)
    inputs, expected = (
        {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}
        for kind in ("input", "expected")
    )
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    broken = [*info["missing_keys"], *info["unexpected_keys"], *(key[0] for key in info["mismatched_keys"])]
    if broken:
        print(f"weights that do not fit: {', '.join(sorted(broken)[:5])}", file=sys.stderr)
        return 1
    with torch.inference_mode():
        outputs = model.eval()(**inputs)
    differences = [_counted(name, outputs[name] - value, inputs) for name, value in expected.items()]
    found = {
        "architecture": architecture,
        "rows": len(next(iter(inputs.values()))),
        "difference": max(one.abs().max().item() for one in differences),
        "largest": max(_counted(name, value, inputs).abs().max().item() for name, value in expected.items()),
    }
    print(json.dumps(found))
    return 0


def _counted(name: str, scores: Any, inputs: dict[str, Any]) -> Any:
    """Return the scores of real tokens, where there is one per token: [B, T, C], or [B, T] of starts and ends."""
    mask = inputs.get("attention_mask")
    per_token = scores.ndim == 3 or name in ("start_logits", "end_logits")
    if mask is None or "labels" in inputs or not per_token or scores.shape[:2] != mask.shape:
        return scores
    return scores[mask.bool()]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
