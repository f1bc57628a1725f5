"""What the contract says of whole splits: drift against the champion's data, shifts between splits, rare labels.

All of it is told from profiles, and a split has no row that could be kept aside: what is wrong stops the chain or is
reported. Between the splits of one data set a shift of labels is reported at most, since it may be meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from graft.data import Problem
from graft.validation.champion import PROFILE, Pin, pinned, pinned_profile, write_profile
from graft.validation.data_profile import DataProfile
from graft.validation.drift import Comparison, against_champion, between_splits, constant, imbalance
from graft.validation.section import ValidationConfig
from graft.workspace import Workspace, write_json

DRIFT = "drift.json"
KINDS = ("label_shift", "length_drift", "vocabulary_drift")


@dataclass(frozen=True)
class Composition:
    """What the splits are made of, and what follows."""

    now: Mapping[str, DataProfile]
    champion: Pin | None
    before: Mapping[str, DataProfile]
    """The champion's splits; empty where no profile of them is pinned."""
    comparisons: Sequence[Comparison]
    problems: Sequence[Problem]
    """What stops the chain."""
    warnings: Sequence[str]
    note: str
    """Why the data is compared with no other; empty where it is."""

    def write(self, folder: Path) -> None:
        """Write the profile, and what every comparison came to."""
        write_profile(folder / PROFILE, self.now)
        found = [{**asdict(one), "drift": one.is_drift} for one in self.comparisons]
        write_json(folder / DRIFT, {"champion": asdict(self.champion) if self.champion else None, "comparisons": found})


def composed(
    now: Mapping[str, DataProfile],
    workspace: Workspace,
    validation: ValidationConfig,
    columns: Mapping[str, str],
    several: Collection[str] = (),
) -> Composition:
    """Hold the profile of each split to the contract.

    Args:
        now: the splits, train first.
        workspace: where the champion is pinned.
        validation: limits, and what follows.
        columns: what the files call a field, where it is not its own name.
        several: fields with any number of labels a row.

    Raises:
        ConfigError: sources.lock pins no champion in a form known here.
        IntegrityError: the champion's profile is not what it pins.
    """
    severity, found = validation.severity, pinned_profile(workspace)
    champion, before = found or (pinned(workspace), dict[str, DataProfile]())
    asked = {kind: getattr(severity, kind) for kind in KINDS}
    comparisons, problems, warnings = list[Comparison](), list[Problem](), list[str]()
    if champion and before:
        for one in against_champion(now, before, f"version {champion.version}", validation.drift):
            comparisons += [one] if asked[one.kind] != "ignore" else []
    own = list(between_splits(now, validation.drift)) if asked["label_shift"] != "ignore" else []
    for one in (*comparisons, *own):
        if not one.is_drift:
            continue
        problem = _problem(workspace, one.split, columns.get(one.field, one.field), one.expected, one.found)
        if asked[one.kind] == "fail" and one not in own:
            problems.append(problem)
        else:
            warnings.append(_warning(problem, one.split))
    for problem in _rare(now["train"], workspace, validation, columns, several):
        if severity.imbalance == "fail":
            problems.append(problem)
        else:
            warnings.append(_warning(problem, "train"))
    return Composition(now, champion, before, [*comparisons, *own], problems, warnings, _note(champion, asked))


def _rare(
    train: DataProfile,
    workspace: Workspace,
    validation: ValidationConfig,
    columns: Mapping[str, str],
    several: Collection[str],
) -> Iterator[Problem]:
    if validation.severity.imbalance != "ignore":
        limits = validation.balance
        for field, expected, found in chain(imbalance(train, limits), constant(train, limits, several)):
            yield _problem(workspace, "train", columns.get(field, field), expected, found)


def _problem(workspace: Workspace, split: str, column: str, expected: str, found: str) -> Problem:
    return Problem(f"{workspace.data.name}/{split}", column, expected, found)


def _warning(problem: Problem, split: str) -> str:
    field = f"{problem.field}: " if problem.field else ""
    return f"{split}: {field}expected {problem.expected}, found {problem.found}"


def _note(champion: Pin | None, asked: Mapping[str, Any]) -> str:
    if set(asked.values()) == {"ignore"} or (champion and champion.profile):
        return ""
    if champion:
        return f"{champion} was published without a data profile: the data is compared with no other"
    return "no champion is pinned (`graft lock` does it): the data is compared with no other"
