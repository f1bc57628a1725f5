"""Nothing private is written in clear: values of each kind, planted in every split, are searched for in every byte.

What is made for people is searched: logs, reports, Data Docs, predictions, quarantine, the MLflow store, Prefect's
database, git. The data itself, its token tables and their copies in DVC's cache are the data and are not.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from benchmarks import privacy as made
from graft.privacy import KINDS, find
from graft.stages import render
from graft.workspace import SPLITS
from tests.conftest import SPLIT_ROWS, toy_rows, write_clone, write_project, write_rows

ROOT = Path(__file__).parent.parent
CODE = ("src", "pipelines", "infra", "requirements.lock")
FILES = {
    ".gitignore": "__pycache__/\n.graft/\nartifacts/\n/data\n/mlflow/store/\n",
    ".dvcignore": ".graft/\n",
    ".dvc/config": "[core]\n    analytics = false\n    remote = shared\n"
    "['remote \"shared\"']\n    url = ../../shared\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}
REPEATED = {"unique_ids": "warn"}
SMALL = {"training": {"max_steps": 4}, "data": {}, "validation": {"severity": {**REPEATED}}}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def values() -> dict[str, dict[str, str]]:
    """Return a value of each kind for each split, none of which has a form that many texts share."""
    makers = {**made.KINDS, "national_id": lambda rng: made.shaped(made.NATIONAL_IDS["us.ssn"][0](rng), "###-##-####")}
    found: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        rng = random.Random(f"planted in {split}")
        found[split] = {}
        for kind in KINDS:
            value = ""
            while (
                not (12 <= len(value) < 60 or (kind == "national_id" and value)) or "\n" in value or find(value) == []
            ):
                value = makers[kind](rng)
            found[split][kind] = value
    return found


PLANTED = values()


def spellings(value: str) -> set[str]:
    """Return how a value may stand in a file, in lower case."""
    digits = re.sub(r"\D", "", value)
    known = {value, json.dumps(value)[1:-1], repr(value)[1:-1], html.escape(value), urllib.parse.quote(value)}
    known |= {value[: max(7, len(value) // 2)]} if len(value) > 8 else set()
    return {one.casefold() for one in known | ({digits} if len(digits) >= 9 else set())}


CARDS = dict(zip(SPLITS, (4111111111111111, 4111111111114115, 4111111111117118), strict=True))
"""A card number of each split that stands as a whole number, and as a key, in columns that the task does not read."""


NEEDLES = {
    spelling: f"{kind} of {split}"
    for split, kinds in PLANTED.items()
    for kind, value in kinds.items()
    for spelling in spellings(value)
}
NEEDLES |= {str(card): f"card, as a number, of {split}" for split, card in CARDS.items()}
ANY = re.compile("|".join(re.escape(one) for one in sorted(NEEDLES, key=len, reverse=True)))


def in_clear(text: str) -> set[str]:
    """Return what is planted and found in a text."""
    return {NEEDLES[match[0]] for match in ANY.finditer(text.casefold())}


def texts_of(path: Path) -> Iterator[str]:
    """Yield a file's content in each form in which people meet it."""
    content = path.read_bytes()
    yield content.decode("utf-8", "replace")
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content).decode("utf-8", "replace")
    if content.startswith(b"SQLite format 3"):
        with sqlite3.connect(path) as database:
            yield "\n".join(database.iterdump())
    if content[:4] == b"PAR1":
        import pyarrow.parquet as pq

        yield json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False)
    if path.name == "probe.safetensors":
        from safetensors.numpy import load_file
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(BASES[0])
        for ids in load_file(path)["input_ids"]:
            text = tokenizer.decode(ids.tolist())
            yield text + "\n" + re.sub(r"\s+", "", text)


BASES: list[Path] = []


class Clone:
    """A clone with a small project; what it prints is kept."""

    def __init__(self, root: Path, base: Path, overrides: Mapping[str, Any], rows: Callable[[str], Any]) -> None:
        self.root, self.printed, self.data = root, list[str](), set[bytes]()
        skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "sample*")
        for name in CODE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            root.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, root / name, **({"ignore": skipped} if copy is shutil.copytree else {}))
        self.workspace = write_project(root, base, overrides)
        BASES[:] = [base]
        for split in SPLITS:
            write_rows(root / "data" / split / "part-0000.jsonl", rows(split))
        write_clone(root, {**FILES, "dvc.yaml": render(root, root)})

    def graft(self, *arguments: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), "GRAFT_PYTHON": sys.executable}
        command = [sys.executable, "-m", "graft", *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        self.printed += [done.stdout, done.stderr]
        return done.returncode

    def params(self, **sections: Any) -> None:
        """Change sections of params.yaml."""
        path = self.root / "params.yaml"
        found = yaml.safe_load(path.read_text())
        for name, values in sections.items():
            found[name] = {**(found.get(name) or {}), **values}
        path.write_text(yaml.safe_dump(found, sort_keys=False))

    def leaks(self) -> dict[str, set[str]]:
        """Return what stands in clear in which file."""
        tokens = (self.root / "artifacts" / "tokens").rglob("*.arrow")
        own = {*(self.root / "data").rglob("*"), *tokens}
        is_data = self.data | {hashlib.sha256(path.read_bytes()).digest() for path in own if path.is_file()}
        self.data = is_data  # an earlier run's token tables are in DVC's cache
        found: dict[str, set[str]] = {"printed": in_clear("\n".join(self.printed))}
        objects = ["git", "cat-file", "--batch-all-objects", "--batch"]
        git = subprocess.run(objects, cwd=self.root, capture_output=True, check=True).stdout
        found["git"] = in_clear(git.decode("utf-8", "replace"))
        for path in sorted(self.root.rglob("*")):
            if not path.is_file() or path.is_relative_to(self.root / "base") or path.suffix == ".pyc":
                continue
            if hashlib.sha256(path.read_bytes()).digest() in is_data:
                continue
            clear = set[str]().union(*map(in_clear, texts_of(path)))
            if clear:
                found[path.relative_to(self.root).as_posix()] = clear
        return {name: one for name, one in found.items() if one}


def classified(split: str) -> list[dict[str, Any]]:
    rows = toy_rows(SPLIT_ROWS[split], SPLITS.index(split))
    for row in (*rows[:3], *rows[-3:]):  # the first go into quarantine, where it is asked for
        row |= {"paid": CARDS[split], "more": {PLANTED[split]["email"]: [CARDS[split]]}}
    for number, value in enumerate(PLANTED[split].values()):
        rows[number]["text"] += f" {value}"
        rows[number]["label"] = rows[number + 1]["label"]  # wrong ones are what the report shows
        rows[number]["id"] = rows[-1 - number]["id"] = value  # a repeated one is a problem, or a warning
    return rows


def answered(split: str) -> list[dict[str, Any]]:
    rows = [{"prompt": row["text"][:20], "completion": row["text"][-20:]} for row in classified(split)]
    for number, value in enumerate(PLANTED[split].values()):
        rows[number] = {"prompt": f"Is it {value}?", "completion": f"It is {value}"}
    return rows


UNREADABLE = (
    *(json.dumps({"id": kind, "text": [value], "label": "animals"}) for kind, value in PLANTED["train"].items()),
    *(
        json.dumps({"id": f"of {kind}", "text": {"x" * 60: value}, "label": 1})
        for kind, value in PLANTED["test"].items()
    ),
    *(f'{{"text": "{value}, "label": "animals"}}' for value in PLANTED["validation"].values()),
)
"""Rows that hold private data and have another type, or are no JSON."""


LABELLED = [json.dumps({"text": f"labelled {kind}", "label": value}) for kind, value in PLANTED["train"].items()]
"""Rows whose label is private data."""


def test_what_is_planted_is_found_by_the_search() -> None:
    for split, card in CARDS.items():
        assert [one.kind for one in find(str(card))] == ["card"]
        assert in_clear(json.dumps({"paid": card})) == {f"card, as a number, of {split}"}
    for split, kinds in PLANTED.items():
        for kind, value in kinds.items():
            name = f"{kind} of {split}"
            assert {name} == in_clear(f"x {value} y") == in_clear(json.dumps({"a": value})) == in_clear(repr([value]))
            assert [one.kind for one in find(f"the cat {value}")] == [kind]
    assert in_clear("write to <EMAIL_1>, <CARD>") == set()


def test_a_classifiers_chain_writes_nothing_private(tmp_path: Path, tiny_base: Path, own_settings: None) -> None:
    sliced = {**SMALL, "evaluation": {"slices": {"columns": ["paid"]}}}
    clone = Clone(tmp_path / "clone", tiny_base, sliced, classified)
    assert clone.graft("run") == 0, clone.printed[-2:]
    assert clone.leaks() == {}
    report = (clone.workspace.evaluation / "report.html").read_text()
    assert re.search(r'class="text">[^<]* &lt;[A-Z_]+_1&gt;', report)
    clone.params(validation={"severity": {**REPEATED, "private_data": "fail"}})
    part = clone.workspace.data / "train" / "part-0000.jsonl"
    lines = part.read_text()
    part.write_text(lines + "".join(f"{line}\n" for line in UNREADABLE))
    assert clone.graft("run", "--add-data") == 2
    assert clone.leaks() == {}
    [report] = clone.workspace.failed.rglob("report.json")
    assert len(json.loads(report.read_text())["problems"]) == 3 * len(KINDS) + len(UNREADABLE)
    part.write_text(lines + "".join(f"{line}\n" for line in LABELLED))
    clone.params(validation={"severity": {**REPEATED, "private_data": "ignore", "labels": "quarantine"}})
    assert clone.graft("run", "--add-data") == 2
    assert clone.leaks() == {}
    [report] = clone.workspace.failed.rglob("report.json")
    messages = [one["message"] for one in json.loads(report.read_text())["problems"]]
    assert [message.rpartition(" found ")[2] for message in messages] == list(PLANTED["train"])
    assert all("part-0000.jsonl:" in one and "a label without private data" in one for one in messages)
    part.write_text(lines)
    clone.params(validation={"severity": {**REPEATED, "private_data": "quarantine"}, "max_quarantined_share": 0.5})
    assert clone.graft("run", "--add-data") == 0, clone.printed[-2:]
    assert clone.leaks() == {}
    assert "<EMAIL_1>" in (clone.workspace.quarantine / "train" / "part-0000.jsonl").read_text()
    clone.params(
        data={"clean": ["whitespace", "redact"]}, validation={"severity": {**REPEATED, "private_data": "fail"}}
    )
    assert clone.graft("run") == 0, clone.printed[-2:]
    assert clone.leaks() == {}
    verdict = json.loads((clone.workspace.validation / "verdict.json").read_text())
    assert verdict["cleaned"] == {"redact": 21, "whitespace": 0}
    for path in clone.workspace.tokens.rglob("*.arrow"):
        table = pa.ipc.open_stream(path).read_all().drop_columns("id")  # ids stay as in the data
        assert not in_clear(json.dumps(table.to_pylist(), default=str, ensure_ascii=False))


def test_a_chats_chain_writes_nothing_private(tmp_path: Path, own_settings: None) -> None:
    from tests.language.conftest import write_byte_llama

    write_byte_llama(tmp_path / "base", begins=False)
    overrides = {
        "task": {"name": "chat", "generation": {"max_new_tokens": 8}},
        "tokenization.max_length_tokens": 128,
        "adapter.target_modules": "all-linear",
        **SMALL,
    }
    clone = Clone(tmp_path / "clone", tmp_path / "base", overrides, answered)
    assert clone.graft("run") == 0, clone.printed[-2:]
    assert clone.leaks() == {}
    frequent = clone.workspace.evaluation / "predictions" / "nearest.parquet"
    assert any("<EMAIL_1>" in text for text in texts_of(frequent))
    clone.params(validation={"severity": {**REPEATED, "private_data": "fail"}})
    assert clone.graft("run") == 2
    assert clone.leaks() == {}
