"""LoRA+ (Hayou et al., 2024): the matrix B of a LoRA learns faster than A, by a fixed ratio.

PEFT's ``create_loraplus_optimizer`` makes an optimizer of its own; here the groups of the loop's AdamW are split the
same way, so that schedules, checkpoints and everything else stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from graft.errors import ConfigError

if TYPE_CHECKING:
    import torch

UPPER = "lora_B"


def refuse_without_upper(trained: Iterable[str]) -> None:
    """Refuse LoRA+ for an adapter without B matrices; ``trained`` are the names of all trained weights.

    Raises:
        ConfigError: there are none.
    """
    if not any(UPPER in name for name in trained):
        raise ConfigError("training.loraplus_lr_ratio: the adapter has no `lora_B` to learn faster; leave it out")


def split_groups(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, torch.nn.Parameter],
    ratio: float,
    own: frozenset[str] = frozenset(),
) -> None:
    """Give the B matrices, and vectors, as PEFT does, ``ratio`` times the learning rate of the rest.

    A group's ``scale`` is its learning rate as a multiple of the schedule's. That of ``own``, weights of the base that
    are trained too, is what ``training.unfreeze_learning_rate`` says.

    Raises:
        ConfigError: the adapter has no B matrices.
    """
    refuse_without_upper(weights)
    faster = {id(value) for name, value in weights.items() if UPPER in name}
    faster |= {id(value) for name, value in weights.items() if value.ndim == 1 and name not in own}
    for group in list(optimizer.param_groups):
        moved = [value for value in group["params"] if id(value) in faster]
        group["params"] = [value for value in group["params"] if id(value) not in faster]
        if moved:
            settings = {name: value for name, value in group.items() if name != "params"}
            optimizer.add_param_group({**settings, "params": moved, "scale": group.get("scale", 1.0) * ratio})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
