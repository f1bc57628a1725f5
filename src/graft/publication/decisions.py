"""Promote and roll back: the alias ``champion`` moves, or does not, and the journal says why.

Each decision is journaled before the alias moves and closed after it, and the alias moves only if it still names what
the candidate was compared with. People overrule the test with a name and a reason.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data import DataConfig
from graft.errors import InputError, PromotionConflict, ResourceMissing
from graft.promotion import PromotionConfig
from graft.publication.cases import Case, Decision, case_of, fetch, overruled, tested
from graft.publication.receipts import place, write_decision
from graft.registration import RegistrationConfig
from graft.tasks import TaskConfig
from graft.tracking import TrackingConfig
from graft.workspace import Workspace

__all__ = ["Decision", "fetch", "promote", "rollback"]

if TYPE_CHECKING:
    from graft.evaluation import EvaluationConfig
    from graft.tracking.journal import Kind
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection


def promote(
    workspace: Workspace,
    *,
    task: TaskConfig,
    data: DataConfig,
    evaluation: EvaluationConfig,
    registration: RegistrationConfig,
    promotion: PromotionConfig,
    tracking: TrackingConfig,
    approve: bool = False,
    reason: str = "",
    who: str = "",
) -> Decision:
    """Decide whether the published adapter on disk becomes champion, and move the alias if so.

    ``approve`` lets a named person overrule a refusal, with a ``reason``, both journaled.

    Raises:
        InputError: ``approve`` without a reason.
        ResourceMissing: MLflow is not reachable, or the adapter was not published.
        IntegrityError: the candidate in the registry is not what was published, or lacks a signature that is asked for.
        PromotionConflict: the alias moved meanwhile.
    """
    from graft.publication.facts import read
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    if approve and not reason.strip():
        raise InputError("--approve: needs --reason: it is kept in the journal of decisions")
    facts = read(workspace)
    connection = connect(tracking, workspace)
    with reported(connection.uri):
        candidate = registry.find(connection, registration.name, facts.digest)
        if candidate is None:
            raise ResourceMissing(f"{registration.name}: the adapter on disk is not published; run `graft sync`")
        case = case_of(connection, workspace, tracking, candidate, who)
        if case.champion and case.champion.adapter == candidate.adapter:
            held = case.champion.version
            said = f"version {held} is champion already"
            decision = Decision(candidate.name, "champion already", held, held, held, said, case.who, notes=case.notes)
        else:
            verdict = overruled(case, tested(case, task, data, evaluation, promotion), approve, reason)
            if verdict.moved:
                check_artifact(connection, candidate)
            decision = _carry_out(case, "promote", verdict)
    at = place(connection.uri, registration.name, facts.digest)
    write_decision(workspace, at, decision.as_json())
    return decision


def rollback(
    workspace: Workspace,
    *,
    registration: RegistrationConfig,
    tracking: TrackingConfig,
    to: str | None = None,
    reason: str = "",
    who: str = "",
) -> Decision:
    """Give ``champion`` back to the version before, or to version ``to``, after checking that version's adapter.

    Raises:
        InputError: there is no champion, no version before it, or no version ``to``.
        IntegrityError: the adapter of that version is not the one that was published.
        PromotionConflict: the alias moved meanwhile.
    """
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    connection, name = connect(tracking, workspace), registration.name
    with reported(connection.uri):
        current = registry.champion(connection, name)
        if current is None:
            raise InputError(f"{name}: no champion to roll back from")
        case = case_of(connection, workspace, tracking, current, who)
        target = registry.get(connection, name, to or _previous(case))
        case = replace(case, candidate=target)
        if target.version == current.version:
            raise InputError(f"{name}: version {target.version} is champion already")
        check_artifact(connection, target)
        why = reason or f"rolled back from version {current.version}"
        decision = Decision(
            name, "rollback", target.version, current.version, target.version, why, case.who, notes=case.notes
        )
        done = _carry_out(case, "rollback", decision)
    for one in (current, target):
        if one.adapter:
            write_decision(workspace, place(connection.uri, name, one.adapter), done.as_json())
    return done


def check_artifact(connection: Connection, version: Version) -> None:
    """Download a version's adapter and check that it is the one that was published.

    Raises:
        IntegrityError: its bytes differ.
    """
    with tempfile.TemporaryDirectory(prefix="graft-check-") as temporary:
        fetch(connection, version, Path(temporary))


def _carry_out(case: Case, kind: Kind, decision: Decision) -> Decision:
    """Journal the decision, move the alias, close the entry, and leave tags for reviewers."""
    from graft.tracking import journal, registry

    entry = journal.Entry(
        name=decision.name,
        kind=kind,
        verdict=decision.verdict,
        candidate=decision.candidate,
        before=decision.before,
        after=decision.after,
        who=decision.who,
        why=" ".join([decision.reason, *decision.notes]),
        adapter=case.candidate.adapter or "",
        evidence=decision.evidence,
        previous=case.previous,
    )
    run_id = journal.open_entry(case.connection, case.tracking, case.workspace, entry)
    if decision.moved and decision.after is not None:
        try:
            registry.set_champion(case.connection, decision.name, decision.after, expected_current=decision.before)
        except PromotionConflict:
            journal.close(case.connection, run_id, carried_out=False)
            raise
    journal.close(case.connection, run_id)
    tags = {"graft.verdict": decision.verdict, "graft.against": decision.against, "graft.decided_by": decision.who}
    if "p" in decision.evidence:
        tags["graft.p"] = f"{decision.evidence['p']:.3g}"
    version = registry.get(case.connection, decision.name, decision.candidate)
    registry.set_tags(case.connection, version, {name: value for name, value in tags.items() if value})
    return replace(decision, journal=run_id)


def _previous(case: Case) -> str:
    """Return the version that was champion before the current one, as the journal has it."""
    for entry in case.history:
        if entry.moved and entry.after == case.before and entry.before:
            return entry.before
    raise InputError(
        f"{case.candidate.name}: the journal knows no champion before version {case.before}, so there is nothing to go "
        "back to; where other versions exist, name one with `--to`"
    )
