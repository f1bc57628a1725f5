"""One part to its token table: a function of the part's content, the settings and the tokenizer, and nothing else.

Memory is bounded by one batch of rows. What is written beside the table is all that the split needs to know of the
part: counts, the problems of single rows, and a digest of what each row says, sorted (``content.npy``), by which rows
that splits share are found without opening a table.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.base import load_processor
from graft.cleaning import Cleaning, text_steps
from graft.data import DataConfig, Problem, Record, part_rows
from graft.encoding import flat_lists
from graft.reading import order_of
from graft.tasks import Field, RowProblem, Task, TaskConfig
from graft.tokenization.section import TokenizationConfig
from graft.tokenization.tables import place_of, token_schema
from graft.workspace import read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_PICTURES = 100
TABLE, FACTS, CONTENT = "table.arrow", "facts.json", "content.npy"
"""The files of a part's result: the token table, what was counted and refused, and the digests of its rows."""


@dataclass(frozen=True)
class Part:
    """One part file to encode."""

    path: Path
    root: Path
    """The folder that places are relative to."""
    without: frozenset[str] = frozenset()
    """The places of the rows that are left out."""


@dataclass(frozen=True)
class PartEncoder:
    """Writes the token table of a part, and what is to be known of it; picklable, for processes."""

    task_config: TaskConfig
    data: DataConfig
    config: TokenizationConfig
    base: Path
    """The folder of the base, for its tokenizer or image processor."""
    trust_remote_code: bool
    state: Mapping[str, Any]

    def __call__(self, part: Part, folder: Path, add: Callable[[int], None]) -> None:
        """Write the result of ``part`` into ``folder``; ``add`` counts rows while they are written.

        Raises:
            DataError: a row cannot be read: the data changed since it was validated.
        """
        import numpy as np
        import pyarrow as pa

        counts, problems, digests = Counter[str](), list[Problem](), list[np.ndarray]()
        with pa.ipc.new_stream(str(folder / TABLE), token_schema(self.task)) as writer:
            for records in self._batches(part):
                batch = self.encode(records)
                writer.write_batch(batch)
                counts.update(self._counts(batch))
                problems += self._problems(records, batch)
                digests.append(content_digests(batch.column(self.task.content)))
                add(len(records))
        np.save(folder / CONTENT, np.sort(np.concatenate(digests)) if digests else np.zeros(0, np.uint64))
        found = [[*order_of(one.place), one.field, one.expected, one.found] for one in problems]
        write_json(folder / FACTS, {"counts": {name: counts[name] for name in COUNTED}, "problems": found})

    def encode(self, records: list[Record]) -> pa.RecordBatch:
        """Return a batch of a token table."""
        import pyarrow as pa

        places = [order_of(record.place) for record in records]
        rows = [record.row for record in records]
        encoded = self.task.encode_columns(self.task_config, rows, self.processor, self.state, self.longest)
        line, column = (pa.array(numbers, pa.int32()) for numbers in zip(*places, strict=True))
        names = pa.array([record.id for record in records], pa.string())
        return pa.RecordBatch.from_arrays([line, column, names, *encoded.columns], schema=token_schema(self.task))

    @property
    def task(self) -> Task:
        return tasks.get(self.task_config.name)

    @property
    def processor(self) -> Any:
        """The base's tokenizer or image processor, loaded once in a process."""
        return _processor(self.task.processor, self.base, self.trust_remote_code)

    @property
    def longest(self) -> int:
        """The most tokens of a row; every picture has as many patches as the base's have."""
        patches: int | None = self.processor.patches if self.task.processor == "image" else None
        return patches or self.config.max_length_tokens

    def _batches(self, part: Part) -> Iterator[list[Record]]:
        cleaning = Cleaning(text_steps(self.data.clean))
        found = part_rows(part.path, part.root, self._fields, self.data, cleaning, part.without)
        size = BATCH_PICTURES if self.task.processor == "image" else BATCH_ROWS
        while batch := list(islice(found, size)):
            yield batch

    def _counts(self, batch: pa.RecordBatch) -> dict[str, int]:
        import pyarrow.compute as pc

        length, whole = batch.column("length"), batch.column("untruncated_length")
        ids, _ = flat_lists(batch.column("input_ids"))
        return {
            "rows": len(batch),
            "tokens": pc.sum(length).as_py(),
            "unknown_tokens": 0 if self._unknown is None else int((ids == self._unknown).sum()),
            "truncated": pc.sum(pc.greater(whole, length)).as_py(),
        }

    def _problems(self, records: list[Record], batch: pa.RecordBatch) -> Iterator[Problem]:
        """Yield what makes rows unusable, row by row."""
        import numpy as np

        found: dict[int, list[RowProblem]] = {}
        if self.config.too_long == "refuse":
            lengths, whole = (batch.column(name).to_numpy() for name in ("length", "untruncated_length"))
            for row in np.flatnonzero(whole > lengths).tolist():
                advice = f"{whole[row]}; shorten it, or set tokenization.too_long: truncate"
                found.setdefault(row, []).append(RowProblem(self._text, f"at most {lengths[row]} tokens", advice))
        if self.task.processor == "tokenizer":
            for row in np.flatnonzero(~_any(batch.column("input_ids"), self._speaks)).tolist():
                expected = "text that the base's tokenizer has tokens for"
                found.setdefault(row, []).append(RowProblem(self._text, expected, "none; change or remove the row"))
        if type(self.task).check_tokens is not Task.check_tokens:
            for row, values in enumerate(batch.to_pylist()):
                found.setdefault(row, []).extend(self.task.check_tokens(self.task_config, values))
        for row in sorted(found):
            for one in found[row]:
                column = self.data.columns.get(one.field, one.field)
                yield Problem(records[row].place, column, one.expected, one.found)

    def _speaks(self, ids: np.ndarray) -> np.ndarray:
        """Say which tokens stand for text: the special ones do not, but the unknown token does."""
        import numpy as np

        silent = [one for one in self.processor.all_special_ids if one != self._unknown]
        return ~np.isin(ids, np.array(silent, ids.dtype))

    @property
    def _unknown(self) -> int | None:
        """The token of what the vocabulary does not have; None where there is no vocabulary, or it has all."""
        return getattr(self.processor, "unk_token_id", None)

    @property
    def _fields(self) -> tuple[Field, ...]:
        return self.task.fields_of(self.task_config)

    @property
    def _text(self) -> str:
        """The field that is blamed for what the tokens of a row show."""
        return next((one.name for one in self._fields if one.text), "")


COUNTED = ("rows", "tokens", "unknown_tokens", "truncated")
"""What is counted of a part."""


@dataclass(frozen=True)
class Facts:
    """What is known of a part once it is encoded."""

    counts: Mapping[str, int]
    problems: tuple[Problem, ...]


def read_facts(folder: Path, file: str) -> Facts:
    """Return what is known of a part from its result; ``file`` is what it is called now (``data/train/a.jsonl``)."""
    found = read_json(folder / FACTS)
    problems = (Problem(place_of(file, line, column), *rest) for line, column, *rest in found["problems"])
    return Facts(found["counts"], tuple(problems))


def content_digests(column: pa.Array) -> np.ndarray:
    """Return a digest of each row of a column of lists of numbers, or of bytes: uint64 [N], BLAKE2b of its content."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_binary(column.type):
        rows: Iterator[Any] = (row.as_buffer() for row in column)
    else:
        values, offsets = flat_lists(column)
        content: Any = np.ascontiguousarray(values).data
        rows = (content[start:end] for start, end in itertools.pairwise(offsets.tolist()))
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.uint64)


def _any(column: pa.Array, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Say for which lists ``holds`` is true of some value: bool [N]."""
    import numpy as np

    values, offsets = flat_lists(column)
    before = np.concatenate([[0], np.cumsum(holds(values))])
    some: np.ndarray = before[offsets[1:]] > before[offsets[:-1]]
    return some


@functools.lru_cache(maxsize=1)
def _processor(kind: Any, base: Path, trust_remote_code: bool) -> Any:
    return load_processor(kind, base, trust_remote_code)
