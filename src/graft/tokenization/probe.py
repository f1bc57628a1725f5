"""The rows of the reload proof, as tokens: a few validation rows, with placeholders for what is private in them.

They are no table of a part: their tokens are saved with the adapter, go wherever it goes, and can be read as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from graft.cleaning import redacted
from graft.data import Record
from graft.errors import ConfigError
from graft.identity import digest_json
from graft.part_results import Job, PartResults
from graft.tokenization.part_encoder import PartEncoder
from graft.tokenization.tables import PLACE

PROBE = "probe.arrow"
ROWS, AMONG = 8, 1000
"""How many rows there are, evenly among how many first ones of validation."""


def made(results: PartResults, encoder: PartEncoder, jobs: Sequence[Job], rows: Sequence[int]) -> Path:
    """Return the file of the rows, made once from the validation parts (``jobs``) that hold so many ``rows``."""
    import pyarrow as pa

    first, count = list[Job](), 0
    for job, more in zip(jobs, rows, strict=True):
        if count < AMONG:
            first.append(job)
            count += more
    key = digest_json([PROBE, [job.key for job in first]])[:32]
    if results.find(key) is None:
        batch = encoder.encode(list(_chosen(encoder, first, min(count, AMONG))))
        with results.made(key) as folder, pa.ipc.new_stream(str(folder / PROBE), batch.schema) as writer:
            writer.write_batch(batch)
    return results.folder / key / PROBE


def _chosen(encoder: PartEncoder, jobs: Sequence[Job], among: int) -> Iterator[Record]:
    numbers = {number * among // ROWS for number in range(ROWS)}
    records = chain.from_iterable(chain.from_iterable(encoder.batches(job.argument) for job in jobs))
    for number, one in enumerate(islice(records, among)):
        if number in numbers:
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
