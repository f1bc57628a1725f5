"""How many tokens go through the model at once, by a short trial, where nobody says it.

Before its first step a training runs its longest rows forward and backward, one, then two, then four of them, until
what they take shows how many fit. A token takes the most there, since attention grows with the square of a row. Mostly
the first try shows that a whole step fits. Then nothing is cut and nothing printed. Otherwise a step is cut into 2, 4,
8, ... parts of equal tokens: whole powers, so that a machine with a little more room chooses the same, and with it the
same bytes.

On a GPU the peak is what the allocator counted. On a CPU, where nobody counts, it is estimated from what the backward
pass keeps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from graft.training.memory import MemoryFullError, noticed, release

if TYPE_CHECKING:
    from graft.training.batching import Plan
    from graft.training.loop import Inputs

SHARE = 0.85
"""How much of the free memory a step may take."""
BESIDE_KEPT = 2.0
"""What a step takes at its peak, as a multiple of what its backward pass keeps (CPU)."""


def token_budget(inputs: Inputs, plan: Plan, free: int) -> int | None:
    """Return how many tokens fit in ``free`` bytes at once, None where those of a whole step do.

    All ranks return the same: that of the one with the least room.
    """
    ranks = inputs.ranks
    lengths, steps = plan.lengths, range(1, plan.steps_per_epoch + 1)
    largest = max((plan.rows(step) for step in steps), key=lambda rows: sum(lengths[row] for row in rows))
    whole = math.ceil(sum(lengths[row] for row in largest) / ranks.size)
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)[: len(largest)]
    limit = max(1.0, free * SHARE)
    tried = 1
    while True:
        used = _used(inputs, rows[:tried])
        share = sum(lengths[row] for row in rows[:tried]) / whole
        needed = max(each for (each,) in ranks.exchange(used / share / limit))
        if needed <= 1:
            return None
        # Twice as many rows take at most twice as much; a single one that does not fit is the loop's to report.
        if tried >= len(rows) or needed * share * 2 > 1:
            break
        tried *= 2
    parts = 2 ** math.ceil(math.log2(needed)) if math.isfinite(needed) else whole
    budget = max(lengths[rows[0]], math.ceil(whole / parts))
    print(
        f"train: a step of {whole:,} tokens would take {needed:.1f} times the memory that is free; {budget:,} tokens "
        f"go through the model at once, the rows of each step stay the same",
        flush=True,
    )
    return budget


def _used(inputs: Inputs, rows: list[int]) -> float:
    """Return how many bytes the rows take forward and backward, infinitely many where they do not fit."""
    batch = inputs.task.collate([inputs.train_rows[row] for row in rows], inputs.pad_token_id, inputs.state)
    most = 0.0
    try:
        for piece in inputs.task.pieces(batch, inputs.config.batch_rows):
            here = {name: value.to(inputs.device) for name, value in piece.items()}
            with noticed(rows):
                most = max(most, _peak_on_cuda(inputs, here) if inputs.device == "cuda" else _kept(inputs, here))
    except MemoryFullError:
        if inputs.ranks.sharded:  # the others wait for this one's part of the next layer
            raise
        return math.inf
    finally:
        for value in inputs.model.parameters():
            value.grad = None
        release()
    return most


def _peak_on_cuda(inputs: Inputs, batch: dict[str, Any]) -> float:
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss, _ = inputs.task.loss(inputs.task_config, inputs.model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(torch.cuda.max_memory_allocated() - before)


def _kept(inputs: Inputs, batch: dict[str, Any]) -> float:
    """Return an estimate of the peak, from the size of all tensors that the backward pass reads, weights left out."""
    import torch

    weights = {one.untyped_storage().data_ptr() for one in [*inputs.model.parameters(), *inputs.model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = inputs.task.loss(inputs.task_config, inputs.model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return BESIDE_KEPT * sum(kept.values())
