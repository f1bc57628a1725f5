"""Publish what is on disk to MLflow, and decide what becomes champion.

Everything here is find-or-create by key and rebuilt from files: publishing twice is publishing once, and a new, empty
server gets the run with its curves, the reports and the version. The same adapter is one version per server and
registered model, however often it is published. Nothing is registered before it was downloaded again and compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.adapters.section import AdapterConfig
from graft.base import BaseConfig
from graft.config import Section
from graft.publication import notes
from graft.publication.cases import Answer, Decision
from graft.publication.decisions import promote, rollback
from graft.publication.facts import Facts, read, single_files, uploads
from graft.publication.profiles import pin_champion
from graft.publication.receipts import Receipt, first_context, place, published, receipts, write
from graft.publication.reconciling import reconcile, standing
from graft.publication.starts import fetched, pin_start
from graft.registration import RegistrationConfig
from graft.tasks import Field, TaskConfig
from graft.tracking import RunContext, TrackingConfig
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    from graft.tracking.models import Contents
    from graft.tracking.server import Connection

__all__ = [
    "Answer",
    "Decision",
    "Receipt",
    "fetched",
    "follower_facts",
    "pin_champion",
    "pin_start",
    "promote",
    "publish",
    "published",
    "receipts",
    "reconcile",
    "rollback",
    "standing",
    "sync",
]

CONTENT_TAG = "graft.content"
WRITER_SECONDS = 60.0
EXAMPLE_ROWS = 3


def publish(
    workspace: Workspace,
    *,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: Section,
    registration: RegistrationConfig,
    tracking: TrackingConfig,
    context: RunContext,
) -> Receipt:
    """Publish the packed adapter, its run and its reports; return where they are.

    Raises:
        ResourceMissing: MLflow is not reachable; what is on disk stays publishable (`graft sync`).
        IntegrityError: outputs of different adapters, or an upload that came back changed.
        Locked: another process writes the same run.
    """
    facts = read(workspace)
    from graft.tracking.runs import writer_lock
    from graft.tracking.server import connect, experiment_id, reported

    connection = connect(tracking, workspace)
    context = first_context(workspace, facts.digest, context)
    with reported(connection.uri), writer_lock(workspace, facts.key, WRITER_SECONDS):
        experiment = experiment_id(connection, tracking, workspace)
        known = parameters(task, base, adapter, training, facts.identity)
        run_id = _run(connection, experiment, facts, context, known, registration.name)
        version = _version(connection, experiment, run_id, facts, registration, context)
    at = place(connection.uri, registration.name, facts.digest)
    receipt = Receipt(
        uri=connection.uri,
        name=registration.name,
        adapter=facts.digest,
        key=facts.key,
        run_id=run_id,
        run_url=connection.link(f"experiments/{experiment}/runs/{run_id}"),
        version=version,
        version_url=connection.link(f"models/{registration.name}/versions/{version}"),
        content=facts.content,
        context=asdict(context),
        decision=next((dict(one.decision) for one in receipts(workspace) if one.place == at), {}),
    )
    write(workspace, receipt)
    return receipt


sync = publish
"""``graft sync``: the same, by hand, for what a run could not publish or a new server lacks."""


def parameters(
    task: TaskConfig, base: BaseConfig, adapter: AdapterConfig, training: Section, identity: Mapping[str, Any]
) -> dict[str, str]:
    """Return MLflow's parameters of a training: the sections that decide it, by dotted path."""
    from graft.tracking.parameters import flat

    return flat(
        {
            "task": task.model_dump(mode="json"),
            "base": base.model_dump(mode="json"),
            "adapter": adapter.model_dump(mode="json"),
            "training": training.model_dump(mode="json"),
            "tokenization": {"max_length_tokens": identity["max_length_tokens"]},
            "data": {name: identity[name] for name in ("clean", "privacy", "columns") if name in identity},
        }
    )


def follower_facts(
    identity: Mapping[str, Any],
    context: RunContext,
    *,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: Section,
) -> dict[str, Any]:
    """Return tags, parameters and name for a :class:`~graft.tracking.runs.Follower` from a planned identity."""
    return {
        "tags": notes.followed_tags(identity, context),
        "parameters": parameters(task, base, adapter, training, identity),
        "name": run_name(adapter.method, identity),
    }


def run_name(method: str, identity: Mapping[str, Any]) -> str:
    """Return the name of a run: method and the start of its key."""
    from graft.identity import run_key

    return f"{method}-{run_key(identity)[:8]}"


def _run(
    connection: Connection,
    experiment: str,
    facts: Facts,
    context: RunContext,
    parameters: Mapping[str, str],
    data_name: str,
) -> str:
    """Find or create the run, give it everything that is on disk, and return its id."""
    from graft.tracking import runs
    from graft.tracking.curves import Curves, read_lines

    lines = read_lines(facts.workspace.training / "metrics.jsonl") if facts.training else []
    started, ended = _times(facts)
    name = run_name(facts.identity["adapter"]["method"], facts.identity)
    tags = notes.run_tags(facts, context)
    run = runs.find_or_create(connection, experiment, facts.key, name=name, tags=tags, started_ms=started)
    run_id = str(run.info.run_id)
    runs.add_tags(connection, run, tags)
    runs.add_parameters(connection, run, parameters)
    _add_data(connection, run, facts, data_name)
    curves = Curves(connection, run_id)
    curves.write(lines, started)
    curves.write_values(facts.scores())
    if run.data.tags.get(CONTENT_TAG) != facts.content:
        _upload(connection, run_id, facts)
        connection.client.set_tag(run_id, CONTENT_TAG, facts.content)
    runs.end(connection, run_id, "FINISHED", ended)
    return run_id


def _times(facts: Facts) -> tuple[int | None, int | None]:
    """Return when the training began and ended, in milliseconds: its file was closed at the end."""
    path = facts.workspace.training / "metrics.jsonl"
    if not facts.training or not path.is_file():
        return None, None
    ended = int(path.stat().st_mtime * 1000)
    return ended - int(1000 * facts.training.get("seconds", 0)), ended


def _add_data(connection: Connection, run: Any, facts: Facts, name: str) -> None:
    from graft.tracking.runs import add_data

    verdict = facts.workspace.validation / "verdict.json"
    splits = read_json(verdict)["splits"] if verdict.is_file() else {}
    columns = [facts.identity["columns"].get(field.name, field.name) for field in _fields(facts) if field.required]
    profile = {f"{split}_rows": found["rows"] for split, found in splits.items()}
    add_data(connection, run, name=name, digest=facts.identity["data"], profile=profile, columns=columns)


def _upload(connection: Connection, run_id: str, facts: Facts) -> None:
    """Upload reports, predictions and pictures."""
    client, workspace = connection.client, facts.workspace
    for target, folder in uploads(workspace).items():
        if folder.is_dir() and (target != "training" or facts.training):
            client.log_artifacts(run_id, str(folder), target)
    for target, files in single_files(workspace).items():
        for file in files:
            if file.is_file():
                client.log_artifact(run_id, str(file), target or None)
    _upload_report(client, run_id, facts)
    if facts.training:
        from graft.evaluation.plots import learning_curve

        with tempfile.TemporaryDirectory(prefix="graft-plot-") as temporary:
            picture = Path(temporary) / "learning_curve.png"
            learning_curve(workspace.training / "metrics.jsonl", picture)
            client.log_artifact(run_id, str(picture), "training")


def _upload_report(client: Any, run_id: str, facts: Facts) -> None:
    """Upload the evaluation report anew with what was timed, which the stage's own file leaves out."""
    from graft.evaluation import cost, report

    timed = facts.workspace.cost / cost.FILE
    if not timed.is_file() or not (facts.workspace.evaluation / "report.html").is_file():
        return
    with tempfile.TemporaryDirectory(prefix="graft-report-") as temporary:
        path = Path(temporary) / "report.html"
        lines = cost.lines(read_json(timed), facts.training)
        path.write_text(report.with_cost(facts.workspace.evaluation, lines), encoding="utf-8")
        client.log_artifact(run_id, str(path), "evaluation")


def _version(
    connection: Connection,
    experiment: str,
    run_id: str,
    facts: Facts,
    registration: RegistrationConfig,
    context: RunContext,
) -> str:
    """Find or create the version of this adapter; return its number."""
    from graft.tracking import models, provenances, registry

    identity, name, project = facts.identity, registration.name, facts.workspace.name
    logged = models.log(connection, _contents(facts), experiment=experiment, run_id=run_id)
    signers = provenances.attach(
        connection, logged, facts.adapter, identity, model=name, project=project, context=context
    )
    with connection.locked(f"model-{name}", purpose=f"create a version of {name}"):
        note = notes.model_note(registration.description, name, identity["task"]["name"], identity["base"]["source"])
        registry.ensure_model(connection, name, description=note, tags={"graft.task": identity["task"]["name"]})
        tags = {**notes.version_tags(facts, context), provenances.SIGNERS_TAG: signers}
        description = notes.version_note(facts, context, name, signers)
        found = registry.find(connection, name, facts.digest)
        if found is None:
            found = registry.create(connection, name, model=logged, run_id=run_id, description=description, tags=tags)
        else:
            registry.set_tags(connection, found, tags)
        registry.set_candidate(connection, found)
    return found.version


def _contents(facts: Facts) -> Contents:
    from graft.evaluation import prediction
    from graft.tracking.models import Contents

    identity = facts.identity
    task = tasks.get(identity["task"]["name"])
    table = prediction.read(facts.workspace.evaluation / "predictions" / "adapter.parquet")
    answers = task.answers({name: column[:EXAMPLE_ROWS] for name, column in table.items()}, identity["task"]["state"])
    return Contents(
        adapter=facts.adapter,
        digest=facts.digest,
        task=identity["task"]["name"],
        columns={
            identity["columns"].get(field.name, field.name): (field.type, field.required)
            for field in _fields(facts)
            if not field.target
        },
        example=_example(facts.workspace),
        answers=answers,
        metadata={"graft.adapter": facts.digest, "graft.key": facts.key, "graft.base": identity["base"]["digest"]},
    )


def _fields(facts: Facts) -> tuple[Field, ...]:
    task = facts.identity["task"]
    return tasks.get(task["name"]).fields_of(tasks.config_class(task["name"]).model_validate(task["config"]))


def _example(workspace: Workspace) -> list[dict[str, Any]]:
    found = read_json(workspace.package / "input_example.json")
    return [found] if isinstance(found, dict) else list(found)
