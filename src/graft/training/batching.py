"""Which rows make which step: a function of the seed and the epoch alone, so that resuming needs no state.

Rows of like length share a batch, since padding is computed like any token: shuffle all rows, cut the sequence into
windows, sort each window by length, cut it into batches, shuffle the batches. A window of ``WINDOW_BATCHES`` batches
keeps chance in which rows meet while the padding of heavy-tailed lengths shrinks to a few percent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from graft.training.section import TrainingConfig

WINDOW_BATCHES = 32


def mixed_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from ``parts``; unlike a sum, (seed, step) pairs do not meet each other."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_batches(lengths: Sequence[int], batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of each step of an epoch; every row once, ``batch_rows`` in all batches but one."""
    import torch

    generator = torch.Generator().manual_seed(mixed_seed("order", seed, epoch))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = WINDOW_BATCHES * batch_rows
    batches = []
    for start in range(0, len(order), window):
        like = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches += [like[at : at + batch_rows] for at in range(0, len(like), batch_rows)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


@dataclass
class Plan:
    """All steps of a training, numbered from 1."""

    lengths: Sequence[int]
    """Length of each training row, in tokens."""
    config: TrainingConfig
    _epoch: int = field(default=-1, init=False)
    _batches: list[list[int]] = field(default_factory=list, init=False)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.config.batch_rows)

    @property
    def steps(self) -> int:
        """The last step."""
        wanted = max(1, round(self.config.epochs * self.steps_per_epoch))
        return min(wanted, self.config.max_steps or wanted)

    @property
    def warmup_steps(self) -> int:
        return round(self.config.warmup_share * self.steps)

    def rows(self, step: int) -> list[int]:
        """Return the row numbers of a step."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._batches = epoch_batches(self.lengths, self.config.batch_rows, self.config.seed, epoch)
            self._epoch = epoch
        return self._batches[index]

    def micro_batches(self, step: int) -> list[list[int]]:
        """Return the rows of a step in the pieces that go through the model one after another."""
        rows = self.rows(step)
        size = self.config.micro_batch_rows or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def learning_rate(self, step: int) -> float:
        """Return a step's learning rate: a linear rise to the peak, then the schedule, 0 one step after the last.

        These are transformers' schedules of ``steps + 1`` steps, read at ``step`` (its own first step has rate 0).
        """
        warmup, end = self.warmup_steps, self.steps + 1
        if step < warmup:
            return self.config.learning_rate * step / warmup
        done = (step - warmup) / (end - warmup)
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.config.learning_rate * factor[self.config.schedule]

    def is_scored(self, step: int) -> bool:
        """Return whether the validation split is scored after a step: at each interval's end, and after the last."""
        interval = self.config.evaluate_every_epochs * self.steps_per_epoch
        return step == self.steps or int(step / interval) > int((step - 1) / interval)
