"""The params section of slices."""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class SlicesConfig(Section):
    """Which parts of the test rows the headline metric is measured on by themselves."""

    columns: tuple[str, ...] = ()
    """Columns of the part files, also those that the task does not read: a slice for each value, or for each quarter
    of a column of numbers with more than ``most_values``."""

    lengths: int = Limit(default=4, ge=0, le=20)
    """How many groups by length in tokens, of about equal size (4: quarters); 0: none."""

    languages: bool = True
    """A slice for each language that is found in the texts; a short text is of none."""

    labels: bool = True
    """A slice for each right label."""

    worst: int = Limit(default=3, ge=0, le=20)
    """How many of the worst slices are searched for by what the rows look like (words, length, language, signs,
    columns): found on one half of the rows, tested on the other. 0: none."""

    least_rows: int = Limit(default=20, ge=2)
    """A slice or group of fewer test rows is named, and not measured."""

    most_values: int = Limit(default=20, ge=2, le=1000)
    """How many values of one column, label or language are measured: the most frequent ones."""
