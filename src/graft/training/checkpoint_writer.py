"""Checkpoints without a pause: the training copies its tensors, a thread beside it does the rest.

Serialising, hashing and flushing to the disk take ten to a hundred times as long as copying in memory. So the training
waits for the copy alone, and for the write before where that is still running: there is one set of copies. A checkpoint
is insurance, so one that cannot be written (a full disk) is said once and tried again at the next; the training goes
on, to the same result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from graft.training.checkpoints import Checkpoint, Checkpoints
from graft.training.record import Record

if TYPE_CHECKING:
    import torch

FIXED = ("best",)
"""Tensors that a training replaces and never writes into: they need no copy."""


class CheckpointWriter:
    """Saves checkpoints of one training; what it has begun is finished when the context ends."""

    def __init__(self, checkpoints: Checkpoints, record: Record) -> None:
        self._checkpoints, self._record = checkpoints, record
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, dict[str, torch.Tensor]] = {}
        self._warned = False
        self.written_step: int | None = None
        """The step of the last checkpoint that was written here."""
        self.failed = 0
        self.blocked_seconds: list[float] = []
        """How long the training waited, by save."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the tensors, and let them be written. Waits where the write before has not ended."""
        started = time.perf_counter()
        self.flush()
        whole = self._record.flush()
        copied = replace(checkpoint, tensors=self._copied(checkpoint.tensors))
        self._writing = self._thread.submit(self._write, copied, whole)
        self.blocked_seconds.append(time.perf_counter() - started)

    def flush(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.flush()

    def _write(self, checkpoint: Checkpoint, whole: bool) -> None:
        try:
            if not whole:
                raise OSError(f"{self._record.path.name} has no room")
            self._record.settle()
            self._checkpoints.save(checkpoint)
        except OSError as error:
            self.failed += 1
            if not self._warned:
                self._warned = True
                print(
                    f"train: warning: checkpoint of step {checkpoint.step} not written to {self._checkpoints.folder}: "
                    f"{error.strerror or error}; training goes on, the next one is tried again",
                    flush=True,
                )
        else:
            self.written_step, self._warned = checkpoint.step, False

    def _copied(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Mapping[str, torch.Tensor]]:
        """Return copies in host memory, in the place of those of the save before."""
        import torch

        sources, targets, found = [], [], dict[str, Mapping[str, torch.Tensor]]()
        for kind, values in tensors.items():
            if kind in FIXED:
                found[kind] = values
                continue
            before, here = self._copies.get(kind, {}), dict[str, torch.Tensor]()
            for name, value in values.items():
                place = before.get(name)
                if place is None or place.shape != value.shape or place.dtype != value.dtype:
                    place = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                here[name] = place
                sources.append(value.detach())
                targets.append(place)
            found[kind] = self._copies[kind] = here
        if targets:
            torch._foreach_copy_(targets, sources, non_blocking=True)
            if any(value.is_cuda for value in sources):
                torch.cuda.synchronize()
        return found
