"""The contract as Great Expectations stores a suite: what people review, and other tools can run.

It is written without that library, whose imports take seconds; a test loads what is written with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from graft.validation.across import unique_ids
from graft.validation.contract import LEARNT, Check, asked_checks, refuse_wrong

if TYPE_CHECKING:
    from graft.tasks import Field
    from graft.validation.section import ValidationConfig


def suite(checks: Sequence[Check], name: str) -> dict[str, Any]:
    """Return the stored form; the notes of an expectation say what it is for, and what follows from it."""
    return {
        "name": name,
        "id": None,
        "notes": None,
        "meta": {"great_expectations_version": version("great_expectations")},
        "expectations": [
            {
                "type": check.type,
                "kwargs": check.expectation.kwargs,
                "severity": check.expectation.severity,
                "meta": {"graft": {"field": check.field, "expected": check.expected, "severity": check.severity}},
            }
            for check in checks
        ],
    }


def compiled(fields: Sequence[Field], config: ValidationConfig, name: str) -> dict[str, Any]:
    """Return what the contract compiles to before any row is read: labels are the suite's parameter ``labels``.

    Raises:
        ConfigError: an expectation of the project's own is none of Great Expectations', or does not fit the fields.
    """
    checks = asked_checks(fields, {"labels": LEARNT}, config)
    refuse_wrong(checks)
    unique = unique_ids(config)
    return suite([*checks, *([unique] if unique else [])], name)
