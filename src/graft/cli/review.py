"""Commands about model versions: promote, rollback, reconcile, history, tensorboard, sync."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, REVIEW, app, examples, workspace

if TYPE_CHECKING:
    from graft.params import Params
    from graft.publication import Decision
    from graft.registration import RegistrationConfig
    from graft.tracking import RunContext, TrackingConfig
    from graft.tracking.journal import Entry
    from graft.workspace import Workspace

CLOCK_SECONDS = 5.0
"""How far the clock of a run and the times of a file system may differ."""

NAME = Annotated[str, typer.Argument(metavar="[NAME]", help="The registered model (default: this project's).")]
REASON = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the journal.")]
WHO = Annotated[str, typer.Option("--who", help="Whose decision it is (default: the user).")]


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft promote", "decide by the paired test whether the adapter on disk becomes champion"),
        ('graft promote --approve --reason "agreed in review 12"', "your decision, journaled with your name"),
    ),
)
def promote(
    approve: Annotated[bool, typer.Option("--approve", help="Overrule the test; needs --reason.")] = False,
    reason: REASON = "",
    who: WHO = "",
    as_json: JSON = False,
) -> None:
    """Compare the candidate with the champion on the same test rows, and move the alias if it is better."""
    from graft import deciding

    _show(deciding.decide(workspace(), approve=approve, reason=reason, who=who), as_json)


def _show(decision: Decision, as_json: bool) -> None:
    from graft.cli import printing
    from graft.errors import GateRefused
    from graft.workspace import suggested

    if as_json:
        printing.as_json(decision.as_json())
    else:
        print(f"{decision.name} version {decision.candidate}: {decision.verdict}")
        print(suggested(decision.reason))
        for note in decision.notes:
            print(suggested(f"note: {note}"))
        print(f"champion: {_said(decision.before)} -> {_said(decision.after)}" if decision.moved else _stays(decision))
    if decision.refused:
        raise typer.Exit(GateRefused.exit_code)


def _stays(decision: Decision) -> str:
    return f"champion stays {_said(decision.after)}"


def _said(version: str | None) -> str:
    return f"version {version}" if version else "none"


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft rollback", "the champion before becomes champion again"),
        ('graft rollback --to 3 --reason "wrong labels in March"', "a version by number"),
    ),
)
def rollback(
    name: NAME = "",
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="The version that becomes champion.")
    ] = None,
    reason: REASON = "",
    who: WHO = "",
    as_json: JSON = False,
) -> None:
    """Give the champion alias back to an earlier version; its adapter is checked first."""
    from graft import params, publication

    place = workspace()
    config = params.load(place.params)
    decision = publication.rollback(
        place, registration=_named(config, name), tracking=config.tracking, to=to, reason=reason, who=who
    )
    _show(decision, as_json)


def _named(config: Params, name: str) -> RegistrationConfig:
    """Return the registered model that the user named, else the project's."""
    return config.registration.model_copy(update={"name": name}) if name else config.registration


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft reconcile", "after a crash: finish the decision that stands"),
        ("graft reconcile --adopt --reason ...", "the alias was moved by hand, and rightly: the journal takes it over"),
        ("graft reconcile --restore --reason ...", "it was moved by hand, and wrongly: back to what the journal says"),
    ),
)
def reconcile(
    name: NAME = "",
    adopt: Annotated[bool, typer.Option("--adopt", help="What MLflow says is right.")] = False,
    restore: Annotated[bool, typer.Option("--restore", help="What the journal says is right.")] = False,
    reason: REASON = "",
    who: WHO = "",
) -> None:
    """Let the champion alias and the journal of decisions agree: finish what a crash left, settle what a hand moved."""
    from graft import params, publication
    from graft.errors import ConfigError
    from graft.workspace import suggested

    if adopt and restore:
        raise ConfigError("graft reconcile: give --adopt or --restore, not both")
    place = workspace()
    config = params.load(place.params)
    model = _named(config, name)
    done = publication.reconcile(
        place,
        registration=model,
        tracking=config.tracking,
        way="adopt" if adopt else "restore" if restore else None,
        reason=reason,
        who=who,
    )
    for line in done or ["alias and journal agree"]:
        print(suggested(f"{model.name}: {line}"))


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(("graft history", "who moved the champion alias when, and why"), ("graft history --json", "")),
)
def history(
    name: NAME = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many decisions.")] = 20,
    as_json: JSON = False,
) -> None:
    """Print the journal of promotion decisions, the newest first, and what is to finish."""
    import dataclasses

    from graft import params, publication
    from graft.cli import printing
    from graft.workspace import suggested

    place = workspace()
    config = params.load(place.params)
    model = _named(config, name)
    found = publication.standing(place, registration=model, tracking=config.tracking, published=bool(name))
    entries = found.entries[:limit]
    if as_json:
        printing.as_json([dataclasses.asdict(one) for one in entries])
        return
    if not entries:
        print(suggested(f"{model.name}: no decision yet; `graft promote` takes one"))
    else:
        printing.table(
            ["no.", "when", "version", "verdict", "champion", "state", "who", "why"], [_row(one) for one in entries]
        )
    _print_rebuilt(place, config.tracking, model.name, limit)
    if problem := found.problem():
        print(suggested(printing.styled(problem, "yellow")))


def _print_rebuilt(place: Workspace, tracking: TrackingConfig, name: str, limit: int) -> None:
    """Print the receipts of reproductions, which decide nothing."""
    from graft.cli import printing
    from graft.tracking.reproductions import reproductions
    from graft.tracking.server import connect, reported

    connection = connect(tracking, place)
    with reported(connection.uri):
        found = reproductions(connection, name)[:limit]
    if found:
        print()
        rows = [[one[column] for column in ("on", "version", "verdict", "who", "reason")] for one in found]
        printing.table(["rebuilt on", "version", "verdict", "who", "reason"], rows)


def _row(entry: Entry) -> list[str]:
    import time

    moved = f"{entry.before or 'none'} -> {entry.after or 'none'}" if entry.moved else "-"
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.at_ms / 1000)) if entry.at_ms else "-"
    state = f"{entry.state}, altered since" if entry.altered else entry.state
    return [str(entry.number), day, entry.candidate, entry.verdict, moved, state, entry.who, entry.why]


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft tensorboard events", "write this project's curves; then `tensorboard --logdir events`"),
        ("graft tensorboard /shared/events", "beside those of others: each training has a folder of its own there"),
    ),
)
def tensorboard(
    folder: Annotated[Path, typer.Argument(help="Where to write; the training gets a folder of its own in it.")],
) -> None:
    """Write the curves of the training as TensorBoard events."""
    from graft.publication import run_name
    from graft.tracking.events import write_events
    from graft.workspace import read_json

    place = workspace()
    identity = read_json(place.adapter / "identity.json")
    target = folder / run_name(identity["adapter"]["method"], identity)
    points = write_events(place.training, target)
    print(f"{points} points in {target}")


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft sync", "after MLflow was down, or for a new, empty server"),
        ("MLFLOW_TRACKING_URI=http://team:5000 graft sync", "to another server"),
    ),
)
def sync(as_json: JSON = False) -> None:
    """Publish what is on disk to MLflow: run, curves, reports, version. What is there already stays."""
    import dataclasses

    from graft import params, publication
    from graft.cli import printing
    from graft.workspace import command

    place = workspace()
    config = params.load(place.params)
    receipt = publication.sync(
        place,
        task=config.task,
        base=config.base,
        adapter=config.adapter,
        training=config.training,
        registration=config.registration,
        tracking=config.tracking,
        context=_context(place),
    )
    if as_json:
        printing.as_json(dataclasses.asdict(receipt))
        return
    print(f"{receipt.name} version {receipt.version} at {receipt.uri}")
    print(receipt.run_url if receipt.run_url.startswith("http") else f"look: {command('ui')}")


def _context(place: Workspace) -> RunContext:
    """Return what the files on disk stand on, after checking that one run of these parameters made them.

    Raises:
        ConfigError: a parameter or the data changed since, so that MLflow would be told what is not true.
    """
    from graft.errors import ConfigError
    from graft.identity import digest_file
    from graft.repository import Repository
    from graft.tracking import RunContext

    repository = Repository(place)
    changes = [one for found in repository.status().values() for one in found if one.kind in ("param", "data")]
    if changes:
        problems = dict.fromkeys(map(str, changes))
        raise ConfigError.from_problems(
            "the files on disk are not those of these parameters; `graft run` first", problems
        )
    made = _maker(place) or {"commit": repository.snapshot()}
    return RunContext(
        git_commit=made["commit"],
        git_remote=repository.shared_address(),
        prefect_run=made.get("flow_run"),
        prefect_url=made.get("url"),
        dvc_lock=digest_file(place.dvc_lock),
    )


def _maker(place: Workspace) -> dict[str, Any] | None:
    """Return the facts of the newest run that brought these outputs up to date; None where dvc.lock is younger.

    Runs in a worktree are left out: their outputs are not the ones that lie here.
    """
    from graft import runs

    written = place.dvc_lock.stat().st_mtime if place.dvc_lock.is_file() else float("inf")
    for run in runs.listed(place):
        facts = run.facts
        whole = facts.get("in_place") and facts.get("commit") and "register" in (facts.get("stages") or {})
        if whole and float(facts.get("ended") or 0.0) >= written - CLOCK_SECONDS:
            return facts
    return None
