"""Parquet and Arrow by pyarrow, a thousand rows at a time, under the rules that lines of text have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.reading.rules import Limits, Numbered, RowError, bad_header, decode, excerpt, refuse_ill_formed

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
_FILE_FORMAT = b"ARROW1"
"""How an Arrow file of random access starts; others are streams."""


def read_parquet(path: Path, limits: Limits, binary: frozenset[str]) -> Numbered:
    """Yield the rows of a Parquet file with their numbers, from 1."""
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=BATCH_ROWS)

    return numbered(batches(), "a Parquet file", limits, binary)


def read_arrow(path: Path, limits: Limits, binary: frozenset[str]) -> Numbered:
    """Yield the rows of an Arrow IPC file or stream with their numbers, from 1; the file is mapped, not loaded."""

    def batches() -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        if not path.stat().st_size:
            return
        with pa.memory_map(str(path)) as source, _arrow_reader(source) as reader:
            _check_header(reader.schema.names)
            if isinstance(reader, pa.RecordBatchFileReader):
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                yield from reader

    return numbered(batches(), "an Arrow file or stream", limits, binary)


def _arrow_reader(source: pa.NativeFile) -> AbstractContextManager[Any]:
    import pyarrow as pa

    head = source.read(len(_FILE_FORMAT))
    source.seek(0)
    reader: AbstractContextManager[Any] = (
        pa.ipc.open_file(source) if head == _FILE_FORMAT else pa.ipc.open_stream(source)
    )
    return reader


def numbered(batches: Iterator[pa.RecordBatch], what: str, limits: Limits, binary: frozenset[str]) -> Numbered:
    """Yield the rows of batches with their numbers, from 1; ``what`` they are a part of, for the message.

    Raises:
        RowError: a batch cannot be read; nothing behind it is.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for values in _rows_of(batch):
                number += 1
                yield number, _limited(values, limits, binary)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        found = str(error).partition("\n")[0]
        line = number + 1 if number else None
        raise RowError(what, f"one that cannot be read ({excerpt(found)})", line=line) from None


def _check_header(names: list[str]) -> None:
    if problem := bad_header(names):
        raise problem


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch; where a string is not UTF-8, its bytes, so that the row can be named.

    Offsets are checked first: a damaged Arrow file, read without, can end the process.
    """
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        batch = _without_strings(batch)
        batch.validate(full=True)
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield from batch.slice(start, BATCH_ROWS).to_pylist()


def _without_strings(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with its columns of strings as columns of bytes."""
    import pyarrow as pa

    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    columns = [column.view(plain[column.type]) if column.type in plain else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _limited(values: dict[str, Any], limits: Limits, binary: frozenset[str]) -> dict[str, Any] | RowError:
    """Return a row, or what is wrong with it, by the same rules as for a line of text."""
    for name, value in values.items():
        if name in binary and not isinstance(value, str):
            continue
        if isinstance(value, bytes):
            try:
                values[name] = value = decode(value, "value")
            except RowError as error:
                return RowError(error.expected, error.found, field=name)
        if isinstance(value, str) and len(value) * 4 > limits.max_line_bytes < len(value.encode()):
            return RowError(f"at most {limits.max_line_bytes} bytes (data.max_line_bytes)", "more", field=name)
        try:
            refuse_ill_formed(value, name)
        except RowError as error:
            return error
    return values
