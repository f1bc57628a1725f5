"""Carry a decision out in steps, each of which whoever comes next can finish.

Entry written, slot taken, alias moved, versions told, entry closed. Before the slot is taken nothing has happened;
from then on the decision stands, and the steps after it can be done any number of times by anybody. ``settle`` does
them for an entry that a crash left open.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graft.errors import InputError, PromotionConflict
from graft.publication import notes, verdict_page
from graft.publication.cases import Case, Decision
from graft.tracking import journal, registry
from graft.tracking.journal import Entry
from graft.tracking.ledger import Ledger

if TYPE_CHECKING:
    from graft.tracking.journal import Kind

MOST_TRIES = 20


@dataclass(frozen=True)
class Standing:
    """Where journal and alias stand."""

    entries: list[Entry]
    """All entries, the newest first, also those that were overtaken."""
    alias: str | None
    """The version that the alias ``champion`` names in MLflow."""

    @property
    def newest(self) -> Entry | None:
        """The newest entry that stands."""
        return next(iter(journal.standing(self.entries)), None)

    @property
    def journaled(self) -> str | None:
        """The version that the journal says is champion."""
        return self.newest.after if self.newest else None

    @property
    def unfinished(self) -> Entry | None:
        """The decision that stands and whose steps a crash (or a process that is at it now) left."""
        left = self.newest is not None and self.newest.state == "open"
        return self.newest if left and not self.moved_by_hand else None

    @property
    def moved_by_hand(self) -> bool:
        """Whether the alias is neither where the journal says nor on its way there."""
        newest = self.newest
        if newest is not None and newest.state == "open" and self.alias == newest.before:
            return False
        return self.alias != self.journaled

    def problem(self) -> str:
        """Return what is to do, in one sentence with the command; empty where alias and journal agree."""
        if self.unfinished is not None:
            return f"{self.unfinished.summary()} stands and is unfinished: `graft reconcile` finishes it"
        if self.moved_by_hand:
            return (
                f"champion was moved by hand: the journal says {_said(self.journaled)}, MLflow says "
                f"{_said(self.alias)}; `graft reconcile --adopt` journals what MLflow says, `--restore` puts it back"
            )
        return ""


def standing_of(book: Ledger) -> Standing:
    """Read journal and alias."""
    return Standing(journal.read(book), registry.champion_number(book.connection, book.name))


def settle(book: Ledger) -> tuple[list[Entry], list[Entry]]:
    """Finish what a crash left; return the entries that stand, the newest first, and those that were finished now.

    Raises:
        PromotionConflict: the alias was moved by hand before the decision that stands could move it.
    """
    found = standing_of(book)
    stands, newest = journal.standing(found.entries), found.newest
    if newest is not None and newest.state == "open" and found.moved_by_hand:
        raise PromotionConflict(f"{book.name}: {newest.summary()} stands and is unfinished, and {found.problem()}")
    left = [one for one in stands if one.state == "open"]
    for one in reversed(left):
        finish(book, one)
    for one in found.entries:
        if one.state == "abandoned":
            journal.close(book, one.run_id, carried_out=False)
    return [replace(one, state="done") for one in stands], left


def carry_out(case: Case, kind: Kind, decision: Decision) -> Decision:
    """Journal a decision and do what it says.

    Raises:
        PromotionConflict: another decision took the place after those that this one was made on, or somebody moved the
            alias by hand meanwhile. One that moves nothing is journaled after the other, if the champion is the same.
    """
    for _ in range(MOST_TRIES):
        entry = _entry(case, kind, decision)
        done = next((one for one in case.finished if one.same_decision(entry)), None)
        if done is not None:  # a crash left it, and settling has finished it
            return replace(decision, journal=done.run_id, number=done.number)
        written = journal.write(case.book, case.workspace, entry)
        try:
            _check_alias(case, written)
            claimed = journal.claim(case.book, written)
        except PromotionConflict:
            if decision.moved:
                raise
            stands, _ = settle(case.book)
            case = replace(case, history=stands)
            continue
        finish(case.book, claimed)
        return replace(decision, journal=claimed.run_id, number=claimed.number)
    raise PromotionConflict(f"{decision.name}: {MOST_TRIES} other decisions were faster; try again when fewer run")


def finish(book: Ledger, entry: Entry) -> None:
    """Do what follows from an entry that stands: alias, notes on the versions, close it. Doing it again is nothing."""
    move_alias(book, entry)
    tell_versions(book, entry)
    journal.close(book, entry.run_id)


def move_alias(book: Ledger, entry: Entry) -> None:
    """Let the alias follow."""
    if entry.moved:
        registry.follow_ledger(book)


def tell_versions(book: Ledger, entry: Entry) -> None:
    """Leave tags, a line in the description and the verdict on the report of the version that was decided on, and of
    the champion.
    """
    entries = journal.standing(journal.read(book))
    for number in dict.fromkeys(one for one in (entry.candidate, entry.after if entry.moved else None) if one):
        about = [one for one in entries if number in (one.candidate, one.after if one.moved else None)]
        with contextlib.suppress(InputError):  # the version was deleted meanwhile; the journal stands
            version = registry.get(book.connection, book.name, number)
            registry.set_tags(book.connection, version, _tags(book, about, number))
            registry.describe(book.connection, version, notes.with_decisions(version.description, _lines(book, about)))
            verdict_page.show(book, about[0], version)


def decision_of(entry: Entry) -> Decision:
    """Return an entry as the decision that it records."""
    return Decision(
        name=entry.name,
        verdict=entry.verdict,
        candidate=entry.candidate,
        before=entry.before,
        after=entry.after,
        reason=entry.why,
        who=entry.who,
        against=entry.against,
        evidence=entry.evidence,
        test=entry.test,
        journal=entry.run_id,
        number=entry.number,
    )


def _entry(case: Case, kind: Kind, decision: Decision) -> Entry:
    entry = Entry(
        name=decision.name,
        kind=kind,
        verdict=decision.verdict,
        candidate=decision.candidate,
        before=decision.before,
        after=decision.after,
        who=decision.who,
        why=" ".join([decision.reason, *decision.notes]),
        adapter=case.candidate.adapter or "",
        against=decision.against,
        evidence=decision.evidence,
        test=decision.test,
        previous=case.previous,
        number=case.number,
    )
    return journal.as_recorded(entry, case.workspace)


def _check_alias(case: Case, written: Entry) -> None:
    """Refuse if the alias is no longer what the decision was made against."""
    alias = registry.champion_number(case.connection, written.name)
    if alias != case.before:
        journal.close(case.book, written.run_id, carried_out=False)
        raise PromotionConflict(
            f"{written.name}: champion is {_said(alias)} by now, and the decision was made against "
            f"{_said(case.before)}; run `graft promote` again to compare with it"
        )


def _tags(book: Ledger, about: list[Entry], number: str) -> dict[str, str]:
    """Return the tags of a version from the entries about it, the newest first."""
    newest = about[0]
    tags = {
        "graft.decision": str(newest.number),
        "graft.decision_run": _link(book, newest),
        "graft.decided_by": newest.who,
    }
    if newest.candidate == number:
        tags |= {"graft.verdict": newest.verdict, "graft.against": newest.against}
        if "p" in newest.evidence:
            tags["graft.p"] = f"{newest.evidence['p']:.3g}"
    made = next((one for one in about if one.moved and one.after == number), None)
    if made is not None:
        tags["graft.champion_since"] = _day(made)
    return {name: value for name, value in tags.items() if value}


def _lines(book: Ledger, about: Iterable[Entry]) -> list[str]:
    return [f"[decision {one.number}]({_link(book, one)}), {_day(one)}: {notes.decided(one)}" for one in about]


def _link(book: Ledger, entry: Entry) -> str:
    return book.connection.link(f"experiments/{book.experiment}/runs/{entry.run_id}")


def _day(entry: Entry) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(entry.at_ms / 1000))


def _said(version: str | None) -> str:
    return f"version {version}" if version else "not set"
