"""Compare parts by their sketches: who repeats whom, in which clusters, and whose label says otherwise.

Texts with one normal form are one *group*, found by sorting digests. Groups that share a band are candidates, found by
sorting one band after the other, which needs memory for a few numbers a row whatever the number of pairs; candidates
are checked on their pieces, which stay in mapped files. Of all pairs only what is reported is kept: for each group and
split the nearest earlier row, and which cluster (connected component) it is in. So memory is linear in rows.

Boilerplate makes bands that thousands of texts share. In a band with more than ``bucket_texts`` of them each is
compared with the ``bucket_texts`` that follow it and with the first of each split, and what was left out is counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.duplicates.sketching import BAND_SLOTS, BANDS, KEPT_PIECES, SLOTS, Sketch, sorted_unique
from graft.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]
    Lines = tuple[Array, Array, Array, Array]

CANDIDATES = 1 << 22
"""Candidate pairs that are held before they are made unique and checked."""
DEVIATIONS = 3
"""How far from what is expected at the threshold the agreement of slots may be, in standard deviations."""
CHECKED_PIECES, CACHED_PIECES = 1 << 23, 1 << 16
"""Pieces of the pairs that are read at once, and that are compared at once (which fit a processor's cache)."""
EXACT, NEAR, CONTRADICTION = "exact", "near", "contradiction"


class DuplicatesConfig(Section):
    """What counts as a near-duplicate, and what is spent on finding them."""

    threshold: float = Limit(default=0.7, ge=0.6, le=1.0)
    """The least Jaccard similarity of two texts' pieces (words and their letters in threes) that are near-duplicates.
    One word of ten changed leaves 0.7 to 0.9. Below 0.6 candidates would be missed: see ``recall``."""

    bucket_texts: int = Limit(default=64, ge=2, le=10_000)
    """In a MinHash band that more texts share than this, each is compared with this many others, not with all."""


def recall(similarity: float) -> float:
    """Return the share of pairs of this Jaccard similarity that become candidates, in bands that are not full."""
    return float(1 - (1 - similarity**BAND_SLOTS) ** BANDS)


@dataclass(frozen=True)
class Part:
    """A part as it is compared: a name that is reported, the split it belongs to, its sketch."""

    name: str
    split: str
    sketch: Sketch


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    table: pa.Table
    """One line for each row and split that hold the same: ``kind`` (``exact``: the same text; ``near``: similar, or the
    same normal form; ``contradiction``: the same normal form with another label), ``part``, ``row`` (its number),
    ``split`` and, of the row that it repeats, ``of_part``, ``of_row``, ``of_split``; ``similarity`` (float32, 1 for one
    normal form); ``cluster`` (int64, numbered in the order of their first rows).

    The row that is repeated comes first in the order of splits, parts and rows, and is the most similar one of its
    split: who drops all rows of lines with ``split == of_split`` keeps one of each. Of a row that is exact or of one
    normal form with a row of a split, no near one of that split is named."""
    rows: int
    """Rows compared."""
    texts: int
    """Distinct normal forms among them."""
    checked: int
    """Candidate pairs that were checked on their pieces."""
    full_buckets: int
    """Bands that more than ``bucket_texts`` texts share."""
    pairs_left_out: int
    """Pairs in those that were not compared there; another band may have brought them together."""
    clusters: int
    """Clusters of two or more rows."""


def compare(parts: Sequence[Part], config: DuplicatesConfig | None = None) -> Comparison:
    """Compare all rows of all parts by their sketches, within and across splits.

    Splits are ordered by their first part, and parts within a split as given: the earlier row is the one that is
    repeated. The same parts in the same order give the same table.

    Raises:
        DataError: there are more rows than the 2**31 that can be numbered.
    """
    config = config or DuplicatesConfig()
    corpus = _Corpus.of(parts)
    nearest = _Nearest.of(corpus)
    census = _Census()
    for first, second in _candidates(corpus, config, census):
        census.checked += len(first)
        for part in _slices(corpus.kept(first) + corpus.kept(second), CHECKED_PIECES):
            similarity = _similarities(corpus, first[part], second[part])
            near = similarity >= config.threshold
            nearest.add(first[part][near], second[part][near], similarity[near])
    return _report(corpus, nearest, census)


@dataclass
class _Census:
    checked: int = 0
    full_buckets: int = 0
    pairs_left_out: int = 0


@dataclass(frozen=True)
class _Corpus:
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
    def of(cls, parts: Sequence[Part]) -> _Corpus:
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
        group, leaders = _numbered(normal)
        text, _ = _numbered(joined([one.sketch.text for one in ordered], "uint64"))
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


def _numbered(digests: Array) -> tuple[Array, Array]:
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


def _candidates(corpus: _Corpus, config: DuplicatesConfig, census: _Census) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of groups (lower, higher) that share a band and whose sizes allow the threshold, many at a time."""
    import numpy as np

    held: list[Array] = []
    count = 0
    for number in range(BANDS):
        for low, high in _pairs_of_band(corpus, corpus.band(number), config.bucket_texts, census):
            possible = _may_reach(corpus, low, high, config.threshold)
            held.append(low[possible].astype(np.uint64) << np.uint64(32) | high[possible].astype(np.uint64))
            count += len(held[-1])
            if count >= CANDIDATES:
                yield _unpacked(held)
                held, count = [], 0
    if count:
        yield _unpacked(held)


def _may_reach(corpus: _Corpus, low: Array, high: Array, threshold: float) -> Array:
    """Say which pairs may be as similar as the threshold, by the sizes of their sets and by a bit of each slot.

    The similarity is at most the smaller size over the larger one. Of two texts' bits (1 + similarity) / 2 agree, give
    or take 0.026 at 0.7: a pair at the threshold is lost once in 700 times (three standard deviations).
    """
    import numpy as np

    small, large = np.minimum(corpus.size[low], corpus.size[high]), np.maximum(corpus.size[low], corpus.size[high])
    differing = sum(np.bitwise_count(word[low] ^ word[high]).astype(np.int64) for word in corpus.bits)
    probability = (1 - threshold) / 2
    most = SLOTS * probability + DEVIATIONS * math.sqrt(SLOTS * probability * (1 - probability))
    possible: Array = (small >= threshold * large) & (differing <= most)
    return possible


def _unpacked(held: list[Array]) -> tuple[Array, Array]:
    import numpy as np

    pairs = sorted_unique(np.concatenate(held))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _pairs_of_band(corpus: _Corpus, band: Array, bucket: int, census: _Census) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of groups with equal values in a band; in a full bucket, those near each other and the first ones."""
    import numpy as np

    keys = np.sort(band.astype(np.uint64) << np.uint64(32) | np.arange(len(band), dtype=np.uint64))
    values, groups = keys >> np.uint64(32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    lengths = np.diff(np.append(begins, len(values)))
    shared = lengths > 1
    begins, lengths = begins[shared], lengths[shared]
    at = np.repeat(begins, lengths) + _counted(lengths)  # positions in buckets of two or more, bucket by bucket
    left = np.repeat(lengths, lengths) - _counted(lengths)  # the position itself and those that follow it in its bucket
    for distance in range(1, min(bucket, int(lengths.max(initial=1)) - 1) + 1):
        at, left = at[left > distance], left[left > distance]
        yield groups[at], groups[at + distance]
    full = lengths > bucket + 1
    if full.any():
        census.full_buckets += int(full.sum())
        yield from _pairs_with_first(corpus, groups, begins[full], lengths[full], bucket, census)


def _pairs_with_first(
    corpus: _Corpus, groups: Array, begins: Array, lengths: Array, bucket: int, census: _Census
) -> Iterator[tuple[Array, Array]]:
    """Yield the pairs of each group of full buckets with the bucket's first one of each split; count the rest."""
    import numpy as np

    owner = np.repeat(np.arange(len(begins)), lengths)
    members = groups[np.repeat(begins, lengths) + _counted(lengths)]
    place, leads = np.arange(len(members)), np.zeros(len(members), bool)
    done = bucket * lengths - bucket * (bucket + 1) // 2
    for split in range(len(corpus.splits)):
        inside = np.flatnonzero(corpus.first[members, split] < len(corpus.group))
        which, first = np.unique(owner[inside], return_index=True)
        leader = np.full(len(begins), -1)
        leader[which] = inside[first]
        ahead = leader[owner]
        # What leads an earlier split has been compared with all.
        far = (ahead >= 0) & (np.abs(place - ahead) > bucket) & ~leads & ~leads[ahead]
        leads[leader[which]] = True
        low, high = members[far], members[ahead[far]]
        done = done + np.bincount(owner[far], minlength=len(begins))
        yield np.minimum(low, high), np.maximum(low, high)
    census.pairs_left_out += int(np.maximum(lengths * (lengths - 1) // 2 - done, 0).sum())


def _counted(lengths: Array) -> Array:
    """Return 0, 1, ... for each length, one after the other."""
    import numpy as np

    counted: Array = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return counted


def _slices(lengths: Array, most: int) -> Iterator[slice]:
    """Yield slices whose lengths have a sum of some ``most``."""
    import numpy as np

    total = np.cumsum(lengths)
    cuts = np.searchsorted(total, np.arange(most, int(total[-1]), most))
    bounds = np.unique(np.concatenate([[0], cuts, [len(lengths)]])).tolist()
    yield from itertools.starmap(slice, itertools.pairwise(bounds))


def _similarities(corpus: _Corpus, first: Array, second: Array) -> Array:
    """Return the Jaccard similarity of each pair (at least one): float64 [P].

    Exact where both texts have at most ``KEPT_PIECES`` pieces. Otherwise both sets are known only up to a hash, the
    lower of the two largest that were kept; below it they are random samples of their sets, and comparing these is the
    bottom-k estimate (Cohen and Kaplan, 2007), whose standard error is at most 0.5 / sqrt(KEPT_PIECES) = 0.03.
    """
    import numpy as np

    groups, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    pieces, lengths = _pieces_of(corpus, groups)
    begins = np.cumsum(lengths) - lengths
    whole = corpus.size[groups] <= KEPT_PIECES
    limit = np.where(whole, np.uint32(0xFFFFFFFF), pieces[begins + lengths - 1])
    a, b = inverse[: len(first)], inverse[len(first) :]
    found = []
    for part in _slices(lengths[a] + lengths[b], CACHED_PIECES):
        sides = (a[part], b[part])
        limits = np.minimum(limit[sides[0]], limit[sides[1]])
        keys = np.sort(np.concatenate([_keys(pieces, begins[side], lengths[side], limits) for side in sides]))
        pair = (keys >> np.uint64(32)).astype(np.int64)
        common = np.bincount(pair[1:][keys[1:] == keys[:-1]], minlength=len(limits))
        found.append(common / (np.bincount(pair, minlength=len(limits)) - common))
    return np.concatenate(found)


def _keys(pieces: Array, begins: Array, lengths: Array, limits: Array) -> Array:
    """Return the pieces of one text of each pair up to the pair's limit, each with the number of its pair above it."""
    import numpy as np

    pair = np.repeat(np.arange(len(begins)), lengths)
    values = pieces[np.repeat(begins, lengths) + _counted(lengths)]
    inside = values <= limits[pair]
    keys: Array = pair[inside].astype(np.uint64) << np.uint64(32) | values[inside]
    return keys


def _pieces_of(corpus: _Corpus, groups: Array) -> tuple[Array, Array]:
    """Return the kept pieces of the groups (ascending numbers), one after the other, and how many each has."""
    import numpy as np

    found, lengths = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    owners = corpus.owner[groups]
    for part in np.unique(owners):
        sketch = corpus.parts[part].sketch
        place = corpus.place[groups[owners == part]]
        begins = sketch.offsets[place].astype(np.int64)
        lengths.append(sketch.offsets[place + 1].astype(np.int64) - begins)
        found.append(sketch.pieces[np.repeat(begins, lengths[-1]) + _counted(lengths[-1])])
    return np.concatenate(found), np.concatenate(lengths)


@dataclass
class _Nearest:
    """For each group and split the most similar earlier row outside the group, and the clusters of groups."""

    corpus: _Corpus
    similarity: Array
    """float32 [G, S]; 0 where there is none."""
    row: Array
    """int32 [G, S]; N where there is none."""
    cluster: Array
    """int32 [G]"""
    last: Array = field(init=False)
    """int8 [G]: the last split in which the group has rows."""

    def __post_init__(self) -> None:
        import numpy as np

        has = self.corpus.first < len(self.corpus.group)
        self.last = (has * np.arange(has.shape[1])).max(axis=1, initial=0)

    @classmethod
    def of(cls, corpus: _Corpus) -> _Nearest:
        import numpy as np

        shape = (corpus.groups, len(corpus.splits))
        rows = len(corpus.group)
        return cls(corpus, np.zeros(shape, np.float32), np.full(shape, rows, np.int32), np.arange(corpus.groups))

    def add(self, first: Array, second: Array, similarity: Array) -> None:
        """Take in pairs of groups that are near each other."""
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(first):
            return
        ends = self.cluster[first], self.cluster[second]
        shape = (self.corpus.groups, self.corpus.groups)
        _, component = connected_components(coo_array((np.ones(len(first), np.int8), ends), shape), directed=False)
        self.cluster = component[self.cluster]
        near = similarity.astype(np.float32)
        for split in range(len(self.corpus.splits)):
            for group, other in ((first, second), (second, first)):
                self._add_from(split, group, other, near)

    def _add_from(self, split: int, group: Array, other: Array, similarity: Array) -> None:
        """Offer each group the first row of the other one in a split."""
        import numpy as np

        own, row = self.corpus.first[group, split], self.corpus.first[other, split]
        none = len(self.corpus.group)
        # Its own first row there needs an earlier one; without rows there, its rows in later splits may point to it.
        useful = (row < own) & ((own < none) | (self.last[group] > split))
        group, row, similarity = group[useful], row[useful], similarity[useful]
        order = np.lexsort((row, -similarity, group))
        group, row, similarity = group[order], row[order], similarity[order]
        best = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
        group, row, similarity = group[best], row[best], similarity[best]
        had = self.similarity[group, split], self.row[group, split]
        better = (similarity > had[0]) | ((similarity == had[0]) & (row < had[1]))
        self.similarity[group[better], split] = similarity[better]
        self.row[group[better], split] = row[better]


def _report(corpus: _Corpus, nearest: _Nearest, census: _Census) -> Comparison:
    import numpy as np
    import pyarrow as pa

    cluster, clusters = _clusters(corpus, nearest)
    found = [_no_lines(), *_repeats(corpus, nearest), *_contradictions(corpus)]
    rows, others, similarity, kind = (np.concatenate([lines[at] for lines in found]) for at in range(4))
    order = np.lexsort((kind, others, rows))
    rows, others, similarity, kind = rows[order], others[order], similarity[order], kind[order]
    names, splits = pa.array([part.name for part in corpus.parts], pa.string()), pa.array(corpus.splits, pa.string())

    def named(codes: Array, words: pa.Array) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), words)

    table = pa.table(
        {
            "kind": named(kind, pa.array([EXACT, NEAR, CONTRADICTION])),
            "part": named(corpus.part[rows], names),
            "row": pa.array(corpus.number[rows], pa.uint32()),
            "split": named(corpus.split[rows], splits),
            "of_part": named(corpus.part[others], names),
            "of_row": pa.array(corpus.number[others], pa.uint32()),
            "of_split": named(corpus.split[others], splits),
            "similarity": pa.array(similarity, pa.float32()),
            "cluster": pa.array(cluster[corpus.group[rows]], pa.int64()),
        }
    )
    return Comparison(
        table=table,
        rows=len(corpus.group),
        texts=corpus.groups,
        checked=census.checked,
        full_buckets=census.full_buckets,
        pairs_left_out=census.pairs_left_out,
        clusters=clusters,
    )


def _clusters(corpus: _Corpus, nearest: _Nearest) -> tuple[Array, int]:
    """Return each group's cluster, numbered by first rows, -1 for a row alone: int64 [G]; and how many."""
    import numpy as np

    rows = np.bincount(nearest.cluster[corpus.group], minlength=corpus.groups)
    several = rows[nearest.cluster] > 1
    number = np.full(corpus.groups, -1, np.int64)
    found, first = _numbered(nearest.cluster[several])
    number[several] = found
    return number, len(first)


def _no_lines() -> Lines:
    import numpy as np

    whole, share = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return whole, whole, share, whole


def _repeats(corpus: _Corpus, nearest: _Nearest) -> Iterator[Lines]:
    """Yield row, row that it repeats, similarity and kind, split by split of the second."""
    import numpy as np

    rows = np.arange(len(corpus.group))
    for split in range(len(corpus.splits)):
        same = corpus.first_text[corpus.text, split]
        equal = corpus.first[corpus.group, split]
        exact = same < rows
        normal = (equal < rows) & ~exact
        other = nearest.row[corpus.group, split]
        # In its own split only the group's first row needs a near one: the others have the first.
        near = (other < rows) & ~exact & ~normal & (corpus.split >= split)
        near &= (corpus.split > split) | (equal == rows)
        for chosen, found, score, kind in (
            (exact, same, np.ones(len(rows), np.float32), 0),
            (normal, equal, np.ones(len(rows), np.float32), 1),
            (near, other, nearest.similarity[corpus.group, split], 1),
        ):
            yield rows[chosen], found[chosen], score[chosen], np.full(int(chosen.sum()), kind)


def _contradictions(corpus: _Corpus) -> Iterator[Lines]:
    """Yield each row whose label differs from that of the first labelled row of its group, and that row."""
    import numpy as np

    labelled = np.flatnonzero(corpus.label)
    if not len(labelled):
        return
    first = np.zeros(corpus.groups, np.int64)
    first[corpus.group[labelled[::-1]]] = labelled[::-1]
    other = first[corpus.group[labelled]]
    differs = corpus.label[labelled] != corpus.label[other]
    rows, other = labelled[differs], other[differs]
    yield rows, other, np.ones(len(rows), np.float32), np.full(len(rows), 2)
