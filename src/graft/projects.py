"""Projects of a clone: what they are called, where they lie, and how a new one begins.

A project is a folder with its own params.yaml, dvc.yaml and data.dvc; the code, the environment and the DVC cache are
the clone's. A new one is a recipe (``pipelines/recipes/<task>.yaml``, a complete params file) with its names filled in,
so that what a user edits is documented where they edit it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, shown
from graft.workspace import Workspace, write_text

FOLDER = "projects"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
IGNORED = "# DVC keeps these outside git\n/data\n/artifacts\n"


@dataclass(frozen=True)
class NewProject:
    """What ``init`` made."""

    workspace: Workspace
    written: tuple[Path, ...]


def found(repository: Path) -> list[Workspace]:
    """Return the projects of a clone: the default one, then those below ``projects/`` by name."""
    files = [repository / "params.yaml", *sorted((repository / FOLDER).glob("*/params.yaml"))]
    return [Workspace(path.parent) for path in files if path.is_file()]


def recipes(repository: Path) -> dict[str, Path]:
    """Return the recipes of a clone by task name."""
    return {path.stem: path for path in sorted((repository / "pipelines" / "recipes").glob("*.yaml"))}


def init(
    start: Path,
    name: str | None,
    *,
    recipe: str = "text_classification",
    base: str | None = None,
    model: str | None = None,
) -> NewProject:
    """Make a project: ``projects/<name>`` of the clone around ``start``, or ``start`` itself where ``name`` is None.

    ``base`` fills in ``base.source``, ``model`` the registered model's name (default: the project's).

    Raises:
        ConfigError: no clone, no such recipe, a bad name, or a file that is there already; nothing is written then.
    """
    repository = _clone(start.resolve())
    root = start.resolve() if name is None else repository / FOLDER / _named(name)
    texts = {
        "params.yaml": _params(repository, root, recipe, base, model or root.name),
        "dvc.yaml": _stages(repository, root, recipe),
        ".gitignore": IGNORED,
    }
    taken = [one for one in texts if (root / one).exists() and not (one == ".gitignore" and name is None)]
    if taken:
        place = root.relative_to(repository).as_posix()
        raise ConfigError(
            f"{place}: {', '.join(taken)} {'is' if len(taken) == 1 else 'are'} there already and stay as they are; "
            f"choose another name, or edit params.yaml"
        )
    missing = [one for one in texts if not (root / one).exists()]
    for one in missing:
        write_text(root / one, texts[one])
    return NewProject(Workspace(root), tuple(root / one for one in missing))


def derived(template: Workspace, root: Path, values: dict[str, Any]) -> dict[str, str]:
    """Return the files of a project at ``root`` that follows ``template``: its params with ``values``, its stages.

    Raises:
        ConfigError: the template's params are wrong.
    """
    from graft.config import read_yaml
    from graft.repository.overrides import checked
    from graft.stages import named_files

    repository = template.repository
    raw = read_yaml(template.params)[0]
    source = str((raw.get("base") or {}).get("source") or "")
    if source.startswith("."):
        values = {**values, "base.source": relative(template.root / source, root)}
    files = named_files(raw)
    moved = {path: Path(os.path.relpath(template.root / name, root)).as_posix() for path, name in files.items()}
    values = {**values, **moved}
    text = checked(template.params.read_text(encoding="utf-8"), values)
    return {
        "params.yaml": _with_modeline(text, repository, root),
        "dvc.yaml": _stages(repository, root, str(raw["task"]["name"]), files=files),
        ".gitignore": IGNORED,
    }


def _with_modeline(text: str, repository: Path, root: Path) -> str:
    """Return a params file with the line by which editors find its schema from ``root``."""
    schema = Path(os.path.relpath(repository / "infra" / "params.schema.json", root)).as_posix()
    return "\n".join([f"# yaml-language-server: $schema={schema}", *_without_modeline(text)]) + "\n"


def relative(folder: Path, root: Path) -> str:
    """Return ``folder`` as ``base.source`` of the project at ``root``."""
    relative = Path(os.path.relpath(folder.resolve(), root)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def _clone(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "infra" / "python").is_file() and (folder / "src" / "graft").is_dir():
            return folder
    raise ConfigError(f"{start}: not in a clone of Graft, which holds the code that a project runs; go there first")


def _named(name: str) -> str:
    if NAME.fullmatch(name):
        return name
    raise ConfigError(f"project name {shown(name)}: must be lower-case letters, digits, - and _, such as reviews-en")


def _params(repository: Path, root: Path, recipe: str, base: str | None, model: str) -> str:
    from graft.config import nearest
    from graft.repository.overrides import checked

    known = recipes(repository)
    if recipe not in known:
        near = nearest(recipe, list(known))
        advice = f"; did you mean {near}?" if near else ""
        raise ConfigError(
            f"recipe {shown(recipe)}: there are {', '.join(known) or 'none'} in pipelines/recipes{advice}"
        )
    text = known[recipe].read_text(encoding="utf-8")
    values = {"registration.name": model, "tracking.experiment": model}
    if base is not None:
        values["base.source"] = _source(base, root)
    return _with_modeline(checked(text, values), repository, root)


def _without_modeline(text: str) -> Iterator[str]:
    yield from (line for line in text.splitlines() if not line.startswith("# yaml-language-server:"))


def _source(base: str, root: Path) -> str:
    """Return ``base`` as params take it: a folder that exists here becomes relative to the project."""
    if base.startswith("package:") or not Path(base).is_dir():
        return base
    if Path(base).is_absolute():
        return base
    return relative(Path(base), root)


def _stages(repository: Path, root: Path, task: str, *, files: Collection[str] = ()) -> str:
    from graft.stages import render

    return render(root, repository, task, files=files)


def next_steps(new: NewProject) -> Iterator[str]:
    """Yield the commands that bring a new project to its first model version, each with what it is for."""
    place = os.path.relpath(new.workspace.root)
    at = "" if place == "." else f" -C {place}"
    yield f"graft{at} import FILE   rows to data/: one file or folder of JSONL, CSV, TSV or Parquet"
    yield f"edit {os.path.relpath(new.workspace.params)}   the base model, the adapter, the columns"
    yield f"graft{at} lock   pins the base's files in sources.lock"
    yield f"graft{at} check   says what would go wrong"
    yield f"graft{at} run   the whole chain, to a model version"
    if not (new.workspace.repository / ".git").exists():
        yield "git init && git add -A && git commit   a run stands on a commit"
