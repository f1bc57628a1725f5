"""Rows to Arrow token tables, one per part file, that open with ``datasets.Dataset.from_file``.

Tokenizing once, in a stage of its own, makes what the model sees a file that can be looked at and cached. Memory is
bounded by one batch of rows. What tokens alone can show is checked here: rows that the tokenizer leaves empty, rows
that are too long, rows that training shares with another split.

Rows are encoded without a limit first, so that the true length of a cut row is known; only long rows are encoded twice.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field as Limit

from graft import tasks
from graft.base import BaseConfig, LockedBase, load_processor, locked, pad_token_of
from graft.cleaning import Cleaning, redacted
from graft.config import Section
from graft.data import DataConfig, Problem, Record, data_digest, part_rows, parts, rows_of
from graft.errors import ConfigError, DataError
from graft.identity import digest_file, digest_json
from graft.reading import stem_of
from graft.tasks import Field, Task, TaskConfig, length_of
from graft.workspace import SPLITS, Workspace, read_json, replaced, write_json

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_PICTURES = 100
REPORT_EVERY_SECONDS = 2.0
MANIFEST, PROBE = "manifest.json", "probe.arrow"
PROBE_ROWS, PROBE_AMONG = 8, 1000
"""How many rows the reload proof is about, and of how many first ones of validation they are."""


class TokenizationConfig(Section):
    """How rows become tokens."""

    max_length_tokens: int = Limit(default=128, ge=4)
    """The longest row, in tokens, special tokens included; at most what the base's positions allow."""

    too_long: Literal["truncate", "refuse"] = "truncate"
    """What happens to a longer row: cut at the end (counted and reported), or an error at its file and line."""


def tokenize(
    workspace: Workspace, *, task: TaskConfig, data: DataConfig, base: BaseConfig, tokenization: TokenizationConfig
) -> None:
    """Run the stage: write ``artifacts/tokens``.

    Raises:
        ConfigError: the length limit does not fit the base, or the base is not locked.
        DataError: the data is not what was validated, or rows make no usable tokens (each at its ``file:line``).
    """
    verdict = _verdict(workspace, data)
    pinned = locked(workspace, base)
    one = tasks.get(task.name)
    if one.processor == "tokenizer":
        _check_limit(tokenization, pinned)
    processor = load_processor(one.processor, pinned.folder(workspace.root, weights=False), base.trust_remote_code)
    aside = frozenset(verdict.get("quarantined", ()))
    encoder = _Encoder(one, task, data, tokenization, processor, verdict["state"], aside)
    total = sum(split["rows"] for split in verdict["splits"].values())
    with replaced(workspace.tokens) as output:
        splits = _write_splits(workspace, output, encoder, _Progress(total))
        _refuse(workspace, encoder.problems)
        _write_probe(workspace, output, encoder, next(one.counts["rows"] for one in splits if one.name == "validation"))
        write_json(output / MANIFEST, _manifest(encoder, verdict, pinned, splits))
    for split in splits:
        _report(split, "patches" if one.processor == "image" else "tokens")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what tokenize says about the token tables in ``folder``.

    Raises:
        ConfigError: there are none.
    """
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    return manifest


def read_tokens(folder: Path, split: str) -> pa.Table:
    """Return the token rows of a split, mapped from disk: ``COLUMNS`` and those of the task.

    Raises:
        ConfigError: ``folder`` holds no token tables.
    """
    import pyarrow as pa

    names = read_manifest(folder)["splits"][split]["parts"]
    return pa.concat_tables(pa.ipc.open_stream(pa.memory_map(str(folder / split / name))).read_all() for name in names)


def token_rows(folder: Path, split: str) -> Sequence[Mapping[str, Any]]:
    """Return the token rows of a split for training: in memory, but pictures stay on disk until they are asked for.

    Raises:
        ConfigError: ``folder`` holds no token tables.
    """
    import pyarrow as pa

    table = read_tokens(folder, split)
    on_disk = any(pa.types.is_binary(column.type) for column in table.schema)
    return _StoredRows(table) if on_disk else table.to_pylist()


class _StoredRows(Sequence[Mapping[str, Any]]):
    """The rows of a table that is mapped from disk, each made when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.batches = table.to_batches()
        self.starts = list(itertools.accumulate((len(batch) for batch in self.batches), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

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
        batch = bisect.bisect_right(self.starts, number) - 1
        row: dict[str, Any] = self.batches[batch].slice(number - self.starts[batch], 1).to_pylist()[0]
        return row


def probe_rows(folder: Path) -> list[Mapping[str, Any]]:
    """Return the token rows of the reload proof, which travel with the adapter: validation rows without private data.

    Raises:
        ConfigError: ``folder`` holds none.
    """
    import pyarrow as pa

    if not (folder / PROBE).is_file():
        raise ConfigError(f"{folder.name}: no {PROBE}; run `graft stage tokenize`")
    rows: list[Mapping[str, Any]] = pa.ipc.open_stream(pa.memory_map(str(folder / PROBE))).read_all().to_pylist()
    return rows


def token_schema(task: Task) -> pa.Schema:
    """Return the columns of a token table.

    ``row`` (where the row stands: ``data/train/part-0000.jsonl:7``), ``id`` (null without one), ``input_ids`` (cut,
    special tokens included; empty for a picture), ``length`` (of ``input_ids``, or in patches),
    ``untruncated_length``, and the task's own.
    """
    import pyarrow as pa

    shared = [
        ("row", pa.string()),
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("untruncated_length", pa.int32()),
    ]
    return pa.schema([*(pa.field(name, type_) for name, type_ in shared), *task.token_schema()])


# -- before


def _verdict(workspace: Workspace, data: DataConfig) -> dict[str, Any]:
    """Return validate's verdict, refused unless it is about the data that lies here now, read as ``data`` says."""
    path = workspace.validation / "verdict.json"
    if not path.is_file():
        raise DataError("data: not validated; run `graft stage validate`")
    verdict: dict[str, Any] = read_json(path)
    if not verdict["passed"] or verdict["data"] != data_digest(workspace.data):
        raise DataError("data: changed since it was validated; run `graft stage validate`")
    cleaning = {name: verdict[name] for name in ("clean", "privacy") if name in verdict}
    if (cleaning, verdict.get("columns")) != (data.cleaning, data.columns):
        raise DataError("data.clean, data.columns, data.privacy: changed since validation; run `graft stage validate`")
    return verdict


def _check_limit(config: TokenizationConfig, base: LockedBase) -> None:
    if base.positions is not None and config.max_length_tokens > base.positions:
        raise ConfigError(
            f"tokenization.max_length_tokens: {base.source} has {base.positions} positions (got "
            f"{config.max_length_tokens}); set at most {base.positions}"
        )


# -- encoding


@dataclass
class _Encoder:
    """Encodes batches of records, and finds those that make no usable tokens."""

    task: Task
    task_config: TaskConfig
    data: DataConfig
    config: TokenizationConfig
    processor: Any
    state: Mapping[str, Any]
    quarantined: frozenset[str] = frozenset()
    """The places of the rows that are left out."""
    problems: list[Problem] = field(default_factory=list)

    def records(self, path: Path, root: Path, cleaning: Cleaning) -> Iterator[list[Record]]:
        """Yield the records of a part in batches; ``cleaning`` is that of its split."""
        found = part_rows(path, root, self.fields, self.data, cleaning, self.quarantined)
        size = BATCH_PICTURES if self.task.processor == "image" else BATCH_ROWS
        while batch := list(islice(found, size)):
            yield batch

    def encode(self, records: list[Record]) -> list[dict[str, Any]]:
        """Return the token rows of ``records``."""
        rows = [record.row for record in records]
        encoded = self.task.encode(self.task_config, rows, self.processor, self.state, self.longest)
        for record, row in zip(records, encoded, strict=True):
            row.update(row=record.place, id=record.id, length=length_of(row))
            self._check(record, row)
        return encoded

    def _check(self, record: Record, row: Mapping[str, Any]) -> None:
        if self.config.too_long == "refuse" and row["untruncated_length"] > row["length"]:
            found = f"{row['untruncated_length']}; shorten it, or set tokenization.too_long: truncate"
            self.problems.append(Problem(record.place, self._text_column, f"at most {row['length']} tokens", found))
        if self.task.processor == "tokenizer" and self._special_tokens.issuperset(row["input_ids"]):
            expected = "text that the base's tokenizer has tokens for"
            self.problems.append(Problem(record.place, self._text_column, expected, "none; change or remove the row"))
        for one in self.task.check_tokens(self.task_config, row):
            column = self.data.columns.get(one.field, one.field)
            found = self.data.privacy.in_message(one.found)
            self.problems.append(Problem(record.place, column, one.expected, found))

    @property
    def longest(self) -> int:
        """The most tokens of a row; every picture has as many patches as the base's have."""
        return self.processor.patches if self.task.processor == "image" else self.config.max_length_tokens

    @cached_property
    def _special_tokens(self) -> frozenset[int]:
        """The tokens that stand for no text; the unknown token does stand for one."""
        return frozenset(self.processor.all_special_ids) - {self.unknown}

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        return self.task.fields_of(self.task_config)

    @property
    def unknown(self) -> int | None:
        """The token of what the vocabulary does not have; None where there is no vocabulary, or it has all."""
        return getattr(self.processor, "unk_token_id", None)

    @cached_property
    def _text_column(self) -> str:
        name = next((one.name for one in self.fields if one.text), "")
        return self.data.columns.get(name, name)


@dataclass
class _Split:
    """What is known of a split once its parts are written."""

    name: str
    cleaning: Cleaning
    training: set[bytes]
    """A digest of what each training row says to the model: filled by ``train``, looked up by the other splits."""
    counts: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)

    def count(self, task: Task, rows: list[dict[str, Any]], unknown: int | None) -> None:
        """Count a batch of token rows; ``unknown`` is the token of what the vocabulary does not have."""
        for row in rows:
            ids = row["input_ids"]
            digest = hashlib.blake2b(task.content_of(row), digest_size=8).digest()
            self.counts["rows"] += 1
            self.counts["tokens"] += row["length"]
            self.counts["unknown_tokens"] += ids.count(unknown)
            self.counts["truncated"] += row["untruncated_length"] > row["length"]
            if self.name == "train":
                self.training.add(digest)
            else:
                self.counts["also_in_train"] += digest in self.training

    def as_json(self) -> dict[str, Any]:
        """Return the split's entry in the manifest."""
        names = ("rows", "tokens", "unknown_tokens", "truncated", "also_in_train")
        counts = {name: self.counts[name] for name in names}
        return {**counts, "digest": digest_json(self.digests), "parts": list(self.digests)}


def _write_splits(workspace: Workspace, output: Path, encoder: _Encoder, progress: _Progress) -> list[_Split]:
    """Write the token tables of all splits, ``train`` first, since the others are compared with it."""
    files, training = parts(workspace.data), set[bytes]()
    splits = [_Split(name, Cleaning(encoder.data.clean, encoder.data.privacy), training) for name in SPLITS]
    for split in splits:
        stems = Counter(stem_of(path) for path in files[split.name])
        (output / split.name).mkdir()
        for path in files[split.name]:
            table = output / split.name / f"{stem_of(path) if stems[stem_of(path)] == 1 else path.name}.arrow"
            _write_part(path, workspace.root, table, encoder, split, progress)
            split.digests[table.name] = digest_file(table)
    return splits


def _write_part(path: Path, root: Path, table: Path, encoder: _Encoder, split: _Split, progress: _Progress) -> None:
    import pyarrow as pa

    schema = token_schema(encoder.task)
    with pa.ipc.new_stream(str(table), schema) as writer:
        for records in encoder.records(path, root, split.cleaning):
            rows = encoder.encode(records)
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            split.count(encoder.task, rows, encoder.unknown)
            progress.add(len(rows))


def _write_probe(workspace: Workspace, output: Path, encoder: _Encoder, count: int) -> None:
    """Write a few of the ``count`` validation rows with placeholders for what is private in them.

    Their tokens go wherever the adapter goes, and can be read as text.
    """
    import pyarrow as pa

    data, fields = encoder.data, encoder.fields
    read = rows_of(workspace.data, "validation", fields, data, encoder.quarantined)
    among = min(count, PROBE_AMONG)
    chosen = {number * among // PROBE_ROWS for number in range(PROBE_ROWS)}
    rows = [record.row for number, record in enumerate(islice(read, among)) if number in chosen]
    rows = [{**row, **redacted(row, fields, data.privacy)} for row in rows]
    encoded = encoder.task.encode(encoder.task_config, rows, encoder.processor, encoder.state, encoder.longest)
    lines = [{**row, "length": length_of(row)} for row in encoded]
    schema = token_schema(encoder.task)
    with pa.ipc.new_stream(str(output / PROBE), schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(lines, schema=schema))


class _Progress:
    """Prints how far the stage is, at most once in two seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.start = self.printed = time.monotonic()

    def add(self, rows: int) -> None:
        """Count rows that are written."""
        self.done += rows
        now = time.monotonic()
        if now - self.printed >= REPORT_EVERY_SECONDS:
            self.printed, rate = now, self.done / (now - self.start)
            left = max(self.total - self.done, 0) / rate
            print(f"tokenize: {self.done}/{self.total} rows, {rate:.0f} rows/s, {left:.0f} s left", flush=True)


# -- after


def _refuse(workspace: Workspace, problems: list[Problem]) -> None:
    """Write the report and raise if there are problems; else remove the report of an earlier refusal."""
    report = workspace.failed / "tokenize"
    if not problems:
        shutil.rmtree(report, ignore_errors=True)
        return
    lines = [str(problem) for problem in problems]
    write_json(report / "report.json", {"stage": "tokenize", "problems": lines})
    raise DataError.from_problems(f"tokenize: {len(lines)} rows cannot be used", lines)


def _manifest(encoder: _Encoder, verdict: Mapping[str, Any], base: LockedBase, splits: list[_Split]) -> dict[str, Any]:
    return {
        "data": verdict["data"],
        "state": verdict["state"],
        **encoder.data.cleaning,
        "columns": encoder.data.columns,
        "quarantined": sorted(encoder.quarantined),
        "base": base.digest,
        "tokenizer": base.tokenizer,
        "chat_template": base.chat_template,
        "max_length_tokens": encoder.longest,
        "pad_token_id": pad_token_of(encoder.processor),
        "splits": {split.name: split.as_json() for split in splits},
    }


def _report(split: _Split, unit: str) -> None:
    name, counts = split.name, split.counts
    print(
        f"tokenize: {name}: {counts['rows']} rows, {counts['tokens']} {unit}, {counts['truncated']} rows cut",
        flush=True,
    )
    if counts["also_in_train"]:
        print(f"warning: {name}: {counts['also_in_train']} rows have the same {unit} as a training row", flush=True)
    if counts["unknown_tokens"] > counts["tokens"] / 20:
        share = counts["unknown_tokens"] / counts["tokens"]
        print(f"warning: {name}: {share:.0%} of the tokens are unknown to the base's tokenizer", flush=True)
