"""Where the time of a training goes: PyTorch's profiler over a few steps, on request.

The first steps are left out: they compile products and fill caches. What is written lies in the training folder and
travels to MLflow with it: ``profile.md``, the ten heaviest operations, and ``trace.json.gz``, which Perfetto
(https://ui.perfetto.dev) and chrome://tracing open. Looking changes no result: the adapter's bytes are the same.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graft.workspace import PROFILE_VARIABLE

WARM_STEPS, PROFILED_STEPS = 5, 5
HEAVIEST = 10
MOST_EVENTS = 100_000
"""A trace keeps its longest events, a few MB of them: one of a large model would have gigabytes."""
TABLE, TRACE = "profile.md", "trace.json.gz"


class Profiler:
    """Profiles some of the steps that it is told of."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._first = self._last = 0
        self._profile: Any = None
        self._ended = False
        self._seconds = 0.0

    def before(self, step: int, steps: int) -> None:
        """Begin or end at ``step``, of ``steps`` in all; the first one that comes is that after a resume."""
        if not self._first:
            count = min(PROFILED_STEPS, steps - step + 1)
            self._first = step + min(WARM_STEPS, steps - step + 1 - count)
            self._last = self._first + count - 1
        if step == self._first:
            self._begin()
        elif step == self._last + 1:
            self.end()

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device == "cuda" else [])]
        self._profile = profile(activities=activities)
        self._profile.start()
        self._seconds = time.perf_counter()

    def end(self) -> None:
        """Stop looking, if that has not been done."""
        if self._profile is not None and not self._ended:
            self._ended = True
            self._seconds = time.perf_counter() - self._seconds
            self._profile.stop()

    def write(self, folder: Path) -> None:
        """Write table and trace; nothing where no step was seen."""
        if self._profile is None:
            print("train: nothing was profiled: no step was left to train", flush=True)
            return
        which = f"steps {self._first} to {self._last}"
        operations = heaviest(self._profile, self._device)
        (folder / TABLE).write_text(table(operations, which, self._seconds, self._device), encoding="utf-8")
        write_trace(self._profile, folder / TRACE)
        print(f"train: {which} profiled: {TABLE} and {TRACE} in artifacts/training", flush=True)


@contextlib.contextmanager
def profiling(device: str, *, wanted: bool) -> Iterator[Profiler | None]:
    """Run a block with a profiler, if one is wanted."""
    profiler = Profiler(device) if wanted else None
    try:
        yield profiler
    finally:
        if profiler is not None:
            profiler.end()


def is_wanted() -> bool:
    """Return whether the process was asked to profile (``--profile``)."""
    return os.environ.get(PROFILE_VARIABLE) == "1"


def heaviest(profile: Any, device: str) -> list[tuple[str, int, float]]:
    """Return name, calls and own seconds of each operation, without those that it calls; the longest first."""
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = [(str(one.key), int(one.count), getattr(one, own) / 1e6) for one in profile.key_averages()]
    return sorted((one for one in found if one[2] > 0), key=lambda one: (-one[2], one[0]))


def table(operations: list[tuple[str, int, float]], which: str, seconds: float, device: str) -> str:
    """Return the report: a table of the ten heaviest, the others together, and what was no operation."""
    lines = [(name, str(calls), spent) for name, calls, spent in operations[:HEAVIEST]]
    rest = operations[HEAVIEST:]
    lines.append((f"{len(rest)} others", str(sum(calls for _, calls, _ in rest)), sum(spent for *_, spent in rest)))
    idle = "none runs on the GPU" if device == "cuda" else "none: Python, and the profiler itself"
    lines.append((idle, "", max(0.0, seconds - sum(spent for *_, spent in lines))))
    whole = sum(spent for *_, spent in lines)
    head = (
        f"# Where the time goes: {which}\n\nOn {device}, {seconds:.3f} s under the profiler, which makes steps slower. "
        f"Each operation's own time, without those that it calls; `{TRACE}` opens in https://ui.perfetto.dev.\n\n"
        "| operation | calls | ms | share |\n|---|---|---|---|\n"
    )
    body = (f"| {name} | {calls} | {1000 * spent:.1f} | {spent / whole:.1%} |\n" for name, calls, spent in lines)
    return head + "".join(body)


def write_trace(profile: Any, path: Path) -> None:
    """Write the events as a Chrome trace, gzipped: the longest, where they are too many."""
    with tempfile.TemporaryDirectory(prefix="graft-trace-") as temporary:
        raw = Path(temporary) / "trace.json"
        profile.export_chrome_trace(str(raw))
        trace = json.loads(raw.read_text(encoding="utf-8", errors="replace"))
    for of_machine in ("traceName", "host_name"):  # a path, and how it is called
        trace.pop(of_machine, None)
    events = trace["traceEvents"]
    if len(events) > MOST_EVENTS:  # what names processes and threads has no length, and is needed
        events.sort(key=lambda one: (one.get("ph") != "M", -float(one.get("dur", 0))))
        del events[MOST_EVENTS:]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(trace, file)
