"""What people read in the MLflow UI: tags, and Markdown for the pages of run, model and version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.evaluation.overview import format_cell
from graft.markdown import plain
from graft.publication.facts import Facts
from graft.tracking import RunContext
from graft.tracking.journal import Entry
from graft.tracking.provenances import NOBODY

SHOWN_DIGEST = 12
TABLE_METRICS = 4
DECISIONS = "\n\n**Decisions about this version**\n"
SHOWN_DECISIONS = 5
DESCRIPTION_CHARACTERS = 5000
"""What MLflow's table of versions holds."""
VERSION_CONTEXT = ("graft.git_commit", "graft.git_remote", "graft.dvc_lock", "graft.prefect_run")


def run_tags(facts: Facts, context: RunContext) -> dict[str, str]:
    """Return the tags that a run has from its start to its end; digests in full, since they are searched for."""
    identity = facts.identity
    return {
        **followed_tags(identity, context),
        "graft.adapter": facts.digest,
        "graft.device": str(identity["device"]),
        "mlflow.note.content": run_note(facts, context),
    }


def followed_tags(identity: Mapping[str, Any], context: RunContext) -> dict[str, str]:
    """Return the tags that are known before training: for the follower, from ``artifact.planned_identity``."""
    base = identity["base"]
    return {
        "graft.task": identity["task"]["name"],
        "graft.data": identity["data"],
        "graft.base": base["source"] + (f"@{base['revision']}" if base["kind"] == "hub" else ""),
        "graft.base_digest": base["digest"],
        "graft.code": identity["code"],
        "graft.environment": identity["environment"] or "none",
        "mlflow.source.name": "graft run",
        "mlflow.source.type": "JOB" if context.prefect_run else "LOCAL",
        **context.tags(),
    }


def version_tags(facts: Facts, context: RunContext) -> dict[str, str]:
    """Return the tags of a model version: what a reviewer, and ``graft reproduce``, want to know."""
    proof = facts.proof
    return {
        facts.headline: cell(facts, "adapter"),
        "graft.effect": f"{proof['effect']:.3g}",
        "graft.reload_difference": f"{proof['reload_difference']:.3g}",
        "graft.key": facts.key,
        "graft.adapter": facts.digest,
        "graft.data": facts.identity["data"],
        **{name: value for name, value in context.tags().items() if name in VERSION_CONTEXT},
    }


def run_note(facts: Facts, context: RunContext) -> str:
    """Return the run's description; lists show its first line only, and plain."""
    return "\n\n".join([_result(facts), table(facts), _proven(facts), _origin(facts, context)]) + "\n"


def version_note(facts: Facts, context: RunContext, name: str, signers: str) -> str:
    """Return the version's description."""
    use = (
        f'`mlflow.pyfunc.load_model("models:/{name}/<version>").predict(...)` takes a table with the text columns of '
        f"the signature. The base is not part of the model: it is found by its digest "
        f"(`{facts.identity['base']['digest'][:SHOWN_DIGEST]}…`), see `GRAFT_BASES`."
    )
    made_of = "what it was made from: `graft provenance models:/NAME/NUMBER`"
    proof = f"Signed by key {signers}; {made_of}." if signers != NOBODY else f"**Not signed** by anybody; {made_of}."
    return f"{run_note(facts, context)}\n{use}\n\n{proof}\n"


def with_decisions(description: str, lines: list[str]) -> str:
    """Return a version's description with what was decided about it, the newest first, in place of what it said."""
    shown = lines[:SHOWN_DECISIONS]
    if len(lines) > len(shown):
        shown.append(f"{len(lines) - len(shown)} earlier ones: `graft history`")
    added = DECISIONS + "".join(f"\n- {line}" for line in shown) + "\n"
    room = max(0, DESCRIPTION_CHARACTERS - len(added))
    return (description.partition(DECISIONS)[0][:room] + added)[:DESCRIPTION_CHARACTERS]


def decided(entry: Entry) -> str:
    """Return an entry in one line."""
    moved = f"champion {entry.before or 'none'} → {entry.after or 'none'}" if entry.moved else "champion stays"
    return f"{entry.verdict} version {entry.candidate} ({moved}), by {plain(entry.who)}"


def model_note(description: str, name: str, task: str, base: str) -> str:
    """Return the registered model's description."""
    return (
        f"{description or name}\n\n"
        f"Task `{task}`, an adapter on `{base}`. `champion` is the version in use, `candidate` the one published last; "
        f"set the tag `review` of a version to `approved` or `rejected` and `graft promote` acts on it.\n"
    )


def table(facts: Facts) -> str:
    """Return the results on the test rows as a Markdown table."""
    names = list(facts.metrics["metrics"])[:TABLE_METRICS]
    lines = [f"| system | {' | '.join(names)} |", f"|:--{'|:--' * len(names)}|"]
    for row in facts.rows:
        cells = " | ".join(_spaced(format_cell(*row.metrics.get(name, (None, None, None)))) for name in names)
        label = f"**{row.label}**" if row.system == "adapter" else row.label
        lines.append(f"| {_spaced(label)} | {cells} |")
    test = facts.metrics["test"]
    return "\n".join(lines) + f"\n\n{test['rows']} test rows, {facts.metrics['confidence']:.0%} intervals."


def cell(facts: Facts, system: str) -> str:
    """Return a system's headline metric with its interval."""
    found = facts.metrics[system][facts.headline]
    return format_cell(found["value"], found["low"], found["high"])


def _spaced(text: str) -> str:
    """MLflow's tables have no space between their cells."""
    return f"{text}&emsp;"


def _result(facts: Facts) -> str:
    """Return one plain sentence: what it reaches, against what, and what it is."""
    config, base = facts.identity["adapter"]["config"], facts.identity["base"]["source"]
    rank = f" r={config['r']}" if "r" in config else ""
    others = [
        f"{row.label} {row.metrics[facts.headline][0]:.3f}"
        for row in facts.rows
        if row.system != "adapter" and row.metrics.get(facts.headline, (None,))[0] is not None
    ]
    against = f" ({', '.join(others)})" if others else ""
    return (
        f"{facts.headline} {cell(facts, 'adapter')} on {facts.metrics['test']['rows']} test rows"
        f"{against}: "
        f"{facts.identity['adapter']['method']}{rank} on {base}, task {facts.identity['task']['name']}."
    )


def _proven(facts: Facts) -> str:
    proof = facts.proof
    return (
        f"Reload proof: a fresh process reproduces the trainer's outputs on {proof['rows']} rows to "
        f"{proof['reload_difference']:.2g}; the adapter changes the base's by {proof['effect']:.2g}."
    )


def _origin(facts: Facts, context: RunContext) -> str:
    parts = [f"adapter `{facts.digest[:SHOWN_DIGEST]}…`", f"data `{facts.identity['data'][:SHOWN_DIGEST]}…`"]
    if context.git_commit:
        parts.append(f"commit `{context.git_commit[:SHOWN_DIGEST]}`")
    if context.prefect_run:
        link = f"[{context.prefect_run[:8]}]({context.prefect_url})" if context.prefect_url else context.prefect_run[:8]
        parts.append(f"Prefect run {link}")
    return ", ".join(parts)
