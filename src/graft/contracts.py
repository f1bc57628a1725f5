"""The data contract as files of a project: proposed from data, kept in params.yaml or in a file, compiled to a suite.

The compiled suite is stored beside the project's code in Great Expectations' own format: reviewers see what a change of
the contract means, and other tools can read it. It follows from the contract, so no stage reads it; ``graft check``
says when it is not what the contract compiles to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import params, stages, tasks
from graft.config import read_yaml
from graft.errors import ConfigError, shown
from graft.repository.overrides import alone, checked, overridden
from graft.repository.status import flat
from graft.validation.section import ValidationConfig, contract_file, layered
from graft.workspace import Workspace, read_json, write_json, write_text

if TYPE_CHECKING:
    from graft.privacy.section import PrivacyConfig
    from graft.tasks import TaskConfig

FOLDER = "contracts"


@dataclass(frozen=True)
class Standing:
    """The contract that a project has, by where its values stand."""

    own: Mapping[str, Any]
    """Of params.yaml, without the name of a contract file."""
    file: Path | None
    """The contract file that params.yaml names."""
    named: Mapping[str, Any]
    """Of that file."""

    @property
    def section(self) -> dict[str, Any]:
        """The section as it holds: params.yaml's values over the file's."""
        return layered(self.named, self.own)


@dataclass(frozen=True)
class Change:
    """What a proposed section means for the contract that is there: nothing that stands there changes."""

    added: dict[str, Any]
    """The proposed values that the contract says nothing of, as a section."""
    kept: dict[str, tuple[Any, Any]]
    """By path (see :func:`paths`): the value that stands, and the one that was proposed."""


def standing(workspace: Workspace, to: Path | None = None) -> Standing:
    """Return the contract that a project has; ``to`` is a file that need not be there though params.yaml names it.

    Raises:
        ConfigError: a file is not YAML, or params.yaml names one that is not there.
    """
    own = dict(read_yaml(workspace.params)[0].get("validation") or {})
    name = own.pop("contract", None)
    if name and to and _named(workspace, to) == name and not to.exists():
        return Standing(own, None, {})
    file = contract_file(name, workspace.root) if name else None
    return Standing(own, file, read_yaml(file)[0] if file else {})


def paths(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section by dotted path; an expectation's is ``expectations.TYPE.COLUMN``."""
    found = flat({key: value for key, value in section.items() if key != "expectations"})
    return found | {_about(one): one for one in section.get("expectations") or ()}


def _keys(path: str) -> tuple[str, ...]:
    """Return the keys that a path goes along; the name of a column has dots of its own."""
    above, _, name = path.partition(".")
    return (above, name) if above == "columns" and name else tuple(path.split("."))


def _about(expectation: Mapping[str, Any]) -> str:
    column = (expectation.get("kwargs") or {}).get("column")
    return f"expectations.{expectation.get('type')}.{column}"


def change(workspace: Workspace, proposed: Mapping[str, Any], to: Path | None = None) -> Change:
    """Return what of a proposed section the project's contract lacks; ``to`` is the file that it moves to.

    Raises:
        ConfigError: a file is not YAML, ``to`` cannot hold a contract, or params.yaml names a file that is not there.
    """
    there = standing(workspace, to)
    present = paths(_together(there.section, _values(workspace.root / _named(workspace, to))) if to else there.section)
    found = paths(proposed)
    added: dict[str, Any] = {}
    for path, value in found.items():
        if path in present:
            continue
        if path.startswith("expectations."):
            added.setdefault("expectations", []).append(value)
        else:
            *sections, last = _keys(path)
            here = added
            for name in sections:
                here = here.setdefault(name, {})
            here[last] = value
    return Change(added, {path: (present[path], value) for path, value in found.items() if path in present})


def write(workspace: Workspace, added: Mapping[str, Any], to: Path | None = None) -> list[Path]:
    """Add values to the project's contract, where it is; return the files that were written.

    That is the file that params.yaml names, else params.yaml itself. With ``to`` the contract moves to that file, and
    params.yaml and dvc.yaml name it; where the file has another value already, both stay: the project's in params.yaml,
    over the file's. Comments stay.

    Args:
        workspace: the project.
        added: what :func:`change` says is missing there.
        to: a YAML file, relative to the current folder.

    Raises:
        ConfigError: the result would be no valid contract; nothing is written then.
    """
    there = standing(workspace, to)
    if to:
        return _moved(workspace, there, added, to)
    in_file, in_params = (dict(added), dict[str, Any]()) if there.file else ({}, dict(added))
    if "expectations" in in_file and "expectations" in there.own:  # a list of params.yaml stands over the file's
        in_params["expectations"] = in_file.pop("expectations")
    written = {}
    if in_file and there.file:
        written[there.file] = overridden(_text(there.file), _by_keys(_extended(there.named, in_file)))
        _refuse_wrong(written[there.file], there.file.name)
    if in_params:
        text = overridden(_text(workspace.params), _by_keys(_extended(there.own, in_params), "validation"))
        written[workspace.params] = checked(text, {})
    for path, content in written.items():
        write_text(path, content)
    return [*written]


def _moved(workspace: Workspace, there: Standing, added: Mapping[str, Any], to: Path) -> list[Path]:
    name = _named(workspace, to)
    file = workspace.root / name
    under = _values(file)
    whole = _together(there.section, under)
    left = differing(workspace, to)
    if file.is_file():
        text, present = _text(file), flat(under)
    elif there.file:
        text, present = _text(there.file), flat(there.named)
    else:
        text, present = alone(_text(workspace.params), "validation", without="contract"), flat(there.own)
    wanted = flat(layered(whole, _extended(whole, added)))
    text = overridden(text, {_keys(path): value for path, value in wanted.items() if present.get(path) != value})
    _refuse_wrong(text, file.name)
    own = {("validation",): {"contract": name}} | {
        ("validation", *_keys(path)): value for path, (value, _) in left.items()
    }
    described = workspace.root / "dvc.yaml"
    written = {file: text, workspace.params: checked(overridden(_text(workspace.params), own), {})}
    for path, content in written.items():
        write_text(path, content)
    write_text(described, stages.render(workspace.root, workspace.repository))
    return [*written, described]


def differing(workspace: Workspace, to: Path) -> dict[str, tuple[Any, Any]]:
    """Return the values that the contract and a file ``to`` both have, and differ in: the contract's, the file's.

    Raises:
        ConfigError: as :func:`change`.
    """
    under = flat(_values(workspace.root / _named(workspace, to)))
    ours = flat({key: value for key, value in standing(workspace, to).section.items() if key != "expectations"})
    return {path: (value, under[path]) for path, value in ours.items() if path in under and under[path] != value}


def _together(section: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds once a section moved there: its own values, and those that it lacks."""
    others = [*(under.get("expectations") or ())]
    own = [one for one in section.get("expectations") or () if one not in others]
    lists = {"expectations": [*others, *own]} if others or own else {}
    return layered(section, under) | lists


def _extended(present: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``added`` with its expectations after the present ones."""
    own = [*(present.get("expectations") or ()), *added.get("expectations", ())]
    return {**added, **({"expectations": own} if "expectations" in added else {})}


def _values(file: Path) -> dict[str, Any]:
    return read_yaml(file)[0] if file.is_file() else {}


def _named(workspace: Workspace, to: Path) -> str:
    """Return ``to`` as params.yaml names it."""
    if not to.resolve().is_relative_to(workspace.repository.resolve()):
        raise ConfigError(f"--to {shown(str(to))}: must lie inside the repository, so that a run's commit holds it")
    if to.is_dir() or to.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--to {shown(str(to))}: must be a YAML file, such as {FOLDER}/{workspace.root.name}.yaml")
    return Path(os.path.relpath(to.resolve(), workspace.root)).as_posix()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _by_keys(section: Mapping[str, Any], *above: str) -> dict[tuple[str, ...], Any]:
    return {(*above, *_keys(path)): value for path, value in flat(section).items()}


def _refuse_wrong(text: str, name: str) -> None:
    import tempfile

    from graft.config import validate

    with tempfile.TemporaryDirectory(prefix="graft-contract-") as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        raw, lines = read_yaml(path)
    validate(ValidationConfig, raw, source=name, lines=lines)


# -- the compiled suite


def private_arguments(validation: ValidationConfig, privacy: PrivacyConfig) -> Iterator[str]:
    """Yield what is to be said of expectations that have private data in their arguments, without the data.

    A contract is read by people and shown as it is, so no placeholder could stand there: it would mean something else.
    """
    for number, one in enumerate(validation.expectations):
        for name, value in one.kwargs.items():
            texts = [text for each in (value if isinstance(value, list) else [value]) for text in _readings(each)]
            if kinds := ", ".join(dict.fromkeys(found.kind for text in texts for found in privacy.find(text))):
                yield (
                    f"validation.expectations.{number}.kwargs.{name}: private data ({kinds}), which the compiled "
                    f"suite, the Data Docs and MLflow show as it stands; say what form it has instead (data.privacy)"
                )


def _readings(value: Any) -> tuple[str, ...]:
    """Return a text as it is, and what it matches as a regular expression that escapes signs."""
    return (value, re.sub(r"\\[A-Za-z]", " ", value).replace("\\", "")) if isinstance(value, str) else ()


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
