"""Preference pairs from an instruction set: the given answer is chosen, what the model itself says is rejected.

The pairs of one round of SPIN (Chen et al. 2024, section 4). Both answers have as many characters (at most
``MOST_CHARACTERS``, cut at a space), so that length tells nothing. Reads ``train.jsonl``, ``validation.jsonl`` and
``test.jsonl`` with ``prompt`` and ``completion`` in FOLDER, and writes the same names with ``prompt``, ``chosen`` and
``rejected`` in OUT.

    .venv/bin/python benchmarks/self_play.py OUT MODEL FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from graft.generation import GenerationConfig, generate_ids

MOST_CHARACTERS = 200
SETTINGS = GenerationConfig(max_new_tokens=100, no_repeat_ngram_size=4, batch_rows=32)
PROMPT_TOKENS = 256


def cut(text: str, characters: int) -> str:
    """Return the words of ``text`` that fit into ``characters``."""
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters + 1].rpartition(" ")[0]


def pairs(rows: list[dict[str, Any]], said: list[str]) -> list[dict[str, str]]:
    """Return a pair for each row whose answers, cut to one length, are neither empty nor the same."""
    found = []
    for row, own in zip(rows, said, strict=True):
        size = min(len(cut(row["completion"], MOST_CHARACTERS)), len(cut(own, MOST_CHARACTERS)))
        chosen, rejected = cut(row["completion"], size), cut(own, size)
        if chosen and rejected and chosen != rejected:
            found.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return found


def main() -> None:
    """Write the pairs of each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model).eval()
    for split in ("train", "validation", "test"):
        lines = (given.folder / f"{split}.jsonl").read_bytes().splitlines()
        rows = [json.loads(line) for line in lines]
        prompts = [tokenizer(row["prompt"] + "\n")["input_ids"][-PROMPT_TOKENS:] for row in rows]
        end = tokenizer.eos_token_id
        answers = generate_ids(model, prompts, SETTINGS, pad_token_id=end, eos_token_id=end)
        found = pairs(rows, [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers])
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found)
        (given.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{split}: {len(found)} of {len(rows)} rows")


if __name__ == "__main__":
    main()
