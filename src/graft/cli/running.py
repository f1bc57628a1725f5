"""Commands about runs: run, stage, status, logs, cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, RUN, app, examples, workspace

if TYPE_CHECKING:
    from graft.runs import Run
    from graft.workspace import Workspace

FOLLOW_SECONDS = 0.5


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft stage validate", "the stage's function alone: no DVC, no cache, outputs written in place"),
        ("dvc repro train", "the same stage through DVC, with what it depends on"),
    ),
)
def stage(name: Annotated[str, typer.Argument(help="validate, tokenize, train, evaluate or register.")]) -> None:
    """Run one stage's function here; this is what dvc.yaml calls."""
    import os

    from graft import stages

    os.chdir(workspace().root)
    raise typer.Exit(stages.main([name]))


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft status", "what is out of date and why, what is published where"),
        ("graft status --json", "for scripts"),
    ),
)
def status(as_json: JSON = False) -> None:
    """Say what is out of date and which file or parameter made it so, what is published, and what runs."""
    from graft.cli import printing

    state = _state(workspace())
    if as_json:
        printing.as_json(state)
        return
    for line in _status_lines(state):
        print(line)


def _state(place: Workspace) -> dict[str, Any]:
    from graft import runs
    from graft.repository import Repository

    repository = Repository(place)
    newest = runs.listed(place)[:1]
    return {
        "project": place.name,
        "data": repository.data_changes(),
        "stages": {name: [_change(one) for one in found] for name, found in repository.status().items()},
        "published": _published(place),
        "run": [{"name": one.folder.name, "state": one.state, **one.facts} for one in newest],
    }


def _change(change: Any) -> dict[str, Any]:
    return {"kind": change.kind, "path": change.path, "old": change.old, "new": change.new, "text": str(change)}


def _published(place: Workspace) -> list[dict[str, Any]]:
    """Return the receipts of this clone, those of the adapter on disk marked ``current``."""
    from graft.identity import digest_folder
    from graft.workspace import read_json

    if not place.published.is_file():
        return []
    here = digest_folder(place.adapter) if place.adapter.is_dir() else None
    found = []
    for key, receipt in read_json(place.published).items():
        uri, name, digest = key.rsplit("|", 2)
        found.append({"uri": uri, "model": name, "adapter": digest, "current": digest == here, **receipt})
    return found


def _status_lines(state: dict[str, Any]) -> Iterator[str]:
    from graft.cli import printing

    changed = state["data"]
    mark = printing.styled("changed", "yellow") if changed else printing.styled("up to date", "green")
    yield f"{'data':9} {mark}{': graft run --add-data takes it' if changed else ''}"
    yield from (f"{'':9}   {one}" for one in changed)
    for name, found in state["stages"].items():
        mark = printing.styled("out of date", "yellow") if found else printing.styled("up to date", "green")
        yield f"{name:9} {mark}"
        yield from (f"{'':9}   {one['text']}" for one in found)
    yield from _published_lines(state["published"])
    yield from _run_lines(state["run"])


def _published_lines(published: list[dict[str, Any]]) -> Iterator[str]:
    current = [one for one in published if one["current"]]
    if not current:
        yield f"{'published':9} the adapter on disk is published nowhere: graft sync"
    for one in current:
        verdict = (one.get("verdict") or {}).get("decision")
        decided = f", {verdict}" if verdict else ""
        yield f"{'published':9} {one['model']} version {one.get('version', '?')} at {one['uri']}{decided}"


def _run_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    from graft.cli import printing

    for one in found:
        since = printing.seconds(max(0.0, time.time() - float(one.get("ended") or one.get("started") or time.time())))
        word = "for" if one["state"] == "running" else "since"
        error = f": {str(one['error']).splitlines()[0]}" if one.get("error") else ""
        yield f"{'run':9} {one['name']} {one['state']} {word} {since}{error}"


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft logs", "the newest run's log"),
        ("graft logs -f", "and what it logs from now on, until it ends"),
        ("graft logs --list", "the runs that this clone knows"),
    ),
)
def logs(
    run: Annotated[str | None, typer.Argument(help="Name of a run (default: the newest).")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    list_runs: Annotated[bool, typer.Option("--list", "-l", help="List the runs instead.")] = False,
) -> None:
    """Print the log of a run."""
    place = workspace()
    if list_runs:
        _list_runs(place)
        return
    for line in _log(_run_named(place, run), follow):
        sys.stdout.write(line)
        sys.stdout.flush()


def _list_runs(place: Workspace) -> None:
    from graft import runs
    from graft.cli import printing

    rows = []
    for one in runs.listed(place):
        began, ended = one.facts.get("started", 0.0), one.facts.get("ended") or time.time()
        error = str(one.facts.get("error") or "").splitlines()
        rows.append([one.folder.name, one.state, printing.seconds(ended - began), error[0] if error else ""])
    printing.table(["run", "state", "time", "error"], rows)


def _run_named(place: Workspace, name: str | None) -> Run:
    from graft import runs
    from graft.errors import ResourceMissing, shown

    found = [one for one in runs.listed(place) if name in (None, one.folder.name)]
    if not found:
        what = f"no run {shown(name)} here; `graft logs --list` lists them" if name else "no run here yet; `graft run`"
        raise ResourceMissing(what)
    return found[0]


def _log(run: Run, follow: bool) -> Iterator[str]:
    """Yield the lines of a run's log; ``follow`` waits for more while the run lives."""
    from graft.errors import ResourceMissing
    from graft.runs import Run
    from graft.workspace import read_json

    if not run.log.is_file() and not (follow and run.state == "running"):
        raise ResourceMissing(f"{run.log}: no such file; the run ended before it logged anything")
    while follow and not run.log.is_file() and run.state == "running":
        time.sleep(FOLLOW_SECONDS)
    with run.log.open(encoding="utf-8", errors="replace") as file:
        while True:
            live = follow and Run(run.folder, read_json(run.folder / "run.json")).state == "running"
            yield from file
            if not live:
                return
            time.sleep(FOLLOW_SECONDS)


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft cancel", "the run of this project; its checkpoints stay, `graft run` resumes"),
        ("graft cancel 20250131-120000-4711", "a run by name, as `graft logs --list` shows it"),
    ),
)
def cancel(
    run: Annotated[str | None, typer.Argument(help="Name of a run (default: the one that runs).")] = None,
    wait_seconds: Annotated[float, typer.Option("--wait", help="How long to wait for its end, in seconds.")] = 30.0,
) -> None:
    """Stop the running run: its stage ends too, and the next run resumes from the last checkpoint."""
    from graft import runs
    from graft.errors import ResourceMissing
    from graft.runs import Run
    from graft.workspace import read_json

    place = workspace()
    found = [one for one in runs.running(place) if run in (None, one.folder.name)]
    if not found:
        raise ResourceMissing(
            f"nothing to cancel: {f'run {run} does not run' if run else 'no run of this project runs'}"
        )
    runs.cancel(found[0])
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        now = Run(found[0].folder, read_json(found[0].folder / "run.json"))
        if now.state != "running":
            print(f"{now.folder.name}: {now.state}; `graft run` resumes")
            return
        time.sleep(FOLLOW_SECONDS / 2)
    raise ResourceMissing(
        f"{found[0].folder.name}: still running after {wait_seconds:g} s; `graft logs -f` shows what it does"
    )


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
