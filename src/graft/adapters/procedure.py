"""What a method needs from the training loop beyond gradients of its weights.

Most methods need nothing. AdaLoRA moves its rank budget after each step and adds a penalty to the loss; a LoRA that
starts from the base's own weights (PiSSA, OLoRA) has to be told apart from the base at the end. The loop calls the same
five hooks for every method and knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


class Procedure:
    """The hooks of a method that needs none; others override what they need."""

    def begin(self, steps: int) -> None:
        """Learn how many optimizer steps the training has, before the first one and before a resume."""

    def penalty(self) -> torch.Tensor | None:
        """Return what is added to the step's mean loss (a scalar with a gradient), None where there is nothing."""
        return None

    def after_step(self, step: int) -> None:
        """Act after optimizer step ``step`` (from 1), while its scaled and clipped gradients are still there."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state beside the weights that a checkpoint must hold for a bit-identical resume."""
        return {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`tensors` gave when the checkpoint was written."""

    def finish(self) -> None:
        """Bring the model, which holds the weights that are kept, into the form in which it is saved."""


def procedure_of(model: PeftModel) -> Procedure:
    """Return the procedure that ``attach`` gave to ``model``."""
    found = model.__dict__.get("procedure")
    return found if isinstance(found, Procedure) else Procedure()
