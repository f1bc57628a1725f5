"""Why a stage is out of date: each dep and param with its value in dvc.lock and its value now.

``dvc status`` says "modified"; a reader wants old and new. A file that several stages read is hashed once per call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.repository import Change, ChangeKind

if TYPE_CHECKING:
    from dvc.dependency.param import ParamsDependency
    from dvc.output import Output
    from dvc.stage import PipelineStage

SHORT = 8
Hashes = dict[str, str | None]


def changes_of(stages: Sequence[PipelineStage]) -> dict[str, list[Change]]:
    """Return the changes of each stage by its name."""
    made = {out.fs_path for stage in stages for out in stage.outs}
    hashes: Hashes = {}
    return {str(stage.name): list(_changes(stage, made, hashes)) for stage in stages}


def _changes(stage: PipelineStage, made: set[str], hashes: Hashes) -> Iterator[Change]:
    from dvc.dependency.param import ParamsDependency

    if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
        yield Change("stage", str(stage.name), None, "never run")
        return
    if stage.cmd_changed:
        yield Change("command", str(stage.name), "the recorded command", "another command")
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            yield from _param_changes(dep)
        else:
            yield from _file_change(dep, _kind(dep, made), hashes)
    for out in stage.outs:
        found = list(_file_change(out, "out", hashes))
        yield from found
        if not found and out.changed_cache():
            yield Change("out", out.def_path, _short(out.hash_info.value), "not in the cache")


def _param_changes(dep: ParamsDependency) -> Iterator[Change]:
    old, new = flat(dep.hash_info.value or {}), flat(dep.read_params())
    for path in sorted({**old, **new}):
        before, after = old.get(path), new.get(path)
        if (path in old) != (path in new) or before != after:
            yield Change("param", path, before, after)


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return ``{dotted path: value}`` of the leaves of nested mappings; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{at}.{key}" if at else str(key)
        found.update(flat(value, path) if isinstance(value, Mapping) and value else {path: value})
    return found


def _file_change(item: Output, kind: ChangeKind, hashes: Hashes) -> Iterator[Change]:
    if item.fs_path not in hashes:
        hashes[item.fs_path] = str(item.get_hash().value) if item.exists else None
    old, new = item.hash_info.value if item.hash_info else None, hashes[item.fs_path]
    if old != new or new is None:
        yield Change(kind, item.def_path, _short(old), _short(new))


def _kind(dep: Output, made: set[str]) -> ChangeKind:
    if dep.fs_path in made:
        return "artifact"
    if dep.def_path == "data" or dep.def_path.startswith("data/"):
        return "data"
    if dep.def_path.endswith((".yaml", ".yml")):  # the contract file
        return "param"
    return "lock" if dep.def_path.endswith(".lock") else "code"


def _short(digest: str | None) -> str | None:
    return digest[:SHORT] if digest else None
