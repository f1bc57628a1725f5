"""Noise that people make in texts and that changes no meaning: typos, casing, punctuation, white space.

Own code, since the libraries for it are heavy or no longer kept (nlpaug, TextFlint, CheckList pull in models, word
lists or old transformers). A function takes a text, a dose and a seeded source of chance, and returns the text that a
hasty writer, another keyboard or a copy from a web page would have given. Letters, marks and spaces are Unicode's; only
the neighbours on a keyboard are those of QWERTY, so letters of other scripts are swapped and dropped instead. What a
script does not have (capitals in Chinese, spaces in Thai) leaves the text as it is, and the caller counts it.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

Kind = Literal["typos", "casing", "punctuation", "whitespace"]

QWERTY = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHORTEST = 3
"""Runs of fewer letters have no typos: ``is`` for ``in`` is another word."""
LETTERS = re.compile(r"[^\W\d_]+")
SPACES = re.compile(r" +")
WORD_END = re.compile(r"(?<=\w)(?=\s|$)")
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _neighbours() -> dict[str, str]:
    """Return each letter's neighbours on a QWERTY keyboard: its row, and the rows above and below."""
    found = {}
    for row, keys in enumerate(QWERTY):
        for place, key in enumerate(keys):
            near = [keys[at] for at in (place - 1, place + 1) if 0 <= at < len(keys)]
            near += [QWERTY[row - 1][at] for at in (place, place + 1) if row and at < len(QWERTY[row - 1])]
            below = QWERTY[row + 1] if row + 1 < len(QWERTY) else ""
            near += [below[at] for at in (place - 1, place) if 0 <= at < len(below)]
            found[key] = "".join(near)
    return found


NEIGHBOURS = _neighbours()


def typos(text: str, dose: float, chance: random.Random) -> tuple[str, str]:
    """Return the text with a share ``dose`` of its letters mistyped, at least one, and what was done: ``typos``.

    Inside runs of three letters or more, never at their first one: a neighbouring key, two letters swapped, one left
    out.
    """
    runs = [found.span() for found in LETTERS.finditer(text) if len(found[0]) >= SHORTEST]
    places = [at for start, end in runs for at in range(start + 1, end)]
    letters = sum(end - start for start, end in runs)
    wanted, starts = max(1, round(dose * letters)), {start for start, _ in runs}
    signs, taken = list(text), set[int]()
    for at in chance.sample(places, len(places)):
        if len(taken) == 2 * wanted:
            break
        if taken.isdisjoint({at - 1, at}):
            taken |= {at - 1, at}
            signs[at - 1], signs[at] = _mistyped(signs[at - 1], signs[at], chance, first=at - 1 in starts)
    return "".join(signs), "typos"


def _mistyped(before: str, letter: str, chance: random.Random, *, first: bool) -> tuple[str, str]:
    """Return two neighbouring letters with the second mistyped; ``first``: the one before begins a word and stays."""
    near = NEIGHBOURS.get(letter.lower(), "")
    ways = ["drop"] + ["key"] * bool(near) + ["swap"] * (not first and before != letter)
    match chance.choice(ways):
        case "key":
            other = chance.choice(near)
            return before, other.upper() if letter.isupper() else other
        case "swap":
            return letter, before
        case _:
            return before, ""


def casing(text: str, dose: float, chance: random.Random) -> tuple[str, str]:  # noqa: ARG001  (all of a text or none)
    """Return the text in small letters, in capitals or with a capital at each word; which, is told."""
    way = chance.choice(("lower", "upper", "title"))
    if way == "lower":
        return text.lower(), "lower case"
    if way == "upper":
        return text.upper(), "upper case"
    return LETTERS.sub(lambda found: found[0][:1].upper() + found[0][1:].lower(), text), "title case"


def punctuation(text: str, dose: float, chance: random.Random) -> tuple[str, str]:
    """Return the text without its punctuation, or with marks after a share ``dose`` of its words, at least one.

    Marks inside words and numbers (``don't``, ``3.5``) stay.
    """
    if chance.random() < 0.5 and (bare := _without_marks(text)) != text:
        return bare, "punctuation removed"
    ends = [found.start() for found in WORD_END.finditer(text)]
    marks = "\u3002\uff0c\uff01" if WIDE.search(text) else ",.!"
    chosen = sorted(chance.sample(ends, min(len(ends), max(1, round(dose * len(ends))))))
    pieces, last = [], 0
    for end in chosen:
        pieces += [text[last:end], chance.choice(marks)]
        last = end
    return "".join([*pieces, text[last:]]), "punctuation added"


def _without_marks(text: str) -> str:
    """Return the text without marks, but those between two letters or digits; a row needs words after all."""
    kept = [
        sign
        for at, sign in enumerate(text)
        if not unicodedata.category(sign).startswith("P")
        or (0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum())
    ]
    bare = "".join(kept)
    return bare if bare.strip() else text


def whitespace(text: str, dose: float, chance: random.Random) -> tuple[str, str]:
    """Return the text with a share ``dose`` of its spaces doubled or made line breaks, or with spaces around it."""
    spaces = [found.span() for found in SPACES.finditer(text)]
    way = chance.choice(("doubled", "line breaks", "around")) if spaces else "around"
    if way == "around":
        return f" {text}  ", "spaces around"
    new = "  " if way == "doubled" else "\n"
    pieces, last = [], 0
    for start, end in sorted(chance.sample(spaces, max(1, round(dose * len(spaces))))):
        pieces += [text[last:start], new]
        last = end
    return "".join([*pieces, text[last:]]), "spaces doubled" if way == "doubled" else "line breaks"


PERTURBATIONS: dict[Kind, Callable[[str, float, random.Random], tuple[str, str]]] = {
    "typos": typos,
    "casing": casing,
    "punctuation": punctuation,
    "whitespace": whitespace,
}
OF_WORDS: tuple[Kind, ...] = ("typos", "casing")
"""What keeps the number of words: all that a text may have whose words bear tags."""


def of_words(kind: Kind, words: list[str], dose: float, chance: random.Random) -> tuple[list[str], str]:
    """Return the words of a text with the noise ``kind`` (one of ``OF_WORDS``), as many as before.

    Typos go to a share of the words, so that the dose is that of a text.
    """
    if kind == "casing":
        state = chance.getstate()
        new = []
        for word in words:
            chance.setstate(state)  # one way for the whole text
            changed, way = casing(word, dose, chance)
            new.append(changed)
        return new, way if words else ""
    long = [at for at, word in enumerate(words) if any(len(run) >= SHORTEST for run in LETTERS.findall(word))]
    letters = sum(len(words[at]) for at in long)
    new = list(words)
    for at in chance.sample(long, min(len(long), max(1, round(dose * letters)))):
        new[at] = typos(words[at], 0.0, chance)[0]
    return new, "typos"
