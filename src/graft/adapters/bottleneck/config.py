"""The keys of ``method: bottleneck``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft.config import PeftConfig
from transformers.activations import ACT2FN

from graft.adapters.tuners import peft_type

Architecture = Literal["houlsby", "pfeiffer", "parallel"]


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of a bottleneck adapter: ``h + scaling * up(non_linearity(down(x)))``."""

    architecture: Architecture = field(
        default="pfeiffer",
        metadata={
            "help": "Where the bottlenecks stand. houlsby: after the attention and after the feed-forward block "
            "(Houlsby et al., 2019); pfeiffer: after the feed-forward block only (Pfeiffer et al., 2020); parallel: "
            "beside the feed-forward block, from its input to its output (He et al., 2021)."
        },
    )
    reduction_factor: float = field(
        default=16, metadata={"help": "The block's width divided by the width of the bottleneck."}
    )
    non_linearity: str = field(
        default="relu", metadata={"help": "The function between the two layers, by its name in transformers."}
    )
    residual: bool = field(
        default=True,
        metadata={
            "help": "Whether the bottleneck's output is added to what it reads; else it takes its place. Only for "
            "houlsby and pfeiffer; without it nothing can start as the identity, so init must be normal."
        },
    )
    scaling: float = field(
        default=1.0, metadata={"help": "The factor of the bottleneck's output (He et al. take 4 for parallel)."}
    )
    init: Literal["identity", "normal"] = field(
        default="identity",
        metadata={
            "help": "How it starts. identity: the upper layer is zero, so that the base is unchanged; normal: both "
            "layers are drawn from N(0, 0.01 squared), as Houlsby et al. do."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "The modules with a bottleneck: a list of ends of names, or one regular expression over whole "
            "names. Default: those of the architecture, for the usual bases. Name the linear layer at a block's end; "
            "under parallel a bottleneck there reads the block's input."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules that get none although target_modules names them."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "The numbers of the layers with bottlenecks, from 0. Default: all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "The name of the list of layers, where it is not the first number in a name."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are trained and saved in full, such as a new head."}
    )

    def __post_init__(self) -> None:
        """Check the values; PEFT's own checks cover types alone."""
        super().__post_init__()
        self.peft_type = peft_type("bottleneck")
        self._check()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)

    def _check(self) -> None:
        if self.architecture not in ("houlsby", "pfeiffer", "parallel"):
            raise ValueError(f"architecture: {self.architecture!r} is none of houlsby, pfeiffer, parallel")
        if self.reduction_factor <= 0:
            raise ValueError(f"reduction_factor: must be above 0, not {self.reduction_factor}")
        if self.non_linearity not in ACT2FN:
            raise ValueError(f"non_linearity: {self.non_linearity!r} is none of {', '.join(sorted(ACT2FN))}")
        if self.init not in ("identity", "normal"):
            raise ValueError(f"init: {self.init!r} is none of identity, normal")
        if not self.residual and self.architecture == "parallel":
            raise ValueError("residual: a parallel bottleneck always adds to its block's output; leave the key out")
        if not self.residual and self.init == "identity":
            raise ValueError("residual: without it nothing starts as the identity; set `init: normal` too")
        if self.layers_pattern is not None and self.layers_to_transform is None:
            raise ValueError("layers_pattern: says where the layers' numbers stand; set `layers_to_transform` too")
