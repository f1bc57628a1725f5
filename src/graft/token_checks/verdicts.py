"""What the checks say of a split, from the sums of its parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.data import Problem
from graft.errors import IntegrityError, shown
from graft.quarantine import NAMED_PLACES, Quarantine, Severity, in_words, percent, too_many, why
from graft.token_checks.found import BATCH_LINES, DECIMALS, Found, Rows
from graft.token_checks.section import TokenContract, TokenSeverities

SHOWN_DIGEST = 12
CUT = {"truncated_input": ("prompt", "context"), "truncated_target": ("target",)}
"""The checks of cut rows, and the pieces that they are about."""
CUT_ROWS = {"truncated_input": "cut", "truncated_target": "with a cut target"}
CUT_SHARE = "tokenization.max_truncated_share"


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
    total: int = 0
    """How many rows the split has, those in quarantine included; of padding 0."""

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

    @property
    def over_share(self) -> str:
        """What a split is refused for where a share of its rows may be cut; else nothing."""
        if not self.problems or self.check not in CUT or not self.limit:
            return ""
        rows = f"{self.failed} of {in_words(self.total)} {CUT_ROWS[self.check]}"
        return f"{self.split}: {rows}, {percent(self.share)} (at most {percent(self.limit)}: {CUT_SHARE})"

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
    total = max(found.total, 1)
    verdicts = []
    for name in TokenSeverities.model_fields:
        severity, rows = getattr(contract.severity, name), found.broken.get(name, Rows())
        if severity == "ignore" or name == "chat_template":
            continue
        if name == "padding":
            verdicts.append(Verdict(split, name, severity, 0, found.padding, contract.max_padding_share))
            continue
        limit = contract.max_truncated_share if name in CUT and severity != "quarantine" else 0.0
        verdicts.append(Verdict(split, name, severity, rows.count, rows.count / total, limit, rows, total))
    return verdicts


def warnings_of(verdicts: Sequence[Verdict], found: Found) -> Iterator[str]:
    """Yield a line for each thing that a split's verdicts warn of."""
    told = [one for one in verdicts if one.broken and one.severity == "warn"]
    if cut := [one for one in told if one.check in CUT]:
        count = found.counts["truncated"] if len(cut) == len(CUT) else cut[0].failed
        lost = {piece: found.counts[f"lost_{piece}"] for one in cut for piece in CUT[one.check]}
        pieces = ", ".join(f"{rows} lost part of the {piece}" for piece, rows in lost.items() if rows)
        places = [problem.place for one in cut for problem in one.rows.problems]
        limit = f", more than max_truncated_share {percent(cut[0].limit)}" if cut[0].limit else ""
        rows = f"{count} of {in_words(found.total)} cut ({percent(count / found.total)}{limit})"
        yield f"{cut[0].split}: {rows}: {pieces} ({_named(places)}); the longest has {found.longest} tokens"
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
    of_text: bool = True
    """Whether rows are tokens of text; pictures are only counted."""
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What stops the chain."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """What is reported, by split."""
    crowded: list[str] = field(default_factory=list)
    """The splits that stop the chain for what they have in quarantine."""

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
        crowded = list(self._crowded(name, whole, parts.values()))
        if crowded:
            self.crowded.append(name)
        for path, read in parts.items() if whole.counts["quarantined"] and not crowded else ():
            self.quarantine.add(name, path, [one for problems in read().aside.values() for one in problems])
        self.verdicts += verdicts
        self.problems += [*(problem for one in verdicts for problem in one.problems), *crowded]
        self.warnings[name] = [*self.warnings.get(name, ()), *warnings_of(verdicts, whole)]
        return whole

    def _crowded(self, name: str, whole: Found, parts: Collection[Callable[[], Found]]) -> Iterator[Problem]:
        """Yield what is wrong with what a split has in quarantine: too much, all, or all of a label.

        The model would be asked for a label that no training row has any more all the same.
        """
        kept, aside, split = whole.counts["rows"], whole.counts["quarantined"], f"data/{name}"
        if not kept:
            found = f"none: all are in quarantine {why(read().aside for read in parts)}" if aside else "none"
            yield Problem(split, "", "a row that stays", found)
        for label in sorted(whole.labels["aside"] - whole.labels["kept"]) if name == "train" else ():
            expected = f"a row with the label {shown(label)} that stays"
            found = why(read().aside_with(label) for read in parts)
            yield Problem(split, "", expected, f"none: all are in quarantine {found}; mend them, or remove them")
        most, setting = self.contract.max_quarantined_share, "tokenization.max_quarantined_share"
        yield from too_many(split, (read().aside for read in parts), aside, kept, most, setting)

    @property
    def total(self) -> int:
        """How many problems there are: ``problems`` are the first of each check and split."""
        unlisted = (one.failed - len(one.rows.problems) for one in self.verdicts if one.problems)
        return len(self.problems) + sum(unlisted)

    @property
    def over_shares(self) -> list[str]:
        """Which shares of cut rows stop the chain."""
        return [one.over_share for one in self.verdicts if one.over_share]
