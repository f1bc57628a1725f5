"""Which rows make which step: a function of the seed and the epoch alone, so that resuming needs no state.

Rows of like length share a batch: where rows are padded, padding is computed like any token, and where they are packed,
rows of one length are one product. So: shuffle all rows, cut the sequence into windows, sort each window by length, cut
it into batches, shuffle the batches. A window of ``WINDOW_BATCHES`` batches keeps chance in which rows meet while the
padding of heavy-tailed lengths shrinks to a few percent. A batch is so many rows or, by ``training.batch_tokens``, so
many tokens: then every step does the same work.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graft.training.section import TrainingConfig

WINDOW_BATCHES = 32


def mixed_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from ``parts``; unlike a sum, (seed, step) pairs do not meet each other."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_batches(
    lengths: Sequence[int], batch_rows: int, seed: int, epoch: int, *, batch_tokens: int | None = None
) -> list[list[int]]:
    """Return the row numbers of each step of an epoch; every row once.

    All batches but one have ``batch_rows`` rows; or, with ``batch_tokens``, all have equally many tokens, to within
    their longest row, and at most so many on average. Every epoch has as many steps.
    """
    import torch

    generator = torch.Generator().manual_seed(mixed_seed("order", seed, epoch))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    if batch_tokens is None:
        window = WINDOW_BATCHES * batch_rows
        for start in range(0, len(order), window):
            like = sorted(order[start : start + window], key=lambda row: lengths[row])
            batches += [like[at : at + batch_rows] for at in range(0, len(like), batch_rows)]
    else:
        steps = steps_of_tokens(lengths, batch_tokens)
        windows = [min(WINDOW_BATCHES, steps - start) for start in range(0, steps, WINDOW_BATCHES)]
        for rows, count in zip(_shares(order, lengths, windows), windows, strict=True):
            batches += _shares(sorted(rows, key=lambda row: lengths[row]), lengths, [1] * count)
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def steps_of_tokens(lengths: Sequence[int], batch_tokens: int) -> int:
    """Return into how many steps of ``batch_tokens`` an epoch is cut; none is without a row."""
    return max(1, min(len(lengths), math.ceil(sum(lengths) / batch_tokens)))


def _shares(rows: Sequence[int], lengths: Sequence[int], shares: Sequence[int]) -> list[list[int]]:
    """Cut ``rows`` into parts whose tokens are as ``shares``, each of as many rows at least."""
    ends = list(itertools.accumulate(lengths[row] for row in rows))
    found: list[list[int]] = []
    start = taken = 0
    for share in shares:
        taken += share
        wanted = bisect.bisect_left(ends, ends[-1] * taken / sum(shares)) + 1
        stop = min(max(wanted, start + share), len(rows) - (sum(shares) - taken))
        found.append(list(rows[start:stop]))
        start = stop
    return found


@dataclass
class Plan:
    """All steps of a training, numbered from 1."""

    lengths: Sequence[int]
    """Length of each training row, in tokens."""
    config: TrainingConfig
    _batches: Callable[[int], list[list[int]]] = field(init=False, repr=False, compare=False)
    """The steps of an epoch; two threads may be in two epochs, so two are kept."""

    def __post_init__(self) -> None:
        self._batches = functools.lru_cache(maxsize=2)(self._of_epoch)

    @property
    def steps_per_epoch(self) -> int:
        if self.config.batch_tokens is None:
            return math.ceil(len(self.lengths) / self.config.batch_rows)
        return self._steps_of_tokens

    @functools.cached_property
    def _steps_of_tokens(self) -> int:
        return steps_of_tokens(self.lengths, self.config.batch_tokens or 1)

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
        return self._batches(epoch)[index]

    def _of_epoch(self, epoch: int) -> list[list[int]]:
        config = self.config
        return epoch_batches(self.lengths, config.batch_rows, config.seed, epoch, batch_tokens=config.batch_tokens)

    def micro_batches(
        self, step: int, share: tuple[int, int] = (0, 1), most_tokens: int | None = None
    ) -> list[list[int]]:
        """Return the rows of a step in the pieces that go through the model one after another.

        Args:
            step: The step.
            share: Which rank's rows, of how many ranks: with n of them every n-th, so that all get like lengths.
            most_tokens: Tokens per piece, where the section does not say it.
        """
        rows = self.rows(step)[share[0] :: share[1]]
        most_rows, most_tokens = (
            self.config.micro_batch_rows or len(rows),
            self.config.micro_batch_tokens or most_tokens,
        )
        found: list[list[int]] = []
        tokens = 0
        for row in rows:
            length = self.lengths[row]
            if not found or len(found[-1]) == most_rows or (most_tokens and tokens + length > most_tokens):
                found.append([])
                tokens = 0
            found[-1].append(row)
            tokens += length
        return found

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
