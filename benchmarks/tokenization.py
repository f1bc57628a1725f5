"""Rows to token tables beside the plain ways: the ``tokenizers`` library alone as the limit, and ``datasets.map``.

Three tables. *Tokenizing*: rows of text classification that are in memory to a table on disk, by our encoder, by
``datasets.map(batched=True)`` with the same tokenizer and columns, and by ``encode_batch_fast`` alone, which keeps
nothing, in batches of a thousand (the limit) and of a hundred; in turn, one thread each. *Reading*: the rows of the
table, and their tokens alone, beside those of a ``datasets`` data set on the same file. *The stage*: the whole
``tokenize`` stage on generated JSON Lines in parts (strict reading, digests, tables), and its reader alone, beside
``load_dataset`` and ``map``; each in a process of its own, with its largest memory.

Seconds are CPU seconds; printed are medians of ``--repeats`` and the ratios that are aimed at.

    .venv/bin/python benchmarks/tokenization.py [--tokenizer FOLDER] [--rows 10000 100000 1000000] [--part-rows 50000]
    .venv/bin/python benchmarks/tokenization.py --ours --in-memory --rows 5000000
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
# One thread for every way: the stage has a process for each core, and the library would take all of them.
os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

from validate import SPLITS, row, write  # noqa: E402  (the generated rows are those of the other stage's benchmark)

LIBRARIES = ("tokenizers", "transformers", "datasets", "pyarrow")
LIMIT_TOKENS, BATCH_ROWS, SMALL_ROWS = 128, 1000, 100
LABELS = [f"label-{number}" for number in range(20)]


# -- a base


def make_base(folder: Path, tokenizer: Path | None) -> None:
    """Save a small BERT with the tokenizer in a folder, or with WordPiece trained on generated rows."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if tokenizer:
        found = transformers.AutoTokenizer.from_pretrained(tokenizer)
    else:
        specials, dice = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], random.Random(1)
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        texts = (row(number, dice)["text"] for number in range(2000))
        made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials))
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    found.save_pretrained(folder)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(found), **small)).save_pretrained(folder)


def encoder(base: Path) -> Any:
    """Return what encodes a part."""
    from graft.data import DataConfig
    from graft.tasks.text_classification import Config
    from graft.tokenization import TokenizationConfig
    from graft.tokenization.part_encoder import PartEncoder

    limit = TokenizationConfig(max_length_tokens=LIMIT_TOKENS)
    return PartEncoder(Config(), DataConfig(), limit, base, trust_remote_code=False)


# -- rows in memory


def seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call, those of processes that it waited for included."""
    started = cpu_seconds()
    work()
    return cpu_seconds() - started


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each way; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, work in ways.items():
            found[name].append(seconds(work))
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def batches(rows: list[Any], size: int = BATCH_ROWS) -> Iterator[list[Any]]:
    """Yield ``rows`` in batches."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def columns_of(tokenizer: Any) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    """Return what ``datasets.map`` makes of a batch."""
    numbers = {label: number for number, label in enumerate(LABELS)}

    def columns(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], truncation=True, max_length=LIMIT_TOKENS)["input_ids"]
        return {
            "input_ids": ids,
            "length": [len(one) for one in ids],
            "label": [numbers[one] for one in batch["label"]],
        }

    return columns


def tokenizing(count: int, base: Path, repeats: int) -> str:
    """Return a line: rows a second of the three ways."""
    import datasets

    from graft.data import Record

    dice, ours = random.Random(0), encoder(base)
    rows = [row(number, dice) for number in range(count)]
    records = [Record({**one, "text_pair": None}, f"data/a.jsonl:{at}", one["id"]) for at, one in enumerate(rows, 1)]
    texts, table, tokenizer = [one["text"] for one in rows], datasets.Dataset.from_list(rows), ours.processor
    with tempfile.TemporaryDirectory() as temporary:
        folder, backend = Path(temporary), tokenizer.backend_tokenizer
        found = in_turn(
            {
                "ours": lambda: ours.write(batches(records), folder, int),
                "limit": lambda: drained(map(backend.encode_batch_fast, batches(texts))),
                "smaller": lambda: drained(map(backend.encode_batch_fast, batches(texts, SMALL_ROWS))),
                "map": lambda: table.map(
                    columns_of(tokenizer),
                    batched=True,
                    remove_columns=["text"],
                    load_from_cache_file=False,
                    cache_file_name=str(folder / "map.arrow"),
                ),
            },
            repeats,
        )
    size = sum(len(text.encode()) for text in texts) / 2**20
    rates = " | ".join(f"{count / found[name]:,.0f}" for name in ("ours", "limit", "smaller", "map"))
    ratios = [found[name] / found["ours"] for name in ("limit", "smaller", "map")]
    of = " | ".join(f"**{ratio:.2f}**" for ratio in ratios)
    return f"| {count:,} | {rates} | {size / found['ours']:.1f} | {of} |"


# -- files


def project(folder: Path, count: int, part_rows: int, base: Path) -> None:
    """Make a project of generated rows, as it is after ``validate``."""
    from graft.base import BaseConfig, lock
    from graft.data import data_digest
    from graft.workspace import Workspace, write_json

    write(folder, count, part_rows)
    workspace = Workspace(folder)
    (folder / "base").symlink_to(base)
    lock(workspace, BaseConfig(source="./base"))
    rows = {split: {"rows": max(20, round(share * count))} for split, share in SPLITS.items()}
    verdict = {"passed": True, "data": data_digest(workspace.data), "state": {"labels": LABELS}, "splits": rows}
    write_json(workspace.validation / "verdict.json", {**verdict, "clean": [], "columns": {}})


def stage(folder: Path) -> None:
    """Run the stage on an empty store."""
    from graft.base import BaseConfig
    from graft.data import DataConfig
    from graft.tasks.text_classification import Config
    from graft.tokenization import TokenizationConfig, tokenize
    from graft.workspace import Workspace

    limit, base = TokenizationConfig(max_length_tokens=LIMIT_TOKENS), BaseConfig(source="./base")
    tokenize(Workspace(folder), task=Config(), data=DataConfig(), base=base, tokenization=limit)


def strict(folder: Path) -> None:
    """Read the rows as the stage does, and do nothing with them."""
    from graft.data import DataConfig, rows_of
    from graft.tasks.text_classification import TASK

    for split in SPLITS:
        drained(rows_of(folder / "data", split, TASK.fields, DataConfig()))


def plain(folder: Path) -> None:
    """Load the parts with ``datasets`` and map the tokenizer over them."""
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "base")
    files = {split: sorted(map(str, (folder / "data" / split).glob("*.jsonl"))) for split in SPLITS}
    found = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
    found.map(columns_of(tokenizer), batched=True, remove_columns=["text"])


def timed(name: str, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own and return its seconds after the imports, and its largest memory."""
    command = [sys.executable, __file__, "--child", name, str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "GRAFT_HOME": ""})
    answer: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return answer


def child(name: str, folder: Path) -> None:
    """Do the work of one process; print seconds and the megabytes of the largest process as JSON."""
    import datasets  # noqa: F401  (imports are paid once for any number of rows)
    import transformers

    _ = transformers.AutoTokenizer
    started, work = time.perf_counter(), {"ours": stage, "reader": strict, "peer": plain}[name]
    cpu, wall = seconds(lambda: work(folder)), time.perf_counter() - started
    # Linux' own account: the maximum that getrusage knows is the parent's where a process was made by vfork.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if name == "ours" else 0
    print(json.dumps({"seconds": wall, "cpu": cpu, "peak": max(own, children) / 1024}))


def whole(count: int, part_rows: int, base: Path, ours: bool) -> Iterator[str]:
    """Yield a line for each way through files; ``ours``: without those of others."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project(folder, count, part_rows, base)
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*.jsonl")) / 2**20
        ways = {
            "the stage": "ours",
            "again, all parts known": "ours",
            "its reader alone": "reader",
            "load_dataset, map": "peer",
        }
        for label, name in list(ways.items())[: 3 if ours else 4]:
            found = timed(name, folder)
            rates = f"{count / found['cpu']:,.0f} | {size / found['cpu']:.1f}"
            yield f"| {count:,} | {label} | {found['seconds']:.1f} | {rates} | {found['peak']:,.0f} |"


# -- reading back


def reading(count: int, base: Path, repeats: int) -> Iterator[str]:
    """Yield a line for each way to read a table back."""
    import datasets

    from graft.data import Record
    from graft.tokenization.part_encoder import TABLE
    from graft.tokenization.tables import open_table

    dice, ours = random.Random(0), encoder(base)
    rows = (row(number, dice) for number in range(count))
    records = [Record({**one, "text_pair": None}, f"data/a.jsonl:{at}", one["id"]) for at, one in enumerate(rows, 1)]
    with tempfile.TemporaryDirectory() as temporary:
        ours.write(batches(records), Path(temporary), int)
        path = Path(temporary) / TABLE
        peer = datasets.Dataset.from_file(str(path))
        tokens, learnt = peer.select_columns(["input_ids"]), peer.select_columns(["input_ids", "label"])
        mine, order = open_table(path, "data/a.jsonl"), random.Random(1).sample(range(count), count)
        for one, other in zip(mine.lists("input_ids"), tokens, strict=True):
            assert one.tolist() == other["input_ids"]

        def by_chance(table: Any) -> None:
            for at in order:
                found = table[at]
                drained((found["input_ids"], found["label"]))

        ways: dict[str, Callable[[bool], Any]] = {
            "tokens, as arrays": lambda own: drained(mine.lists("input_ids") if own else tokens),
            "tokens and label, rows by chance": lambda own: by_chance(mine if own else learnt),
            "rows, whole": lambda own: drained(map(dict, mine) if own else peer),
        }
        for label, way in ways.items():
            found = in_turn({"ours": lambda way=way: way(True), "peer": lambda way=way: way(False)}, repeats)
            rates = " | ".join(f"{count / found[name]:,.0f}" for name in ("ours", "peer"))
            yield f"| {label} | {rates} | **{found['peer'] / found['ours']:.1f}** |"


def drained(values: Iterable[Any]) -> None:
    """Read all values."""
    for _ in values:
        pass


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer; else one is trained on the rows")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="of the stage")
    parser.add_argument("--in-memory", type=int, nargs="*", default=[10_000, 50_000], help="rows of the first table")
    parser.add_argument("--read", type=int, default=20_000, help="rows of the second table")
    parser.add_argument("--part-rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="of whole stages, ours alone (5,000,000 rows)")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"Python {sys.version.split()[0]}, {versions}; {os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        make_base(base, given.tokenizer)
        print("Tokenizing: rows a CPU second\n")
        library = f"library, by {BATCH_ROWS} | library, by {SMALL_ROWS}"
        print(f"| rows | ours | {library} | map | ours, MB/s | of the limit | by {SMALL_ROWS} | times map |")
        print("|---|---|---|---|---|---|---|---|---|")
        for count in given.in_memory:
            print(tokenizing(count, base, given.repeats), flush=True)
        print("\nReading: rows a CPU second\n\n| what | ours | datasets | ratio |\n|---|---|---|---|")
        print(*reading(given.read, base, given.repeats), sep="\n", flush=True)
        print("\n| rows | way | wall s | rows a CPU second | MB a CPU second | peak MB |\n|---|---|---|---|---|---|")
        for count in given.rows:
            for line in whole(count, given.part_rows, base, given.ours):
                print(line, flush=True)


if __name__ == "__main__":
    main()
