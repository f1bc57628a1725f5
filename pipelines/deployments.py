"""Register prefect.yaml's deployments with a server, through its API.

``prefect deploy --all`` does the same; here it is one request per deployment in place of one process, only what is new
or changed is touched (a schedule that somebody paused in the UI stays paused), and one work pool at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from graft.errors import ResourceMissing
from graft.identity import digest_files, digest_json

STAGE_ENTRYPOINT = "pipelines/stage.py:gpu_stage"
AT_A_TERMINAL = ("in_place", "add_data")
SCHEDULE_KEYS = ("cron", "interval", "rrule", "timezone", "anchor_date", "day_or")


def register(client: SyncPrefectClient, clone: Path, pool: str) -> list[str]:
    """Make the pool if it is absent, and its deployments as prefect.yaml has them; return what is new or changed.

    Raises:
        ResourceMissing: the pool is of another kind.
    """
    make_pool(client, pool)
    version, declared = version_of(clone), _declared(clone)
    chosen = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    held = client.read_deployments(work_pool_filter=chosen, sort=DeploymentSort.NAME_ASC, limit=100)
    known = {(one.entrypoint, one.name) for one in held if one.version == version}
    return [
        _create(client, clone, one, pool=pool, pull=declared["pull"], version=version)
        for one in deployments_of(declared, pool)
        if (one["entrypoint"], one["name"]) not in known
    ]


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    """Make a work pool of processes, where there is none of that name.

    Raises:
        ResourceMissing: there is one of another kind.
    """
    try:
        found = client.read_work_pool(pool)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        except ObjectAlreadyExists:
            return  # another worker was faster
    else:
        if found.type != "process":
            raise ResourceMissing(f"work pool {pool}: of type {found.type}, `graft worker` serves pools of processes")


def version_of(clone: Path) -> str:
    """Return the version of this clone's deployments: 12 digits over prefect.yaml and the flows."""
    files = [clone / "prefect.yaml", *sorted((clone / "pipelines").glob("*.py"))]
    return digest_json(digest_files(clone, files))[:12]


def deployments_of(declared: dict[str, Any], pool: str) -> list[dict[str, Any]]:
    """Return what prefect.yaml declares for ``pool``; a pool that it does not name runs placed stages."""
    found = [one for one in declared["deployments"] if one["work_pool"]["name"] == pool]
    return found or [{"name": pool, "entrypoint": STAGE_ENTRYPOINT}]


def _declared(clone: Path) -> dict[str, Any]:
    declared: dict[str, Any] = yaml.safe_load((clone / "prefect.yaml").read_text(encoding="utf-8"))
    return declared


def _create(
    client: SyncPrefectClient, clone: Path, one: dict[str, Any], *, pool: str, pull: list[dict[str, Any]], version: str
) -> str:
    flow: Flow[..., Any] = load_flow_from_entrypoint(str(clone / one["entrypoint"]))
    limit = one.get("concurrency_limit") or {}
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=one["name"],
        version=version,
        description=one.get("description") or flow.description,
        tags=one.get("tags"),
        parameters=one.get("parameters"),
        parameter_openapi_schema=form(flow),
        enforce_parameter_schema=True,
        entrypoint=one["entrypoint"],
        pull_steps=pull,
        work_pool_name=pool,
        job_variables=one["work_pool"].get("job_variables") if "work_pool" in one else None,
        schedules=[_schedule(schedule) for schedule in one.get("schedules", [])],
        concurrency_limit=limit.get("limit"),
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None,
    )
    return f"{flow.name}/{one['name']}"


def form(flow: Flow[..., Any]) -> dict[str, Any]:
    """Return the schema of a flow's parameters, without those that only a run at a terminal takes."""
    schema = parameter_schema(flow).model_dump_for_openapi()
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in AT_A_TERMINAL}
    return schema


def _schedule(given: dict[str, Any]) -> DeploymentScheduleCreate:
    schedule = {name: value for name, value in given.items() if name in SCHEDULE_KEYS}
    return DeploymentScheduleCreate.model_validate(
        {"schedule": schedule, **{name: value for name, value in given.items() if name not in SCHEDULE_KEYS}}
    )
