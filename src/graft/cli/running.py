"""Commands about runs: run, stage, logs, cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import RUN, app, examples, workspace

if TYPE_CHECKING:
    from graft.runs import Run
    from graft.workspace import Workspace

FOLLOW_SECONDS = 0.5


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft run", "the chain on the files as they are; stages that are current are not run"),
        ("graft run -S training.epochs=5 -S adapter.r=8", "with other parameters, in a worktree; params.yaml stays"),
        ("graft run --add-data", "record changed data in data.dvc first"),
        ("graft run --pull", "take results that the shared remote has, in place of computing them"),
        ("graft run --force --push", "everything anew, results to the remotes"),
        ("graft run --profile", "train again, and say where the time goes: profile.md and a trace, also in MLflow"),
        ("graft run --each 'data/groups/*'", "a project and an adapter for each file or folder there"),
    ),
)
def run(
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Run every stage, though its result is current.")
    ] = False,
    add_data: Annotated[bool, typer.Option("--add-data", help="Record changed data in data.dvc.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-S", metavar="KEY=VALUE", help="Override a parameter for this run.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option("--commit", metavar="REV", help="Run this commit in a worktree, not the files here.")
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Take results that the DVC remote's run cache has.")] = False,
    push: Annotated[bool, typer.Option("--push", help="At the end, push outputs, run cache and commit.")] = False,
    publish: Annotated[bool, typer.Option("--publish/--no-publish", help="Record the result in MLflow.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Train, though it is current, and profile some steps; the same adapter.")
    ] = False,
    each: Annotated[
        str | None,
        typer.Option("--each", metavar="PATTERN", help="Once for each group: every file or folder that matches."),
    ] = None,
) -> None:
    """Run the chain: validate, tokenize, train, evaluate, register, publish, promote. Nothing runs twice."""
    from graft.cli.child import run_module
    from graft.cli.current import current, summary_lines

    place = workspace()
    if each is not None:
        _run_each(
            place,
            each,
            {"--set": overrides, "--commit": commit, "--add-data": add_data, "--profile": profile},
            *(force, pull, push, publish),
        )
    if add_data and (overrides or commit):
        _refuse_add_data("--set" if overrides else "--commit")
    values = _overrides(place, overrides or [])
    if not (force or values or commit or push or profile):
        found = current(place)
        if found is not None:
            for line in summary_lines(place, found):
                print(line)
            print("nothing to do: data, parameters, code and base are those of this version")
            return
    if not (commit or values or add_data):
        _refuse_changed_data(place)
    if not commit:
        refuse_problems(place, recording=add_data)
    arguments = ["--project", str(place.root), *(f"--set={one}" for one in overrides or [])]
    arguments += ["--commit", commit] if commit else []
    flags = {"--force": force, "--add-data": add_data, "--pull": pull, "--push": push, "--profile": profile}
    flags["--no-publish"] = not publish
    arguments += [name for name, wanted in flags.items() if wanted]
    raise typer.Exit(run_module(place, "pipelines.finetune", arguments))


def _refuse_changed_data(place: Workspace) -> None:
    """Refuse a changed data folder before anything is imported for the run, which would refuse it too."""
    from graft.repository import Repository

    if place.data.is_dir() and place.data_dvc.is_file():
        Repository(place).refuse_changed_data()


def _run_each(place: Workspace, pattern: str, unfit: dict[str, Any], *wanted: bool) -> None:
    """Run the chain for each group; options that are about one project's files are refused."""
    from pathlib import Path

    from graft.cli.each import run_each
    from graft.errors import ConfigError

    given = [name for name, value in unfit.items() if value]
    if given:
        raise ConfigError(f"--each: leave out {', '.join(given)}; the projects of groups follow params.yaml as it is")
    force, pull, push, publish = wanted
    flags = {"--force": force, "--pull": pull, "--push": push, "--no-publish": not publish}
    raise typer.Exit(run_each(place, pattern, [name for name, on in flags.items() if on], Path.cwd()))


def _refuse_add_data(beside: str) -> None:
    """Refuse to record changed data for a run that leaves the files here as they are."""
    from graft.errors import ConfigError

    raise ConfigError(
        f"--add-data: not with {beside}, which runs in a worktree on the data that data.dvc names there; record the "
        "data first (`dvc add data`), then run without --add-data"
    )


def _overrides(place: Workspace, given: list[str]) -> dict[str, Any]:
    """Return the overrides by dotted path, checked as a whole params file before anything is imported."""
    import yaml

    from graft.errors import ConfigError, shown

    values = {}
    for one in given:
        path, separator, value = one.partition("=")
        if not (separator and path):
            raise ConfigError(f"--set: must be KEY=VALUE, such as training.epochs=5 (got {shown(one)})")
        try:
            values[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set: {path}: not a YAML value (got {shown(value)}); put text in quotes") from None
    if values:
        from graft.repository.overrides import checked

        checked(place.params.read_text(encoding="utf-8"), values)
    return values


def refuse_problems(place: Workspace, *, recording: bool = False) -> None:
    """Refuse to start with what the light checks find; warnings are shown, but not of data that the run records."""
    from graft import checks
    from graft.cli import printing

    # Data that is not here yet is pulled by the run, and validated by its first stage.
    present = place.data.is_dir() or not place.data_dvc.is_file()
    report = checks.check(place, adapter=False, data=present, recorded=not recording)
    for one in report.findings:
        if one.state == "warn":
            printing.finding("warn", f"{one.check}:", one.text)
    report.refuse_failures()


STAGES_HELP = """Run one stage's function here; this is what dvc.yaml calls.

\b
validate   hold every part file to the data contract
tokenize   make token tables of the rows, and check them
train      train the adapter on its frozen base
evaluate   score base and adapter on the test rows
register   pack the adapter, and prove in a fresh process that it loads
"""


@app.command(
    help=STAGES_HELP,
    rich_help_panel=RUN,
    epilog=examples(
        ("graft stage validate", "the stage's function alone: no DVC, no cache, outputs written in place"),
        ("graft stage train --profile", "train, and write artifacts/training/profile.md and trace.json.gz"),
        ("dvc repro train", "the same stage through DVC, with what it depends on"),
    ),
)
def stage(
    name: Annotated[str, typer.Argument(help="validate, tokenize, train, evaluate or register.")],
    profile: Annotated[bool, typer.Option("--profile", help="Of train: profile some steps.")] = False,
) -> None:
    """Run one stage's function here; this is what dvc.yaml calls."""
    import os

    from graft import stages

    os.chdir(workspace().root)
    raise typer.Exit(stages.main([name, *(["--profile"] if profile else [])]))


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
    from graft.workspace import read_json, suggested

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
            print(suggested(f"{now.folder.name}: {now.state}; `graft run` resumes"))
            return
        time.sleep(FOLLOW_SECONDS / 2)
    raise ResourceMissing(
        f"{found[0].folder.name}: still running after {wait_seconds:g} s; `graft logs -f` shows what it does"
    )
