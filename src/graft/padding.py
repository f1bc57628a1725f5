"""Rows of unequal length to tensors, and windows that are kept one after the other in a row.

Every position of a tensor is computed, also those that only fill it up; who makes batches puts rows of like length
together. A row too long for the base is cut into windows at tokenization. It stays one token row (``input_ids`` holds
all windows, another column their lengths), so that rows, predictions and places stay one to one; a batch then has a
line per window, and ``window_row`` says whose it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


WHOLE_TOKENS = 32
"""What runs through products of matrices is filled up to a multiple of this. On a CPU, each product is compiled for its
shape when it first comes (2 ms, as long as a product takes): lines of any length would never stop bringing new ones."""
WINDOWS_TOGETHER = 64
"""Windows that are scored in one pass: a long row times a large vocabulary would not fit in memory."""


def padded(rows: Sequence[Sequence[int]], filler: int, *, width: int | None = None, left: bool = False) -> torch.Tensor:
    """Return the rows filled up with ``filler``, on the right or the ``left``: int64 [B, T].

    T is ``width``, by default the length of the longest row.
    """
    import torch

    wide = max((len(row) for row in rows), default=0) if width is None else width
    if left:
        return torch.tensor([[*[filler] * (wide - len(row)), *row] for row in rows], dtype=torch.int64)
    return torch.tensor([[*row, *[filler] * (wide - len(row))] for row in rows], dtype=torch.int64)


def mask_of(rows: Sequence[Sequence[Any]], *, left: bool = False) -> torch.Tensor:
    """Return 1 where :func:`padded` has a row's own values and 0 where it filled up: int64 [B, T]."""
    return padded([[1] * len(row) for row in rows], 0, left=left)


def windows_of(count: int, room: int, overlap: int) -> list[range]:
    """Return the windows of at most ``room`` items that cover ``count`` of them; neighbours share ``overlap`` items.

    At most half a window is shared, so that they go on; no items are one empty window.
    """
    shared = min(overlap, room // 2)
    return [range(at, min(at + room, count)) for at in range(0, max(count - shared, 1), room - shared)]


def split_windows(flat: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the windows that stand one after the other in ``flat``."""
    start = 0
    for length in lengths:
        yield flat[start : start + length]
        start += length


def pieces_of(
    batch: Mapping[str, torch.Tensor], most: int, *, by_row: Collection[str] = ()
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield ``most`` lines of a batch of windows after another; tensors ``by_row``, not by line, are left out."""
    for start in range(0, len(batch["window_row"]), most):
        yield {name: value[start : start + most] for name, value in batch.items() if name not in by_row}
