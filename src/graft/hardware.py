"""What a training or a timing ran on: for people, beside the result; nothing depends on it."""

from __future__ import annotations

import contextlib
import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PEAK_SECONDS = 0.1
"""How long products are tried for the peak."""

CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files of the limit, of what is used, of facts, and the fact that counts pages which make room when it is needed."""


def hardware(device: str, threads: int) -> dict[str, Any]:
    """Return the machine's facts (no host name)."""
    import psutil
    import torch

    found: dict[str, Any] = {
        "device": device,
        "threads": threads,
        "processor": _processor(),
        "processor_features": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "gpu_memory_bytes": card.total_memory, "cuda": torch.version.cuda}
    return found


def memory_bytes(device: str) -> int:
    """Return the memory in use: the GPU's largest so far, or the process' resident memory now."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def gpu_utilisation() -> float | None:
    """Return the share of the last moments in which the GPU computed, by NVML; None where that cannot be asked."""
    import torch

    try:
        return torch.cuda.utilization() / 100
    except (ImportError, RuntimeError):  # no driver that answers
        return None


@functools.cache
def matmul_peak(device: str, dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001  (part of the key)
    """Return the FLOP/s of a product of large square matrices: the best of those that a tenth of a second holds.

    Measured, not taken from a data sheet: what can be reached here with this type, this library and, on a CPU, the
    process' ``threads``. A busy machine makes it smaller.
    """
    import torch

    size, together = (4096, 10) if device == "cuda" else (1024, 1)
    # Its own generator: the training's own chance is not touched. Constant numbers would be multiplied faster.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    best, begun = float("inf"), time.perf_counter()
    torch.matmul(left, right)  # compiles it
    wait()
    while best == float("inf") or time.perf_counter() - begun < PEAK_SECONDS:
        started = time.perf_counter()
        for _ in range(together):
            torch.matmul(left, right)
        wait()
        best = min(best, (time.perf_counter() - started) / together)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return 2.0 * size**3 / best


def free_bytes(device: str) -> int:
    """Return the memory that this process may still take: of its GPU, or of the machine and its control group."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    import psutil

    return min([int(psutil.virtual_memory().available), *_free_in_group()])


def _free_in_group(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return what a limit of the container leaves (control groups, version 2 and 1); nothing where there is none."""
    for limit, used, facts, cache in CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            lines = dict(line.split() for line in (root / facts).read_text().splitlines())
            taken = int((root / used).read_text()) - int(lines.get(cache, 0))  # pages of files make room
            return [max(0, int((root / limit).read_text()) - taken)]
    return []


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
