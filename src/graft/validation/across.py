"""What only rows together show: ids and texts that occur twice, texts that are nearly equal, labels that disagree.

Everything is told from the results of single parts (``inspecting``), never from the rows. A row is held to the rows
before it, in the order of splits and parts: of two that are alike, the later one breaks the contract. Ids and digests
of texts are compared in portions of ``PORTION_ROWS`` by their hashes, so memory does not grow with the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graft.data import DataConfig, Problem
from graft.duplicates import Part, Sketch, compare
from graft.errors import shown
from graft.reading import order_of
from graft.validation.contract import Broken, Check
from graft.validation.section import Severity, ValidationConfig
from graft.workspace import SPLITS

if TYPE_CHECKING:
    import polars as pl

    from graft.tasks import Field
    from graft.validation.inspecting import Inspected

LEAKAGE, DUPLICATES, CONTRADICTIONS = "leakage", "near_duplicates", "contradictions"
PORTION_ROWS = 1 << 18
UNIQUE = "expect_column_values_to_be_unique"


def severities(config: ValidationConfig) -> dict[str, Severity]:
    """Return what follows from each kind of likeness."""
    given = config.severity
    return {LEAKAGE: given.leakage, DUPLICATES: given.near_duplicates, CONTRADICTIONS: given.contradictions}


def is_asked(config: ValidationConfig, fields: Sequence[Field]) -> bool:
    """Say whether the contract is about likeness across rows."""
    return any(one.text for one in fields) and set(severities(config).values()) != {"ignore"}


# -- equal ids, equal texts


def unique_ids(config: ValidationConfig) -> Check | None:
    """Return the check of ids over all parts, if the contract has it."""
    if not config.unique_ids or config.severity.unique_ids == "ignore":
        return None
    return Check(UNIQUE, "id", "id", "an id that no other row has", {}, config.severity.unique_ids)


def repeated_ids(
    parts: Sequence[Inspected], check: Check, data: DataConfig, most: int, mask: Callable[[str], str]
) -> tuple[Counter[int], dict[int, list[Problem]]]:
    """Return by the part's number how many rows have the id of an earlier row, and what the first of them have wrong.

    Args:
        parts: in the order of splits and parts.
        check: what :func:`unique_ids` gives.
        data: what the files call the id.
        most: how many rows are named at most.
        mask: takes what is private out of a message.
    """
    import polars as pl

    column, named = data.columns.get("id", "id"), 0
    counts, found = Counter[int](), dict[int, list[Problem]]()
    for portion in _portions(parts, ["id"], pl.col("id").is_not_null(), pl.col("id").hash(0)):
        portion = portion.sort("part", "row")
        twice = portion.filter(pl.col("id").is_duplicated()).with_columns(
            pl.col("part", "row").first().over("id").name.prefix("first_")
        )
        later = twice.filter((pl.col("part") != pl.col("first_part")) | (pl.col("row") != pl.col("first_row")))
        for line in later.head(max(0, most - named)).iter_rows(named=True):
            [place] = parts[line["part"]].places([line["row"]])
            [first] = parts[line["first_part"]].places([line["first_row"]])
            problem = Problem(place, column, check.expected, mask(f"{shown(line['id'])}, which {first} has too"))
            found.setdefault(line["part"], []).append(problem)
        named += len(later)
        counts.update(later["part"].to_list())
    return counts, {number: sorted(same, key=lambda one: order_of(one.place)) for number, same in found.items()}


def repeated_texts(parts: Sequence[Inspected], without: Collection[str]) -> Counter[tuple[str, str]]:
    """Count the rows whose text occurs before: by their split, and by the split where it does.

    ``without`` are the places of rows that were put into quarantine after their part was inspected.
    """
    import polars as pl

    doubles: Counter[tuple[str, str]] = Counter()
    aside = _numbers_of(parts, without)
    for portion in _portions(parts, ["text"], pl.col("kept"), pl.col("text")):
        portion = portion.join(aside, on=["part", "row"], how="anti")
        splits = pl.DataFrame(
            {"part": range(len(parts)), "split": [SPLITS.index(one.split) for one in parts]},
            schema={"part": pl.UInt32, "split": pl.UInt8},
        )
        counts = (
            portion.join(splits, on="part")
            .group_by("text")
            .agg((pl.col("split") == number).sum().cast(pl.Int64).alias(name) for number, name in enumerate(SPLITS))
        )
        for number, split in enumerate(SPLITS):
            for other in SPLITS[:number]:
                doubles[split, other] += int(counts.filter(pl.col(other) > 0)[split].sum())
            doubles[split, split] += int((counts[split] - 1).clip(0).sum())
    return doubles


def _portions(parts: Sequence[Inspected], columns: list[str], which: pl.Expr, key: pl.Expr) -> Iterator[pl.DataFrame]:
    """Yield the lines of all parts in portions: those whose keys are equal are together."""
    import polars as pl

    if not parts:
        return
    lines = pl.concat(
        one.rows().filter(which).select(pl.lit(number, pl.UInt32).alias("part"), "row", *columns)
        for number, one in enumerate(parts)
    )
    rows = sum(one.told["rows"] for one in parts)
    count = -(-rows // PORTION_ROWS) or 1
    for number in range(count):
        yield lines.filter(key % count == number).collect()


def _numbers_of(parts: Sequence[Inspected], places: Collection[str]) -> pl.DataFrame:
    """Return parts and rows by their numbers."""
    import polars as pl

    found: list[tuple[int, int]] = []
    for number, one in enumerate(parts):
        wanted = {place for place in places if place.startswith(f"{one.file}:")}
        if wanted:
            rows = one.rows().select("row").collect()["row"].to_list()
            named = zip(rows, one.places(rows), strict=True)
            found += [(number, row) for row, place in named if place in wanted]
    return pl.DataFrame(found, schema={"part": pl.UInt32, "row": pl.UInt32}, orient="row")


# -- likeness


def alike(parts: Sequence[Inspected], config: ValidationConfig, column: str) -> Iterator[tuple[int, Broken]]:
    """Yield the part's number and the problem of each row that is like an earlier one.

    Args:
        parts: in the order of splits and parts.
        config: what is asked, and what nearly the same text is.
        column: what a problem names: the first text field, as the files call it.
    """
    numbers = {one.key: number for number, one in enumerate(parts)}
    table = compare([Part(one.key, one.split, Sketch.load(one.sketch)) for one in parts], config.duplicates).table
    follows = severities(config)
    for batch in table.to_batches():
        for line in batch.to_pylist():
            kind = CONTRADICTIONS if line["kind"] == "contradiction" else DUPLICATES
            if kind == DUPLICATES and line["split"] != line["of_split"]:
                kind = LEAKAGE
            if follows[kind] == "ignore":
                continue
            number = numbers[line["part"]]
            [place] = parts[number].places([line["row"]])
            [other] = parts[numbers[line["of_part"]]].places([line["of_row"]])
            problem = Problem(place, column, _EXPECTED[kind].format(**line), _found(line, other))
            yield number, Broken(follows[kind], problem)


_EXPECTED = {
    LEAKAGE: "a text that {of_split} does not have (validation.severity.leakage)",
    DUPLICATES: "a text unlike the others of its split (validation.severity.near_duplicates)",
    CONTRADICTIONS: "the label that the same text has elsewhere (validation.severity.contradictions)",
}


def _found(line: dict[str, Any], other: str) -> str:
    if line["kind"] == "contradiction":
        return f"another than at {other}"
    return (
        f"that of {other}" if line["kind"] == "exact" else f"nearly that of {other} (likeness {line['similarity']:.2f})"
    )
