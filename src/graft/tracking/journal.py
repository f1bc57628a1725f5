"""The journal of decisions: who moved which alias, on what evidence. Append-only, one MLflow run per entry.

Aliases have no history in MLflow, so each promotion, refusal, rollback and adoption is a run of its own in the
experiment ``<experiment>-decisions``. An entry is opened before the alias moves and closed after it, so that a crash
between the two leaves a visible open entry, which the next decision closes. Entries are keyed by their content and by
the entry before them: the same decision, taken again after a crash, is one entry; the same move a month later is a
new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from graft.identity import digest_json
from graft.tracking import TrackingConfig
from graft.tracking.curves import Curves
from graft.tracking.runs import KEY, find_or_create
from graft.tracking.server import Connection, experiment_id, now_ms
from graft.workspace import Workspace

SUFFIX = "-decisions"
Kind = Literal["promote", "rollback", "adopt"]
State = Literal["open", "done", "overtaken"]
FIRST = "none"
STATES: dict[str, State] = {"RUNNING": "open", "FINISHED": "done"}


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
    evidence: Mapping[str, float] = field(default_factory=dict)
    test: str = ""
    """The digest of the test rows that the decision looked at; ``evidence["level"]`` is what it spent on them."""
    previous: str = FIRST
    """The key of the entry before this one."""
    at_ms: int = 0
    state: State = "open"
    run_id: str = ""
    recorded_key: str = ""
    """The key it was recorded under, for an entry read back."""

    @property
    def moved(self) -> bool:
        return self.before != self.after

    @property
    def key(self) -> str:
        """16 hexadecimal digits over what was decided, about what, on what evidence, after which entry."""
        left_out = ("at_ms", "state", "run_id", "recorded_key")
        made_of = {name: value for name, value in asdict(self).items() if name not in left_out}
        return self.recorded_key or digest_json(made_of)[:16]


def history(connection: Connection, config: TrackingConfig, workspace: Workspace, name: str) -> list[Entry]:
    """Return the entries of a registered model, the newest first."""
    if connection.client.get_experiment_by_name(config.experiment + SUFFIX) is None:
        return []
    experiment = experiment_id(connection, config, workspace, SUFFIX)
    found, token = [], None
    while True:
        page = connection.client.search_runs(
            [experiment], f"tags.`decision.model` = '{name}'", max_results=500, page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return _newest_first([_entry(run) for run in found])


def open_entry(connection: Connection, config: TrackingConfig, workspace: Workspace, entry: Entry) -> str:
    """Find or create the run of ``entry`` and return its id; ``close`` ends it."""
    experiment = experiment_id(connection, config, workspace, SUFFIX)
    tags = {
        "decision.model": entry.name,
        "decision.kind": entry.kind,
        "decision.verdict": entry.verdict,
        "decision.candidate": entry.candidate,
        "decision.before": entry.before or "",
        "decision.after": entry.after or "",
        "decision.who": entry.who,
        "decision.why": entry.why,
        "decision.adapter": entry.adapter,
        "decision.test": entry.test,
        "decision.previous": entry.previous,
        "mlflow.user": entry.who,
        "mlflow.source.name": "graft promote" if entry.kind == "promote" else f"graft {entry.kind}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": note(entry),
    }
    title = f"{entry.name} v{entry.candidate}: {entry.verdict}"
    run = find_or_create(connection, experiment, entry.key, name=title, tags=tags)
    Curves(connection, run.info.run_id).write_values(entry.evidence)
    return str(run.info.run_id)


def close(connection: Connection, run_id: str, *, carried_out: bool = True) -> None:
    """End an entry: carried out, or overtaken by another."""
    if connection.client.get_run(run_id).info.status == "RUNNING":
        connection.client.set_terminated(run_id, "FINISHED" if carried_out else "KILLED", now_ms())


def settle(
    connection: Connection, config: TrackingConfig, workspace: Workspace, name: str, champion: str | None
) -> list[Entry]:
    """Close entries that a crash left open: carried out if the alias is where they wanted it, else overtaken.

    Returns the history, newest first, without those that were overtaken.
    """
    entries = history(connection, config, workspace, name)
    settled = []
    for entry in entries:
        state = entry.state
        if state == "open":
            state = "done" if not entry.moved or entry.after == champion else "overtaken"
            close(connection, entry.run_id, carried_out=state == "done")
        if state == "done":
            settled.append(entry)
    return settled


def last_champion(entries: list[Entry]) -> str | None:
    """Return the version that the journal says is champion; ``entries`` newest first."""
    return entries[0].after if entries else None


def note(entry: Entry) -> str:
    """Return an entry as Markdown, for the run's page."""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(entry.evidence.items()))
    table = f"\n\n| evidence | value |\n|---|---|\n{rows}" if rows else ""
    champion = f"champion: {_said(entry.before)} → {_said(entry.after)}" if entry.moved else "champion unchanged"
    return (
        f"**{entry.name} version {entry.candidate}: {entry.verdict}** ({champion})\n\n"
        f"{entry.why}\n\nby {entry.who}{table}\n"
    )


def _said(version: str | None) -> str:
    return f"version {version}" if version else "none"


def _newest_first(entries: list[Entry]) -> list[Entry]:
    """Order by the chain of keys; clocks of several machines may disagree, times decide only where a chain splits."""
    by_previous: dict[str, list[Entry]] = {}
    for entry in entries:
        by_previous.setdefault(entry.previous, []).append(entry)
    ordered: list[Entry] = []
    waiting = sorted(by_previous.pop(FIRST, []), key=lambda one: one.at_ms)
    while waiting:
        entry = waiting.pop(0)
        ordered.append(entry)
        waiting = sorted([*by_previous.pop(entry.key, []), *waiting], key=lambda one: one.at_ms)
    orphans = sorted((one for rest in by_previous.values() for one in rest), key=lambda one: one.at_ms)
    return [*reversed([*ordered, *orphans])]


def _entry(run: Any) -> Entry:
    tags = run.data.tags
    return Entry(
        name=tags["decision.model"],
        kind=tags["decision.kind"],
        verdict=tags["decision.verdict"],
        candidate=tags["decision.candidate"],
        before=tags["decision.before"] or None,
        after=tags["decision.after"] or None,
        who=tags["decision.who"],
        why=tags["decision.why"],
        adapter=tags["decision.adapter"],
        evidence=dict(run.data.metrics),
        test=tags.get("decision.test", ""),
        previous=tags["decision.previous"],
        at_ms=int(run.info.start_time),
        state=STATES.get(run.info.status, "overtaken"),
        run_id=run.info.run_id,
        recorded_key=tags[KEY],
    )
