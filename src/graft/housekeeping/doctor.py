"""The state of this clone, its environment, remotes, servers and processes: each finding with what mends it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from graft.checks import Finding
from graft.errors import GraftError
from graft.housekeeping.waste import bytes_of
from graft.workspace import Workspace

GIGABYTE = 1_000_000_000
DISK_WARN_BYTES, DISK_FAIL_BYTES = 5 * GIGABYTE, GIGABYTE
STAGE_COMMANDS = re.compile(r"-m\s+(graft\s+stage|graft\.repository|graft\.services|pipelines\.)")


def doctor(workspace: Workspace) -> Iterator[Finding]:
    """Yield what was found about this clone, its environment, remotes, servers and processes; nothing is changed."""
    yield from _python()
    yield from _packages(workspace)
    yield from _torch()
    yield from _git(workspace)
    yield from _remotes(workspace)
    yield from _data(workspace)
    yield from _locks(workspace)
    yield from _disk(workspace)
    yield from _servers(workspace)
    yield from _runs(workspace)
    yield from _strays(workspace)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    inside = sys.prefix != sys.base_prefix
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    text = f"Python {version} at {sys.executable}"
    if not supported:
        yield Finding("python", "fail", f"{text}: 3.11 to 3.13 are supported; make venv PYTHON=python3.11", 7)
    elif not inside:
        yield Finding("python", "warn", f"{text}: not in a virtual environment; `make venv` makes one")
    else:
        yield Finding("python", "ok", text)
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        text = "PYTHONDONTWRITEBYTECODE is set: imports take 2 to 4 times as long; unset it"
        yield Finding("python", "warn", text)


def _packages(workspace: Workspace) -> Iterator[Finding]:
    """Compare what is installed with requirements.lock; a pinned package that nothing here needs may be absent."""
    path = workspace.repository / "requirements.lock"
    if not path.is_file():
        yield Finding("packages", "warn", f"{path}: no such file; versions are not compared")
        return
    pins = dict(_pins(path.read_text(encoding="utf-8")))
    installed = {_canonical(one.name): one.version for one in importlib.metadata.distributions() if one.name}
    wrong = [
        f"{name} {installed[name]} (locked {pins[name]})"
        for name in sorted(pins)
        if name in installed and installed[name].partition("+")[0] != pins[name]
    ]
    if wrong:
        text = f"{len(wrong)} differ from requirements.lock: {', '.join(wrong[:5])}; rm .venv/.ready && make venv"
        yield Finding("packages", "fail", text, 7)
    else:
        yield Finding("packages", "ok", f"{len(pins.keys() & installed)} packages as requirements.lock pins them")


def _pins(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of each ``name==version`` line whose marker holds here."""
    from packaging.requirements import InvalidRequirement, Requirement

    for line in text.splitlines():
        with contextlib.suppress(InvalidRequirement):
            one = Requirement(line.split(" #")[0].strip().rstrip("\\"))
            exact = [spec.version for spec in one.specifier if spec.operator == "=="]
            if exact and (one.marker is None or one.marker.evaluate()):
                yield _canonical(one.name), exact[0].partition("+")[0]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _torch() -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torch", "fail", "torch is not installed; make venv", 7)
        return
    gpu = shutil.which("nvidia-smi") is not None
    if gpu and version.endswith("+cpu"):
        text = f"torch {version} is the CPU build, and this machine has a GPU: make venv TORCH_INDEX=... (see README)"
        yield Finding("torch", "warn", text)
    else:
        yield Finding("torch", "ok", f"torch {version}, {'a GPU driver is here' if gpu else 'no GPU driver'}")


def _git(workspace: Workspace) -> Iterator[Finding]:
    from graft.repository import Repository

    if not (workspace.repository / ".git").exists():
        text = "not a git repository: runs stand on commits; git init && git add -A && git commit"
        yield Finding("git", "fail", text, 2)
        return
    try:
        repository = Repository(workspace)
        commit = repository.commit()
        remote = repository.git.run("remote").split()
    except GraftError as error:
        yield Finding("git", "fail", str(error), error.exit_code)
        return
    if commit is None:
        yield Finding("git", "fail", "no commit yet: git add -A && git commit", 2)
    elif "origin" not in remote:
        text = f"at {commit[:12]}; no remote `origin`, so workers on other clones cannot get a run's commit"
        yield Finding("git", "warn", f"{text}: git remote add origin URL")
    else:
        yield Finding("git", "ok", f"at {commit[:12]}, remote origin")


def _remotes(workspace: Workspace) -> Iterator[Finding]:
    from graft.repository import Repository
    from graft.repository.remotes import remotes

    try:
        found = remotes(Repository(workspace).dvc)
    except GraftError as error:
        yield Finding("remotes", "fail", str(error), error.exit_code)
        return
    if not any(one.default for one in found):
        yield Finding("remotes", "fail", "no default DVC remote: dvc remote add --default shared URL", 7)
    for one in found:
        name = f"{one.name}{' (default)' if one.default else ''} {one.url}"
        if one.problem:
            yield Finding("remotes", "fail", f"{name}: {one.problem}; check the address and your access", 7)
        elif one.default and one.writable is False:
            yield Finding("remotes", "fail", f"{name}: cannot be written; change its permissions or choose another", 7)
        else:
            unknown = "" if one.writable is not None else "; reachable, the first push shows whether it can be written"
            yield Finding("remotes", "ok", f"{name}{unknown}")


def _data(workspace: Workspace) -> Iterator[Finding]:
    from graft.repository import Repository

    if not workspace.data.is_dir() and workspace.data_dvc.is_file():
        yield Finding("data", "warn", "data/ is not here; `graft run` gets it, or `dvc pull data.dvc`")
        return
    try:
        changed = Repository(workspace).data_changes()
    except GraftError as error:
        yield Finding("data", "warn", str(error))
        return
    if changed:
        text = f"{len(changed)} files differ from data.dvc ({changed[0]}); `graft run --add-data` takes them"
        yield Finding("data", "warn", text)
    else:
        yield Finding("data", "ok", "data/ as data.dvc records it")


def _locks(workspace: Workspace) -> Iterator[Finding]:
    held = [text for place in _holders(workspace.repository / ".graft") if (text := _held(place))]
    for text in held:
        yield Finding("locks", "warn", f"{text}; wait for it, or `graft cancel`")
    if not held:
        yield Finding("locks", "ok", "no lock is held")


def _holders(folder: Path) -> list[Path]:
    return [*folder.glob("*.holder"), *folder.glob("*/*.holder"), *folder.glob("*/*/*.holder")]


def _held(holder: Path) -> str | None:
    """Return who holds the lock of a holder file; None where its process has gone."""
    import psutil

    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not psutil.pid_exists(int(found.get("pid", 0))):
        return None
    return f"{holder.stem} held by process {found['pid']} ({found.get('purpose')}) since {found.get('since')}"


def _disk(workspace: Workspace) -> Iterator[Finding]:
    free = shutil.disk_usage(workspace.home).free
    state, code = ("fail", 7) if free < DISK_FAIL_BYTES else ("warn", 0) if free < DISK_WARN_BYTES else ("ok", 0)
    used = sum(bytes_of(path) for path in (workspace.home / ".graft", workspace.home / ".dvc" / "cache"))
    advice = "" if state == "ok" else "; `graft gc` and `dvc gc` make room"
    text = f"{free / GIGABYTE:.1f} GB free; .graft and the DVC cache take {used / GIGABYTE:.2f} GB{advice}"
    yield Finding("disk", "fail" if state == "fail" else "warn" if state == "warn" else "ok", text, code)


def _servers(workspace: Workspace) -> Iterator[Finding]:
    """Look at the servers that runs and people use; a run needs none, so that an absent one is no fault."""
    from graft import services
    from graft.services import servers

    prefect, mlflow = services.server_url(workspace), services.mlflow_url(workspace)
    if prefect and not services.healthy(prefect):
        text = f"Prefect at {prefect} does not answer; start it, or unset {services.API_VARIABLE}"
        yield Finding("servers", "fail", text, 7)
    else:
        yield Finding("servers", "ok", f"Prefect {prefect or 'not running: each run starts a private one'}")
    yield from _registry(workspace, mlflow)
    for name, port, url in (("Prefect", servers.PREFECT_PORT, prefect), ("MLflow", servers.MLFLOW_PORT, mlflow)):
        if url is None:
            with _as_warning("ports") as found:
                services.free_port(port)
            yield from (Finding("ports", "warn", f"{one.text} (`graft ui` takes the next for {name})") for one in found)


def _registry(workspace: Workspace, mlflow: str | None) -> Iterator[Finding]:
    from graft import params, tracking
    from graft.tracking import server

    try:
        uri = tracking.resolve_uri(params.load(workspace.params).tracking, workspace)
        if uri.startswith("http"):
            server.check_health(uri)
    except GraftError as error:
        yield Finding("servers", "fail", str(error), error.exit_code)
        return
    running = f", served at {mlflow}" if mlflow else ""
    yield Finding("servers", "ok", f"MLflow {server.shown_uri(uri)}{running}")


@contextlib.contextmanager
def _as_warning(check: str) -> Iterator[list[Finding]]:
    found: list[Finding] = []
    try:
        yield found
    except GraftError as error:
        found.append(Finding(check, "warn", str(error)))


def _runs(workspace: Workspace) -> Iterator[Finding]:
    from graft import runs

    newest = runs.listed(workspace)[:1]
    if newest and newest[0].state == "crashed":
        yield Finding("runs", "warn", f"run {newest[0].folder.name} was killed; `graft run` resumes it")
    elif newest:
        yield Finding("runs", "ok", f"run {newest[0].folder.name} {newest[0].state}")


def _strays(workspace: Workspace) -> Iterator[Finding]:
    found = list(stray_processes(workspace))
    for process, command in found:
        yield Finding("processes", "warn", f"process {process} lives on without its run ({command}); kill {process}")
    if not found:
        yield Finding("processes", "ok", "no process of an ended run is left")


def stray_processes(workspace: Workspace) -> Iterator[tuple[int, str]]:
    """Yield id and command of Graft's processes in this clone whose starter has gone."""
    import psutil

    adopter = _adopter()
    for one in psutil.process_iter(["pid", "ppid", "cmdline", "cwd"]):
        command = " ".join(one.info["cmdline"] or ())
        place = one.info["cwd"]
        if not STAGE_COMMANDS.search(command) or not place or not Path(place).is_relative_to(workspace.home):
            continue
        if one.info["ppid"] == adopter:
            yield one.info["pid"], command[:100]


def _adopter() -> int | None:
    """Return the process that adopts orphans; None where it is Graft's own (a container that runs nothing else)."""
    import psutil

    with contextlib.suppress(psutil.Error):
        if re.search(r"\b(graft|pipelines|prefect)\b", " ".join(psutil.Process(1).cmdline())):
            return None
    return 1
