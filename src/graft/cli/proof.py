"""Commands about what a version is made of: reproduce, provenance, diff."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.app import JSON, REVIEW, app, examples, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from graft.version_diff import Metrics, VersionDiff

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


@app.command(
    rich_help_panel=REVIEW,
    epilog=examples(
        ("graft diff models:/review-topic/3 models:/review-topic/5", "data, params, code, base, environment, metrics"),
        ("graft diff models:/review-topic@champion", "the champion against the working tree"),
        ("graft diff HEAD~1 --json", "a git revision, for scripts"),
    ),
)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A model version (models:/NAME/3), or a git revision.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another one (default: the working tree).")] = None,
    as_json: JSON = False,
) -> None:
    """Say what changed between two versions, and whether the difference of the headline metric is real."""
    import contextlib

    from graft import params
    from graft.cli import printing
    from graft.version_diff import compare

    place = workspace()
    with contextlib.redirect_stdout(sys.stderr):
        found = compare(place, a, b, tracking=params.load(place.params).tracking)
    if as_json:
        printing.as_json(found.as_json())
    else:
        _print_diff(found)


def _print_diff(found: VersionDiff) -> None:
    from graft.cli import printing

    for sign, side in (("-", found.a), ("+", found.b)):
        adapter = f", adapter {side['adapter'][:SHOWN_DIGEST]}" if side["adapter"] else ""
        print(f"{sign} {side['name']}, commit {side['commit'][:12]}{adapter}")
    _print_data(found.data)
    for title, changes in (("params", found.params), ("base", found.base), ("environment", found.environment)):
        _print_changes(title, changes)
    _print_changes("code that the stages depend on", found.code, digests=True)
    for line in found.log:
        print(f"  {line}")
    if found.metrics:
        _print_metrics(found.metrics)
    for note in found.notes:
        printing.finding("note", "", note)


def _print_data(data: Mapping[str, Any]) -> None:
    from graft.cli import printing

    print()
    if data["a"] == data["b"]:
        named = f"data.dvc {data['a'][:SHOWN_DIGEST]}" if data["a"] else "not in DVC"
        print(f"data: the same ({named})")
        return
    printing.heading(f"data: data.dvc {(data['a'] or 'none')[:SHOWN_DIGEST]} -> {(data['b'] or 'none')[:SHOWN_DIGEST]}")
    rows = [
        [split, *(str(one[name]) for name in ("added", "removed", "changed"))] for split, one in data["splits"].items()
    ]
    if rows:
        printing.table(["split", "rows added", "removed", "changed"], rows)
        print(f"rows, labels and lengths: graft data diff; {data['moved']} rows moved to another split")


def _print_changes(title: str, changes: Mapping[str, tuple[Any, Any]], *, digests: bool = False) -> None:
    from graft.cli import printing
    from graft.errors import shown

    print()
    if not changes:
        print(f"{title}: the same")
        return
    printing.heading(f"{title}: {len(changes)} differ")
    for name, (old, new) in changes.items():
        if digests:
            pair = [(value or "(none)")[:8] for value in (old, new)]
        else:
            pair = ["(none)" if value is None else shown(value) for value in (old, new)]
        print(f"  {name}: {pair[0]} -> {pair[1]}")


def _print_metrics(found: Metrics) -> None:
    from graft.cli import printing
    from graft.evaluation.overview import format_cell

    print()
    printing.heading(f"metrics on {found.rows[0]} -> {found.rows[1]} test rows")
    rows = [
        [name, *(format_cell(one["value"], one["low"], one["high"]) for one in pair)]
        for name, pair in found.values.items()
    ]
    printing.table(["metric", "before", "after"], rows)
    if found.comparison is None:
        print("not tested: the two were scored on other test rows" if not found.same_rows else "not tested")
        return
    one = found.comparison
    said = "real" if found.real else "within what chance shows on these rows"
    print(
        f"{found.headline}: {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), two-sided "
        f"p = {found.p:.2g} ({one['test']} on the stored predictions): {said}"
    )
