"""The rows of the reload proof, as tokens: a few validation rows, with placeholders for what is private in them.

They are no table of a part: their tokens are saved with the adapter, go wherever it goes, and can be read as text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from graft.cleaning import redacted
from graft.data import Record
from graft.errors import ConfigError
from graft.identity import digest_json
from graft.part_results import Job, PartResults
from graft.reading import order_of
from graft.tokenization.part_encoder import PartEncoder
from graft.tokenization.tables import PLACE

PROBE = "probe.arrow"
ROWS, AMONG = 8, 1000
"""How many rows there are, evenly among how many first ones of validation."""


def made(results: PartResults, encoder: PartEncoder, jobs: Sequence[Job], tables: Sequence[Path]) -> Path:
    """Return the file of the rows, made once from the validation parts (``jobs``), of whose ``tables`` they are."""
    import pyarrow as pa

    places = list[tuple[int, int, int]]()
    """Number of the part, line and column of the first rows."""
    for number, table in enumerate(tables):
        if len(places) < AMONG:
            places += [(number, *place) for place in _places(table)]
    among = min(len(places), AMONG)
    chosen = {places[number * among // ROWS] for number in range(ROWS)} if among else set()
    first = jobs[: places[among - 1][0] + 1] if among else ()
    key = digest_json([PROBE, [job.key for job in first]])[:32]

    def write(folder: Path) -> None:
        batch = encoder.encode(list(_rows(encoder, first, chosen)))
        with pa.ipc.new_stream(str(folder / PROBE), batch.schema) as writer:
            writer.write_batch(batch)

    return results.kept(key, write) / PROBE


def _places(table: Path) -> Iterator[tuple[int, int]]:
    """Yield line and column of the first rows of a table."""
    import pyarrow as pa

    with pa.memory_map(str(table)) as source:
        rows = pa.ipc.open_stream(source).read_all().select(PLACE).slice(0, AMONG)
        yield from zip(*(rows[name].to_pylist() for name in PLACE), strict=True)


def _rows(encoder: PartEncoder, jobs: Sequence[Job], chosen: Collection[tuple[int, int, int]]) -> Iterator[Record]:
    for number, job in enumerate(jobs):
        for one in chain.from_iterable(encoder.batches(job.argument)):
            if (number, *order_of(one.place)) in chosen:
                yield replace(one, row={**one.row, **redacted(one.row, encoder.fields, encoder.data.privacy)}, id=None)


def probe_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows from the token tables in ``folder``.

    Raises:
        ConfigError: there are none.
    """
    import pyarrow as pa

    if not (folder / PROBE).is_file():
        raise ConfigError(f"{folder.name}: no {PROBE}; run `graft stage tokenize`")
    with pa.memory_map(str(folder / PROBE)) as source:
        table = pa.ipc.open_stream(source).read_all()
        rows: list[dict[str, Any]] = table.drop_columns(list(PLACE)).to_pylist()
        return rows
