"""What a split is made of, in counts that can be added up: how often each label, each length and each word occurs.

A profile says nothing of a single row, and no text is in it: words are counted in buckets by their hash, digits as one.
So it can be kept with a model version, and the next data set be held against it (:mod:`graft.validation.drift`). The
profile of a part is a pure function of its rows; that of a split is the sum over its parts.

Lengths and numbers are counted on a fixed scale whose steps are 4 % of the value, as in DDSketch (Masson et al. 2019),
which loses less than anybody would call a drift. Words and labels are counted once per row: rows are independent of
each other, the words of a text are not, and only so is it known what chance does to the counts.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from graft.tfidf import UNSPACED

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from graft.tasks import Field

BUCKETS = 1024
"""Of words. Two words that share one are told apart no more; a corpus that changes moves many."""
READ_CHARACTERS = 2000
"""How far a text is read for its words: what it is about shows by then, and a book costs no more than a page."""
READ_ROWS = 10_000
"""How many rows of a part are read for their words, evenly spaced: more would make the counts no more certain than any
drift needs, and cost a tenth of the whole stage."""
STEP = 1.04
SMALLEST = 1e-9
"""Numbers nearer to zero than that count as zero."""
_SIGN = UNSPACED.pattern.removeprefix("[").removesuffix("]")
_WORD = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+")
"""A sign of a script without spaces, or a run of letters and digits of another."""
_DIGIT = re.compile(r"\d")


@dataclass
class DataProfile:
    """The counts of some rows. Fields are called as in the task."""

    rows: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    """Field of labels or tags -> label -> rows that have it."""
    characters: dict[str, Counter[int]] = field(default_factory=dict)
    """Text field -> step of its length in characters (:func:`steps`) -> rows."""
    targets: dict[str, Counter[int]] = field(default_factory=dict)
    """Number to predict -> step of its value -> rows."""
    words: Counter[int] = field(default_factory=Counter)
    """Bucket -> rows with a word of it in any of their texts, of those that were read for their words."""

    def add(self, other: DataProfile) -> None:
        """Count the rows of another profile too."""
        self.rows += other.rows
        self.words.update(other.words)
        for name, labels in other.labels.items():
            self.labels.setdefault(name, Counter()).update(labels)
        for own, added in ((self.characters, other.characters), (self.targets, other.targets)):
            for name, counts in added.items():
                own.setdefault(name, Counter()).update(counts)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON, in an order that the rows' order does not change."""
        return {
            "rows": self.rows,
            "labels": {name: dict(sorted(counts.items())) for name, counts in sorted(self.labels.items())},
            "characters": {name: _pairs(counts) for name, counts in sorted(self.characters.items())},
            "targets": {name: _pairs(counts) for name, counts in sorted(self.targets.items())},
            "words": [self.words[bucket] for bucket in range(BUCKETS)],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return the profile that :meth:`as_json` gave.

        Raises:
            KeyError, TypeError, ValueError: ``found`` is none.
        """
        return cls(
            rows=int(found["rows"]),
            labels={name: Counter(counts) for name, counts in found["labels"].items()},
            characters={name: Counter(dict(counts)) for name, counts in found["characters"].items()},
            targets={name: Counter(dict(counts)) for name, counts in found["targets"].items()},
            words=Counter({bucket: int(count) for bucket, count in enumerate(found["words"]) if count}),
        )


def _pairs(counts: Counter[int]) -> list[list[int]]:
    return [[step, count] for step, count in sorted(counts.items())]


def profile_of(
    fields: Sequence[Field],
    values: Mapping[str, Sequence[Any]],
    texts: Mapping[str, Sequence[Sequence[str] | None]],
    kept: Sequence[bool],
) -> DataProfile:
    """Return the profile of the rows of one part that are ``kept``.

    ``values``: field -> value of each row (of a field of labels or tags: their list; None: it has none). ``texts``:
    text field -> the texts of each row.
    """
    profile = DataProfile(rows=sum(kept))
    chosen = [number for number, keeps in enumerate(kept) if keeps]
    for one in fields:
        if one.text:
            lengths = [sum(map(len, found)) for row in chosen if (found := texts[one.name][row]) is not None]
            profile.characters[one.name] = _counted(steps(lengths))
        elif one.name not in values or not one.target:
            continue
        elif one.type == "number":
            profile.targets[one.name] = _counted(steps([values[one.name][row] for row in chosen]))
        elif one.type in ("label", "labels", "strings"):
            given = (values[one.name][row] for row in chosen)
            profile.labels[one.name] = Counter(label for value in given for label in _labels(value))
    read = chosen[:: -(-len(chosen) // READ_ROWS) or 1]
    profile.words = _words(list(_joined(list(texts.values()), read)))
    return profile


def _labels(value: Any) -> Iterable[str]:
    return () if value is None else {value} if isinstance(value, str) else set(value)


def _joined(columns: Sequence[Sequence[Sequence[str] | None]], rows: Iterable[int]) -> Iterator[str]:
    """Yield the texts of each row as one."""
    for row in rows:
        found = [texts for column in columns if (texts := column[row])]
        # Most rows have one text, which needs no joining.
        yield found[0][0] if len(found) == 1 == len(found[0]) else "\n".join(chain.from_iterable(found))


def steps(values: Sequence[float | None]) -> np.ndarray:
    """Return the step of each value that is not None, in their order: int64 [N]; 0 for zero, negative below it."""
    import numpy as np

    given = np.array([value for value in values if value is not None], dtype=np.float64)
    size = np.maximum(np.abs(given), SMALLEST)
    found = np.sign(given) * (1 + np.floor(np.log(size / SMALLEST) / np.log(STEP)))
    return np.where(np.abs(given) <= SMALLEST, 0, found).astype(np.int64)


def value_of(step: int) -> float:
    """Return the smallest size that counts at a step, with its sign: about the value that was counted."""
    size = 0.0 if step == 0 else SMALLEST * STEP ** (abs(step) - 1)
    return size if step >= 0 else -size


def said(step: int, *, whole: bool) -> str:
    """Return the value of a step in words; ``whole``: of whole numbers, the smallest that counts there."""
    value = value_of(step)
    return f"{math.ceil(round(value, 6)):,}" if whole else f"{value:.3g}"


def _counted(numbers: np.ndarray) -> Counter[int]:
    import numpy as np

    found, counts = np.unique(numbers, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _words(texts: Sequence[str]) -> Counter[int]:
    """Return in how many texts there is a word of each bucket.

    Texts of scripts with spaces are cut there, and what stands between them is taken apart once for each distinct
    piece: ten times as fast as a pattern over every text.
    """
    import polars as pl

    read = pl.Series("text", texts, dtype=pl.String).str.head(READ_CHARACTERS).str.to_lowercase()
    is_ascii = read.str.len_bytes() == read.str.len_chars()
    spaced = is_ascii if is_ascii.all() else ~read.str.contains(UNSPACED.pattern)
    found = Counter[int]()
    for pieces in (read.filter(spaced).str.split(" "), read.filter(~spaced).str.extract_all(_WORD.pattern)):
        for piece, count in _distinct(pieces):
            for word in (piece,) if piece.isascii() and piece.isalpha() else _WORD.findall(_DIGIT.sub("0", piece)):
                found[zlib.crc32(word.encode()) % BUCKETS] += count
    return found


def _distinct(pieces: pl.Series) -> Iterable[tuple[str, int]]:
    """Yield each piece and how many lists have it."""
    import polars as pl

    return pl.Series(pieces.list.unique().to_arrow().flatten(), dtype=pl.String).value_counts().iter_rows()
