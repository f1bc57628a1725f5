"""What the tasks of one run share: where it works, its parameters, and what became of each stage."""

from __future__ import annotations

from typing import Any

from graft.params import Params
from graft.publication import Decision, Receipt
from graft.runs import Run
from graft.workspace import Workspace


class Chain:
    """One run of the chain."""

    # No dataclass: Prefect looks for futures in the parameters of a task, and takes dataclasses apart to do so.
    def __init__(
        self, run: Run, workspace: Workspace, config: Params, *, force: bool, pull: bool = False, profile: bool = False
    ) -> None:
        self.run, self.workspace, self.config, self.force = run, workspace, config, force
        self.pull, self.profile = pull, profile
        self.commit: str | None = None
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.receipt: Receipt | None = None
        self.decision: Decision | None = None

    def stands_on(self, commit: str) -> None:
        """Record the snapshot: code, parameters and dvc.lock of the run as they are now."""
        self.commit = commit
        self.run.update(commit=commit)

    def note(self, stage: str, outcome: str, seconds: float) -> None:
        """Record how a stage ended."""
        self.outcomes[stage] = {"outcome": outcome, "seconds": round(seconds, 2)}
        self.run.update(stages=self.outcomes)
