"""What a verdict is made of: the tables of candidate, champion, base and baselines, slices, probes, the test's digest.

The candidate was scored by the evaluate stage. The champion is scored here and now, on its own base, on the current
test rows: numbers that it got on other rows prove nothing. It is loaded once, for its predictions and for the probes
that gates ask for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from graft import tasks
from graft.data import DataConfig, Record, rows_of
from graft.errors import ConfigError, DataError, shown
from graft.identity import digest_bytes, digest_json
from graft.promotion import GateConfig, PromotionConfig, SliceConfig
from graft.promotion.asked import there, unknown
from graft.promotion.spending import Look
from graft.tasks import Field, TaskConfig
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Table
    from graft.evaluation.cost import Timed
    from graft.evaluation.probes import Material, Probe, Subject
    from graft.promotion.gates import Counted, Measured
    from graft.promotion.verdict import Opponent
    from graft.tasks import Metric
    from graft.tracking.journal import Entry

TEST_SETS, SET = "test_sets", "set"
"""The probe of test sets from elsewhere, and the column of its tables that names the set."""
OF_A_BASE = ("forgetting",)
"""Probes whose scores are of what a base can do: of two bases they cannot be compared as they are."""
NOT_ASKED = frozenset({"level", "spent", "left", "decision_number", "rows_needed", "detectable"})
"""Evidence that says when a question was asked, and not which."""


@dataclass(frozen=True)
class Rows:
    """The test rows of a project, read once for all that is asked of them."""

    workspace: Workspace
    task: TaskConfig
    data: DataConfig
    trust_remote_code: bool = False
    """Whether Python code that comes with a base may run, the champion's too."""

    @cached_property
    def records(self) -> list[Record]:
        from graft.tokenization import read_manifest

        aside = frozenset(read_manifest(self.workspace.tokens).get("quarantined", ()))
        return list(rows_of(self.workspace.data, "test", self.fields, self.data, aside))

    @property
    def _uncleaned(self) -> list[Record]:
        """The same rows as they lie in the files."""
        if not self.data.clean:
            return self.records
        asked, plain = {record.place for record in self.records}, self.data.model_copy(update={"clean": ()})
        return [one for one in rows_of(self.workspace.data, "test", self.fields, plain) if one.place in asked]

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(tasks.get(self.task.name).fields_of(self.task))

    @cached_property
    def digest(self) -> str:
        """The sha256 of what they say (16 hexadecimal digits), whatever their order, files and format.

        Before any cleaning: rows that are cleaned in another way are as worn as before.
        """
        rows = (
            digest_bytes(json.dumps(record.row, sort_keys=True, ensure_ascii=False, default=_as_text).encode())
            for record in self._uncleaned
        )
        return digest_json(sorted(rows))[:16]


class Reference(Protocol):
    """What the candidate's gates are held against: the champion, or the base where there is none."""

    name: str
    identity: Mapping[str, Any]
    """Of the champion's adapter; empty for the base."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels that the candidate knows and a champion does not."""

    def predictions(self) -> Table:
        """Return its prediction table of the test rows."""

    def probe(self, name: str) -> Table:
        """Return its table of a probe, over the items that the candidate was asked.

        Raises:
            ConfigError: it was not, and cannot be, measured.
        """

    def cost(self) -> Mapping[str, int] | None:
        """Return what it takes (``adapter_bytes``, ``adapter_parameters``); None where there is nothing to hold."""

    def timed(self) -> tuple[Timed, Timed] | None:
        """Return what a clock says of candidate and reference, here and now; None where there is nothing to hold.

        Raises:
            DataError: this is not the kind of machine that evaluate ran on.
        """


class BaseOnDisk:
    """The base, as evaluate scored it with the adapter off; or the candidate itself, to see what can be asked."""

    name = "the base"
    identity: Mapping[str, Any] = MappingProxyType({})
    unknown = ()

    def __init__(self, evaluation: Path, system: str = "base") -> None:
        """Read what ``system`` answered below ``evaluation``, the output of the stage."""
        self._folder, self._system = evaluation, system

    def predictions(self) -> Table:
        return self._table

    @cached_property
    def _table(self) -> Table:
        """Its predictions, read once for all opponents and gates."""
        from graft.evaluation import prediction

        return prediction.read(self._folder / "predictions" / f"{self._system}.parquet")

    def probe(self, name: str) -> Table:
        return read_probe(self._folder, name, self._system)

    def cost(self) -> None:
        """Return None: a base takes no adapter, so there is nothing that the first one could take more than."""

    def timed(self) -> None:
        """Return None, as of what it takes."""


class Champion:
    """The champion, loaded on its own base and asked now what the candidate was asked by evaluate."""

    def __init__(
        self,
        scored: Callable[[], Subject],
        name: str,
        identity: Mapping[str, Any],
        rows: Rows,
        evaluation: Any,
        cost: Mapping[str, int],
    ) -> None:
        """Hold a champion that ``scored`` loads and scores, when something is asked of it.

        ``evaluation`` is the params section, ``cost`` what the champion takes.
        """
        self.name, self.identity, self._scored, self._cost = name, identity, scored, cost
        self._rows, self._evaluation = rows, evaluation
        self._probed: dict[str, Table] = {}

    @cached_property
    def _subject(self) -> Subject:
        return self._scored()

    def predictions(self) -> Table:
        return self._subject.table

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels that the candidate knows and the champion does not: it is wrong on all rows that have one."""
        return self._subject.unknown

    def probe(self, name: str) -> Table:
        if name not in self._probed:
            self._probed[name] = self._asked(name)
        return self._probed[name]

    def _asked(self, name: str) -> Table:
        from graft import artifact
        from graft.evaluation import probes

        known = {one.name: one for one in probes.every()}
        material = probes.Material(self._rows.records, self._rows.data, self._rows.workspace.root)
        why = known[name].left_out(self._evaluation, self._subject, material) if name in known else "no such probe"
        if why is not None:
            raise ConfigError(f"promotion.gates: probe {shown(name)}: cannot be asked of {self.name}: {why}")
        with artifact.reproducible(self.identity["threads"]):
            try:
                found = known[name].measure(self._evaluation, self._subject, material)
            except ConfigError as error:  # the candidate could be asked: it is the champion that does not know a label
                raise DataError(f"probe {name}: {error}") from None
            return self._from_own_base(known[name], found, material) if name in OF_A_BASE else found

    def cost(self) -> Mapping[str, int]:
        return self._cost

    def timed(self) -> tuple[Timed, Timed]:
        return self._timed

    @cached_property
    def _timed(self) -> tuple[Timed, Timed]:
        """Candidate and champion, by one clock: what evaluate timed was another hour, and often another machine."""
        from graft import artifact
        from graft.evaluation import cost
        from graft.evaluation.probes import Subject

        most = self._evaluation.latency_rows
        if not most:
            raise ConfigError("evaluation.latency_rows: 0, so nothing can be timed; set more, or take out the gates")
        there = read_json(self._rows.workspace.cost / cost.FILE)["hardware"]
        theirs, threads = self._subject, read_json(self._rows.workspace.adapter / "identity.json")["threads"]
        cost.check_hardware(there, theirs.loaded.device, threads)
        loaded = artifact.load(
            self._rows.workspace.adapter,
            self._rows.workspace.root,
            device=theirs.loaded.device,
            trust_remote_code=self._rows.trust_remote_code,
        )
        asked = self._rows.records[:: max(1, len(self._rows.records) // most)][:most]
        both = [(one.loaded, one.encoded(asked)) for one in (Subject("adapter", loaded, {}, theirs.batch_rows), theirs)]
        with artifact.reproducible(threads):
            return cost.side_by_side(both[0], both[1])

    def _from_own_base(self, probe: Probe, found: Table, material: Material) -> Table:
        """Return a champion's scores as they were if its base were the candidate's: what it changed of its own base.

        Bits per token of two bases say more of the bases (and their tokenizers) than of what adapters made of them.
        """
        from dataclasses import replace

        from graft.evaluation.comparison import aligned

        base = read_json(self._rows.workspace.adapter / "identity.json")["base"]
        if self.identity["base"]["digest"] == base["digest"]:
            return found
        theirs = probe.measure(self._evaluation, replace(self._subject, system="base"), material)
        ours = aligned(found, read_probe(self._rows.workspace.evaluation, probe.name, "base"))
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


def refuse_unasked(rows: Rows, policy: PromotionConfig) -> None:
    """Refuse what asks for a thing that is not there before anything is scored: the candidate's own files say it.

    Raises:
        ConfigError: as :func:`metrics_of` and :func:`gates`.
    """
    metrics_of(rows.task, policy)
    candidate, _ = candidate_tables(rows.workspace)
    gates(rows, policy, BaseOnDisk(rows.workspace.evaluation, "adapter"), candidate)


def gates(rows: Rows, policy: PromotionConfig, reference: Reference, candidate: Table) -> list[Measured | Counted]:
    """Return what the gates of ``promotion.gates`` ask; one by column, or on all test sets, asks several things.

    Raises:
        ConfigError: a metric, label, column, probe or test set that is not there; the same is asked twice.
    """
    found: dict[str, tuple[str, Measured | Counted]] = {}
    problems = list[str]()
    for number, gate in enumerate(policy.gates):
        path = f"promotion.gates.{number}"
        try:
            asked = list(_asks(rows, policy, reference, candidate, gate, path))
        except ConfigError as error:
            problems.append(str(error))
            continue
        for one in asked:
            if one.name in found:
                problems.append(f"{path}: asks for {one.name}, as {found[one.name][0]} does; take one of them out")
            found.setdefault(one.name, (path, one))
    if len(problems) > 1:
        raise ConfigError.from_problems(f"promotion.gates: {len(problems)} problems", problems)
    if problems:
        raise ConfigError(problems[0])
    return [one for _, one in found.values()]


def _asks(
    rows: Rows, policy: PromotionConfig, reference: Reference, candidate: Table, gate: GateConfig, path: str
) -> Iterator[Measured | Counted]:
    """Yield what one gate asks."""
    from graft.evaluation.calibration import SQUARED
    from graft.promotion.gates import Measured

    if gate.cost is not None:
        yield from _costs(rows, reference, gate)
        return
    if gate.probe is not None:
        yield from _probed(rows.workspace, reference, gate.probe, gate.margin)
        return
    metric, margin = metrics_of(rows.task, policy)[0], gate.margin
    if gate.metric is not None:
        metric = _metric(tasks.get(rows.task.name), gate.metric, f"{path}.metric")
    if metric.name == "ece":
        # c >= h + margin means c^2 - h^2 >= margin^2, so ruling that out rules out more than is asked.
        metric, margin = SQUARED, margin**2
    if gate.test_set is not None:
        asked = read_probe(rows.workspace.evaluation, TEST_SETS, "adapter")
        mask = asked[SET] == gate.test_set
        if not mask.any():
            raise ConfigError(f"{path}.test_set: {unknown('test set', gate.test_set, sorted(set(asked[SET])))}")
        name = f"{metric.name} on {gate.test_set}"
        yield Measured(name, asked, reference.probe(TEST_SETS), metric, margin, mask, of_test=False)
    elif gate.groups is not None:
        groups = _groups(rows, gate, candidate, path)
        name = f"{metric.name} alike by {gate.groups}"
        yield Measured(name, candidate, reference.predictions(), metric, margin, groups=groups)
    else:
        for name, mask in slices(rows, gate, candidate, path):
            yield Measured(f"{metric.name}{name}", candidate, reference.predictions(), metric, margin, mask)


def _costs(rows: Rows, reference: Reference, gate: GateConfig) -> Iterator[Measured | Counted]:
    """Yield the gate of a cost: what can be counted is; what a clock says is tested."""
    from graft.evaluation.cost import TIMED
    from graft.promotion.gates import Counted, Measured

    name = str(gate.cost)
    if name not in TIMED:
        if (takes := reference.cost()) is not None:
            ours = read_json(rows.workspace.evaluation / "metrics.json")["cost"]
            yield Counted(name, ours[name], takes[name], gate.margin)
        return
    try:
        timed = reference.timed()
    except DataError as error:
        raise DataError(f"gate {name}: {error}") from None
    if timed is None:
        return
    metric, table = TIMED[name]
    ours, theirs = (one.table(table) for one in timed)
    if ours is None or theirs is None:
        raise DataError(f"gate {name}: no counter of energy can be read on this machine")
    yield Measured(name, ours, theirs, metric, gate.margin, of_test=False)


def _probed(workspace: Workspace, reference: Reference, probe: str, margin: float) -> Iterator[Measured]:
    """Yield the gate of a probe; of test sets from elsewhere one each, since a good one must not hide a bad one."""
    from graft.evaluation.probes.forgetting import BITS, UNITS
    from graft.promotion.gates import MEAN_SCORE, Measured

    ours, theirs = read_probe(workspace.evaluation, probe, "adapter"), reference.probe(probe)
    if SET not in ours:
        unit = UNITS.get(str(ours["measure"][0]), BITS) if "measure" in ours else ""
        yield Measured(probe, ours, theirs, MEAN_SCORE, margin, of_test=False, unit=unit)
        return
    for name in dict.fromkeys(ours[SET]):
        yield Measured(f"{probe} {name}", ours, theirs, MEAN_SCORE, margin, ours[SET] == name, of_test=False)


def _groups(rows: Rows, gate: GateConfig, table: Table, path: str) -> list[tuple[str, np.ndarray]]:
    """Return the groups of a gate that have enough rows, by the values of its column: names and masks."""
    column = _column(rows, str(gate.groups), table, f"{path}.groups")
    masks = [(value, column == value) for value in sorted({value for value in column if value is not None})]
    found = [(value, mask) for value, mask in masks if int(mask.sum()) >= gate.min_rows]
    if len(found) < 2:
        raise ConfigError(
            f"{path}.groups: {gate.groups}: {len(found)} groups have its min_rows, {gate.min_rows}, of {len(masks)} in "
            f"the test rows; a gap needs two: take another column, or lower min_rows"
        )
    return found


def slices(rows: Rows, gate: GateConfig, table: Table, path: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield name and mask (bool [N] over ``table``) of the slices of a gate; one without a mask where it has none.

    Raises:
        ConfigError: it names a label or column that is not there, or rows that are too few by its own ``min_rows``.
    """
    one = gate.slice
    if one is None:
        yield "", None
        return
    fixed = _fixed(rows.workspace, one, table, f"{path}.slice")
    if one.column is None:
        yield _enough(fixed, one, gate, path)
        return
    column = _column(rows, one.column, table, f"{path}.slice.column")
    wanted = None if one.value is None else str(rows.data.privacy.redacted(one.value))
    values = [wanted] if wanted is not None else sorted({value for value in column if value is not None})
    for value in values:
        mask = fixed & (column == value)
        if one.value is not None and not (column == value).any():
            known = sorted({each for each in column if each is not None})
            raise ConfigError(f"{path}.slice.value: no row has {one.column} {shown(value)}; {there(str(value), known)}")
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
        raise ConfigError(f"{path}.label: {unknown('label', label, list(map(str, labels)))}")
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


def _column(rows: Rows, column: str, table: Table, path: str) -> np.ndarray:
    """Return a column of the part files as the slices of the report name its values: object [N] over ``table``.

    None where a row lacks it; what is private has a placeholder, since the values stand in the journal.
    """
    import numpy as np

    from graft.evaluation.traits import named, traits

    test, data = rows.records, rows.data
    name = data.columns.get(column, column)
    try:
        known = traits(
            test,
            [""] * len(test),
            rows.fields,
            lengths=(),
            columns={path: (name,)},
            data=data,
            folder=rows.workspace.data,
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


def _as_text(value: Any) -> str:
    return digest_bytes(value) if isinstance(value, bytes) else repr(value)


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
