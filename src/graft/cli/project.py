"""Commands about a project and its inputs: init, projects, import, contract, lock, check, schema."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from graft.cli.app import JSON, PROJECT, app, examples, folder, workspace

if TYPE_CHECKING:
    from graft.importing import ImportSummary
    from graft.reading import Unit
    from graft.workspace import Workspace


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


_FACTS = (("task", "name"), ("base", "name"), ("registration", "name"))


@app.command(
    "import",
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft import reviews.csv --text body --label stars", "one file, split 80/10/10 by label"),
        ("graft import exports/ --split 70/15/15 --group customer", "a folder; rows of a customer stay together"),
        ("graft import log.parquet --time created_at", "the oldest rows train, the newest test"),
        ("graft import dataset/ --replace", "a folder that has train, validation and test keeps them"),
        ("graft import chats.json --layout sharegpt", "where more than one layout of conversations fits"),
        ("graft import book.txt.gz --rows paragraph", "plain text, a row for each paragraph"),
        ("graft import hub:org/name --config en --take train", "a data set on the Hub; its commit is recorded"),
    ),
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A file (.jsonl, .json, .csv, .tsv, .txt, also with .gz or .zst; .parquet, .arrow), a folder of them, "
            "a folder that `save_to_disk` wrote, or a data set on the Hub: hub:org/name."
        ),
    ],
    split: Annotated[
        str | None, typer.Option("--split", "-s", metavar="A/B/C", help="Shares of train, validation and test.")
    ] = None,
    stratify: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep the shares of its values (default: the label).")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="Equal values stay in one split.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="Split by time: the newest rows test.")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="The column of the text.")] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="The column of the label.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="FIELD=COLUMN", help="The column of another field.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How conversations lie in columns: messages, sharegpt, alpaca, ... (default: the only one that fits).",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="UNIT", help="A row of plain text is a line, a paragraph or a file.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Of a data set on the Hub: branch, tag or commit (default: main).")
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="NAME", help="Of a data set: its configuration.")] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(metavar="[SPLIT=]NAME", help="Of a data set: a split to take, and what it becomes."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data that is there.")] = False,
    as_json: JSON = False,
) -> None:
    """Write a file or folder as the project's part files in data/, split, and record them in data.dvc."""
    import dataclasses

    from graft import params, tasks
    from graft.cli import printing
    from graft.importing import Choices, import_data
    from graft.workspace import write_text

    place = workspace()
    _refuse_unfit(place, text=text, label=label)
    columns = {name: value for name, value in (("text", text), ("label", label)) if value}
    columns |= dict(_pair("--column", one) for one in column or [])
    changed = _with_columns(place, columns)
    sections = params.load(place.params)
    found = import_data(
        source,
        place,
        split=_shares(split),
        stratify=stratify,
        group=group,
        time=time,
        seed=seed,
        data=sections.data.model_copy(update={"columns": {**sections.data.columns, **columns}}),
        fields=tasks.get(sections.task.name).fields_of(sections.task),
        choices=Choices(
            layout,
            _unit(rows),
            revision,
            config,
            dict(_taken(one) for one in take or []),
            {name: f"--{name}" if name in ("text", "label") else "--column" for name in columns},
            sections.validation.severity.missing == "quarantine",
        ),
        replace=replace,
    )
    if changed is not None:
        write_text(place.params, changed)
    recorded = _recorded(place, found)
    if as_json:
        printing.as_json({**dataclasses.asdict(found), "recorded": recorded})
        return
    _print_import(found)
    print("recorded in data.dvc" if recorded else "data.dvc records it already")


def _refuse_unfit(place: Workspace, **given: str | None) -> None:
    """Refuse --text and --label for a task that has no such field, with the option that fits."""
    from graft import params, tasks
    from graft.errors import InputError

    task = params.load(place.params).task
    fields = tasks.get(task.name).fields_of(task)
    names = [one.name for one in fields]
    for name, column in given.items():
        if column and name not in names:
            alike = [one.name for one in fields if one.required and one.target == (name == "label")]
            instead = " or ".join(f"--column {one}={column}" for one in alike)
            raise InputError(
                f"--{name}: {task.name} has no field {name}; its fields are {', '.join(names)}"
                + (f": {instead}" if instead else "")
            )


def _with_columns(place: Workspace, columns: dict[str, str]) -> str | None:
    """Return params.yaml's text with ``data.columns`` set, None where nothing changes."""
    from graft.repository.overrides import checked

    if not columns:
        return None
    text = place.params.read_text(encoding="utf-8")
    return checked(text, {f"data.columns.{field}": column for field, column in columns.items()})


def _pair(option: str, text: str) -> tuple[str, str]:
    from graft.errors import InputError, shown

    name, separator, value = text.partition("=")
    if not (separator and name and value):
        raise InputError(f"{option}: must be FIELD=COLUMN, such as text_pair=answer (got {shown(text)})")
    return name, value


def _shares(text: str | None) -> tuple[int, int, int] | None:
    from graft.errors import InputError, shown

    if text is None:
        return None
    numbers = [int(one) for one in text.split("/") if one.isdecimal()]
    if len(numbers) != 3 or text.count("/") != 2:
        raise InputError(f"--split: must be three whole numbers, such as 80/10/10 (got {shown(text)})")
    return numbers[0], numbers[1], numbers[2]


def _unit(text: str | None) -> Unit | None:
    from typing import get_args

    from graft.errors import InputError, shown
    from graft.reading import Unit

    if text is not None and text not in get_args(Unit):
        raise InputError(f"--rows: must be {', '.join(get_args(Unit))} (got {shown(text)})")
    return cast("Unit | None", text)


def _taken(text: str) -> tuple[str, str | None]:
    """Return a split of a data set, and the split that it becomes (None: as its name says)."""
    from graft.errors import InputError, shown
    from graft.workspace import SPLITS

    split, separator, name = text.partition("=")
    if not separator:
        return text, None
    if split not in SPLITS or not name:
        raise InputError(f"--take: must be NAME, or SPLIT=NAME with {', '.join(SPLITS)} (got {shown(text)})")
    return name, split


def _recorded(place: Workspace, found: ImportSummary) -> bool:
    from graft.repository import Repository

    return Repository(place).add_data(found.provenance)


def _print_import(found: ImportSummary) -> None:
    from graft.cli import printing
    from graft.repository.provenance import described

    files = [[split, count, found.parts[split]] for split, count in found.rows.items()]
    printing.table(["split", "rows", "files"], files)
    totals = sum(map(Counter, found.counts.values()), Counter[str]())
    common = [label for label, _ in totals.most_common(SHOWN_LABELS)]
    if common:
        rows = [[_cut(label), *(found.counts.get(split, {}).get(label, 0) for split in found.rows)] for label in common]
        printing.table(["label", *found.rows], rows)
    if len(totals) > SHOWN_LABELS:
        print(f"and {len(totals) - SHOWN_LABELS} more labels")
    print(f"columns: {', '.join(found.columns)}")
    for line in (*described(found.provenance), *found.notes):
        print(line)


def _cut(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else f"{label[: LABEL_CHARACTERS - 1]}…"


LABEL_CHARACTERS = 60
SHOWN_LABELS = 10
"""How many labels are shown with their rows, the most frequent first."""


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft contract", "what the present data would keep, to look at"),
        ("graft contract --write", "add what the contract lacks of it, where it is; to edit there"),
        ("graft contract --from exports/ --to contracts/reviews.yaml", "from other data, to a file that params name"),
        ("graft contract --compile", "the Great Expectations suite of it, as JSON in contracts/"),
    ),
)
def contract(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="A folder with train, validation and test (folders or files) to profile instead of data/.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also about this column of the files, which the task does not read; repeat."),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write", "-w", help="Add it to params.yaml, or the file that it names; what stands there stays."
        ),
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Move the contract, with it, to a YAML file (relative to the current folder, also with -C), which "
            "params.yaml (relative to its own folder) and dvc.yaml then name.",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Store what the contract compiles to: contracts/TASK.suite.json.")
    ] = False,
) -> None:
    """Profile data and propose what the data contract (the section validation) lacks, or compile the contract."""
    from graft import contracts, params
    from graft.errors import InputError
    from graft.repository.overrides import overridden
    from graft.validation.profile import profiled

    place = workspace()
    if compiled:
        if source or column or write or to:
            raise InputError("--compile: compiles the contract that is there; leave out the other options")
        print(f"wrote {_relative(contracts.write_suite(place))}")
        loaded = params.load(place.params)
        for line in contracts.private_arguments(loaded.validation, loaded.data.privacy):
            print(f"warning: {line}")
        return
    loaded = params.load_alone(place.params) if to else params.load(place.params)
    files = _split_files(source, place.root) if source else None
    beside = list(dict.fromkeys([*loaded.validation.columns, *(column or ())]))
    proposal = profiled((source or place.data).resolve(), loaded.task, loaded.data, files, beside)
    change = contracts.change(place, proposal.section, to)
    mark = "" if write or to else "# "  # what is only proposed is YAML to take over, with comments
    print(f"{mark}profiled: {_relative(source or place.data)}")
    for line in proposal.seen:
        print(f"{mark}{line}")
    for path, line in proposal.broken:
        value, proposed = change.kept.get(path, (None, None))
        if value == proposed:
            print(f"{mark}{line}")
    for path, (value, proposed) in change.kept.items():
        other = "" if value == proposed else f" (the data would give {_short(proposed)})"
        print(f"{mark}kept {path}: {_short(value)}{other}")
    if not (write or to):
        text = overridden("", {"validation": change.added}) if change.added else "# nothing to add\n"
        print(text, end="")
        return
    for path, value in contracts.paths(change.added).items():
        print(f"added {path}: {_short(value)}")
    for path, (value, theirs) in (contracts.differing(place, to) if to else {}).items():
        print(f"kept in params.yaml, over the file's {_short(theirs)}: {path}: {_short(value)}")
    written = contracts.write(place, change.added, to)
    if not written:
        print("nothing to add: the contract says all of this already")
        return
    others = f"; {' and '.join(_relative(one) for one in written[1:])} name it" if to else ""
    print(f"wrote the contract to {' and '.join(map(_relative, written[:1] if to else written))}{others}")
    print("docs/contract.md says what its keys mean")


def _split_files(source: Path, project: Path) -> dict[str, list[Path]] | None:
    """Return the files of a folder with train.csv, validation.csv and so on; None of one like data/.

    Any other folder is refused in words for who has just named it, perhaps as below the project.
    """
    from graft.errors import DataError
    from graft.importing.sources import files_of
    from graft.workspace import SPLITS

    if source.is_file():
        raise DataError(
            f"--from {source}: is a file; expected a folder that holds {', '.join(SPLITS)}, each a folder of part "
            f"files, as in data/, or files of that name (train.csv). `graft import {source}` splits a file into data/, "
            f"which `graft contract` profiles without --from"
        )
    if not source.is_dir():
        inside = _relative(project / source)
        advice = f"; did you mean {inside}? Files are named from the current folder, also with -C"
        raise DataError(f"--from {source}: no such folder{advice if Path(inside).is_dir() else ''}")
    if all((source / split).is_dir() for split in SPLITS):
        return None
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for split, path in files_of(source.resolve()):
        found.setdefault(split or "", []).append(path)
    if missing := [split for split in SPLITS if not found[split]]:
        raise DataError(
            f"--from {source}: has no {', '.join(missing)}; a folder to profile holds {', '.join(SPLITS)}, each a "
            f"folder of part files, as in data/, or files of that name (train.csv). `graft import` splits other files "
            f"into data/, which `graft contract` profiles without --from"
        )
    return found


def _short(value: object) -> str:
    """Return a value of the contract in one line; an expectation by its arguments."""
    import json

    most = 100
    if isinstance(value, dict) and "kwargs" in value:
        value = {name: one for name, one in value["kwargs"].items() if name != "column"}
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"


@app.command(
    rich_help_panel=PROJECT,
    epilog=examples(
        ("graft lock", "after base.source or base.revision changed, and after a promotion"),
        ("graft -C projects/reviews lock", "for another project"),
    ),
)
def lock(as_json: JSON = False) -> None:
    """Pin the base by its files, the champion by its data profile, the adapter to start from, in sources.lock."""
    import dataclasses

    from graft import base, params
    from graft.cli import printing
    from graft.errors import ResourceMissing
    from graft.publication import pin_champion, pin_start
    from graft.validation.champion import pinned

    place = workspace()
    config = params.load(place.params)
    locked = base.lock(place, config.base)
    try:
        champion, problem = pin_champion(place, registration=config.registration, tracking=config.tracking), ""
    except ResourceMissing as error:
        champion, problem = pinned(place), f"the pinned champion stays as it is: {error}"
    start = pin_start(place, training=config.training, tracking=config.tracking)
    if as_json:
        found = dataclasses.asdict(locked)
        printing.as_json(
            {
                **found,
                "champion": dataclasses.asdict(champion) if champion else None,
                "warning": problem,
                "init": dataclasses.asdict(start) if start else None,
            }
        )
        return
    revision = f" at {locked.revision}" if locked.kind == "hub" else ""
    print(
        f"{locked.source}{revision}: {locked.model_type}, {locked.parameters:,} parameters, {len(locked.files)} files"
    )
    print(f"digest {locked.digest}")
    if locked.kind == "scratch":
        print(f"made in {_relative(locked.folder(place.root, weights=False))}")
    if champion is None:
        print("champion: none, so there is no data to compare with")
    elif champion.profile is None:
        print(f"champion: {champion}, published without a data profile: no data to compare with")
    else:
        print(f"champion: {champion}, data profile {champion.profile[:12]} in {_relative(place.champion_profile)}")
    if start is not None:
        print(f"training starts from the adapter of {start}, digest {start.digest[:12]}")
    if problem:
        printing.finding("warn", "champion:", problem)
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
    from graft.workspace import suggested

    found = list[checks.Finding]()
    for one in checks.findings(workspace(), adapter=not quick):
        found.append(one)
        if not as_json:  # as they come: the last ones take seconds of imports
            printing.finding(one.state, f"{one.check:13}", one.text)
    report = checks.Report(tuple(found))
    if as_json:
        printing.as_json(report.as_json())
    else:
        failures = len(report.failures)
        problems = f"{failures} problem{'s' if failures > 1 else ''} to mend"
        print(problems if failures else suggested("ready: `graft run`"))
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
