"""What a run shows: what became of its data, and one table at its end, as text and as artifacts in the Prefect UI."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from graft.errors import InputError
from graft.evaluation.overview import format_cell, format_table, summary
from graft.validation import summary as of_data
from graft.workspace import Workspace, read_json
from pipelines.chain import Chain

SHOWN_METRICS = 3
CLOCK_SECONDS = 2.0
"""How far the clock and the times of a file system may differ."""


def evaluation(workspace: Workspace) -> str:
    """Return the table of ``artifacts/evaluation/metrics.json`` as plain text, with its number of test rows."""
    metrics = read_json(workspace.evaluation / "metrics.json")
    table = format_table(summary(metrics), columns=SHOWN_METRICS)
    return f"test split, {metrics['test']['rows']} rows, with 95 % intervals:\n{table}"


def show_evaluation(workspace: Workspace) -> None:
    """Make the table an artifact of the flow run."""
    rows = summary(read_json(workspace.evaluation / "metrics.json"))
    create_table_artifact(
        key=key(workspace, "evaluation"),
        table=[
            {"system": row.label, **{name: format_cell(*cell) for name, cell in row.metrics.items()}} for row in rows
        ],
        description="Test split: base, adapter and cheap baselines on the same rows, with 95 % intervals.",
    )


@contextlib.contextmanager
def data_shown(workspace: Workspace, stage: str) -> Iterator[None]:
    """Make what validate finds out an artifact of the flow run, whether it lets the chain go on or not."""
    began = time.time()
    try:
        yield
    except InputError:
        if stage == "validate" and (report := report_of_refusal(workspace, began)):
            show_data(workspace, of_data.refused(report, os.path.relpath(report, workspace.home)))
        raise
    if stage == "validate" and (workspace.validation / "verdict.json").is_file():
        show_data(workspace, of_data.passed(workspace))


def report_of_refusal(workspace: Workspace, since: float) -> Path | None:
    """Return the report that validate wrote ``since`` then (seconds); None: it ran elsewhere, or failed otherwise."""
    report = workspace.failed / "validate"
    written = report / "report.json"
    return report if written.is_file() and written.stat().st_mtime >= since - CLOCK_SECONDS else None


def show_data(workspace: Workspace, markdown: str) -> None:
    """Make a page about the data an artifact."""
    create_markdown_artifact(
        key=key(workspace, "data"), markdown=markdown, description="What the data contract found in the data."
    )


def show_summary(workspace: Workspace, chain: Chain, lines: Sequence[str]) -> None:
    """Make one page about the run an artifact: version and verdict, stages, table, what it stands on."""
    facts = chain.run.facts
    overrides = ", ".join(f"`{path}: {value}`" for path, value in facts.get("overrides", {}).items())
    sections = [
        f"# {chain.config.registration.name}",
        *lines,
        f"Commit `{chain.commit}`{f', with {overrides}' if overrides else ''}.",
        stages_markdown(chain.outcomes),
        evaluation_markdown(workspace),
    ]
    create_markdown_artifact(
        key=key(workspace, "summary"), markdown="\n\n".join(sections), description="What this run did, and its result."
    )


def show_link(workspace: Workspace, name: str, url: str | None, description: str) -> None:
    """Make ``url`` an artifact, where it is one that a browser can open."""
    if url and url.startswith(("http://", "https://")):
        create_link_artifact(key=key(workspace, name), link=url, link_text=name, description=description)


def stages_markdown(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the stages as a Markdown table: name, outcome, seconds."""
    lines = [f"| {name} | {one['outcome']} | {one['seconds']:.1f} |" for name, one in outcomes.items()]
    return "\n".join(["| stage | outcome | seconds |", "|---|---|---|", *lines])


def evaluation_markdown(workspace: Workspace) -> str:
    """Return the first metrics of the evaluation as a Markdown table; the artifact ``evaluation`` has all."""
    rows = summary(read_json(workspace.evaluation / "metrics.json"))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))[:SHOWN_METRICS]
    lines = [
        f"| {row.label} | {' | '.join(format_cell(*row.metrics.get(name, (None, None, None))) for name in names)} |"
        for row in rows
    ]
    return "\n".join([f"| system | {' | '.join(names)} |", "|---|" + "---|" * len(names), *lines])


def key(workspace: Workspace, name: str) -> str:
    """Return an artifact key of this project: Prefect keeps the history of a key over all runs."""
    project = "" if workspace.name == "." else f"{workspace.name}-"
    return re.sub(r"[^a-z0-9]+", "-", f"{project}{name}".lower()).strip("-")
