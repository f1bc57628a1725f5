"""From prediction tables to everything that ``artifacts/evaluation`` holds: metrics, comparisons, plots, report, card.

It sees tables, not models: whatever can name a system's answer to each test row can be assessed, and be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.evaluation import plots, prediction, probes, report, seeds
from graft.evaluation.analyses import analyse
from graft.evaluation.comparison import Comparison, compare, has
from graft.evaluation.findings import NOTHING, Confusion, limits, mistakes, worth
from graft.evaluation.intervals import Resampling, interval, rows_in
from graft.evaluation.token_tables import token_tables
from graft.evaluation.traits import Traits
from graft.privacy.section import PrivacyConfig
from graft.tasks import Task
from graft.workspace import write_json, write_text

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig

    Table = Mapping[str, np.ndarray]


def assess(
    folder: Path,
    tables: Mapping[str, Table],
    *,
    task: Task,
    texts: Sequence[str],
    pictures: Sequence[bytes],
    identity: Mapping[str, Any],
    adapter_digest: str,
    manifest: Mapping[str, Any],
    config: EvaluationConfig,
    generated: Mapping[str, str],
    privacy: PrivacyConfig,
    probed: Mapping[str, Mapping[str, Table]],
    traits: Traits,
    cost: Mapping[str, int],
    further: Mapping[int, Table],
) -> dict[str, Any]:
    """Write the evaluation of ``tables`` (``adapter`` and others, the same rows in one order) to an empty folder.

    Args:
        folder: receives metrics.json, comparison.json, predictions/, plots/, report.html and model_card.md.
        tables: prediction tables by system.
        task: gives metrics, details and plot data.
        texts: the text of each row, for the report.
        pictures: the encoded picture of each row, for the report; empty where the task has none.
        identity: the adapter's identity.json.
        adapter_digest: the digest of the adapter's folder.
        manifest: the token tables' manifest.json.
        config: level of the intervals, resamples, seed, and what probes are asked.
        generated: what the base itself decides of generated text, for the report; empty where the task generates none.
        privacy: what no file shows of texts; metrics are of the texts as they are.
        probed: what was measured beside the test rows: tables by probe and system.
        traits: what is known of each row, for slices and groups.
        cost: what the adapter takes that no clock measures (``adapter_bytes``, ``adapter_parameters``).
        further: prediction tables of other seeds of the same training, by seed.

    Returns:
        The content of metrics.json.
    """
    adapter, state = tables["adapter"], identity["task"]["state"]
    how = task.measured(tasks.config_class(task.name).model_validate(identity["task"]["config"]), adapter, state)
    how = {**how, **generated}
    metrics = measure(tables, task=task, digest=manifest["splits"]["test"]["digest"], config=config)
    metrics |= {"measured": how} if how else {}
    if further:
        metrics |= {"repeats": seeds.spread(task, {identity["seed"]: adapter, **further})}
    comparisons = compare_all(tables, task=task, config=config)
    data = task.plots(adapter, state)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    confusion, drawings = draw(folder / "plots", data, state.get("labels"))
    more = analyse(adapter, traits, probed, config, probes.About(task, tables, privacy), folder / "plots")
    metrics |= more.as_json() | {"cost": cost}
    findings = report.Findings(
        metrics=metrics,
        comparisons=comparisons,
        worth=worth(comparisons),
        details=task.details(adapter, state),
        background={
            "How it was measured": [{"what": name, "setting": value} for name, value in how.items()],
            **({} if task.processor == "image" else token_tables(manifest)),
        },
        limits=[*limits(metrics, manifest, confusion, pictures=task.processor == "image"), *more.limits],
        identity=identity,
        adapter_digest=adapter_digest,
        confusion=confusion,
        mistakes=mistakes(
            task.metric(task.worst or task.headline),
            adapter,
            _expected(adapter, data),
            task.answers(adapter, state),
            texts,
            pictures,
            privacy,
        ),
        drawings=drawings,
        sections=more.sections,
    )
    words = {field.name for field in task.fields if field.words}
    for system, table in tables.items():
        shown = prediction.without_private(table, privacy, words)
        prediction.write(folder / "predictions" / f"{system}.parquet", shown)
    for seed, table in further.items():
        shown = prediction.without_private(table, privacy, words)
        prediction.write(folder / "predictions" / seeds.FOLDER / f"seed-{seed}.parquet", shown)
    for probe, by_system in probed.items():
        for system, table in by_system.items():
            shown = prediction.without_private(table, privacy, words)
            prediction.write(folder / probes.FOLDER / probe / f"{system}.parquet", shown)
    more.write_masks(folder, traits.places)
    write_json(folder / "metrics.json", metrics)
    write_json(
        folder / "comparison.json",
        {"metric": task.headline, "against": {name: one.as_json() for name, one in comparisons.items()}},
    )
    write_text(folder / "report.html", report.html(findings))
    write_text(folder / "model_card.md", report.model_card(findings))
    return metrics


MODELS = ("adapter", "base")
"""Systems that give every column; a metric that they lack is an error, and not left out."""


def measure(tables: Mapping[str, Table], *, task: Task, digest: str, config: Resampling) -> dict[str, Any]:
    """Return the content of metrics.json: each metric of each system, with its interval."""
    systems = {
        system: {
            metric.name: interval(metric, table, config).as_json()
            for metric in task.metrics
            if system in MODELS or has(table, metric)
        }
        for system, table in tables.items()
    }
    return {
        "headline": task.headline,
        "metrics": [metric.name for metric in task.metrics],
        "smaller_is_better": [metric.name for metric in task.metrics if not metric.greater_is_better],
        "confidence": config.confidence,
        "test": {"rows": rows_in(tables["adapter"]), "digest": digest},
        **systems,
    }


def compare_all(tables: Mapping[str, Table], *, task: Task, config: Resampling) -> dict[str, Comparison]:
    """Return the adapter against each other system, by the headline metric."""
    metric = task.metric(task.headline)
    return {
        system: compare(metric, tables["adapter"], table, config)
        for system, table in tables.items()
        if system != "adapter"
    }


def draw(
    folder: Path, data: Mapping[str, Sequence[Mapping[str, Any]]], labels: Sequence[str] | None
) -> tuple[Confusion | None, list[report.Drawing]]:
    """Write a task's plot data as CSV and, where a kind of plot is known here, as pictures."""
    for name, rows in data.items():
        plots.write_csv(folder / f"{name}.csv", rows)
    confusion = None
    if data.get("confusion"):
        pairs = [(row["actual"], row["predicted"]) for row in data["confusion"]]
        names = list(labels) if labels else sorted({name for pair in pairs for name in pair})
        confusion = Confusion(names, plots.confusion_counts(pairs, names))
        plots.confusion(confusion.counts, names, folder / "confusion.png")
    if data.get("reliability"):
        plots.reliability(data["reliability"], folder / "reliability.png")
    drawings = []
    if data.get("scatter"):
        picture = folder / "scatter.png"
        plots.scatter(data["scatter"], picture)
        text = f"Each of the {len(data['scatter'])} test rows: its reference value against the predicted one"
        drawings.append(report.Drawing("Predicted against actual", text, picture))
    if data.get("histogram"):
        rows, picture = data["histogram"], folder / "histogram.png"
        (name,) = rows[0].keys() - {"rows"}
        plots.histogram(rows, name, picture)
        text = "; ".join(f"{row[name]:.3g}: {row['rows']} rows" for row in rows)
        drawings.append(report.Drawing(f"Test rows by {name.replace('_', ' ')}", text, picture))
    return confusion, drawings


def _expected(table: Table, data: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the right answer of each row for people: a text reference, the plot data's name for it, else its value.

    A row whose right answer is to say nothing has a name for that; empty where the task has no right answer.
    """
    if data.get("confusion") and table["reference"].dtype.kind not in "OU":
        return [str(row["actual"]) for row in data["confusion"]]
    if "reference" not in table:
        return [""] * rows_in(table)
    return [str(value) or NOTHING for value in table["reference"].tolist()]
