"""The further seeds of ``training.repeats``: their predictions on the test rows, and how far results spread by luck.

Each further adapter is switched into the base that is loaded already, so k seeds cost k passes over the test rows and
no second base in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graft.errors import IntegrityError
from graft.evaluation.intervals import rounded
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from graft.artifact import LoadedAdapter
    from graft.tasks import Task

    Table = Mapping[str, np.ndarray]

FOLDER = "repeats"
"""Where the tables are among the predictions: ``predictions/repeats/seed-<seed>.parquet``."""


def further(
    workspace: Workspace,
    loaded: LoadedAdapter,
    tokens: pa.Table,
    *,
    batch_rows: int,
    trust_remote_code: bool = False,
) -> dict[int, dict[str, np.ndarray]]:
    """Return the prediction tables of the further seeds over the test tokens, by seed in the order of training.

    Raises:
        IntegrityError: an adapter is not what its identity says, or was trained beside another first one.
    """
    from graft import artifact
    from graft.evaluation.prediction import score

    found: dict[int, dict[str, np.ndarray]] = {}
    listed = workspace.repeats / "seeds.json"
    seeds = read_json(listed)["seeds"] if listed.is_file() else [loaded.identity["seed"]]
    if seeds[0] != loaded.identity["seed"]:
        raise IntegrityError(
            f"{listed}: of a training with seed {seeds[0]}, and the adapter has seed {loaded.identity['seed']}; run "
            f"`graft stage train`"
        )
    for seed in seeds[1:]:
        folder = workspace.repeats / f"seed-{seed}"
        with artifact.switched(loaded, folder) as own, artifact.reproducible(loaded.identity["threads"]):
            other = own or artifact.load(
                folder, workspace.root, device=loaded.device, trust_remote_code=trust_remote_code
            )
            found[seed] = score(other, tokens, batch_rows=batch_rows, name=f"seed {seed}")
    return found


def spread(task: Task, tables: Mapping[int, Table]) -> dict[str, Any]:
    """Return what metrics.json says of the seeds: each metric's values, their mean and standard deviation.

    Args:
        task: gives the metrics.
        tables: prediction tables of all seeds, the registered adapter's first.
    """
    import numpy as np

    found: dict[str, Any] = {"seeds": list(tables)}
    for metric in task.metrics:
        values = [float(metric.function(table)) for table in tables.values()]
        found[metric.name] = {
            "values": [rounded(value) for value in values],
            "mean": rounded(float(np.mean(values))),
            "standard_deviation": rounded(float(np.std(values, ddof=1))),
        }
    return found
