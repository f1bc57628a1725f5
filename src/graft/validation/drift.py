"""Whether two data sets are made alike: their profiles, held against each other with a limit for each kind of drift.

Labels, lengths and numbers to predict are compared by the population stability index, the symmetric Kullback-Leibler
divergence of their shares (credit scoring calls 0.1 a small and 0.25 a large shift; Siddiqi 2006), words by the
Jensen-Shannon divergence in bits (Lin 1991), which stays below 1 where a word occurs on one side alone.

Both grow by chance alone, the more the fewer the rows and the more the labels: about (labels - 1)(1/n + 1/m) for the
index (Yurdakul 2018), 0.76 for 77 labels in two samples of 200 rows. So what two samples of the pooled data would show
is drawn, from a fixed seed. A drift is reported where the measured value exceeds every one of the draws, and exceeds
their mean by more than the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import shown
from graft.quarantine import in_words
from graft.validation.data_profile import BUCKETS, DataProfile, said
from graft.validation.section import BalanceConfig, DriftConfig

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["label_shift", "length_drift", "vocabulary_drift"]
"""As ``validation.severity`` calls it."""
DRAWS = 200
SEED = 0
CELLS = 10
"""Lengths and numbers are compared in this many groups of equal size (tenths), where there are rows enough."""
FEWEST_ROWS = 100
"""Of either side; with fewer nothing is compared, as chance would explain almost any difference."""
FEWEST_IN_CELL = 5
"""Rows that the smaller side has in a group, as the shares of both together say: labels rarer than that share one."""
NAMED = 3


@dataclass(frozen=True)
class Comparison:
    """One thing of one split, compared with what it was (or is elsewhere)."""

    kind: Kind
    split: str
    field: str
    """As the task calls it; empty: all texts together."""
    against: str
    """In words: ``the champion's data (version 3)``, ``train``."""
    statistic: Literal["PSI", "JS"]
    value: float
    by_chance: float
    """What samples of these sizes would show if nothing had changed: the mean ..."""
    at_most: float
    """... and the largest value of the draws."""
    limit: float
    """The most that ``value`` may exceed ``by_chance``."""
    changed: str
    """What changed most, in words."""

    @property
    def is_drift(self) -> bool:
        """Whether chance does not explain the difference, and the limit does not allow it."""
        return self.value > self.at_most and self.value - self.by_chance > self.limit

    @property
    def expected(self) -> str:
        """What the contract asks for, as a problem says it."""
        what = f"{NAMES[self.kind]} like {self.against}"
        key = f"validation.drift.{KEYS[self.kind]}"
        return f"{what}: {self.statistic} above chance at most {self.limit:g} ({key})"

    @property
    def found(self) -> str:
        """What was found instead."""
        return f"{self.value:.3f}, {self.by_chance:.3f} by chance" + (f"; {self.changed}" if self.changed else "")


NAMES: dict[Kind, str] = {"label_shift": "labels", "length_drift": "lengths", "vocabulary_drift": "words"}
KEYS: dict[Kind, str] = {
    "label_shift": "max_label_psi",
    "length_drift": "max_length_psi",
    "vocabulary_drift": "max_vocabulary_js",
}


def against_champion(
    now: Mapping[str, DataProfile], before: Mapping[str, DataProfile], named: str, limits: DriftConfig
) -> Iterator[Comparison]:
    """Compare each split with the champion's; what the two do not both have is not compared."""
    for split in now:
        if split in before:
            yield from compared(split, now[split], before[split], f"the champion's data ({named})", limits)


def between_splits(now: Mapping[str, DataProfile], limits: DriftConfig) -> Iterator[Comparison]:
    """Compare the labels of validation and test with those of train."""
    for split, profile in now.items():
        if split != "train":
            found = compared(split, profile, now["train"], "train", limits)
            yield from (one for one in found if one.kind == "label_shift")


def compared(
    split: str, now: DataProfile, before: DataProfile, against: str, limits: DriftConfig
) -> Iterator[Comparison]:
    """Compare everything that two profiles have both."""
    if min(now.rows, before.rows) < FEWEST_ROWS:
        return
    for name in _both(now.labels, before.labels):
        labels = label_groups(now.labels[name], before.labels[name])
        table = _table(now.labels[name], before.labels[name], labels)
        yield _comparison("label_shift", split, name, against, table, limits, [*map(_group, labels)])
    kinds: tuple[tuple[Kind, dict[str, Counter[int]], dict[str, Counter[int]]], ...] = (
        ("label_shift", now.targets, before.targets),
        ("length_drift", now.characters, before.characters),
    )
    for kind, ours, theirs in kinds:
        for name in _both(ours, theirs):
            edges = tenths(theirs[name], min(ours[name].total(), theirs[name].total()))
            groups = range(len(edges) + 1)
            table = _table(_grouped(ours[name], edges), _grouped(theirs[name], edges), [[one] for one in groups])
            names = [_range(edges, one, kind == "length_drift") for one in groups]
            yield _comparison(kind, split, name, against, table, limits, names)
    if now.words and before.words:
        table = _table(now.words, before.words, [[bucket] for bucket in range(BUCKETS)])
        yield _comparison("vocabulary_drift", split, "", against, table, limits, [])


def _both(one: Mapping[str, Counter[Any]], other: Mapping[str, Counter[Any]]) -> list[str]:
    return sorted(name for name in one if one[name] and other.get(name))


def label_groups(now: Counter[str], before: Counter[str]) -> list[list[str]]:
    """Return the labels, the frequent ones alone, the rare ones in groups that are frequent enough together."""
    both = now + before
    fewest = FEWEST_IN_CELL * both.total() / min(now.total(), before.total())
    groups = list[list[str]]()
    for label in sorted(both, key=lambda label: (-both[label], label)):
        if groups and sum(both[one] for one in groups[-1]) < fewest:
            groups[-1].append(label)
        else:
            groups.append([label])
    return groups


def _group(labels: Sequence[str]) -> str:
    return shown(labels[0]) + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")


def _table(now: Counter[Any], before: Counter[Any], groups: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return how often each group of cells occurs now and before: int64 [2, groups]."""
    import numpy as np

    return np.array([[sum(counts[cell] for cell in one) for one in groups] for counts in (now, before)], dtype=np.int64)


def _comparison(
    kind: Kind,
    split: str,
    name: str,
    against: str,
    table: np.ndarray,
    limits: DriftConfig,
    cells: Sequence[str],
) -> Comparison:
    statistic = divergence if kind == "vocabulary_drift" else stability_index
    drawn = statistic(draws(table))
    return Comparison(
        kind=kind,
        split=split,
        field=name,
        against=against,
        statistic="JS" if kind == "vocabulary_drift" else "PSI",
        value=round(float(statistic(table)), 4),
        by_chance=round(float(drawn.mean()), 4),
        at_most=round(float(drawn.max()), 4),
        limit=getattr(limits, KEYS[kind]),
        changed=", ".join(_changes(table, cells)),
    )


def stability_index(tables: np.ndarray) -> np.ndarray:
    """Return the population stability index of each table of counts: int [..., 2, cells] -> float64 [...].

    Half a row is added to each cell, so that one that is empty on one side does not make the index infinite.
    """
    from scipy.special import rel_entr

    now, before = _shares(tables + 0.5)
    found: np.ndarray = (rel_entr(now, before) + rel_entr(before, now)).sum(axis=-1)
    return found


def divergence(tables: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of each table of counts in bits: int [..., 2, cells] -> float64 [...]."""
    from scipy.spatial.distance import jensenshannon

    now, before = _shares(tables)
    found: np.ndarray = jensenshannon(now, before, base=2, axis=-1) ** 2
    return found


def _shares(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shares = tables / tables.sum(axis=-1, keepdims=True)
    return shares[..., 0, :], shares[..., 1, :]


def draws(table: np.ndarray) -> np.ndarray:
    """Return tables of the same totals whose two rows are drawn from the pooled shares: int64 [DRAWS, 2, cells].

    Counts of words and tags, of which a row has several, vary less than these draws where a cell is in most rows.
    """
    import numpy as np

    generator, pooled = np.random.default_rng(SEED), table.sum(axis=0) / table.sum()
    return np.stack([generator.multinomial(int(total), pooled, size=DRAWS) for total in table.sum(axis=1)], axis=1)


def tenths(counts: Counter[int], fewest: int) -> list[int]:
    """Return the steps at which groups of nearly equal size begin, but for the first.

    ``fewest``: how many rows the smaller side has; a group has at least five of them.
    """
    groups, total = max(1, min(CELLS, fewest // FEWEST_IN_CELL)), counts.total()
    edges, below = list[int](), 0
    for step in sorted(counts):
        if below >= (len(edges) + 1) * total / groups:
            edges.append(step)
        below += counts[step]
    return edges


def _grouped(counts: Counter[int], edges: Sequence[int]) -> Counter[int]:
    from bisect import bisect_right

    found = Counter[int]()
    for step, count in counts.items():
        found[bisect_right(edges, step)] += count
    return found


def _range(edges: Sequence[int], group: int, whole: bool) -> str:
    low = said(edges[group - 1], whole=whole) if group else ""
    high = said(edges[group], whole=whole) if group < len(edges) else ""
    return f"{low} to {high}" if low and high else f"below {high}" if high else f"from {low}" if low else "all"


def _changes(table: np.ndarray, cells: Sequence[str]) -> Iterator[str]:
    """Yield the cells whose share changed most, by their names; none where they have no names."""
    now, before = _shares(table)
    for row in sorted(range(len(cells)), key=lambda row: -abs(now[row] - before[row]))[:NAMED]:
        if now[row] != before[row]:
            yield f"{cells[row]} {before[row]:.1%} -> {now[row]:.1%}"


def imbalance(profile: DataProfile, limits: BalanceConfig) -> Iterator[tuple[str, str, str]]:
    """Yield field, expected and found of labels that are too rare among the training rows.

    An even share is what a label would have if all of one field were equally frequent; tags and several labels of a
    row have none, so that only their number counts.
    """
    for name, counts in profile.labels.items():
        smallest = sorted(counts, key=lambda label: (counts[label], label))
        few = [label for label in smallest if counts[label] < limits.min_label_rows]
        if few:
            expected = f"at least {in_words(limits.min_label_rows)} of each label (validation.balance.min_label_rows)"
            yield name, expected, _named(few, counts)
        even = counts.total() / len(counts) if counts else 0
        rare = [label for label in smallest if counts[label] < limits.min_even_share * even and label not in few]
        if rare and counts.total() == profile.rows:
            expected = (
                f"at least {limits.min_even_share:g} of an even share ({even:.0f} rows) for each label "
                f"(validation.balance.min_even_share)"
            )
            yield name, expected, _named(rare, counts)


def constant(profile: DataProfile, limits: BalanceConfig, several: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield field, expected and found of labels that next to all training rows have: nothing tells them.

    ``several``: fields with any number of labels a row.
    """
    for name in profile.labels.keys() & set(several):
        without = Counter({label: profile.rows - rows for label, rows in profile.labels[name].items()})
        if found := sorted(label for label in without if without[label] < limits.min_label_rows):
            fewest = in_words(limits.min_label_rows)
            expected = f"at least {fewest} without each label (validation.balance.min_label_rows)"
            yield name, expected, _named(found, without)


def _named(labels: Sequence[str], counts: Counter[str]) -> str:
    named = ", ".join(f"{shown(label)} ({in_words(counts[label])})" for label in labels[:NAMED])
    return f"{len(labels)} of {len(counts)} labels below: {named}" + (", ..." if len(labels) > NAMED else "")
