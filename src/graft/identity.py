"""Digests, the identity that every adapter carries, and the run key.

An identity answers "what exactly is this adapter, and what may it be put on?". It is written by ``train`` and checked
wherever an adapter meets a base. It contains no path, no time and no host name: the same inputs give the same bytes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LOCK_FILE = "requirements.lock"
DISPATCHERS = ("graft.params", "graft.stages")
PLUGINS = "graft.adapters"
"""The package whose files are found by their place: whoever imports it may run any of them."""


def digest_bytes(content: bytes) -> str:
    """Return the sha256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(text: str) -> int:
    """Return 64 bits of BLAKE2b of a text: to compare rows by, where a collision costs little."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def digest_json(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return digest_bytes(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    )


def digest_files(root: Path, files: Iterable[Path] | None = None) -> dict[str, str]:
    """Return ``{path below root: sha256}`` of ``files`` (default: every file below ``root``, hidden ones left out)."""
    chosen = files if files is not None else (path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path for path in chosen}
    return {
        name: digest_file(found[name])
        for name in sorted(found)
        if not any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
    }


def digest_folder(root: Path) -> str:
    """Return one sha256 over names and contents of all files below ``root``."""
    return digest_json(digest_files(root))


def run_key(identity: Mapping[str, Any]) -> str:
    """Return the key of a training: 16 hexadecimal digits over what it is made of.

    Data, params, base, code and lock file decide it; the device does not, so one training has one MLflow run and one
    version wherever it ran.
    """
    made_of = {name: identity[name] for name in ("data", "params", "base", "code", "environment", "task")}
    return digest_json(made_of)[:16]


def code_of(module: str, source: Path) -> list[Path]:
    """Return the files of ``graft`` that ``module`` imports, transitively, and itself: what a stage depends on.

    Imports inside functions count, and so do the other files of a package (report templates). ``source`` is the folder
    that holds the package (``src``). Task files are left out, but not what they import: a stage depends on the one
    task that params name, and dvc.yaml says so by ``${task.name}``. Of adapter methods all files count: they are
    found by their place, and a method's name is not that of its file. Modules that only dispatch (``params``,
    ``stages``) are left out too: they import everything and decide nothing.
    """
    todo, found = [module], dict[str, Path]()
    while todo:
        name = todo.pop()
        path = _file_of(name, source)
        if path is None or name in found or (name.startswith("graft.tasks.") and name.count(".") == 2):
            continue
        if name in DISPATCHERS:
            continue
        found[name] = path
        todo.extend(_imports_of(path, source))
        if name == "graft.tasks":
            todo.extend(one for file in path.parent.glob("*.py") for one in _imports_of(file, source))
        if name == PLUGINS:
            todo.extend(_modules_of(path.parent, source))
        if "." in name:
            todo.append(name.rpartition(".")[0])
    templates = (one for path in found.values() if path.name == "__init__.py" for one in _data_files(path.parent))
    return sorted({*found.values(), *templates})


def _modules_of(folder: Path, source: Path) -> Iterator[str]:
    """Yield the names of all modules of a package, also those of its packages."""
    for path in folder.rglob("*.py"):
        yield ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def _data_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a package that are no Python modules, also those in its plain folders."""
    for path in folder.iterdir():
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_dir() and not (path / "__init__.py").exists():
            yield from _data_files(path)
        elif path.is_file() and path.suffix not in (".py", ".typed"):
            yield path


def _file_of(name: str, source: Path) -> Path | None:
    path = source.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def _imports_of(path: Path, source: Path) -> tuple[str, ...]:
    return _parsed_imports(path, source, path.stat().st_mtime_ns)


@functools.cache
def _parsed_imports(path: Path, source: Path, _written: int) -> tuple[str, ...]:
    """Return the modules of ``graft`` that a file imports. Five stages import the same files: each is parsed once."""
    found = list[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "graft"]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "graft":
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [node.module, *(one for one in inner if _file_of(one, source))]
    return tuple(found)


def code_environment() -> str | None:
    """Return the sha256 of the lock file beside the running code; None outside a checkout."""
    path = Path(__file__).parents[2] / LOCK_FILE
    return digest_file(path) if path.is_file() else None


@functools.cache
def running_code() -> str:
    """Return one sha256 over all that runs: every file of the package, the lock file and Python's version.

    It is coarser than :func:`code_digest` and costs no parsing: for what is remade without harm.
    """
    made_of = (digest_folder(Path(__file__).parent), code_environment(), platform.python_version())
    return digest_json(list(made_of))


def code_digest(module: str, task: str) -> str:
    """Return one sha256 over the code that ``module`` runs for ``task``: the code digest of an identity."""
    source = Path(__file__).parent.parent
    files = [*code_of(module, source), source / "graft" / "tasks" / f"{task}.py"]
    return digest_json(digest_files(source, files))


def mixed_bits(values: np.ndarray, kind: int) -> np.ndarray:
    """Return uint64 values mixed over 64 bits, differently for each kind (the finalizer of SplitMix64)."""
    import numpy as np

    values = values + np.uint64(kind * 0x9E3779B97F4A7C15 % 2**64)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = values ^ values >> np.uint64(31)
    return result
