"""Rows that teach an encoder-decoder its language before it sees a summary: a passage and its most telling sentence.

After the gap-sentence objective of PEGASUS (Zhang et al. 2020, section 3.1): of each passage, the sentence with the
most words in common with the others (F1) is the target. Half of the passages keep it, which teaches to find and copy;
the other half lose it. Reads the texts of JSONL files (``text``, ``completion``, ``context``, ``chosen``,
``rejected``), each text once, and writes ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` with ``source`` and
``target``.

    .venv/bin/python benchmarks/gap_sentences.py OUT FILE...
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from graft.text_metrics import words

FIELDS = ("text", "completion", "context", "chosen", "rejected")
PASSAGE_WORDS = 110
SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|\n|$)", re.DOTALL)
SHARES = (("test", 0.02), ("validation", 0.02), ("train", 1.0))


def texts(files: list[Path]) -> Iterator[str]:
    """Yield each text of the files once."""
    seen = set()
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for text in (row[name] for name in FIELDS if isinstance(row.get(name), str)):
                if text not in seen:
                    seen.add(text)
                    yield text


def passages(text: str) -> Iterator[list[str]]:
    """Yield runs of at least three sentences and about ``PASSAGE_WORDS`` words."""
    chosen: list[str] = []
    size = 0
    for found in SENTENCE.finditer(text):
        chosen.append(" ".join(found.group().split()))
        size += len(words(chosen[-1]))
        if size >= PASSAGE_WORDS and len(chosen) >= 3:
            yield chosen
            chosen, size = [], 0
    if len(chosen) >= 3:
        yield chosen


def central(sentences: list[str]) -> int:
    """Return which sentence of 5 words or more has the most words in common with the others, by F1."""

    def common(place: int) -> float:
        own = set(words(sentences[place]))
        others = {word for other, text in enumerate(sentences) if other != place for word in words(text)}
        return 2 * len(own & others) / (len(own) + len(others)) if len(own) >= 5 else -1.0

    return max(range(len(sentences)), key=common)


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    dice = random.Random(0)
    rows = []
    for text in texts(given.files):
        for passage in passages(text):
            place = central(passage)
            kept = passage if dice.random() < 0.5 else passage[:place] + passage[place + 1 :]
            rows.append(json.dumps({"source": "\n".join(kept), "target": passage[place]}, ensure_ascii=False))
    dice.shuffle(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    for split, share in SHARES:
        size = round(share * len(rows))
        (given.out / f"{split}.jsonl").write_text("\n".join(rows[:size]) + "\n", encoding="utf-8")
        rows = rows[size:]
        print(f"{split}: {size} rows")


if __name__ == "__main__":
    main()
