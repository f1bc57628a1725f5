"""Where everything lies: each artifact path by name, folders that are replaced as a whole, locks.

Three kinds of place:

- the *project* (``params.yaml``, ``data/``, ``artifacts/``, ``sources.lock``): what DVC tracks;
- the *home*, the clone that the user made: ``.graft/`` (store, logs, locks, receipts) and ``mlflow/``. A run in a
  temporary worktree has the home of the clone that started it (environment variable ``GRAFT_HOME``);
- the *repository root*, where the code and the git folder are.

A stage output is written to a temporary folder beside its place and renamed, so a reader sees the old one or the new
one, and a DVC cache object that is linked there is never written through.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, Locked, shown

HOME_VARIABLE = "GRAFT_HOME"
RESTORES_VARIABLE = "GRAFT_RESTORES"
"""Set for a stage whose starter puts its previous outputs back if it fails."""
PROFILE_VARIABLE = "GRAFT_PROFILE"
"""Set to 1 for a training that is to say where its time goes (``--profile``); no result depends on it."""
TYPED_VARIABLE = "GRAFT_TYPED_PROJECT"
"""The project as the user named it with ``-C``, for the commands that messages suggest."""
_SUGGESTED = re.compile(r"`graft (?!init|projects|-C)(?=[a-z])")
TEMPORARY = ".new"
"""How the name of a folder or file ends that a killed process may leave behind; `graft gc` removes it."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Workspace:
    """The paths of one project. ``root`` is the folder that holds its params.yaml, absolute."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """Return the project at ``start`` (default: the current folder) or in the nearest folder above it.

        Raises:
            ConfigError: no params.yaml there or above.
        """
        begin = (start or Path.cwd()).resolve()
        for folder in (begin, *begin.parents):
            if (folder / "params.yaml").is_file():
                return cls(folder)
        raise ConfigError(f"{begin}: no params.yaml here or above; `graft init` makes a project")

    # -- inputs
    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def sources_lock(self) -> Path:
        return self.root / "sources.lock"

    @property
    def champion_profile(self) -> Path:
        """The data profile of the champion that sources.lock pins, by its digest."""
        return self.root / "champion_profile.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def data_dvc(self) -> Path:
        return self.root / "data.dvc"

    @property
    def dvc_lock(self) -> Path:
        return self.root / "dvc.lock"

    # -- stage outputs
    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def validation(self) -> Path:
        """validate: verdict.json (small and deterministic; later stages depend on it), profile.json, drift.json."""
        return self.artifacts / "validation"

    @property
    def data_docs(self) -> Path:
        """validate: Great Expectations' Data Docs (index.html), for people."""
        return self.artifacts / "data_docs"

    @property
    def quarantine(self) -> Path:
        """validate: summary.json; <split>/<part>.jsonl, the rows that are kept aside and why."""
        return self.artifacts / "quarantine"

    @property
    def tokens(self) -> Path:
        """tokenize: <split>/<part>.arrow and manifest.json."""
        return self.artifacts / "tokens"

    @property
    def adapter(self) -> Path:
        """train: PEFT's layout, identity.json, probe.safetensors; deterministic."""
        return self.artifacts / "adapter"

    @property
    def training(self) -> Path:
        """train: metrics.jsonl, summary.json, hardware.json; travels, nothing depends on it."""
        return self.artifacts / "training"

    @property
    def repeats(self) -> Path:
        """train: seeds.json; seed-<seed>/, the adapter of each further seed; deterministic."""
        return self.artifacts / "repeats"

    @property
    def evaluation(self) -> Path:
        """evaluate: metrics.json, predictions/*.parquet, plots/, report.html, model_card.md."""
        return self.artifacts / "evaluation"

    @property
    def cost(self) -> Path:
        """evaluate: cost.json, what was timed; travels, nothing depends on it."""
        return self.artifacts / "cost"

    @property
    def package(self) -> Path:
        """register: the model folder that is published, and proof.json."""
        return self.artifacts / "package"

    def named(self, name: str, key: str) -> Path:
        """Return where the file is that ``key``, a dotted path of params.yaml, names; it need not be there.

        Raises:
            ConfigError: it is not in the repository, where the commit of a run would hold it.
        """
        path = self.root / name
        if Path(name).is_absolute() or not path.resolve().is_relative_to(self.repository.resolve()):
            raise ConfigError(
                f"{key}: {shown(name)} must be a path inside the repository, relative to params.yaml, so that a run's "
                f"commit holds it"
            )
        return path

    # -- places that belong to the clone, not to the project's tracked files
    @property
    def repository(self) -> Path:
        """The git repository's root: the nearest folder with ``.git``; the project itself where there is none."""
        for folder in (self.root, *self.root.parents):
            if (folder / ".git").exists():
                return folder
        return self.root

    @property
    def home(self) -> Path:
        """The clone that started the run; holds ``.graft`` and ``mlflow`` also when this is a worktree of it."""
        given = os.environ.get(HOME_VARIABLE)
        return Path(given) if given else self.repository

    @property
    def name(self) -> str:
        """The project's path below the repository root, ``"."`` for the default project."""
        return self.root.relative_to(self.repository).as_posix()

    @property
    def dot(self) -> Path:
        """``.graft`` of this project: per project below the home, so that projects never mix."""
        return self.home / ".graft" if self.name == "." else self.home / ".graft" / self.name

    @property
    def store(self) -> Path:
        """Content-keyed intermediates, shared by all projects; deleting it changes no byte of any result."""
        return self.home / ".graft" / "store"

    @property
    def bases(self) -> Path:
        """Base models that the clone keeps, outside git; those from scratch by their digest."""
        return self.home / "bases"

    @property
    def checkpoints(self) -> Path:
        return self.store / "checkpoints"

    @property
    def live(self) -> Path:
        """What a running training appends to, by run key: ``live/<key>/metrics.jsonl``. Tracking tails it."""
        return self.store / "live"

    @property
    def failed(self) -> Path:
        """The report of a stage that refused, by stage name; the stage's previous outputs stay as they were."""
        return self.dot / "failed"

    @property
    def runs(self) -> Path:
        """One folder per pipeline run: run.json, log.txt."""
        return self.dot / "runs"

    @property
    def published(self) -> Path:
        """Receipts of what was published where (json, by registry)."""
        return self.dot / "published.json"


def suggested(text: str) -> str:
    """Return a message with the ``-C`` that the user typed in each `` `graft ...` `` that it suggests."""
    return _SUGGESTED.sub(lambda found: f"{found[0]}{_typed()}", text)


def _typed() -> str:
    project = os.environ.get(TYPED_VARIABLE)
    return f"-C {shlex.quote(project)} " if project else ""


def command(arguments: str) -> str:
    """Return how a user types ``graft ARGUMENTS`` here: by its path where its environment is not the active one."""
    arguments = f"{_typed()}{arguments}"
    own = Path(sys.prefix) / "bin" / "graft"
    found = shutil.which("graft")
    if not own.exists() or (found and Path(found).resolve() == own.resolve()):
        return f"graft {arguments}"
    return f"{os.path.relpath(own) if own.is_relative_to(Path.cwd()) else own} {arguments}"


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``folder``; on success it takes its place, on error it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=TEMPORARY, dir=folder.parent))
    new.chmod(0o755)
    try:
        yield new
        make_readable(new)
        _take_place(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def make_readable(folder: Path) -> None:
    """Let everybody read what is in ``folder``: safetensors writes files that only their owner may read."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o444)


def _take_place(new: Path, folder: Path) -> None:
    old = new.with_name(new.name + ".old" + TEMPORARY)
    had = folder.exists()
    if had:
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if had:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that ``path`` always holds the old or the new content in full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON with sorted keys: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that Graft wrote.

    Raises:
        ConfigError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run the stage that writes it (`graft status` names it)") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); remove it and run again") from None


@contextlib.contextmanager
def locked(path: Path, *, purpose: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path``; the kernel frees it when the process dies.

    Raises:
        Locked: another process holds it; the message says which, for what and since when.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(path.name + ".holder")
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise Locked(f"{path}: held by {_holder(holder)}; wait for it, or end it with `graft cancel`") from None
    try:
        write_json(holder, {"pid": os.getpid(), "purpose": purpose, "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} ({found['purpose']}) since {found['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
