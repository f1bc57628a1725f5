"""What Graft's worker does otherwise than Prefect's own."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from prefect.workers.process import ProcessWorker

from pipelines import prefect_worker


async def again(submit: Any) -> list[Any]:
    """Hand a run to a worker of one run at a time, which counts the run's process before still."""
    worker, flow_run = ProcessWorker(work_pool_name="graft", limit=1), SimpleNamespace(id=uuid.uuid4())
    worker._limiter = anyio.CapacityLimiter(1)
    worker._limiter.acquire_on_behalf_of_nowait(flow_run.id)
    return list(await submit(worker, [SimpleNamespace(flow_run=flow_run)]))


def test_worker_outlives_a_run_that_comes_back_before_its_process_has_ended() -> None:
    """Prefect's own worker ends with an error here, and with it all runs that it serves."""
    with pytest.raises(RuntimeError, match="already holding one of this CapacityLimiter's tokens"):
        asyncio.run(again(prefect_worker._submit))
    assert asyncio.run(again(ProcessWorker._submit_scheduled_flow_runs)) == []
