"""The training loop: an adapter on a frozen base, the same bytes each time.

The loop is our own: one pass from top to bottom in ``loop.py``, on torch. Randomness has no state (the order of rows
comes from the seed and the epoch, dropout from the seed and the step), so that a run which was killed goes on from a
checkpoint as if nothing had happened. It appends to files and knows nothing of MLflow, Prefect or DVC.

What decides the bytes is in the key under which checkpoints lie: inputs, settings, code, versions, device, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graft.training.section import TrainingConfig

if TYPE_CHECKING:
    from graft.adapters import AdapterConfig
    from graft.base import BaseConfig
    from graft.tasks import TaskConfig
    from graft.workspace import Workspace

__all__ = ["TrainingConfig", "train"]


def train(
    workspace: Workspace, *, task: TaskConfig, base: BaseConfig, adapter: AdapterConfig, training: TrainingConfig
) -> None:
    """Train the adapter on the token tables; write ``artifacts/adapter``, ``training`` and ``repeats``.

    Raises:
        ConfigError: the adapter does not fit the base, or the stages before did not run.
        IntegrityError: the base's files changed.
        Interrupted: a signal came; a checkpoint was written, and the same command resumes.
        Locked: another process trains the same.
        ResourceMissing: the base or the device is not there.
        TrainingDiverged: the loss is no number any more.
    """
    from graft.training import stage

    stage.run(workspace, task=task, base=base, adapter=adapter, training=training)
