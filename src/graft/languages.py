"""Which language a text is in, or that nobody can tell: a quick look at its letters, offline.

The identifier is ELD-C, whose model of 60 languages lies in its wheel; decision 14 has the comparison with others.

A guess about three words helps nobody, so a text is of language ``unknown`` unless it has enough letters and the
identifier calls its answer reliable: a gate on languages stops what is surely foreign, and counts what it cannot say.
Names, numbers, addresses and code are mostly unknown. Of a text in two languages one is named or neither, so the
messages of a conversation are judged one by one. Norwegian has no forms apart, and Chinese no scripts.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any

UNKNOWN = "unknown"
LEAST_LETTER_BYTES = 18
"""The least that is judged: bytes of letters in UTF-8, 18 in English or six Chinese characters."""
MOST_CHARACTERS = 1000
"""How much of a long text is read: its beginning says it, and the rest costs time."""

_LETTERS = re.compile(r"[^\W\d_]+")
_NO_LANGUAGE = re.compile(r"https?://\S+|www\.\S+|\S+@\S+|[@#]\w+|\x00")
"""Addresses, mentions and tags: letters of no language. A NUL would end the text for the identifier."""


@functools.cache
def _identifier() -> Any:
    import eldc

    eldc.init()
    one = eldc.instance()
    one.set_scores(1)
    return one


def languages(texts: Iterable[str]) -> list[tuple[str, float]]:
    """Return the language of each text (ISO 639-1 or ``UNKNOWN``) and how sure that is, from 0 to 1."""
    detect = _identifier().detect_details
    return [_judged(text[:MOST_CHARACTERS], detect) for text in texts]


def _judged(text: str, detect: Any) -> tuple[str, float]:
    words = _NO_LANGUAGE.sub(" ", text)
    if sum(len(run.encode("utf-8", "ignore")) for run in _LETTERS.findall(words)) < LEAST_LETTER_BYTES:
        return UNKNOWN, 0.0
    found = detect(words.encode("utf-8", "ignore").decode())
    score = round(found.scores.get(found.language, 0.0), 4)
    return (found.language, score) if found.reliable else (UNKNOWN, score)


def known() -> tuple[str, ...]:
    """Return the languages that can be found, as ISO 639-1 codes, sorted."""
    import eldc

    return tuple(sorted(eldc.LANGUAGES))


_NAMES = (
    "am amharic ar arabic az azerbaijani be belarusian bg bulgarian bn bengali ca catalan cs czech da danish de german "
    "el greek en english es spanish et estonian eu basque fa persian fi finnish fr french gu gujarati he hebrew "
    "hi hindi hr croatian hu hungarian hy armenian is icelandic it italian ja japanese ka georgian kn kannada "
    "ko korean ku kurdish lo lao lt lithuanian lv latvian ml malayalam mr marathi ms malay nl dutch no norwegian "
    "or odia pa punjabi pl polish pt portuguese ro romanian ru russian sk slovak sl slovene sq albanian sr serbian "
    "sv swedish ta tamil te telugu th thai tl tagalog tr turkish uk ukrainian ur urdu vi vietnamese yo yoruba "
    "zh chinese"
)


def meant(name: str) -> str | None:
    """Return the code that a name (``English``, also misspelt) or a longer code (``en-US``, ``deu``) likely means."""
    codes = _NAMES.split()
    names = dict(zip(codes[1::2], codes[::2], strict=True))
    near = difflib.get_close_matches(name.strip().lower(), names, n=1, cutoff=0.75)
    code = names[near[0]] if near else name.strip().lower()[:2]
    return code if code in known() else None
