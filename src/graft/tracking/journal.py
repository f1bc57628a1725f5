"""The journal of decisions: who moved which alias, on what evidence. Append-only, one MLflow run per entry.

Aliases have no history in MLflow, so each promotion, refusal, rollback and adoption is a run of its own in the
experiment ``NAME-decisions``. A decision is taken in this order: the entry is written; it takes its slot in the ledger
(``ledger.py``), and only then it stands, or it is *overtaken*; the alias follows; the entry is closed. What a crash
leaves is an entry without a slot, which never stood, or one with a slot that is open: the next decision, or ``graft
reconcile``, finishes it. The alias is a view of the journal.

An entry's key is a digest of its content and of the key before it. The ledger holds the keys, so an entry that was
changed in the UI afterwards is seen to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from graft.errors import PromotionConflict
from graft.identity import digest_json
from graft.markdown import plain, sentence
from graft.tracking import TrackingConfig, ledger
from graft.tracking.curves import Curves
from graft.tracking.ledger import Ledger, Slot
from graft.tracking.runs import HOME, find_or_create, home_digest
from graft.tracking.server import Connection, now_ms
from graft.workspace import Workspace

Kind = Literal["promote", "rollback", "adopt", "restore"]
State = Literal["open", "done", "overtaken", "abandoned", "proposed"]
FIRST = "none"
STATES: dict[str, State] = {"RUNNING": "open", "FINISHED": "done"}
LEFT_OUT = ("at_ms", "state", "run_id", "recorded_key", "altered", "number")
WHY_CHARACTERS = 4000
"""MLflow cuts longer tags without a word."""


@dataclass(frozen=True)
class Entry:
    """One decision about ``champion`` of a registered model."""

    name: str
    kind: Kind
    verdict: str
    """``promote``, ``reject``, ``undecided``, or what an approval or rollback made of it."""
    candidate: str
    """The version the decision is about."""
    before: str | None
    """The champion version before; None: there was none."""
    after: str | None
    """The champion version after."""
    who: str
    why: str
    adapter: str = ""
    """The digest of the candidate's adapter."""
    against: str = ""
    """What it was compared with."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    test: str = ""
    """The digest of the test rows that the decision looked at; ``evidence["level"]`` is what it spent on them."""
    previous: str = FIRST
    """The key of the entry before this one."""
    clone: str = ""
    """Which clone decided, as a digest: two machines that decide alike at the same time make two entries."""
    number: int = 0
    """Its slot in the ledger, from 1 on; that of an entry without one is the slot it wanted."""
    at_ms: int = 0
    state: State = "proposed"
    """``proposed``: written, has no slot (yet); ``overtaken``: another took its slot; ``abandoned``: that too, and its
    run was left open; ``open``: stands, but the alias may not have followed; ``done``."""
    run_id: str = ""
    recorded_key: str = ""
    """The key in the ledger, of an entry that has its slot."""
    altered: bool = False
    """Whether its run no longer says what was recorded."""

    @property
    def moved(self) -> bool:
        return self.before != self.after

    @property
    def stands(self) -> bool:
        """Whether it has its slot."""
        return self.state in ("open", "done")

    @property
    def key(self) -> str:
        """16 hexadecimal digits over what was decided, about what, on what evidence, after which entry.

        What is empty is left out, so that a field that a later Graft adds changes no key of an old entry.
        """
        made_of = {name: value for name, value in asdict(self).items() if value and name not in LEFT_OUT}
        return self.recorded_key or digest_json(made_of)[:16]

    def same_decision(self, other: Entry) -> bool:
        """Return whether ``other`` decides the same on the same evidence, whatever came before it."""
        one, two = (replace(each, previous=FIRST, recorded_key="") for each in (self, other))
        return one.key == two.key

    def summary(self) -> str:
        """Return ``decision 7, promote version 3 (champion 2 -> 3), by ada``."""
        moved = f"champion {self.before or 'none'} -> {self.after or 'none'}" if self.moved else "champion stays"
        return f"decision {self.number}, {self.verdict} version {self.candidate} ({moved}), by {self.who}"


def history(connection: Connection, name: str) -> list[Entry]:
    """Return all entries of a registered model, the newest first, also those that were overtaken."""
    found = ledger.find(connection, name)
    return read(found) if found else []


def read(book: Ledger) -> list[Entry]:
    """Return all entries of a ledger, the newest first; of those for one slot the one that has it comes last."""
    from mlflow.entities import ViewType

    slots, client = book.slots(), book.connection.client
    runs, token = {}, None
    while True:
        page = client.search_runs(
            [book.experiment], "tags.`decision.model` != ''", ViewType.ALL, max_results=500, page_token=token
        )
        runs.update({run.info.run_id: run for run in page})
        token = page.token
        if not token:
            break
    taken = [_standing(book.name, slot, number, runs.pop(slot.run, None)) for number, slot in enumerate(slots, start=1)]
    numbers = {FIRST: 1, **{slot.key: number + 1 for number, slot in enumerate(slots, start=1)}}
    others = [_other(run, numbers, len(slots)) for run in runs.values() if run.info.lifecycle_stage == "active"]
    return sorted([*taken, *others], key=lambda one: (one.number, not one.stands, one.at_ms), reverse=True)


def standing(entries: list[Entry]) -> list[Entry]:
    """Return the entries that have a slot, in the order given."""
    return [one for one in entries if one.stands]


def last_champion(entries: list[Entry]) -> str | None:
    """Return the version that the journal says is champion; ``entries`` newest first."""
    stands = standing(entries)
    return stands[0].after if stands else None


def write(book: Ledger, workspace: Workspace, entry: Entry) -> Entry:
    """Find or create the run of ``entry``; it stands only when it has its slot (``claim``)."""
    entry = as_recorded(entry, workspace)
    title = f"{entry.name} v{entry.candidate}: {entry.verdict}"
    run = find_or_create(book.connection, book.experiment, entry.key, name=title, tags=_tags(entry))
    Curves(book.connection, run.info.run_id).write_values(entry.evidence)
    return replace(entry, run_id=str(run.info.run_id), at_ms=int(run.info.start_time))


def as_recorded(entry: Entry, workspace: Workspace) -> Entry:
    """Return an entry as it will be read back: numbers that MLflow keeps, a text that fits, the clone."""
    evidence = {name: float(value) for name, value in entry.evidence.items() if math.isfinite(value)}
    return replace(entry, why=entry.why[:WHY_CHARACTERS], clone=home_digest(workspace), evidence=evidence)


def claim(book: Ledger, entry: Entry) -> Entry:
    """Take the slot ``entry.number`` for a written entry; return it as one that stands.

    Raises:
        PromotionConflict: another decision has the slot; this entry is closed as overtaken.
    """
    slot = Slot(
        run=entry.run_id,
        key=entry.key,
        kind=entry.kind,
        verdict=entry.verdict,
        candidate=entry.candidate,
        before=entry.before,
        after=entry.after,
        who=entry.who,
    )
    held = book.take(entry.number, slot)
    if held == slot:
        return replace(entry, state="open", recorded_key=entry.key)
    close(book, entry.run_id, carried_out=False)
    winner = _of_slot(entry.name, held, entry.number)
    raise PromotionConflict(
        f"{entry.name}: another decision was faster: {winner.summary()}; yours ({entry.verdict} version "
        f"{entry.candidate}) was made against the state before it and does not stand; decide again"
    )


def close(book: Ledger, run_id: str, *, carried_out: bool = True) -> None:
    """End an entry: carried out, or overtaken by another."""
    client = book.connection.client
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, "FINISHED" if carried_out else "KILLED", now_ms())


def open_ledger(connection: Connection, config: TrackingConfig, workspace: Workspace, name: str) -> Ledger:
    """Return the ledger of a registered model, made if there is none."""
    return ledger.find_or_create(connection, config, workspace, name)


def note(entry: Entry) -> str:
    """Return an entry as Markdown, for the run's page."""
    rows = "\n".join(f"| {plain(name)} | {value:.4g} |" for name, value in sorted(entry.evidence.items()))
    table = f"\n\n| evidence | value |\n|---|---|\n{rows}" if rows else ""
    champion = f"champion: {_said(entry.before)} → {_said(entry.after)}" if entry.moved else "champion unchanged"
    return (
        f"**{entry.name} version {entry.candidate}: {entry.verdict}** ({champion})\n\n"
        f"{sentence(entry.why)}\n\nby {plain(entry.who)}{table}\n"
    )


def _said(version: str | None) -> str:
    return f"version {version}" if version else "none"


def _tags(entry: Entry) -> dict[str, str]:
    return {
        "decision.model": entry.name,
        "decision.kind": entry.kind,
        "decision.verdict": entry.verdict,
        "decision.candidate": entry.candidate,
        "decision.before": entry.before or "",
        "decision.after": entry.after or "",
        "decision.who": entry.who,
        "decision.why": entry.why,
        "decision.adapter": entry.adapter,
        "decision.against": entry.against,
        "decision.test": entry.test,
        "decision.previous": entry.previous,
        HOME: entry.clone,
        "mlflow.user": entry.who,
        "mlflow.source.name": "graft promote" if entry.kind == "promote" else f"graft {entry.kind}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": note(entry),
    }


def _entry(run: Any) -> Entry:
    tags = run.data.tags
    return Entry(
        name=tags.get("decision.model", ""),
        kind=tags.get("decision.kind", "promote"),
        verdict=tags.get("decision.verdict", ""),
        candidate=tags.get("decision.candidate", ""),
        before=tags.get("decision.before") or None,
        after=tags.get("decision.after") or None,
        who=tags.get("decision.who", ""),
        why=tags.get("decision.why", ""),
        adapter=tags.get("decision.adapter", ""),
        against=tags.get("decision.against", ""),
        evidence=dict(run.data.metrics),
        test=tags.get("decision.test", ""),
        previous=tags.get("decision.previous", ""),
        clone=tags.get(HOME, ""),
        at_ms=int(run.info.start_time),
        run_id=run.info.run_id,
    )


def _standing(name: str, slot: Slot, number: int, run: Any) -> Entry:
    """Return the entry of a slot: what the run says where it says what was recorded, else what the slot says."""
    recorded = _of_slot(name, slot, number)
    if run is None:
        return replace(recorded, why="(its run was deleted for good)", altered=True)
    found = _entry(run)
    state = STATES.get(run.info.status, "done") if run.info.lifecycle_stage == "active" else "done"
    if found.key == slot.key:
        return replace(found, number=number, state=state, recorded_key=slot.key)
    return replace(recorded, why=found.why, at_ms=found.at_ms, state=state, altered=True)


def _of_slot(name: str, slot: Slot, number: int) -> Entry:
    return Entry(
        name=name,
        kind=slot.kind,  # type: ignore[arg-type]  # as it was written by `claim`
        verdict=slot.verdict,
        candidate=slot.candidate,
        before=slot.before,
        after=slot.after,
        who=slot.who,
        why="",
        number=number,
        state="done",
        run_id=slot.run,
        recorded_key=slot.key,
    )


def _other(run: Any, numbers: Mapping[str, int], taken: int) -> Entry:
    """Return an entry that has no slot: its slot may still be free, else it was overtaken."""
    found = _entry(run)
    number, running = numbers.get(found.previous, 0), run.info.status == "RUNNING"
    state: State = "overtaken"
    if running:
        state = "proposed" if number > taken else "abandoned"
    return replace(found, number=number, state=state)
