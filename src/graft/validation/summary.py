"""What validate found out, on one page of Markdown: for the Prefect UI, from the verdict or the report of a refusal.

Both are read as they lie on disk, so a run that had nothing to do, or that took its result from a cache, has the same
page. Values are cut to their start, as in the Data Docs: what is shown here is kept in a database for long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.markdown import plain
from graft.validation.pages import masked, masked_message, rows_kept
from graft.validation.worst import RANKS
from graft.workspace import SPLITS, Workspace, read_json

LISTED = 15
"""How many problems, warnings and failed checks the page lists."""


def passed(workspace: Workspace, link: str = "") -> str:
    """Return the page of the last verdict; ``link``: where a browser finds the Data Docs.

    Raises:
        ConfigError: validate has not run.
    """
    found = read_json(workspace.validation / "verdict.json")
    aside = Counter(str(place).split("/")[1] for place in found.get("quarantined", ()))
    warnings = found.get("warnings", [])
    title = "# Data: passed" + (f", with {_count(len(warnings), 'warning')}" if warnings else "")
    docs = workspace.data_docs.relative_to(workspace.root) / "index.html"
    splits = found.get("splits", {})
    rows = [
        [split, splits[split]["rows"], len(splits[split]["parts"]), aside[split]] for split in SPLITS if split in splits
    ]
    return _page(title, found, docs, link, rows)


def refused(report: Path, place: str, link: str = "") -> str:
    """Return the page of a refusal, whose report is in the folder ``report``; ``place`` is how people call that.

    Raises:
        ConfigError: there is no such report.
    """
    found = read_json(report / "report.json")
    total = found.get("total", len(found["problems"]))
    docs = Path(place) / "data_docs" / "index.html"
    page = _page(f"# Data: refused, {_count(total, 'problem')}", found, docs, link, [])
    listed = found["problems"][:LISTED]
    sections = [page, _heading("Problems", len(listed), total)]
    if alone := [one["message"] for one in listed if "place" not in one]:
        sections.append(_bullets(alone))
    if placed := [one for one in listed if "place" in one]:
        cells = ([one["place"], one["field"], one["expected"], masked(one["found"])] for one in placed)
        sections.append(_table(["row", "field", "expected", "found"], cells))
    return "\n\n".join(sections)


def _page(title: str, found: Mapping[str, Any], docs: Path, link: str, splits: Sequence[Sequence[Any]]) -> str:
    checks = found.get("checks", [])
    failed = [one for one in checks if one["failed"]]
    failed.sort(key=lambda one: (RANKS.index(one["severity"]), -one["failed"]))  # stable
    sections = [title]
    if splits:
        sections.append(_table(["split", "rows kept", "parts", "in quarantine"], splits))
        sections.append(f"{rows_kept(sum(row[1] for row in splits), sum(row[3] for row in splits))}.")
    if checks:
        cut = f" The first {LISTED} of {len(failed)}, the most severe first:" if len(failed) > LISTED else ""
        sections.append(f"{_count(len(checks), 'check')} of each row, {len(failed)} with rows that fail.{cut}")
    if failed:
        cells = ([one["expectation"], one["column"], one["severity"], one["failed"]] for one in failed[:LISTED])
        sections.append(_table(["check", "of", "what follows", "rows"], cells))
    if warnings := found.get("warnings"):
        listed = warnings[:LISTED]
        sections += [_heading("Warnings", len(listed), len(warnings)), _bullets(listed)]
    where = f"[Data Docs]({link})" if link else f"`{docs.as_posix()}`"
    return "\n\n".join([*sections, f"Every expectation with its result: {where}"])


def _heading(what: str, listed: int, total: int) -> str:
    return f"## {what}" if listed == total else f"## The first {listed} {what.lower()} of {total:,}"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {plain(masked_message(one))}" for one in sentences)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return "\n".join(_lines(columns, rows))


def _lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(plain(cell) for cell in row)} |"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
