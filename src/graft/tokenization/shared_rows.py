"""Which rows of one split another one has too, from the sorted digests of their parts, a bucket of digests at a time.

No table is opened and no row is held: a part's digests are mapped from disk, and a bucket is a slice of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BUCKET_ROWS = 1 << 20
"""About how many rows' digests of the split that is looked into are held at once: 8 MiB."""


def count_shared(rows: Sequence[Path], others: Sequence[Path]) -> int:
    """Return how many digests in the files ``rows`` occur in the files ``others``; all are sorted, uint64 [N]."""
    import numpy as np

    ours, theirs = ([np.load(path, mmap_mode="r") for path in paths] for paths in (rows, others))
    buckets = -(-sum(map(len, theirs)) // BUCKET_ROWS)
    edges = [bucket * (1 << 64) // buckets for bucket in range(1, buckets)]
    shared = 0
    for known, asked in zip(_slices(theirs, edges), _slices(ours, edges), strict=True):
        whole = np.sort(np.concatenate(known))
        if len(whole):
            shared += sum(_count_in(whole, one) for one in asked)
    return shared


def _slices(parts: Sequence[np.ndarray], edges: Sequence[int]) -> list[list[np.ndarray]]:
    """Return the slices of sorted ``parts`` between ``edges``: for each bucket, one of each part."""
    import numpy as np

    cuts = [[0, *np.searchsorted(one, np.array(edges, np.uint64)).tolist(), len(one)] for one in parts]
    return [
        [one[cut[bucket] : cut[bucket + 1]] for one, cut in zip(parts, cuts, strict=True)]
        for bucket in range(len(edges) + 1)
    ]


def _count_in(whole: np.ndarray, asked: np.ndarray) -> int:
    """Return how many values of ``asked`` the sorted array ``whole`` has."""
    import numpy as np

    places = np.minimum(np.searchsorted(whole, asked), len(whole) - 1)
    return int((whole[places] == asked).sum())
