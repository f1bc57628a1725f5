"""Rows to Arrow token tables, one per part file, that open with ``datasets.Dataset.from_file``.

Tokenizing once, in a stage of its own, makes what the model sees a file that can be looked at and cached. A part's
table depends on that part, the settings and the tokenizer alone, so it is kept by what it was made of: a data set that
grows costs its new parts, and parts are spread over processes. What no part can show, the rows that a split shares
with the training rows, comes from digests that lie beside the tables.

What tokens alone can show is checked here (:mod:`graft.token_checks`), and rows are kept aside as the section says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graft import tasks
from graft.base import BaseConfig, LockedBase, locked
from graft.data import DataConfig, content_digest, data_digests, parts
from graft.errors import ConfigError, DataError
from graft.identity import digest_json
from graft.part_pictures import picture_digests
from graft.part_results import Job, PartResults, Round, key_of
from graft.quarantine import Quarantine, in_words
from graft.reading import by_file, names_of, order_of
from graft.tasks import TaskConfig
from graft.token_checks import OF_SPLITS, Found, Judgement
from graft.tokenization import probe
from graft.tokenization.part_encoder import CONTENT, TABLE, Facts, Part, PartEncoder, read_facts
from graft.tokenization.probe import probe_rows
from graft.tokenization.section import TokenizationConfig
from graft.tokenization.shared_rows import count_shared
from graft.tokenization.tables import (
    MANIFEST,
    TokenRows,
    lengths_of,
    read_manifest,
    read_tokens,
    token_rows,
    token_schema,
)
from graft.workspace import SPLITS, Workspace, read_json, replaced, write_json

__all__ = [
    "MANIFEST",
    "TokenRows",
    "TokenizationConfig",
    "lengths_of",
    "part_rounds",
    "probe_rows",
    "read_manifest",
    "read_tokens",
    "token_rows",
    "token_schema",
    "tokenize",
]


def tokenize(
    workspace: Workspace, *, task: TaskConfig, data: DataConfig, base: BaseConfig, tokenization: TokenizationConfig
) -> None:
    """Run the stage: write ``artifacts/tokens``.

    Raises:
        ConfigError: the length limit does not fit the base, or the base is not locked.
        DataError: the data is not what was validated, or rows make no usable tokens (each at its ``file:line``).
        IntegrityError: the tokenizer has another chat template than ``sources.lock`` pins.
    """
    encoder, verdict, pinned, splits = _planned(workspace, task, data, base, tokenization)
    results = splits[0].results
    results.make([job for split in splits for job in split.jobs], encoder, rows=_rows(results, splits, verdict))
    one = splits[0].facts(workspace, splits[0].jobs[0])
    judgement = _judgement(workspace, encoder)
    if encoder.task.chats and getattr(task, "template", None) is None:
        judgement.template(pinned.chat_template, one.chat_template)
    found = {split.name: judgement.split(split.name, split.found(workspace)) for split in splits}
    _refuse(workspace, judgement, splits, found)
    with replaced(workspace.tokens) as output:
        entries = {
            split.name: {**found[split.name].as_counts(), **split.write(workspace, output / split.name, splits[0])}
            for split in splits
        }
        judgement.quarantine.write(output / "quarantine")
        _link(splits[SPLITS.index("validation")].probe(workspace, encoder), output / probe.PROBE)
        write_json(output / MANIFEST, _manifest(encoder, verdict, pinned, one.processor, entries, judgement))
    for name, entry in entries.items():
        _report(name, entry, judgement.warnings[name], "patches" if encoder.task.processor == "image" else "tokens")
    for line in judgement.quarantine.described():
        print(f"tokenize: {line}; artifacts/tokens/quarantine", flush=True)


def part_rounds(
    workspace: Workspace, *, task: TaskConfig, data: DataConfig, base: BaseConfig, tokenization: TokenizationConfig
) -> Iterator[Round]:
    """Yield what the stage makes of single parts: their token tables. Raises as :func:`tokenize` does."""
    encoder, _, _, splits = _planned(workspace, task, data, base, tokenization)
    yield Round(splits[0].results, [job for split in splits for job in split.jobs], encoder)


def _planned(
    workspace: Workspace, task: TaskConfig, data: DataConfig, base: BaseConfig, tokenization: TokenizationConfig
) -> tuple[PartEncoder, dict[str, Any], LockedBase, list[_Split]]:
    """Return what encodes parts, validate's verdict, the base, and what is to be done for each split."""
    digests = data_digests(workspace.data)
    verdict = _verdict(workspace, data, digests)
    pinned = locked(workspace, base)
    if tasks.get(task.name).processor == "tokenizer":
        _check_limit(tokenization, pinned)
    folder = pinned.folder(workspace.root, weights=False)
    encoder = PartEncoder(task, data, tokenization, folder, base.trust_remote_code)
    results = PartResults.of(workspace, "tokenize")
    jobs = {name: tuple(_jobs(workspace, name, encoder, verdict, pinned, digests)) for name in SPLITS}
    return encoder, verdict, pinned, [_Split(name, results, jobs[name]) for name in SPLITS]


# -- before


def _verdict(workspace: Workspace, data: DataConfig, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return validate's verdict, refused unless it is about the data that lies here now, read as ``data`` says."""
    path = workspace.validation / "verdict.json"
    if not path.is_file():
        raise DataError("data: not validated; run `graft stage validate`")
    verdict: dict[str, Any] = read_json(path)
    if not verdict["passed"] or verdict["data"] != content_digest(digests) or _renamed(verdict, digests):
        raise DataError("data: changed since it was validated; run `graft stage validate`")
    cleaning = {name: verdict[name] for name in ("clean", "privacy") if name in verdict}
    if (cleaning, verdict.get("columns")) != (data.cleaning, data.columns):
        raise DataError("data.clean, data.columns, data.privacy: changed since validation; run `graft stage validate`")
    return verdict


def _renamed(verdict: Mapping[str, Any], digests: Mapping[str, str]) -> bool:
    """Say whether parts are called otherwise than in the verdict, which names rows in quarantine by their places."""
    validated = {
        f"{split}/{name}": part["digest"]
        for split, found in verdict["splits"].items()
        for name, part in found.get("parts", {}).items()
    }
    return any(digests.get(name) != digest for name, digest in validated.items())


def _check_limit(config: TokenizationConfig, base: LockedBase) -> None:
    if base.positions is not None and config.max_length_tokens > base.positions:
        raise ConfigError(
            f"tokenization.max_length_tokens: {base.source} has {base.positions} positions (got "
            f"{config.max_length_tokens}); set at most {base.positions}"
        )


def _judgement(workspace: Workspace, encoder: PartEncoder) -> Judgement:
    """Return what judges the splits."""
    task = encoder.task
    aside = Quarantine(workspace.root, task.fields_of(encoder.task_config), encoder.data)
    return Judgement(encoder.config, aside, of_text=task.processor == "tokenizer")


# -- parts


def _jobs(
    workspace: Workspace,
    split: str,
    encoder: PartEncoder,
    verdict: Mapping[str, Any],
    base: LockedBase,
    digests: Mapping[str, str],
) -> Iterator[Job]:
    """Yield what is to be done for each part of a split, with all that decides its result in the key."""
    aside = by_file([*verdict.get("quarantined", ()), *verdict.get("dropped", ())])
    made_of: dict[str, Any] = {
        "sections": [
            *(one.model_dump(mode="json") for one in (encoder.task_config, encoder.data)),
            encoder.config.model_dump(mode="json", exclude=OF_SPLITS),
        ],
        "base": base.digest,
        "trust_remote_code": encoder.trust_remote_code,
    }
    files = parts(workspace.data)[split]
    pictures = picture_digests(workspace, encoder.fields, encoder.data, digests, files)
    for path in files:
        without = frozenset(aside.get(path.relative_to(workspace.root).as_posix(), ()))
        lines = sorted(order_of(place) for place in without)
        digest = digests[path.relative_to(workspace.data).as_posix()]
        key = key_of(path, digest, {**made_of, "pictures": pictures[path], "without": lines})
        yield Job(key, path, Part(path, workspace.root, without))


def _rows(results: PartResults, splits: Sequence[_Split], verdict: Mapping[str, Any]) -> int | None:
    """Return how many rows there are to encode; None where some parts were encoded before."""
    if any((results.folder / job.key).is_dir() for split in splits for job in split.jobs):
        return None
    return sum(int(split["rows"]) for split in verdict["splits"].values())


# -- a split


@dataclass(frozen=True)
class _Split:
    """The parts of a split, whose results are there."""

    name: str
    results: PartResults
    jobs: tuple[Job, ...]

    def found(self, workspace: Workspace) -> dict[Path, Callable[[], Found]]:
        """Return how to read what the checks found of each part."""
        return {job.path: partial(self._found, workspace, job) for job in self.jobs}

    def _found(self, workspace: Workspace, job: Job) -> Found:
        return self.facts(workspace, job).found

    def write(self, workspace: Workspace, folder: Path, training: _Split) -> dict[str, Any]:
        """Put the tables of the split into ``folder`` and return its entry in the manifest."""
        folder.mkdir()
        called = names_of([job.path for job in self.jobs])
        names = [f"{called[job.path]}.arrow" for job in self.jobs]
        for job, name in zip(self.jobs, names, strict=True):
            _link(self._path(job, TABLE), folder / name)
        also = 0 if self.name == training.name else count_shared(self._content(), training._content())
        return {
            "also_in_train": also,
            "digest": digest_json([self.results.digests(job.key)[TABLE] for job in self.jobs]),
            "parts": names,
            "files": [_file(workspace, job) for job in self.jobs],
        }

    def probe(self, workspace: Workspace, encoder: PartEncoder) -> Path:
        """Return the file of the reload proof's rows, chosen from this split."""
        tables = [self._path(job, TABLE) for job in self.jobs]
        return probe.made(PartResults.of(workspace, "probe"), encoder, self.jobs, tables)

    def facts(self, workspace: Workspace, job: Job) -> Facts:
        """Return what is known of a part."""
        return read_facts(self.results.folder / job.key, _file(workspace, job))

    def _content(self) -> list[Path]:
        return [self._path(job, CONTENT) for job in self.jobs]

    def _path(self, job: Job, name: str) -> Path:
        return self.results.folder / job.key / name


def _file(workspace: Workspace, job: Job) -> str:
    return job.path.relative_to(workspace.root).as_posix()


def _link(source: Path, target: Path) -> None:
    """Put a file of the store into an output: a second name for it, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# -- after


def _refuse(workspace: Workspace, judgement: Judgement, splits: Sequence[_Split], found: Mapping[str, Found]) -> None:
    """Write the report and raise if there are problems; else remove the report of an earlier refusal."""
    report = workspace.failed / "tokenize"
    shutil.rmtree(report, ignore_errors=True)
    if not judgement.problems:
        return
    total, lines = judgement.total, [str(problem) for problem in judgement.problems]
    write_json(report / "report.json", {"stage": "tokenize", "total": total, "problems": lines})
    if judgement.crowded:
        _write_crowded(workspace, judgement, splits, found, report / "quarantine")
    says = "; ".join(
        [*judgement.over_shares, in_words(total, "problem"), f"report: {report.relative_to(workspace.root).as_posix()}"]
    )
    raise DataError.from_problems(f"tokenize: {says}", lines, total=total)


def _write_crowded(
    workspace: Workspace, judgement: Judgement, splits: Sequence[_Split], found: Mapping[str, Found], folder: Path
) -> None:
    """Write the quarantine of the splits that stop the chain for it, a part at a time."""
    rows = {name: found[name].counts["quarantined"] for name in judgement.crowded}
    write_json(folder / "summary.json", {"rows": rows})
    for split in splits:
        for path, read in split.found(workspace).items() if split.name in rows else ():
            if aside := read().aside:
                judgement.quarantine.write_part(folder, split.name, path, aside)


def _manifest(
    encoder: PartEncoder,
    verdict: Mapping[str, Any],
    base: LockedBase,
    processor: Mapping[str, int],
    splits: Mapping[str, Any],
    judgement: Judgement,
) -> dict[str, Any]:
    return {
        "data": verdict["data"],
        "state": verdict["state"],
        **encoder.data.cleaning,
        "columns": encoder.data.columns,
        "quarantined": sorted({*verdict.get("quarantined", ()), *judgement.quarantine.places}),
        "base": base.digest,
        "tokenizer": base.tokenizer,
        "chat_template": base.chat_template,
        **processor,
        "splits": splits,
        **({"leaked": verdict["leaked"]} if "leaked" in verdict else {}),
        "checks": [one.as_json() for one in judgement.verdicts],
    }


def _report(name: str, counts: Mapping[str, Any], warnings: Sequence[str], unit: str) -> None:
    print(
        f"tokenize: {name}: {in_words(counts['rows'])}, {counts['tokens']} {unit}, {in_words(counts['truncated'])} cut",
        flush=True,
    )
    if also := counts["also_in_train"]:
        have = "has" if also == 1 else "have"
        print(f"warning: {name}: {in_words(also)} {have} the same {unit} as a training row", flush=True)
    for line in warnings:
        print(f"warning: {line}", flush=True)
