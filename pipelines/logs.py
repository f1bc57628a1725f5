"""What a run says, and where: Prefect's UI, log.txt of the run, the terminal.

Prefect logs every exception with its traceback, twice (task and flow). For an error that Graft raises on purpose the
message is all there is to know, so it is logged once, without traceback; unknown errors keep theirs.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from graft.errors import GraftError
from graft.workspace import suggested

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
CHATTER = ("Beginning flow run", "Finished in state", "View at", "Crash detected!", "Running stage '", "> ")
NAME_WIDTH = 10


class KnownErrors(logging.Filter):
    """Reduces a record about a :class:`GraftError` to its message, and says it once."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; change it on the way."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, GraftError):
            if getattr(error, "logged", False):
                return False
            error.logged = True  # type: ignore[attr-defined]
            record.msg, record.args = "%s: %s", (type(error).__name__, error)
            record.exc_info, record.exc_text = None, None
            record.known_error = True
        elif isinstance(record.msg, str) and record.msg.startswith("Finished in state Failed"):
            record.msg, record.args = "Finished in state Failed", ()
        elif isinstance(record.args, tuple):
            record.args = tuple(FirstLine(one) if isinstance(one, GraftError) else one for one in record.args)
        return True


class FirstLine:
    """Stands for a known error in a line about something else, such as the next try."""

    def __init__(self, error: GraftError) -> None:
        self.text = str(error).partition("\n")[0]

    def __repr__(self) -> str:
        return self.text


class Plain(logging.Formatter):
    """``train      step 40/260, loss 1.21``: the stage, then its line; a flow's lines stand alone."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stage = getattr(record, "task_run_name", None)
        text = super().format(record)
        if not stage:
            return text
        lines = (line.removeprefix(f"{stage}: ") for line in text.splitlines())
        return "\n".join(f"{stage:<{NAME_WIDTH}} {line}" for line in lines)


class Shown(Plain):
    """The line as a person at a terminal reads it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the project that the user named in the commands that it suggests."""
        return suggested(super().format(record))


def without_chatter(record: logging.LogRecord) -> bool:
    """Return whether a person at a terminal wants the record: the run's own lines, warnings, unknown errors."""
    if hasattr(record, "known_error"):  # the command itself ends with the message
        return False
    if record.name in RUN_LOGGERS:
        return not str(record.msg).startswith(CHATTER)
    return record.levelno >= logging.WARNING and "EventsWorker" not in record.name  # it says that it waits at the end


def shorten_known_errors() -> None:
    """Install :class:`KnownErrors` on the loggers of flow and task runs, once per process."""
    for name in RUN_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, KnownErrors) for one in logger.filters):
            logger.addFilter(KnownErrors())


@contextlib.contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Append every line of the run to ``path`` as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(Plain("%(asctime)s %(levelname)-7s %(message)s"))
    loggers = [logging.getLogger(name) for name in RUN_LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def terminal(stream: TextIO | None = None) -> Iterator[None]:
    """Show the run's lines plainly on ``stream`` (default: standard output) in place of Prefect's own console log."""
    root = logging.getLogger()
    loggers = [root, logging.getLogger("prefect"), *(logging.getLogger(name) for name in RUN_LOGGERS)]
    replaced = [(one, console) for one in loggers for console in one.handlers if is_console(console)]
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(Shown("%(message)s"))
    handler.addFilter(without_chatter)
    for logger, console in replaced:
        logger.removeHandler(console)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, console in replaced:
            logger.addHandler(console)


def is_console(handler: logging.Handler) -> bool:
    """Return whether it is Prefect's console handler."""
    return type(handler).__name__ == "PrefectConsoleHandler"
