"""How far something is: a bar with rate and remaining time in a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 2.0


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts on; all of it goes to standard error, so that output can be piped."""
    if sys.stderr.isatty():
        with _bar(what, unit) as advance:
            yield advance
        return
    began = last = time.monotonic()
    done = 0

    def count(more: int) -> None:
        nonlocal done, last
        now = time.monotonic()
        # What was done before, so that the last count of all is in the last line alone.
        if done and now - last >= LINE_SECONDS:
            last = now
            print(f"{what}: {done} {unit}, {done / (now - began):.0f} {unit}/s", file=sys.stderr, flush=True)
        done += more

    yield count
    seconds = max(time.monotonic() - began, 1e-9)
    print(f"{what}: {done} {unit} in {seconds:.1f} s ({done / seconds:.0f} {unit}/s)", file=sys.stderr, flush=True)


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    rate = TextColumn("{task.completed:.0f} " + unit)
    with Progress(SpinnerColumn(), TextColumn(what), rate, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda more: bar.advance(task, more)
