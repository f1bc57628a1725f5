"""``graft``, the command line: it decides what to do and prints what happened; the work is in the library.

A known error ends with one message and its exit code, an unknown one keeps its traceback. Nothing heavy is imported
before a command needs it, so help, completion and a run that has nothing to do answer at once; the price is an import
inside every function.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import NoReturn

from graft.errors import GraftError

GROUPS = ("project", "data", "running", "state", "review", "use", "proof", "care")
"""The files that register commands, in the order in which help shows their panels."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run ``graft`` and exit with its code."""
    from graft.cli.app import app
    from graft.workspace import suggested

    # Deprecations inside a library are for its authors, not for people at a command line.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\.")
    try:
        for group in GROUPS:
            importlib.import_module(f"graft.cli.{group}")
        app(arguments, prog_name="graft")
    except GraftError as error:
        sys.stdout.flush()
        print(f"error: {suggested(str(error))}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    sys.exit(0)


__all__ = ["main"]
