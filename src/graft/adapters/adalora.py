"""AdaLoRA in the loop: rank budget, penalty, state, and the ranks that are saved (Zhang et al., 2023).

PEFT holds the method's formulas; the loop gives them steps and gradients. Whatever step is kept, the triplets with a
singular value of exactly 0 change nothing there, so they alone are left out of the file: what is saved computes what
was trained, also where training stopped before the budget was final.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graft.adapters.procedure import Procedure
from graft.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""The importance of each weight, its moving average, and that of its uncertainty (equations 8 to 10)."""
RANKS = "rank_pattern"
OPEN_STEPS = 2**31 - 1
"""``total_step`` until the plan is known, where the user leaves it out."""


class AdaLora(Procedure):
    """The hooks of an AdaLoRA."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.config: Any = model.peft_config["default"]

    @property
    def allocator(self) -> Any:
        """PEFT's rank allocator; it holds the state."""
        return self.model.base_model.rankallocator

    def begin(self, steps: int) -> None:
        """Set ``total_step``.

        Raises:
            ConfigError: as :func:`refuse_phases`.
        """
        refuse_phases(self.config, steps)
        if self.config.total_step == OPEN_STEPS:
            self.config.total_step = steps

    def penalty(self) -> torch.Tensor | None:
        """Return the mean distance of A and B from orthogonality, times ``orth_reg_weight`` (equation 4)."""
        import torch

        found = []
        for part in _layers(self.model):
            for gram in (
                part.lora_A["default"] @ part.lora_A["default"].T,
                part.lora_B["default"].T @ part.lora_B["default"],
            ):
                found.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return torch.stack(found).mean() * self.config.orth_reg_weight if found else None

    def after_step(self, step: int) -> None:
        """Note each weight's importance and mask what is over the budget."""
        import torch

        for part in _layers(self.model):
            for weight in (part.lora_A["default"], part.lora_E["default"], part.lora_B["default"]):
                if weight.grad is None:  # a layer that the loss does not reach is of no importance
                    weight.grad = torch.zeros_like(weight)
        self.model.base_model.update_and_allocate(step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return importances, and the ranks that are masked from now on."""
        import torch

        found = {f"{kind}/{name}": one for kind in KINDS for name, one in getattr(self.allocator, kind).items()}
        ranks = self.config.rank_pattern or {}
        return found | {f"{RANKS}/{name}": torch.tensor(one, dtype=torch.uint8) for name, one in ranks.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take importances and ranks back."""
        self.allocator.reset_ipt()
        device = next(iter(_layers(self.model))).lora_E["default"].device
        ranks: dict[str, list[bool]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == RANKS:
                ranks[name] = value.bool().tolist()
            else:
                getattr(self.allocator, kind)[name] = value.to(device)
        self.config.rank_pattern = ranks or None

    def finish(self) -> None:
        """Leave out the triplets that are masked."""
        inner: Any = self.model.base_model
        kept = {
            f"{name}.lora_E": (part.lora_E["default"].flatten() != 0).tolist()
            for name, part in inner.model.named_modules()
            if _is_layer(part)
        }
        self.config.rank_pattern = kept
        shrink(inner, kept, "default")


def refuse_phases(config: Any, steps: int) -> None:
    """Refuse phases that a training of so many ``steps`` does not have.

    Raises:
        ConfigError: no step is left in which the budget moves, or training ends before ``total_step``.
    """
    planned = steps if config.total_step == OPEN_STEPS else config.total_step
    if planned > steps:
        raise ConfigError(
            f"adapter.total_step: {planned}, but training has {steps} steps, so the ranks would not come down to "
            f"adapter.target_r; leave it out, or train for more steps"
        )
    if config.tinit >= planned - config.tfinal:
        raise ConfigError(
            f"adapter.tinit: {config.tinit} steps before and {config.tfinal} (adapter.tfinal) after the "
            f"budget moves leave none of {planned}; lower them, or train for more steps"
        )


def take_over(model: PeftModel) -> None:
    """Let PEFT cut a loaded AdaLoRA to its ranks by :func:`shrink`: its own way would draw bfloat16 weights anew."""
    inner: Any = model.base_model
    inner.resize_modules_by_rank_pattern = functools.partial(shrink, inner)
    for part in _layers(model):
        part.ranknum["default"].requires_grad_(False)  # on the meta device PEFT leaves it on


def shrink(inner: Any, rank_pattern: Mapping[str, list[bool]], adapter_name: str) -> None:
    """Keep the triplets that ``rank_pattern`` marks, in each layer of the tuner ``inner``; scales stay as they were."""
    import torch

    for name, marks in rank_pattern.items():
        part = inner.model.get_submodule(name.removesuffix(".lora_E"))
        kept = torch.tensor(marks, dtype=torch.bool, device=part.lora_E[adapter_name].device)
        if len(kept) == len(part.lora_E[adapter_name]):
            for kind, cut in (("lora_E", kept), ("lora_A", kept), ("lora_B", (slice(None), kept))):
                old = getattr(part, kind)[adapter_name]
                new = torch.nn.Parameter(old.detach()[cut].clone(), requires_grad=old.requires_grad)
                getattr(part, kind)[adapter_name] = new
            part.r[adapter_name] = int(kept.sum())


def _layers(model: PeftModel) -> Iterator[Any]:
    return (part for part in model.modules() if _is_layer(part))


def _is_layer(part: Any) -> bool:
    return hasattr(part, "lora_E") and "default" in part.lora_E
