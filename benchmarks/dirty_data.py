"""What the gate says about dirty data: each kind of corruption caught, warned about or missed, file and line checked.

    .venv/bin/python benchmarks/dirty_data.py                                      # on made-up rows
    .venv/bin/python benchmarks/dirty_data.py --data DATA/banking77 --task text_classification --groups encoding file
    .venv/bin/python benchmarks/dirty_data.py --write dirty --kinds "HTML tags"    # a corrupted copy, to look at

``caught``: refused, and every message is at a bad line; ``caught, and more``: other lines are blamed too;
``elsewhere``: refused, at other lines alone; ``warned``: accepted with a new warning that names the line, ``warned, no
line`` with one that does not; ``missed``: accepted without a word; ``crashed``: not a known error. Before the kinds of
a task stand its clean rows, which must be accepted. The last column is what ``graft.damage`` and ``graft.languages``
measure in the bad rows and not in others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.clean_rows import MAKERS  # noqa: E402
from benchmarks.corruptions import KINDS, PART, TEXTS, Case, Kind, Part, applied, case_of, write  # noqa: E402


@dataclass(frozen=True)
class Answer:
    """What validation said: the places of its problems, its warnings, and the first message."""

    places: tuple[str, ...]
    warnings: tuple[str, ...]
    message: str = ""
    crashed: bool = False


def validated(root: Path, task: str) -> Answer:
    """Run the present validation on ``root / "data"``."""
    from graft import tasks
    from graft.data import DataConfig
    from graft.errors import DataError
    from graft.validation import ValidationConfig, validate
    from graft.workspace import Workspace

    workspace = Workspace(root)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate(workspace, task=tasks.config_class(task)(), data=DataConfig(), validation=ValidationConfig())
    except DataError as error:
        messages = list(error.problems) or [str(error)]
        return Answer(tuple(message.partition(": ")[0] for message in messages), (), messages[0])
    except Exception as error:
        return Answer((), (), f"{type(error).__name__}: {error}", crashed=True)
    verdict = json.loads((workspace.validation / "verdict.json").read_text(encoding="utf-8"))
    return Answer((), tuple(verdict["warnings"]), "; ".join(verdict["warnings"]))


def outcome(answer: Answer, clean: Answer, case: Case, part: Part) -> str:
    """Return what an answer is worth, given what was corrupted and what is said about the clean rows."""
    if answer.crashed:
        return "crashed"
    name = f"data/{case.split}/{PART}"
    bad = {f"{name}:{line}" for line in part.lines} | ({name, f"data/{case.split}"} if part.whole else set())
    if not answer.places:
        new = " ".join(set(answer.warnings) - set(clean.warnings)) + " "
        named = part.whole or any(f"{place.removeprefix('data/')}{end}" in new for place in bad for end in " ,;)")
        return ("warned" if named else "warned, no line") if new.strip() else "missed"
    right = set(answer.places) & bad
    return "elsewhere" if not right else "caught" if set(answer.places) == right else "caught, and more"


def measured(case: Case, part: Part) -> str:
    """Return the measures that bad rows have and the others have not, as far as lines can be read."""
    from graft.damage import damage
    from graft.languages import UNKNOWN, languages

    kinds: tuple[set[str], set[str]] = (set(), set())
    for number, line in enumerate(part.content.split(b"\n"), start=1):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            texts = _texts(json.loads(line)[TEXTS[case.task]])
            found = {name for text in texts for name, count in damage(text).items() if count}
            found |= {f"language {code}" for code, _ in languages(texts) if code != UNKNOWN}
            kinds[number in part.lines].update(found)
    return ", ".join(sorted(kinds[True] - kinds[False]))


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [one["content"] if isinstance(one, dict) else one for one in items]


def compare(
    kinds: Sequence[Kind], wanted: Sequence[str], seed: int, data: Path | None, splits: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table for each kind, task and split: group, kind, task, split, outcome, measures, message."""
    known: dict[str, Answer] = {}
    for kind in kinds:
        for task in [one for one in kind.tasks if one in wanted] if wanted else kind.tasks[:1]:
            if task not in known:
                with tempfile.TemporaryDirectory() as folder:
                    write(case_of(task, seed, data), Path(folder) / "data", None)
                    known[task] = clean = validated(Path(folder).resolve(), task)
                    said = "refused" if clean.places or clean.crashed else "accepted"
                    yield "clean", "nothing", task, "", said, "", clean.message
            for split in [one for one in splits if one in kind.splits]:
                with tempfile.TemporaryDirectory() as folder:
                    case, part = applied(kind, task, seed, Path(folder) / "data", data, split)
                    answer = validated(Path(folder).resolve(), task)
                    result = outcome(answer, known[task], case, part)
                    yield kind.group, kind.name, task, case.split, result, measured(case, part), answer.message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of clean rows whose columns are the task's fields")
    parser.add_argument("--task", nargs="*", default=[], choices=MAKERS, help="default: the first of each kind")
    parser.add_argument("--groups", nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--splits", nargs="*", default=["test", "train"], choices=["test", "train"])
    parser.add_argument("--write", type=Path, help="write a corrupted data folder for each kind, and validate nothing")
    given = parser.parse_args()
    kinds = [
        kind
        for kind in KINDS.values()
        if (not given.groups or kind.group in given.groups) and (not given.kinds or kind.name in given.kinds)
    ]
    if given.write:
        for kind in kinds:
            for task in [one for one in kind.tasks if one in given.task] if given.task else kind.tasks[:1]:
                folder = given.write / f"{kind.name.replace('/', '-')}, {task}"
                case, part = applied(kind, task, given.seed, folder, given.data)
                print(f"{folder}: {case.split}/{PART}, bad lines: {', '.join(map(str, part.lines)) or 'none'}")
        return
    counts: dict[str, Counter[str]] = {}
    print("| group | kind | task | split | outcome | measures | first message |\n|---|---|---|---|---|---|---|")
    lines = compare(kinds, given.task, given.seed, given.data, given.splits)
    for group, name, task, split, result, measures, message in lines:
        short = " ".join(message.split()).replace("|", "\\|")
        shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in short)[:140]
        print(f"| {group} | {name} | {task} | {split} | {result} | {measures} | {shown} |", flush=True)
        counts.setdefault(f"{group}, {split}" if split else group, Counter())[result] += 1
    results = sorted({result for found in counts.values() for result in found})
    print(f"\n| group | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
    for group, found in counts.items():
        print(f"| {group} | {' | '.join(str(found[result]) for result in results)} |")
    print(f"\n{len(kinds)} kinds, seed {given.seed}")


if __name__ == "__main__":
    main()
