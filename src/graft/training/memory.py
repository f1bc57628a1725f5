"""A step that memory does not hold is done in smaller pieces.

The pieces that go through the model one after another are halved, and the step begins anew with the same dropout: the
rows of a step, their order and its gradient stay, up to rounding. How often was halved goes into checkpoints, so that a
resumed training goes on with the same pieces and ends at the same bytes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

SAID = ("can't allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED", "could not create a primitive")
"""What torch's errors say that have no type of their own: the allocator of the CPU, C++, cuBLAS, oneDNN (which has no
room to compile a product)."""


class MemoryFullError(Exception):
    """Memory does not hold these rows at once."""

    def __init__(self, rows: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.rows, self.reason = rows, reason


@contextlib.contextmanager
def noticed(rows: Sequence[int]) -> Iterator[None]:
    """Turn each way in which torch says that memory is full into a :class:`MemoryFullError` for ``rows``.

    Raises:
        MemoryFullError: it is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in SAID):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MemoryFullError(rows, reason) from None


def halved(pieces: Iterable[list[int]], times: int) -> Iterator[list[int]]:
    """Yield the rows of ``pieces`` in pieces that were halved so many times, none below one row."""
    for rows in pieces:
        size = math.ceil(len(rows) / 2**times)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def release() -> None:
    """Give back what a failed step left in the allocator of a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
