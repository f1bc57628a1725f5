"""Rows to Arrow token tables, one per part file, that open with ``datasets.Dataset.from_file``.

Tokenizing once, in a stage of its own, makes what the model sees a file that can be looked at and cached. Memory is
bounded by one batch of rows. What tokens alone can show is checked here (:mod:`graft.token_checks`), and which rows
training shares with another split.

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
from typing import TYPE_CHECKING, Any, overload

from pydantic import Field as Limit

from graft import tasks
from graft.base import BaseConfig, LockedBase, load_processor, locked, pad_token_of
from graft.cleaning import Cleaning
from graft.data import DataConfig, Record, data_digest, part_rows, parts
from graft.errors import ConfigError, DataError
from graft.identity import digest_file, digest_json
from graft.quarantine import Quarantine
from graft.reading import stem_of
from graft.tasks import Field, Task, TaskConfig, length_of
from graft.token_checks import Found, Judgement, PartChecks, TokenContract, Vocabulary, judge_template
from graft.token_checks.found import BATCH_LINES
from graft.workspace import SPLITS, Workspace, read_json, replaced, write_json

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_PICTURES = 100
REPORT_EVERY_SECONDS = 2.0
MANIFEST = "manifest.json"


class TokenizationConfig(TokenContract):
    """How rows become tokens, and what those must be."""

    max_length_tokens: int = Limit(default=128, ge=4)
    """The longest row, in tokens, special tokens included; at most what the base's positions allow. Longer rows are
    cut."""


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
    folder = pinned.folder(workspace.root, weights=False)
    processor = load_processor(one.processor, folder, base.trust_remote_code)
    aside = frozenset(verdict.get("quarantined", ()))
    encoder = _Encoder(one, task, data, tokenization, processor, verdict["state"], aside)
    judgement = _judgement(workspace, encoder, verdict)
    if one.chats and getattr(task, "template", None) is None:
        judgement.verdicts += judge_template(pinned, folder, processor, tokenization.severity.chat_template)
    total = sum(split["rows"] for split in verdict["splits"].values())
    with replaced(workspace.tokens) as output:
        splits = _write_splits(workspace, output, encoder, _Progress(total))
        for split in splits:
            split.whole = judgement.split(split.name, split.found)
        _refuse(workspace, judgement)
        judgement.quarantine.write(output / "quarantine")
        write_json(output / MANIFEST, _manifest(encoder, verdict, pinned, splits, judgement))
    for line in judgement.quarantine.described():
        print(f"tokenize: {line}; artifacts/tokens/quarantine", flush=True)
    for split in splits:
        _report(split, judgement.warnings[split.name], "patches" if one.processor == "image" else "tokens")


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


def token_schema(task: Task) -> pa.Schema:
    """Return the columns of a token table.

    ``row`` (where the row stands: ``data/train/part-0000.jsonl:7``), ``id`` (null without one), ``input_ids`` (cut,
    special tokens included; empty for a picture), ``length`` (of ``input_ids``, or in patches),
    ``untruncated_length``, what :meth:`Task.encode` says of learning and cutting (``supervised``, ``ended``,
    ``lost_prompt``, ``lost_target``; null where it says nothing), and the task's own.
    """
    import pyarrow as pa

    shared = [
        ("row", pa.string()),
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("untruncated_length", pa.int32()),
        ("supervised", pa.int32()),
        ("ended", pa.bool_()),
        ("lost_prompt", pa.int32()),
        ("lost_target", pa.int32()),
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
    if (verdict.get("clean"), verdict.get("columns")) != (list(data.clean), data.columns):
        raise DataError("data.clean, data.columns: changed since validation; run `graft stage validate`")
    return verdict


def _check_limit(config: TokenizationConfig, base: LockedBase) -> None:
    if base.positions is not None and config.max_length_tokens > base.positions:
        raise ConfigError(
            f"tokenization.max_length_tokens: {base.source} has {base.positions} positions (got "
            f"{config.max_length_tokens}); set at most {base.positions}"
        )


def _judgement(workspace: Workspace, encoder: _Encoder, verdict: Mapping[str, Any]) -> Judgement:
    masks = bool(verdict.get("masks_private_data", True))
    aside = Quarantine(workspace.root, encoder.fields, encoder.data, masks=masks, section="tokenization")
    return Judgement(encoder.config, aside)


# -- encoding


@dataclass
class _Encoder:
    """Encodes batches of records."""

    task: Task
    task_config: TaskConfig
    data: DataConfig
    config: TokenizationConfig
    processor: Any
    state: Mapping[str, Any]
    quarantined: frozenset[str] = frozenset()
    """The places of the rows that are left out."""

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
        return encoded

    def checks(self) -> PartChecks:
        """Return the checks of one part's token rows."""
        return PartChecks(self.task, self.config, self._vocabulary, self.data.columns, self.longest)

    @property
    def longest(self) -> int:
        """The most tokens of a row; every picture has as many patches as the base's have."""
        return self.processor.patches if self.task.processor == "image" else self.config.max_length_tokens

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        return Vocabulary.of(self.processor) if self.task.processor == "tokenizer" else None

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        return self.task.fields_of(self.task_config)


@dataclass
class _Split:
    """What is known of a split once its parts are written."""

    name: str
    cleaning: Cleaning
    training: set[bytes]
    """A digest of what each training row says to the model: filled by ``train``, looked up by the other splits."""
    digests: dict[str, str] = field(default_factory=dict)
    found: dict[Path, Found] = field(default_factory=dict)
    """What was found of the token rows of each part."""
    whole: Found = field(default_factory=Found)
    """The sum of it."""
    also_in_train: int = 0

    def compare(self, task: Task, rows: list[dict[str, Any]]) -> None:
        """Note the token rows of ``train``; count those of another split that it has too."""
        for row in rows:
            digest = hashlib.blake2b(task.content_of(row), digest_size=8).digest()
            if self.name == "train":
                self.training.add(digest)
            else:
                self.also_in_train += digest in self.training

    def as_json(self) -> dict[str, Any]:
        """Return the split's entry in the manifest."""
        found = {**self.whole.as_counts(), "also_in_train": self.also_in_train}
        return {**found, "digest": digest_json(self.digests), "parts": list(self.digests)}


def _write_splits(workspace: Workspace, output: Path, encoder: _Encoder, progress: _Progress) -> list[_Split]:
    """Write the token tables of all splits, ``train`` first, since the others are compared with it."""
    files, training = parts(workspace.data), set[bytes]()
    splits = [_Split(name, Cleaning(encoder.data.clean), training) for name in SPLITS]
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

    schema, checks = token_schema(encoder.task), encoder.checks()
    with pa.ipc.new_stream(str(table), schema) as writer:
        for records in encoder.records(path, root, split.cleaning):
            rows = encoder.encode(records)
            kept = checks.kept(pa.RecordBatch.from_pylist(rows, schema=schema))
            writer.write_batch(kept)
            split.compare(encoder.task, [row for row in rows if row["row"] not in checks.found.aside])
            progress.add(len(rows))
    split.found[path] = checks.found


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


def _refuse(workspace: Workspace, judgement: Judgement) -> None:
    """Write the report and raise if there are problems; else remove the report of an earlier refusal."""
    report = workspace.failed / "tokenize"
    if not judgement.problems:
        shutil.rmtree(report, ignore_errors=True)
        return
    lines = [str(problem) for problem in judgement.problems]
    write_json(report / "report.json", {"stage": "tokenize", "problems": lines})
    raise DataError.from_problems(f"tokenize: {judgement.failed} rows cannot be used", lines)


def _manifest(
    encoder: _Encoder, verdict: Mapping[str, Any], base: LockedBase, splits: list[_Split], judgement: Judgement
) -> dict[str, Any]:
    return {
        "data": verdict["data"],
        "state": verdict["state"],
        "clean": list(encoder.data.clean),
        "columns": encoder.data.columns,
        "quarantined": sorted(encoder.quarantined | judgement.quarantine.places),
        "base": base.digest,
        "tokenizer": base.tokenizer,
        "chat_template": base.chat_template,
        "max_length_tokens": encoder.longest,
        "pad_token_id": pad_token_of(encoder.processor),
        "splits": {split.name: split.as_json() for split in splits},
        "checks": [one.as_json() for one in judgement.verdicts],
    }


def _report(split: _Split, warnings: Sequence[str], unit: str) -> None:
    name, counts = split.name, split.whole.counts
    print(
        f"tokenize: {name}: {counts['rows']} rows, {counts['tokens']} {unit}, {counts['truncated']} rows cut, "
        f"{split.whole.padding:.0%} padding in batches of {BATCH_LINES} drawn at random",
        flush=True,
    )
    if split.also_in_train:
        print(f"warning: {name}: {split.also_in_train} rows have the same {unit} as a training row", flush=True)
    for line in warnings:
        print(f"warning: {line}", flush=True)
