"""DVC in process: what is out of date and why, data, remotes, one stage at a time.

A ``dvc`` command costs about two CPU seconds, most of it start-up; ``dvc.repo.Repo`` does the same work without. A new
``Repo`` is made per operation: it remembers what it read, and a stage that ran meanwhile would not be seen.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import stages
from graft.errors import ConfigError, DataError, GraftError, ResourceMissing
from graft.repository import objects
from graft.repository.integrity import differences, refuse_changed_data, refuse_damaged
from graft.repository.provenance import record
from graft.workspace import Workspace, write_text

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    from graft.repository import Change
    from graft.repository.objects import Tracked

CLIENTS = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "azure",
    "google",
    "gcsfs",
    "asyncssh",
    "requests",
    "urllib3",
    "webdav4",
)
"""The packages whose errors DVC passes on as they are when a remote is away, or lets nobody in."""
LOGGERS = ("dvc", "dvc_data", "dvc_objects")


class StageFailed(Exception):  # noqa: N818 (it carries a result; it is no GraftError)
    """A stage's process ended with ``exit_code``; it has printed why."""

    def __init__(self, exit_code: int) -> None:
        """Keep the exit code of the stage, not DVC's."""
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Dvc:
    """DVC's view of one project."""

    def __init__(self, workspace: Workspace, *, log_level: int = logging.WARNING) -> None:
        """Stand for the project at ``workspace``; DVC's own log lines below ``log_level`` are not shown."""
        self.workspace = workspace
        self.log_level = log_level
        self.file = str(workspace.root / "dvc.yaml")

    @contextlib.contextmanager
    def repo(self, doing: str) -> Iterator[Repo]:
        """Yield DVC's repository object; its errors come out as Graft's."""
        from dvc.repo import Repo

        for name in LOGGERS:  # importing DVC sets them to INFO, printed to standard output
            logging.getLogger(name).setLevel(self.log_level)
        with _translated(doing), Repo(str(self.workspace.root), _wait_for_lock=True) as found:
            _forget_dead_holders(found)
            yield found

    # -- data
    def data_changes(self, *, cache: bool = False) -> list[str]:
        """See ``Repository.data_changes``."""
        if not self.workspace.data_dvc.is_file():
            return self._untracked_data()
        with self.repo("compare data/ with data.dvc") as repo:
            out = _data(repo, self.workspace)
            self._check_data_remote(repo, out)
            if not self.workspace.data.exists():
                return []
            if out.get_hash() == out.hash_info:
                if cache:
                    _commit_missing(repo, out)
                return []
            return list(differences(out))

    def _untracked_data(self) -> list[str]:
        if not self.workspace.data.is_dir():
            raise DataError(
                "data: no such folder, and no data.dvc that says where to get it; put part files into "
                "data/train, data/validation and data/test, or run `graft import`"
            )
        files = sorted(path for path in self.workspace.data.rglob("*") if path.is_file())
        return [f"{path.relative_to(self.workspace.root).as_posix()}: added" for path in files]

    def _check_data_remote(self, repo: Repo, out: Output) -> None:
        """Refuse a ``remote:`` that is part of the repository (the sample's) for data that it does not hold."""
        url = repo.config["remote"].get(out.remote or "", {}).get("url", "")
        inside = any(Path(url).is_relative_to(folder) for folder in (self.workspace.repository, self.workspace.home))
        oid = out.hash_info.value if out.hash_info else None
        if not (url and inside and isinstance(oid, str)):
            return
        if not any((Path(url) / layout / oid[:2] / oid[2:]).is_file() for layout in ("files/md5", ".")):
            raise ConfigError(
                f"data.dvc: names the read-only remote `{out.remote}`, which does not hold this data; remove the line "
                f"`remote: {out.remote}`, so that the data goes to the default remote"
            )

    def add_data(self, provenance: Mapping[str, Any] | None) -> bool:
        """See ``Repository.add_data``."""
        if self.workspace.data_dvc.is_file():
            _drop_missing_remote(self.workspace, self)
            if not self.data_changes():
                return provenance is not None and record(self.workspace.data_dvc, provenance)
        elif not self._untracked_data():
            raise DataError("data: holds no file")
        with self.repo("add data/ to DVC") as repo:
            repo.add(str(self.workspace.data))
        _drop_remote(self.workspace.data_dvc)
        record(self.workspace.data_dvc, provenance)
        return True

    def pull_data(self) -> bool:
        """See ``Repository.pull_data``."""
        if self.workspace.data.exists() or not self.workspace.data_dvc.is_file():
            return False
        with self.repo("get data/") as repo:
            repo.pull(targets=[str(self.workspace.data_dvc)])
        return True

    def pull_recorded_data(self, recorded_by: str) -> None:
        """See ``Repository.pull_recorded_data``."""
        if not self.workspace.data_dvc.is_file():
            raise ConfigError(f"{recorded_by}: has no data.dvc: its data is not in DVC")
        of = objects.tracked(self.workspace.data_dvc.read_text(encoding="utf-8"), f"data.dvc of {recorded_by}")
        with self.repo("get data/") as repo:
            objects.refuse_altered(repo, of, "data", recorded_by)
        self.pull_data()

    def cache_data(self) -> bool:
        """See ``Repository.cache_data``."""
        if not (self.workspace.data_dvc.is_file() and self.workspace.data.exists()):
            return False
        with self.repo("put data/ into the DVC cache") as repo:
            out = _data(repo, self.workspace)
            return out.get_hash() == out.hash_info and _commit_missing(repo, out)

    # -- data of any commit
    def listing(self, of: Tracked) -> dict[str, str]:
        """Return ``{path below the folder: md5}`` of a tracked folder; see ``objects.listing``."""
        with self.repo("get the list of files") as repo:
            return objects.listing(repo, of)

    def fetch(self, digests: Collection[str], remote: str | None) -> dict[str, Path]:
        """Return the file of each object in the cache, pulled where it lacks them; see ``objects.fetch``."""
        with self.repo("get data") as repo:
            return objects.fetch(repo, digests, remote)

    def present(self) -> tuple[str, dict[str, str]]:
        """Return the md5 of the listing of data/ as it is now, and the listing."""
        with self.repo("list data/") as repo:
            return objects.present(repo, self.workspace)

    # -- what is out of date
    def status(self) -> dict[str, list[Change]]:
        """See ``Repository.status``."""
        from graft.repository.status import changes_of

        with self.repo("compare the project with dvc.lock") as repo:
            stages = self._stages(repo)
            return changes_of(stages)

    def _stages(self, repo: Repo) -> list[PipelineStage]:
        if not Path(self.file).is_file():
            raise ConfigError(f"{self.file}: no such file; `graft init` writes one")
        if nameless := stages.nameless_files(Path(self.file).parent):
            raise ConfigError(
                f"{nameless[0]}: is null, and dvc.yaml names it as a file; `make dvc.yaml` writes it anew"
            )
        return list(repo.stage.load_all(self.file))

    # -- stages
    def reproduce(self, stage: str, *, force: bool, pull: bool) -> None:
        """Bring one stage up to date in this process (the caller is the group's leader).

        Raises:
            StageFailed: the stage's command failed.
            GraftError: DVC could not run it, or an input is damaged.
        """
        with self.repo(f"run stage {stage}") as repo:
            loaded = self._stages(repo)
            one = next((found for found in loaded if found.name == stage), None)
            if one is None:
                raise ConfigError(f"stage {stage!r}: dvc.yaml has {', '.join(str(found.name) for found in loaded)}")
            _check_sections(one)
            inputs = list(self._inputs(repo, one, loaded))
            if pull:
                _pull_missing(repo, inputs)
            refuse_changed_data(inputs)
            refuse_damaged(repo, self.workspace.root, inputs)
            repo.reproduce(targets=[f"{self.file}:{stage}"], single_item=True, force=force, pull=pull)

    def _inputs(self, repo: Repo, stage: PipelineStage, stages: Sequence[PipelineStage]) -> Iterator[Output]:
        """Yield the outputs of other stages, and data/, that ``stage`` reads."""
        read = {dep.fs_path for dep in stage.deps}
        outs = [out for one in stages for out in one.outs]
        if self.workspace.data_dvc.is_file():
            outs.append(_data(repo, self.workspace))
        yield from (out for out in outs if out.fs_path in read)

    def verify_outputs(self, stages: Sequence[str] | None) -> None:
        """See ``Repository.verify_outputs``."""
        with self.repo("verify outputs") as repo:
            chosen = [one for one in self._stages(repo) if stages is None or one.name in stages]
            refuse_damaged(repo, self.workspace.root, [out for one in chosen for out in one.outs])

    def restore(self, stage: str) -> None:
        """Put the outputs of ``stage`` back as dvc.lock records them, where the cache has them; remove remains."""
        with self.repo(f"put back the outputs of {stage}") as repo:
            outs = [out for one in self._stages(repo) if one.name == stage for out in one.outs]
            for out in outs:
                place = Path(out.fs_path)
                for remains in place.parent.glob(f".{place.name}.*"):
                    shutil.rmtree(remains, ignore_errors=True)
            known = [out for out in outs if out.hash_info and out.workspace_status() and not out.changed_cache()]
            for out in known:
                out.checkout(force=True)

    # -- remotes
    def has_remote(self) -> bool:
        """See ``Repository.has_remote``."""
        with self.repo("look at the default remote") as repo:
            name = repo.config["core"].get("remote")
            url = str(repo.config["remote"].get(name, {}).get("url", "")) if name else ""
            return bool(url) and ("://" in url or Path(url).is_dir())

    @contextlib.contextmanager
    def default_remote(self, doing: str) -> Iterator[tuple[Any, str]]:
        """Yield the file system of the default remote, and where it begins there.

        Raises:
            ResourceMissing: there is none.
        """
        with self.repo(doing) as repo:
            name = _default_remote(repo)
            _make_local_remote(repo)
            remote = repo.cloud.get_remote(name)
            yield remote.fs, str(remote.path)

    def push(self, stages: Sequence[str] | None, *, run_cache: bool) -> int:
        """See ``Repository.push``."""
        with self.repo("push to the default remote") as repo:
            _make_local_remote(repo)
            targets = self._targets(repo, stages)
            if stages is None and self.workspace.data_dvc.is_file() and not _data(repo, self.workspace).remote:
                targets.append(str(self.workspace.data_dvc))
            return int(repo.push(targets=targets, run_cache=run_cache)) if targets else 0

    def pull(self, stages: Sequence[str] | None, *, run_cache: bool) -> int:
        """See ``Repository.pull``."""
        with self.repo("pull from the default remote") as repo:
            _default_remote(repo)
            targets = self._targets(repo, stages)
            if not targets:
                return 0
            return int(repo.pull(targets=targets, run_cache=run_cache)["stats"]["fetched"])

    def _targets(self, repo: Repo, stages: Sequence[str] | None) -> list[str]:
        """Return the addresses of ``stages`` that dvc.lock knows."""
        names = [one for one in self._stages(repo) if any(out.hash_info for out in one.outs)]
        return [f"{self.file}:{one.name}" for one in names if stages is None or one.name in stages]


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    from dvc.config import NoRemoteError, RemoteNotFoundError
    from dvc.exceptions import CheckoutError, DownloadError, DvcException, FileTransferError, NotDvcRepoError
    from dvc.parsing import ResolveError
    from dvc.stage.exceptions import StageCmdFailedError
    from dvc.utils.serialize import ParseError
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    try:
        yield
    except (NoRemoteError, RemoteNotFoundError) as error:
        raise ResourceMissing(f"DVC remote: {error}; name one: `dvc remote add --default shared URL`") from None
    except (DownloadError, FileTransferError, CheckoutError) as error:
        raise ResourceMissing(f"cannot {doing}: {_chain(error)}; is it pushed, and the remote reachable?") from None
    except NotDvcRepoError:
        raise ConfigError(f"cannot {doing}: this is no DVC repository; run `dvc init` at the git root") from None
    except (YAMLSyntaxError, YAMLValidationError, ParseError) as error:
        raise ConfigError(f"cannot {doing}: {_chain(error)}") from None
    except ResolveError as error:  # such as the contract file of a params.yaml that names none any more
        raise ConfigError(f"cannot {doing}: {_chain(error)} in params.yaml; `make dvc.yaml` writes it anew") from None
    except DvcException as error:
        for cause in _causes(error):
            if isinstance(cause, StageCmdFailedError):
                raise StageFailed(_exit_code(str(cause))) from None
            if isinstance(cause, GraftError):
                raise cause from None
        raise GraftError(f"cannot {doing}: {_chain(error)}") from None
    except Exception as error:
        if not (isinstance(error, ConnectionError | TimeoutError) or _package(error) in CLIENTS):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceMissing(
            f"cannot {doing}: {said}; is the remote reachable, and are the credentials in .dvc/config.local or the "
            f"environment?"
        ) from None


def _package(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _chain(error: BaseException) -> str:
    return ": ".join(text for cause in _causes(error) if (text := str(cause).strip()))


def _exit_code(message: str) -> int:
    """DVC has the stage's exit code in its message alone: ``failed to run: CMD, exited with 2``."""
    found = re.search(r"exited with (-?\d+)\s*$", message)
    return int(found.group(1)) if found else 1


def _forget_dead_holders(repo: Repo) -> None:
    """Remove killed processes from DVC's lock table of paths.

    DVC does so itself for processes that are gone, but takes one that is dead and not yet collected (in a container
    without an init process: for ever) for a live one, and tells the user to remove a file by hand.
    """
    from dvc.rwlock import RWLOCK_FILE, _edit_rwlock

    path = Path(str(repo.tmp_dir)) / RWLOCK_FILE
    if not path.is_file() or b'"pid"' not in path.read_bytes():
        return
    with _edit_rwlock(repo.tmp_dir, repo.fs, repo.config["core"].get("hardlink_lock", False)) as table:
        for place, holder in list(table["write"].items()):
            if not _lives(holder["pid"]):
                del table["write"][place]
        for place, holders in list(table["read"].items()):
            table["read"][place] = [holder for holder in holders if _lives(holder["pid"])]
            if not table["read"][place]:
                del table["read"][place]


def _lives(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# -- data.dvc


def _data(repo: Repo, workspace: Workspace) -> Output:
    out: Output = repo.stage.load_one(str(workspace.data_dvc)).outs[0]
    return out


def _commit_missing(repo: Repo, out: Output) -> bool:
    """Put ``out``, which agrees with its record, into the cache where that lacks it; return whether it did."""
    if not out.changed_cache():
        return False
    with repo.lock:
        out.stage.commit()  # unlike ``dvc commit`` it leaves data.dvc as it is
    return True


def _drop_missing_remote(workspace: Workspace, dvc: Dvc) -> None:
    """Drop a read-only ``remote:`` for data that it does not hold: what a plain ``dvc add`` leaves behind."""
    with dvc.repo("read data.dvc") as repo:
        try:
            dvc._check_data_remote(repo, _data(repo, workspace))
        except ConfigError:
            _drop_remote(workspace.data_dvc)


def _drop_remote(path: Path) -> None:
    """Remove ``remote:`` from a .dvc file: ``dvc add`` keeps it, and the new data would be looked for there."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(path, "".join(line for line in lines if not re.match(r"\s+(- )?remote:", line)))


# -- before a stage runs


def _check_sections(stage: PipelineStage) -> None:
    """Name the missing sections as params.yaml's own problem; DVC's words for it are hard to read."""
    from dvc.dependency.param import ParamsDependency

    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            missing = [name for name in dep.params if name not in dep.read_params()]
            if missing and dep.def_path == "sources.lock":
                keys = " and ".join(missing)
                raise ConfigError(f"sources.lock: pins no {keys}, which stage {stage.name} reads; run `graft lock`")
            if missing:
                named = " and ".join(f"`{name}: {{}}`" for name in missing)
                raise ConfigError(
                    f"{dep.def_path}: stage {stage.name} depends on sections that are not there; write {named}"
                )


def _pull_missing(repo: Repo, outs: Iterable[Output]) -> None:
    for out in outs:
        if not out.exists and out.hash_info:
            repo.pull(targets=[out.stage.addressing if out.stage.is_data_source else out.fs_path])


# -- remotes


def _default_remote(repo: Repo) -> str:
    from dvc.config import NoRemoteError

    name: str | None = repo.config["core"].get("remote")
    if not name:
        raise NoRemoteError("no default remote is set")
    return name


def _make_local_remote(repo: Repo) -> None:
    """Make the folder of a default remote that is a folder: a new clone can push at once."""
    settings = repo.config["remote"].get(_default_remote(repo), {})
    url = str(settings.get("url", ""))
    if url and "://" not in url:
        try:
            Path(url).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceMissing(f"DVC remote: cannot make its folder {url}: {error.strerror}") from None
