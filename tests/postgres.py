"""A PostgreSQL cluster of its own on a loopback port, for tests that want a database with true concurrency."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft import services

PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt")


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Yield the URI of an empty database; skip where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg2", reason="needs psycopg2 (the extra `team`)")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl (Debian: postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="graft-pg-")), services.free_port()
    user = _other_user(folder)
    data, log = str(folder / "data"), str(folder / "log")
    try:
        _run([binaries / "initdb", "-D", data, "-U", "graft", "--auth=trust", "-E", "UTF8", "--locale=C"], user)
        options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        _run([binaries / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start"], user)
        try:
            yield f"postgresql://graft@127.0.0.1:{port}/postgres"
        finally:
            _run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    beside = [Path(found).resolve().parent] if found else []
    newest = sorted((one for place in PLACES for one in Path(place).glob("*/bin")), reverse=True)
    return next(
        (one for one in [*beside, *newest] if all((one / name).exists() for name in ("initdb", "pg_ctl"))), None
    )


def _other_user(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: give the folder to another user and return how to become that one."""
    if os.geteuid() != 0:
        return {}
    names = {one.pw_name: one for one in pwd.getpwall()}
    found = names.get("postgres") or names["nobody"]
    os.chown(folder, found.pw_uid, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _run(command: list[Any], user: dict[str, Any]) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **user,
    )
    assert done.returncode == 0, done.stderr
