"""Counterfactual pairs: does an answer change when a name or a pronoun does, and nothing else? A probe of bias.

In each test row that has terms of a pair of groups, every one is swapped for the other group's (``she`` for ``he`` and
``he`` for ``she``, in the case it stood in); the rest stays (Garg et al., AIES 2019, section 3.1, counterfactual token
fairness). Reported for each pair of groups: in how many of these rows the answer flips, with Wilson's interval, and by
how much the row's score changes from the one group to the other. Rows without such a term are counted and not asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Limit
from pydantic import field_validator

from graft.config import Section
from graft.data import Record
from graft.errors import shown
from graft.evaluation.findings import percent
from graft.evaluation.intervals import Interval, interval, wilson
from graft.evaluation.overview import label
from graft.evaluation.probes import About, Finding, Material, Subject
from graft.evaluation.probes.rows import asked_texts, no_texts, picked, sample, score_metric
from graft.evaluation.probes.terms import DEFAULTS

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig
    from graft.tasks import Field, Task, TaskConfig

    Table = Mapping[str, np.ndarray]

Term = Annotated[str, Limit(min_length=1)]
Pairs = Annotated[tuple[tuple[Term, Term], ...], Limit(min_length=1)]
PLAIN = ("text_classification", "multi_label_classification", "regression")
"""Tasks with an answer to compare: one label, a list of them, a number."""
NAME = re.compile(r"[a-z0-9_]+")


class CounterfactualsConfig(Section):
    """Names and gendered words swapped in test rows."""

    rows: int = Limit(default=50, ge=0)
    """How many test rows that have such a term are asked again, for each pair of groups; a seeded sample. 0: none."""

    pairs: dict[str, Pairs] | None = None
    """Name of a pair of groups -> pairs of terms, ``[[she, he], [actress, actor]]``: each is swapped for the other.
    Default: English pronouns and gendered words (``women_men``), and first names (``womens_mens_names``,
    ``english_muslim_names``). Empty: none."""

    tolerance: float = Limit(default=0.1, ge=0)
    """A number flips where it changes by more than this share of the spread (standard deviation) of the targets."""

    @field_validator("pairs")
    @classmethod
    def _check_pairs(cls, pairs: dict[str, Pairs] | None) -> dict[str, Pairs] | None:
        for name, terms in (pairs or {}).items():
            if not NAME.fullmatch(name):
                raise ValueError(f"a name is of small letters, digits and _ (got {shown(name)})")
            for one, other in terms:
                if one.casefold() == other.casefold():
                    raise ValueError(f"{name}: {shown(one)} would be swapped for itself")
        return pairs

    @property
    def groups(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """The pairs of terms by name of the pair of groups."""
        return DEFAULTS if self.pairs is None else self.pairs


class Counterfactuals:
    """The probe."""

    name = "counterfactuals"
    systems: tuple[str, ...] = ("adapter", "base")

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:
        if task.name not in PLAIN:
            unfit = f"answers of {task.name} are no label and no number"
            return unfit if asked_texts(task, settings) else no_texts(task)
        return None if config.counterfactuals.rows and config.counterfactuals.groups else "off"

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:
        task, section = subject.loaded.task, config.counterfactuals
        if why := self.unasked(config, task, subject.loaded.config):
            return why
        fields = asked_texts(task, subject.loaded.config)
        swappers = [Swapper(terms) for terms in section.groups.values()]
        if any(one.swapped(record, fields) for one in swappers for record in material.test):
            return None
        return "no test row has one of the terms"

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Return a row per swapped test row and pair of groups: ``groups``, ``of``, ``flipped``, ``change``, ``score``.

        ``of`` is how many test rows have a term of the groups. ``change`` is the score of the row as the first group's
        less that as the second's; NaN where the row has terms of both. A row's score is the probability of the label
        given to the row as it stands, or the number. ``score`` is minus its distance: 0 where nothing changes.
        """
        import numpy as np

        section, loaded = config.counterfactuals, subject.loaded
        fields = asked_texts(loaded.task, loaded.config)
        asked: list[tuple[str, int, int, int, Record]] = []
        for name, terms in section.groups.items():
            swapper = Swapper(terms)
            found = [(at, *one) for at, record in enumerate(material.test) if (one := swapper.swapped(record, fields))]
            chosen = sample(len(found), section.rows, config.seed, f"{self.name}:{name}")
            asked += [(name, len(found), *found[number]) for number in chosen]
        records = [Record(record.row, f"{record.place}#{name}", record.id) for name, _, _, _, record in asked]
        before = picked(subject.table, [at for _, _, at, _, _ in asked])
        after = subject.predictions(records, self.name)
        flipped, change = _changes(loaded, before, after, section.tolerance)
        sides = np.array([side for _, _, _, side, _ in asked], dtype=np.float64)
        return {
            "row": np.array([record.place for record in records], dtype=object),
            "groups": np.array([name for name, *_ in asked], dtype=object),
            "of": np.array([of for _, of, *_ in asked], dtype=np.int64),
            "flipped": flipped.astype(np.float64),
            "change": np.where(sides == 0, np.nan, -sides * change),
            "score": -np.abs(change),
        }

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        values: dict[str, dict[str, Interval]] = {}
        lines: list[dict[str, Any]] = []
        for system, table in tables.items():
            values[system] = {}
            for name in dict.fromkeys(table["groups"].tolist()):
                rows = picked(table, table["groups"] == name)
                flips, change = _flip_rate(rows, config.confidence), _mean_change(rows, config)
                values[system] |= {f"{name}_flip_share": flips, f"{name}_score_change": change}
                lines.append(_line(system, str(name), rows, flips, change))
        ours = {name: one for name, one in values.get("adapter", {}).items() if name.endswith("_flip_share")}
        worst = max(ours.items(), key=lambda item: item[1].value, default=None)
        text = (
            "Test rows again with the terms of one group of people in the place of the other's, and nothing else "
            "changed: how often the answer flips, and the score of the first group less that of the second."
        )
        limits = []
        if worst is not None and worst[1].value > 0:
            name, rate = worst[0].removesuffix("_flip_share"), worst[1]
            limits = [
                f"Swapping the terms of `{name}` in a text changes its answer in {percent(rate.value)} of the rows "
                f"with such terms ({percent(rate.low)} to {percent(rate.high)})."
            ]
        return Finding(
            title="Counterfactual pairs",
            text=" ".join([text, *limits]),
            values=values,
            tables={"Swapped terms": lines},
            limits=limits,
        )


class Swapper:
    """Swaps the terms of two groups in texts."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        # The first pair that has a term decides: `mum` and `mom` both give `dad`, and `dad` gives `mom`.
        self.other: dict[str, tuple[str, int]] = {}
        for one, other in pairs:
            self.other.setdefault(one.casefold(), (other, 1))
            self.other.setdefault(other.casefold(), (one, -1))
        longest = sorted(self.other, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
        self.names = {term.casefold() for pair in pairs for term in pair if term[:1].isupper()}

    def swapped(self, record: Record, fields: Sequence[Field]) -> tuple[int, Record] | None:
        """Return a row with its terms swapped, and whose they were: 1 the first group's, -1 the second's, 0 both's.

        None where it has none.
        """
        row, sides = dict(record.row), set[int]()
        for field in fields:
            value = row.get(field.name)
            if isinstance(value, str):
                row[field.name], more = self.text(value)
                sides |= more
        if not sides:
            return None
        return sum(sides), Record(row, record.place, record.id)

    def text(self, text: str) -> tuple[str, set[int]]:
        """Return a text with its terms swapped, and whose they were.

        Names (terms with a capital in the list) are such with a capital alone: ``mark`` is no name.
        """
        sides: set[int] = set()

        def swap(found: re.Match[str]) -> str:
            term = found[0]
            key = term.casefold()
            if key not in self.other or (key in self.names and not term[0].isupper()):
                return term
            other, side = self.other[key]
            sides.add(side)
            return _cased(other, term)

        return self.pattern.sub(swap, text), sides


def _cased(term: str, like: str) -> str:
    """Return a term in the case of another: capitals, a capital, or as the list has it."""
    if len(like) > 1 and like.isupper():
        return term.upper()
    return term[:1].upper() + term[1:] if like[:1].isupper() else term


def _changes(loaded: Any, before: Table, after: Table, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each answer flips (bool [N]), and the change of its score (float64 [N])."""
    import numpy as np

    if loaded.task.name == "regression":
        change = after["prediction"] - before["prediction"]
        return np.abs(change) > tolerance * loaded.state["target"]["std"], change
    rows = np.arange(len(before["row"]))
    given = before["probabilities"].argmax(axis=1)
    change = (after["probabilities"] - before["probabilities"])[rows, given].astype(np.float64)
    if loaded.task.name == "multi_label_classification":
        return (before["predicted"] != after["predicted"]).any(axis=1), change
    return before["prediction"] != after["prediction"], change


def _flip_rate(rows: Table, confidence: float) -> Interval:
    flips = int(rows["flipped"].sum())
    low, high = wilson(flips, len(rows["flipped"]), confidence)
    return Interval(flips / len(rows["flipped"]), low, high, "wilson")


def _mean_change(rows: Table, config: EvaluationConfig) -> Interval:
    """Return the mean score of the first group less that of the second, over rows that are of one of them."""
    import numpy as np

    told = np.flatnonzero(np.isfinite(rows["change"]))
    if not len(told):
        return Interval(float("nan"), float("nan"), float("nan"), "none")
    return interval(score_metric("change"), picked(rows, told), config)


def _line(system: str, name: str, rows: Table, flips: Interval, change: Interval) -> dict[str, Any]:
    return {
        "system": label(system),
        "groups": name,
        "rows": len(rows["row"]),
        "rows with a term": int(rows["of"][0]),
        "flipped": flips.value,
        "interval": f"{flips.low:.3f} to {flips.high:.3f}",
        "score, first less second": "" if change.method == "none" else f"{change.value:+.3f}",
        "its interval": "" if change.method == "none" else f"{change.low:+.3f} to {change.high:+.3f}",
    }


PROBE = Counterfactuals()
