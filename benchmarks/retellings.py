"""Rows that teach to retell: dialogues with a sentence of theirs in indirect speech, made by rule.

Between ``gap_sentences.py`` and real summaries, which are few: the target says who speaks to whom and what, with the
speakers' names in the place of *I* and *you*. Of a dialogue (``text`` with turns ``#Person1#: ...``) the four sentences
that have most words in common with the others; of other texts, laid out as turns of two speakers, the most telling one.
Writes ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` with ``source`` and ``target``.

    .venv/bin/python benchmarks/retellings.py OUT DIALOGUES.jsonl FILE...
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from gap_sentences import SENTENCE, SHARES, central, passages, texts

PASSAGE_WORDS = 80
OTHER_ROWS = 4000
RETOLD = 4
FEWEST_WORDS = 5
TURN = re.compile(r"#Person(\d)#: ?(.*)")
VERBS = ("tells {other}", "says", "tells {other} that", "thinks")
OWN = {"i": "", "me": "", "my": "'s", "mine": "'s", "i'm": " is", "i've": " has", "i'll": " will"}
OTHERS = {"you": "", "your": "'s", "yours": "'s", "you're": " is", "you've": " has", "you'll": " will"}


def retold(sentence: str, speaker: int, dice: random.Random) -> str:
    """Return what a speaker says, as somebody else would tell it."""
    own, other = f"#Person{speaker}#", f"#Person{3 - speaker}#"
    words = [_word(word, own, other) for word in sentence.replace(" ' ", "'").split()]
    text = " ".join(words).rstrip("?!.") + "."
    verb = "asks" if sentence.rstrip().endswith("?") else dice.choice(VERBS).format(other=other)
    return f"{own} {verb} {text if text.startswith('#') else text[:1].lower() + text[1:]}"


def _word(word: str, own: str, other: str) -> str:
    plain = word.strip(".,!?;:")
    tail = word[len(word.rstrip(".,!?;:")) :]
    for names, speaker in ((OWN, own), (OTHERS, other)):
        if plain.lower() in names:
            return f"{speaker}{names[plain.lower()]}{tail}"
    return "is" + tail if plain.lower() == "am" else word


def of_dialogue(text: str, dice: random.Random) -> Iterator[tuple[str, str]]:
    """Yield a dialogue with each of its most telling sentences."""
    said = [
        (int(speaker), found.group().strip())
        for speaker, turn in TURN.findall(text)
        for found in SENTENCE.finditer(turn)
        if len(found.group().split()) >= FEWEST_WORDS
    ]

    def common(one: tuple[int, str]) -> float:
        others = {word for _, sentence in said if sentence != one[1] for word in sentence.lower().split()}
        words = one[1].lower().split()
        return float(len(set(words) & others)) / float(len(words)) ** 0.5

    for speaker, sentence in sorted(said, key=common, reverse=True)[:RETOLD]:
        yield text, retold(sentence, speaker, dice)


def of_passage(passage: list[str], dice: random.Random) -> tuple[str, str]:
    """Return a passage as turns of two speakers, and its most telling sentence."""
    place = central(passage)
    lines = [f"#Person{1 + number % 2}#: {sentence}" for number, sentence in enumerate(passage)]
    return "\n".join(lines), retold(passage[place], 1 + place % 2, dice)


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    dice = random.Random(1)
    prose = [passage for text in texts(given.files) for passage in passages(text, PASSAGE_WORDS)]
    dice.shuffle(prose)
    pairs = [of_passage(passage, dice) for passage in prose[:OTHER_ROWS]]
    pairs += [pair for text in texts([given.dialogues]) for pair in of_dialogue(text, dice)]
    dice.shuffle(pairs)
    given.out.mkdir(parents=True, exist_ok=True)
    for split, share in SHARES:
        size = round(share * len(pairs))
        rows = [json.dumps({"source": read, "target": said}, ensure_ascii=False) for read, said in pairs[:size]]
        pairs = pairs[size:]
        (given.out / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()
