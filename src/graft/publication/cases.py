"""What a decision is made on: the paired test between candidate and champion, then what people say to it.

The champion is scored here and now, on its own base, on the current test rows: numbers that it got on other rows
prove nothing. A reviewer's tag, an approval by name and a rollback that still stands overrule the test.
"""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.data import DataConfig
from graft.errors import DataError, IntegrityError, ResourceMissing
from graft.identity import digest_folder
from graft.promotion import PromotionConfig
from graft.tasks import TaskConfig
from graft.tracking import TrackingConfig
from graft.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig
    from graft.promotion import Verdict
    from graft.tracking.journal import Entry
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection

EVIDENCE = ("rows", "candidate", "champion", "difference", "low", "high", "p", "rows_needed")


@dataclass(frozen=True)
class Decision:
    """What was decided about ``champion`` of a registered model."""

    name: str
    verdict: str
    """``promote``, ``reject``, ``undecided``, ``approved`` (by people, over the test), ``rejected`` (by people),
    ``champion already``, ``rollback``."""
    candidate: str
    """The version it is about."""
    before: str | None
    after: str | None
    reason: str
    who: str = ""
    against: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    journal: str = ""
    """The id of the journal's run; empty where nothing was decided."""

    @property
    def moved(self) -> bool:
        """Whether the alias moved."""
        return self.before != self.after

    @property
    def refused(self) -> bool:
        """Whether the candidate is not champion after it: exit code 3 at the command line."""
        return self.after != self.candidate

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """What a decision is made on."""

    connection: Connection
    workspace: Workspace
    tracking: TrackingConfig
    candidate: Version
    champion: Version | None
    history: list[Entry]
    who: str

    @property
    def before(self) -> str | None:
        return self.champion.version if self.champion else None

    @property
    def previous(self) -> str:
        from graft.tracking.journal import FIRST

        return self.history[0].key if self.history else FIRST

    @property
    def notes(self) -> tuple[str, ...]:
        """Tell of an alias that was moved by hand."""
        journaled = self.history[0].after if self.history else None
        if journaled == self.before:
            return ()
        return (
            f"champion was moved outside Graft: the journal says {_said(journaled)}, MLflow says {_said(self.before)}",
        )


def case_of(
    connection: Connection, workspace: Workspace, tracking: TrackingConfig, candidate: Version, who: str
) -> Case:
    """Return the case of a candidate; open journal entries that a crash left are settled on the way."""
    from graft.tracking import journal, registry

    champion = registry.champion(connection, candidate.name)
    number = champion.version if champion else None
    history = journal.settle(connection, tracking, workspace, candidate.name, number)
    return Case(connection, workspace, tracking, candidate, champion, history, who or getpass.getuser())


def tested(
    case: Case, task: TaskConfig, data: DataConfig, evaluation: EvaluationConfig, promotion: PromotionConfig
) -> Decision:
    """Return what the paired test says, before people have their say."""
    from graft.evaluation import prediction
    from graft.promotion import decide

    one, folder = tasks.get(task.name), case.workspace.evaluation / "predictions"
    against = f"champion version {case.before}" if case.champion else "the base"
    try:
        other = _champion_table(case, data, evaluation) if case.champion else prediction.read(folder / "base.parquet")
        verdict = decide(
            prediction.read(folder / "adapter.parquet"),
            other,
            one.metric(promotion.metric or one.headline),
            alpha=promotion.alpha,
            resampling=evaluation,
            against=against,
        )
    except (DataError, IntegrityError, ResourceMissing) as error:
        if case.champion is None:
            raise
        why = f"{against} cannot be scored on the current test rows: {error}"
        return _decided(case, "undecided", why, against)
    return _decided(case, verdict.decision, verdict.reason, against, _numbers(verdict))


def _champion_table(case: Case, data: DataConfig, evaluation: EvaluationConfig) -> dict[str, np.ndarray]:
    from graft.evaluation import score_adapter

    assert case.champion is not None
    with tempfile.TemporaryDirectory(prefix="graft-champion-") as temporary:
        folder = fetch(case.connection, case.champion, Path(temporary))
        return score_adapter(
            folder,
            case.workspace,
            data=data,
            batch_rows=evaluation.batch_rows,
            device=evaluation.device,
            name=f"champion (version {case.champion.version})",
        )


def overruled(case: Case, decision: Decision, approve: bool, reason: str) -> Decision:
    """Return the decision after people: a reviewer's tag, an approval by name, a rollback that still stands."""
    name, number, against = case.candidate.name, case.candidate.version, decision.against
    if case.candidate.review == "rejected":
        why = f"a reviewer set review = rejected on version {number}; {decision.reason}"
        return _decided(case, "rejected", why, against, decision.evidence)
    if approve:
        why = f"approved by {case.who}: {reason.strip()} ({decision.reason})"
        return (
            decision if decision.verdict == "promote" else _decided(case, "approved", why, against, decision.evidence)
        )
    if case.candidate.review == "approved" and decision.verdict == "undecided":
        why = f"a reviewer set review = approved on version {number}; {decision.reason}"
        return _decided(case, "approved", why, against, decision.evidence)
    last = case.history[0] if case.history else None
    if decision.verdict == "promote" and last and last.kind == "rollback" and last.before == number:
        why = (
            f"{last.who} rolled {name} back from version {number} ({last.why}); to promote it again: "
            f"`graft promote --approve --reason ...`"
        )
        return _decided(case, "undecided", why, against, decision.evidence)
    return decision


def _decided(
    case: Case, verdict: str, reason: str, against: str, evidence: Mapping[str, float] | None = None
) -> Decision:
    number = case.candidate.version
    after = number if verdict in ("promote", "approved") else case.before
    return Decision(
        case.candidate.name, verdict, number, case.before, after, reason, case.who, against, evidence or {}, case.notes
    )


def fetch(connection: Connection, version: Version, to: Path) -> Path:
    """Download a version's adapter to ``to`` and check that it is the one that was published; return its folder.

    Raises:
        IntegrityError: its bytes differ from the digest in the version's tag, the version is not Graft's, or it has no
            valid signature though ``tracking.signing.public_keys`` names keys.
    """
    from graft.artifact import verified
    from graft.tracking import provenances
    from graft.tracking.models import download, location

    if version.adapter is None:
        raise IntegrityError(f"{version.uri}: has no tag graft.adapter: Graft did not publish it")
    folder = download(connection, location(connection, version), "artifacts/adapter", to)
    found = digest_folder(folder)
    if found != version.adapter:
        raise IntegrityError(
            f"{version.uri}: its adapter has digest {found[:12]} and was published as {version.adapter[:12]}: the "
            f"artifact store was changed; publish it again from its commit (`graft reproduce`)"
        )
    verified(folder)
    provenances.check(connection, version, folder)
    return folder


def _numbers(verdict: Verdict) -> dict[str, float]:
    found = verdict.as_json()
    return {name: float(found[name]) for name in EVIDENCE if found.get(name) is not None}


def _said(version: str | None) -> str:
    return f"version {version}" if version else "none"
