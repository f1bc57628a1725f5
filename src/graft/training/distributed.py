"""A training in several processes of this machine: torchrun's elastic agent starts and watches them.

The stage's process becomes the agent. It trains nothing; its children, the ranks, run the stage's own code
(``rank.py``) and the first of them writes the outputs. When a rank is killed or lost, the agent ends the others, and
all start again from the newest checkpoint, a bounded number of times. An error is no reason to try again: each rank
leaves its own in a file, and the first one is raised here, once. That a rank lost another one is no error of its own.

What the ranks meet over is a file in a private folder and the loopback device: nothing listens to the network.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import errors
from graft.errors import ConfigError, GraftError, Interrupted, ResourceMissing

if TYPE_CHECKING:
    from graft.adapters import AdapterConfig
    from graft.base import BaseConfig
    from graft.tasks import TaskConfig
    from graft.training.section import TrainingConfig
    from graft.workspace import Workspace

RESTARTS = 3
SHUTDOWN_SECONDS = 60
"""How long ranks have for the step that they are in, and for its checkpoint, when a signal asks them to end."""
SECTIONS = "sections.json"
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
"""What errors of gloo say, which have no type of their own."""


def processes_of(training: TrainingConfig, device: str) -> int:
    """Return how many processes train.

    Raises:
        ResourceMissing: more than there are CUDA devices.
    """
    if device != "cuda":
        return 1 if training.processes == "auto" else training.processes
    import torch

    there = torch.cuda.device_count()
    wanted = there if training.processes == "auto" else training.processes
    if wanted > there:
        raise ResourceMissing(
            f"training.processes: {wanted}, but there are {there} CUDA devices; set at most {there}, or auto"
        )
    return wanted


def refuse_sharding(base: BaseConfig, adapter: AdapterConfig, training: TrainingConfig) -> None:
    """Refuse ``training.sharding: fsdp`` where it cannot be.

    Raises:
        ConfigError: with the reason.
    """
    from graft.adapters import head_alone

    if training.sharding == "none":
        return
    reasons = {
        "there is one process; set training.processes": training.processes == 1,
        "the matrices of base.quantization cannot be split; leave one of them out": base.quantization is not None,
        "adapter.method: full leaves nothing frozen to split": adapter.method == "full",
        "training.unfreeze trains weights of the base, which it would split; leave one of them out": training.unfreeze,
        f"adapter.method: {adapter.method} runs the base once, not in each step": head_alone(adapter.method),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"training.sharding: fsdp, but {reason}, or set none")


def launch(
    workspace: Workspace,
    *,
    task: TaskConfig,
    base: BaseConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    processes: int,
) -> None:
    """Train in ``processes`` processes; start them again when a signal ended one of them.

    Raises:
        GraftError: what a rank raised first; a rank was ended more than ``RESTARTS`` times.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sections = {"task": task, "base": base, "adapter": adapter, "training": training}
    values = {name: one.model_dump(mode="json", exclude_unset=True) for name, one in sections.items()}
    for attempt in range(RESTARTS + 1):
        with tempfile.TemporaryDirectory(prefix="graft-ranks-") as name, _own_signals():
            folder, codes, signalled = Path(name), list[int](), ""
            content = {"root": str(workspace.root), "agent": os.getpid(), **values}
            (folder / SECTIONS).write_text(json.dumps(content), encoding="utf-8")
            try:
                _run(folder, processes)
            except SignalException as ended:
                signalled = ended.sigval.name
            except ChildFailedError as failed:
                codes = [one.exitcode for one in failed.failures.values()]
            error = first_error(folder)
        if error:
            raise error
        if signalled:
            raise Interrupted(f"train: stopped by {signalled}; the same command resumes")
        if not codes:
            return
        killed = [-code for code in codes if code < 0 and -code != signal.SIGTERM]  # that is how the agent ends ranks
        what = f"ended by {signal.Signals(killed[0]).name}" if killed else "lost"
        if attempt < RESTARTS:
            print(
                f"train: one of {processes} processes was {what}; all start again from the newest checkpoint "
                f"({attempt + 1} of at most {RESTARTS} times)",
                flush=True,
            )
    raise ResourceMissing(
        f"training.processes: one of {processes} processes was {what}, {RESTARTS + 1} times; is there too "
        f"little memory (training.micro_batch_rows)? The same command resumes"
    )


def _run(folder: Path, processes: int) -> None:
    """Let torchrun's agent run the ranks once."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from graft.training import rank

    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # the agent would listen on every device for the ranks
    for name in logging.root.manager.loggerDict:  # what the agent would say is said here, once
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT",
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    elastic_launch(config, sys.executable)("-m", rank.__name__, str(folder))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handlers back that the agent replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, where nothing was replaced
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_error(folder: Path, number: int, error: BaseException) -> None:
    """Write what ended rank ``number``, for the agent; nothing where it is that another rank was lost."""
    from torch.distributed import DistError

    known = isinstance(error, GraftError)
    if isinstance(error, DistError) or any(text in str(error) for text in LOST):
        return
    left = {
        "at": time.time(),
        "rank": number,
        "kind": type(error).__name__,
        "message": str(error),
        "problems": list(error.problems) if isinstance(error, GraftError) else [],
        "traceback": "" if known else "".join(traceback.format_exception(error)),
    }
    new = folder / f".error-{number}"
    new.write_text(json.dumps(left), encoding="utf-8")
    new.rename(folder / f"error-{number}.json")


def first_error(folder: Path) -> GraftError | None:
    """Return what a rank raised before the others; a traceback is printed."""
    left: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error-*"))
    ]
    if not left:
        return None
    kind = min(left, key=lambda one: float(one["at"]))["kind"]
    first = next(one for one in left if one["kind"] == kind)  # all ranks may find the same: the first rank's says most
    if first["traceback"]:
        print(first["traceback"], file=sys.stderr, flush=True)
        return GraftError(f"training: process {first['rank']} failed ({kind}); its traceback stands above")
    found: GraftError = getattr(errors, kind)(first["message"], problems=first["problems"])
    return found
