"""A clean clone at a commit: of the git remote, with an empty DVC cache, a home of its own and data pulled by hash.

Everything that could hide a loss is left out: what only this clone still has (said where it is used), what the DVC
cache holds, what the run cache remembers. A commit is named by the digest of its contents, so it does not matter for
what comes out where it was fetched from, only for who else could do the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.errors import ConfigError, GraftError, InputError, ResourceMissing, shown
from graft.repository import Repository
from graft.repository.git import REMOTE, Git, ref_of, without_credentials
from graft.repository.worktrees import carry_dvc_settings, environment_of
from graft.workspace import Workspace

HERE = "this repository"
CARRIED = ("credential.", "http.", "https.", "core.sshcommand", "url.", "ssh.", "protocol.")
"""Settings of the clone that decide whether and how a remote is reached; they are passed on, and written nowhere."""


@dataclass(frozen=True)
class Clone:
    """The project in a clone."""

    workspace: Workspace
    fetched_from: str
    """The git remote, without credentials; ``this repository`` where no remote had the commit."""


@contextlib.contextmanager
def clean_clone(
    workspace: Workspace, commit: str, *, remote: str | None = None, source: str | None = None
) -> Iterator[Clone]:
    """Yield the project in a temporary clone at ``commit``, with an empty cache and a home of its own.

    Args:
        workspace: The project here, whose remotes and DVC settings are used.
        commit: The commit.
        remote: The git remote that the version's run named. Whoever can edit a version's tags can write one, and its
            code would run here: it is used only where this repository has it as a remote.
        source: A git URL that the user names in its place.

    Raises:
        InputError: ``remote`` is none of this repository's.
        ResourceMissing: the commit cannot be had.
    """
    repository = Repository(workspace)
    with tempfile.TemporaryDirectory(prefix="graft-reproduce-") as folder:
        root = Path(folder).resolve() / "clone"
        root.mkdir()
        fetched_from = _fetch(repository.git, Git(root), commit, source or _url(repository.git, remote))
        inner = Workspace(root / workspace.name)
        Git(root).run("checkout", "--quiet", "--detach", commit)
        if not inner.params.is_file():
            raise ConfigError(
                f"commit {commit[:12]}: has no {workspace.name}/params.yaml; run the command in the version's own "
                f"project (`graft projects`, `graft -C DIR reproduce`)"
            )
        carry_dvc_settings(workspace, inner, cache=False)
        with environment_of(workspace, home=root):
            yield Clone(inner, fetched_from)


def _url(git: Git, remote: str | None) -> str | None:
    """Return the URL to fetch from, as this repository's configuration has it; None: it has no remote.

    Raises:
        InputError: the version names a remote that this repository does not have.
    """
    urls = {name: git.remote_url(name) for name in git.run("remote").split()}
    if remote is None:
        return urls.get(REMOTE)
    for url in urls.values():
        if url and without_credentials(url) == remote:
            return url
    raise InputError(
        f"the version's run names the git remote {shown(remote)}, which is none of this repository's; if you trust it, "
        f"`--from {remote}`, or `git remote add NAME {remote}`"
    )


def _fetch(here: Git, clone: Git, commit: str, url: str | None) -> str:
    """Bring ``commit`` into a new, empty clone; return where it came from."""
    clone.run("init", "--quiet", "--initial-branch=main")
    said = "there is no git remote"
    if url is not None:
        try:
            clone.fetch_commit(commit, url, settings=here.settings(CARRIED))
            return without_credentials(url)
        except GraftError as error:
            said = str(error)
    if here.resolve(commit) is None:
        raise ResourceMissing(f"commit {commit[:12]}: {said}; push it from the clone that made the run")
    here.keep(commit)
    clone.fetch_commit(commit, str(here.root.resolve()), ref=ref_of(commit))
    return HERE
