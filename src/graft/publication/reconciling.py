"""Alias and journal agree, or a person says which of the two is right; either way the journal has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from graft.errors import InputError
from graft.publication.carrying import Standing, carry_out, settle, standing_of
from graft.publication.cases import Case, Decision
from graft.publication.decisions import check_artifact
from graft.registration import RegistrationConfig
from graft.tracking import TrackingConfig
from graft.workspace import Workspace

if TYPE_CHECKING:
    from graft.tracking.server import Connection

Way = Literal["adopt", "restore"]


def standing(
    workspace: Workspace, *, registration: RegistrationConfig, tracking: TrackingConfig, published: bool = False
) -> Standing:
    """Return where journal and alias of the registered model stand; nothing is changed.

    ``published``: a model that the registry does not know is refused; a project's own may not be published yet.

    Raises:
        InputError: there is no such model.
        ResourceMissing: MLflow is not reachable.
    """
    from graft.tracking import ledger, registry
    from graft.tracking.server import connect, reported

    connection, name = connect(tracking, workspace), registration.name
    with reported(connection.uri):
        book = ledger.find(connection, name)
        if published and book is None:
            registry.refuse_unknown(connection, name)
        return standing_of(book) if book else Standing([], registry.champion_number(connection, name))


def reconcile(
    workspace: Workspace,
    *,
    registration: RegistrationConfig,
    tracking: TrackingConfig,
    way: Way | None = None,
    reason: str = "",
    who: str = "",
) -> list[str]:
    """Finish a decision that a crash left; take an alias that was moved by hand into the journal, or put it back.

    Returns:
        What was done, in sentences; none where alias and journal agreed.

    Raises:
        InputError: the alias was moved by hand and ``way`` does not say which of the two is right.
        IntegrityError: the adapter of the version that would be champion is not the one that was published.
    """
    from graft.tracking import journal
    from graft.tracking.server import connect, reported

    connection, name = connect(tracking, workspace), registration.name
    with reported(connection.uri):
        book = journal.open_ledger(connection, tracking, workspace, name)
        found, said = standing_of(book), []
        if found.unfinished is not None:
            settle(book)
            said.append(f"finished {found.unfinished.summary()}")
        elif found.moved_by_hand:
            if way is None:
                raise InputError(f"{name}: {found.problem()}")
            if found.newest is not None and found.newest.state == "open":
                journal.close(book, found.newest.run_id)
            decision = _agreed(connection, workspace, tracking, found, way, name, reason, who)
            said.append(
                f"decision {decision.number}: {decision.verdict}: champion is "
                f"{f'version {decision.after}' if decision.after else 'not set'}"
            )
        return said


def _agreed(
    connection: Connection,
    workspace: Workspace,
    tracking: TrackingConfig,
    found: Standing,
    way: Way,
    name: str,
    reason: str,
    who: str,
) -> Decision:
    import getpass

    from graft.tracking import journal, registry

    after = found.alias if way == "adopt" else found.journaled
    about = registry.get(connection, name, str(after or found.alias or found.journaled))
    if after is not None:
        check_artifact(connection, about)
    before = found.journaled if way == "adopt" else found.alias
    why = reason or ("MLflow's alias was moved by hand" if way == "adopt" else "MLflow's alias was put back")
    case = Case(
        connection,
        workspace,
        tracking,
        candidate=about,
        champion=registry.champion(connection, name),
        history=journal.standing(found.entries),
        who=who or getpass.getuser(),
        book=journal.open_ledger(connection, tracking, workspace, name),
    )
    decision = Decision(name, way, about.version, before, after, why, case.who)
    return carry_out(case, way, decision)
