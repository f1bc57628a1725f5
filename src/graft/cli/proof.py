"""Commands about what a version is made of: reproduce."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, REVIEW, app, examples, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHOWN_DIGEST = 16
SHOWN_FIELDS = 8


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft reproduce models:/review-topic@champion", "a clean clone of its commit, trained anew, compared"),
        ("graft reproduce models:/review-topic/3 --venv", "in the environment that its lock file pins, made for it"),
        ("graft reproduce models:/review-topic/3 --json", "the receipt, for scripts"),
    ),
)
def reproduce(
    reference: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/NUMBER.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Clone this git URL, not the remote that it names.")
    ] = None,
    venv: Annotated[bool, typer.Option("--venv", help="Build the environment that its lock file pins.")] = False,
    any_environment: Annotated[
        bool, typer.Option("--any-environment", help="Rebuild with the packages that are here though they differ.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest difference of the headline metric that counts as none, in its unit."),
    ] = None,
    who: Annotated[str, typer.Option("--who", help="Whose receipt it is (default: the user).")] = "",
    as_json: JSON = False,
) -> None:
    """Rebuild a version from its recorded commit, without any cache, and compare bytes and answers.

    The verdict is identical (the same bytes), equivalent (other bytes, the same answers on the test rows within a
    margin) or different (exit code 6), with the first stage that differs.
    """
    from graft import params
    from graft.cli import printing
    from graft.errors import ConfigError, IntegrityError
    from graft.reproduction import Margin, Options
    from graft.reproduction import reproduce as rebuild

    if venv and any_environment:
        raise ConfigError("graft reproduce: give --venv or --any-environment, not both")
    place = workspace()
    receipt = rebuild(
        place,
        reference,
        tracking=params.load(place.params).tracking,
        options=Options(source, venv, any_environment, Margin(margin=margin), who),
        on_line=lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True),
    )
    if as_json:
        printing.as_json(receipt)
    else:
        for line in _receipt_lines(receipt):
            print(line)
    if receipt["verdict"] == "different":
        raise typer.Exit(IntegrityError.exit_code)


def _receipt_lines(receipt: Mapping[str, Any]) -> Iterator[str]:
    from graft.cli import printing
    from graft.errors import shown

    adapter, environment = receipt["adapter"], receipt["environment"]
    yield f"{receipt['reference']}: {receipt['verdict'].upper()}: {receipt['reason']}"
    yield f"adapter  recorded {adapter['recorded'][:SHOWN_DIGEST]}, rebuilt {adapter['rebuilt'][:SHOWN_DIGEST]}"
    yield f"commit   {receipt['commit'][:SHOWN_DIGEST]}, fetched from {receipt['fetched_from']}"
    pinned = f"lock file {environment['lock'][:SHOWN_DIGEST]}" if environment["lock"] else "no lock file in its commit"
    others = f", {len(environment['differences'])} packages differ from it" if environment["differences"] else ""
    yield f"run with Python {environment['python']}, {pinned}{others}, in {printing.seconds(receipt['seconds'])}"
    difference = receipt["first_difference"]
    if difference:
        for one in difference["outputs"]:
            old, new = one["recorded"] or "none", one["rebuilt"] or "none"
            yield f"  {one['stage']}: {one['path']}: md5 {old} recorded, {new} now"
        for name, (old, new) in list(difference["fields"].items())[:SHOWN_FIELDS]:
            yield f"  identity.{name}: {shown(old)} recorded, {shown(new)} now"


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft provenance models:/review-topic@champion", "what it was made from, who signed it, whether that holds"),
        ("graft provenance models:/review-topic/3 --json", "the statement too, for scripts"),
    ),
)
def provenance(
    reference: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/NUMBER.")],
    as_json: JSON = False,
) -> None:
    """Print what a version was made from and who signed that, and verify it against the adapter's bytes.

    Exit code 6 where the signature does not hold, or where keys are trusted and none of them signed.
    """
    from graft import params
    from graft.cli import printing
    from graft.errors import IntegrityError
    from graft.publication.provenances import examined
    from graft.workspace import suggested

    place = workspace()
    found = examined(place, reference, tracking=params.load(place.params).tracking)
    if as_json:
        printing.as_json(found.as_json())
    else:
        for line in found.lines():
            print(suggested(line))
    if found.state == "refused":
        raise typer.Exit(IntegrityError.exit_code)
