"""Promote and roll back: the alias ``champion`` moves, or does not, and the journal says why.

Each decision takes its place in the journal before the alias moves (``carrying.py``), and only if nothing was decided
since it was made. People overrule the test with a name and a reason.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data import DataConfig
from graft.errors import InputError, PromotionConflict, ResourceMissing
from graft.promotion import PromotionConfig
from graft.publication.carrying import carry_out, decision_of
from graft.publication.cases import Answer, Case, Decision, case_of, fetch, overruled, tested, waiting, waits
from graft.publication.measuring import Rows
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
    trust_remote_code: bool = False,
    approve: bool = False,
    reason: str = "",
    who: str = "",
    answer: Answer | None = None,
) -> Decision:
    """Decide whether the published adapter on disk becomes champion, and move the alias if so.

    ``trust_remote_code`` says whether Python code that comes with a base may run (``base.trust_remote_code``).
    ``approve`` lets a named person overrule a refusal, with a ``reason``, both journaled; ``answer`` is what a person
    said to a decision that they were shown.

    Raises:
        InputError: ``approve`` without a reason.
        ResourceMissing: MLflow is not reachable, or the adapter was not published.
        IntegrityError: it would become champion or is it, and what the registry holds is not what was published, or
            lacks a signature that is asked for.
        PromotionConflict: the alias moved meanwhile.
    """
    from graft.publication.facts import read
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    if approve and not reason.strip():
        raise InputError("--approve: needs --reason: it is kept in the journal of decisions")
    answer = Answer("approve", reason.strip()) if approve else answer
    facts = read(workspace)
    connection = connect(tracking, workspace)
    with reported(connection.uri):
        candidate = registry.find(connection, registration.name, facts.digest)
        if candidate is None:
            raise ResourceMissing(f"{registration.name}: the adapter on disk is not published; run `graft sync`")
        case = case_of(connection, workspace, tracking, candidate, who)
        if resumed := _resumed(case, "promote", candidate.version):
            decision = resumed
        elif case.champion and case.champion.adapter == candidate.adapter:
            held = case.champion.version
            check_artifact(connection, case.champion)
            said = f"version {held} is champion already"
            decision = Decision(candidate.name, "champion already", held, held, held, said, case.who, notes=case.notes)
        else:
            rows = Rows(workspace, task, data, trust_remote_code)
            verdict = tested(case, rows, evaluation, promotion)
            final = overruled(case, verdict, answer)
            if waits(case, final, answer, promotion):
                decision = waiting(final, case)
            else:
                if final.moved:
                    check_artifact(connection, candidate)
                decision = carry_out(case, "promote", final)
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
        InputError: there is no champion, no version before it, or no version ``to`` that was champion once.
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
        if resumed := _resumed(case, "rollback", to):
            return resumed
        if case.champion is None or case.champion.version != current.version:
            raise PromotionConflict(f"{name}: champion was moved just now; look at `graft history` and try again")
        target = registry.get(connection, name, to or _previous(case))
        case = replace(case, candidate=target)
        if target.version == current.version:
            raise InputError(f"{name}: version {target.version} is champion already")
        _refuse_newcomer(case)
        check_artifact(connection, target)
        why = reason or f"rolled back from version {current.version}"
        decision = Decision(
            name, "rollback", target.version, current.version, target.version, why, case.who, notes=case.notes
        )
        done = carry_out(case, "rollback", decision)
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


def _resumed(case: Case, kind: Kind, version: str | None) -> Decision | None:
    """Return the same move, taken before a crash and finished now: taking it again would be a second one."""
    for one in case.finished:
        if one.kind == kind and one.moved and version in (None, one.after) and one.who == case.who:
            return decision_of(one)
    return None


def _refuse_newcomer(case: Case) -> None:
    """Refuse a version that never was champion: going back to it would be a promotion without a test."""
    taken = [one for one in case.history if one.stands]
    were = {number for one in taken for number in (one.before, one.after) if number}
    target = case.candidate
    if target.version not in were:
        said = [one.verdict for one in reversed(taken) if one.candidate == target.version]
        decided = f" (decisions about it: {', '.join(said)})" if said else ""
        raise InputError(
            f"{target.name}: version {target.version} never was champion{decided}, and a rollback restores an earlier "
            f"champion: {', '.join(sorted(were, key=int))}. To make version {target.version} champion all the same, "
            'with its adapter on disk: `graft promote --approve --reason "..."`'
        )


def _previous(case: Case) -> str:
    """Return the version that was champion before the current one, as the journal has it."""
    for entry in case.history:
        if entry.moved and entry.after == case.before and entry.before:
            return entry.before
    raise InputError(
        f"{case.candidate.name}: the journal knows no champion before version {case.before}, so there is nothing to go "
        "back to; where other versions exist, name one with `--to`"
    )
