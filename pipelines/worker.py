"""Serve a work pool from this clone: register what belongs to the pool, then become Prefect's own process worker.

``graft worker`` starts this with the settings of the clone; each flow run becomes a process in the clone's folder, with
the clone's code, because prefect.yaml's pull step reads the folder from ``GRAFT_CLONE``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import get_client

from graft.errors import GraftError
from pipelines.deployments import register
from pipelines.launch import said

QUERY_SECONDS = "2"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare and start the worker; return the exit code where it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.worker", description=__doc__)
    parser.add_argument("--pool", default="graft", help="the work pool to serve")
    parser.add_argument("--name", help="what the worker is called in the UI (default: host and process)")
    parser.add_argument("--limit", type=int, help="how many runs at a time")
    given = parser.parse_args(arguments)
    try:
        with get_client(sync_client=True) as client:
            for name in register(client, Path.cwd(), given.pool):
                print(f"registered {name}", flush=True)
    except GraftError as error:
        return said(f"error: {error}", error.exit_code)
    command = ["worker", "start", "--pool", given.pool, "--type", "process"]
    command += ["--name", given.name or f"{socket.gethostname()}-{os.getpid()}"]
    command += ["--limit", str(given.limit)] if given.limit else []
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", QUERY_SECONDS)
    _end_by_signals()
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.prefect_worker", *command])


def _end_by_signals() -> None:
    """Let SIGTERM, and the death of ``graft worker``, end the worker, also where a script started it in the background.

    Prefect's worker turns SIGTERM into SIGINT, which a shell's background jobs ignore.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; it holds beyond exec


if __name__ == "__main__":
    sys.exit(main())
