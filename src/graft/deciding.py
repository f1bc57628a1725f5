"""Take a decision with the project's sections of params.yaml, in the clone's files or at a commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from graft import params, publication, stages
from graft.publication import Decision
from graft.repository import Repository
from graft.workspace import Workspace


def decide(workspace: Workspace, *, commit: str = "", **options: Any) -> Decision:
    """Decide on the adapter on disk, or on the one that the stages made at ``commit`` (from the DVC cache)."""
    with at(workspace, commit) as place:
        return decide_by(params.load(place.params), place, **options)


def decide_by(config: params.Params, workspace: Workspace, **options: Any) -> Decision:
    """Decide on the adapter on disk with sections that are loaded already."""
    return publication.promote(
        workspace,
        task=config.task,
        data=config.data,
        evaluation=config.evaluation,
        registration=config.registration,
        promotion=config.promotion,
        tracking=config.tracking,
        trust_remote_code=config.base.trust_remote_code,
        **options,
    )


@contextlib.contextmanager
def at(workspace: Workspace, commit: str) -> Iterator[Workspace]:
    """Yield the project with its outputs: as it lies there, or in a temporary worktree at ``commit``."""
    if not commit:
        yield workspace
        return
    with Repository(workspace).worktree(commit) as inner:
        repository = Repository(inner)
        repository.pull_data()
        repository.restore([stage.name for stage in stages.STAGES])
        yield inner
