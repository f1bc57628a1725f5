"""An adapter for each group of users: a generated project per group, all on the same base and parameters.

``graft run --each 'data/groups/*'`` makes ``projects/<group>`` from the current project (its params and its pinned
base) and the group's rows, and runs the whole chain there. A generated project is like any other, so whatever works for
one (status, predict, promote, reproduce) works for a group; it follows its template at every call. What a group's rows
were is known by a digest, so that a second call imports and runs only what is new. They are trained one by one.
"""

from __future__ import annotations

import glob
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import ConfigError, DataError, shown
from graft.identity import digest_bytes, digest_json
from graft.projects import FOLDER, derived, relative
from graft.reading import FORMATS, is_readable, stem_of
from graft.workspace import Workspace, read_json, write_json, write_text

if TYPE_CHECKING:
    from graft.params import Params

MARK = "group.json"
"""In a generated project: which template it follows, and the digest of the rows it was given."""


@dataclass(frozen=True)
class Group:
    """One group: where its rows are, and its project."""

    name: str
    source: Path
    workspace: Workspace


def found(template: Workspace, pattern: str, start: Path) -> list[Group]:
    """Return the groups that ``pattern`` matches (relative to ``start``), by name; hidden files are left out.

    Raises:
        ConfigError: nothing matches, or two groups would have one name.
    """
    # Signs of a pattern in the folder's own name are none; a pattern may be absolute.
    paths = sorted(start / one for one in glob.glob(pattern, root_dir=start))  # noqa: PTH207
    chosen = [path for path in paths if path.is_dir() or is_readable(path)]
    if not chosen:
        raise ConfigError(
            f"--each {shown(pattern)}: matches no folder and no {FORMATS} file; quote the pattern, so that "
            f"the shell leaves it alone"
        )
    names = [_name(path) for path in chosen]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise ConfigError(f"--each {shown(pattern)}: more than one group is called {', '.join(double)}; rename them")
    folder = template.repository / FOLDER
    return [
        Group(name, path, Workspace(folder / f"{_prefix(template)}{name}"))
        for name, path in zip(names, chosen, strict=True)
    ]


def _name(path: Path) -> str:
    """Return a project's name for a file or folder: ``Shop DE.csv`` -> ``shop-de``.

    What such a name cannot hold (``Café.csv`` -> ``cafe-1f2e3d4c``) is told apart by a digest of the whole name.
    """
    text = unicodedata.normalize("NFC", path.name if path.is_dir() else stem_of(path))
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-_")
    if name and text.isascii():
        return name
    return f"{name or 'group'}-{digest_bytes(os.fsencode(text))[:8]}"


def _prefix(template: Workspace) -> str:
    """Return what the projects of a template's groups begin with: nothing for the default project."""
    return "" if template.name == "." else f"{template.root.name}-"


def prepare(template: Workspace, config: Params, group: Group) -> None:
    """Make or refresh the group's project: params and base as the template's, and the rows of the group.

    Raises:
        ConfigError: a project of that name is there that was not generated from this template.
        DataError: rows that cannot be read; the project keeps the data it had.
    """
    place, mark = group.workspace, group.workspace.root / MARK
    known = read_json(mark) if mark.is_file() else {}
    if known.get("template") != template.name and place.root.exists() and any(place.root.iterdir()):
        raise ConfigError(
            f"{place.name}: is there already and was not made from {_called(template)}; rename the group or the project"
        )
    write_json(mark, {**known, "format": 1, "template": template.name})
    texts = derived(template, place.root, {"registration.name": f"{config.registration.name}-{group.name}"})
    texts["sources.lock"] = _pinned(template, place)
    for name, text in texts.items():
        path = place.root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    _import(place, config, group, mark)


def _called(template: Workspace) -> str:
    return "the default project" if template.name == "." else template.name


def _pinned(template: Workspace, place: Workspace) -> str:
    """Return the template's ``sources.lock`` for another folder: the same bytes of the base, the group's champion."""
    pinned = read_json(template.sources_lock)
    pinned["champion"] = read_json(place.sources_lock).get("champion") if place.sources_lock.is_file() else None
    base = pinned.get("base") or {}
    if str(base.get("source", "")).startswith("."):
        base["source"] = relative(template.root / base["source"], place.root)
    return json.dumps(pinned, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _import(place: Workspace, config: Params, group: Group, mark: Path) -> None:
    """Import the group's rows where they, or how they are read, are new, and record them in data.dvc."""
    from graft import tasks
    from graft.importing import Choices, digest_source, import_data
    from graft.repository import Repository

    fields = tasks.get(config.task.name).fields_of(config.task)
    try:
        rows = digest_source(group.source, config.data, fields)
    except OSError as error:
        raise DataError(f"{group.source}: cannot be read ({error.strerror}); mend or remove it") from None
    missing = config.validation.severity.missing
    how = {
        "data": config.data.model_dump(mode="json"),
        "missing": missing,
        "fields": [[one.name, one.type] for one in fields],
    }
    digest = digest_json({"rows": rows, **how})
    known = read_json(mark)
    if known.get("rows") == digest and place.data_dvc.is_file():
        return
    found = import_data(
        group.source,
        place,
        data=config.data,
        fields=fields,
        choices=Choices(takes_missing=missing == "quarantine"),
        replace=True,
    )
    Repository(place).add_data(found.provenance)
    write_json(mark, {**known, "rows": digest})


# -- the table


@dataclass(frozen=True)
class Outcome:
    """What became of a group; ``error`` is empty where its version is published."""

    group: str
    exit_code: int = 0
    error: str = ""
    new: bool = True
    """Whether anything had to run."""
    rows: int | None = None
    metric: str = ""
    base: str = ""
    version: str = ""


def outcome(group: Group, config: Params, *, new: bool) -> Outcome:
    """Return the outcome of a group whose chain went through."""
    from graft import tasks
    from graft.evaluation.overview import format_cell, summary
    from graft.publication.receipts import published

    place = group.workspace
    headline = tasks.get(config.task.name).headline
    scores = {row.system: row.metrics[headline] for row in summary(read_json(place.evaluation / "metrics.json"))}
    name = f"{config.registration.name}-{group.name}"
    receipt = published(place, registration_name=name, tracking=config.tracking)
    splits = read_json(place.tokens / "manifest.json")["splits"]
    return Outcome(
        group.name,
        new=new,
        rows=sum(split["rows"] for split in splits.values()),
        metric=format_cell(*scores["adapter"]),
        base=format_cell(*scores["base"]),
        version=f"{name} version {receipt.version}" if receipt else "not published",
    )


def failed(group: Group, error: str, exit_code: int) -> Outcome:
    """Return the outcome of a group that failed; of a long error the first two lines say what and where."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()] or ["it ended without a message"]
    return Outcome(group.name, exit_code=exit_code, error=" ".join(lines[:2]))


def table(outcomes: list[Outcome], headline: str) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table that ends a run over groups."""
    return ["group", "rows", headline, f"base's {headline}", "version or error"], [
        list(_cells(one)) for one in outcomes
    ]


def _cells(one: Outcome) -> Iterator[str]:
    yield one.group
    yield "" if one.rows is None else str(one.rows)
    yield one.metric
    yield one.base
    yield (
        f"failed ({one.exit_code}): {one.error}"
        if one.exit_code
        else f"{one.version}{'' if one.new else ' (as it was)'}"
    )


def exit_code(outcomes: list[Outcome]) -> int:
    """Return 0 where all went through, the failures' own code where they agree, else 2."""
    codes = {one.exit_code for one in outcomes} - {0}
    return 0 if not codes else codes.pop() if len(codes) == 1 else DataError.exit_code
