"""Which texts may be similar, by their bands, and how similar they are, by their pieces.

Bands are sorted one after the other, which needs memory for a few numbers a text whatever the number of pairs. The
texts with one value in a band are a bucket. Boilerplate fills buckets with thousands; comparing all of these would be
quadratic. In a *full* bucket each text is compared with a few that follow it and with the first of each split, in
``FULL_TURNS`` full buckets at most: every text is compared with some of its kind, and what was left out is counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.duplicates.corpus import Corpus, counted
from graft.duplicates.sketching import BAND_SLOTS, BANDS, KEPT_PIECES, SLOTS, sorted_unique

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

CANDIDATES = 1 << 22
"""Candidate pairs that are held before they are made unique and checked."""
FULL_NEIGHBOURS, FULL_TURNS = 8, 4
"""How many others of a full bucket a text is compared with beside the first ones, and in how many full buckets."""
DEVIATIONS = 3
"""How far from what is expected at the threshold the agreement of slots may be, in standard deviations."""
CHECKED_PIECES, CACHED_PIECES = 1 << 23, 1 << 16
"""Pieces of the pairs that are read at once, and that are compared at once (which fit a processor's cache)."""


def recall(similarity: float) -> float:
    """Return the share of pairs of this Jaccard similarity that become candidates, in bands that are not full."""
    return float(1 - (1 - similarity**BAND_SLOTS) ** BANDS)


@dataclass
class Census:
    """What was spent and what was saved, as ``Comparison`` says it."""

    checked: int = 0
    full_buckets: int = 0
    pairs_left_out: int = 0


def candidates(corpus: Corpus, threshold: float, bucket: int, census: Census) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of groups (lower, higher) that share a band and whose sizes allow the threshold, many at a time."""
    import numpy as np

    held: list[Array] = []
    count, turns = 0, np.zeros(corpus.groups, np.uint8)
    for number in range(BANDS):
        for low, high in _pairs_of_band(corpus, corpus.band(number), bucket, turns, census):
            possible = _may_reach(corpus, low, high, threshold)
            held.append(_packed(low[possible], high[possible]))
            count += len(held[-1])
            if count >= CANDIDATES:
                yield _unpacked(held)
                held, count = [], 0
    if count:
        yield _unpacked(held)


def _may_reach(corpus: Corpus, low: Array, high: Array, threshold: float) -> Array:
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


def _packed(low: Array, high: Array) -> Array:
    import numpy as np

    packed: Array = low.astype(np.uint64) << np.uint64(32) | high.astype(np.uint64)
    return packed


def _unpacked(held: list[Array]) -> tuple[Array, Array]:
    """Return the pairs of groups in ascending order, each once."""
    import numpy as np

    pairs = sorted_unique(np.concatenate(held))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _pairs_of_band(
    corpus: Corpus, band: Array, bucket: int, turns: Array, census: Census
) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of groups with equal values in a band: all of them, or of a full bucket some."""
    import numpy as np

    keys = np.sort(band.astype(np.uint64) << np.uint64(32) | np.arange(len(band), dtype=np.uint64))
    values, groups = keys >> np.uint64(32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    lengths = np.diff(np.append(begins, len(values)))
    some, full = (lengths > 1) & (lengths <= bucket), lengths > bucket
    yield from _neighbours(*_members(groups, begins[some], lengths[some]), bucket - 1)
    if full.any():
        pairs = _pairs_of_full(corpus, *_members(groups, begins[full], lengths[full]), turns)
        census.full_buckets += int(full.sum())
        census.pairs_left_out += int((lengths[full] * (lengths[full] - 1) // 2).sum()) - len(pairs[0])
        yield pairs


def _members(groups: Array, begins: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the groups of buckets, one bucket after the other, and the number of each one's bucket."""
    import numpy as np

    return groups[np.repeat(begins, lengths) + counted(lengths)], np.repeat(np.arange(len(begins)), lengths)


def _neighbours(members: Array, bucket: Array, most: int) -> Iterator[tuple[Array, Array]]:
    """Yield the pairs of each group with the ``most`` that follow it in its bucket."""
    import numpy as np

    at = np.arange(len(members))
    for distance in range(1, most + 1):
        at = at[at < len(members) - distance]
        at = at[bucket[at] == bucket[at + distance]]
        if not len(at):
            return
        yield members[at], members[at + distance]


def _pairs_of_full(corpus: Corpus, members: Array, bucket: Array, turns: Array) -> tuple[Array, Array]:
    """Return some pairs of full buckets: of each group with a few that follow it and with the first of each split.

    A group takes part in a few full buckets and only leads the others: what it shares with so many texts more often
    is the same template. ``turns`` counts them, uint8 [G].
    """
    import numpy as np

    active = turns[members] < FULL_TURNS
    turns[members[active]] += 1
    pairs = list(_neighbours(members[active], bucket[active], FULL_NEIGHBOURS))
    for split in range(len(corpus.splits)):
        inside = np.flatnonzero(corpus.first[members, split] < len(corpus.group))
        which, first = np.unique(bucket[inside], return_index=True)
        leader = np.full(int(bucket[-1]) + 1, -1)
        leader[which] = members[inside[first]]
        ahead, follower = leader[bucket[active]], members[active]
        follower, ahead = follower[ahead >= 0], ahead[ahead >= 0]
        different = follower != ahead
        pairs.append((np.minimum(follower, ahead)[different], np.maximum(follower, ahead)[different]))
    return _unpacked([_packed(*pair) for pair in pairs])


def slices(lengths: Array, most: int) -> Iterator[slice]:
    """Yield slices whose lengths have a sum of some ``most``."""
    import numpy as np

    total = np.cumsum(lengths)
    cuts = np.searchsorted(total, np.arange(most, int(total[-1]), most))
    bounds = np.unique(np.concatenate([[0], cuts, [len(lengths)]])).tolist()
    yield from itertools.starmap(slice, itertools.pairwise(bounds))


def similarities(corpus: Corpus, first: Array, second: Array) -> Array:
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
    for part in slices(lengths[a] + lengths[b], CACHED_PIECES):
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
    values = pieces[np.repeat(begins, lengths) + counted(lengths)]
    inside = values <= limits[pair]
    keys: Array = pair[inside].astype(np.uint64) << np.uint64(32) | values[inside]
    return keys


def _pieces_of(corpus: Corpus, groups: Array) -> tuple[Array, Array]:
    """Return the kept pieces of the groups (ascending numbers), one after the other, and how many each has."""
    import numpy as np

    found, lengths = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    owners = corpus.owner[groups]
    for part in np.unique(owners):
        sketch = corpus.parts[part].sketch
        place = corpus.place[groups[owners == part]]
        begins = sketch.offsets[place].astype(np.int64)
        lengths.append(sketch.offsets[place + 1].astype(np.int64) - begins)
        found.append(sketch.pieces[np.repeat(begins, lengths[-1]) + counted(lengths[-1])])
    return np.concatenate(found), np.concatenate(lengths)
