"""Token tables on disk: their columns, and reading them back mapped rather than loaded.

A table depends on the content of its part alone: it says on which line a row stands, and the manifest of which file,
so that a renamed part keeps its table. Tables are Arrow streams, which ``datasets.Dataset.from_file`` opens too.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from graft.encoding import flat_lists
from graft.tasks import length_of
from graft.workspace import read_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from graft.tasks import Task

MANIFEST = "manifest.json"
PLACE = ("line", "column")
"""The columns of a stored table that say where in its part a row stands; when it is read they become ``row``."""


def token_schema(task: Task) -> pa.Schema:
    """Return the columns of a stored token table.

    ``line`` (of the part file) and ``column`` (where more rows than one start on a line of JSON, else 0), ``id`` (null
    without one), those of :meth:`Task.encode_columns`: ``input_ids`` (cut, special tokens included; empty for a
    picture), ``length`` (of ``input_ids``, or in patches), ``untruncated_length``, what is learnt and lost
    (``supervised``, ``ended``, ``lost_prompt``, ``lost_target``; null where the task says nothing), and the task's own.
    """
    import pyarrow as pa

    place = [pa.field(name, pa.int32()) for name in PLACE]
    return pa.schema([*place, pa.field("id", pa.string()), *task.encoded_schema()])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what tokenize says about the token tables in ``folder``.

    Raises:
        ConfigError: there are none.
    """
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    return manifest


def read_tokens(folder: Path, split: str) -> pa.Table:
    """Return the token rows of a split, mapped from disk, with ``row`` (``data/train/part-0000.jsonl:7``) made anew.

    Raises:
        ConfigError: ``folder`` holds no token tables.
    """
    import pyarrow as pa

    return pa.concat_tables(_with_places(file, table) for file, table in _tables(folder, split))


def token_rows(folder: Path, split: str) -> TokenRows:
    """Return the token rows of a split for training: they stay on disk until they are asked for.

    Raises:
        ConfigError: ``folder`` holds no token tables.
    """
    return TokenRows((file, batch) for file, table in _tables(folder, split) for batch in table.to_batches())


def open_table(path: Path, file: str) -> TokenRows:
    """Return the rows of one stored table; ``file`` is the part that it was made from."""
    return TokenRows((file, batch) for batch in _mapped(path).to_batches())


def lengths_of(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return what each token row costs, in tokens; rows on disk are not made for it."""
    return rows.lengths() if isinstance(rows, TokenRows) else [length_of(row) for row in rows]


class TokenRows(Sequence[Mapping[str, Any]]):
    """The rows of tables that are mapped from disk: a value is read when it is asked for."""

    def __init__(self, batches: Iterable[tuple[str, pa.RecordBatch]]) -> None:
        self._batches = [_Batch(file, batch) for file, batch in batches]
        self._starts = list(itertools.accumulate((len(one.batch) for one in self._batches), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        number = index % len(self)
        batch = bisect.bisect_right(self._starts, number) - 1
        return _Row(self._batches[batch], number - self._starts[batch])

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for one in self._batches:
            yield from (_Row(one, index) for index in range(len(one.batch)))

    def lengths(self) -> list[int]:
        """Return what each row costs, in tokens, without making the rows."""
        return [length for one in self._batches for length in one.batch.column("length").to_pylist()]

    def lists(self, column: str) -> Iterator[np.ndarray]:
        """Yield each row's list in a column of numbers: views of what is mapped, not copies."""
        for one in self._batches:
            values, offsets = flat_lists(one.batch.column(column))
            yield from (values[start:end] for start, end in itertools.pairwise(offsets.tolist()))


class _Batch:
    """A batch of a table and how a value of each column is read: by way of arrays, ten times as fast as a slice."""

    def __init__(self, file: str, batch: pa.RecordBatch) -> None:
        self.file, self.batch = file, batch
        self.names = ("row", *(name for name in batch.schema.names if name not in PLACE))

    def value(self, name: str, index: int) -> Any:
        """Return a value of a row."""
        if name == "row":
            return place_of(self.file, *(self._readers[one](index) for one in PLACE))
        return self._readers[name](index)

    @cached_property
    def _readers(self) -> dict[str, Callable[[int], Any]]:
        return {name: _reader(self.batch.column(name)) for name in self.batch.schema.names}


class _Row(Mapping[str, Any]):
    """A row of a batch, whose values are read when they are asked for."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: _Batch, index: int) -> None:
        self._batch, self._index = batch, index

    def __getitem__(self, name: str) -> Any:
        return self._batch.value(name, self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch.names)

    def __len__(self) -> int:
        return len(self._batch.names)


def _reader(column: pa.Array) -> Callable[[int], Any]:
    """Return what gives a row's value in a column, as ``to_pylist`` has it."""
    import pyarrow as pa

    if column.null_count == len(column):
        return lambda _: None
    inner = column.type.value_type if pa.types.is_list(column.type) else column.type
    if column.null_count or not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        return lambda index: column[index].as_py()
    if inner == column.type:
        numbers = column.to_numpy()
        return lambda index: numbers[index].item()
    if column.values.null_count:
        return lambda index: column[index].as_py()
    values, offsets = flat_lists(column)
    return lambda index: values[offsets[index] : offsets[index + 1]].tolist()


def _tables(folder: Path, split: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the part file and the table of each part of a split."""
    found = read_manifest(folder)["splits"][split]
    for file, name in zip(found["files"], found["parts"], strict=True):
        yield file, _mapped(folder / split / name)


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def _with_places(file: str, table: pa.Table) -> pa.Table:
    """Return a stored table with ``row`` for the columns of :data:`PLACE`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    line, column = (table[name] for name in PLACE)
    places = pc.binary_join_element_wise(file, line.cast(pa.string()), ":")
    if pc.any(pc.not_equal(column, 0)).as_py():
        exact = pc.binary_join_element_wise(places, column.cast(pa.string()), ":")
        places = pc.if_else(pc.equal(column, 0), places, exact)
    return table.drop_columns(list(PLACE)).add_column(0, "row", places)


def place_of(file: str, line: int, column: int) -> str:
    """Return where a row stands, as messages name it."""
    return f"{file}:{line}:{column}" if column else f"{file}:{line}"
