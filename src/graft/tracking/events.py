"""The curves of a training as TensorBoard events: of those who want them, from the file that is there anyway.

Written afterwards, not while a training runs: nothing depends on it, and every training has its ``metrics.jsonl``.
``tensorboardX`` writes the files (numpy and protobuf are all that it needs); TensorBoard itself may live elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from graft.errors import ResourceMissing
from graft.tracking.curves import points_of, read_lines
from graft.workspace import replaced

METRICS = "metrics.jsonl"


def write_events(training: Path, folder: Path) -> int:
    """Write the curves of a ``training`` folder, and of each further seed's in it, to ``folder``; return the points.

    The folder is replaced: written twice, a curve has each point once.

    Raises:
        ResourceMissing: no training, or no tensorboardX.
    """
    files = [training / METRICS, *sorted(training.glob(f"seed-*/{METRICS}"))]
    if not files[0].is_file():
        raise ResourceMissing(f"{files[0]}: no such file; train first (`graft run`)")
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ResourceMissing("tensorboardX is not installed; `pip install 'graft[tensorboard]'`") from None
    points = 0
    with replaced(folder) as new:
        for file in files:
            lines = read_lines(file)
            ends = max((line["seconds"] for line in lines if "seconds" in line), default=0.0)
            began, at = file.stat().st_mtime - ends, 0.0
            with SummaryWriter(str(new / file.parent.relative_to(training))) as writer:
                for line in lines:
                    at = line.get("seconds", at)
                    for name, value in points_of(line):
                        group = "validation" if name.startswith("validation_") else "training"
                        tag = f"{group}/{name.removeprefix('validation_')}"
                        writer.add_scalar(tag, value, line["step"], walltime=began + at)
                        points += 1
    return points
