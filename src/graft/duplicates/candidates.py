"""Which texts may be similar, by their bands, and how similar they are, by their pieces.

Bands are sorted one after the other, which needs memory for a few numbers a text whatever the number of pairs.
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
    count = 0
    for number in range(BANDS):
        for low, high in _pairs_of_band(corpus, corpus.band(number), bucket, census):
            possible = _may_reach(corpus, low, high, threshold)
            held.append(low[possible].astype(np.uint64) << np.uint64(32) | high[possible].astype(np.uint64))
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


def _unpacked(held: list[Array]) -> tuple[Array, Array]:
    import numpy as np

    pairs = sorted_unique(np.concatenate(held))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _pairs_of_band(corpus: Corpus, band: Array, bucket: int, census: Census) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of groups with equal values in a band; in a full bucket, those near each other and the first ones."""
    import numpy as np

    keys = np.sort(band.astype(np.uint64) << np.uint64(32) | np.arange(len(band), dtype=np.uint64))
    values, groups = keys >> np.uint64(32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    lengths = np.diff(np.append(begins, len(values)))
    shared = lengths > 1
    begins, lengths = begins[shared], lengths[shared]
    at = np.repeat(begins, lengths) + counted(lengths)  # positions in buckets of two or more, bucket by bucket
    left = np.repeat(lengths, lengths) - counted(lengths)  # the position itself and those that follow it in its bucket
    for distance in range(1, min(bucket, int(lengths.max(initial=1)) - 1) + 1):
        at, left = at[left > distance], left[left > distance]
        yield groups[at], groups[at + distance]
    full = lengths > bucket + 1
    if full.any():
        census.full_buckets += int(full.sum())
        yield from _pairs_with_first(corpus, groups, begins[full], lengths[full], bucket, census)


def _pairs_with_first(
    corpus: Corpus, groups: Array, begins: Array, lengths: Array, bucket: int, census: Census
) -> Iterator[tuple[Array, Array]]:
    """Yield the pairs of each group of full buckets with the bucket's first one of each split; count the rest."""
    import numpy as np

    owner = np.repeat(np.arange(len(begins)), lengths)
    members = groups[np.repeat(begins, lengths) + counted(lengths)]
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
