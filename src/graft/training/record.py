"""What a training writes while it runs: one JSON line per step, and a line for people every two seconds.

The file is the record; tracking follows it. Lines are buffered for a second, and flushed before each checkpoint, so
that the file never lacks a line from before it; on resume, lines after it are cut off. Where the disk is full, lines
wait in memory until there is room.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from graft.errors import ResourceMissing

FLUSH_SECONDS = 1.0
TELL_SECONDS = 2.0


class Record:
    """``metrics.jsonl`` of a running training, and its progress lines."""

    def __init__(self, path: Path, after_step: int) -> None:
        """Open ``path`` for appending, without the lines of steps after ``after_step``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        cut_after(path, after_step)
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._lines: list[dict[str, Any]] = []
        self._waiting, self._warned = bytearray(), False
        self._flushed = self._told = time.monotonic()
        self._begun, self._first = time.monotonic(), after_step

    def add(self, line: dict[str, Any]) -> None:
        """Append one line, which nobody changes any more; it is encoded with others of its second, not in each step."""
        self._lines.append(line)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> bool:
        """Hand buffered lines to the system: from then on they survive the process. Return whether all are there."""
        self._flushed = time.monotonic()
        for line in self._lines:
            self._waiting += _encoded(line)
        self._lines.clear()
        try:
            while self._waiting:
                del self._waiting[: os.write(self._file.fileno(), self._waiting)]
        except OSError as error:
            if not self._warned:
                self._warned = True
                print(f"train: warning: {self.path}: {error.strerror}; its lines wait in memory", flush=True)
            return False
        return True

    def settle(self) -> None:
        """Make what was flushed survive a power cut; from any thread."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is buffered and close the file.

        Raises:
            ResourceMissing: there is no room for it.
        """
        whole = self.flush()
        self._file.close()
        if not whole:
            raise ResourceMissing(
                f"{self.path}: the last metrics cannot be written; make room on its disk, the same command resumes"
            )

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except ResourceMissing:
            if kind is None:  # otherwise what ended the training says more
                raise

    def tell(self, line: dict[str, Any], steps: int) -> None:
        """Print a progress line, at most one in ``TELL_SECONDS``, and one after the last step."""
        now, step = time.monotonic(), line["step"]
        if now - self._told < TELL_SECONDS and step < steps:
            return
        self._told = now
        left = (now - self._begun) / max(step - self._first, 1) * (steps - step)
        print(
            f"train: step {step}/{steps}, loss {line['loss']:.4f}, {line['tokens_per_second']:,.0f} tokens/s, "
            f"MFU {line['mfu']:.1%}, {left:.0f} s left",
            flush=True,
        )


class Unwritten(Record):
    """The record of a process that leaves it to another one."""

    def __init__(self) -> None:
        """Open nothing."""

    def add(self, line: dict[str, Any]) -> None:
        """Do nothing."""

    def tell(self, line: dict[str, Any], steps: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _encoded(line: dict[str, Any]) -> bytes:
    """Return a line of the file; a number that is not finite (an undefined metric) becomes null."""
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()
    }
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def cut_after(path: Path, step: int) -> None:
    """Cut ``path`` off, in place, at its first line of a later step, or that a killed process left unfinished."""
    kept = 0
    for content, found in _whole_lines(path):
        if found > step:
            break
        kept += len(content)
    os.truncate(path, kept)


def last_step(path: Path) -> int:
    """Return the last step of which ``path`` has a line, and all lines before; 0 where it is not there."""
    return max((step for _, step in _whole_lines(path)), default=0) if path.is_file() else 0


def _whole_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each line with its step, up to the first that is damaged."""
    with path.open("rb") as file:
        for content in file:
            step = _step(content) if content.endswith(b"\n") else None
            if step is None:
                return
            yield content, step


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a record."""
    with path.open(encoding="utf-8") as file:
        for content in file:
            yield json.loads(content)


def _step(content: bytes) -> int | None:
    try:
        found = json.loads(content).get("step")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None
