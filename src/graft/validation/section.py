"""The params section of the data contract: limits, further expectations, and what follows where one is broken.

The section may name a file that holds it (``contract``), so that projects share one, or people who own the data review
it by itself. What params.yaml has beside that name stands over the file's, so that a run's overrides work as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Limit

from graft.config import Section, line_of, read_yaml, validate
from graft.duplicates import DuplicatesConfig
from graft.errors import ConfigError, shown
from graft.quarantine import Severity
from graft.workspace import Workspace

__all__ = ["ExpectationConfig", "Severities", "Severity", "ValidationConfig"]


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

    language: Severity = "warn"
    """A text in one of ``validation.languages``."""

    leakage: Severity = "ignore"
    """In validation and test, a text that no earlier split has, nor nearly (``validation.duplicates``)."""

    near_duplicates: Severity = "ignore"
    """A text that no earlier row of its split has, nor nearly."""

    contradictions: Severity = "ignore"
    """The label that an earlier row with the same text has."""

    private_data: Severity = "warn"
    """A text without what ``data.privacy`` looks for. ``data.clean: [redact]`` puts placeholders there instead; then
    nothing is left to find."""


class ExpectationConfig(Section):
    """One more expectation of Great Expectations, by its name and its own arguments."""

    type: str = Limit(pattern="^expect_[a-z_]+$")
    """Great Expectations' name, such as ``expect_column_values_to_match_regex``."""

    kwargs: dict[str, Any] = Limit(default_factory=dict)
    """Its arguments: ``{column: text, regex: "^[A-Z]"}``. Columns are the task's fields (``text``, ``label``), and what
    is measured of them: ``text (characters)``, ``text (visible characters)``, ``messages (items)``."""

    severity: Literal["fail", "quarantine", "warn"] = "fail"
    """As in ``validation.severity``. Only an expectation on the values of a column can keep rows aside."""


class ValidationConfig(Section):
    """The data contract: what the rows must be beside the task's own schema."""

    contract: str | None = Limit(default=None, min_length=1)
    """A YAML file that holds this section, relative to params.yaml and inside the repository
    (``contracts/reviews.yaml``). Keys beside this one stand over the file's."""

    min_characters: int = Limit(default=1, ge=0)
    """The fewest characters of a text field; white space and invisible characters are not counted."""

    max_characters: int = Limit(default=100_000, ge=1)
    """The most characters of a text field."""

    min_rows: int = Limit(default=1, ge=1)
    """The fewest rows of a split; those in quarantine are not counted."""

    unique_ids: bool = True
    """Whether an ``id`` column, where there is one, must be unique over all splits."""

    placeholders: tuple[str, ...] = ("nan", "NaN", "NULL", "null", "None", "N/A", "<NA>", "#N/A")
    """Texts that other software writes for a missing value: a text field that is exactly one of them is refused."""

    languages: tuple[str, ...] = ()
    """The languages that texts may be in (ISO 639-1: ``en``, ``zh``). A text whose language nobody can tell, such as a
    short one, passes. Empty: any."""

    duplicates: DuplicatesConfig = DuplicatesConfig()
    """What nearly the same text is. Looked for only where ``severity`` says what follows from it: it takes a second or
    so for 20,000 rows."""

    severity: Severities = Severities()
    """What follows from a row that breaks one of these."""

    expectations: tuple[ExpectationConfig, ...] = ()
    """Further expectations. Each part file is held to them by itself."""

    max_quarantined_share: float = Limit(default=0.01, ge=0, le=1)
    """The largest share of a split's rows that may go into quarantine; with more of them the chain stops."""


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
    return ValidationConfig.model_validate(_over(raw, given.model_dump(exclude_unset=True)))


def contract_file(name: str, root: Path) -> Path:
    """Return the contract file that params.yaml at ``root`` names.

    Raises:
        ConfigError: it is not there, or not in the repository, where the commit of a run would hold it.
    """
    path, repository = root / name, Workspace(root).repository
    if Path(name).is_absolute() or not path.resolve().is_relative_to(repository.resolve()):
        raise ConfigError(
            f"validation.contract: {shown(name)} must be a path inside the repository, relative to params.yaml, so "
            f"that a run's commit holds it"
        )
    if not path.is_file():
        raise ConfigError(
            f"validation.contract: no such file {shown(name)}; `graft contract --to {name}` writes one from the data"
        )
    return path


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``under`` with the values of ``over``, section by section."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
