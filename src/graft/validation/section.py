"""The params section of the data contract: limits, further expectations, and what follows where one is broken.

The section may name a file that holds it (``contract``), so that projects share one, or people who own the data review
it by itself. What params.yaml has beside that name stands over the file's, so that a run's overrides work as ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Limit
from pydantic import field_validator, model_validator

from graft.config import Section, line_of, read_yaml, validate
from graft.duplicates import DuplicatesConfig
from graft.errors import ConfigError, shown
from graft.languages import known, meant
from graft.quarantine import Severity
from graft.reading import Problem
from graft.workspace import Workspace

__all__ = ["ExpectationConfig", "Severities", "Severity", "ValidationConfig"]


Reported = Literal["fail", "warn", "ignore"]
"""What follows where a whole split is not as expected: it has no row to keep aside."""


class Severities(Section):
    """What follows from a row that breaks a built-in check.

    ``fail`` stops the chain, ``quarantine`` keeps the row aside and goes on without it, ``warn`` reports it. A row that
    cannot be used without a check fails or goes aside.
    """

    readable: Literal["fail", "quarantine"] = "fail"
    """A row that can be read, with the right types."""

    missing: Literal["fail", "quarantine"] = "fail"
    """A value in every field that needs one."""

    empty_list: Literal["fail", "quarantine"] = "fail"
    """At least one item in every list that needs one."""

    labels: Literal["fail", "quarantine"] = "fail"
    """In validation and test, a label that train has."""

    task: Literal["fail", "quarantine"] = "fail"
    """The task's own rules: an answer stands where it should, tags follow the scheme, roles alternate."""

    min_characters: Severity = "fail"
    """``validation.min_characters``."""

    max_characters: Severity = "fail"
    """``validation.max_characters``."""

    placeholders: Severity = "fail"
    """``validation.placeholders``."""

    unique_ids: Severity = "fail"
    """``validation.unique_ids``: of rows with one id, all but the first."""

    encoding: Severity = "warn"
    """A text without traces of a wrong encoding: replacement and control characters, NULs, mojibake, escape codes."""

    markup: Severity = "warn"
    """A text without left-overs of web pages: tags, references, style and script."""

    filler: Severity = "warn"
    """A text of its own: no placeholder, ``lorem ipsum``, template nobody filled, encoded data, or one word again and
    again."""

    markers: Severity = "warn"
    """A text without what marks roles and turns in a chat format, such as ``<|im_start|>``."""

    doubtful: Severity = "warn"
    """A row that the task has no doubts about: a target that repeats its source, a rejected answer that differs from
    the chosen one in nothing but signs, several words in one token."""

    language: Severity = "warn"
    """A text in one of ``validation.languages``."""

    outliers: Literal["fail", "warn", "ignore"] = "warn"
    """A row like the others: no number far away, no text in a language that next to no other has, no label that is
    another one's misspelling, no row without an id beside others that have one."""

    leakage: Severity = "warn"
    """In validation and test, a text (or picture) that no earlier split has, nor nearly (``validation.duplicates``)."""

    near_duplicates: Severity = "warn"
    """A text (or picture) that no earlier row of its split has, nor nearly."""

    contradictions: Severity = "warn"
    """The label that an earlier row with the same text has."""

    private_data: Severity = "warn"
    """A text without what ``data.privacy`` looks for. ``data.clean: [redact]`` puts placeholders there instead; then
    nothing is left to find."""

    label_shift: Reported = "warn"
    """Labels, or numbers to predict, as frequent as in the champion's data (``validation.drift``); between the splits
    of one data set a shift is reported at most."""

    length_drift: Reported = "warn"
    """Texts as long as in the champion's data."""

    vocabulary_drift: Reported = "warn"
    """Words as frequent as in the champion's data."""

    imbalance: Reported = "warn"
    """Among the training rows, no label rarer than ``validation.balance`` allows."""

    label_errors: Literal["warn", "ignore"] = "ignore"
    """A list of training rows whose label, tag or number other rows speak against (``validation.label_errors``), for
    people to look at. Takes half a minute for 20,000 rows."""

    def of_reading(self, problem: Problem) -> Literal["fail", "quarantine"]:
        """Return what follows from a row that the reader refused: for a value that is not there, or for anything else.

        What no single row could be left out for always fails.
        """
        if problem.of_part:
            return "fail"
        return self.missing if problem.is_missing else self.readable


REPORTED = {"label_shift", "length_drift", "vocabulary_drift", "imbalance", "label_errors"}
"""The severities of what whole splits show."""


class DriftConfig(Section):
    """How far the data may drift from the champion's, whose profile `graft lock` pins.

    A limit is the most that the measure may exceed what samples of these sizes show by chance.
    """

    max_label_psi: float = Limit(default=0.2, gt=0)
    """Population stability index of labels and of numbers to predict: from 0.1 on small, from 0.25 on large."""

    max_length_psi: float = Limit(default=0.2, gt=0)
    """The same of the characters of each text field, in tenths of the champion's rows."""

    max_vocabulary_js: float = Limit(default=0.08, gt=0, lt=1)
    """Jensen-Shannon divergence of the words of all texts, in bits: 0 equal, 1 nothing in common."""


class BalanceConfig(Section):
    """How rare a label may be among the training rows."""

    min_label_rows: int = Limit(default=3, ge=1)
    """The fewest rows of a label."""

    min_even_share: float = Limit(default=0.1, ge=0, le=1)
    """The fewest rows of a label, as a share of what it would have if all labels were equally frequent; of fields with
    one label a row."""


class LabelErrorsConfig(Section):
    """The search for label errors, which learns to predict each row's label from the others."""

    max_rows: int = Limit(default=20_000, ge=100)
    """The most training rows that are looked at, of tagged rows the most words; of more the same ones are drawn each
    time."""

    max_listed: int = Limit(default=500, ge=1)
    """The most rows that the list has."""


class ExpectationConfig(Section):
    """One more expectation of Great Expectations, by its name and its own arguments."""

    type: str = Limit(pattern="^expect_[a-z_]+$")
    """Great Expectations' name, such as ``expect_column_values_to_match_regex``."""

    kwargs: dict[str, Any] = Limit(default_factory=dict)
    """Its arguments: ``{column: text, regex: "^[A-Z]"}``. Columns are the task's fields (``text``, ``label``), what is
    measured of them (``text (characters)``, ``text (visible characters)``, ``messages (items)``), and those that
    ``validation.columns`` names."""

    severity: Literal["fail", "quarantine", "warn"] = "fail"
    """As in ``validation.severity``. Only an expectation on the values of a column can keep rows aside."""


class ValidationConfig(Section):
    """The data contract: what the rows must be beside the task's own schema."""

    contract: str | None = Limit(default=None, min_length=1)
    """A YAML file that holds this section, relative to params.yaml and inside the repository
    (``contracts/reviews.yaml``). Keys beside this one stand over the file's."""

    @model_validator(mode="after")
    def _check_limits(self) -> ValidationConfig:
        if self.max_characters < self.min_characters:
            raise ValueError(
                f"max_characters ({self.max_characters}) is below min_characters ({self.min_characters}); no text has "
                f"so many"
            )
        return self

    min_characters: int = Limit(default=1, ge=0)
    """The fewest characters of a text field; white space and invisible characters are not counted."""

    max_characters: int = Limit(default=100_000, ge=1)
    """The most characters of a text field."""

    min_rows: int = Limit(default=1, ge=1)
    """The fewest rows of a split; those in quarantine are not counted."""

    unique_ids: bool = True
    """Whether an ``id`` column, where there is one, must be unique over all splits."""

    placeholders: tuple[str, ...] = (
        *("nan", "NaN", "NULL", "null", "None", "N/A", "<NA>"),
        *("#N/A", "#REF!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#DIV/0!"),
    )
    """Texts that other software writes for a missing value: a text field that is exactly one of them is refused. Other
    spellings are ``severity.filler``."""

    languages: tuple[str, ...] = ()
    """The languages that texts may be in (ISO 639-1: ``en``, ``zh``). A text whose language nobody can tell, such as a
    short one, passes. Empty: any."""

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        for one in languages:
            if one not in known():
                near = meant(one)
                advice = f"did you mean {shown(near)}?" if near else f"known ones are {', '.join(known())}"
                raise ValueError(f"unknown language {shown(one)}; {advice}")
        return languages

    duplicates: DuplicatesConfig = DuplicatesConfig()
    """What nearly the same text is, and in how much data it is looked for."""

    drift: DriftConfig = DriftConfig()
    """How far the data may drift from the champion's."""

    balance: BalanceConfig = BalanceConfig()
    """How rare a label may be."""

    label_errors: LabelErrorsConfig = LabelErrorsConfig()
    """Labels that other rows speak against; looked for only where ``severity.label_errors`` says ``warn``."""

    severity: Severities = Severities()
    """What follows from a row that breaks one of these."""

    columns: dict[str, Literal["string", "number"]] = Limit(default_factory=dict)
    """Columns of the part files that the task does not read and ``expectations`` are about, with their type:
    ``{source: string, price: number}``. A part without such a column, or a value of another type, cannot be read
    (``severity.readable``); a number may stand there as text, and an empty cell is no value."""

    expectations: tuple[ExpectationConfig, ...] = ()
    """Further expectations. Each part file is held to them by itself."""

    max_quarantined_share: float = Limit(default=0.01, ge=0, le=1)
    """The largest share of a split's rows that may go into quarantine, rounded up to whole rows: one row may, unless it
    is 0. With more of them the chain stops."""


def with_contract(given: ValidationConfig, root: Path) -> ValidationConfig:
    """Return the section with what its contract file says; ``given`` itself where it names none.

    Args:
        given: The section of params.yaml.
        root: The folder of params.yaml.

    Raises:
        ConfigError: there is no such file in the repository, or a key or a value of it is wrong, each at ``file:line``.
    """
    if given.contract is None:
        return given
    raw, lines = read_yaml(contract_file(given.contract, root))
    if "contract" in raw:
        place = f"{given.contract}:{line_of(lines, ('contract',))}"
        raise ConfigError(f"{place}: contract: a contract file names no other one; remove the line")
    validate(ValidationConfig, raw, source=given.contract, lines=lines)
    source = f"{given.contract} and params.yaml's section validation over it"
    return validate(ValidationConfig, layered(raw, given.model_dump(exclude_unset=True)), source=source)


def with_line(message: str, workspace: Workspace) -> str:
    """Return a message about one of the project's own expectations with the file and line where it stands in front."""
    found = re.match(r"validation\.expectations\.(\d+)\b", message)
    if not found:
        return message
    raw, lines = read_yaml(workspace.params)
    own, at = raw.get("validation") or {}, ("expectations", int(found[1]))
    if "expectations" in own or "contract" not in own:
        return f"{workspace.params.name}:{line_of(lines, ('validation', *at))}: {message}"
    _, lines = read_yaml(contract_file(own["contract"], workspace.root))
    return f"{own['contract']}:{line_of(lines, at)}: {message}"


def contract_file(name: str, root: Path) -> Path:
    """Return the contract file that params.yaml at ``root`` names.

    Raises:
        ConfigError: it is not there, or not in the repository, where the commit of a run would hold it.
    """
    path = Workspace(root).named(name, "validation.contract")
    if not path.is_file():
        typed = os.path.relpath(path)  # what a user names is relative to where they are
        raise ConfigError(
            f"validation.contract: no such file {shown(name)}; `graft contract --to {typed}` writes one from the data"
        )
    return path


def layered(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``under`` with the values of ``over``, section by section."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = layered(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
