"""Rows that teach an encoder-decoder its language before it sees a summary.

Two kinds. A passage and its most telling sentence, after the gap-sentence objective of PEGASUS (Zhang et al. 2020,
section 3.1): the sentence with the most words in common with the others (F1) is the target; half of the passages keep
it, which teaches to find and copy, the other half lose it. And the start of a passage with a fifth of its words left
out, to be given back whole, after BART's token deletion (Lewis et al. 2020, section 2.2), which teaches to copy. Half
of all sources are laid out as turns of a dialogue.

Reads the texts of JSONL files (``text``, ``completion``, ``context``, ``chosen``, ``rejected``, and what ``messages``
say), each text once, and writes ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` with ``source`` and
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
PASSAGE_WORDS = (50, 110)
"""Each text is cut into passages of each size."""
COPIED_WORDS = 45
LOST_SHARE = 0.2
SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|\n|$)", re.DOTALL)
SHARES = (("test", 0.02), ("validation", 0.02), ("train", 1.0))


def texts(files: list[Path]) -> Iterator[str]:
    """Yield each text of the files once."""
    seen = set()
    for file in files:
        for line in file.read_bytes().splitlines():
            row = json.loads(line)
            said = [message.get("content") for message in row.get("messages", ())]
            for text in (one for one in [*(row.get(name) for name in FIELDS), *said] if isinstance(one, str)):
                if text not in seen:
                    seen.add(text)
                    yield text


def passages(text: str, wanted: int) -> Iterator[list[str]]:
    """Yield runs of at least three sentences and about ``wanted`` words."""
    chosen: list[str] = []
    size = 0
    for found in SENTENCE.finditer(text):
        chosen.append(" ".join(found.group().split()))
        size += len(words(chosen[-1]))
        if size >= wanted and len(chosen) >= 3:
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


def damaged(sentences: list[str], dice: random.Random) -> tuple[list[str], str]:
    """Return the first sentences, up to ``COPIED_WORDS``, without some of their words, and as they were."""
    whole: list[str] = []
    for sentence in sentences:
        if whole and sum(len(one.split()) for one in whole) + len(sentence.split()) > COPIED_WORDS:
            break
        whole.append(sentence)
    left = [" ".join(word for word in one.split() if dice.random() >= LOST_SHARE) for one in whole]
    return left, " ".join(whole)


def laid_out(sentences: list[str], dice: random.Random) -> str:
    """Return the sentences as lines, or as the turns of two speakers."""
    if dice.random() < 0.5:
        return "\n".join(sentences)
    return "\n".join(f"#Person{1 + place % 2}#: {sentence}" for place, sentence in enumerate(sentences))


def rows_of(text: str, dice: random.Random) -> Iterator[str]:
    """Yield the rows of one text as JSON."""
    for passage in (one for size in PASSAGE_WORDS for one in passages(text, size)):
        place = central(passage)
        kept = passage if dice.random() < 0.5 else passage[:place] + passage[place + 1 :]
        for read, said in ((kept, passage[place]), damaged(passage, dice)):
            if any(read):
                yield json.dumps({"source": laid_out(read, dice), "target": said}, ensure_ascii=False)


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    dice = random.Random(0)
    given.out.mkdir(parents=True, exist_ok=True)
    known = list(texts(given.files))
    dice.shuffle(known)  # and then split: two passages of one text have much in common
    for split, share in SHARES:
        size = round(share * len(known))
        rows = [row for text in known[:size] for row in rows_of(text, dice)]
        known = known[size:]
        dice.shuffle(rows)
        (given.out / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()
