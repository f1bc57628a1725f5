"""The params section of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field as Limit

from graft.config import Section

SEEDS = 1 << 32


class TrainingConfig(Section):
    """The one training loop. A step is one optimizer step."""

    seed: int = Limit(default=0, ge=0, lt=SEEDS)
    """Decides the new weights, the order of the rows and the dropout, before the adapter exists."""

    repeats: int = Limit(default=1, ge=1, le=100)
    """How many trainings, which differ by their seed alone: ``seed``, ``seed`` + 1, ... The first one's adapter is
    registered; the others tell how much of a result is the luck of a seed, and promotion counts it."""

    init_from: str | None = None
    """The adapter that training starts from: ``models:/NAME@champion``, ``models:/NAME/3`` or a folder (relative to
    params.yaml); `graft lock` fetches and pins it. Base, task and adapter settings must be those it was trained with;
    labels may be new. null: new weights."""

    epochs: float = Limit(default=3.0, gt=0)
    """Passes over the training rows; a fraction is allowed."""

    max_steps: int | None = Limit(default=None, ge=1)
    """Ends training earlier, after this many steps."""

    batch_rows: int = Limit(default=32, ge=1)
    """Rows per step, and in a pass over the validation rows."""

    batch_tokens: int | None = Limit(default=None, ge=1)
    """Tokens per step, in place of ``batch_rows``: steps of equal work, many short rows or a few long ones. The tokens
    of an epoch are cut into as many equal shares as are needed, to within a row."""

    micro_batch_rows: int | None = Limit(default=None, ge=1)
    """Rows per forward pass where memory does not hold a whole step's (of a long text: windows); the step's gradient
    stays the same. null, and ``micro_batch_tokens`` too: a short trial before the first step finds out how many tokens
    fit."""

    micro_batch_tokens: int | None = Limit(default=None, ge=1)
    """Tokens per forward pass, likewise; a longer row goes alone."""

    learning_rate: float = Limit(default=1e-3, gt=0)
    """The peak learning rate of AdamW."""

    warmup_share: float = Limit(default=0.06, ge=0, le=1)
    """The share of all steps over which the learning rate rises from 0."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate goes after the warm-up: to 0 at the last step, or not."""

    loraplus_lr_ratio: float | None = Limit(default=None, ge=1)
    """LoRA+: how many times faster the B matrices of a LoRA learn than everything else; null: alike."""

    weight_decay: float = Limit(default=0.01, ge=0)
    """AdamW's decoupled weight decay of matrices (not of biases and norms)."""

    max_gradient_norm: float = Limit(default=1.0, gt=0)
    """Gradients of a step are scaled down to this global norm."""

    evaluate_every_epochs: float = Limit(default=1.0, gt=0)
    """How often the validation split is scored, in epochs."""

    keep: Literal["best", "last"] = "best"
    """Which weights become the adapter: those with the best headline metric on validation, or the last."""

    patience: int | None = Limit(default=None, ge=1)
    """Ends training after so many scorings of the validation split in a row that were no better than the best before;
    null: training goes on to its last step. The learning rate follows the schedule of all steps."""

    max_skipped_steps: int = Limit(default=3, ge=0)
    """How many steps in a row are skipped, with a warning, because their loss or gradient is no finite number; one more
    ends training. 0: the first one does."""

    checkpoint_every_steps: int = Limit(default=50, ge=1)
    """How often training can be resumed from, in steps."""

    base_dropout: float | None = Limit(default=None, ge=0, lt=1)
    """The dropout of the base's own layers while training; null: as the base was configured (0.1 for a BERT). 0 saves a
    tenth of the time, and small adapters rarely need it."""

    unfreeze: tuple[str, ...] = ()
    """Parts of the base that are trained beside the adapter: regular expressions over full parameter names
    (``bert\\.encoder\\.layer\\.5\\..*``), each of which must match one. What they change is saved with the adapter."""

    unfreeze_learning_rate: float | None = Limit(default=None, gt=0)
    """The peak learning rate of the unfrozen parts, and of all of the base under ``full``; null: ``learning_rate``."""

    frozen_cache_bytes: int = Limit(default=8 << 30, ge=0)
    """How much of the disk the outputs of frozen layers may take where adapters sit in upper layers or on the head
    alone: they are computed once and kept in ``.graft/store``, and every epoch starts there. Above it, or with 0, the
    base runs in each epoch, which rounds differently."""

    processes: Annotated[int, Limit(ge=1, le=256)] | Literal["auto"] = 1
    """How many processes of this machine train together, each with its share of a step's rows, on a GPU of its own
    where training runs on GPUs; ``auto``: one per GPU, one on a CPU. Part of the identity, since it changes the last
    bits of the result."""

    sharding: Literal["none", "fsdp"] = "none"
    """``fsdp``: the processes share the layers of the frozen base, where one GPU does not hold it. It is slower, and
    changes the last bits of the result: LoRA runs as PEFT wrote it, not fused."""

    threads: int = Limit(default=2, ge=1, le=256)
    """CPU threads of each process; part of the identity, since the thread count changes the result's bytes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: the GPU where there is one. ``cuda`` refuses where there is none."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all trainings; the first is that of the adapter."""
        return tuple((self.seed + number) % SEEDS for number in range(self.repeats))

    def of_seed(self, seed: int) -> TrainingConfig:
        """Return the section of one training of them: that of a project that trains with this seed alone."""
        return self.model_copy(update={"seed": seed, "repeats": 1})
