"""`graft status`: what is out of date and why, what is published where, what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, RUN, app, examples, workspace

if TYPE_CHECKING:
    from graft.workspace import Workspace


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        ("graft status", "what is out of date and why, what is published where"),
        ("graft status --registry", "and whether somebody moved the champion alias by hand"),
        ("graft status --json", "for scripts"),
    ),
)
def status(
    registry: Annotated[
        bool, typer.Option("--registry", "-r", help="Ask MLflow too: who is champion, and does the journal agree?")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Say what is out of date and which file or parameter made it so, what is published, and what runs."""
    from graft.cli import printing
    from graft.workspace import suggested

    place = workspace()
    state = _state(place)
    if registry:
        state["registry"] = _registry(place)
    if as_json:
        printing.as_json(state)
        return
    for line in _status_lines(state):
        print(suggested(line))


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
        "champion": _champion(place),
        "run": [{**one.facts, "id": one.folder.name, "state": one.state} for one in newest],
    }


def _registry(place: Workspace) -> dict[str, Any]:
    """Return the champion of the registered model, and the one that the journal of decisions knows."""
    from graft import params, publication
    from graft.validation.champion import pinned

    config = params.load(place.params)
    name = config.registration.name
    found = publication.standing(place, registration=config.registration, tracking=config.tracking)
    held = pinned(place)
    return {
        "model": name,
        "champion": found.alias,
        "journal": found.journaled,
        "moved_by_hand": found.moved_by_hand,
        "problem": found.problem(),
        "pinned": held.version if held and held.name == name else None,
    }


def _champion(place: Workspace) -> dict[str, Any]:
    """Return whose data the contract compares with, in words, and whether another one is champion by now."""
    from graft import params
    from graft.errors import GraftError
    from graft.publication.profiles import described_pin

    sections, _ = params.partial(place.params)
    if not {"registration", "tracking"} <= sections.keys():
        return {"text": "params.yaml does not say whose it is: `graft check`", "moved": False}
    try:
        text, moved = described_pin(place, registration=sections["registration"], tracking=sections["tracking"])
    except GraftError as error:
        text, moved = str(error), False
    return {"text": text, "moved": moved}


def _change(change: Any) -> dict[str, Any]:
    return {"kind": change.kind, "path": change.path, "old": change.old, "new": change.new, "text": str(change)}


def _published(place: Workspace) -> list[dict[str, Any]]:
    """Return the receipts of this clone, those of the adapter on disk marked ``current``."""
    from dataclasses import asdict

    from graft.identity import digest_folder
    from graft.publication.receipts import receipts

    folder = place.package / "adapter"
    here = digest_folder(folder) if folder.is_dir() else None
    return [{**asdict(one), "current": one.adapter == here} for one in receipts(place)]


def _status_lines(state: dict[str, Any]) -> Iterator[str]:
    from graft.cli import printing

    changed = state["data"]
    mark = printing.styled("changed", "yellow") if changed else printing.styled("up to date", "green")
    yield f"{'data':9} {mark}{': `graft run --add-data` takes it' if changed else ''}"
    yield from (f"{'':9}   {one}" for one in changed)
    first = None
    for name, found in state["stages"].items():
        mark = printing.styled("out of date", "yellow") if found else printing.styled("up to date", "green")
        first = first or (name if found else None)
        yield f"{name:9} {mark}{'' if found or not first else f', until {first} has run'}"
        yield from (f"{'':9}   {one['text']}" for one in found)
    yield from _published_lines(state["published"])
    yield f"{'champion':9} {state['champion']['text']}"
    if "registry" in state:
        yield _registry_line(state["registry"])
    yield from _run_lines(state["run"])


def _published_lines(published: list[dict[str, Any]]) -> Iterator[str]:
    from graft.tracking.server import shown_uri

    current = [one for one in published if one["current"]]
    if not current:
        yield f"{'published':9} not this adapter: `graft run` or `graft sync` publishes it"
    for one in current:
        decision = one["decision"]
        alias = "@champion" if decision.get("after") == one["version"] else "@candidate"
        verdict = f": {decision['verdict']}" if decision else ""
        yield f"{'published':9} {one['name']} version {one['version']} {alias} at {shown_uri(one['uri'])}{verdict}"


def _registry_line(found: dict[str, Any]) -> str:
    from graft.cli import printing

    champion = f"champion of {found['model']} is {_version(found['champion'])}"
    if found["pinned"] != found["champion"]:
        champion += f" (sources.lock pins {_version(found['pinned'])}; `graft lock` pins it)"
    if not found["problem"]:
        return f"{'registry':9} {champion}, as the journal of decisions says"
    return f"{'registry':9} {champion}: {printing.styled(found['problem'], 'yellow')}"


def _version(number: str | None) -> str:
    return f"version {number}" if number else "no version"


def _run_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    from graft.cli import printing

    for one in found:
        since = printing.seconds(max(0.0, time.time() - float(one.get("ended") or one.get("started") or time.time())))
        when = f"for {since}" if one["state"] == "running" else f"{since} ago"
        error = f": {str(one['error']).splitlines()[0]}" if one.get("error") else ""
        yield f"{'run':9} {one['id']} {one['state']} {when}{error}"
