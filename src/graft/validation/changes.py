"""What cleaning changed, for people to judge before they train: counts, and a few examples as a diff.

Examples are the first of each step, cut to where the texts part, so that equal data gives equal bytes and the files
stay small; the full set of changes is the data itself, read with and without the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from graft.cleaning import DUPLICATES, EXAMPLES, Cleaning
from graft.quarantine import in_words
from graft.workspace import write_json, write_text

_NORMAL_FORMS = ("nfc", "nfkc")


def write_changes(folder: Path, splits: Mapping[str, Cleaning]) -> None:
    """Write ``cleaning.json`` and ``cleaning.diff`` about the cleaned ``splits``; nothing where no step is set."""
    if steps := [_entry(step, splits) for step in next(iter(splits.values())).counts]:
        write_json(folder / "cleaning.json", {"steps": steps})
        write_text(folder / "cleaning.diff", "".join(f"{line}\n" for step in steps for line in _diff(step)))


def described(splits: Mapping[str, Cleaning]) -> Iterator[str]:
    """Yield one line per step: how many rows it changed or dropped, in all and by split."""
    for step in next(iter(splits.values())).counts:
        yield _title(_entry(step, splits))


def _entry(step: str, splits: Mapping[str, Cleaning]) -> dict[str, Any]:
    examples = chain.from_iterable(cleaning.examples[step] for cleaning in splits.values())
    return {
        "step": step,
        "rows": {split: cleaning.counts[step] for split, cleaning in splits.items()},
        "examples": [asdict(one) for one in list(examples)[:EXAMPLES]],
    }


def _title(entry: Mapping[str, Any]) -> str:
    done = "dropped" if entry["step"] == DUPLICATES else "changed"
    by_split = ", ".join(f"{split} {rows}" for split, rows in entry["rows"].items())
    return f"{entry['step']}: {in_words(sum(entry['rows'].values()))} {done} ({by_split})"


def _diff(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about one step. Texts are quoted, so that a line break or a control character is seen."""
    yield f"# {_title(entry)}"
    # Two normal forms of a text look the same; only their code points differ.
    quoted = ascii if entry["step"] in _NORMAL_FORMS else repr
    for one in entry["examples"]:
        name = f"{one['place']} {one['field']}"
        yield f"--- {name}"
        yield "+++ /dev/null" if one["after"] is None else f"+++ {name} ({entry['step']})"
        yield f"-{quoted(one['before'])}"
        if one["after"] is not None:
            yield f"+{quoted(one['after'])}"
