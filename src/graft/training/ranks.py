"""The processes that train one adapter together: who is which, and the little that they tell each other.

Each process (rank) has the whole adapter, and the same one: it runs its share of a step's rows, the summed gradients
are added over all in one flat reduction, and every rank makes the same update. torch's ``DistributedDataParallel``
would do the reduction inside of ``backward``; why it is not used is in docs/decisions/0026.

A training in one process is the case :data:`ALONE`, in which nothing is sent.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from graft.training.signals import Stop

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


class Ranks:
    """One rank's view of all of them."""

    def __init__(self, number: int = 0, size: int = 1, *, sharded: bool = False) -> None:
        """Stand for rank ``number`` of ``size``; where there are several, torch.distributed connects them.

        ``sharded``: each rank holds a part of the frozen base, so that all of them run the model equally often.
        """
        self.number, self.size, self.sharded = number, size, sharded
        self.stop: Stop | None = None
        """Whose signal :meth:`exchange` passes on."""
        self._signal = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.number == 0

    def stopped_by(self, stop: Stop) -> str | None:
        """Return the signal that asks to end: of several ranks the same on each, as of the last :meth:`exchange`."""
        if self.size == 1:
            return stop.signal_name
        return signal.Signals(self._signal).name if self._signal else None

    def share(self, rows: Sequence[Value]) -> list[Value]:
        """Return this rank's rows of ``rows``, every ``size``-th: where they lie by length, all get like lengths."""
        return list(rows[self.number :: self.size])

    def exchange(self, *values: float) -> list[tuple[float, ...]]:
        """Return the numbers of each rank, in the order of the ranks; tells them of a signal too."""
        import torch
        import torch.distributed as dist

        if self.size == 1:
            return [values]
        name = self.stop.signal_name if self.stop else None
        told = torch.tensor([*values, signal.Signals[name].value if name else 0], dtype=torch.float64)
        heard = [torch.empty_like(told) for _ in range(self.size)]
        dist.all_gather(heard, told)  # in host memory, by gloo: it notices a rank that died
        lists = [one.tolist() for one in heard]
        self._signal = self._signal or int(max(one[-1] for one in lists))
        return [tuple(one[:-1]) for one in lists]

    def first(self, value: Value) -> Value:
        """Return what the first rank has."""
        return self.gathered(value)[0]

    def gathered(self, value: Value) -> list[Value]:
        """Return what each rank has, in the order of the ranks."""
        import torch.distributed as dist

        if self.size == 1:
            return [value]
        heard: list[Any] = [None] * self.size
        dist.all_gather_object(heard, value)  # by gloo too
        return heard

    def add_gradients(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put the sum of all ranks' gradients in place of this rank's: the same bits on every rank.

        The reduction goes around a ring, so that the order of each sum depends on the number of ranks alone. What no
        rank has a gradient of keeps none.
        """
        import torch
        import torch.distributed as dist

        if self.size == 1:
            return
        values = list(weights.values())
        there = torch.tensor([float(one.grad is not None) for one in values], device=values[0].device)
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in values]
        flat = torch.cat([one.flatten().float() for one in [*parts, there]])
        dist.all_reduce(flat)
        *sums, there = torch.split(flat, [one.numel() for one in [*parts, there]])
        for value, total, count in zip(values, sums, there.tolist(), strict=True):
            value.grad = total.view_as(value).to(value.dtype) if count else None


ALONE = Ranks()
