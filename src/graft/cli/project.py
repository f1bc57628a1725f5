"""Commands about a project and its inputs: init, projects, import, lock, check, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft.cli.app import JSON, PROJECT, app, examples, folder, workspace


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft init reviews", "a project in projects/reviews"),
        ("graft init reviews --base ./models/my-bert --model review-topic", "with its base and model name"),
        ("graft -C my-folder init --here", "in that folder (inside the clone)"),
    ),
)
def init(
    name: Annotated[str | None, typer.Argument(help="Name of the project: it lies in projects/NAME.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Make the current folder a project instead.")] = False,
    task: Annotated[str, typer.Option("--task", "-t", help="The recipe to start from.")] = "text_classification",
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The base model: package:..., a folder, or a Hub id.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name of the registered model (default: the project's).")
    ] = None,
) -> None:
    """Start a project: params.yaml from a recipe, dvc.yaml and .gitignore. Existing files stay as they are."""
    from graft import projects
    from graft.errors import ConfigError

    if (name is None) != here:
        raise ConfigError("graft init: give a project NAME (it lies in projects/NAME) or --here, one of the two")
    new = projects.init(folder(), name, recipe=task, base=base, model=model)
    for path in new.written:
        print(f"wrote {_relative(path)}")
    print("next:")
    for step in projects.next_steps(new):
        print(f"  {step}")


def _relative(path: Path) -> str:
    import os

    return os.path.relpath(path)


@app.command(
    "projects",
    rich_help_panel=PROJECT,
    epilog=examples(("graft projects", "name, task, base and registered model of each")),
)
def list_projects(as_json: JSON = False) -> None:
    """List the projects of this clone."""
    from graft import params, projects
    from graft.cli import printing
    from graft.workspace import Workspace

    rows = []
    for one in projects.found(Workspace(folder().resolve()).repository):
        sections, problems = params.partial(one.params)
        cells = [getattr(sections.get(section), key, "?") for section, key in _FACTS]
        rows.append([one.name, *cells, f"{len(problems)} problems" if problems else "ok"])
    columns = ["project", "task", "base", "model", "params"]
    if as_json:
        printing.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        printing.table(columns, rows)
    else:
        print("no project here; `graft init NAME` makes one")


_FACTS = (("task", "name"), ("base", "source"), ("registration", "name"))


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft lock", "after base.source or base.revision changed"),
        ("graft -C projects/reviews lock", "for another project"),
    ),
)
def lock(as_json: JSON = False) -> None:
    """Resolve the base model and pin its files by sha256 in sources.lock."""
    import dataclasses

    from graft import base, params
    from graft.cli import printing

    place = workspace()
    locked = base.lock(place, params.load(place.params).base)
    if as_json:
        printing.as_json(dataclasses.asdict(locked))
        return
    revision = f" at {locked.revision}" if locked.revision else ""
    print(
        f"{locked.source}{revision}: {locked.model_type}, {locked.parameters:,} parameters, {len(locked.files)} files"
    )
    print(f"digest {locked.digest}")
    print(f"wrote {_relative(place.sources_lock)}")


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft check", "everything, with what the adapter would train"),
        ("graft check --quick", "without asking PEFT (no torch import)"),
        ("graft check --json", "for scripts: passed, and each finding"),
    ),
)
def check(
    quick: Annotated[bool, typer.Option("--quick", "-q", help="Leave out what imports torch and PEFT.")] = False,
    as_json: JSON = False,
) -> None:
    """Check params, data columns, base, adapter and registry before anything runs; all problems at once."""
    from graft import checks
    from graft.cli import printing

    report = checks.check(workspace(), adapter=not quick)
    if as_json:
        printing.as_json(report.as_json())
    else:
        for one in report.findings:
            print(f"{printing.mark(one.state)}  {one.check:13} {one.text}")
        failures = len(report.failures)
        print(f"{failures} problem{'s' if failures > 1 else ''} to mend" if failures else "ready: graft run")
    raise typer.Exit(report.exit_code)


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(("graft schema > infra/params.schema.json", "what editors complete params.yaml from")),
)
def schema() -> None:
    """Print the JSON Schema of params.yaml."""
    import json

    from graft import params

    print(json.dumps(params.schema(), indent=2, ensure_ascii=False))
