"""Slices that somebody can name beforehand: by column, by length, by language, by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.evaluation.slices.section import SlicesConfig
from graft.evaluation.traits import Traits, named, numbers
from graft.languages import languages

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Slice:
    """Some of the test rows. ``name`` is what metrics.json and gates call it: ``source=yelp``, ``length=1/4``."""

    name: str
    family: str
    """What it is made by: ``label``, ``length``, ``language``, ``column`` or ``worst``."""
    mask: np.ndarray
    """bool [N]"""
    about: str = ""
    """More than the name says, for people: the range of a quarter."""


@dataclass(frozen=True)
class Cut:
    """What a way of cutting gave: slices, and those that are not measured, as (name, rows, why)."""

    slices: list[Slice] = field(default_factory=list)
    left_out: list[tuple[str, int, str]] = field(default_factory=list)

    def __iadd__(self, other: Cut) -> Cut:
        self.slices.extend(other.slices)
        self.left_out.extend(other.left_out)
        return self


def known(traits: Traits, config: SlicesConfig) -> Cut:
    """Return the slices by label, length, language and column."""
    found = Cut()
    if config.labels and traits.labels:
        found += by_value("label", "label", traits.labels, config)
    if config.lengths and traits.lengths:
        found += by_size("length", "length", traits.lengths, config.lengths, config, "tokens")
    if config.languages and traits.texts:
        found += by_value("language", "language", [[name] for name, _ in languages(traits.texts)], config)
    for name in config.columns:
        found += by_column(name, traits.columns[name], config)
    names = dict.fromkeys(one.name for one in found.slices)  # the column of labels may be named too
    return Cut([next(one for one in found.slices if one.name == name) for name in names], found.left_out)


def by_column(name: str, values: Sequence[Any], config: SlicesConfig) -> Cut:
    """Return a slice for each value of a column, or for quarters of one of many numbers."""
    amounts = numbers(values)
    if amounts is not None and len(set(values)) > config.most_values:
        return by_size("column", name, amounts, 4, config, name)
    return by_value("column", name, [[value] for value in named(values)], config)


def by_value(family: str, name: str, values: Sequence[Iterable[str]], config: SlicesConfig) -> Cut:
    """Return a slice for each of the most frequent values, by value; a row may have several, or none."""
    import numpy as np

    counts = Counter(value for row in values for value in set(row))
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    found = Cut()
    for place, value in enumerate(ranked):
        called = f"{name}={value}"
        if counts[value] < config.least_rows:
            found.left_out.append((called, counts[value], f"fewer than {config.least_rows} rows"))
        elif place >= config.most_values:
            found.left_out.append((called, counts[value], f"beyond the {config.most_values} most frequent values"))
        elif counts[value] == len(values) and len(ranked) == 1:
            found.left_out.append((called, counts[value], "all rows"))
        else:
            found.slices.append(Slice(called, family, np.array([value in row for row in values])))
    found.slices.sort(key=lambda one: one.name)
    return found


def by_size(family: str, name: str, values: Sequence[float], groups: int, config: SlicesConfig, unit: str) -> Cut:
    """Return slices of rows with about equal numbers of them, by rising value; equal values stay together."""
    import numpy as np

    amounts = np.asarray(values, dtype=np.float64)
    found = Cut()
    for number, mask, low, high in _groups(amounts, groups):
        called, rows = f"{name}={number}/{groups}", int(mask.sum())
        if rows < config.least_rows:
            found.left_out.append((called, rows, f"fewer than {config.least_rows} rows"))
        else:
            found.slices.append(Slice(called, family, mask, f"{low:g} to {high:g} {unit}"))
    return found


def _groups(amounts: np.ndarray, groups: int) -> Iterator[tuple[int, np.ndarray, float, float]]:
    """Yield number, mask, least and largest value of each group; one that equal values leave empty is skipped."""
    import numpy as np

    finite = amounts[np.isfinite(amounts)]
    if not len(finite):
        return
    edges = np.quantile(finite, [number / groups for number in range(1, groups)], method="inverted_cdf")
    place = np.searchsorted(edges, amounts, side="left")
    for number in range(groups):
        mask = (place == number) & np.isfinite(amounts)
        if mask.any():
            yield number + 1, mask, float(amounts[mask].min()), float(amounts[mask].max())
