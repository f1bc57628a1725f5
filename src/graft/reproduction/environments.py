"""Whether the Python here is the one that a commit's lock file pins, and one that is, where it is not.

What counts is what the code runs on: the packages that ``pyproject.toml`` of that commit asks for and, transitively,
what those ask for. Each is compared with its pin in ``requirements.lock``. A build of the same version (torch for CPU
or CUDA) counts as that version: which one it was stands in the identity as the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.identity import LOCK_FILE, digest_file

PYTHON_VARIABLE = "GRAFT_PYTHON"
INSTALLED = (
    "import importlib.metadata as m, json, sys; json.dump({'python': '%d.%d.%d' % sys.version_info[:3], 'packages': "
    "[[d.metadata['Name'], d.version, d.requires or []] for d in m.distributions()]}, sys.stdout)"
)
"""Prints what an interpreter has: its version, and each package with what it asks for."""
Installed = Mapping[str, tuple[str, list[str]]]


@dataclass(frozen=True)
class Environment:
    """The interpreter that rebuilds, against the lock file of the commit."""

    python: str
    """The interpreter."""
    version: str
    lock: str | None
    """The digest of the commit's lock file; None: the commit has none, so nothing is pinned."""
    differences: tuple[tuple[str, str, str], ...] = ()
    """Package, version that is pinned, version that is here (``none``: not installed)."""
    built: bool = False
    """Whether it was made from the lock file for this rebuild."""

    def as_json(self) -> dict[str, Any]:
        """Return it for the receipt; the interpreter's place is of this machine alone."""
        return {
            "python": self.version,
            "lock": self.lock,
            "built": self.built,
            "differences": [list(one) for one in self.differences],
        }


def environment_of_clone(
    root: Path,
    *,
    recorded: Mapping[str, Any] | None,
    build: bool,
    whatever: bool,
    on_line: Callable[[str], None],
) -> Environment:
    """Return the environment that will run the stages of the clone at ``root``.

    Args:
        root: The clone at the commit.
        recorded: The version's identity.
        build: Make the environment that the lock file pins, in the clone.
        whatever: Take the one that is here although it differs.
        on_line: Takes the lines that building prints.

    Raises:
        IntegrityError: the commit's lock file is not the one that the version was trained with.
        ResourceMissing: another environment than this one is needed, or it cannot be built.
    """
    lock = digest_file(root / LOCK_FILE) if (root / LOCK_FILE).is_file() else None
    known = recorded.get("environment") if recorded else None
    if known and known != lock:
        raise IntegrityError(
            f"{LOCK_FILE}: the version was trained with sha256 {known}, its commit holds {lock or 'none'}; the commit "
            f"is not the one that it was made from"
        )
    python = _built(root, recorded, on_line) if build else os.environ.get(PYTHON_VARIABLE) or sys.executable
    version, installed = _installed(python)
    found = tuple(differences(root, version, installed, recorded)) if lock else ()
    if found and not whatever and not build:
        lines = [f"{name}: the version's lock file pins {pinned}, here is {here}" for name, pinned, here in found]
        raise ResourceMissing.from_problems(
            f"the version needs another environment than {python}; `--venv` builds it from that commit's {LOCK_FILE} "
            "(some minutes), `--any-environment` takes this one",
            lines,
        )
    return Environment(python, version, lock, found, build)


def _built(root: Path, recorded: Mapping[str, Any] | None, on_line: Callable[[str], None]) -> str:
    """Make the environment that the clone's lock file pins, by the clone's own script; return its interpreter."""
    script, place = root / "infra" / "install", root / ".venv"
    if not (script.is_file() and (root / LOCK_FILE).is_file()):
        raise ResourceMissing(
            f"--venv: the commit has no {LOCK_FILE} or no infra/install, so it does not say how its environment is "
            "made; leave the option out"
        )
    base = (recorded or {}).get("base") or {}
    extras = ["demo", *(["quantized"] if base.get("quantization") else [])]
    # What points at this checkout's code would be found before the clone's.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = ["sh", str(script), sys.executable, str(place), ",".join(extras)]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        last = ""
        for line in child.stdout:
            last = line.strip() or last
            on_line(line.rstrip("\n"))
    if child.returncode != 0:
        raise ResourceMissing(f"--venv: infra/install of the commit failed (exit code {child.returncode}): {last}")
    return str(place / "bin" / "python")


def _installed(python: str) -> tuple[str, Installed]:
    """Return the version of an interpreter, and its packages by normal name: version, what each asks for."""
    from packaging.utils import canonicalize_name

    try:
        done = subprocess.run([python, "-c", INSTALLED], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise ResourceMissing(f"{python}: cannot say what is installed ({error}); set {PYTHON_VARIABLE}") from None
    # The first of two of one name is the one that an import finds.
    packages: dict[str, tuple[str, list[str]]] = {}
    for name, version, requires in found["packages"]:
        if name:
            packages.setdefault(canonicalize_name(name), (version, requires))
    return found["python"], packages


def differences(
    root: Path, python: str, installed: Installed, recorded: Mapping[str, Any] | None = None
) -> Iterable[tuple[str, str, str]]:
    """Yield each package that is not installed as the clone's lock file pins it, and Python where it is another.

    Args:
        root: Holds pyproject.toml and the lock file.
        python: The interpreter's version, ``3.11.9``.
        installed: What it has.
        recorded: The version's identity, which says what Python it was trained with.
    """
    from packaging.version import InvalidVersion, Version

    trained = ((recorded or {}).get("versions") or {}).get("python")
    if trained and not python.startswith(f"{trained}."):
        yield "python", str(trained), python
    marks = {"python_version": ".".join(python.split(".")[:2]), "python_full_version": python}
    pins = _pins(root / LOCK_FILE, marks)
    for name in sorted(_needed(root / "pyproject.toml", installed, marks)):
        here = installed[name][0] if name in installed else "none"
        if name not in pins:
            continue
        try:
            same = here != "none" and Version(here).public == Version(pins[name]).public
        except InvalidVersion:
            same = here == pins[name]
        if not same:
            yield name, pins[name], here


def _pins(path: Path, marks: dict[str, str]) -> dict[str, str]:
    """Return ``{package: version}`` of the lines of a lock file that hold for this interpreter."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found = dict[str, str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition(" #")[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            one = Requirement(text)
        except InvalidRequirement:
            raise ConfigError(f"{path.name}: not a pinned package: {text[:80]}") from None
        exact = [each.version for each in one.specifier if each.operator == "=="]
        if exact and (one.marker is None or one.marker.evaluate(marks)):
            found[canonicalize_name(one.name)] = exact[0]
    return found


def _needed(project: Path, installed: Installed, marks: dict[str, str]) -> set[str]:
    """Return the packages that a project asks for, and what those ask for, as they are installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    asked = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"] if project.is_file() else []
    todo, seen = [Requirement(one) for one in asked], set[tuple[str, str]]()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        for extra in ("", *sorted(one.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in installed.get(name, ("", []))[1]:
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({**marks, "extra": extra}):
                    todo.append(inner)
    return {name for name, _ in seen}
