"""The order of decisions about one registered model: numbered slots, each taken once, by whoever comes first.

MLflow's alias has no compare-and-set, and a file lock ends at its machine. But a parameter of a run is written once:
its table's primary key is (run, name), so of two processes that log ``000007`` with different values the database lets
one in, and the same value a second time is no error. So each registered model has an experiment ``NAME-decisions`` with
one run, the *ledger*, whose parameters are the slots. A slot says in short what was decided and names the run that
holds the whole entry. Decision 7 can only be made by who read 6 of them, which is the expected predecessor.

The ledger itself must exist once: an experiment is made ready under a name of its own, its ledger in it, and then
*renamed*. Names of experiments are unique in the database too. docs/decisions/0019 tells what else was tried.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graft.errors import ConfigError, IntegrityError
from graft.tracking import TrackingConfig, artifact_location
from graft.tracking.server import Connection, now_ms
from graft.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Experiment

SUFFIX = "-decisions"
LEDGER = "graft.ledger"
"""The tag of the ledger's run (the model's name) and of its experiment (the run's id)."""
NOTE = """The order of all decisions about the alias `champion` of **{name}**. Each parameter is one decision and names
its run in this experiment; MLflow lets nobody change a parameter. `graft history` reads it.

Keep this run: without it nobody knows which decisions stand.
"""


@dataclass(frozen=True)
class Slot:
    """One decision in short: what stands in the ledger, and stays readable if its run is deleted."""

    run: str
    key: str
    kind: str
    verdict: str
    candidate: str
    before: str | None
    after: str | None
    who: str

    def text(self) -> str:
        """Return the parameter's value; equal decisions give equal texts."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Ledger:
    """The ledger of one registered model."""

    connection: Connection
    name: str
    """The registered model."""
    experiment: str
    run: str

    def slots(self) -> list[Slot]:
        """Return what is taken, the oldest first.

        Raises:
            IntegrityError: a number is missing, or a parameter is no decision.
        """
        found = dict(self.connection.client.get_run(self.run).data.params)
        wanted = [_number(number) for number in range(1, len(found) + 1)]
        try:
            return [Slot(**json.loads(found[number])) for number in wanted]
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(
                f"{self.name}: the ledger of decisions (run {self.run}) holds a parameter that is no decision, or "
                f"lacks one of {len(found)}: somebody wrote to it outside Graft"
            ) from None

    def take(self, number: int, slot: Slot) -> Slot:
        """Take slot ``number`` (from 1 on) if nobody has it; return who has it now, whatever became of the call.

        A call whose answer was lost may have been carried out, so the ledger is asked after every failure.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.connection.client.log_param(self.run, _number(number), slot.text(), synchronous=True)
        except MlflowException:
            held = self.slots()
            if len(held) < number:
                raise
            return held[number - 1]
        return slot


def find(connection: Connection, name: str) -> Ledger | None:
    """Return the ledger of a registered model; None: nothing was ever decided about it.

    Raises:
        ConfigError: somebody deleted its experiment or its run in MLflow, or took the experiment's name.
    """
    experiment = connection.client.get_experiment_by_name(name + SUFFIX)
    return _ledger(connection, name, experiment) if experiment else None


def find_or_create(connection: Connection, config: TrackingConfig, workspace: Workspace, name: str) -> Ledger:
    """Return the ledger of a registered model; whoever creates it, there is one."""
    found = find(connection, name)
    if found is not None:
        return found
    made = _made_ready(connection, config, workspace, name)
    from mlflow.exceptions import MlflowException

    try:
        connection.client.rename_experiment(made.experiment, name + SUFFIX)
    except MlflowException:
        found = find(connection, name)
        if found is None:
            raise
        if found.experiment != made.experiment:
            with contextlib.suppress(MlflowException):
                connection.client.delete_experiment(made.experiment)
        return found
    return made


def _made_ready(connection: Connection, config: TrackingConfig, workspace: Workspace, name: str) -> Ledger:
    client = connection.client
    experiment = client.create_experiment(
        f"{name}{SUFFIX} (made ready by {uuid.uuid4().hex[:8]})",
        artifact_location=artifact_location(config, connection.uri, workspace),
        tags={"mlflow.experimentKind": "custom_model_development"},
    )
    tags = {
        LEDGER: name,
        "mlflow.note.content": NOTE.format(name=name),
        "mlflow.source.name": "graft",
        "mlflow.source.type": "LOCAL",
    }
    run = client.create_run(experiment, tags=tags, run_name=f"ledger of {name}").info.run_id
    client.set_terminated(run, "FINISHED", now_ms())
    client.set_experiment_tag(experiment, LEDGER, run)
    return Ledger(connection, name, str(experiment), run)


def _ledger(connection: Connection, name: str, experiment: Experiment) -> Ledger:
    title = name + SUFFIX
    if experiment.lifecycle_stage != "active":
        raise ConfigError(f"MLflow: the experiment {title!r} was deleted and holds the decisions; restore it")
    run: Any = experiment.tags.get(LEDGER)
    if run is None:
        raise ConfigError(
            f"MLflow: the experiment {title!r} is not a journal of decisions about {name}; rename it, so that Graft "
            "can make one of that name"
        )
    if connection.client.get_run(run).info.lifecycle_stage != "active":
        raise ConfigError(f"MLflow: the run {run} of experiment {title!r} was deleted and is the ledger; restore it")
    return Ledger(connection, name, str(experiment.experiment_id), str(run))


def _number(number: int) -> str:
    return f"{number:06d}"
