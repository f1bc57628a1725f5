"""The data contract as files of a project: proposed from data, kept in params.yaml or in a file, compiled to a suite.

The compiled suite is stored beside the project's code in Great Expectations' own format: reviewers see what a change of
the contract means, and other tools can read it. It follows from the contract, so no stage reads it; ``graft check``
says when it is not what the contract compiles to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import params, stages, tasks
from graft.config import read_yaml
from graft.errors import ConfigError, shown
from graft.repository.overrides import checked, overridden
from graft.repository.status import flat
from graft.validation.section import ValidationConfig, contract_file
from graft.workspace import Workspace, read_json, write_json, write_text

if TYPE_CHECKING:
    from graft.tasks import TaskConfig

FOLDER = "contracts"


def write(workspace: Workspace, proposed: Mapping[str, Any], to: Path | None = None) -> list[Path]:
    """Put a proposed section ``validation`` where the project's contract is; return the files that were written.

    That is the file that params.yaml names, else params.yaml itself. With ``to`` the contract moves to that file, and
    params.yaml and dvc.yaml name it. Comments stay, and so do expectations of columns that ``proposed`` says nothing
    of.

    Raises:
        ConfigError: the result would be no valid contract; nothing is written then.
    """
    present = read_yaml(workspace.params)[0].get("validation") or {}
    name = _named(workspace, to) if to else present.get("contract")
    if name is None:
        text = overridden(_text(workspace.params), _dotted(_kept(proposed, present), "validation."))
        write_text(workspace.params, checked(text, {}))
        return [workspace.params]
    file = workspace.root / name if to else contract_file(name, workspace.root)
    text = _text(file) if file.is_file() else ""
    if to:  # the file becomes the whole contract
        text = overridden(text, _dotted({key: value for key, value in present.items() if key != "contract"}))
    under = read_yaml(file)[0] if file.is_file() else {}
    text = overridden(text, _dotted(_kept(proposed, {**under, **(present if to else {})})))
    _refuse_wrong(text, file.name)
    written = {file: text}
    if to:
        written[workspace.params] = checked(_text(workspace.params), {"validation": {"contract": name}})
    for path, content in written.items():
        write_text(path, content)
    if to:
        described = workspace.root / "dvc.yaml"
        write_text(described, stages.render(workspace.root, workspace.repository))
        return [*written, described]
    return [*written]


def _named(workspace: Workspace, to: Path) -> str:
    """Return ``to`` as params.yaml names it."""
    if not to.resolve().is_relative_to(workspace.repository.resolve()):
        raise ConfigError(f"--to {shown(str(to))}: must lie inside the repository, so that a run's commit holds it")
    if to.is_dir() or to.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--to {shown(str(to))}: must be a YAML file, such as {FOLDER}/{workspace.root.name}.yaml")
    return Path(os.path.relpath(to.resolve(), workspace.root)).as_posix()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _dotted(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{path}": value for path, value in flat(section).items()}


def _kept(proposed: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``proposed`` with the present expectations that it does not replace."""
    replaced = {_about(one) for one in proposed.get("expectations", ())}
    others = [one for one in present.get("expectations") or () if _about(one) not in replaced]
    return {**proposed, "expectations": [*others, *proposed.get("expectations", ())]}


def _about(expectation: Mapping[str, Any]) -> tuple[Any, Any]:
    return expectation.get("type"), (expectation.get("kwargs") or {}).get("column")


def _refuse_wrong(text: str, name: str) -> None:
    import tempfile

    from graft.config import validate

    with tempfile.TemporaryDirectory(prefix="graft-contract-") as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        raw, lines = read_yaml(path)
    validate(ValidationConfig, raw, source=name, lines=lines)


def shadowed(workspace: Workspace, proposed: Mapping[str, Any]) -> Sequence[str]:
    """Return the proposed keys that have no effect in the contract file, since params.yaml has them beside its name."""
    present = read_yaml(workspace.params)[0].get("validation") or {}
    return sorted({*_dotted(proposed)} & {*_dotted(present)}) if present.get("contract") else ()


# -- the compiled suite


def suite_file(workspace: Workspace, task: str) -> Path:
    """Return where the compiled suite of a project is stored."""
    return workspace.root / FOLDER / f"{task}.suite.json"


def write_suite(workspace: Workspace) -> Path:
    """Compile the contract and store the suite (imports Great Expectations); return where.

    Raises:
        ConfigError: params.yaml or the contract is wrong.
    """
    loaded = params.load(workspace.params)
    path = suite_file(workspace, loaded.task.name)
    write_json(path, _compiled(loaded.task, loaded.validation))
    return path


def is_stored(workspace: Workspace, task: TaskConfig, validation: ValidationConfig) -> bool:
    """Return whether the stored suite is what the contract compiles to.

    Raises:
        ConfigError: the file is not JSON, or an expectation of the project's own is wrong.
    """
    stored: dict[str, Any] = read_json(suite_file(workspace, task.name))
    return stored == _compiled(task, validation)


def _compiled(task: TaskConfig, validation: ValidationConfig) -> dict[str, Any]:
    from graft.validation.suite import compiled

    return compiled(tasks.get(task.name).fields_of(task), validation, task.name)
