"""What stages made of single part files, kept by what it was made of: growth costs only what is new.

A stage says what decides a part's result (the part's bytes, settings, code) by a key. Results lie in
``.graft/store/<stage>/<key>/`` with the digests of their files, so a part that was renamed, or that another run
of this clone has worked on, costs a look. Results that are damaged are made again; deleting all of them changes no
byte of what a stage writes, since a stage takes every result from here, whether it was just made or not.

Parts that have no result are spread over processes: as many as there are cores, but none for a few megabytes, because
a process costs its imports. ``GRAFT_PROCESSES`` sets the number.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, ResourceMissing, shown
from graft.identity import digest_files, digest_json, running_code
from graft.reading import format_of
from graft.workspace import TEMPORARY, Workspace, make_readable, read_json, write_json

PROCESSES_VARIABLE = "GRAFT_PROCESSES"
PROCESS_BYTES = 32 << 20
"""How much there is to read before another process is worth its imports."""
REPORT_SECONDS = 2.0
LEAST_SECONDS = 5.0
"""How long rows are counted before their rate says how much time is left."""
DIGESTS = "digests.json"
PLACING_ATTEMPTS = 5
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)

Work = Callable[[Any, Path, Callable[[int], None]], None]
"""Makes the result of one part: its argument, the empty folder to write, and a function to count rows by."""


@dataclass(frozen=True)
class PartResults:
    """The results of one stage."""

    stage: str
    folder: Path

    @classmethod
    def of(cls, workspace: Workspace, stage: str) -> PartResults:
        """Return the results of a stage in the store."""
        return cls(stage, workspace.store / stage)

    def find(self, key: str) -> Path | None:
        """Return the folder of a result; None where there is none, or its files are not what was written."""
        folder = self.folder / key
        try:
            digests = read_json(folder / DIGESTS)
            if digests != _digests(folder):
                return None
            os.utime(folder)  # `graft gc` goes by when a result was last used
        except (ConfigError, OSError):
            return None
        return folder

    def digests(self, key: str) -> Mapping[str, str]:
        """Return the sha256 of each file of a result that was found."""
        found: dict[str, str] = read_json(self.folder / key / DIGESTS)
        return found

    @contextlib.contextmanager
    def made(self, key: str) -> Iterator[Path]:
        """Yield an empty folder that becomes the result of ``key``; its digests are added.

        Raises:
            ResourceMissing: the store cannot be written.
        """
        with self.placed(key) as folder:
            yield folder
            write_json(folder / DIGESTS, _digests(folder))

    def kept(self, key: str, write: Callable[[Path], None]) -> Path:
        """Return the folder of the result of ``key``, which ``write`` makes where there is none.

        Raises:
            ResourceMissing: the store cannot be written.
        """
        if (found := self.find(key)) is not None:
            return found
        with self.made(key) as folder:
            write(folder)
        return self.folder / key

    @contextlib.contextmanager
    def placed(self, key: str) -> Iterator[Path]:
        """Yield an empty folder that becomes the result of ``key``, unless another process puts a valid one there.

        Raises:
            ResourceMissing: the store cannot be written.
        """
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=TEMPORARY, dir=self.folder))
            try:
                new.chmod(0o755)
                yield new
                make_readable(new)
                self._place(new, key)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def _place(self, new: Path, key: str) -> None:
        place = self.folder / key
        for attempt in range(PLACING_ATTEMPTS):
            try:
                new.rename(place)  # fails where a folder with files is: nobody who reads it finds a gap
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self.find(key) is not None:
                return
            with contextlib.suppress(OSError):  # another process may clear the damaged one too
                damaged = new.with_name(f"{new.name}.{attempt}{TEMPORARY}")
                place.rename(damaged)
                shutil.rmtree(damaged, ignore_errors=True)
        raise ResourceMissing(f"{place}: cannot be replaced; remove it")

    def make(self, jobs: Sequence[Job], work: Work, *, rows: int | None = None) -> int:
        """Make the results that are not there, and return how many that were.

        Args:
            jobs: the parts; two with one key are worked on once.
            work: must be picklable (a function at module level, or an object of a class there).
            rows: how many rows the parts have together, where that is known; else it is estimated from their bytes.

        Raises:
            GraftError: what ``work`` raises.
            ResourceMissing: a process was killed.
        """
        missing = {job.key: job for job in jobs if self.find(job.key) is None}
        progress = _Progress(self.stage, list(missing.values()), rows)
        count = processes_for(list(missing.values()))
        if count > 1:
            self._spread(list(missing.values()), work, progress, count)
        else:
            for job in missing.values():
                _make(self, job, work, progress.add)
                progress.end(job)
        return len(missing)

    def _spread(self, jobs: Sequence[Job], work: Work, progress: _Progress, count: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        rows = context.Value("q", 0)
        with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(self, work, rows)) as pool:
            with _own_code_first():  # a process starts when work is submitted
                waiting = {pool.submit(_one, job): job for job in jobs}
            try:
                while waiting:
                    done, _ = wait(waiting, REPORT_SECONDS, FIRST_COMPLETED)
                    for one in done:
                        one.result()
                        progress.end(waiting.pop(one))
                    progress.show(rows.value)
            except BrokenProcessPool:
                names = ", ".join(job.path.name for job in list(waiting.values())[:count])
                raise ResourceMissing(
                    f"{self.stage}: a process was killed at one of {names}, perhaps for want of memory; make the parts "
                    f"smaller, or set {PROCESSES_VARIABLE}=1"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@contextlib.contextmanager
def _own_code_first() -> Iterator[None]:
    """Let processes that start here import this ``graft``: they are given ``sys.path``, and MLflow puts the code that
    travels with a model, a part of another ``graft``, in front there as soon as a model is loaded.
    """
    before = list(sys.path)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        yield
    finally:
        sys.path[:] = before


def key_of(path: Path, digest: str, made_of: Mapping[str, Any]) -> str:
    """Return the key of a part's result: by its bytes and what else decides it, not by its name.

    Args:
        path: the part, for its format.
        digest: its sha256.
        made_of: settings and digests, as JSON values.
    """
    return digest_json({"part": digest, "format": format_of(path), "code": running_code(), **made_of})[:32]


@dataclass(frozen=True)
class Job:
    """One part to work on."""

    key: str
    path: Path
    argument: Any
    """What ``Work`` is given: picklable."""

    @property
    def size(self) -> int:
        """The bytes of the part."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Round:
    """What a stage makes of its parts at one time; a stage may have several rounds."""

    results: PartResults
    jobs: Sequence[Job]
    work: Work
    is_needed: bool = False
    """Whether the next round cannot begin before all of these results are there."""

    def make(self, jobs: Sequence[Job] | None = None) -> int:
        """Make the results of ``jobs`` (default: all) that are not there, and return how many that were."""
        return self.results.make(self.jobs if jobs is None else jobs, self.work)

    def missing(self) -> list[Job]:
        """Return the jobs that have no result here."""
        return [job for job in self.jobs if self.results.find(job.key) is None]


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Say in one message that the store has no room, or is not to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise ResourceMissing(
            f"{folder}: cannot be written ({error.strerror}); make room, or let this user write there"
        ) from None


def _digests(folder: Path) -> dict[str, str]:
    return digest_files(folder, [path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS])


def processes_for(jobs: Sequence[Job]) -> int:
    """Return how many processes work on these parts.

    Raises:
        ConfigError: ``GRAFT_PROCESSES`` is no whole number from 1 on.
    """
    if given := os.environ.get(PROCESSES_VARIABLE):
        if not given.isdecimal() or int(given) < 1:
            raise ConfigError(f"{PROCESSES_VARIABLE}: expected a whole number from 1 on, got {shown(given)}")
        return max(1, min(int(given), len(jobs)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, len(jobs), sum(job.size for job in jobs) // PROCESS_BYTES))


# -- in a process of the pool

_state: dict[str, Any] = {}


def _begin(results: PartResults, work: Work, rows: Any) -> None:
    def add(count: int) -> None:
        with rows.get_lock():
            rows.value += count

    # One thread each: the processes share the cores already.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    _state.update(results=results, work=work, add=add)


def _one(job: Job) -> None:
    _make(_state["results"], job, _state["work"], _state["add"])


def _make(results: PartResults, job: Job, work: Work, add: Callable[[int], None]) -> None:
    with results.made(job.key) as folder:
        work(job.argument, folder, add)


# -- how far it is


class _Progress:
    """Prints a line every two seconds at most; short work prints nothing."""

    def __init__(self, stage: str, jobs: Sequence[Job], rows: int | None) -> None:
        self.stage, self.total = stage, rows
        self.bytes = sum(job.size for job in jobs)
        self.parts = len(jobs)
        self.rows = self.ended = self.ended_bytes = self.rows_of_ended = 0
        self.start = self.printed = time.monotonic()
        self.counting: float | None = None
        """When the first rows were counted: processes that start count none for seconds."""
        self.counted = 0

    def add(self, rows: int) -> None:
        """Count rows, where the work is done in this process."""
        self.show(self.rows + rows)

    def end(self, job: Job) -> None:
        """Count a part that is done."""
        self.ended += 1
        self.ended_bytes += job.size
        self.rows_of_ended = self.rows

    def show(self, rows: int) -> None:
        """Print how far the work is, if it is time to."""
        self.rows = rows
        now = time.monotonic()
        if self.counting is None and rows:
            self.counting, self.counted = now, rows
        if now - self.printed < REPORT_SECONDS:
            return
        self.printed, seconds = now, now - self.start
        done = f"{rows}{f' of {self.total}' if self.total else ''} rows, {self.ended} of {self.parts} parts"
        print(f"{self.stage}: {done}, {rows / seconds:.0f} rows/s{self._left(now)}", flush=True)

    def _left(self, now: float) -> str:
        """Say how much time is left, by the rate since rows are counted; nothing before that is known.

        Where nobody knows how many rows there are, it is estimated from the bytes of the parts that are done.
        """
        total = self.total or self.rows_of_ended * self.bytes / max(self.ended_bytes, 1)
        if self.counting is None or now - self.counting < LEAST_SECONDS or not self.rows <= total:
            return ""
        rate = (self.rows - self.counted) / (now - self.counting)
        return f", {(total - self.rows) / rate:.0f} s left" if rate else ""
