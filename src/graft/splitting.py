"""Rows to train, validation and test: by group and label, or by time. Pure functions over lists.

A random split by row is the usual mistake: near-copies on both sides make a score look better than it is. Here whole
groups move, and labels still keep their shares as far as the groups allow.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from graft.workspace import SPLITS

Shares = tuple[int, int, int]
"""Parts of the whole for train, validation and test, in any unit: (80, 10, 10)."""


def assign(labels: Sequence[str], groups: Sequence[str], shares: Shares, seed: int) -> list[str]:
    """Return the split of each row so that no group straddles splits and every label keeps its shares.

    Groups are placed one by one, the largest first, each where the squared distance of the label counts from their
    targets, divided by the target (Pearson's chi-square), falls most. A label with few rows ends up in ``train``.
    Depends on ``seed`` and the values alone, not on the order of groups of equal size.

    Args:
        labels: one per row; equal labels for all rows split without regard to the label.
        groups: one per row; rows with the same group stay together.
        shares: parts of the whole for train, validation and test, in any unit (80, 10, 10).
        seed: breaks ties between groups of equal size.
    """
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        units[group][label] += 1
    totals = Counter(labels)
    targets = {
        split: {label: rows * share / sum(shares) for label, rows in totals.items()}
        for split, share in zip(SPLITS, shares, strict=True)
        if share
    }
    have: dict[str, Counter[str]] = {split: Counter() for split in targets}
    place: dict[str, str] = {}
    for group in sorted(units, key=lambda name: (-units[name].total(), _rank(seed, name))):
        unit = units[group]
        split = min(targets, key=lambda name: _cost(unit, have[name], targets[name]))
        have[split] += unit
        place[group] = split
    return [place[group] for group in groups]


def _cost(unit: Counter[str], have: Counter[str], target: dict[str, float]) -> float:
    """How much the chi-square of one split grows when ``unit`` joins it (negative: it shrinks)."""
    return sum(rows * (rows + 2 * (have[label] - target[label])) / target[label] for label, rows in unit.items())


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def by_time(times: Sequence[float], shares: Shares) -> list[str]:
    """Return splits in the order of time; rows of one time stay together, with the earlier split."""
    order = sorted(range(len(times)), key=lambda number: times[number])
    places = [""] * len(times)
    last = ""
    for rank, number in enumerate(order):
        if rank == 0 or times[number] != times[order[rank - 1]]:
            passed, total = 0, sum(shares)
            for split, share in zip(SPLITS, shares, strict=True):
                passed += share
                if share and rank * total < passed * len(times):
                    last = split
                    break
        places[number] = last
    return places
