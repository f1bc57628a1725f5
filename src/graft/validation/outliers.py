"""What is odd about single rows only beside all the others: a number far away, a text in a language that next to no
other row has, a label that is another one's misspelling, a row without an id.

Each part says what it holds (:func:`told`: JSON, of a size that does not grow with its rows), and the parts together
say what is odd (:func:`odd`). Places are known of the first rows alone, so these checks report or stop the chain; they
keep no row aside.

- Numbers are counted by three significant digits, which is enough for quantiles, beside the smallest and largest values
  as they are. One is odd if it is ``FAR`` times the spread (between the 5th and the 95th percentile) beyond it, and
  still is on a logarithmic scale, which lets long tails be; or if it is negative alone, as -1 for "missing" is.
- A language is identified of texts with few of the words that are common in their part: asking it of all of them would
  cost more than everything else. In scripts without spaces every text is asked.
- Labels are held to each other: spelt alike but for case, spaces and signs, or, where one is rare, but for one letter.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from graft.errors import shown
from graft.filler import bare
from graft.languages import UNKNOWN, languages

if TYPE_CHECKING:
    import polars as pl

    from graft.validation.frame import Frame

PLACES = 5
"""How many rows are named."""
EXTREMES = 8
"""How many different values at either end are kept as they are."""
FAR, LEAST_VALUES = 5.0, 20
SENTINELS = {-1.0, -9.0, -99.0, -999.0, -9999.0, -99999.0}
"""Numbers that stand for a missing one, where no other is negative and there are more than ``LEAST_OTHERS`` values."""
LEAST_OTHERS = 5
RARE_LANGUAGE, LEAST_RARE, MAIN_LANGUAGE = 0.01, 3, 0.9
"""The largest share of a rare language among texts, or their number, and the smallest share of the other ones."""
JUDGED_LETTER_BYTES = 40
"""The shortest text that is called foreign, in bytes of letters: below it, one of some thousands is judged wrongly."""
COMMON_WORD, FAMILIAR = 0.002, 1 / 3
"""The share of a part's texts that have a common word, and the share of such words from which a text is familiar."""
READ_CHARACTERS, SAMPLED_TEXTS = 300, 50
RARE_LABEL, LEAST_LABEL_CHARACTERS = 0.02, 5
"""The share of another label's rows up to which a label may be its misspelling, and its least length."""


@dataclass(frozen=True)
class Odd:
    """Rows of one part that are odd in one way: their number, and the places of the first within it."""

    part: int
    rows: int
    places: Sequence[str]
    field: str
    """Empty: the label."""
    expected: str
    found: str
    has: str = ""
    """What such rows have, in words: see :class:`~graft.reading.Problem`."""


# -- what a part holds


def told(
    frame: Frame,
    label: str | None,
    ids: Sequence[str | None],
    without: Collection[str],
    inner: Callable[[str], str],
) -> dict[str, Any]:
    """Return what a part holds, as JSON values.

    Args:
        frame: the part's columns.
        label: the field of the label, if there is one.
        ids: of the readable rows.
        without: places of rows that are kept aside.
        inner: shortens a place to what follows the part's name.
    """
    kept = [row for row, at in enumerate(frame.places) if at not in frame.refused and at not in without]
    place = {row: inner(frame.places[row]) for row in kept}
    numbers = {
        one.name: _numbers(frame.columns[one.name], place)
        for one in frame.fields
        if one.type == "number" and not one.beside
    }
    spoken = {
        one.name: _languages([frame.texts[one.name][row] for row in kept], kept, place)
        for one in frame.fields
        if one.text and one.type != "strings" and not frame.languages
    }
    labels: dict[str, list[Any]] = {}
    names = frame.columns[label] if label else ()
    for row in kept if label else ():
        if names[row] is not None:
            _count(labels, names[row], place[row])
    readable = [at for at in frame.places if at not in frame.refused]
    nameless = [inner(at) for at, one in zip(readable, ids, strict=True) if not (one or "").strip()]
    unnamed = {"rows": len(nameless), "named": len(readable) - len(nameless), "places": nameless[:PLACES]}
    return {"numbers": numbers, "languages": spoken, "labels": labels, "ids": unnamed}


def _count(counts: dict[str, list[Any]], name: str, place: str) -> None:
    known = counts.setdefault(name, [0, []])
    known[0] += 1
    if len(known[1]) < PLACES:
        known[1].append(place)


def _numbers(values: Sequence[float | None], places: Mapping[int, str]) -> dict[str, Any]:
    """Return how often there is each value of three digits, and the smallest and largest values with their rows."""
    rounded, exact = Counter[str](), dict[float, list[Any]]()
    for row, place in places.items():
        value = values[row]
        if value is not None and math.isfinite(value):
            rounded[f"{value:.3g}"] += 1
            known = exact.setdefault(float(value), [0, []])
            known[0] += 1
            if len(known[1]) < PLACES:
                known[1].append(place)
    ordered = sorted(exact)
    ends = ordered if len(ordered) <= 2 * EXTREMES else [*ordered[:EXTREMES], *ordered[-EXTREMES:]]
    return {"counts": dict(sorted(rounded.items())), "ends": [[value, *exact[value]] for value in ends]}


def _languages(texts: Sequence[Sequence[str] | None], rows: Sequence[int], places: Mapping[int, str]) -> dict[str, Any]:
    """Return how many texts there are, and how many are in which language: of some of those that are like the others
    (``usual``), and of all that are not.
    """
    import polars as pl

    flat = [(row, text) for row, found in zip(rows, texts, strict=True) for text in found or ()]
    asked = _unfamiliar(pl.Series("text", [text for _, text in flat], dtype=pl.String))
    chosen = [flat[number] for number in asked.to_list()]
    chosen = [(row, text) for row, text in chosen if _letter_bytes(text) >= JUDGED_LETTER_BYTES]
    counts: dict[str, list[Any]] = {}
    for (row, _), (language, _) in zip(chosen, languages(text for _, text in chosen), strict=True):
        if language != UNKNOWN:
            _count(counts, language, places[row])
    unlike = set(asked.to_list())
    sample = islice((text for number, (_, text) in enumerate(flat) if number not in unlike), SAMPLED_TEXTS)
    usual = Counter(language for language, _ in languages(sample) if language != UNKNOWN)
    return {
        "texts": len(flat),
        "familiar": len(flat) - len(asked),
        "usual": dict(sorted(usual.items())),
        "counts": dict(sorted(counts.items())),
    }


def _unfamiliar(texts: pl.Series) -> pl.Series:
    """Return the numbers of the texts with few words that are common in the part."""
    import polars as pl

    words = (
        texts.to_frame()
        .lazy()
        .with_row_index("number")
        .select("number", pl.col("text").str.slice(0, READ_CHARACTERS).str.to_lowercase().str.split(" ").alias("word"))
        .explode("word", empty_as_null=False)
    )
    least = max(2.0, COMMON_WORD * len(texts))
    common = words.group_by("word").agg((pl.len() >= least).alias("common"))
    share = words.join(common, on="word").group_by("number").agg(pl.col("common").mean())
    return share.filter(pl.col("common") < FAMILIAR).select(pl.col("number").sort()).collect().to_series()


_LETTERS, _DIGITS = re.compile(r"[^\W\d_]+"), re.compile(r"\d+")


def _letter_bytes(text: str) -> int:
    return sum(len(run.encode("utf-8", "ignore")) for run in _LETTERS.findall(text[:READ_CHARACTERS]))


# -- what is odd about all of them


def odd(parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    """Yield what is odd in the parts of a data set, given what each of them has told."""
    for name in parts[0]["numbers"] if parts else ():
        yield from _odd_numbers(name, [part["numbers"][name] for part in parts])
    for name in parts[0]["languages"] if parts else ():
        yield from _odd_languages(name, [part["languages"][name] for part in parts])
    yield from _odd_labels([part["labels"] for part in parts])
    if any(part["ids"]["named"] for part in parts):
        for number, part in enumerate(parts):
            if rows := part["ids"]["rows"]:
                expected = "an id, which other rows have (validation.severity.outliers)"
                has = "no id, which other rows have (validation.severity.outliers)"
                yield Odd(number, rows, part["ids"]["places"], "id", expected, "none", has)


def _odd_numbers(name: str, parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    counts: Counter[float] = Counter()
    for part in parts:
        counts.update({float(value): count for value, count in part["counts"].items()})
    low, high = _spread(counts)
    if counts.total() < LEAST_VALUES or low == high:
        return
    scale = _quantile(Counter({abs(value): count for value, count in counts.items() if value}), 0.5)
    negative = {value for part in parts for value, _, _ in part["ends"] if value < 0}
    missing = negative if len(negative) == 1 and negative < SENTINELS and len(counts) > LEAST_OTHERS else set[float]()
    expected = f"a number like the others, which are mostly {low:g} to {high:g} (validation.severity.outliers)"
    for number, part in enumerate(parts):
        for value, rows, places in part["ends"]:
            logs = [_log(one, scale) for one in (low, high, value)]
            if value in missing or (_is_far(low, high, value) and _is_far(*logs)):
                yield Odd(number, rows, places, name, expected, f"{value:g}")


def _is_far(low: float, high: float, value: float) -> bool:
    return max(low - value, value - high) > FAR * (high - low)


def _spread(counts: Counter[float]) -> tuple[float, float]:
    """Return the 5th and the 95th percentile, or, where these are one, the 1st and the 99th."""
    low, high = _quantile(counts, 0.05), _quantile(counts, 0.95)
    return (low, high) if low < high else (_quantile(counts, 0.01), _quantile(counts, 0.99))


def _quantile(counts: Counter[float], share: float) -> float:
    """Return the least value that is not exceeded by this share of all values; 0 without values."""
    seen, wanted = 0, share * counts.total()
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return 0.0


def _log(value: float, scale: float) -> float:
    """Return a value on a scale that is logarithmic far from zero, on either side."""
    return math.copysign(math.log1p(abs(value) / scale), value)


def _odd_languages(name: str, parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    texts, familiar = (sum(part[count] for part in parts) for count in ("texts", "familiar"))
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update({language: count for language, (count, _) in part["counts"].items()})
    usual: Counter[str] = Counter(counts)
    for part in parts:
        usual.update(part["usual"])
    [(main, _)] = usual.most_common(1) or [("", 0)]
    few = max(LEAST_RARE, RARE_LANGUAGE * texts)
    rare = {language for language, count in counts.items() if count <= few and language != main}
    known = familiar + counts.total()
    if known - sum(counts[language] for language in rare) < MAIN_LANGUAGE * known:
        return
    expected = f"a text in the language of the others, {main} (validation.severity.outliers)"
    for number, part in enumerate(parts):
        for language, (count, places) in part["counts"].items():
            if language in rare:
                yield Odd(number, count, places, name, expected, language)


def _odd_labels(parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update({label: count for label, (count, _) in part.items()})
    misspelt = misspellings(counts)
    expected = "a label that is spelt as others spell it (validation.severity.outliers)"
    for number, part in enumerate(parts):
        for label in sorted(part.keys() & misspelt.keys()):
            count, places = part[label]
            found = f"{shown(label)}; {counts[misspelt[label]]} rows have nearly the same"
            has = "a label that is likely another one, misspelt (validation.severity.outliers)"
            yield Odd(number, count, places, "", expected, found, has)


def misspellings(counts: Counter[str]) -> dict[str, str]:
    """Return the labels that are in all likelihood another one, misspelt, and which."""
    alike: dict[str, list[str]] = defaultdict(list)
    near: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda one: (-counts[one], one)):
        alike[bare(label) or label].append(label)
        if len(label) >= LEAST_LABEL_CHARACTERS:
            for short in sorted({label, *(label[:at] + label[at + 1 :] for at in range(len(label)))}):
                near[short].append(label)
    found = {label: labels[0] for labels in alike.values() for label in labels[1:]}
    for labels in near.values():
        for label in labels[1:]:
            rare = is_rare_beside(counts[label], counts[labels[0]])
            if rare and _DIGITS.findall(label) == _DIGITS.findall(labels[0]):
                found.setdefault(label, labels[0])
    return found


def is_rare_beside(rows: int, others: int) -> bool:
    """Return whether a label of ``rows`` is rare enough to be a slip of one that ``others`` have."""
    return rows <= max(1, RARE_LABEL * others)
