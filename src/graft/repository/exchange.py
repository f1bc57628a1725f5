"""Results of single parts through the DVC remote, made on one machine, found on all; and adapters to start from.

They lie beside DVC's own files, below ``graft/<stage>/<key>`` of the default remote, each folder with the digests of
its files, which is written last and checked after every pull. Who can write to the remote can plant a result there, as
with DVC's run cache: the remote is trusted. Not so for adapters: sources.lock has their digest, which is checked too.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import stages
from graft.artifact.starts import Start, folder_of, is_here
from graft.artifact.warm_start import keep
from graft.errors import GraftError, InputError, IntegrityError, ResourceMissing
from graft.identity import digest_folder
from graft.part_results import DIGESTS, Job, PartResults, Round
from graft.workspace import read_json

if TYPE_CHECKING:
    from graft.repository.dvc import Dvc

FOLDER = "graft"
CONNECTIONS = 8
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long nothing new may come from the other machines before their work is done here."""


class Exchange:
    """The results of a stage's parts, here and in the default remote."""

    def __init__(self, dvc: Dvc, stage: str) -> None:
        """Stand for the parts of a stage of DVC's project."""
        self.dvc, self.stage = dvc, stage

    @property
    def _rounds(self) -> Iterator[Round]:
        """The stage's rounds; where its input is wrong they end, and the stage itself says why."""
        with contextlib.suppress(InputError):
            yield from stages.rounds(self.stage, self.dvc.workspace)

    def pull(self) -> dict[str, int]:
        """Get the results that the remote has and this clone lacks.

        Returns:
            How many were ``pulled``, how many parts are ``missing`` still, and the ``bytes`` of those. Where the first
            round of two is not complete, it is the parts of that one.
        """
        pulled, missing = 0, list[Job]()
        with self._remote() as remote:
            for one in self._rounds:
                pulled += remote.pull(one.results, one.missing())
                missing = one.missing()
                if one.is_needed and missing:
                    break
        return {"pulled": pulled, "missing": len(missing), "bytes": sum(job.size for job in missing)}

    def push(self) -> dict[str, int]:
        """Put the results that this clone has, and the remote lacks, there; return how many were ``pushed``."""
        count = 0
        with self._remote() as remote:
            for one in self._rounds:
                missing = {job.key for job in one.missing()}
                count += remote.push(one.results, [job for job in one.jobs if job.key not in missing])
                if one.is_needed and missing:
                    break
        return {"pushed": count}

    def share(self, number: int, of: int) -> dict[str, int]:
        """Do share ``number`` (from 1) of all parts, and give it to the others; return how many were ``made`` here.

        Where the next round needs all results, those of the others are waited for; what does not come is made here.
        """
        made = 0
        with self._remote() as remote:
            for one in self._rounds:
                own = list(one.jobs[number - 1 :: of])
                remote.pull(one.results, [job for job in own if one.results.find(job.key) is None])
                count = one.make(own)
                remote.push(one.results, own)
                if one.is_needed:
                    count += self._completed(remote, one)
                print(f"{one.results.stage}: {count} of {len(one.jobs)} parts made here", flush=True)
                made += count
        return {"made": made}

    def _completed(self, remote: _Remote, one: Round) -> int:
        """Wait for the results of the others; return how many were made here after all."""
        made, since = 0, time.monotonic()
        while missing := one.missing():
            if remote.pull(one.results, missing):
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE_SECONDS:
                made += one.make(missing[-1:])
                remote.push(one.results, missing[-1:])
            else:
                time.sleep(POLL_SECONDS)
        return made

    def _remote(self) -> contextlib.AbstractContextManager[_Remote]:
        return _remote(self.dvc, "exchange results of parts")


def push_start(dvc: Dvc, start: Start) -> bool:
    """Put the adapter that a training starts from into the remote, unless it is there; return whether it went."""
    with _remote(dvc, "share the adapter that training starts from") as remote, _passing(start) as (results, job):
        if remote.has(results, job):
            return False
        with results.made(job.key) as folder:
            shutil.copytree(folder_of(dvc.workspace, start), folder, dirs_exist_ok=True)
        return bool(remote.push(results, [job]))


def pull_start(dvc: Dvc, start: Start) -> bool:
    """Get the adapter that a training starts from, where this clone lacks it and the remote has it.

    Raises:
        IntegrityError: what is there is another adapter than sources.lock pins.
    """
    if is_here(dvc.workspace, start):
        return False
    with _remote(dvc, "get the adapter that training starts from") as remote, _passing(start) as (results, job):
        if not remote.pull(results, [job]):
            return False
        found = results.folder / job.key
        (found / DIGESTS).unlink()
        if digest_folder(found) != start.digest:
            raise IntegrityError(
                f"DVC remote: {FOLDER}/{results.stage}/{job.key} is not the adapter that sources.lock pins ({start}); "
                "remove that folder"
            )
        keep(dvc.workspace, found)
    return True


@contextlib.contextmanager
def _passing(start: Start) -> Iterator[tuple[PartResults, Job]]:
    """Yield a place, for as long as an adapter goes through it, and what it is called there and in the remote."""
    with tempfile.TemporaryDirectory(prefix="graft-start-") as name:
        yield PartResults("models", Path(name)), Job(start.digest, Path(name), None)


@contextlib.contextmanager
def _remote(dvc: Dvc, doing: str) -> Iterator[_Remote]:
    with dvc.default_remote(doing) as (files, path):
        try:
            yield _Remote(files, path)
        except (GraftError, KeyboardInterrupt):
            raise
        except OSError as error:
            raise ResourceMissing(f"DVC remote: cannot {doing}: {error}") from None


class _Remote:
    """The folder of the remote."""

    def __init__(self, files: Any, path: str) -> None:
        """``files``: DVC's file system of the remote; ``path``: where the remote begins."""
        self.files, self.path = files, path

    def has(self, results: PartResults, job: Job) -> bool:
        """Return whether a whole result is there."""
        return bool(self.files.exists(self.files.join(self._folder(results, job), DIGESTS)))

    def pull(self, results: PartResults, jobs: Sequence[Job]) -> int:
        """Get what is there of some results; return how many came."""
        return self._each(lambda job: self._pull(results, job), jobs)

    def push(self, results: PartResults, jobs: Sequence[Job]) -> int:
        """Put results there that are not; return how many went."""
        return self._each(lambda job: self._push(results, job), jobs)

    def _each(self, one: Callable[[Job], bool], jobs: Sequence[Job]) -> int:
        unique = {job.key: job for job in jobs}.values()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return sum(pool.map(one, unique))

    def _folder(self, results: PartResults, job: Job) -> str:
        return str(self.files.join(self.path, FOLDER, results.stage, job.key))

    def _pull(self, results: PartResults, job: Job) -> bool:
        source = self._folder(results, job)
        if not self.has(results, job):
            return False
        with results.placed(job.key) as folder:
            self.files.get_file(self.files.join(source, DIGESTS), str(folder / DIGESTS))
            for name in read_json(folder / DIGESTS):
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise IntegrityError(f"DVC remote: {source}/{DIGESTS} names a file outside its folder: {name}")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(self.files.join(source, name), str(folder / name))
        if results.find(job.key) is None:
            raise IntegrityError(
                f"DVC remote: {source} is damaged: its files are not what {DIGESTS} says; remove that folder"
            )
        return True

    def _push(self, results: PartResults, job: Job) -> bool:
        target, folder = self._folder(results, job), results.folder / job.key
        if self.has(results, job):
            return False
        for name in [*results.digests(job.key), DIGESTS]:
            place = self.files.join(target, name)
            self.files.makedirs(self.files.parent(place), exist_ok=True)
            self.files.put_file(str(folder / name), place)
        return True
