"""Git by plumbing commands: commits of the working tree that leave branch, index and history alone.

A snapshot is made with a temporary copy of the index, so ``git status`` and the stash never see it. Author, committer
and dates are fixed: the same tree on the same parent is the same commit on every machine, with no identity configured.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from graft.errors import ConfigError, GraftError, ResourceMissing, shown

REFS = "refs/graft/runs"
REMOTE = "origin"
LARGEST_UNTRACKED_BYTES = 10_000_000
SECRETS = (".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_ed25519*", ".netrc", "*credentials*", "*.kdbx")
"""Untracked files that stay out of snapshots: snapshots are pushed."""

# Set by git for hooks; they would send every command to the repository that runs the hook.
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
_FIXED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_AUTHOR_NAME": "Graft",
    "GIT_AUTHOR_EMAIL": "graft@localhost",
    "GIT_COMMITTER_NAME": "Graft",
    "GIT_COMMITTER_EMAIL": "graft@localhost",
    "LC_ALL": "C",
}
_log = logging.getLogger(__name__)


class Git:
    """The git repository at ``root``."""

    def __init__(self, root: Path) -> None:
        """Stand for the repository whose working tree begins at ``root``."""
        self.root = root

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None, given: bytes | None = None) -> str:
        """Run one git command in the root; return what it printed, without the last line break.

        Raises:
            GraftError: it failed; the message is git's.
            ResourceMissing: git is not installed.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in _LOCAL}
        try:
            done = subprocess.run(
                ["git", "-c", "core.quotePath=false", "-c", "log.showSignature=false", *arguments],
                cwd=self.root,
                env={**inherited, **_FIXED, **(environment or {})},
                input=given if given is not None else b"",
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise ResourceMissing("git: not installed, or not on PATH; install git") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise GraftError(f"git {arguments[0]}: {said}")
        return done.stdout.decode(errors="surrogateescape").removesuffix("\n")

    def head(self) -> str | None:
        """Return the commit that is checked out, ``None`` where there is none."""
        return self.resolve("HEAD")

    def resolve(self, name: str) -> str | None:
        """Return the commit that ``name`` stands for in this clone, ``None`` where it stands for none."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except GraftError as error:
            if isinstance(error, ResourceMissing):
                raise
            return None

    def read(self, commit: str, path: str) -> str:
        """Return a file's text as ``commit`` holds it.

        Raises:
            ConfigError: the commit has no such file.
        """
        try:
            return self.run("cat-file", "blob", f"{commit}:{path}") + "\n"
        except ResourceMissing:
            raise
        except GraftError as error:
            raise ConfigError(f"{path}: not in commit {commit[:12]}: {error}") from None

    # -- snapshots
    def snapshot(self) -> str:
        """Return a commit of the working tree as it is; see ``Repository.snapshot``."""
        head = self.head()
        if head is None:
            raise ConfigError(
                f"{self.root}: no commit to stand on; run `git init`, `git add -A` and `git commit` first"
            )
        with self._index_copy() as environment:
            self.run("add", "--update", "--", ".", environment=environment)
            untracked = "".join(f"{name}\0" for name in self._untracked())
            if untracked:
                given = untracked.encode(errors="surrogateescape")
                self.run("update-index", "--add", "-z", "--stdin", environment=environment, given=given)
            tree = self.run("write-tree", environment=environment)
        return self.keep(self._commit(tree, head, "graft: the working tree of a run"))

    def with_file(self, commit: str, path: str, text: str, message: str) -> str:
        """Return a commit on ``commit`` in which the file at ``path`` holds ``text``."""
        blob = self.run("hash-object", "-w", "--stdin", given=text.encode())
        with tempfile.TemporaryDirectory() as folder:
            environment = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.run("read-tree", commit, environment=environment)
            self.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=environment)
            tree = self.run("write-tree", environment=environment)
        return self.keep(self._commit(tree, commit, message))

    def keep(self, commit: str) -> str:
        """Keep ``commit`` from git's garbage collection by its hidden ref; return it."""
        self.run("update-ref", ref_of(commit), commit)
        return commit

    def _commit(self, tree: str, parent: str, message: str) -> str:
        if self.run("rev-parse", f"{parent}^{{tree}}") == tree:
            return parent
        # The parent's own date: fixed, and no later than what stands on it.
        date = self.run("show", "--no-patch", "--format=@%ct +0000", parent)
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        return self.run("commit-tree", tree, "-p", parent, "-m", message, environment=dates)

    def _index_copy(self) -> _IndexCopy:
        return _IndexCopy(self.root / self.run("rev-parse", "--git-path", "index"))

    def _untracked(self) -> Iterator[str]:
        """Yield the untracked files that a snapshot takes; warn of each that it leaves out."""
        for name in self.run("ls-files", "--others", "--exclude-standard", "-z").split("\0"):
            path = self.root / name
            if not name or name.endswith("/") or not (path.is_file() or path.is_symlink()):
                continue
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in SECRETS):
                _log.warning("%s: left out of the run's snapshot: it looks like a secret; ignore or commit it", name)
            elif path.lstat().st_size > LARGEST_UNTRACKED_BYTES:
                _log.warning(
                    "%s: left out of the run's snapshot: over 10 MB; name it in .gitignore, or track it with DVC", name
                )
            else:
                yield name

    # -- the remote
    def push_snapshot(self, commit: str) -> None:
        """Push ``commit`` under its hidden ref; see ``Repository.push_snapshot``."""
        self._need_remote()
        try:
            self.run("push", "--quiet", "--no-verify", REMOTE, f"{commit}:{ref_of(commit)}")
        except GraftError as error:
            raise ResourceMissing(f"git remote {REMOTE}: cannot push the run's commit {commit[:12]}: {error}") from None

    def fetch_snapshot(self, commit: str) -> None:
        """Make ``commit`` available; see ``Repository.fetch_snapshot``."""
        if self.resolve(commit) is not None:
            return
        self._need_remote()
        said = ""
        for wanted in ([f"+{ref_of(commit)}:{ref_of(commit)}"], [commit], []):  # its ref, its id, all branches
            try:
                self.run("fetch", "--quiet", "--no-tags", REMOTE, *wanted)
            except GraftError as error:
                said = said or str(error)
            if self.resolve(commit) is not None:
                self.keep(commit)
                return
        raise ResourceMissing(
            f"git remote {REMOTE}: has no commit {shown(commit)} ({said or 'not on any branch'}); "
            "push it from the clone that made the run"
        )

    def remote_url(self, name: str = REMOTE) -> str | None:
        """Return the address of a remote as the clone's configuration has it, a path made absolute; None: no such."""
        try:
            url = self.run("config", "--get", f"remote.{name}.url")
        except ResourceMissing:
            raise
        except GraftError:
            return None
        return url if is_url(url) else str((self.root / url).resolve())

    def settings(self, prefixes: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return the clone's own settings (key, value) whose keys begin so."""
        found = self.run("config", "--local", "--list", "--null").split("\0")
        pairs = [(key, value) for key, _, value in (one.partition("\n") for one in found if one)]
        return [(key, value) for key, value in pairs if key.startswith(prefixes)]

    def fetch_commit(
        self, commit: str, url: str, *, ref: str | None = None, settings: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Get ``commit`` from ``url``: by its hidden ref, by its id, or from a branch; it is kept under its hidden ref.

        ``url`` and ``settings`` go to git by its environment: no credential in them is written or listed anywhere.

        Raises:
            ResourceMissing: it is not there, or nobody answers.
        """
        first, given = int(os.environ.get("GIT_CONFIG_COUNT") or 0), [("remote.source.url", url), *settings]
        environment = {"GIT_CONFIG_COUNT": str(first + len(given))}
        for number, (key, value) in enumerate(given, start=first):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        said, wanted = "", ref or ref_of(commit)
        for what in ([f"+{wanted}:{wanted}"], [commit], ["+refs/heads/*:refs/remotes/source/*"]):
            try:
                self.run("fetch", "--quiet", "--no-tags", "source", *what, environment=environment)
            except GraftError as error:
                said = said or str(error).replace(url, without_credentials(url))
            if self.resolve(commit) is not None:
                self.keep(commit)
                return
        raise ResourceMissing(f"git remote {without_credentials(url)}: has no such commit ({said or 'on no branch'})")

    def _need_remote(self) -> None:
        if REMOTE not in self.run("remote").split():
            raise ResourceMissing(f"git remote {REMOTE}: none here; add one: `git remote add {REMOTE} URL`")


class _IndexCopy:
    """A context: the environment that sends git to a temporary copy of ``index`` (its file times spare hashing)."""

    def __init__(self, index: Path) -> None:
        self.index = index

    def __enter__(self) -> dict[str, str]:
        self.folder = tempfile.mkdtemp(prefix="graft-index-")
        copy = Path(self.folder) / "index"
        if self.index.is_file():
            shutil.copy2(self.index, copy)
        return {"GIT_INDEX_FILE": str(copy)}

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def ref_of(commit: str) -> str:
    """Return the hidden ref that keeps ``commit``."""
    return f"{REFS}/{commit[:12]}"


def is_url(address: str) -> bool:
    """Return whether a remote's address is a URL or ``host:path``, and no path of this machine."""
    return "://" in address or re.match(r"[^/]+:(?!//)", address) is not None


def without_credentials(url: str) -> str:
    """Return a URL without what lets somebody in: user and password of http (either may be a token), else the password.

    What is no URL comes back as it is.
    """
    if re.match(r"https?://", url, flags=re.I):
        return re.sub(r"^(https?://)[^/]*@", r"\1", url, flags=re.I)
    return re.sub(r"^([a-z0-9+.-]+://[^/:@]*):[^/@]*@", r"\1@", url, flags=re.I)
