"""What went wrong with a text before it got here, as counts: one definition for a single text and for a whole column.

Every measure is a regular expression in the syntax that Python's ``re`` and Rust's ``regex`` (polars) share, so that a
text typed at predict and a column of a million rows are held to the same. A count is a *derived column*, on which an
expectation (between 0 and 0) can stand; texts themselves stay out of results. Most rows of most data have none of
this, so a column is searched once for all measures together, and only the rows with a hit are counted.

- Mojibake (text decoded with another encoding than it was encoded with) is what ``ftfy.badness`` finds, which knows
  Latin-1, Windows code pages and Mac Roman, and what UTF-8 read as GBK leaves, computed from the codec.
- HTML left-overs are what the cleaning step ``strip_html`` would change *and* that only HTML says: elements by their
  names, named and numeric references. "Whatever cleaning would change" alone is no measure: the step, being asked
  for, also removes ``<unk>``, ``List<int>`` and ``<me@example.org>``, which are content where nobody asked. The other
  way round it holds (a test says so): what is counted, the step repairs. Code between backticks is content too.
- White space and invisible characters are Unicode's own properties (``White_Space``, ``Default_Ignorable_Code_Point``)
  with controls and the empty braille cell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.entities import name2codepoint
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Measure:
    """One count of a text: the words of its column, what a row should have had, and what is counted."""

    name: str
    expected: str
    pattern: str
    in_code: bool = True
    """Whether code between backticks is looked at."""


VISIBLE = "visible characters"
"""The name of the count that is not damage: everything but white space and what leaves no mark."""

_INVISIBLE_BUT_SPACE = (
    "\\x00-\\x1f\\x7f-\\x9f\u2800"  # controls; the braille cell without dots
    "\\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # White_Space
    "\\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # Default_Ignorable
)
CODE = r"(?s:```.*?```)|`[^`\n]+`"
"""Code between backticks."""

# -- characters

_ENDS = (0xFFFE, 0xFFFF)
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane + end) for plane in range(0, 0x110000, 0x10000) for end in _ENDS)
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"
_SURROGATES = "[\ud800-\udfff]"

# -- HTML

_ELEMENTS = """
    blockquote body br center div em font h1 h2 h3 h4 h5 h6 head hr html iframe img li meta noscript ol p script span
    strong strike style sub sup table tbody td tfoot th thead tr tt ul
"""
_AMBIGUOUS = """
    a abbr address article aside audio b base button canvas caption cite code col data dd del details dfn dl dt embed
    fieldset figure footer form frame header i image input ins kbd label legend link main map mark menu nav object
    option param picture pre q s samp section select small source summary svg textarea time title u var video
"""
"""Names that prompts and generic types use in angle brackets too: they count with an attribute alone."""
_SPACE = r"[ \t\r\n\f]"
_NAMED = "|".join(sorted(name2codepoint, key=lambda name: (-len(name), name)))
_HTML = "|".join(
    (
        rf"</?(?i:{'|'.join(_ELEMENTS.split())})(?:{_SPACE}[^<>]*)?/?>",
        r"</(?:a|b|i|u)>",
        rf"<(?i:{'|'.join(_AMBIGUOUS.split())}){_SPACE}+[A-Za-z-]+=[\"'A-Za-z0-9/#][^<>]*>",
        r"(?s:<!--.*?-->)|<!(?i:doctype) [^<>]*>",
        rf"&(?:{_NAMED}|#[0-9]{{1,7}}|#[xX][0-9A-Fa-f]{{1,6}});",
        r"&(?:amp|nbsp|quot|lt|gt)(?:[^;=A-Za-z0-9]|$)",
    )
)
_NUMBERS = "34|36|38|39|60|62|14[5-9]|15[01]|160|169|174|82[0-9][0-9]"
_BROKEN = rf"(?:^|[^&#A-Za-z0-9])(?:#(?:{_NUMBERS})|quot|nbsp|amp|apos|lt|gt);"
_PROPERTIES = (
    "color|background|margin|padding|font|display|width|height|border|position|text-align|text-decoration|float|"
    "line-height|z-index|overflow|list-style|max-width|min-width"
)
_STYLE_AND_SCRIPT = "|".join(
    (
        rf"\{{{_SPACE}*(?:{_PROPERTIES})(?:-[a-z]+)*{_SPACE}*:[^{{}};:\"']+;",
        r"document\.(?:getElementBy|querySelector|write|cookie|createElement)|window\.(?:location|dataLayer|onload)",
        r"\$\(document\)\.ready|<!\[CDATA\[|_gaq\.push|googletag\.|adsbygoogle",
    )
)

# -- mojibake


def _badness() -> str:
    """Return ftfy's pattern without what Python and Rust read differently: free spacing, classes of Unicode."""
    from ftfy.badness import BADNESS_RE

    pattern, inside = list[str](), False
    for sign in re.sub(r"#[^\n]*", "", BADNESS_RE.pattern):
        inside = sign == "[" or (inside and sign != "]")
        if inside or sign not in " \n":
            pattern.append(sign)
    letters = "[0-9A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff]"
    return "".join(pattern).replace(r"\s", r"[\t-\r\x20\xa0]").replace(r"\w", letters)


def _read_as_gbk() -> str:
    """Return what UTF-8 that was decoded as GBK looks like.

    Two Chinese characters or full-width signs, six bytes of UTF-8, become three characters of GBK, each of two bytes
    from a narrow range; an accented Latin letter becomes one Chinese character inside a word, ``Müller`` ``M眉ller``,
    and a curly quotation mark begins with ``鈥``. The replacement character itself becomes ``锟斤拷``.
    """
    follow, lead = range(0x80, 0xC0), [*range(0xE2, 0xEA), 0xEF]
    first, second, third = (_gbk(*pair) for pair in ((lead, follow), (follow, lead), (follow, follow)))
    accented = _gbk(range(0xC2, 0xC6), follow)
    return f"{first}{second}{third}|[A-Za-z]{accented}[a-z]|[A-Za-z0-9 ]鈥|锟斤拷|烫烫烫|屯屯屯"


def _gbk(leads: range | list[int], trails: range | list[int]) -> str:
    """Return the class of the characters whose two bytes in GBK are of these."""
    codes = list[int]()
    for lead in leads:
        for trail in trails:
            found = bytes((lead, trail)).decode("gbk", "ignore")
            codes += [ord(sign) for sign in found if len(found) == 1 and sign > "\x7f"]
    return f"[{''.join(_ranges(sorted(codes)))}]"


def _ranges(codes: list[int]) -> Iterator[str]:
    """Yield the items of a character class: runs of codes as one range."""
    start = previous = codes[0]
    for code in [*codes[1:], -1]:
        if code != previous + 1:
            yield chr(start) if start == previous else f"{chr(start)}-{chr(previous)}"
            start = code
        previous = code


_TWO_SCRIPTS = "[A-Za-z][\u0400-\u04ff]{1,2}[A-Za-z]|[\u0400-\u04ff][A-Za-z]{1,2}[\u0400-\u04ff]"
"""Latin text of one byte a letter that was read as Cyrillic, ``MДdchen``, and letters exchanged to deceive."""
_ESCAPES = r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|_x00[0-9A-F]{2}_|=[C-F][0-9A-F]=[89AB][0-9A-F]"
"""Of JSON that was encoded twice, of Python, of spreadsheets (``_x000D_``) and of mail (quoted-printable)."""
_LOST = r"(?:^|[ \t\n(\"'])(?:[A-Za-z]+\?{1,3}[a-z]|\?[A-Za-z])"
_QUESTION_MARKS = rf"[A-Za-z]\?\?[a-z]|(?s:{_LOST}.*{_LOST})"
"""``Gr??e``; of a single one, which may be a forgotten space, two in a text."""

# -- the measures


@functools.cache
def measures() -> tuple[Measure, ...]:
    """Return all measures of damage; ``name`` names the derived column."""
    return (
        Measure("replacement characters", "text without U+FFFD, which stands for bytes that were lost", "\ufffd"),
        Measure("NULs", "text without NUL", r"\x00"),
        Measure(
            "control characters",
            "text without control characters other than tab and line ends",
            r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]",
        ),
        Measure("lone surrogates", "text that can be written as UTF-8", _SURROGATES),
        Measure("private use characters", "text without private use characters", f"[{_PRIVATE}]"),
        Measure("noncharacters", "text without noncharacters of Unicode", f"[{_NONCHARACTERS}]"),
        Measure("direction overrides", "text that is shown in its own order (no U+202D, U+202E)", "[\u202d\u202e]"),
        Measure("byte order marks", "text without U+FEFF", "\ufeff"),
        Measure("mojibake", "text decoded with the encoding it was written in", f"{_badness()}|{_read_as_gbk()}"),
        Measure("question marks for letters", "letters that the file's encoding has", _QUESTION_MARKS),
        Measure("words of two scripts", "words in Latin or Cyrillic letters, not in both", _TWO_SCRIPTS),
        Measure("escape sequences", "text whose characters are not spelled out as codes", _ESCAPES, in_code=False),
        Measure("HTML", "text without tags and references of HTML (data.clean: strip_html)", _HTML, in_code=False),
        Measure("broken references", "text without HTML references that lost their ampersand", _BROKEN, in_code=False),
        Measure("style and script", "text without CSS and scripts of web pages", _STYLE_AND_SCRIPT, in_code=False),
    )


@functools.cache
def _compiled() -> tuple[tuple[Measure, re.Pattern[str]], ...]:
    return tuple((one, re.compile(one.pattern)) for one in measures())


def damage(text: str) -> dict[str, int]:
    """Count each kind of damage in one text: ``{measure: count}``, with every measure.

    A count is the number of places; of mojibake, of unlikely neighbours, so one broken word may count twice.
    """
    prose = re.sub(CODE, "", text) if "`" in text else text
    return {one.name: len(pattern.findall(text if one.in_code else prose)) for one, pattern in _compiled()}


def visible_characters(text: str) -> int:
    """Count the characters that leave a mark: no white space, controls or characters that Unicode says to ignore."""
    return len(_RUN_OF_INVISIBLE.sub("", text))


_RUN_OF_INVISIBLE = re.compile(f"[ {_INVISIBLE_BUT_SPACE}]+")


# -- a whole column


def expressions(column: str, further: Sequence[Measure] = ()) -> dict[str, pl.Expr]:
    """Return the same counts of a string column as polars expressions: one for each measure and ``VISIBLE``.

    They belong in one lazy ``select``, where their shared search for suspects runs once; a null counts as null. A
    polars string is valid UTF-8, so lone surrogates are 0: whoever makes the column of Python strings meets them first.
    """
    import polars as pl

    text = pl.col(column)
    asked = (*measures(), *further)
    searched = [one for one in asked if one.pattern != _SURROGATES]
    anything = "|".join(f"(?:{one.pattern})" for one in searched)
    suspect = pl.when(text.str.contains(anything)).then(text)
    prose = suspect.str.replace_all(CODE, "")
    zero = pl.when(text.is_not_null()).then(pl.lit(0, pl.UInt32))
    counts = {one.name: (suspect if one.in_code else prose).str.count_matches(one.pattern) for one in searched}
    found = {one.name: pl.coalesce(counts[one.name], zero) if one in searched else zero for one in asked}
    # The space is counted by a literal search: it is in every text, and a class that hits often is slow.
    spaces = text.str.count_matches(" ", literal=True)
    marks = text.str.len_chars() - spaces - text.str.count_matches(f"[{_INVISIBLE_BUT_SPACE}]")
    return {name: one.alias(name) for name, one in {**found, VISIBLE: marks}.items()}


def damage_of(texts: pl.Series) -> pl.DataFrame:
    """Return the counts of a string column, a column for each measure and one for ``VISIBLE`` (all uint32)."""
    # Lazy: only then does the optimizer search for suspects once, which is a third of the time.
    return texts.alias("text").to_frame().lazy().select(**expressions("text")).collect()
