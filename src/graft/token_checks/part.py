"""The checks of one part's token rows, a batch at a time.

Each check is a column of truth values over Arrow's arrays, so that only rows that break one cost an object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from graft.data import Problem
from graft.encoding import flat_lists
from graft.quarantine import Severity
from graft.tasks import PIECES, Task
from graft.token_checks.found import REPORTED_PROBLEMS, Found, Rows
from graft.token_checks.section import TokenContract

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Check = Literal[
    "empty",
    "unsupervised",
    "end",
    "doubled_bos",
    "min_tokens",
    "max_tokens",
    "truncated_input",
    "truncated_target",
    "unknown",
]
"""The checks of rows, by their names in ``tokenization.severity``."""
ABOUT_THE_TARGET: tuple[Check, ...] = ("unsupervised", "end", "truncated_target")
"""Checks of what is learnt; the others are about what is read."""
LIMIT = "tokenization.max_length_tokens"


@dataclass(frozen=True)
class Vocabulary:
    """What checks need to know of a tokenizer."""

    size: int
    special: frozenset[int]
    """The tokens that stand for no text; the unknown token does stand for one."""
    unknown: int | None
    """The token of what the vocabulary does not have; None where there is no such token."""
    beginnings: Mapping[int, str]
    """The tokens that begin a text, and their names."""

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Read it off a tokenizer of transformers."""
        unknown = tokenizer.unk_token_id
        special = frozenset(tokenizer.all_special_ids) - {unknown}
        named = {getattr(tokenizer, f"{name}_token_id"): getattr(tokenizer, f"{name}_token") for name in ("cls", "bos")}
        return cls(
            max(len(tokenizer), *special, 0) + 1,
            special,
            unknown,
            {token: text for token, text in named.items() if token is not None},
        )


@dataclass
class PartChecks:
    """Checks the token rows of one part, batch by batch."""

    task: Task
    contract: TokenContract
    vocabulary: Vocabulary | None
    """None: the rows are pictures, which have no tokens to look at."""
    columns: Mapping[str, str]
    """``data.columns``: what the files call the task's fields."""
    longest: int
    """The most tokens of a row (of a window, where rows are cut into windows)."""
    found: Found = field(default_factory=Found)

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of ``batch`` that stay, and add what is found of them."""
        import numpy as np
        import pyarrow as pa

        rows, aside = _TokenRows(batch, self.vocabulary), np.zeros(batch.num_rows, dtype=bool)
        masks = dict(self._masks(rows)) if self.vocabulary else {}
        for name, mask in masks.items():
            if self._severity(name) == "quarantine":
                aside |= mask
                for row in np.flatnonzero(mask).tolist():
                    problem = self._problem(name, rows, row)
                    self.found.aside.setdefault(problem.place, []).append(problem)
        for name, mask in masks.items():
            # What is kept aside is not reported too.
            self._note(name, rows, np.flatnonzero(mask & ~aside if self._severity(name) == "warn" else mask))
        self.found.counts.update(rows.counts(~aside))
        self.found.counts["quarantined"] += int(aside.sum())
        self.found.lines.update(rows.lines(~aside))
        if "label" in batch.schema.names:
            labels = batch["label"]
            self.found.label_of |= {rows.place(row): labels[row].as_py() for row in np.flatnonzero(aside).tolist()}
            for name, mask in (("kept", ~aside), ("aside", aside)):
                self.found.labels[name].update(labels.filter(pa.array(mask)).unique().to_pylist())
        self.found.longest = int(rows.untruncated[~aside].max(initial=self.found.longest))
        return batch.filter(pa.array(~aside)) if aside.any() else batch

    def _severity(self, name: Check) -> Severity:
        severity: Severity = getattr(self.contract.severity, name)
        return severity

    def _note(self, name: Check, rows: _TokenRows, broken: np.ndarray) -> None:
        """Count the rows that break a check, and list the first of them."""
        if len(broken):
            noted = self.found.broken.setdefault(name, Rows())
            listed = broken[: max(0, REPORTED_PROBLEMS - len(noted.problems))].tolist()
            noted.add(Rows(len(broken), [self._problem(name, rows, row) for row in listed]))

    def _masks(self, rows: _TokenRows) -> Iterator[tuple[Check, np.ndarray]]:
        """Yield which rows break each check that is asked for: bool [N]."""
        import numpy as np

        contract = self.contract
        found: dict[Check, np.ndarray] = {
            "empty": rows.texts == 0,
            "unsupervised": (rows.supervised == 0) & (rows.texts > 0),
            "end": ~rows.ended & (rows.supervised != 0) & (rows.lost["target"] == 0),
            "doubled_bos": rows.doubled,
            "min_tokens": rows.untruncated < contract.min_tokens,
            "max_tokens": rows.untruncated > (contract.max_tokens or np.inf),
            "truncated_input": (rows.lost["prompt"] > 0) | (rows.lost["context"] > 0),
            "truncated_target": rows.lost["target"] > 0,
            "unknown": rows.unknown > contract.max_unknown_share * rows.texts,
        }
        yield from ((name, mask) for name, mask in found.items() if self._severity(name) != "ignore")

    def _problem(self, name: Check, rows: _TokenRows, row: int) -> Problem:
        """Return what is wrong with one row by a check."""
        about = self.task.teaches[0] if name in ABOUT_THE_TARGET else self._text
        return Problem(rows.place(row), self.columns.get(about, about), *self._said(name, rows, row))

    def _said(self, name: Check, rows: _TokenRows, row: int) -> tuple[str, str]:
        """Return what was expected of a row and what was found."""
        contract, count = self.contract, rows.untruncated[row]
        match name:
            case "empty":
                return "text that the base's tokenizer has tokens for", "none; change or remove the row"
            case "unsupervised":
                return self.task.teaches[1], "none"
            case "end":
                return "an end token that is learnt", "none; look at task.template"
            case "doubled_bos":
                token = self.vocabulary.beginnings[int(rows.first[row])] if self.vocabulary else ""
                return f"one {token} at the start", "two; leave it out of the text and its template"
            case "min_tokens":
                return f"at least {contract.min_tokens} tokens (tokenization.min_tokens)", str(count)
            case "max_tokens":
                return f"at most {contract.max_tokens} tokens (tokenization.max_tokens)", str(count)
            case "truncated_input":
                lost = [f"{rows.lost[one][row]} of the {one}" for one in PIECES[:2] if rows.lost[one][row]]
                return f"at most {self.longest} tokens ({LIMIT})", f"{count}: {' and '.join(lost)} are cut"
            case "truncated_target":
                lost_target = rows.lost["target"][row]
                return f"a target that is not cut: {self.longest} tokens ({LIMIT})", f"{lost_target} tokens less"
            case "unknown":
                expected = f"at most {contract.max_unknown_share:.0%} unknown tokens (tokenization.max_unknown_share)"
                return expected, f"{rows.unknown[row]} of {rows.texts[row]}"

    @cached_property
    def _text(self) -> str:
        """The field that is read, for what is wrong with all of a row."""
        return next((one.name for one in self.task.fields if one.text), "")


class _TokenRows:
    """The columns of a batch of token rows as arrays: N rows, T tokens in all."""

    def __init__(self, batch: pa.RecordBatch, vocabulary: Vocabulary | None) -> None:
        import numpy as np

        self.batch, self.vocabulary = batch, vocabulary
        self.length, self.untruncated = (self._numbers(name) for name in ("length", "untruncated_length"))
        self.supervised = self._numbers("supervised", missing=1)
        self.ended = self._numbers("ended", missing=1).astype(bool)
        self.lost = {one: self._numbers(f"lost_{one}") for one in ("prompt", "target")}
        self.lost["context"] = self.untruncated - self.length - self.lost["prompt"] - self.lost["target"]
        self.texts, self.unknown, self.first = np.zeros((3, batch.num_rows), dtype=np.int64)
        self.doubled = np.zeros(batch.num_rows, dtype=bool)
        if vocabulary:
            self._read_tokens(vocabulary)

    def _read_tokens(self, vocabulary: Vocabulary) -> None:
        import numpy as np

        ids, ends = flat_lists(self.batch["input_ids"])
        stands_for_text = np.ones(vocabulary.size, dtype=bool)
        stands_for_text[list(vocabulary.special)] = False
        self.texts = _per_row(stands_for_text[ids], ends)
        if vocabulary.unknown is not None:
            self.unknown = _per_row(ids == vocabulary.unknown, ends)
        two = np.flatnonzero(np.diff(ends) > 1)
        self.first[two] = ids[ends[two]]
        begins = np.isin(self.first[two], list(vocabulary.beginnings))
        self.doubled[two] = begins & (self.first[two] == ids[ends[two] + 1])

    def place(self, row: int) -> str:
        """Return where in its part a row stands: its line, ``7``, or where on its line too, ``7:20``."""
        line, column = (self.batch[name][row].as_py() for name in ("line", "column"))
        return f"{line}:{column}" if column else str(line)

    def counts(self, kept: np.ndarray) -> Counter[str]:
        """Return the counts of the rows ``kept`` (bool [N])."""
        sums = {
            "rows": kept.sum(),
            "tokens": self.length[kept].sum(),
            "text_tokens": self.texts[kept].sum(),
            "unknown_tokens": self.unknown[kept].sum(),
            "truncated": (self.untruncated > self.length)[kept].sum(),
            **{f"lost_{one}": (self.lost[one] > 0)[kept].sum() for one in PIECES},
        }
        return Counter({name: int(value) for name, value in sums.items()})

    def lines(self, kept: np.ndarray) -> Counter[int]:
        """Return how many lines of each length the rows ``kept`` have: windows where they are cut into windows."""
        import numpy as np

        lengths = self.length[kept]
        if "windows" in self.batch.schema.names and self.batch["windows"].null_count == 0:
            windows, ends = flat_lists(self.batch["windows"])
            lengths = windows[np.repeat(kept, np.diff(ends))]
        values, counts = np.unique(lengths, return_counts=True)
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def _numbers(self, name: str, missing: int = 0) -> np.ndarray:
        """Return a column of whole numbers or truth values: int64 [N]."""
        import numpy as np
        import pyarrow as pa

        found: np.ndarray = self.batch[name].cast(pa.int64()).fill_null(missing).to_numpy().astype(np.int64, copy=False)
        return found


def _per_row(marked: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many tokens are ``marked`` (bool [T]) in each row: int64 [N]."""
    import numpy as np

    before = np.concatenate([[0], np.cumsum(marked, dtype=np.int64)])
    counts: np.ndarray = before[ends[1:]] - before[ends[:-1]]
    return counts
