"""One part to its token table: a function of the part's content, the settings and the tokenizer, and nothing else.

Memory is bounded by one batch of rows. What is written beside the table is all that the split needs to know of the
part: what the checks found (:mod:`graft.token_checks`), and a digest of what each row says, sorted (``content.npy``),
by which rows that splits share are found without opening a table. Rows that the checks keep aside are in neither.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.base import chat_template_digest, load_processor, pad_token_of
from graft.cleaning import Cleaning, text_steps
from graft.data import DataConfig, Record, part_rows
from graft.encoding import flat_lists
from graft.identity import mixed_bits
from graft.reading import file_of, order_of
from graft.tasks import Field, Task, TaskConfig
from graft.token_checks import Found, PartChecks, Vocabulary
from graft.tokenization.section import TokenizationConfig
from graft.tokenization.tables import token_schema
from graft.workspace import read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_PICTURES = 100
TABLE, FACTS, CONTENT = "table.arrow", "facts.json", "content.npy"
"""The files of a part's result: the token table, what was found, and the digests of its rows."""


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

    def __call__(self, part: Part, folder: Path, add: Callable[[int], None]) -> None:
        """Write the result of ``part`` into ``folder``; ``add`` counts rows while they are written.

        Raises:
            DataError: a row cannot be read: the data changed since it was validated.
        """
        self.write(self.batches(part), folder, add)

    def write(self, batches: Iterable[list[Record]], folder: Path, add: Callable[[int], None]) -> None:
        """Write the result of rows that are given in batches."""
        import numpy as np
        import pyarrow as pa

        checks, digests = self._checks(), list[np.ndarray]()
        with pa.ipc.new_stream(str(folder / TABLE), token_schema(self.task)) as writer:
            for records in batches:
                kept = checks.kept(self.encode(records))
                writer.write_batch(kept)
                digests.append(content_digests(kept.column(self.task.content)))
                add(len(records))
        np.save(folder / CONTENT, np.sort(np.concatenate(digests)) if digests else np.zeros(0, np.uint64))
        made_by = {"max_length_tokens": self.longest, "pad_token_id": pad_token_of(self.processor)}
        template = chat_template_digest(self.base, getattr(self.processor, "chat_template", None))
        told = {"found": checks.found.as_json(), "processor": made_by, "chat_template": template}
        write_json(folder / FACTS, told)

    def encode(self, records: list[Record]) -> pa.RecordBatch:
        """Return a batch of a token table."""
        import pyarrow as pa

        rows = [record.row for record in records]
        encoded = self.task.encode_columns(self.task_config, rows, self.processor, self.longest)
        line, column = (pa.array(numbers, pa.int32()) for numbers in _lines_and_columns(records))
        names = pa.array([record.id for record in records], pa.string())
        return pa.RecordBatch.from_arrays([line, column, names, *encoded.columns], schema=token_schema(self.task))

    @cached_property
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

    def batches(self, part: Part) -> Iterator[list[Record]]:
        """Yield the cleaned rows of a part."""
        cleaning = Cleaning(text_steps(self.data.clean), self.data.privacy)
        found = part_rows(part.path, part.root, self.fields, self.data, cleaning, part.without)
        size = BATCH_PICTURES if self.task.processor == "image" else BATCH_ROWS
        while batch := list(islice(found, size)):
            yield batch

    def _checks(self) -> PartChecks:
        vocabulary = Vocabulary.of(self.processor) if self.task.processor == "tokenizer" else None
        return PartChecks(self.task, self.config, vocabulary, self.data.columns, self.longest)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields of a row."""
        return self.task.fields_of(self.task_config)


@dataclass(frozen=True)
class Facts:
    """What is known of a part once it is encoded."""

    found: Found
    processor: Mapping[str, int]
    """``max_length_tokens`` and ``pad_token_id``: no tokenizer is loaded where all parts are there."""
    chat_template: str | None
    """The digest of the chat template that the tokenizer had loaded."""


def read_facts(folder: Path, file: str) -> Facts:
    """Return what is known of a part from its result; ``file`` is what it is called now (``data/train/a.jsonl``)."""
    told = read_json(folder / FACTS)
    return Facts(Found.of_json(told["found"], file), told["processor"], told["chat_template"])


def content_digests(column: pa.Array) -> np.ndarray:
    """Return a digest of each row of a column of lists of whole numbers, or of bytes: uint64 [N].

    Equal rows have equal digests; others have by the chance of 2 ** -64.
    """
    import numpy as np
    import pyarrow as pa

    if pa.types.is_binary(column.type):
        digests = (hashlib.blake2b(row.as_buffer(), digest_size=8).digest() for row in column)
        return np.frombuffer(b"".join(digests), np.uint64)
    values, offsets = flat_lists(column)
    lengths = np.diff(offsets).astype(np.uint64)
    places = np.arange(len(values), dtype=np.uint64) - np.repeat(offsets[:-1].astype(np.uint64), np.diff(offsets))
    told = mixed_bits(values.astype(np.uint64) | places << np.uint64(32), 1)
    return mixed_bits(_sums(told, offsets) + mixed_bits(lengths, 2), 3)


def _lines_and_columns(records: Sequence[Record]) -> tuple[Sequence[int], Sequence[int]]:
    """Return line and column (mostly 0) of the places of records of one part."""
    start = len(file_of(records[0].place)) + 1
    ends = [record.place[start:] for record in records]
    try:
        return list(map(int, ends)), [0] * len(ends)
    except ValueError:
        lines, columns = zip(*(order_of(record.place) for record in records), strict=True)
        return lines, columns


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the sum of each row's values, modulo their type; an empty row's is 0."""
    import numpy as np

    before = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=before[1:])
    sums: np.ndarray = before[offsets[1:]] - before[offsets[:-1]]
    return sums


@functools.lru_cache(maxsize=1)
def _processor(kind: Any, base: Path, trust_remote_code: bool) -> Any:
    return load_processor(kind, base, trust_remote_code)
