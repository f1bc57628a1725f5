"""Texts that stand where a text should be: placeholders, filler, templates nobody filled, encoded data, one word again
and again; and markers of a chat format inside a text, which a model would read as the next speaker's turn.

None of it is damage: each is content somewhere (a text about ``{{name}}``, an answer that is ``none``), so rows are
reported rather than refused. The measures are those of ``damage`` in kind: regular expressions that Python and polars
share. Repetition is none that such an expression can say: a text that a compressor shrinks beyond ``SHRUNK`` (Whisper
and others tell looping text by it), asked of the few texts whose middle comes again and again; of a short one, words
that are nothing but one to three words ``LEAST_TIMES``. Nor is encoded data: of a long run of letters and digits the
change between capitals, small letters and digits tells base64 from a path or a name in camel case.
"""

from __future__ import annotations

import functools
import re
import zlib
from typing import TYPE_CHECKING

from graft.damage import CODE, Measure

if TYPE_CHECKING:
    import polars as pl

PLACEHOLDERS, REPEATED, ENCODED = "placeholders", "repetition", "encoded data"
"""The names of three measures: of texts that are a word for a missing one, of such as say one thing over and over, and
of bytes as letters."""
SHRUNK = 10
"""How many times smaller such a text becomes. Prose shrinks to a half, tables and code to a fifth."""
LEAST_COPIED_BYTES = 24
"""The shortest text whose copy is one: about four words, or eight Chinese characters."""
LEAST_REPEATED_BYTES, SAMPLE_CHARACTERS, LEAST_SAMPLES = 120, 12, 5
LEAST_TIMES = 8
"""How often a word, or two or three words, stand one after the other in a short text that says nothing else."""

CELLS = frozenset(["nan", "NaN", "<NA>", "#N/A", "#REF!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#DIV/0!"])
"""Words that nobody writes: what a table says for a missing value."""

_MISSING = (
    r"nan|<na>|n/a|n\.a\.|null|\(null\)|none|nil|undefined|\\n|not available|not applicable|no (?:data|value|text)"
)
_TO_DO = r"tb[acd]|to be (?:announced|confirmed|decided|defined|determined|done)|todo|fixme|placeholder|sample text"
_TYPED = r"x{3,}|asdf+(?:gh\w*)?|qwert(?:y|z)\w*|(?:test ){1,5}test|foo ?bar|\[object \w+\]|\[?(?:deleted|removed)\]"
_CELL = r"#(?:ref!|value!|name\?|num!|null!|div/0!|n/a|spill!|calc!|getting_data)"
_SIGNS = r"[-_.,…·?!¿¡*/\\|;'\"~—–―。，、！？；～]+"
_PLACEHOLDER = (
    rf"^\s*(?:[(\[<\"']?(?i:{_MISSING}|{_TO_DO}|{_TYPED}|{_CELL}|暂无|待定|なし|未定)[)\]>\"'.!]?|{_SIGNS})\s*$"
)
_LATIN = r"(?i:lorem\s+ipsum|dolor\s+sit\s+amet|consectetur\s+adipiscing)"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_TEMPLATE = "|".join(
    (
        rf"\{{\{{ ?[#/^>&]?{_NAME}(?:[.|]{_NAME})* ?\}}\}}",  # Jinja, Mustache
        r"\{% ?(?:if|for|else|elif|endif|endfor|block|include|set)\b[^%{}]*%\}",
        rf"<%=? ?{_NAME}[^<>%]*%>",
        rf"\$\{{{_NAME}(?:\.{_NAME})*\}}",
        rf"%\({_NAME}\)[sd]|(?:^|[ (\"'])%(?:s|[1-9]\$s)(?:[ .,;:!?)\"']|$)",
        r"(?:^|[ (\"'])\{(?:[a-z]{3,}(?:_[a-z]+)*|[0-9])\}(?:[ .,;:!?)\"']|$)",
        r"[\[<](?i:(?:insert|enter|your|add) [a-z ]{2,30}(?: here)?|(?:first|last|full|company|product)[ _]name)[\]>]",
    )
)
LONG_RUN = r";base64,[A-Za-z0-9+/]{40,}|[A-Za-z0-9+/]{64,}"
"""What may be encoded data."""
_DIGEST_CHARACTERS = 64
"""Of a SHA-256 in hexadecimal digits, which a text may well name."""
_HEXADECIMAL = re.compile(r"(?:0x)?([0-9a-f]+|[0-9A-F]+)")
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_PIECE_CHARACTERS = 2.75
"""How long the pieces of base64 are at most, in the mean: 2 of 64 characters, seldom more; of names in camel case 4."""
_LETTER_SHARE = 0.1
"""How much of base64 are capitals, and small letters, at least: two fifths in the mean."""
_SLASH_CHARACTERS = 16
"""How many characters of base64 there are for each slash, at least: 64 in the mean."""
_MARKER = "|".join(
    (
        r"<\|[a-z][a-z0-9_]{1,40}\|>|<｜[^｜<>]{2,40}｜>",
        r"\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|</s>|<(?:bos|eos|pad)>",
        r"\[(?:CLS|SEP|PAD|MASK|BOS|EOS)\]",
        r"(?m:^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User|System):)",
        r"\n\n(?:Human|Assistant): ",
    )
)


@functools.cache
def measures() -> tuple[Measure, ...]:
    """Return the measures of filler and of markers that an expression can say."""
    return (
        Measure(PLACEHOLDERS, "a text, not a word for a missing one", _PLACEHOLDER),
        Measure("filler text", "text that somebody wrote", _LATIN),
        Measure("template variables", "text whose template was filled", _TEMPLATE, in_code=False),
        Measure("role markers", "text without markers of a chat format", _MARKER),
    )


def repetitions(texts: pl.Series) -> pl.Series:
    """Say of each text whether it says one thing again and again: uint32 [N], 1 or 0, null for null."""
    import polars as pl

    text = pl.col("text")
    sample = text.str.slice(text.str.len_chars() // 2, SAMPLE_CHARACTERS)
    again = text.str.count_matches(sample, literal=True) >= LEAST_SAMPLES
    short = text.str.len_bytes() < LEAST_REPEATED_BYTES
    words = text.str.count_matches(text.str.extract(r"(\w+)"), literal=True) >= LEAST_TIMES
    suspect = pl.when(short).then(words).otherwise(again).fill_null(False)
    suspects = texts.alias("text").to_frame().select(suspect).to_series()
    found = [is_repetition(one) for one in texts.filter(suspects)]
    places = suspects.arg_true().filter(pl.Series(found, dtype=pl.Boolean))
    counts = pl.select(pl.when(texts.is_not_null()).then(pl.lit(0, pl.UInt32))).to_series()
    return counts.scatter(places, 1)


def encodings(texts: pl.Series) -> pl.Series:
    """Count in each text, without its code, the runs of base64 or hexadecimal digits: uint32 [N], null for null."""
    import polars as pl

    counts = pl.select(pl.when(texts.is_not_null()).then(pl.lit(0, pl.UInt32))).to_series()
    places = texts.cast(pl.String).str.contains(LONG_RUN).fill_null(False).arg_true()
    found = (re.findall(LONG_RUN, re.sub(CODE, "", one)) for one in texts.gather(places))
    whole = (one.strip() for one in texts.gather(places))
    numbers = [sum(is_encoded(run, run == text) for run in runs) for runs, text in zip(found, whole, strict=True)]
    return counts.scatter(places, pl.Series(numbers, dtype=pl.UInt32))


def is_encoded(run: str, is_all: bool = False) -> bool:
    """Say whether a long run of letters, digits, ``+`` and ``/`` is base64, or hexadecimal digits.

    Of the latter as many as a digest has count only where they are all of the text.
    """
    if run.startswith(";"):
        return True
    if digits := _HEXADECIMAL.fullmatch(run):
        bare = digits[1]
        return (is_all or len(bare) > _DIGEST_CHARACTERS) and not bare.isalpha()
    bare = re.sub(r"(.)\1+", r"\1", re.sub("[+/]", "", run))  # zeros are many A
    small, large, digits_in = (sum(map(kind, bare)) for kind in (str.islower, str.isupper, str.isdigit))
    return (
        _LETTER_SHARE * len(bare) <= min(small, large)
        and digits_in > 0
        and len(bare) <= _PIECE_CHARACTERS * len(_PIECE.findall(bare))
        and run.count("/") * _SLASH_CHARACTERS <= len(run)
    )


_WORD = re.compile(r"\w+")
_NO_LETTERS = re.compile(r"[\W_]+")


def bare(text: str) -> str:
    """Return a text's letters and digits without case: what is left of two texts that differ in signs and spaces."""
    return _NO_LETTERS.sub("", text.casefold())


def says_the_same(one: str, other: str) -> bool:
    """Say whether two texts differ in nothing but signs, spaces and case; a name or a number may well be both."""
    return len(one.encode()) >= LEAST_COPIED_BYTES and bare(one) == bare(other) != ""


def is_repetition(text: str) -> bool:
    """Say whether a text says one thing again and again."""
    content = text.encode("utf-8", "surrogatepass")
    if len(content) < LEAST_REPEATED_BYTES:
        words = _WORD.findall(text)
        return any(len(words) >= LEAST_TIMES * many and words[many:] == words[:-many] for many in (1, 2, 3))
    return len(content) >= SHRUNK * len(zlib.compress(content, 1))
