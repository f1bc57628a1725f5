"""What a training writes while it runs: one JSON line per step, and a line for people every two seconds.

The file is the record; tracking follows it. Lines are buffered for a second, and flushed before each checkpoint, so
that the file never lacks a line from before it; on resume, lines after it are cut off.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        self._file = path.open("a", encoding="utf-8")
        self._flushed = self._told = time.monotonic()
        self._begun, self._first = time.monotonic(), after_step

    def add(self, line: dict[str, Any]) -> None:
        """Append one line; a number that is not finite (an undefined metric) becomes null."""
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand buffered lines to the system: from then on they survive the process."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._file.close()

    def tell(self, line: dict[str, Any], steps: int) -> None:
        """Print a progress line, at most one in ``TELL_SECONDS``, and one after the last step."""
        now, step = time.monotonic(), line["step"]
        if now - self._told < TELL_SECONDS and step < steps:
            return
        self._told = now
        left = (now - self._begun) / max(step - self._first, 1) * (steps - step)
        print(
            f"train: step {step}/{steps}, loss {line['loss']:.4f}, {line['tokens_per_second']:,.0f} tokens/s, "
            f"{left:.0f} s left",
            flush=True,
        )


def cut_after(path: Path, step: int) -> None:
    """Cut ``path`` off, in place, at its first line of a later step, or that a killed process left unfinished."""
    kept = 0
    with path.open("rb") as file:
        for content in file:
            if not content.endswith(b"\n") or _step(content) is None or int(_step(content) or 0) > step:
                break
            kept += len(content)
    os.truncate(path, kept)


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
