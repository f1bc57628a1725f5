"""Commands about services and care: ui, worker, doctor, gc."""

from __future__ import annotations

from typing import Annotated

import typer

from graft.cli.app import CARE, JSON, app, examples, workspace


@app.command(
    rich_help_panel=CARE,
    epilog=examples(
        ("graft ui", "both UIs until Ctrl-C; prints their addresses"),
        ("graft ui --mlflow-port 5001", "where port 5000 is taken"),
    ),
)
def ui(
    mlflow_port: Annotated[int | None, typer.Option(help="Port of MLflow (default: 5000 or the next free).")] = None,
    prefect_port: Annotated[int | None, typer.Option(help="Port of Prefect (default: 4200 or the next free).")] = None,
) -> None:
    """Serve the MLflow and Prefect UIs of this clone on the loopback address."""
    from graft import params, services

    place = workspace()
    services.ui(place, params.load(place.params).tracking, mlflow_port=mlflow_port, prefect_port=prefect_port)


@app.command(
    rich_help_panel=CARE,
    epilog=examples(
        ("graft worker", "serves scheduled runs and runs from the Prefect UI"),
        ("graft worker --pool gpu", "on a GPU machine: trains for projects with placement: {train: gpu}"),
    ),
)
def worker(
    pool: Annotated[str, typer.Option("--pool", "-p", help="The Prefect work pool to serve.")] = "graft",
    name: Annotated[str | None, typer.Option("--name", help="What the worker is called in Prefect.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many runs at a time.")] = 1,
) -> None:
    """Take runs from a Prefect work pool, until interrupted."""
    from graft import services

    raise typer.Exit(services.worker(workspace(), pool, name=name, limit=limit))


@app.command(
    rich_help_panel=CARE,
    epilog=examples(("graft doctor", "each line is ok, warn or fail, with what mends it"), ("graft doctor --json", "")),
)
def doctor(as_json: JSON = False) -> None:
    """Look at environment, pins, git, remotes, locks, disk, servers, ports and stray processes."""
    from dataclasses import asdict

    from graft import housekeeping
    from graft.cli import printing

    found = []
    for one in housekeeping.doctor(workspace()):
        found.append(one)
        if not as_json:
            printing.finding(one.state, f"{one.check:10}", one.text)
    if as_json:
        printing.as_json(
            {"passed": all(one.state != "fail" for one in found), "findings": [asdict(one) for one in found]}
        )
    codes = {one.exit_code for one in found if one.state == "fail"}
    raise typer.Exit(0 if not codes else codes.pop() if len(codes) == 1 else 1)


@app.command(
    rich_help_panel=CARE,
    epilog=examples(
        ("graft gc", "what would go, with sizes; nothing is removed"),
        ("graft gc --yes", "remove it"),
        ("graft gc --older-than 0 --yes", "all checkpoints and intermediates, also today's"),
    ),
)
def gc(
    yes: Annotated[bool, typer.Option("--yes/--dry-run", "-y/-n", help="Remove, or only say what would go.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what is that old.")
    ] = 7.0,
    as_json: JSON = False,
) -> None:
    """Remove old checkpoints, intermediates, logs, refs of unpublished runs, and what killed runs left behind."""
    from graft import housekeeping
    from graft.cli import printing
    from graft.workspace import suggested

    place = workspace()
    items = housekeeping.waste(place, older_than_days=older_than)
    if yes:
        items = list(housekeeping.remove(place, items))
    total = sum(one.size_bytes for one in items)
    if as_json:
        rows = [
            {"kind": one.kind, "name": one.name, "bytes": one.size_bytes, "age_s": one.age_seconds} for one in items
        ]
        printing.as_json({"removed": yes, "bytes": total, "items": rows})
        return
    if items:
        cells = [
            [one.kind, one.name, printing.size(one.size_bytes), printing.seconds(one.age_seconds)] for one in items
        ]
        printing.table(["kind", "name", "size", "age"], cells)
    verb = "removed" if yes else "would remove"
    hint = "" if yes or not items else suggested("; `graft gc --yes` does it")
    print(f"{verb} {len(items)} things, {printing.size(total)}{hint}")
