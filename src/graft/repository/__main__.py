"""``python -m graft.repository reproduce|parts STAGE``: the leader of a stage's process group.

It runs the stage through DVC, or works on its parts ahead of it, and watches its standard input, a pipe that the caller
holds open. When the caller dies, even by SIGKILL, the pipe closes and the whole group is killed: no training goes on
that nobody waits for. It is a process of its own because DVC runs stages in the calling process's group, and leaves
them behind when it is killed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading

from graft.errors import GraftError
from graft.repository.dvc import LOGGERS, Dvc, StageFailed
from graft.workspace import Workspace


def main() -> int:
    """Run one stage; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m graft.repository")
    parser.add_argument("command", choices=["reproduce", "parts"])
    parser.add_argument("stage")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--pull", action="store_true")
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--share", type=int, nargs=2, metavar=("NUMBER", "OF"))
    given = parser.parse_args()
    end_group_with_caller()
    show_log()
    try:
        if given.command == "parts":
            print(json.dumps(_parts(given)), flush=True)
        else:
            Dvc(Workspace.find(), log_level=logging.INFO).reproduce(given.stage, force=given.force, pull=given.pull)
    except StageFailed as failed:
        return failed.exit_code if failed.exit_code >= 0 else 128 - failed.exit_code
    except GraftError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def _parts(given: argparse.Namespace) -> dict[str, int]:
    """Exchange the results of a stage's parts with the remote; return what was done."""
    from graft.repository.exchange import Exchange

    exchange = Exchange(Dvc(Workspace.find()), given.stage)
    if given.share:
        return exchange.share(*given.share)
    return exchange.push() if given.push else exchange.pull()


def end_group_with_caller() -> None:
    """Kill this process's group when standard input ends, or on SIGTERM; the stage gets an empty input instead."""
    lifeline = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)

    def end(*_: object) -> None:
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(75)

    def watch() -> None:
        while os.read(lifeline, 1024):
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def show_log() -> None:
    """Print DVC's log lines, plain and at once, in order with the stage's own."""
    import dvc.repo  # noqa: F401 (sets up handlers of its own, which this function replaces)

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # "run: git add": the run snapshots by itself


if __name__ == "__main__":
    sys.exit(main())
