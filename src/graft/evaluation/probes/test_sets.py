"""Generalisation: test sets from elsewhere (``data/test_sets/<name>``), and how far the headline metric drops there.

Base and adapter answer the same rows; the drop is that of one system from the test split to the set, which are
different rows, so it has an interval of two independent samples. Rows are read as those of the test split are: same
columns, same cleaning, same strict reader. What a set is made of is the project's matter; that it is not the training
data's source is what makes it worth having.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cleaning import Cleaning, text_steps
from graft.config import nearest
from graft.data import TEST_SETS, DataConfig, Record, part_rows, parts_of_test_sets, privacy_of
from graft.errors import ConfigError, DataError
from graft.evaluation.comparison import compare
from graft.evaluation.contrasts import Contrast, contrast
from graft.evaluation.intervals import Interval, Taken, interval, rounded
from graft.evaluation.overview import format_cell, label
from graft.evaluation.probes import About, Finding, Material, Subject
from graft.evaluation.probes.rows import row_scores

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig
    from graft.tasks import Metric, Task, TaskConfig

    Table = Mapping[str, np.ndarray]

SET = "set"
"""The column that says which set a row is of."""


class Generalisation:
    """The probe; its tables are prediction tables with the columns ``set`` and ``score``."""

    name = "test_sets"
    systems: tuple[str, ...] = ("adapter", "base")

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:  # noqa: ARG002
        return "switched off (evaluation.test_sets: [])" if config.test_sets == () else None

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:
        if why := self.unasked(config, subject.loaded.task, subject.loaded.config):
            return why
        return None if _files(config, material.root / "data") else f"no folder in data/{TEST_SETS}"

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        import numpy as np

        task = subject.loaded.task
        found = list[dict[str, Any]]()
        for name, files in _files(config, material.root / "data").items():
            records = _records(files, material, subject)
            if not records:
                raise DataError(f"data/{TEST_SETS}/{name}: no rows to score")
            table = dict(subject.predictions(records, f"test set {name}", cleaned=True))
            found.append(table | {SET: np.full(len(records), name, dtype=object), "score": _scores(task, table)})
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        metric = about.task.metric(about.task.headline)
        names = list(dict.fromkeys(tables["adapter"][SET].tolist()))
        found = {name: _Measured(name, metric, tables, about.predictions, config) for name in names}
        return Finding(
            title=f"Test sets from elsewhere, by {metric.name}",
            text=_text(found, metric),
            values={
                system: {
                    key: value
                    for name, one in found.items()
                    for key, value in (
                        (f"{name}_{metric.name}", one.values[system]),
                        (f"{name}_{metric.name}_drop", one.drop(system)),
                    )
                }
                for system in tables
            },
            tables={"": [one.line() for one in found.values()]},
            limits=[one.limit() for one in found.values()],
        )


class _Measured:
    """One set: the metric of each system, and the difference to the test split."""

    def __init__(
        self,
        name: str,
        metric: Metric,
        tables: Mapping[str, Table],
        predictions: Mapping[str, Table],
        config: EvaluationConfig,
    ) -> None:
        import numpy as np

        self.name, self.metric = name, metric
        own = {system: dict(Taken(table, np.flatnonzero(table[SET] == name))) for system, table in tables.items()}
        self.rows = len(own["adapter"][SET])
        self.values = {system: interval(metric, table, config) for system, table in own.items()}
        self.contrasts = {
            system: _from_test(metric, predictions[system], table, config) for system, table in own.items()
        }
        paired = "base" in own and self.rows > 1
        self.against = compare(metric, own["adapter"], own["base"], config) if paired else None

    def drop(self, system: str) -> Interval:
        """Return how much worse the set is than the test split: above 0 where it is, whichever way the metric goes."""
        one = self.contrasts[system].difference
        if self.metric.greater_is_better:
            return one
        return Interval(-one.value, -one.high, -one.low, one.method)

    @property
    def defined(self) -> bool:
        """Whether the metric of the set can be held against that of the test rows: of one row it cannot."""
        return math.isfinite(self.contrasts["adapter"].difference.value)

    def line(self) -> dict[str, Any]:
        """Return the set's line in the report."""
        cells = {
            label(system): format_cell(rounded(one.value), rounded(one.low), rounded(one.high))
            for system, one in self.values.items()
        }
        drop, p = self.drop("adapter"), self.contrasts["adapter"].p
        one = self.against
        difference = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" if one and self.defined else "–"
        return {
            "set": self.name,
            "rows": self.rows,
            **cells,
            **({"adapter_minus_base": difference} if "base" in self.values else {}),
            "adapter's_drop_from_the_test_rows": f"{drop.value:+.3f} [{drop.low:+.3f}, {drop.high:+.3f}]"
            if self.defined
            else "–",
            "p": "–" if p != p else "< 0.0001" if p < 0.0001 else f"{p:.4f}",
        }

    def limit(self) -> str:
        """Return a sentence for the model card."""
        one, drop = self.values["adapter"], self.drop("adapter")
        if not self.defined:
            return (
                f"The test set `{self.name}` has too few rows ({self.rows}), or too uniform ones, for its "
                f"{self.metric.name} to be held against that of the test rows."
            )
        return (
            f"On the test set `{self.name}` ({self.rows} rows from elsewhere) its {self.metric.name} is "
            f"{one.value:.3f}, {abs(drop.value):.3f} {'worse' if drop.value > 0 else 'better'} than on the test rows."
        )


def _from_test(metric: Metric, test: Table, other: Table, config: EvaluationConfig) -> Contrast:
    """Return test rows against the rows of a set (test minus set), which are different rows of one system."""
    import numpy as np

    shared = [name for name in test if name in other and test[name].shape[1:] == other[name].shape[1:]]
    both = {name: np.concatenate([test[name], other[name]]) for name in shared}
    rows = len(test["row"])
    return contrast(metric, both, np.arange(rows), np.arange(rows, rows + len(other["row"])), config)


def _files(config: EvaluationConfig, folder: Path) -> dict[str, list[Path]]:
    """Return the part files of the sets that the section asks for.

    Raises:
        ConfigError: it names one that is not there.
        DataError: a set is no folder of part files.
    """
    found = parts_of_test_sets(folder)
    if config.test_sets is None:
        return found
    for name in config.test_sets:
        if name not in found:
            near = nearest(name, list(found))
            raise ConfigError(
                f"evaluation.test_sets: no data/{TEST_SETS}/{name}; there "
                + (f"are {', '.join(found)}" if found else "is none")
                + (f"; did you mean {near!r}?" if near else "")
            )
    return {name: found[name] for name in config.test_sets}


def _records(files: Sequence[Path], material: Material, subject: Subject) -> list[Record]:
    """Return the rows of a set, cleaned as the system's training rows were; the project decides which there are.

    Raises:
        DataError: a row cannot be read, or has an answer that the system cannot give.
    """
    loaded = subject.loaded
    fields = loaded.task.fields_of(loaded.config)
    own = material.data.model_copy(
        update={"clean": text_steps(loaded.identity["clean"]), "privacy": privacy_of(loaded.identity)}
    )
    asked = {one.place for one in _read(files, material.root, fields, material.data)}
    records = [one for one in _read(files, material.root, fields, own) if one.place in asked]
    problems = [
        material.privacy.in_message(f"{one.place}: {found.field}: expected {found.expected}, found {found.found}")
        for one in records
        for found in loaded.task.check_row(loaded.config, one.row, loaded.state)
    ]
    if problems:
        raise DataError.from_problems(f"rows of a test set that {subject.system} has no answer for", problems)
    return records


def _read(files: Sequence[Path], root: Path, fields: Sequence[Any], data: DataConfig) -> list[Record]:
    cleaning = Cleaning(data.clean, data.privacy)
    return [one for path in files for one in part_rows(path, root, fields, data, cleaning)]


def _scores(task: Task, table: Table) -> np.ndarray:
    """Return each row's score by the headline, or, where that is of the whole set (F1), by what ranks errors."""
    import numpy as np

    metric = task.metric(task.headline)
    if metric.per_row is None:
        return row_scores(task, table)
    scores: np.ndarray = np.asarray(metric.per_row(table), dtype=np.float64)
    return scores if metric.greater_is_better else -scores


def _text(found: Mapping[str, _Measured], metric: Metric) -> str:
    said = f"{len(found)} test set{'s' if len(found) > 1 else ''} from other sources than the training rows."
    told = [one for one in found.values() if one.defined]
    if not told:
        return f"{said} On none can {metric.name} be held against that of the test rows."
    worst = max(told, key=lambda one: one.drop("adapter").value)
    drop = worst.drop("adapter")
    if drop.low > 0:
        return (
            f"{said} The largest drop: {metric.name} is {drop.value:.3f} worse on {worst.name} than on the test rows."
        )
    if drop.value > 0:
        return f"{said} No drop is more than chance may make; the largest is {drop.value:.3f}, on {worst.name}."
    return f"{said} On none is the adapter worse than on the test rows."


PROBE = Generalisation()
