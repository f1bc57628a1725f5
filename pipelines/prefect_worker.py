"""Prefect's command line, with a worker that outlives an answer which comes at once.

A run that waits for an approval is suspended before its process has ended. Where the form is answered in between,
Prefect 3.8 hands the run out again while the worker still counts the old process against its limit, and the worker
ends with "this borrower is already holding one of this CapacityLimiter's tokens", and with it all its runs. Such a run
is left for the next look at the queue, some seconds later.
"""

from __future__ import annotations

from typing import Any

from prefect.workers.base import BaseWorker

_submit = BaseWorker._submit_scheduled_flow_runs


async def _submit_what_has_ended(self: Any, flow_run_response: list[Any]) -> list[Any]:
    held = self._limiter.statistics().borrowers if self._limiter else ()
    return await _submit(self, [one for one in flow_run_response if one.flow_run.id not in held])


BaseWorker._submit_scheduled_flow_runs = _submit_what_has_ended  # type: ignore[method-assign]

if __name__ == "__main__":
    from prefect.cli import app

    app()
