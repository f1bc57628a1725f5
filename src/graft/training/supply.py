"""What goes through the model next is made while the model runs: a thread reads, collates and pins its rows.

A GPU that waits for its rows does nothing. On a CPU there is no thread: it would take the cores that the model runs on.

One batch is made ahead, at the end of a step the first one of the next. It is asked for by all that decides it, so what
was made for batches of another size (memory was full since) is thrown away. What is raised on the way is raised again
where the batch is needed, as if it were made there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from graft.training.memory import halved, noticed

if TYPE_CHECKING:
    import torch

    from graft.training.batching import Plan
    from graft.training.loop import Inputs
    from graft.training.section import TrainingConfig

    Piece = tuple[Sequence[int], Mapping[str, torch.Tensor]]
    """What goes through the model at once, with the rows that it is of."""


@dataclass(frozen=True)
class Cut:
    """How a step is cut."""

    step: int
    halvings: int = 0
    """How often its batches were halved."""
    tokens: int | None = None
    """The most tokens of a batch, where a trial found that."""


class Supply:
    """The pieces of a training's steps; as a context, with a thread that works ahead if ``ahead``."""

    def __init__(self, inputs: Inputs, plan: Plan, *, ahead: bool = False) -> None:
        self._inputs, self._plan = inputs, plan
        self._thread = _thread(inputs.device) if ahead else None
        self._coming: tuple[tuple[Cut, int], Future[list[Piece]]] | None = None

    def __enter__(self) -> Supply:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def pieces(self, cut: Cut) -> Iterator[Piece]:
        """Yield this rank's pieces of a step.

        Raises:
            MemoryFullError: memory does not hold a batch.
        """
        batches = self._batches(cut)
        for number, rows in enumerate(batches):
            if self._thread is None:
                yield from self.made(rows, cut.halvings)
                continue
            found = self._begun(self._thread, cut, number).result()
            after = (cut, number + 1) if number + 1 < len(batches) else (replace(cut, step=cut.step + 1), 0)
            if after[0].step <= self._plan.steps:
                self._begun(self._thread, *after)
            yield from found

    def made(self, rows: Sequence[int], halvings: int) -> Iterator[Piece]:
        """Yield the pieces of rows that are collated together, now.

        Raises:
            MemoryFullError: memory does not hold them.
        """
        inputs = self._inputs
        with noticed(rows):
            batch = inputs.task.collate([inputs.train_rows[row] for row in rows], inputs.pad_token_id, inputs.state)
        yield from ((rows, piece) for piece in inputs.task.pieces(batch, most_lines(inputs.config, halvings)))

    def _begun(self, thread: ThreadPoolExecutor, cut: Cut, number: int) -> Future[list[Piece]]:
        """Return the batch that is asked for, as it comes; begin it where another one or none was begun."""
        if self._coming is None or self._coming[0] != (cut, number):
            self._coming = (cut, number), thread.submit(self._pinned, cut, number)
        return self._coming[1]

    def _pinned(self, cut: Cut, number: int) -> list[Piece]:
        """Return the pieces of a batch, from where they are copied to a GPU without anybody waiting for it."""
        rows = self._batches(cut)[number]
        found = list(self.made(rows, cut.halvings))
        if self._inputs.device == "cpu":
            return found
        with noticed(rows):
            return [(rows, {name: value.pin_memory() for name, value in piece.items()}) for rows, piece in found]

    def _batches(self, cut: Cut) -> list[list[int]]:
        """Return the rows of a step that this rank collates together."""
        ranks = self._inputs.ranks
        return list(halved(self._plan.micro_batches(cut.step, (ranks.number, ranks.size), cut.tokens), cut.halvings))


def most_lines(config: TrainingConfig, halvings: int) -> int:
    """Return how many lines (of a long text: windows) go through the model at once."""
    return max(1, (config.micro_batch_rows or config.batch_rows) >> halvings)


def _thread(device: str) -> ThreadPoolExecutor:
    """Return the thread; on a GPU it uses that of this process, which each thread is told by itself."""
    if device == "cpu":
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="collate")
    import torch

    return ThreadPoolExecutor(1, "collate", torch.cuda.set_device, (torch.cuda.current_device(),))
