"""How a batch runs through the model in training: packed, and with fused adapters, where the model allows.

Both change which products are computed, not what is learnt: up to rounding, states and gradients are those of the
padded run through PEFT. Nothing is left on the model afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.training.fused_lora import fused
from graft.training.packing import packed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from graft.training.frozen import Feed
    from graft.training.loop import Inputs


TRIED_ROWS = 6
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
"""Attributes in which transformers' layers keep a share of dropout that they apply by a function."""


@dataclass(frozen=True)
class Forward:
    """What was done to the model."""

    packed: bool
    """Whether its body runs on rows packed end to end."""
    fused_layers: int
    """How many LoRA layers are fused."""


@contextlib.contextmanager
def efficient(inputs: Inputs, feed: Feed | None = None) -> Iterator[Forward]:
    """Run a block, a training, with the model of ``inputs`` computing no more than is needed.

    With a ``feed`` for its head, nothing of the base runs, and there is nothing to do.
    """
    if feed is not None and feed.at_head:
        yield Forward(packed=False, fused_layers=0)
        return
    import torch

    rows = inputs.train_rows[:: max(1, len(inputs.train_rows) // TRIED_ROWS)][:TRIED_ROWS]
    collated = inputs.task.collate(rows, inputs.pad_token_id, inputs.state)
    batch = {name: one.to(inputs.device) for name, one in collated.items()}

    def run() -> None:
        inputs.task.outputs(inputs.task_config, inputs.model, batch)

    def learnt_from() -> torch.Tensor:
        piece = next(iter(inputs.task.pieces(batch, TRIED_ROWS)))
        loss, _ = inputs.task.loss(inputs.task_config, inputs.model, piece)
        outputs = inputs.task.outputs(inputs.task_config, inputs.model, batch)
        return torch.cat([outputs.flatten().float(), loss.flatten().float()])

    # Fused layers keep the base's matrices at hand; those that are split over processes come and go.
    fusing = contextlib.nullcontext(0) if inputs.ranks.sharded else fused(inputs.model, run)
    narrowing = None if inputs.ranks.sharded else learnt_from
    with packed(inputs.model, run, narrowing) as is_packed, fusing as layers:
        yield Forward(is_packed, layers)


def set_dropout(model: nn.Module, share: float) -> None:
    """Let every dropout in ``model`` drop ``share``: modules, and what layers keep as a number and apply themselves."""
    import torch

    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = share
        for name in DROPOUTS:
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, share)
