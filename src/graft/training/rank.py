"""``python -m graft.training.rank FOLDER``: one of the processes that train an adapter together.

It is started by torchrun's agent (``distributed.py``) and does what the stage does in one process; all but the first
rank are silent and write nothing.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

from graft.errors import GraftError, Interrupted
from graft.orphans import end_with_parent

LONGEST_WAIT = timedelta(hours=2)
"""How long a rank waits for another one that is alive."""


def main(folder: Path) -> int:
    """Train as the rank that the environment says; return the exit code."""
    from graft.training.distributed import SECTIONS, leave_error

    given = json.loads((folder / SECTIONS).read_text(encoding="utf-8"))
    end_with_parent(given["agent"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    number = int(os.environ["RANK"])
    if number:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    try:
        _train(folder, given, number, int(os.environ["WORLD_SIZE"]))
    except Interrupted as error:  # all ranks end so, and the agent is to let the first one write
        leave_error(folder, number, error)
        return 0
    except GraftError as error:
        leave_error(folder, number, error)
        return error.exit_code
    except Exception as error:
        leave_error(folder, number, error)
        return 1
    return 0


def _train(folder: Path, given: dict[str, dict[str, str]], number: int, size: int) -> None:
    import torch
    import torch.distributed as dist

    from graft import tasks
    from graft.adapters import AdapterConfig
    from graft.base import BaseConfig
    from graft.training import TrainingConfig, stage
    from graft.training.ranks import Ranks
    from graft.workspace import Workspace

    for name, value in (("GLOO_SOCKET_IFNAME", "lo"), ("NCCL_SOCKET_IFNAME", "lo"), ("NCCL_ALGO", "Ring")):
        if sys.platform == "linux" or name == "NCCL_ALGO":
            os.environ.setdefault(name, value)
    training = TrainingConfig.model_validate(given["training"])
    backend = "gloo"
    if training.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"
    store = f"file://{folder / 'store'}"
    dist.init_process_group(backend, init_method=store, rank=number, world_size=size, timeout=LONGEST_WAIT)
    stage.run(
        Workspace(Path(str(given["root"]))),
        task=tasks.config_class(given["task"]["name"]).model_validate(given["task"]),
        base=BaseConfig.model_validate(given["base"]),
        adapter=AdapterConfig.model_validate(given["adapter"]),
        training=training,
        ranks=Ranks(number, size, sharded=training.sharding == "fsdp"),
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for threads that wait for a lost rank
