"""The way from a shell into a flow: settings and an API before Prefect is imported, messages, exit codes.

Prefect reads its settings when it is imported, and a server takes as long to start as Prefect takes to import. So this
module, which imports neither, settles the first and starts the second, and then calls the flow.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from graft import runs, services
from graft.errors import GraftError, Interrupted, ResourceMissing
from graft.workspace import Workspace, suggested

FIRST_START = "making Prefect's database (first run of this clone, some seconds) ..."


def launch(workspace: Workspace, load: Callable[[], Callable[[], int]]) -> int:
    """Call a flow against this clone's Prefect API; return the exit code.

    ``load`` imports the flow, while the server starts, and returns what calls it.
    """
    os.environ.update(services.environment(workspace))
    os.environ["GRAFT_CLONE"] = str(workspace.repository)  # flows name projects below it
    # Python's own handler raises KeyboardInterrupt: `graft cancel` and Ctrl-C are one thing.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not services.server_url(workspace) and not (services.prefect_home(workspace) / "prefect.db").exists():
            print(FIRST_START, flush=True)
        with services.prefect_api(workspace) as (url, wait):
            if services.server_url(workspace) != url:
                os.environ["GRAFT_PRIVATE_API"] = "1"
            os.environ[services.API_VARIABLE] = url
            return _called(workspace, load, wait)
    except KeyboardInterrupt:
        return said("interrupted; the same command resumes", Interrupted.exit_code)
    except GraftError as error:
        return said(f"error: {error}", error.exit_code)


def _called(workspace: Workspace, load: Callable[[], Callable[[], int]], wait: Callable[[], str]) -> int:
    call = load()
    from httpx import TransportError
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from pipelines import journal, logs

    wait()
    try:
        # A flow waits a second for its heartbeat thread to end; who watches this run is this process and run.json.
        with logs.terminal(), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            try:
                return call()
            finally:
                flush()
    except TransportError as error:
        url = os.environ[services.API_VARIABLE]
        raise ResourceMissing(f"Prefect at {url}: {error}; is it still running?") from None
    except KeyboardInterrupt:
        for run in runs.listed(workspace):
            if run.facts.get("process") == os.getpid() and run.facts.get("flow_run"):
                journal.show_cancelled(run.facts["flow_run"])
                break
        raise


def flush() -> None:
    """Send what Prefect's threads still hold: at interpreter exit the last task states may get lost."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10, at_exit=False)
    APILogWorker.drain_all(timeout=10, at_exit=False)


def said(message: str, exit_code: int) -> int:
    """Print ``message`` on standard error; return ``exit_code``."""
    print(suggested(message), file=sys.stderr, flush=True)
    return exit_code
