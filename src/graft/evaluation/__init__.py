"""Evaluation: how good the adapter is on test rows that no choice was made on, and whether it is worth having.

The stage scores base and adapter on one loaded model, and the task's cheap baselines on the same rows; everything
after that (:mod:`graft.evaluation.assessment`) sees prediction tables only. Intervals and paired tests come from here
and from nowhere else, for accuracy as for any other metric that a task defines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.base import BaseConfig
from graft.cleaning import text_steps
from graft.config import Section
from graft.data import DataConfig, Record, privacy_of, rows_of
from graft.errors import DataError, IntegrityError
from graft.evaluation import cost, probes
from graft.evaluation.overview import Row, format_table, summary
from graft.evaluation.probes.counterfactuals import CounterfactualsConfig
from graft.evaluation.probes.explanations import ExplanationsConfig
from graft.evaluation.probes.forgetting import ForgettingConfig
from graft.evaluation.probes.robustness import RobustnessConfig
from graft.evaluation.slices.section import SlicesConfig
from graft.evaluation.traits import Traits, traits
from graft.identity import digest_folder
from graft.privacy.section import PrivacyConfig
from graft.tasks import Field, TaskConfig
from graft.workspace import Workspace, read_json, replaced, write_json

if TYPE_CHECKING:
    import numpy as np

    from graft.artifact import LoadedAdapter

__all__ = ["EvaluationConfig", "Row", "evaluate", "format_table", "score_adapter", "summary"]


class EvaluationConfig(Section):
    """How the test split is scored."""

    confidence: float = Limit(default=0.95, gt=0.5, lt=1)
    """The level of the intervals."""

    resamples: int = Limit(default=2000, ge=100, le=1_000_000)
    """Bootstrap resamples of the test rows."""

    seed: int = Limit(default=0, ge=0, lt=1 << 32)
    """Seed of the resampling and of the baselines."""

    batch_rows: int = Limit(default=64, ge=1)
    """Rows per forward pass."""

    latency_rows: int = Limit(default=50, ge=0)
    """How many test rows the adapter answers one at a time, by the clock, for three seconds at most; 0: none."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: the GPU where there is one. ``cuda`` refuses where there is none."""

    slices: SlicesConfig = SlicesConfig()
    """On which parts of the test rows the headline metric is measured by themselves."""

    groups: tuple[str, ...] = ()
    """Columns of the part files whose values are groups of people or things that the adapter should serve alike
    (``gender``, ``region``): the headline metric of each group, and the largest gap between two."""

    test_sets: tuple[str, ...] | None = None
    """Test sets from elsewhere, by their folders in ``data/test_sets``: base and adapter on each, and the drop against
    the test rows. Default: all that are there; ``[]``: none."""

    robustness: RobustnessConfig = RobustnessConfig()
    """Noise in the texts of test rows."""

    behaviour: str | None = Limit(default=None, min_length=1)
    """A YAML file of behavioural tests, relative to params.yaml and inside the repository (``behaviour.yaml``)."""

    counterfactuals: CounterfactualsConfig = CounterfactualsConfig()
    """Names and gendered words swapped in test rows."""

    forgetting: ForgettingConfig = ForgettingConfig()
    """General text with the adapter on and off."""

    explanations: ExplanationsConfig = ExplanationsConfig()
    """Which words drove the answers to some rows."""


def evaluate(
    workspace: Workspace, *, task: TaskConfig, data: DataConfig, base: BaseConfig, evaluation: EvaluationConfig
) -> None:
    """Score base, adapter and baselines on the test split; write ``artifacts/evaluation`` and ``artifacts/cost``.

    Raises:
        IntegrityError: the adapter, its base or the tokens do not belong together.
        DataError: the test rows are not those that were tokenized.
    """
    from graft import artifact
    from graft.base import locked
    from graft.evaluation.assessment import assess
    from graft.evaluation.probes import behaviour
    from graft.evaluation.seeds import further
    from graft.generation import described_base
    from graft.tokenization import read_manifest, read_tokens

    loaded = artifact.load(
        workspace.adapter,
        workspace.root,
        device=evaluation.device,
        pinned=locked(workspace, base),
        trust_remote_code=base.trust_remote_code,
    )
    manifest = read_manifest(workspace.tokens)
    _check(manifest, loaded.identity)
    behaviour.check(evaluation, loaded, workspace.root)
    fields, aside = loaded.task.fields_of(loaded.config), frozenset(manifest["quarantined"])
    test = list(rows_of(workspace.data, "test", fields, data, aside))
    texts = [_text(record, fields) for record in test]
    known = _traits(workspace, test, texts, fields, data, evaluation)
    tables, timings = _scored(workspace, loaded, test, evaluation)
    others = further(
        workspace,
        loaded,
        read_tokens(workspace.tokens, "test"),
        batch_rows=evaluation.batch_rows,
        trust_remote_code=base.trust_remote_code,
    )
    probed = _probed(workspace, loaded, tables, test, data, evaluation)
    train = [record.row for record in rows_of(workspace.data, "train", fields, data, aside)]
    tables |= _baselines(loaded, task, train, test, _references(workspace, loaded, tables["adapter"]), evaluation.seed)
    with replaced(workspace.evaluation) as folder, replaced(workspace.cost) as beside:
        write_json(beside / cost.FILE, timings)
        metrics = assess(
            folder,
            tables,
            task=loaded.task,
            texts=texts,
            pictures=_pictures(test, fields),
            identity=loaded.identity,
            adapter_digest=digest_folder(workspace.adapter),
            manifest=manifest,
            config=evaluation,
            generated=described_base(loaded.model) if loaded.task.generates else {},
            privacy=data.privacy,
            probed=probed,
            traits=known,
            cost=cost.facts(workspace.adapter),
            further=others,
        )
    print(format_table(summary(metrics), columns=2), flush=True)


def score_adapter(
    folder: Path,
    workspace: Workspace,
    *,
    data: DataConfig,
    batch_rows: int,
    device: str = "auto",
    trust_remote_code: bool = False,
    name: str = "score",
) -> probes.Subject:
    """Load any adapter (a champion from the registry) and score it on this project's test rows.

    It reads the raw rows as it was trained to: with its own cleaning, tokenizer, length and labels, on its own base.
    Labels that the project's adapter has learnt since, and this one does not know, are ones that it never gives: the
    rows that have one count, and are wrong.

    Args:
        folder: an adapter folder with its identity.json.
        workspace: the project whose ``data/test`` is scored.
        data: how the project's part files are read. It decides which rows there are (``duplicates``), so that all
            adapters answer the same; the steps on their text are the adapter's.
        batch_rows: rows per forward pass.
        device: ``auto``, ``cpu`` or ``cuda``.
        trust_remote_code: whether Python code that comes with its base may run.
        name: starts the progress lines.

    Returns:
        The loaded adapter with its prediction table: what else it is asked needs no second load.

    Raises:
        IntegrityError: the adapter or its base is not what its identity says.
        DataError: a test row has an answer that the adapter cannot give (a label that it does not know).
    """
    import pyarrow as pa

    from graft import artifact
    from graft.evaluation.prediction import score
    from graft.evaluation.unknown_labels import widened
    from graft.tokenization import read_manifest

    plain = artifact.load(folder, workspace.root, device=device, trust_remote_code=trust_remote_code)
    loaded, unknown = widened(plain, _state(workspace))
    own = data.model_copy(
        update={"clean": text_steps(loaded.identity["clean"]), "privacy": privacy_of(loaded.identity)}
    )
    fields = loaded.task.fields_of(loaded.config)
    aside = frozenset(read_manifest(workspace.tokens).get("quarantined", ()))
    asked = {record.place for record in rows_of(workspace.data, "test", fields, data, aside)}
    records = [one for one in rows_of(workspace.data, "test", fields, own, aside) if one.place in asked]
    _check_answers(loaded, records, data.privacy)
    rows = [record.row for record in records]
    longest = loaded.identity["max_length_tokens"]
    encoded = loaded.task.encode(loaded.config, rows, loaded.processor, longest)
    tokens = [{**one, "row": record.place, "id": record.id} for one, record in zip(encoded, records, strict=True)]
    with artifact.reproducible(loaded.identity["threads"]):
        table = score(loaded, pa.Table.from_pylist(tokens), batch_rows=batch_rows, name=name)
    other = (own.clean, own.privacy) != (data.clean, data.privacy)
    return probes.Subject("champion", loaded, table, batch_rows, cleans=other, unknown=unknown)


def _state(workspace: Workspace) -> Mapping[str, Any]:
    """Return what the project's own adapter knows of the data; nothing where there is none."""
    path = workspace.adapter / "identity.json"
    return dict(read_json(path)["task"]["state"]) if path.is_file() else {}


def _scored(
    workspace: Workspace, loaded: LoadedAdapter, test: Sequence[Record], evaluation: EvaluationConfig
) -> tuple[dict[str, Mapping[str, np.ndarray]], dict[str, Any]]:
    """Return the tables of adapter and base over the test tokens, and what the clock says of the adapter.

    Layers below the adapter run once for both.
    """
    from graft import artifact
    from graft.evaluation.prediction import score, score_base
    from graft.hardware import hardware
    from graft.tokenization import read_tokens

    tokens, batch_rows = read_tokens(workspace.tokens, "test"), evaluation.batch_rows
    if tokens["row"].to_pylist() != [record.place for record in test]:
        raise DataError("data/test: not the rows that artifacts/tokens was made from; run `graft stage tokenize`")
    with artifact.reproducible(loaded.identity["threads"]):
        shared = artifact.SharedTrunk(loaded, tokens.slice(0, artifact.SharedTrunk.looked_at).to_pylist())
        with shared.remembering():
            adapter, throughput = cost.timed(
                lambda: score(loaded, tokens, batch_rows=batch_rows, name="adapter"), loaded.device
            )
        latency = cost.latency(loaded, tokens, evaluation.latency_rows) if evaluation.latency_rows else None
        with shared.starting_there():
            base = score_base(loaded, tokens, batch_rows=batch_rows, name="base")
    timings = {
        "batch_rows": batch_rows,
        "throughput": throughput,
        "latency": latency,
        "hardware": hardware(loaded.device, loaded.identity["threads"]),
    }
    return {"adapter": adapter, "base": base}, timings


def _traits(
    workspace: Workspace,
    test: Sequence[Record],
    texts: Sequence[str],
    fields: Sequence[Field],
    data: DataConfig,
    evaluation: EvaluationConfig,
) -> Traits:
    """Return what slices and groups are made of; a column that is not there is refused before anything is scored."""
    from graft.tokenization import read_tokens

    return traits(
        test,
        texts,
        fields,
        lengths=read_tokens(workspace.tokens, "test")["untruncated_length"].to_pylist(),
        columns={"evaluation.slices.columns": evaluation.slices.columns, "evaluation.groups": evaluation.groups},
        data=data,
        folder=workspace.data,
    )


def _probed(
    workspace: Workspace,
    loaded: LoadedAdapter,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    test: Sequence[Record],
    data: DataConfig,
    evaluation: EvaluationConfig,
) -> dict[str, dict[str, Mapping[str, np.ndarray]]]:
    """Return the tables of what is measured beside the test rows, of adapter and base, by probe and system."""
    from graft import artifact

    subjects = [probes.Subject(system, loaded, tables[system], evaluation.batch_rows) for system in ("adapter", "base")]
    with artifact.reproducible(loaded.identity["threads"]):
        return probes.measured(evaluation, subjects, probes.Material(test, data, workspace.root))


def _references(workspace: Workspace, loaded: LoadedAdapter, table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of ``table`` that no system made: where the rows stand, and the right answers."""
    from graft.tokenization import read_tokens

    first = read_tokens(workspace.tokens, "test").slice(0, 1).to_pylist()
    names = {"row", "id", *loaded.task.references(first, loaded.state)}
    return {name: column for name, column in table.items() if name in names}


def _baselines(
    loaded: LoadedAdapter,
    config: TaskConfig,
    train: Sequence[Mapping[str, Any]],
    test: Sequence[Record],
    like: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the tables of the task's cheap predictors; ``like`` has the columns of places and references."""
    from graft import artifact

    rows, found = [record.row for record in test], {}
    for name, predictor in loaded.task.baselines().items():
        with artifact.reproducible(loaded.identity["threads"]):
            predicted = predictor(config, train, rows, loaded.state, seed)
        table = {**like, **predicted}
        found[name] = {**table, **loaded.task.judge(loaded.config, table, loaded.state)}
        print(f"{name}: learned from {len(train)} rows, {len(rows)}/{len(rows)} rows scored", flush=True)
    return found


def _check(manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse an adapter that was trained beside other tokens than those on disk."""
    for what, tokens, adapter in (
        ("data", manifest["data"], identity["data"]),
        ("test rows", manifest["splits"]["test"]["digest"], identity["test"]),
        ("tokenizer", manifest["tokenizer"], identity["base"]["tokenizer"]),
    ):
        if tokens != adapter:
            raise IntegrityError(
                f"artifacts/adapter: trained with {what} {adapter[:12]}, but artifacts/tokens holds {what} "
                f"{tokens[:12]}; run `graft stage train`"
            )


def _check_answers(loaded: LoadedAdapter, records: Sequence[Record], privacy: PrivacyConfig) -> None:
    problems = [
        privacy.in_message(
            f"{record.place}: {problem.field}: the adapter knows {problem.expected}; found {problem.found}"
        )
        for record in records
        for problem in loaded.task.check_row(loaded.config, record.row, loaded.state)
    ]
    if problems:
        raise DataError.from_problems("test rows that this adapter has no answer for", problems)


def _text(record: Record, fields: Sequence[Field]) -> str:
    """Return the text of a row for people: what it gives the model to read, named where there are several fields."""
    given = {one.name: record.row[one.name] for one in fields if one.text and record.row.get(one.name)}
    asked = {name: value for name, value in given.items() if not _target(name, fields)} or given
    shown = {name: _readable(value) for name, value in asked.items()}
    return next(iter(shown.values())) if len(shown) == 1 else "\n".join(f"{k}: {v}" for k, v in shown.items())


def _pictures(records: Sequence[Record], fields: Sequence[Field]) -> list[bytes]:
    """Return the picture of each row; none where the task has no field of one."""
    name = next((one.name for one in fields if one.type == "image"), None)
    return [record.row[name] for record in records] if name else []


def _target(name: str, fields: Sequence[Field]) -> bool:
    return any(one.target for one in fields if one.name == name)


def _readable(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "\n".join(f"{one['role']}: {one['content']}" for one in value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
