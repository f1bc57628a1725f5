"""What the checks say of a split, from the sums of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.data import Problem
from graft.errors import IntegrityError, shown
from graft.quarantine import Quarantine, Severity, in_words
from graft.token_checks.found import BATCH_LINES, DECIMALS, Found, Rows
from graft.token_checks.section import TokenContract, TokenSeverities

NAMED_PLACES = 5
"""How many rows a warning names."""
SHOWN_DIGEST = 12
CUT = {"truncated_input": ("prompt", "context"), "truncated_target": ("target",)}
"""The checks of cut rows, and the pieces that they are about."""


@dataclass(frozen=True)
class Verdict:
    """What one check says of a split."""

    split: str
    check: str
    severity: Severity
    failed: int
    """How many rows break it; of padding 0, which is about the split."""
    share: float
    """Of the split's rows, those in quarantine included; of padding: of the positions."""
    limit: float
    """The largest share that passes."""
    rows: Rows = field(default_factory=Rows)

    @property
    def broken(self) -> bool:
        """Whether the split has more than it may have."""
        return self.share > self.limit

    @property
    def problems(self) -> list[Problem]:
        """What stops the chain, row by row where rows do."""
        if not self.broken or self.severity != "fail":
            return []
        if self.check == "padding":
            expected = f"at most {self.limit:.0%} padding in batches of {BATCH_LINES} (tokenization.max_padding_share)"
            return [Problem(f"data/{self.split}", "", expected, f"{self.share:.0%}")]
        return self.rows.problems

    def as_json(self) -> dict[str, Any]:
        """Return the entry in the manifest."""
        return {
            "split": self.split,
            "check": self.check,
            "severity": self.severity,
            "failed": self.failed,
            "share": round(self.share, DECIMALS),
            "limit": self.limit,
            "rows": [one.place for one in self.rows.problems[:NAMED_PLACES]],
        }


def judge(split: str, found: Found, contract: TokenContract) -> list[Verdict]:
    """Return the verdict of each check on a split, those that are ignored left out."""
    total = max(found.counts["rows"] + found.counts["quarantined"], 1)
    verdicts = []
    for name in TokenSeverities.model_fields:
        severity, rows = getattr(contract.severity, name), found.broken.get(name, Rows())
        if severity == "ignore" or name == "chat_template":
            continue
        if name == "padding":
            verdicts.append(Verdict(split, name, severity, 0, found.padding, contract.max_padding_share))
            continue
        limit = contract.max_truncated_share if name in CUT and severity != "quarantine" else 0.0
        verdicts.append(Verdict(split, name, severity, rows.count, rows.count / total, limit, rows))
    return verdicts


def warnings_of(verdicts: Sequence[Verdict], found: Found) -> Iterator[str]:
    """Yield a line for each thing that a split's verdicts warn of."""
    told = [one for one in verdicts if one.broken and one.severity == "warn"]
    if cut := [one for one in told if one.check in CUT]:
        count = found.counts["truncated"] if len(cut) == len(CUT) else cut[0].failed
        lost = {piece: found.counts[f"lost_{piece}"] for one in cut for piece in CUT[one.check]}
        pieces = ", ".join(f"{rows} lost part of the {piece}" for piece, rows in lost.items() if rows)
        places = [problem.place for one in cut for problem in one.rows.problems]
        longest = f"; the longest has {found.longest} tokens"
        yield f"{cut[0].split}: {count} of {in_words(found.counts['rows'])} cut: {pieces} ({_named(places)}){longest}"
    for one in told:
        if one.check == "padding":
            yield f"{one.split}: {one.share:.0%} of batches of {BATCH_LINES} rows drawn at random are padding"
        elif one.check not in CUT:
            problem, places = one.rows.problems[0], [each.place for each in one.rows.problems]
            expected = f"{problem.field}: {problem.expected}" if problem.field else problem.expected
            yield f"{one.split}: {in_words(one.failed)} not as expected: {expected} ({_named(places)})"


def _digest(template: str | None) -> str:
    return f"a template with digest {template[:SHOWN_DIGEST]}" if template else "none"


def _named(places: Sequence[str]) -> str:
    different = list(dict.fromkeys(places))
    return ", ".join(different[:NAMED_PLACES]) + (", ..." if len(different) > NAMED_PLACES else "")


# -- all splits


@dataclass
class Judgement:
    """What the checks say of all splits, from what was found of their parts."""

    contract: TokenContract
    quarantine: Quarantine
    labels: Sequence[str] = ()
    """What the label numbers of rows stand for."""
    of_text: bool = True
    """Whether rows are tokens of text; pictures are only counted."""
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What stops the chain."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """What is reported, by split."""

    def template(self, pinned: str | None, loaded: str | None) -> None:
        """Judge the chat template that the tokenizer had ``loaded``, by its digest and the one that is ``pinned``.

        Raises:
            IntegrityError: it is another, which the severity forbids.
        """
        severity = self.contract.severity.chat_template
        if severity == "ignore":
            return
        different = loaded != pinned
        if different:
            warning = (
                f"base.chat_template: sources.lock pins {_digest(pinned)}, the tokenizer that was loaded has "
                f"{_digest(loaded)}; save the template as chat_template.jinja beside the tokenizer and run `graft "
                f"lock`, or set task.template"
            )
            if severity == "fail":
                raise IntegrityError(warning)
            self.warnings["train"] = [warning]
        self.verdicts.append(Verdict("all", "chat_template", severity, int(different), float(different), 0.0))

    def split(self, name: str, parts: Mapping[Path, Callable[[], Found]]) -> Found:
        """Judge a split, keep rows of its parts aside where the contract says so, and return what was found of all.

        ``parts``: how to read what was found of each. It is read twice, so that the rows in quarantine, which are
        listed one by one, are held only where they are few enough.
        """
        whole = Found()
        for read in parts.values():
            whole.add(read())
        verdicts = judge(name, whole, self.contract) if self.of_text else []
        rows = whole.counts["rows"]
        too_many = list(self._too_many(name, whole, verdicts))
        for path, read in parts.items() if whole.counts["quarantined"] and not too_many else ():
            self.quarantine.add(name, path, [one for problems in read().aside.values() for one in problems])
        self.verdicts += verdicts
        self.problems += [problem for one in verdicts for problem in one.problems]
        if not rows:
            self.problems.append(Problem(f"data/{name}", "", "a row that stays", "none: all are in quarantine"))
        if name == "train":
            self.problems += self._lost_labels(whole)
        self.problems += too_many
        self.warnings[name] = [*self.warnings.get(name, ()), *warnings_of(verdicts, whole)]
        return whole

    def _too_many(self, name: str, whole: Found, verdicts: Sequence[Verdict]) -> Iterator[Problem]:
        """Yield the problem of a split with more rows for the quarantine than may be there."""
        aside, most = whole.counts["quarantined"], self.contract.max_quarantined_share
        total = aside + whole.counts["rows"]
        if aside > most * total:
            expected = f"at most {most:.2%} of the rows in quarantine (tokenization.max_quarantined_share)"
            reasons = [
                (one.failed, one.rows.problems[0]) for one in verdicts if one.failed and one.severity == "quarantine"
            ]
            reasons.sort(key=lambda reason: -reason[0])
            why = "; ".join(f"{count} for {one.field}: {one.expected}" for count, one in reasons[:3])
            yield Problem(f"data/{name}", "", expected, f"{aside} of {total}: {why}")

    def _lost_labels(self, train: Found) -> Iterator[Problem]:
        """Yield the labels that no training row has any more: the model would be asked for them all the same."""
        for number in sorted(train.labels["aside"] - train.labels["kept"]):
            expected = f"a row with the label {shown(self.labels[number])} that stays"
            yield Problem("data/train", "", expected, "none: all are in quarantine; mend them, or remove them")

    @property
    def failed(self) -> int:
        """How many rows stop the chain, those counted twice that break two checks."""
        return sum(one.failed for one in self.verdicts if one.problems)
