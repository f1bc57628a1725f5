"""Try which writes of MLflow's public API have exactly one winner when several processes make them at once.

    .venv/bin/python benchmarks/registry_claims.py --uri sqlite:////tmp/claims.db
    .venv/bin/python benchmarks/registry_claims.py --uri postgresql://graft@127.0.0.1:5432/claims
    .venv/bin/python benchmarks/registry_claims.py --uri http://127.0.0.1:5000 --processes 8 --rounds 50

In each round all processes wait for each other, then claim the same thing by one primitive, and say whether MLflow told
them that it is theirs. One winner in every round, whatever the store, is what a journal of decisions needs. ``again``:
the winner makes the same call a second time, as a client does that got no answer; it must be told the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

Claim = Callable[[Any, str, str], bool]
FILES = "s3://claims/none"
UNREPEATABLE = "alias, checked before and after"


def alias_checked(client: Any, thing: str, me: str) -> bool:
    """Read the alias; if it is still the old one, set it and read it back: what a client can do without a lock."""
    if str(client.get_registered_model(thing).aliases["champion"]) != "1":
        return False
    mine = str(int(me) + 1)
    client.set_registered_model_alias(thing, "champion", mine)
    return str(client.get_registered_model(thing).aliases["champion"]) == mine


def registered_model(client: Any, thing: str, me: str) -> bool:
    """Create a registered model of one name; the tags are set in the same transaction."""
    try:
        client.create_registered_model(f"{thing}-claim", tags={"owner": me})
    except Exception:
        return bool(client.get_registered_model(f"{thing}-claim").tags["owner"] == me)
    return True


def experiment(client: Any, thing: str, me: str) -> bool:
    """Create an experiment of one name; the tags are set in the same transaction."""
    try:
        client.create_experiment(f"{thing}-claim", artifact_location=FILES, tags={"owner": me})
    except Exception:
        return bool(client.get_experiment_by_name(f"{thing}-claim").tags["owner"] == me)
    return True


def renamed_experiment(client: Any, thing: str, me: str) -> bool:
    """Rename an experiment of one's own, made ready beforehand, to one name."""
    name = f"{thing}-claim"
    mine = client.get_experiment_by_name(f"{thing}-{me}")
    if mine is None:
        return bool(client.get_experiment_by_name(name).tags["owner"] == me)
    try:
        client.rename_experiment(mine.experiment_id, name)
    except Exception:
        return bool(client.get_experiment_by_name(name).tags["owner"] == me)
    return True


def version_number(client: Any, thing: str, me: str) -> bool:
    """Create a model version; the lowest number wins, which every reader can see."""
    for _ in range(10):
        try:
            client.create_model_version(thing, FILES, tags={"owner": me}, await_creation_for=0)
            break
        except Exception:
            continue
    found = client.search_model_versions(f"name = '{thing}'", max_results=1000)
    claims = [one for one in found if "owner" in one.tags]
    return bool(min(claims, key=lambda one: int(one.version)).tags["owner"] == me)


def parameter(client: Any, thing: str, me: str) -> bool:
    """Log a parameter of one run: MLflow's parameters are written once."""
    from mlflow.exceptions import MlflowException

    run = client.get_registered_model(thing).tags["run"]
    try:
        client.log_param(run, "0001", me, synchronous=True)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return False
    return True


def data_set(client: Any, thing: str, me: str) -> bool:
    """Log a data set of one name and digest as a run's input; the first one's content stays."""
    from mlflow.entities import Dataset, DatasetInput

    holder = client.get_experiment_by_name(f"{thing}-holder").experiment_id
    run = client.create_run(holder).info.run_id
    for _ in range(10):
        try:
            client.log_inputs(run, [DatasetInput(Dataset("journal", thing[:36], "local", me), [])])
            break
        except Exception:
            continue
    return bool(client.get_run(run).inputs.dataset_inputs[0].dataset.source == me)


PRIMITIVES: dict[str, Claim] = {
    UNREPEATABLE: alias_checked,
    "name of a registered model": registered_model,
    "name of an experiment": experiment,
    "experiment renamed": renamed_experiment,
    "number of a model version": version_number,
    "parameter of a run": parameter,
    "data set of one digest": data_set,
}


def client_of(uri: str) -> Any:
    from graft.tracking import set_environment

    set_environment()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def prepare(client: Any, thing: str, processes: int) -> None:
    """Make what the claims are made on: a registered model with a version for each, an experiment, a run."""
    holder = client.create_experiment(f"{thing}-holder", artifact_location=FILES)
    run = client.create_run(holder).info.run_id
    client.create_registered_model(thing, tags={"run": run})
    client.create_model_version(thing, FILES, await_creation_for=0)
    client.set_registered_model_alias(thing, "champion", "1")
    for number in range(1, processes + 1):
        client.create_model_version(thing, FILES, await_creation_for=0)
        client.create_experiment(f"{thing}-{number}", artifact_location=FILES, tags={"owner": str(number)})


def claimer(uri: str, me: str, todo: Any, ready: Any, answers: Any) -> None:
    """Claim what the parent names, each time when all processes are ready."""
    client = client_of(uri)
    client.search_experiments(max_results=1)
    while (task := todo.get()) is not None:
        name, thing = task
        ready.wait()
        try:
            won = PRIMITIVES[name](client, thing, me)
            again = won and (name == UNREPEATABLE or PRIMITIVES[name](client, thing, me))
            answers.put(("won" if won else "lost", won == again))
        except Exception as error:
            answers.put((f"{type(error).__name__}: {str(error).splitlines()[0][:80]}", True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", help="the primitives whose name holds this")
    given = parser.parse_args()
    client = client_of(given.uri)
    client.search_experiments(max_results=1)
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(given.processes), context.Queue()
    inboxes = [context.Queue() for _ in range(given.processes)]
    people = [
        context.Process(target=claimer, args=(given.uri, str(number), inbox, ready, answers), daemon=True)
        for number, inbox in enumerate(inboxes, start=1)
    ]
    for one in people:
        one.start()
    print(f"| {given.uri.partition(':')[0]} | rounds with 0, 1, more winners | same told again | errors | ms |")
    for name in (one for one in PRIMITIVES if given.only in one):
        winners, errors, same, seconds = Counter[str](), Counter[str](), 0, 0.0
        for _ in range(given.rounds):
            thing = f"c{uuid.uuid4().hex[:12]}"
            prepare(client, thing, given.processes)
            began = time.monotonic()
            for inbox in inboxes:
                inbox.put((name, thing))
            said = [answers.get(timeout=300) for _ in people]
            seconds += time.monotonic() - began
            won = sum(one == "won" for one, _ in said)
            winners["more" if won > 1 else str(won)] += 1
            same += all(ok for _, ok in said)
            errors.update(one for one, _ in said if one not in ("won", "lost"))
        told = f"{winners['0']}, {winners['1']}, {winners['more']}"
        print(
            f"| {name} | {told} | {same} of {given.rounds} | {dict(errors) or 'none'} | "
            f"{1000 * seconds / given.rounds:.0f} |",
            flush=True,
        )
    for inbox in inboxes:
        inbox.put(None)
    for one in people:
        one.join()


if __name__ == "__main__":
    main()
