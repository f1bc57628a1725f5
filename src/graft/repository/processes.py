"""A stage as a process group that ends with its caller, seen from the caller.

The group's leader is ``graft.repository.__main__``; it holds the reading end of a pipe whose writing end is here. The
trade-off against calling DVC in this process is one interpreter start (0.3 s) per stage that is not current.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import GraftError, Interrupted
from graft.repository import Outcome, StageResult
from graft.workspace import HOME_VARIABLE, RESTORES_VARIABLE

if TYPE_CHECKING:
    from graft.repository import Repository

# DVC's return value does not tell skipped, restored and executed apart; its lines do.
OUTCOMES: tuple[tuple[re.Pattern[str], Outcome], ...] = (
    (re.compile(r"^Stage '.+' didn't change, skipping$"), "cached"),
    (re.compile(r"^Stage '.+' is cached - skipping run, checking out outputs$"), "restored"),
    (re.compile(r"^Pulling data for stage: '.+'$"), "restored"),  # dvc.lock names them, the remote has them
    (re.compile(r"^Running stage '.+':$"), "ran"),
)
NOISE = re.compile(r"^((Updating|Generating) lock file '.*'|> .* -m graft stage \w+|Use `dvc push`.*|\s*)$")

ERROR = "error: "
KEPT_LINES = 200


@dataclass
class Transcript:
    """What a stage printed, as far as it is needed afterwards."""

    outcome: Outcome = "cached"
    error: list[str] = field(default_factory=list)
    """The lines from the last ``error:`` on: the stage's message, the last thing that it prints."""
    last: str = ""

    @property
    def held(self) -> list[str]:
        """The error's lines as they were printed: the error that is raised says them, so they are not said before."""
        return [f"{ERROR}{self.error[0]}", *self.error[1:]] if self.error else []

    def take(self, line: str) -> Iterator[str]:
        """Note one line; yield those that can be said."""
        for pattern, outcome in OUTCOMES:
            if pattern.match(line):
                self.outcome = outcome
        self.last = line if line.strip() else self.last
        if line.startswith(ERROR):
            yield from self.held
            self.error = [line.removeprefix(ERROR)]
        elif self.error and len(self.error) < KEPT_LINES:
            self.error.append(line)
        elif not NOISE.match(line):
            yield line


def run_stage(
    repository: Repository,
    stage: str,
    *,
    force: bool,
    pull: bool,
    on_line: Callable[[str], None],
    environment: Mapping[str, str],
) -> StageResult:
    """Run one stage; see ``Repository.run_stage``."""
    started, transcript = time.monotonic(), Transcript()
    flags = [flag for flag, given in (("--force", force), ("--pull", pull)) if given]
    child = _start(repository, ["reproduce", stage, *flags], environment)
    try:
        for line in _lines(child):
            for said in transcript.take(line):
                on_line(said)
        code = child.wait()
    except BaseException:
        end(child)
        _restore(repository, stage)
        raise
    finally:
        _close(child)
    if code != 0:
        _restore(repository, stage)
        raise error_of(stage, code, transcript)
    for said in transcript.held:
        on_line(said)
    return StageResult(transcript.outcome, time.monotonic() - started)


def exchange_parts(
    repository: Repository, stage: str, arguments: list[str], on_line: Callable[[str], None]
) -> dict[str, int]:
    """Exchange the results of a stage's parts with the remote, in a process group; return what the process did."""
    transcript, answer = Transcript(), "{}"
    child = _start(repository, ["parts", stage, *arguments], {})
    try:
        for line in _lines(child):
            if line.startswith("{"):
                answer = line
                continue
            for said in transcript.take(line):
                on_line(said)
        code = child.wait()
    except BaseException:
        end(child)
        raise
    finally:
        _close(child)
    if code != 0:
        raise error_of(stage, code, transcript)
    done: dict[str, int] = json.loads(answer)
    return done


def _start(repository: Repository, arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    source = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    variables = {
        **os.environ,
        HOME_VARIABLE: str(repository.workspace.home),
        "GRAFT_PYTHON": os.environ.get("GRAFT_PYTHON") or sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, (source, inherited))),
        RESTORES_VARIABLE: "1",
        "PYTHONUNBUFFERED": "1",  # lines come as they are printed, not when a block is full
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "graft.repository", *arguments],
        cwd=repository.workspace.root,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str]:
    assert child.stdout is not None
    for line in child.stdout:
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole group and wait for it; the leader's process id is the group's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _close(child: subprocess.Popen[bytes]) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _restore(repository: Repository, stage: str) -> None:
    # What made the stage fail is the message that counts, also when DVC cannot put anything back.
    with contextlib.suppress(GraftError):
        repository.dvc.restore(stage)


def error_of(stage: str, code: int, transcript: Transcript) -> GraftError:
    """Return the error that an exit code and the printed lines stand for."""
    message = "\n".join(transcript.error).strip()
    number = -code if code < 0 else code - 128
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) and not message:
        name = signal.Signals(number).name
        return Interrupted(f"stage {stage}: ended by {name} (memory? `graft cancel`?); the same command resumes")
    kind = {one.exit_code: one for one in GraftError.__subclasses__()}.get(code, GraftError)
    return kind(message or f"stage {stage}: failed with exit code {code}: {transcript.last or 'it printed nothing'}")
