"""What only rows together show: ids and texts that occur twice, texts that are nearly equal, labels that disagree.

Everything is told from the results of single parts (``inspecting``), never from the rows. A row is held to the rows
before it, in the order of splits and parts: of two that are alike, the later one breaks the contract. Ids and digests
of texts are compared in portions of ``PORTION_ROWS`` by their hashes, so memory does not grow with the rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.data import DataConfig, Problem
from graft.duplicates import Part, Sketch, compare
from graft.reading import by_file, order_of
from graft.validation.contract import Check
from graft.validation.section import Severity, ValidationConfig
from graft.workspace import SPLITS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from graft.tasks import Field
    from graft.validation.inspecting import Inspected

KINDS = LEAKAGE, CONTRADICTIONS, DUPLICATES = "leakage", "contradictions", "near_duplicates"
"""In the order in which they are said: what makes a score worthless first."""
PORTION_ROWS = 1 << 18
UNIQUE = "expect_column_values_to_be_unique"


@dataclass(frozen=True)
class Alike:
    """Rows of one part that are like earlier ones in one way: how many, and what the first of them have wrong."""

    part: int
    kind: str
    severity: Severity
    rows: int
    problems: list[Problem]


def severities(config: ValidationConfig) -> dict[str, Severity]:
    """Return what follows from each kind of likeness."""
    given = config.severity
    return {LEAKAGE: given.leakage, DUPLICATES: given.near_duplicates, CONTRADICTIONS: given.contradictions}


def is_asked(config: ValidationConfig, fields: Sequence[Field]) -> bool:
    """Say whether the contract is about likeness across rows."""
    read = any(one.text or one.type == "image" for one in fields)
    return read and set(severities(config).values()) != {"ignore"}


def in_megabytes(config: ValidationConfig, fields: Sequence[Field], size: int) -> bool:
    """Say whether texts that are nearly equal are looked for in a data set whose parts have ``size`` bytes."""
    texts = any(one.text for one in fields)
    return texts and is_asked(config, fields) and size <= config.duplicates.near_megabytes * 1_000_000


# -- equal ids, equal texts


def unique_ids(config: ValidationConfig) -> Check | None:
    """Return the check of ids over all parts, if the contract has it."""
    if not config.unique_ids or config.severity.unique_ids == "ignore":
        return None
    return Check(UNIQUE, "id", "id", "an id that no other row has", {}, config.severity.unique_ids)


def repeated_ids(
    parts: Sequence[Inspected], check: Check, data: DataConfig, most: int
) -> tuple[Counter[int], dict[int, list[Problem]]]:
    """Return by the part's number how many rows have the id of an earlier row, and what the first of them have wrong.

    An id may be an e-mail address, so rows are named and ids are not. They are told apart by 64 bits: two of five
    million share them once in a million data sets.

    Args:
        parts: in the order of splits and parts.
        check: what :func:`unique_ids` gives.
        data: what the files call the id.
        most: how many rows are named at most.
    """
    import polars as pl

    column, named = data.columns.get("id", "id"), 0
    counts, found = Counter[int](), dict[int, list[Problem]]()
    for portion in _portions(parts, "id", pl.col("id").is_not_null()):
        first = pl.col("part", "row").first().over("id").name.prefix("of_")
        later = (
            portion.sort("part", "row")
            .with_columns(first)
            .filter((pl.col("part") != pl.col("of_part")) | (pl.col("row") != pl.col("of_row")))
        )
        lines = later.head(max(0, most - named))
        places = _places(parts, lines)
        for line in lines.iter_rows(named=True):
            place, other = places[line["part"], line["row"]], places[line["of_part"], line["of_row"]]
            one = Problem(place, column, check.expected, f"the id of {other}", has="an id that an earlier row has")
            found.setdefault(line["part"], []).append(one)
        named += len(later)
        counts.update(later["part"].to_list())
    return counts, {number: sorted(same, key=lambda one: order_of(one.place)) for number, same in found.items()}


def equal(
    parts: Sequence[Inspected],
    config: ValidationConfig,
    column: str,
    what: str,
    without: Collection[str],
    most: int,
) -> Iterator[Alike]:
    """Yield the rows that say what an earlier row says, to the letter or but for case, width, signs and spaces.

    Args:
        parts: in the order of splits and parts.
        config: what is asked.
        column: what a problem names: the first field that the model reads, as the files call it.
        what: what it is: a text or a picture.
        without: places of rows that were put into quarantine after their part was inspected.
        most: how many rows of a kind are named at most.
    """
    import polars as pl

    follows, aside = severities(config), _numbers_of(parts, without)
    splits = pl.DataFrame(
        {"part": range(len(parts)), "split": [SPLITS.index(one.split) for one in parts]},
        schema={"part": pl.UInt32, "split": pl.UInt8},
    )
    counts, named = Counter[tuple[int, str, int, bool]](), list[pl.DataFrame]()
    room = {kind: most for kind, severity in follows.items() if severity != "ignore"}
    for portion in _portions(parts, "normal", pl.col("kept"), ["text", "label"]):
        rows = portion.join(aside, on=["part", "row"], how="anti").join(splits, on="part").sort("part", "row")
        found = _earlier(rows).filter(pl.col("kind").is_in(list(room)))
        for part, kind, of_split, exact, count in found.group_by("part", "kind", "of_split", "exact").len().iter_rows():
            counts[part, kind, of_split, exact] += count
        for kind, left in room.items():  # each has room of its own: none takes the places that another one names
            named.append(found.filter(pl.col("kind") == kind).sort("part", "row").head(left))
            room[kind] = left - len(named[-1])
    lines = pl.concat(named) if named else pl.DataFrame(schema={"part": pl.UInt32, "row": pl.UInt32})
    places = _places(parts, lines)
    problems: dict[tuple[int, str, int, bool], list[Problem]] = defaultdict(list)
    for line in lines.iter_rows(named=True) if len(lines) else ():
        at, other = places[line["part"], line["row"]], places[line["of_part"], line["of_row"]]
        expected = _expected(line["kind"], SPLITS[line["of_split"]], what, exact=line["exact"])
        found_words = f"another label than {other}" if line["kind"] == CONTRADICTIONS else f"the {what} of {other}"
        key = line["part"], line["kind"], line["of_split"], line["exact"]
        has = _has(line["kind"], SPLITS[line["of_split"]], what, exact=line["exact"])
        problems[key].append(Problem(at, column, expected, found_words, has=has))
    for key, count in sorted(counts.items()):
        ordered = sorted(problems[key], key=lambda one: order_of(one.place))
        yield Alike(key[0], key[1], follows[key[1]], count, ordered)


def _earlier(rows: pl.DataFrame) -> pl.DataFrame:
    """Return which rows say what an earlier row of each split says, and which have another label than the first one.

    ``rows`` have ``part``, ``row``, ``split``, ``text``, ``normal`` and ``label``, in order.
    """
    import polars as pl

    found = []
    same = pl.col("of_part") == pl.col("part")
    before = (pl.col("of_part") < pl.col("part")) | (same & (pl.col("of_row") < pl.col("row")))
    for split in range(len(SPLITS)):
        there, later = rows.filter(pl.col("split") == split), rows.filter(pl.col("split") >= split)
        leader = pl.col("part", "row").first().name.prefix("of_")
        exact = later.join(there.group_by("text", maintain_order=True).agg(leader), on="text").filter(before)
        other = later.join(there.group_by("normal", maintain_order=True).agg(leader), on="normal").filter(before)
        other = other.join(exact, on=["part", "row"], how="anti")
        for lines, is_exact in ((exact, True), (other, False)):
            kind = pl.when(pl.col("split") == split).then(pl.lit(DUPLICATES)).otherwise(pl.lit(LEAKAGE))
            found.append(lines.with_columns(kind.alias("kind"), pl.lit(split).alias("of_split"), exact=is_exact))
    labelled = rows.filter(pl.col("label").is_not_null())
    first = labelled.group_by("normal", maintain_order=True).agg(
        pl.col("label").first().alias("said"), pl.col("part", "row", "split").first().name.prefix("of_")
    )
    contradicting = labelled.join(first, on="normal").filter(pl.col("label") != pl.col("said"))
    found.append(contradicting.with_columns(pl.lit(CONTRADICTIONS).alias("kind"), exact=True))
    columns = [pl.col("part", "row", "of_part", "of_row", "kind", "exact"), pl.col("of_split").cast(pl.Int64)]
    return pl.concat(lines.select(columns) for lines in found)


def _places(parts: Sequence[Inspected], lines: pl.DataFrame) -> dict[tuple[int, int], str]:
    """Return the places of the rows of some lines, and of those that they repeat, by part and row."""
    wanted: dict[int, set[int]] = defaultdict(set)
    for line in lines.iter_rows(named=True):
        wanted[line["part"]].add(line["row"])
        wanted[line["of_part"]].add(line["of_row"])
    found = {}
    for part, numbers in wanted.items():
        rows = sorted(numbers)
        found.update({(part, row): place for row, place in zip(rows, parts[part].places(rows), strict=True)})
    return found


def _portions(
    parts: Sequence[Inspected], key: str, which: pl.Expr, others: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Yield part, row, ``key`` and ``others`` of rows whose key another row has; those with one key are together."""
    import polars as pl

    if not parts:
        return
    lines = pl.concat(
        one.rows().filter(which).select(pl.lit(number, pl.UInt32).alias("part"), "row", key, *others)
        for number, one in enumerate(parts)
    )
    rows = sum(one.told["rows"] for one in parts)
    count = -(-rows // PORTION_ROWS) or 1
    for number in range(count):
        yield lines.filter(pl.col(key) % count == number).filter(pl.col(key).is_duplicated()).collect()


def _numbers_of(parts: Sequence[Inspected], places: Collection[str]) -> pl.DataFrame:
    """Return parts and rows by their numbers."""
    import polars as pl

    found: list[tuple[int, int]] = []
    of_files = by_file(places)
    for number, one in enumerate(parts):
        if wanted := set(of_files.get(one.file, ())):
            rows = one.rows().select("row").collect()["row"].to_list()
            named = zip(rows, one.places(rows), strict=True)
            found += [(number, row) for row, place in named if place in wanted]
    return pl.DataFrame(found, schema={"part": pl.UInt32, "row": pl.UInt32}, orient="row")


# -- likeness


def near(parts: Sequence[Inspected], config: ValidationConfig, column: str) -> tuple[list[Alike], str]:
    """Return the rows that nearly say what an earlier row says, by the sketches of the parts.

    ``parts``, ``config`` and ``column`` are those of :func:`equal`. The second is what was not compared, in words:
    pairs of texts that share a piece with very many others; empty where all were.
    """
    follows = severities(config)
    if {follows[LEAKAGE], follows[DUPLICATES]} == {"ignore"}:
        return [], ""
    numbers = {one.key: number for number, one in enumerate(parts)}
    compared = compare([Part(one.key, one.split, Sketch.load(one.sketch)) for one in parts], config.duplicates)
    lines = _numbered(compared.table, numbers)
    places = _places(parts, lines)
    problems: dict[tuple[int, str, int], list[Problem]] = defaultdict(list)
    for line in lines.iter_rows(named=True):
        at, other = places[line["part"], line["row"]], places[line["of_part"], line["of_row"]]
        kind = DUPLICATES if line["split"] == line["of_split"] else LEAKAGE
        found = f"nearly the text of {other} (likeness {line['similarity']:.2f})"
        expected = _expected(kind, line["of_split"], "text", exact=False)
        has = _has(kind, line["of_split"], "text", exact=False)
        one = Problem(at, column, expected, found, has=has)
        problems[line["part"], kind, SPLITS.index(line["of_split"])].append(one)
    alike = [
        Alike(part, kind, follows[kind], len(same), same)
        for (part, kind, _), same in sorted(problems.items())
        if follows[kind] != "ignore"
    ]
    left_out = (
        f"Near-duplicates: {compared.checked:,} pairs of texts were compared; {compared.pairs_left_out:,} were not, "
        "of texts that have something in common with very many others."
    )
    return alike, left_out if compared.pairs_left_out else ""


def _numbered(table: pa.Table, numbers: Mapping[str, int]) -> pl.DataFrame:
    """Return the lines about texts that are nearly equal, with the numbers of their parts."""
    import polars as pl

    lines = pl.DataFrame(table).with_columns(pl.col("kind", "part", "of_part", "split", "of_split").cast(pl.String))
    near = lines.filter((pl.col("kind") == "near") & (pl.col("similarity") < 1))
    return near.with_columns(pl.col("part", "of_part").replace_strict(numbers, return_dtype=pl.Int64))


def _expected(kind: str, of_split: str, what: str, *, exact: bool) -> str:
    """Return what a row should have had; ``what`` is a text or a picture."""
    if kind == CONTRADICTIONS:
        return f"the label that the same {what} has elsewhere (validation.severity.contradictions)"
    other = f"{of_split} does not have" if kind == LEAKAGE else "no other row of its split has"
    return f"a {what} that {other}{'' if exact else ', nor nearly'} (validation.severity.{kind})"


def _has(kind: str, of_split: str, what: str, *, exact: bool) -> str:
    """Return what such rows have instead, for sentences about many of them."""
    severity = f"(validation.severity.{kind})"
    if kind == CONTRADICTIONS:
        return f"another label than the same {what} has elsewhere {severity}"
    other = f"a row of {of_split}" if kind == LEAKAGE else "an earlier row of the split"
    return f"the {what}{'' if exact else ', or nearly,'} of {other} {severity}"
