"""What a verdict is made of: the tables of candidate, champion, base and baselines, slices, probes, the test's digest.

The candidate was scored by the evaluate stage. The champion is scored here and now, on its own base, on the current
test rows: numbers that it got on other rows prove nothing. It is loaded once, for its predictions and for the probes
that gates ask for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from graft import tasks
from graft.data import DataConfig, rows_of
from graft.errors import ConfigError, DataError, shown
from graft.identity import digest_bytes, digest_json
from graft.promotion import GateConfig, PromotionConfig, SliceConfig
from graft.promotion.spending import Look
from graft.tasks import Field, TaskConfig
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Table
    from graft.evaluation.probes import Material, Probe, Subject
    from graft.promotion.gates import Counted, Measured
    from graft.promotion.verdict import Opponent
    from graft.tasks import Metric
    from graft.tracking.journal import Entry

OF_A_BASE = ("forgetting",)
"""Probes whose scores are of what a base can do: of two bases they cannot be compared as they are."""
NOT_ASKED = frozenset({"level", "spent", "left", "decision_number", "rows_needed", "detectable"})
"""Evidence that says when a question was asked, and not which."""


class Reference(Protocol):
    """What the candidate's gates are held against: the champion, or the base where there is none."""

    name: str
    identity: Mapping[str, Any]
    """Of the champion's adapter; empty for the base."""

    def predictions(self) -> Table:
        """Return its prediction table of the test rows."""

    def probe(self, name: str) -> Table:
        """Return its table of a probe, over the items that the candidate was asked.

        Raises:
            ConfigError: it was not, and cannot be, measured.
        """

    def cost(self) -> Mapping[str, int] | None:
        """Return what it takes (``adapter_bytes``, ``adapter_parameters``); None where there is nothing to hold."""


class BaseOnDisk:
    """The base, as evaluate scored it with the adapter off."""

    name = "the base"
    identity: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, evaluation: Path) -> None:
        """Read below ``evaluation``, the output of the stage."""
        self._folder = evaluation

    def predictions(self) -> Table:
        return self._table

    @cached_property
    def _table(self) -> Table:
        """Its predictions, read once for all opponents and gates."""
        from graft.evaluation import prediction

        return prediction.read(self._folder / "predictions" / "base.parquet")

    def probe(self, name: str) -> Table:
        return read_probe(self._folder, name, "base")

    def cost(self) -> None:
        """Return None: a base takes no adapter, so there is nothing that the first one could take more than."""


class Champion:
    """The champion, loaded on its own base and asked now what the candidate was asked by evaluate."""

    def __init__(
        self,
        subject: Subject,
        name: str,
        workspace: Workspace,
        task: TaskConfig,
        data: DataConfig,
        evaluation: Any,
        cost: Mapping[str, int],
    ) -> None:
        """Hold the loaded champion; ``evaluation`` is the params section, ``cost`` what the champion takes."""
        self.name, self.identity, self._subject, self._cost = name, subject.loaded.identity, subject, cost
        self._workspace, self._task, self._data, self._evaluation = workspace, task, data, evaluation

    def predictions(self) -> Table:
        return self._subject.table

    def probe(self, name: str) -> Table:
        from graft import artifact
        from graft.evaluation import probes

        known = {one.name: one for one in probes.every()}
        material = probes.Material(_test(self._workspace, self._task, self._data), self._data, self._workspace.root)
        why = known[name].left_out(self._evaluation, self._subject, material) if name in known else "no such probe"
        if why is not None:
            raise ConfigError(f"promotion.gates: probe {shown(name)}: cannot be asked of {self.name}: {why}")
        with artifact.reproducible(self._subject.loaded.identity["threads"]):
            try:
                found = known[name].measure(self._evaluation, self._subject, material)
            except ConfigError as error:  # the candidate could be asked: it is the champion that does not know a label
                raise DataError(f"probe {name}: {error}") from None
            return self._from_own_base(known[name], found, material) if name in OF_A_BASE else found

    def cost(self) -> Mapping[str, int]:
        return self._cost

    def _from_own_base(self, probe: Probe, found: Table, material: Material) -> Table:
        """Return a champion's scores as they were if its base were the candidate's: what it changed of its own base.

        Bits per token of two bases say more of the bases (and their tokenizers) than of what adapters made of them.
        """
        from dataclasses import replace

        from graft.evaluation.comparison import aligned

        base = read_json(self._workspace.adapter / "identity.json")["base"]
        if self._subject.loaded.identity["base"]["digest"] == base["digest"]:
            return found
        theirs = probe.measure(self._evaluation, replace(self._subject, system="base"), material)
        ours = aligned(found, read_probe(self._workspace.evaluation, probe.name, "base"))
        if ours["measure"][0] != found["measure"][0]:
            raise DataError(
                f"probe {probe.name}: measured by {ours['measure'][0]}, and of {self.name}, which has another base, by "
                f"{found['measure'][0]}: take the gate out for this change of base"
            )
        # Of a text, whatever tokens it is cut into.
        change = (found["score"] - theirs["score"]) * found["tokens"] / ours["tokens"]
        return {**found, "score": ours["score"] + change}


def candidate_tables(workspace: Workspace) -> tuple[Table, list[Table]]:
    """Return the prediction table of the adapter that is registered, and those of further seeds."""
    from graft.evaluation import prediction, seeds

    folder = workspace.evaluation / "predictions"
    others = sorted((folder / seeds.FOLDER).glob("*.parquet"))
    return prediction.read(folder / "adapter.parquet"), [prediction.read(path) for path in others]


def opponents(
    workspace: Workspace, task: TaskConfig, reference: Reference, first: bool, policy: PromotionConfig
) -> list[Opponent]:
    """Return what the candidate must beat: the champion; without one, the base and the cheap predictors.

    A cheap predictor that has none of the metrics that decide (no perplexity) is none.
    """
    from graft.evaluation import prediction
    from graft.evaluation.comparison import has
    from graft.evaluation.overview import label
    from graft.promotion.verdict import Opponent

    found = [Opponent(reference.name, reference.predictions(), trained=not first)]
    if first and policy.first_against == "baselines":
        for name in tasks.get(task.name).baselines():
            table = prediction.read(workspace.evaluation / "predictions" / f"{name}.parquet")
            if any(has(table, metric) for metric in metrics_of(task, policy)):
                found.append(Opponent(label(name), table, trained=False))
    return found


def metrics_of(task: TaskConfig, policy: PromotionConfig) -> list[Metric]:
    """Return the metrics that decide.

    Raises:
        ConfigError: the task has no such metric.
    """
    one = tasks.get(task.name)
    return [_metric(one, name, "promotion.metric") for name in policy.metrics or (one.headline,)]


def gates(
    workspace: Workspace,
    task: TaskConfig,
    data: DataConfig,
    policy: PromotionConfig,
    reference: Reference,
    candidate: Table,
) -> Iterator[Measured | Counted]:
    """Yield what each gate of ``promotion.gates`` asks; a gate by column asks once per value.

    Raises:
        ConfigError: a metric, label, column or probe that is not there.
    """
    from graft.evaluation.calibration import SQUARED
    from graft.promotion.gates import MEAN_SCORE, Counted, Measured

    for number, gate in enumerate(policy.gates):
        path = f"promotion.gates[{number}]"
        if gate.cost is not None:
            if (theirs := reference.cost()) is not None:
                ours = read_json(workspace.evaluation / "metrics.json")["cost"]
                yield Counted(gate.cost, ours[gate.cost], theirs[gate.cost], gate.margin)
            continue
        if gate.probe is not None:
            asked = read_probe(workspace.evaluation, gate.probe, "adapter")
            yield Measured(gate.probe, asked, reference.probe(gate.probe), MEAN_SCORE, gate.margin)
            continue
        metric, margin = metrics_of(task, policy)[0], gate.margin
        if gate.metric is not None:
            metric = _metric(tasks.get(task.name), gate.metric, f"{path}.metric")
        if metric.name == "ece":
            # c >= h + margin means c^2 - h^2 >= margin^2, so ruling that out rules out more than is asked.
            metric, margin = SQUARED, margin**2
        if gate.groups is not None:
            groups = _groups(workspace, task, data, gate, candidate, path)
            name = f"{metric.name} alike by {gate.groups}"
            yield Measured(name, candidate, reference.predictions(), metric, margin, groups=groups)
            continue
        for name, mask in slices(workspace, task, data, gate, candidate, path):
            yield Measured(f"{metric.name}{name}", candidate, reference.predictions(), metric, margin, mask)


def _groups(
    workspace: Workspace, task: TaskConfig, data: DataConfig, gate: GateConfig, table: Table, path: str
) -> list[tuple[str, np.ndarray]]:
    """Return the groups of a gate that have enough rows, by the values of its column: names and masks."""
    column = _column(workspace, task, data, str(gate.groups), table, f"{path}.groups")
    masks = [(value, column == value) for value in sorted({value for value in column if value is not None})]
    found = [(value, mask) for value, mask in masks if int(mask.sum()) >= gate.min_rows]
    if len(found) < 2:
        raise ConfigError(
            f"{path}.groups: {gate.groups}: {len(found)} groups have its min_rows, {gate.min_rows}, of {len(masks)} in "
            f"the test rows; a gap needs two: take another column, or lower min_rows"
        )
    return found


def slices(
    workspace: Workspace, task: TaskConfig, data: DataConfig, gate: GateConfig, table: Table, path: str
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield name and mask (bool [N] over ``table``) of the slices of a gate; one without a mask where it has none.

    Raises:
        ConfigError: it names a label or column that is not there, or rows that are too few by its own ``min_rows``.
    """
    one = gate.slice
    if one is None:
        yield "", None
        return
    fixed = _fixed(workspace, one, table, f"{path}.slice")
    if one.column is None:
        yield _enough(fixed, one, gate, path)
        return
    column = _column(workspace, task, data, one.column, table, f"{path}.slice.column")
    wanted = None if one.value is None else str(data.privacy.redacted(one.value))
    values = [wanted] if wanted is not None else sorted({value for value in column if value is not None})
    for value in values:
        mask = fixed & (column == value)
        if one.value is not None or int(mask.sum()) >= gate.min_rows:
            yield _enough(mask, one.model_copy(update={"value": value}), gate, path)


def _enough(mask: np.ndarray, one: SliceConfig, gate: GateConfig, path: str) -> tuple[str, np.ndarray]:
    rows = int(mask.sum())
    if rows < gate.min_rows:
        raise ConfigError(
            f"{path}.slice: {rows} test rows, fewer than its min_rows, {gate.min_rows}: it could not pass; take other "
            f"rows, or lower min_rows"
        )
    return f" of {_said(one)}", mask


def _fixed(workspace: Workspace, one: SliceConfig, table: Table, path: str) -> np.ndarray:
    """Return the rows of a slice by name, label and length."""
    import numpy as np

    mask = np.ones(len(table["row"]), dtype=bool)
    if one.name is not None:
        mask &= _named(workspace, one.name, table, path)
    if one.label is not None:
        mask &= _labelled(workspace, one.label, table, path)
    if one.shorter_than_tokens is not None:
        mask &= _lengths(workspace, table) < one.shorter_than_tokens
    if one.longer_than_tokens is not None:
        mask &= _lengths(workspace, table) > one.longer_than_tokens
    return mask


def _named(workspace: Workspace, name: str, table: Table, path: str) -> np.ndarray:
    from graft.evaluation.slices import mask_of

    try:
        return mask_of(workspace.evaluation, name, rows=table["row"].tolist())
    except DataError as error:
        raise ConfigError(f"{path}.name: {error}") from None


def _labelled(workspace: Workspace, label: str, table: Table, path: str) -> np.ndarray:
    import numpy as np

    labels = read_json(workspace.adapter / "identity.json")["task"]["state"].get("labels")
    if labels is None or "reference" not in table:
        raise ConfigError(f"{path}.label: {shown(label)}: the rows of this task have no label")
    if label not in labels:
        raise ConfigError(f"{path}.label: {shown(label)}: the labels are {', '.join(map(str, labels))}")
    reference = np.asarray(table["reference"])
    number = labels.index(label)
    if reference.ndim == 2:  # several labels per row
        marked: np.ndarray = reference[:, number] > 0
        return marked
    same: np.ndarray = reference == number
    return same


def _lengths(workspace: Workspace, table: Table) -> np.ndarray:
    """Return the tokens of each row before anything is cut, as the slices of the report have them."""
    import numpy as np

    from graft.tokenization import read_tokens

    tokens = read_tokens(workspace.tokens, "test")
    lengths = dict(zip(tokens["row"].to_pylist(), tokens["untruncated_length"].to_pylist(), strict=True))
    return np.array([lengths.get(row, 0) for row in table["row"]])


def _column(
    workspace: Workspace, task: TaskConfig, data: DataConfig, column: str, table: Table, path: str
) -> np.ndarray:
    """Return a column of the part files as the slices of the report name its values: object [N] over ``table``.

    None where a row lacks it; what is private has a placeholder, since the values stand in the journal.
    """
    import numpy as np

    from graft.evaluation.traits import named, traits

    test, fields = _test(workspace, task, data), _fields(task)
    name = data.columns.get(column, column)
    try:
        known = traits(
            test, [""] * len(test), fields, lengths=(), columns={path: (name,)}, data=data, folder=workspace.data
        )
    except DataError as error:
        raise ConfigError(str(error)) from None
    found = dict(zip(known.places, known.columns[name], strict=True))
    values = [found.get(row) for row in table["row"]]
    said = named(values)
    return np.array([None if value is None else said[at] for at, value in enumerate(values)], dtype=object)


def _said(one: SliceConfig) -> str:
    parts = {
        "slice": one.name,
        "label": one.label,
        one.column or "column": one.value,
        "tokens below": one.shorter_than_tokens,
        "tokens above": one.longer_than_tokens,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _metric(task: tasks.Task, name: str, path: str) -> Metric:
    try:
        return task.metric(name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_probe(evaluation: Path, probe: str, system: str) -> Table:
    """Return a table of a probe that evaluate wrote.

    Raises:
        ConfigError: it was not measured.
    """
    from graft.evaluation import prediction
    from graft.evaluation.probes import FOLDER

    try:
        return prediction.read(evaluation / FOLDER / probe / f"{system}.parquet")
    except DataError:
        there = sorted(path.name for path in (evaluation / FOLDER).glob("*") if (path / f"{system}.parquet").is_file())
        raise ConfigError(
            f"promotion.gates: probe {shown(probe)}: evaluate did not measure it of the {system}; measured are "
            f"{', '.join(there) or 'none'}; switch it on in the section evaluation, or take the gate out"
        ) from None


# -- the test rows, and the decisions that were taken on them


def test_digest(workspace: Workspace, task: TaskConfig, data: DataConfig) -> str:
    """Return the sha256 of what the test rows say (16 hexadecimal digits), whatever their order, files and format."""
    rows = (
        digest_bytes(json.dumps(record.row, sort_keys=True, ensure_ascii=False, default=_as_text).encode())
        for record in _test(workspace, task, data)
    )
    return digest_json(sorted(rows))[:16]


test_digest.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test's


def _as_text(value: Any) -> str:
    return digest_bytes(value) if isinstance(value, bytes) else repr(value)


def _test(workspace: Workspace, task: TaskConfig, data: DataConfig) -> list[Any]:
    from graft.tokenization import read_manifest

    aside = frozenset(read_manifest(workspace.tokens).get("quarantined", ()))
    return list(rows_of(workspace.data, "test", _fields(task), data, aside))


def _fields(task: TaskConfig) -> tuple[Field, ...]:
    return tuple(tasks.get(task.name).fields_of(task))


def on_test(history: Sequence[Entry], digest: str) -> list[Entry]:
    """Return the decisions that looked at a test set, the oldest first; one that was repeated counts once.

    A decision that is taken again (after a crash, or by hand after a run) asks the same rows the same question and gets
    the same answer, so it is no second look.
    """
    looked = [entry for entry in reversed(history) if entry.test == digest and entry.evidence.get("level", 0) > 0]
    found: dict[tuple[Any, ...], Entry] = {}
    for entry in looked:
        found.setdefault(asked(entry), entry)
    return list(found.values())


def looks(history: Sequence[Entry], digest: str) -> list[Look]:
    """Return what was spent on a test set, the oldest first, and what may be handed on."""
    return [Look(entry.evidence["level"], entry.verdict == "promote") for entry in on_test(history, digest)]


def asked(entry: Entry) -> tuple[Any, ...]:
    """Return which question a decision answered: about what, against what, and the numbers that came out."""
    return (entry.test, entry.adapter, entry.before, question(entry.evidence))


def question(evidence: Mapping[str, float], without: Collection[str] = NOT_ASKED) -> tuple[tuple[str, float], ...]:
    """Return the numbers that are equal when the same is asked again."""
    return tuple(sorted((name, float(f"{value:.5g}")) for name, value in evidence.items() if name not in without))
