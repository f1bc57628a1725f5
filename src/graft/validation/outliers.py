"""What is odd about single rows only beside all the others: a number far away, a text in a language that next to no
other row has, a label that is another one's misspelling.

Each part says what it holds (:func:`told`: JSON, of a size that does not grow with its rows), and the parts together
say what is odd (:func:`odd`). Places are known of the first rows alone, so these checks report or stop the chain; they
keep no row aside.

- Numbers are counted by three significant digits, which is precise enough for quantiles, beside the smallest and largest
  values as they are. One is odd if it is ``FAR`` times the spread (between the 5th and the 95th percentile) beyond it,
  and still is on a logarithmic scale, which lets long tails be; or if it is negative alone, as -1 for "missing" is.
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
from itertools import pairwise
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
RARE_LANGUAGE, MAIN_LANGUAGE = 0.01, 0.9
"""The largest share of a rare language among texts, and the smallest of the main one, beside which others are odd."""
JUDGED_LETTER_BYTES = 40
"""The shortest text that is called foreign, in bytes of letters: below it, one of some thousands is judged wrongly."""
COMMON_WORD, FAMILIAR = 0.002, 1 / 3
"""The share of a part's texts that have a common word, and the share of such words from which a text is familiar."""
READ_CHARACTERS = 300
RARE_LABEL, LEAST_LABEL_CHARACTERS = 0.02, 5
"""The share of another label's rows up to which a label may be its misspelling, and its least length."""


@dataclass(frozen=True)
class Odd:
    """Rows that are odd in one way: their number, and the first of them."""

    field: str
    expected: str
    found: str
    rows: int
    places: tuple[tuple[int, str], ...]
    """Number of the part, and the place within it."""


# -- what a part holds


def told(frame: Frame, label: str | None, without: Collection[str], inner: Callable[[str], str]) -> dict[str, Any]:
    """Return what a part holds, as JSON values.

    Args:
        frame: the part's columns.
        label: the field of the label, if there is one.
        without: places of rows that are kept aside.
        inner: shortens a place to what follows the part's name.
    """
    kept = [row for row, at in enumerate(frame.places) if at not in frame.refused and at not in without]
    place = {row: inner(frame.places[row]) for row in kept}
    numbers = {one.name: _numbers(frame.columns[one.name], place) for one in frame.fields if one.type == "number"}
    spoken = {
        one.name: _languages([frame.texts[one.name][row] for row in kept], kept, place)
        for one in frame.fields
        if one.text and one.type != "strings" and not frame.languages
    }
    labels: dict[str, list[Any]] = {}
    for row in kept if label else ():
        if (name := frame.columns[label][row]) is not None:
            _count(labels, str(name), place[row])
    return {"numbers": numbers, "languages": spoken, "labels": labels}


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


def _languages(
    texts: Sequence[Sequence[str] | None], rows: Sequence[int], places: Mapping[int, str]
) -> dict[str, Any]:
    """Return how many texts there are, and of those that are unlike the others how many are in which language."""
    import polars as pl

    flat = [(row, text) for row, found in zip(rows, texts, strict=True) for text in found or ()]
    asked = _unfamiliar(pl.Series("text", [text for _, text in flat], dtype=pl.String))
    chosen = [flat[number] for number in asked.to_list()]
    chosen = [(row, text) for row, text in chosen if _letter_bytes(text) >= JUDGED_LETTER_BYTES]
    counts: dict[str, list[Any]] = {}
    for (row, _), (language, _) in zip(chosen, languages(text for _, text in chosen), strict=True):
        if language != UNKNOWN:
            _count(counts, language, places[row])
    return {"texts": len(flat), "familiar": len(flat) - len(asked), "counts": dict(sorted(counts.items()))}


def _unfamiliar(texts: pl.Series) -> pl.Series:
    """Return the numbers of the texts with few words that are common in the part."""
    import polars as pl

    words = (
        texts.to_frame()
        .lazy()
        .with_row_index("number")
        .select("number", pl.col("text").str.slice(0, READ_CHARACTERS).str.to_lowercase().str.split(" ").alias("word"))
        .explode("word")
    )
    least = max(2.0, COMMON_WORD * len(texts))
    common = words.group_by("word").agg((pl.len() >= least).alias("common"))
    share = words.join(common, on="word").group_by("number").agg(pl.col("common").mean())
    return share.filter(pl.col("common") < FAMILIAR).select(pl.col("number").sort()).collect().to_series()


_LETTERS = re.compile(r"[^\W\d_]+")


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


def _odd_numbers(name: str, parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    counts: Counter[float] = Counter()
    for part in parts:
        counts.update({float(value): count for value, count in part["counts"].items()})
    if counts.total() < LEAST_VALUES:
        return
    low, high = _spread(counts)
    scale = _quantile(Counter({abs(value): count for value, count in counts.items() if value}), 0.5) or 1.0
    width, log_low, log_high = high - low, _log(low, scale), _log(high, scale)
    expected = f"a number like the others, mostly {low:g} to {high:g}"
    ends: dict[float, list[Any]] = {}
    for number, part in enumerate(parts):
        for value, rows, places in part["ends"]:
            known = ends.setdefault(value, [0, []])
            known[0] += rows
            known[1] += [(number, place) for place in places]
    negative = [value for value in ends if value < 0]
    for value, (rows, places) in sorted(ends.items()):
        beyond = max(low - value, value - high)
        far = beyond > FAR * width and max(log_low - _log(value, scale), _log(value, scale) - log_high) > FAR * (
            log_high - log_low
        )
        alone = negative == [value] and value in SENTINELS and len(counts) > LEAST_OTHERS
        if width and (far or alone):
            yield Odd(name, expected, f"{value:g}", rows, tuple(places[:PLACES]))


SENTINELS = (-1, -9, -99, -999, -9999, -99999)
"""Numbers that stand for a missing one where all others are positive."""
LEAST_OTHERS = 5


def _spread(counts: Counter[float]) -> tuple[float, float]:
    """Return the 5th and the 95th percentile, or, where these are one, the 1st and the 99th."""
    for share in (0.05, 0.01):
        low, high = _quantile(counts, share), _quantile(counts, 1 - share)
        if low < high:
            break
    return low, high


def _quantile(counts: Counter[float], share: float) -> float:
    """Return the value that this share of all values does not exceed; 0 without values."""
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
    texts, counts = sum(part["texts"] for part in parts), Counter[str]()
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, part in enumerate(parts):
        for language, (count, first) in part["counts"].items():
            counts[language] += count
            places[language] += [(number, place) for place in first]
    known = sum(part["familiar"] for part in parts) + counts.total()
    if not counts:
        return
    main, most = counts.most_common(1)[0]
    rare = {one: count for one, count in counts.items() if count <= max(3, RARE_LANGUAGE * texts)}
    if known - sum(rare.values()) < MAIN_LANGUAGE * known or (main in rare and not sum(p["familiar"] for p in parts)):
        return
    del most
    for language, count in sorted(rare.items()):
        found = f"{language}"
        yield Odd(name, "a text in the language of the others", found, count, tuple(places[language][:PLACES]))


def _odd_labels(parts: Sequence[Mapping[str, Any]]) -> Iterator[Odd]:
    counts: Counter[str] = Counter()
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, part in enumerate(parts):
        for label, (count, first) in part.items():
            counts[label] += count
            places[label] += [(number, place) for place in first]
    for label, other in sorted(_misspellings(counts).items()):
        found = f"{shown(label)}, beside {shown(other)} in {counts[other]} rows"
        yield Odd("", "labels that nobody takes for each other", found, counts[label], tuple(places[label][:PLACES]))


def _misspellings(counts: Counter[str]) -> dict[str, str]:
    """Return labels that are, in all likelihood, another one misspelt, and which."""
    found: dict[str, str] = {}
    buckets: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda one: (-counts[one], one)):
        for key in {label, *(label[:at] + label[at + 1 :] for at in range(len(label)))}:
            buckets[f"letters {key}"].append(label)
        buckets[f"bare {bare(label) or label}"].append(label)
    for key, labels in buckets.items():
        for other, label in ((labels[0], one) for one in labels[1:]):
            rare = counts[label] <= max(1, RARE_LABEL * counts[other])
            if key.startswith("bare ") or (rare and _one_letter(label, other)):
                found.setdefault(label, other)
    return found


def _one_letter(label: str, other: str) -> bool:
    """Say whether two labels differ in one letter that is no digit, added, lost, changed or exchanged."""
    if min(len(label), len(other)) < LEAST_LABEL_CHARACTERS:
        return False
    different = [a for pair in pairwise((label, other)) for a in pair]
    return not any(sign.isdigit() for sign in set(different[0]) ^ set(different[1]))
