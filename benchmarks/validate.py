"""Validation beside the plain way: one suite on the same rows in Great Expectations' pandas engine and in our pass.

Two tables. *The suite*: the contract of text classification on flat columns that are in memory, in both engines in
turn, ``--repeats`` times; printed are medians, the ratio, and whether verdicts and counts agree. *The stage*: rows and
megabytes a CPU second, and the memory of the largest process, of the whole ``validate`` stage (strict reading, the
suite, checks across rows, Data Docs) on generated JSON Lines in parts, beside pandas with one big batch; each in a
process of its own.

    .venv/bin/python benchmarks/validate.py [--rows 10000 100000 1000000] [--part-rows 50000] [--repeats 3]
    .venv/bin/python benchmarks/validate.py --ours --rows 5000000
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
LIBRARIES = ("great-expectations", "pandas", "polars", "pyarrow")
WORDS = [a + b for a in "bcdfghjklmnpqrstvwz" for b in ("ane", "ill", "oom", "ust", "ever", "in", "or", "atch")]
SPLITS = {"train": 0.98, "validation": 0.01, "test": 0.01}


def row(number: int, dice: random.Random) -> dict[str, str]:
    """Return a generated row of about 20 words."""
    words = dice.choices(WORDS, k=dice.randint(8, 32))
    return {"id": f"r{number}", "text": " ".join(words), "label": f"label-{number % 20}"}


def write(folder: Path, count: int, part_rows: int) -> None:
    """Write ``count`` rows as the parts of three splits."""
    dice, number = random.Random(0), 0
    for split, share in SPLITS.items():
        (folder / "data" / split).mkdir(parents=True)
        left = max(20, round(share * count))
        for part in range(-(-left // part_rows)):
            with (folder / "data" / split / f"part-{part:04}.jsonl").open("w", encoding="utf-8") as file:
                for _ in range(min(part_rows, left - part * part_rows)):
                    file.write(json.dumps(row(number, dice)) + "\n")
                    number += 1
    (folder / "params.yaml").write_text("task:\n  name: text_classification\n", encoding="utf-8")


def suite(count: int, repeats: int) -> str:
    """Return a line: seconds of one suite in both engines."""
    from graft.data import DataConfig, Record
    from graft.tasks.text_classification import TASK, Config
    from graft.validation import ValidationConfig
    from graft.validation.contract import Contract
    from graft.validation.scan import as_pandas

    dice, fields = random.Random(0), TASK.fields_of(Config())
    labels = [f"label-{number}" for number in range(19)]  # one label is unknown: rows fail
    contract = Contract(fields, {"labels": labels}, DataConfig(), ValidationConfig())
    frame = contract.frame()
    for number in range(count):
        found = row(number, dice)
        frame.add(Record({"text_pair": None, **found}, f"data/train/part.jsonl:{number + 1}", found["id"]))
    table, most = frame.table(), 1000
    theirs_table = as_pandas(table)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats + 1):
        started = time.perf_counter()
        ours = contract.scan.results(table, most)
        between = time.perf_counter()
        peer = contract.asked(theirs_table, contract.scan.expectations, most)
        seconds["ours"].append(between - started)
        seconds["peer"].append(time.perf_counter() - between)
    same = all(
        one["success"] == other["success"]
        and one["result"].get("unexpected_count") == other["result"].get("unexpected_count")
        for one, other in zip(ours, peer, strict=True)
    )
    mine, theirs = (statistics.median(seconds[name][1:]) for name in ("ours", "peer"))  # the first pair warms up
    verdict = "equal" if same else "DIFFERENT"
    return f"| {count:,} | {len(ours)} | {mine:.3f} | {theirs:.3f} | **{theirs / mine:.1f}** | {verdict} |"


def stage(folder: Path) -> None:
    """Run the stage."""
    from graft.data import DataConfig
    from graft.tasks.text_classification import Config
    from graft.validation import ValidationConfig, validate
    from graft.workspace import Workspace

    validate(Workspace(folder), task=Config(), data=DataConfig(), validation=ValidationConfig())


def plain(folder: Path) -> None:
    """Read every part into one frame and run the like expectations on it, as Great Expectations' pages show it."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    parts = sorted((folder / "data").rglob("*.jsonl"))
    frame = pd.concat([pd.read_json(path, lines=True, dtype=False) for path in parts], ignore_index=True)
    frame["characters"] = frame["text"].str.len()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    labels = sorted(frame["label"].unique())
    wanted = [
        gxe.ExpectColumnToExist(column="text"),
        gxe.ExpectColumnToExist(column="label"),
        gxe.ExpectColumnValuesToNotBeNull(column="text"),
        gxe.ExpectColumnValuesToNotBeNull(column="label"),
        gxe.ExpectColumnValuesToBeBetween(column="characters", min_value=1, max_value=100_000),
        gxe.ExpectColumnValuesToNotBeInSet(column="text", value_set=["nan", "NULL", "null", "None", "N/A"]),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=labels),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
    ]
    assert batch.validate(gx.ExpectationSuite(name="rows", expectations=wanted)).success


def timed(name: str, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own and return its seconds after the imports, and its largest memory."""
    command = [sys.executable, __file__, "--child", name, str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return answer


def child(name: str, folder: Path) -> None:
    """Do the work of one process; print seconds and megabytes as JSON."""
    import great_expectations  # noqa: F401  (its import is paid once for any number of rows)

    before, started = os.times(), time.perf_counter()
    {"ours": stage, "peer": plain}[name](folder)
    seconds, after = time.perf_counter() - started, os.times()
    cpu = sum(after[:4]) - sum(before[:4])  # also that of the processes that share the parts
    # Linux' own account: the maximum that getrusage knows is the parent's where a process was made by vfork.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))


def whole(count: int, part_rows: int, ours: bool) -> list[str]:
    """Return a line for each way through files."""
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, count, part_rows)
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*.jsonl")) / 2**20
        for name, label in (("ours", "the stage"), ("peer", "pandas, one batch"))[: 1 if ours else 2]:
            found = timed(name, folder)
            rates = f"{count / found['cpu']:,.0f} | {size / found['cpu']:.1f}"
            lines.append(f"| {count:,} | {label} | {found['seconds']:.1f} | {rates} | {found['peak']:,.0f} |")
    return lines


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--part-rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="only the stage, for sizes that the plain way cannot hold")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"Python {sys.version.split()[0]}, {versions}; {os.cpu_count()} cores\n")
    print(
        "| rows | expectations | ours, s | pandas engine, s | ratio | verdicts and counts |\n|---|---|---|---|---|---|"
    )
    for count in () if given.ours else given.rows:
        print(suite(count, given.repeats), flush=True)
    print("\n| rows | way | wall s | rows a CPU second | MB a CPU second | peak MB |\n|---|---|---|---|---|---|")
    for count in given.rows:
        print(*whole(count, given.part_rows, given.ours), sep="\n", flush=True)


if __name__ == "__main__":
    main()
