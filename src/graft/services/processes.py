"""Server processes: a free port, a process behind a guard, and its end.

The guard (``python -m graft.services COMMAND``) leads the process group and ends it when the pipe to its starter
closes: no server outlives the command that started it, not even after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft.errors import ConfigError, ResourceMissing, shown

HOST = "127.0.0.1"
WAIT_VARIABLE, START_SECONDS = "GRAFT_START_SECONDS", 300.0
END_SECONDS = 8.0


def start_seconds() -> float:
    """Return how long a server that was started is waited for.

    Raises:
        ConfigError: ``GRAFT_START_SECONDS`` is no number above 0.
    """
    given = os.environ.get(WAIT_VARIABLE, str(START_SECONDS))
    with contextlib.suppress(ValueError):
        if (seconds := float(given)) > 0:
            return seconds
    raise ConfigError(f"{WAIT_VARIABLE}: must be a number of seconds above 0 (got {shown(given)})")


def healthy(url: str, timeout_seconds: float = 2.0) -> bool:
    """Return whether the server at ``url`` answers its health check."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout_seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def free_port(wanted: int | None = None, *, start: int = 0) -> int:
    """Return ``wanted`` if it is free, else the first free port from ``start`` on (0: any).

    Raises:
        ResourceMissing: ``wanted`` is taken; the message says by whom where the system tells.
    """
    if wanted is not None:
        if _is_free(wanted):
            return wanted
        raise ResourceMissing(f"port {wanted} of {HOST}: taken by {_holder(wanted)}; end it or choose another port")
    for port in range(start, start + 100) if start else ():
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    return "another process"


@dataclass(frozen=True)
class Server:
    """A server process behind its guard."""

    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self, timeout_seconds: float | None = None) -> str:
        """Wait until the server answers; return its URL. ``timeout_seconds``: by default as the environment says.

        Raises:
            ResourceMissing: it ended, or does not answer in time; the message has the end of its log.
        """
        seconds = timeout_seconds or start_seconds()
        until = time.monotonic() + seconds
        while not healthy(self.url):
            if self.process.poll() is not None:
                raise ResourceMissing(self._with_log(f"the {self.name} server did not start"))
            if time.monotonic() > until:
                said = (
                    f"the {self.name} server did not answer within {seconds:g} seconds; it was still starting, as on a "
                    f"busy machine, and was ended: try again, or wait longer with {WAIT_VARIABLE}={2 * seconds:g}"
                )
                raise ResourceMissing(self._with_log(said))
            time.sleep(0.05)
        return self.url

    def _with_log(self, said: str) -> str:
        tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        return "\n  ".join([f"{said} ({self.log}):", *tail])

    def end(self) -> None:
        """End the server and everything it started."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(name: str, command: list[str], url: str, log: Path, environment: Mapping[str, str]) -> Server:
    """Start ``command`` behind a guard; the caller waits for it and ends it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "graft.services", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": code_path(), **environment},
        )
    return Server(name, url, log, process)


def code_path(clone: Path | None = None) -> str:
    """Return a PYTHONPATH with the code of ``clone`` first, else (or where it has none) this code."""
    source = clone / "src" if clone and (clone / "src" / "graft").is_dir() else Path(__file__).parent.parent
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(source), str(source.parent), *([given] if given else [])])


def guard(command: list[str]) -> int:
    """Run ``command`` in this process group; end the group when standard input closes. Return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it signals its own group, and stays until the group is empty

    def watch() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGTERM)
        time.sleep(END_SECONDS - 2)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="guard").start()
    code = child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return code
