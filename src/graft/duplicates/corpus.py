"""The rows of all parts as arrays: which texts are the same, where each first stands, whose sketch describes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.duplicates.sketching import KEPT_PIECES, SLOTS, Sketch
from graft.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """A part as it is compared: a name that is reported, the split it belongs to, its sketch."""

    name: str
    split: str
    sketch: Sketch


@dataclass(frozen=True)
class Corpus:
    """The rows of all parts in order (N), their groups (G, numbered by their first rows) and splits (S)."""

    parts: Sequence[Part]
    splits: list[str]
    part: Array
    """int32 [N]"""
    split: Array
    """int8 [N]"""
    number: Array
    """uint32 [N]"""
    label: Array
    """uint64 [N]"""
    group: Array
    """int32 [N]"""
    first: Array
    """int32 [G, S]: the group's first row in each split; N where it has none."""
    first_text: Array
    """int32 [T, S]: the same by exact texts."""
    text: Array
    """int32 [N]: the exact text of each row, 0 to T - 1."""
    owner: Array
    """int32 [G]: the part whose sketch holds the group's bands and pieces."""
    place: Array
    """int32 [G]: where in it."""
    owned: list[tuple[Sketch, Array]]
    """The sketch of each part, and where in it the groups are that are its own, in their order."""
    size: Array
    """uint32 [G]"""
    bits: Array
    """uint64 [SLOTS / 64, G]"""

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Corpus:
        import numpy as np

        splits = list(dict.fromkeys(part.split for part in parts))
        ordered = [part for split in splits for part in parts if part.split == split]
        lengths = [part.sketch.rows for part in ordered]
        rows = sum(lengths)
        if rows >= 2**31:
            raise DataError(f"{rows} rows, more than the {2**31 - 1} that can be compared at once; compare fewer parts")

        def joined(arrays: list[Array], dtype: str) -> Array:
            return np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype, casting="unsafe")

        part = np.repeat(np.arange(len(ordered), dtype=np.int32), lengths)
        split = np.asarray([splits.index(one.split) for one in ordered], np.int8)[part]
        distinct = joined([one.sketch.distinct for one in ordered], "int32")
        normal = joined([one.sketch.normal[one.sketch.distinct] for one in ordered], "uint64")
        group, leaders = numbered(normal)
        text, _ = numbered(joined([one.sketch.text for one in ordered], "uint64"))
        owner, place = part[leaders], distinct[leaders]
        owned = [
            (one.sketch, place[start:end])
            for one, (start, end) in zip(ordered, _runs(owner, len(ordered)), strict=True)
        ]
        return cls(
            splits=splits,
            parts=ordered,
            part=part,
            split=split,
            number=joined([one.sketch.number for one in ordered], "uint32"),
            label=joined([one.sketch.label for one in ordered], "uint64"),
            group=group,
            first=_first_rows(group, split, len(splits)),
            text=text,
            first_text=_first_rows(text, split, len(splits)),
            owner=owner,
            place=place,
            owned=owned,
            size=joined([one.size[at] for one, at in owned], "uint32"),
            bits=np.concatenate(
                [np.zeros((SLOTS // 64, 0), np.uint64), *(one.bits[:, at] for one, at in owned)], axis=1
            ),
        )

    @property
    def groups(self) -> int:
        return len(self.owner)

    def kept(self, groups: Array) -> Array:
        """Return how many pieces are kept of each group: int64 [P]."""
        import numpy as np

        return np.minimum(self.size[groups], KEPT_PIECES).astype(np.int64)

    def band(self, number: int) -> Array:
        """Return one band of all groups: uint32 [G]."""
        import numpy as np

        return np.concatenate([np.zeros(0, np.uint32), *(sketch.bands[number][at] for sketch, at in self.owned)])


def _runs(owner: Array, parts: int) -> Iterator[tuple[int, int]]:
    """Yield where the groups of each part begin and end; they follow each other."""
    import numpy as np

    bounds = np.searchsorted(owner, np.arange(parts + 1))
    yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def numbered(digests: Array) -> tuple[Array, Array]:
    """Return the number of each digest in the order of first occurrence, int32 [N], and the first occurrences."""
    import numpy as np

    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse], np.sort(first)


def _first_rows(group: Array, split: Array, splits: int) -> Array:
    """Return the first row of each group in each split: int32 [G, S]; N where there is none."""
    import numpy as np

    rows = len(group)
    found = np.full((int(group.max()) + 1 if rows else 0, splits), rows, np.int32)
    backwards = np.arange(rows - 1, -1, -1, dtype=np.int32)
    found[group[backwards], split[backwards]] = backwards  # the last that is written stays
    return found


def counted(lengths: Array) -> Array:
    """Return 0, 1, ... for each length, one after the other."""
    import numpy as np

    counted: Array = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return counted
