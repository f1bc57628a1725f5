"""What a new part costs: validate and tokenize a data set of many parts, add one part, and do both again.

Each stage runs as the chain runs it, in a process of its own (interpreter and imports included), on generated rows of
text classification. Printed are the CPU seconds of both stages, with the processes that they start, for the full run,
for the run with one part more, and with nothing new; the share that is aimed at is 5 %. With ``--new-label`` one row of
the added part has a label that no other row has.

    .venv/bin/python benchmarks/growth.py [--rows 1000000] [--parts 100] [--repeats 3] [--new-label]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from tokenization import make_base  # noqa: E402
from validate import row, write  # noqa: E402

STAGES = ("validate", "tokenize")
PARAMS = """\
task: {name: text_classification}
base: {source: ./base}
data: {}
validation: {}
tokenization: {}
"""


def project(folder: Path, rows: int, parts: int) -> None:
    """Make a project whose training rows lie in ``parts`` parts."""
    from graft import params
    from graft.base import lock
    from graft.workspace import Workspace

    write(folder, rows, -(-rows // parts))
    make_base(folder / "base", None)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    workspace = Workspace(folder)
    lock(workspace, params.load(workspace.params).base)


def cpu_seconds(folder: Path) -> dict[str, float]:
    """Run both stages and return the CPU seconds of each."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = {}
    for stage in STAGES:
        before = os.times()
        command = [sys.executable, "-m", "graft", "stage", stage]
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        after = os.times()
        found[stage] = after.children_user + after.children_system - before.children_user - before.children_system
    return found


def add_part(folder: Path, rows: int, number: int, *, new_label: bool) -> Path:
    """Add a part of ``rows`` new rows to the training rows, the last one with a new label if that is asked."""
    dice, path = random.Random(number), folder / "data" / "train" / f"zz-{number}.jsonl"
    made = [row(10**9 + number * rows + one, dice) for one in range(rows)]
    made[-1] |= {"label": f"new label {number}"} if new_label else {}
    path.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
    return path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-label", action="store_true", help="the added part has a label that no other row has")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project(folder, given.rows, given.parts)
        full = cpu_seconds(folder)
        more, same = [], []
        for number in range(given.repeats):
            added = add_part(folder, given.rows // given.parts, number, new_label=given.new_label)
            more.append(cpu_seconds(folder))
            added.unlink()
            shutil.rmtree(folder / "artifacts")
            same.append(cpu_seconds(folder))
    print(f"{given.rows:,} rows in {given.parts} parts; CPU seconds, medians of {given.repeats}\n")
    print("| run | validate | tokenize | both | share of the full run |\n|---|---|---|---|---|")
    for name, runs in (("all parts new", [full]), ("one part more", more), ("nothing new", same)):
        each = [statistics.median(one[stage] for one in runs) for stage in STAGES]
        share = sum(each) / sum(full.values())
        print(f"| {name} | {each[0]:.2f} | {each[1]:.2f} | {sum(each):.2f} | **{share:.1%}** |")


if __name__ == "__main__":
    main()
