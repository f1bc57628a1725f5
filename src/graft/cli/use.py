"""Commands that use a version: predict, merge."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, REVIEW, app, examples, workspace

if TYPE_CHECKING:
    from graft.artifact import LoadedAdapter
    from graft.cli.asked import Asked
    from graft.cli.tables import Placed
    from graft.pictures import Pictures
    from graft.tasks import Field
    from graft.tracking.server import Connection
    from graft.workspace import Workspace


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft predict --file new.csv --out answers.csv", "with the adapter of this project"),
        (
            "graft predict --file new.jsonl --model models:/review-topic@champion",
            "with a registered version; to stdout",
        ),
        ("graft predict --file new.parquet --out answers.jsonl --adapter some/adapter", "with an adapter folder"),
    ),
)
def predict(
    file: Annotated[Path, typer.Option("--file", "-f", help="Rows, in any format that import reads.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where to write (.jsonl, .csv, .tsv or .parquet); default: JSON Lines on stdout."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="models:/NAME@ALIAS or models:/NAME/NUMBER.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", "-a", help="An adapter folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 64,
) -> None:
    """Answer each row of a file: its columns, and the answer in columns that begin with `predicted_`."""
    from graft import artifact
    from graft.cli.asked import Asked
    from graft.cli.progress import progress
    from graft.cli.tables import batches, writer
    from graft.errors import ConfigError
    from graft.pictures import Pictures

    if model and adapter:
        raise ConfigError("graft predict: give --model or --adapter, not both")
    place = workspace()
    folder = adapter or (_fetched(place, model) if model else _packed(place))
    if not adapter and not model:
        _say_which(place, folder)
    with writer(out) as write:
        images = _image_columns(folder)
        parts = batches(file, images)
        part = next(parts, None)  # a file that cannot be read, or lacks a column, is refused before the model is loaded
        if part:
            _refuse_absent(folder, *part[0])
        loaded = artifact.load(folder, place.root, device=device, trust_remote_code=_trusts(place))
        asked = Asked(loaded.identity, loaded.task.fields_of(loaded.config))
        with progress("predict", "rows") as advance:
            while part:
                write(_answered(loaded, part, batch_rows, Pictures(file.parent), images, asked))
                advance(len(part))
                part = next(parts, None)
    for line in asked.described():
        print(f"note: {line}", file=sys.stderr, flush=True)


def _columns(folder: Path) -> dict[str, Field]:
    """Return the columns that the adapter in ``folder`` was trained on, as its identity names them."""
    from graft import tasks
    from graft.workspace import read_json

    identity = read_json(folder / "identity.json")
    task, columns = identity["task"], identity["columns"]
    fields = tasks.get(task["name"]).fields_of(tasks.config_class(task["name"]).model_validate(task["config"]))
    return {columns.get(one.name, one.name): one for one in fields}


def _image_columns(folder: Path) -> frozenset[str]:
    return frozenset(column for column, one in _columns(folder).items() if one.type == "image")


def _refuse_absent(folder: Path, place: str, row: dict[str, Any]) -> None:
    """Refuse a file whose first row lacks a column that the task reads."""
    from graft.config import nearest
    from graft.errors import DataError, shown

    for column, one in _columns(folder).items():
        if one.required and not one.target and column not in row and one.name not in row:
            near = nearest(column, list(row))
            advice = f"; did you mean {near!r}?" if near else ""
            raise DataError(
                f"{place}: {column}: expected a column of that name, found only {shown(', '.join(row))}{advice}"
            )


def _answered(
    loaded: LoadedAdapter,
    part: list[Placed],
    batch_rows: int,
    pictures: Pictures,
    images: frozenset[str],
    asked: Asked,
) -> list[dict[str, Any]]:
    """Return the rows with their answers; a bad row is named by its place in the file, not in the batch."""
    from graft import artifact
    from graft.errors import DataError

    rows = [row for _, row in part]
    given = [_with_bytes(*one, pictures, images) for one in part]
    try:
        answers = artifact.predict(loaded, given, batch_rows, lambda number, *row: asked.add(part[number][0], *row))
    except DataError as error:
        place = re.match(r"row (\d+): ", str(error))
        if place is None:
            raise
        raise DataError(f"{part[int(place[1]) - 1][0]}: {str(error)[place.end() :]}") from None
    return [{**row, **_named(answer)} for row, answer in zip(rows, answers, strict=True)]


def _with_bytes(place: str, row: dict[str, Any], pictures: Pictures, images: frozenset[str]) -> dict[str, Any]:
    """Return a row with the bytes of its pictures in place of their paths, which start at the file's folder."""
    from graft.errors import DataError
    from graft.reading import RowError

    try:
        return row | {name: pictures.read(row[name]) for name in images if row.get(name) is not None}
    except RowError as error:
        names = ", ".join(sorted(images))
        raise DataError(f"{place}: {names}: expected {error.expected}, found {error.found}") from None


def _named(answer: dict[str, Any]) -> dict[str, Any]:
    return {f"predicted_{name}": value for name, value in answer.items()}


def _trusts(place: Workspace) -> bool:
    from graft import params

    return params.load(place.params).base.trust_remote_code


def _say_which(place: Workspace, folder: Path) -> None:
    """Say on stderr which adapter answers: the one on disk need not be the champion."""
    from graft import params
    from graft.identity import digest_folder
    from graft.publication.receipts import champion_known, receipts

    digest = digest_folder(folder)
    found = next((one for one in receipts(place) if one.adapter == digest), None)
    version = f"version {found.version} of {found.name}" if found else "not published"
    config = params.load(place.params)
    name = found.name if found else config.registration.name
    champion = champion_known(place, name=name, tracking=config.tracking)
    which = f"the champion is version {champion}" if champion else "there is no champion"
    if found and champion == found.version:
        which = "it is the champion"
    print(
        f"with the adapter on disk ({digest[:12]}, {version}); {which}, by what this clone knows: "
        f"--model models:/{name}@champion asks the registry",
        file=sys.stderr,
        flush=True,
    )


def _packed(place: Workspace) -> Path:
    from graft.errors import ResourceMissing

    for folder in (place.package / "adapter", place.adapter):
        if folder.is_dir():
            return folder
    raise ResourceMissing(
        f"{place.name}: no adapter here yet; `graft run` makes one, or name one by --model or --adapter"
    )


def _fetched(place: Workspace, reference: str) -> Path:
    """Return the adapter of a model version, from the store where it was downloaded before."""
    from graft import params
    from graft.publication import fetched
    from graft.reproduction import parsed
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    connection = connect(params.load(place.params).tracking, place)
    name, number = parsed(reference)
    with reported(connection.uri):
        version = registry.get(connection, name, number)
        if number == f"@{registry.CHAMPION}":
            _warn_moved(connection, name)
        return fetched(place, connection, version)


def _warn_moved(connection: Connection, name: str) -> None:
    """Say on stderr that the champion is not the version that the journal names, or not for long."""
    from graft.publication.carrying import standing_of
    from graft.tracking import ledger
    from graft.workspace import suggested

    book = ledger.find(connection, name)
    if book and (problem := standing_of(book).problem()):
        print(f"warning: {name}@champion: {suggested(problem)}", file=sys.stderr, flush=True)


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft merge --out bases/reviews", "the adapter of this project and its base, as one transformers folder"),
        ("graft merge --model models:/review-topic@champion --out merged", "a registered version"),
    ),
)
def merge(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="models:/NAME@ALIAS or models:/NAME/NUMBER.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", "-a", help="An adapter folder.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference of a logit, as a share of the largest logit.")
    ] = 1e-4,
    as_json: JSON = False,
) -> None:
    """Write base and adapter as one plain transformers model, and prove that its logits agree."""
    import dataclasses

    from graft import merging
    from graft.cli import printing
    from graft.errors import ConfigError

    if model and adapter:
        raise ConfigError("graft merge: give --model or --adapter, not both")
    place = workspace()
    folder = adapter or (_fetched(place, model) if model else _packed(place))
    found = merging.merge(folder, place.root, out, tolerance=tolerance, version=model, trust_remote_code=_trusts(place))
    if as_json:
        printing.as_json(dataclasses.asdict(found))
        return
    print(f"{found.folder}: {found.architecture}, {found.parameters:,} parameters, float32")
    print(
        f"proof: on {found.rows} probe rows plain transformers differs by {found.difference:.1e} at most "
        f"(allowed {found.allowed:.1e}, largest logit {found.largest:.3g})"
    )
    for note in found.notes:
        print(note)
    print(f"digest {found.digest}")
    print(f"as the base of another project: base.source: {found.folder.resolve()}")
