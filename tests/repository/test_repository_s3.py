"""DVC remotes by DVC's own configuration: data and run cache through a local S3 server; secrets in no file, no log."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.errors import ResourceMissing
from graft.repository import Repository
from graft.repository.objects import tracked
from graft.repository.remotes import remotes
from graft.workspace import Workspace

NEEDED = {"moto": "make venv EXTRAS=demo,dev,s3-server", "dvc_s3": "make venv EXTRAS=demo,dev,s3"}
MISSING = [f"{name} ({how})" for name, how in NEEDED.items() if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
BUCKET = "bucket"
KEY_ID, SECRET = "AKIAEXAMPLEEXAMPLE99", "s3cr3t/of+the*bucket/0123456789abcdefghij"

Git = Callable[..., str]
Executed = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "aws").touch()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server with one empty bucket, on the loopback alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "server.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")).close()
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, (tmp_path / "server.log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()


def dvc(clone: Workspace, *arguments: str) -> str:
    """Run DVC's own command, as the guide says."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=clone.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def give_credentials(clone: Workspace) -> None:
    """Write what nobody else may see to the clone's own settings, which git ignores."""
    dvc(clone, "remote", "modify", "--local", "shared", "access_key_id", KEY_ID)
    dvc(clone, "remote", "modify", "--local", "shared", "secret_access_key", SECRET)


@pytest.fixture
def on_s3(clone: Workspace, git: Git, endpoint: str) -> Workspace:
    """The clone with its default remote on the server, committed and pushed; credentials in config.local."""
    dvc(clone, "remote", "modify", "shared", "url", f"s3://{BUCKET}/store")
    dvc(clone, "remote", "modify", "shared", "endpointurl", endpoint)
    give_credentials(clone)
    git(clone.root, "commit", "--quiet", "-am", "the remote is on S3")
    git(clone.root, "push", "--quiet", "origin", "main")
    return clone


def secret_places(*folders: Path) -> list[str]:
    """Return the files below ``folders`` that hold the secret."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folders[0].parent).as_posix() for path in files if SECRET.encode() in _bytes(path))


def _bytes(path: Path) -> bytes:
    import zlib

    content = path.read_bytes()
    try:  # a loose object of git
        return content + zlib.decompress(content)
    except zlib.error:
        return content


def test_data_and_results_meet_on_s3_and_secrets_stay_at_home(
    on_s3: Workspace,
    tmp_path: Path,
    git: Git,
    executed: Executed,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    first, said = Repository(on_s3), list[str]()
    for stage in ("first", "second"):
        assert first.run_stage(stage, on_line=said.append).outcome == "ran"
    git(on_s3.root, "add", "-A")
    git(on_s3.root, "commit", "--quiet", "-m", "results")
    git(on_s3.root, "push", "--quiet", "origin", "main")
    commit = first.snapshot()
    assert first.push() > 0
    assert [(one.name, one.problem) for one in remotes(first.dvc) if one.default] == [("shared", None)]

    git(tmp_path, "clone", "--quiet", "origin.git", "second")
    other = Workspace(tmp_path / "second")
    second = Repository(other)
    with pytest.raises(ResourceMissing, match="cannot get data/") as caught:
        second.pull_data()
    said.append(str(caught.value))
    give_credentials(other)
    assert second.pull_data()
    assert second.data_changes() == []
    (other.root / "dvc.lock").unlink()  # as on a worker: the run cache alone knows
    before = executed()
    for stage in ("first", "second"):
        assert second.run_stage(stage, pull=True, on_line=said.append).outcome == "restored"
    assert executed() == before
    assert (other.root / "artifacts/second/result.txt").read_text() == "GOOD TEXT\nGOOD TEXT\n"

    shutil.rmtree(other.root / ".dvc" / "cache")
    listing = second.dvc.listing(tracked(second.git.read("HEAD", "data.dvc"), "data.dvc"))
    found = second.dvc.fetch([listing["train/a.txt"]], None)
    assert found[listing["train/a.txt"]].read_text() == "good text\n"
    with first.worktree(commit) as inner:
        shutil.rmtree(inner.data, ignore_errors=True)
        assert Repository(inner).pull_data()
        assert (inner.data / "test/b.txt").read_text() == "other text\n"

    # In config.local of each clone, and nowhere else: no commit, no log, no message, no line of a stage.
    assert secret_places(on_s3.root, other.root, tmp_path / "origin.git") == [
        "clone/.dvc/config.local",
        "second/.dvc/config.local",
    ]
    printed = capfd.readouterr()
    assert SECRET not in "\n".join([*said, caplog.text, printed.out, printed.err])
    assert SECRET not in (tmp_path / "server.log").read_text()


def test_credentials_may_come_from_the_environment(on_s3: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (on_s3.root / ".dvc" / "config.local").unlink()
    repository = Repository(on_s3)
    with pytest.raises(ResourceMissing, match="push to the default remote"):
        repository.push()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert repository.push() > 0
    assert secret_places(on_s3.root) == []


def test_a_server_that_is_away_is_one_short_message(on_s3: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    dvc(on_s3, "remote", "modify", "shared", "endpointurl", f"http://127.0.0.1:{port}")
    with pytest.raises(ResourceMissing, match=r"cannot push to the default remote: .*reachable") as caught:
        Repository(on_s3).push()
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 400
