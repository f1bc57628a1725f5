"""The only place for git, DVC and stage processes: snapshots, worktrees, remotes, what is out of date, running a stage.

One object, :class:`Repository`, stands for one project of one clone. It is light to import and to make: git is called
as a process, DVC is imported by the methods that need it (0.4 CPU seconds), and a stage runs in a process group of its
own. The trade-off of using DVC as a library is that its Python interface is not promised to stay: everything that
touches it lies in ``repository/dvc.py`` and ``repository/__main__.py``, and the tests run it for real.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from graft import stages
from graft.errors import DataError
from graft.repository.git import Git
from graft.repository.provenance import provenance
from graft.workspace import Workspace, locked

if TYPE_CHECKING:
    from graft.repository.dvc import Dvc

Outcome = Literal["cached", "restored", "ran"]
ChangeKind = Literal["param", "code", "data", "artifact", "lock", "out", "command", "stage"]


@dataclass(frozen=True)
class Change:
    """One reason why a stage is out of date. ``old`` is what dvc.lock holds, ``new`` what is there now.

    Params have their values, files the first eight digits of their md5; ``None`` stands for "not there". ``path`` is
    below the project, a param's path is dotted.
    """

    kind: ChangeKind
    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """Return the one-line form: ``training.learning_rate: 0.002 -> 0.001``."""
        if self.kind == "stage":
            return f"{self.path}: {self.new}"
        old, new = ("(none)" if value is None else value for value in (self.old, self.new))
        return f"{self.path}: {old} -> {new}"


@dataclass(frozen=True)
class StageResult:
    """How a stage came to its outputs: ``cached`` (nothing to do), ``restored`` (from the run cache), ``ran``."""

    outcome: Outcome
    seconds: float


class Repository:
    """Git, DVC and stage processes of one project."""

    def __init__(self, workspace: Workspace) -> None:
        """Stand for the project at ``workspace``; nothing is read or started yet."""
        self.workspace = workspace
        self.git = Git(workspace.repository)

    @cached_property
    def dvc(self) -> Dvc:
        """DVC's view of the project (imports DVC)."""
        from graft.repository.dvc import Dvc

        return Dvc(self.workspace)

    def lock(self, purpose: str, *, wait_seconds: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """Hold the project's run lock: one pipeline run at a time in one workspace.

        Raises:
            Locked: another run holds it; the message says which and since when.
        """
        # Below the repository, not the home: runs in worktrees do not wait for each other.
        place = self.workspace.repository / ".graft" / self.workspace.name / "run.lock"
        return locked(place, purpose=purpose, wait_seconds=wait_seconds)

    # -- git
    def commit(self) -> str | None:
        """Return the commit that is checked out; ``None`` before the first commit or outside git."""
        return self.git.head()

    def snapshot(self) -> str:
        """Return a commit of the project's tree as it is now; branch and index stay as they are.

        HEAD itself when nothing differs. The same tree on the same HEAD gives the same commit. A ref
        ``refs/graft/runs/<first 12 digits>`` keeps it.

        Raises:
            ConfigError: there is no commit yet to stand on.
        """
        return self.git.snapshot()

    def commit_of_overrides(self, commit: str, overrides: Mapping[str, Any]) -> str:
        """Return ``commit`` with this project's params.yaml changed by dotted ``overrides``; comments are kept.

        Raises:
            ConfigError: an override names an unknown key or has a wrong value.
        """
        from graft.repository.overrides import checked, without_files

        if not overrides:
            return commit
        path = self.workspace.params.relative_to(self.workspace.repository).as_posix()
        text = checked(self.git.read(commit, path), overrides)
        message = f"graft: overrides {', '.join(sorted(overrides))}"
        changed = self.git.with_file(commit, path, text, message)
        # A file that the overrides take away is no dependency any more, and DVC cannot read its name.
        described = f"{path.removesuffix(self.workspace.params.name)}dvc.yaml"
        gone = [name for name in stages.FILES if name in overrides and overrides[name] is None]
        if not gone:
            return changed
        return self.git.with_file(changed, described, without_files(self.git.read(commit, described), gone), message)

    def push_snapshot(self, commit: str) -> None:
        """Push ``commit`` under its hidden ref to the git remote ``origin``.

        Raises:
            ResourceMissing: there is no such remote, or it cannot be reached or written.
        """
        self.git.push_snapshot(commit)

    def fetch_snapshot(self, commit: str) -> None:
        """Make ``commit`` available here, from ``origin`` where it is not.

        Raises:
            ResourceMissing: neither this clone nor ``origin`` has it.
        """
        self.git.fetch_snapshot(commit)

    def shared_address(self) -> str | None:
        """Return where others find this repository: the git remote ``origin``, without credentials.

        ``None`` where there is none, or where it is a path of this machine.
        """
        from graft.repository.git import is_url, without_credentials

        found = self.git.remote_url() if (self.workspace.repository / ".git").exists() else None
        return without_credentials(found) if found and is_url(found) and not found.startswith("file:") else None

    @contextlib.contextmanager
    def worktree(self, commit: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Workspace]:
        """Yield this project in a temporary worktree at ``commit`` (with ``overrides``), sharing cache and home.

        ``GRAFT_HOME`` and ``GRAFT_BASES`` are set while it lasts, for this process and its children. The worktree is
        removed at the end, those that killed runs left behind at the beginning.

        Raises:
            ConfigError: an override is wrong.
            ResourceMissing: the commit is neither here nor in ``origin``.
        """
        from graft.repository.worktrees import worktree

        self.fetch_snapshot(commit)
        with worktree(self.workspace, self.git, self.commit_of_overrides(commit, overrides or {})) as inner:
            yield inner

    def remove_stale_worktrees(self) -> list[str]:
        """Remove the worktrees that killed runs left behind; return their names."""
        from graft.repository.worktrees import remove_stale

        return remove_stale(self.workspace, self.git)

    # -- data
    def data_changes(self, *, cache: bool = False) -> list[str]:
        """Return what differs between data/ and data.dvc, as ``data/train/a.jsonl: modified`` (or added, deleted).

        Empty where they agree, and where data/ is absent but data.dvc names it (:meth:`pull_data` gets it). With
        ``cache``, data that agrees is also put into the DVC cache where that lacks it, as :meth:`cache_data` does.

        Raises:
            ConfigError: data.dvc names a remote inside the repository that does not hold its data.
        """
        return self.dvc.data_changes(cache=cache)

    def refuse_changed_data(self) -> None:
        """Refuse data that is not what data.dvc records.

        Raises:
            DataError: with each file that was changed, added or deleted.
        """
        if changes := self.data_changes():
            raise DataError.from_problems(
                f"data/ differs from data.dvc ({len(changes)} file{'s' if len(changes) > 1 else ''}); `graft run "
                f"--add-data` records the change, `dvc checkout data.dvc` undoes it",
                changes,
            )

    def add_data(self, provenance: Mapping[str, Any] | None = None) -> bool:
        """Record data/ in data.dvc where they differ (and drop its ``remote:``); return whether it says anything new.

        ``provenance``: where the data comes from, kept in data.dvc until other data takes its place.
        """
        return self.dvc.add_data(provenance)

    def provenance(self) -> dict[str, Any]:
        """Return where the data of data.dvc comes from, as its import said; empty where nobody did."""
        return provenance(self.workspace.data_dvc)

    def pull_data(self) -> bool:
        """Get data/ from its remote where the workspace lacks it; return whether it did.

        Raises:
            ResourceMissing: the remote cannot be reached or lacks it.
        """
        return self.dvc.pull_data()

    def pull_recorded_data(self, recorded_by: str) -> None:
        """Get data/ from its remote, every byte hashed against the record; ``recorded_by`` names it in messages.

        Raises:
            IntegrityError: the remote holds other bytes; the message has each file, the digest expected and found.
            ResourceMissing: the remote cannot be reached or lacks it.
        """
        self.dvc.pull_recorded_data(recorded_by)

    def cache_data(self) -> bool:
        """Put data/ into the DVC cache where it agrees with data.dvc and the cache lacks it; return whether it did.

        So it is after the cache was cleaned, or where data/ was copied into a clone: DVC would call it changed.
        """
        return self.dvc.cache_data()

    # -- stages
    def status(self) -> dict[str, list[Change]]:
        """Return why each stage is out of date, in the order of the chain; an empty list says it is current."""
        return self.dvc.status()

    def is_current(self) -> bool:
        """Return whether every stage is current: nothing would run."""
        return not any(self.status().values())

    def verify_outputs(self, stages: Sequence[str] | None = None) -> None:
        """Hash what ``stages`` (default: all) wrote, from its bytes, against dvc.lock; DVC itself never does.

        Raises:
            IntegrityError: a file differs; the message names it.
        """
        self.dvc.verify_outputs(stages)

    def restore(self, stages: Sequence[str]) -> None:
        """Put the outputs of ``stages`` back as dvc.lock records them, where the cache has them."""
        for stage in stages:
            self.dvc.restore(stage)

    def run_stage(
        self,
        stage: str,
        *,
        force: bool = False,
        pull: bool = False,
        on_line: Callable[[str], None] = print,
        environment: Mapping[str, str] | None = None,
    ) -> StageResult:
        """Bring one stage up to date through DVC, in a process group that dies with this process.

        ``pull`` takes its result from the default remote's run cache where one is there; ``environment`` is added to
        the stage's. Each line of output goes to ``on_line`` as it comes. If the stage fails or this call is
        interrupted, the group is killed and the stage's previous outputs are put back.

        Raises:
            GraftError: of the class that the stage's exit code stands for, with the message that it printed.
        """
        from graft.repository.processes import run_stage

        return run_stage(self, stage, force=force, pull=pull, on_line=on_line, environment=environment or {})

    # -- remotes
    def has_remote(self) -> bool:
        """Return whether a default remote is set and, where it is a folder, there; others are not asked."""
        return self.dvc.has_remote()

    def push(self, stages: Sequence[str] | None = None, *, run_cache: bool = True) -> int:
        """Push the outputs of ``stages`` (default: all, and data/) and the run cache; return how many files went.

        Raises:
            ResourceMissing: no default remote, or it cannot be reached or written.
        """
        return self.dvc.push(stages, run_cache=run_cache)

    def pull(self, stages: Sequence[str] | None = None, *, run_cache: bool = True) -> int:
        """Pull the outputs of ``stages`` as dvc.lock names them, and the run cache; return how many files came.

        Raises:
            ResourceMissing: no default remote, or it lacks them.
        """
        return self.dvc.pull(stages, run_cache=run_cache)

    # -- parts
    def pull_parts(self, stage: str, on_line: Callable[[str], None] = print) -> dict[str, int]:
        """Get the results of single parts that the default remote has and this clone lacks.

        Returns:
            How many were ``pulled``, how many parts are ``missing`` still, and the ``bytes`` of those.

        Raises:
            ResourceMissing: no default remote, or it cannot be reached.
            IntegrityError: a result there is damaged.
        """
        return self._exchange(stage, [], on_line)

    def push_parts(self, stage: str, on_line: Callable[[str], None] = print) -> dict[str, int]:
        """Put the results of single parts into the default remote; return how many were ``pushed``.

        Raises:
            ResourceMissing: no default remote, or it cannot be reached or written.
        """
        return self._exchange(stage, ["--push"], on_line)

    def share_parts(self, stage: str, number: int, of: int, on_line: Callable[[str], None] = print) -> dict[str, int]:
        """Make share ``number`` of ``of`` of the results of a stage's parts, push it; return how many were ``made``.

        Raises:
            ResourceMissing: no default remote, or it cannot be reached or written.
            GraftError: whatever the stage refuses before it begins.
        """
        return self._exchange(stage, ["--share", str(number), str(of)], on_line)

    # -- the adapter that training starts from
    def push_start(self, source: str | None) -> bool:
        """Put the adapter that ``training.init_from`` names into the default remote; return whether it had to go.

        Raises:
            ConfigError: sources.lock pins another one.
            ResourceMissing: the adapter is neither here nor there, or no default remote, or it cannot be written.
        """
        from graft.artifact.starts import pinned
        from graft.repository.exchange import push_start

        start = pinned(self.workspace, source)
        return start is not None and push_start(self.dvc, start)

    def pull_start(self, source: str | None) -> bool:
        """Get the adapter that ``training.init_from`` names, where the default remote has it; return whether it came.

        Raises:
            ConfigError: sources.lock pins another one.
            IntegrityError: what the remote has is damaged, or another adapter.
            ResourceMissing: no default remote, or it cannot be reached.
        """
        from graft.artifact.starts import pinned
        from graft.repository.exchange import pull_start

        start = pinned(self.workspace, source)
        return start is not None and pull_start(self.dvc, start)

    def _exchange(self, stage: str, arguments: list[str], on_line: Callable[[str], None]) -> dict[str, int]:
        from graft.repository.processes import exchange_parts

        return exchange_parts(self, stage, arguments, on_line)


__all__ = ["Change", "Repository", "StageResult"]
