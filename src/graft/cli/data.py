"""Commands about versions of the data: data diff."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.app import JSON, PROJECT, app, examples, workspace

if TYPE_CHECKING:
    from graft.data_diff import DataDiff, Example, SplitDiff

SHOWN_LABELS = 12

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXAMPLES = examples(
    ("graft data diff HEAD~3", "what has changed in data/ since then"),
    ("graft data diff models:/reviews@champion", "against the data that the champion was made from"),
    ("graft data diff v1.0 models:/reviews/7 --whole --json", "two versions, with labels and lengths of all rows"),
)
app.add_typer(data, name="data", rich_help_panel=PROJECT, epilog=EXAMPLES, help="Compare versions of the data.")


@data.command(epilog=EXAMPLES)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A git revision, or a model version: models:/NAME/3.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another one (default: the data that is here).")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Labels and lengths of all rows: read also the parts that are equal.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Say what two versions of the data differ in: rows, labels, lengths, and the results of checks.

    Data that is not here comes from the DVC cache or its remote; the working tree stays as it is.
    """
    import contextlib
    import sys

    from graft.cli import printing
    from graft.data_diff import compare
    from graft.revisions import revision

    place = workspace()
    with contextlib.redirect_stdout(sys.stderr), revision(place, a) as before, revision(place, b) as after:
        found = compare(place, before, after, whole=whole)
    if as_json:
        printing.as_json(found.as_json())
    else:
        _print(found)


def _print(found: DataDiff) -> None:
    from graft.cli import printing

    for sign, side in (("-", found.a), ("+", found.b)):
        commit = f", commit {side['commit'][:12]}" if side["commit"] else ""
        print(f"{sign} {side['name']}{commit}, data {side['data'][:12]}")
    print()
    columns = ["split", "equal parts", "other parts", "their rows", "added", "removed", "changed", "unreadable"]
    printing.table(columns, [[split, *_cells(one)] for split, one in found.splits.items()])
    if found.is_empty:
        print("every row is on both sides")
    if found.moved:
        print(f"{found.moved} of the rows that are added to a split stood in another one before")
    of = "all rows" if found.whole else "the parts that differ (--whole: all rows)"
    _print_labels(found, of)
    _print_lengths(found, of)
    _print_checks(found)
    for one in found.examples:
        _print_example(one)
    for note in found.notes:
        printing.finding("note", "", note)


def _cells(one: SplitDiff) -> list[object]:
    unreadable = _pair(one.unreadable) if any(one.unreadable) else "0"
    return [one.unchanged_parts, _pair(one.parts), _pair(one.rows), one.added, one.removed, one.changed, unreadable]


def _pair(values: tuple[object, object]) -> str:
    return f"{values[0]} -> {values[1]}"


def _print_labels(found: DataDiff, of: str) -> None:
    from graft.cli import printing
    from graft.errors import shown

    rows, left = list[list[object]](), 0
    for split, one in found.splits.items():
        for counts in one.labels.values():
            totals = [max(1, sum(pair[side] for pair in counts.values())) for side in (0, 1)]
            by_change = sorted(counts.items(), key=lambda each: -abs(each[1][1] / totals[1] - each[1][0] / totals[0]))
            for label, pair in by_change[:SHOWN_LABELS]:
                shares = [f"{pair[side] / totals[side]:.1%}" for side in (0, 1)]
                rows.append([split, shown(label)[1:-1], _pair(pair), f"{shares[0]} -> {shares[1]}"])
            left += max(0, len(counts) - SHOWN_LABELS)
    if rows:
        print()
        printing.heading(f"labels of {of}")
        printing.table(["split", "label", "rows", "share"], rows)
        if left:
            print(f"... and {left} more labels, which changed less (--json has all)")


def _print_lengths(found: DataDiff, of: str) -> None:
    from graft.cli import printing

    names = ["mean", "p5", "median", "p95", "largest"]
    rows = [
        [split, name, *(f"{before.get(each, 0):.0f} -> {after.get(each, 0):.0f}" for each in names)]
        for split, one in found.splits.items()
        for name, (before, after) in one.lengths.items()
    ]
    if rows:
        print()
        printing.heading(f"characters of {of}")
        printing.table(["split", "field", *names], rows)


def _print_checks(found: DataDiff) -> None:
    from graft.cli import printing

    if found.checks is None:
        return
    print()
    printing.heading("checks whose result changed")
    if found.checks:
        rows = [[one.check, one.column, one.before or "-", one.after or "-"] for one in found.checks]
        printing.table(["check", "column", "before", "after"], rows)
    else:
        print("none")


def _print_example(one: Example) -> None:
    print(f"\n{one.kind} in {one.split}: {' -> '.join(filter(None, (one.place_before, one.place_after)))}")
    before, after = one.before or {}, one.after or {}
    for name in {**before, **after}:
        if before.get(name) == after.get(name):
            print(f"    {name}: {before[name]}")
            continue
        for sign, row in (("-", before), ("+", after)):
            if name in row:
                print(f"  {sign} {name}: {row[name]}")
