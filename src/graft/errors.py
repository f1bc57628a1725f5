"""The exceptions that users meet, each with the exit code that scripts read.

A message names the place (``file:line`` or a dotted config path), what is wrong, the value received and
what to do. Known errors end a command with that message and no traceback; anything else keeps its traceback.

    GraftError                    1
    ├── InputError                2   bad input or configuration
    │   ├── ConfigError           2   params.yaml, contract, project files
    │   └── DataError             2   rows, part files, tables
    ├── GateRefused               3   a gate said no: a result, not a crash
    ├── PromotionConflict         4   another promotion won the race
    ├── TrainingDiverged          5   non-finite loss
    ├── IntegrityError            6   a digest, identity or reload proof does not hold
    ├── ResourceMissing           7   a service, remote, device, package or base model is not there
    ├── Locked                    8   another process holds the lock
    └── Interrupted              75   stopped by a signal; the same command resumes
"""

# ruff: noqa: N818  (a refused gate or a held lock is a result, and its name says which)

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

SHOWN_VALUE_CHARACTERS = 80
SHOWN_PROBLEMS = 20


class GraftError(Exception):
    """Base of all errors that Graft raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        """Keep ``message``; ``problems`` lists single findings when one error reports many."""
        self.problems = tuple(problems)
        super().__init__(message)

    @classmethod
    def from_problems(cls, title: str, problems: Iterable[str], *, total: int = 0) -> Self:
        """Build one error that reports all ``problems`` together, the first ``SHOWN_PROBLEMS`` in its text.

        ``total``: how many there are, where ``problems`` are the first of them.
        """
        found = list(problems)
        lines = [f"  - {problem}" for problem in found[:SHOWN_PROBLEMS]]
        if (more := max(total, len(found)) - len(lines)) > 0:
            lines.append(f"  ... and {more} more")
        return cls("\n".join([title, *lines]), problems=found)


class InputError(GraftError):
    """What the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A key or value in params.yaml (or another project file) is wrong."""


class DataError(InputError):
    """A part file or a row is wrong."""


class GateRefused(GraftError):
    """A gate refused: the evidence is on disk."""

    exit_code = 3


class PromotionConflict(GraftError):
    """The alias moved between reading it and setting it."""

    exit_code = 4


class TrainingDiverged(GraftError):
    """The loss became non-finite and stayed so."""

    exit_code = 5


class IntegrityError(GraftError):
    """Bytes, identity or behaviour differ from what was recorded."""

    exit_code = 6


class ResourceMissing(GraftError):
    """A service, remote, device, package or base model is not there."""

    exit_code = 7


class Locked(GraftError):
    """Another process holds the lock; the message names it and since when."""

    exit_code = 8


class Interrupted(GraftError):
    """Stopped by a signal; running the same command again resumes."""

    exit_code = 75


def shown(value: object) -> str:
    """Return ``value`` quoted and shortened for a message, without the password of a URL."""
    text = repr(value[: 2 * SHOWN_VALUE_CHARACTERS]) if isinstance(value, str | bytes) else _short().repr(value)
    text = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)
    return text if len(text) <= SHOWN_VALUE_CHARACTERS else text[: SHOWN_VALUE_CHARACTERS - 1] + "…"


def _short() -> reprlib.Repr:
    """Return a repr whose cost is bounded, also for nested values that YAML aliases make exponentially large."""
    short = reprlib.Repr()
    short.maxlevel, short.maxdict, short.maxlist = 4, 8, 8
    short.maxstring = short.maxother = SHOWN_VALUE_CHARACTERS
    return short
