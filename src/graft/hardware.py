"""What a training or a timing ran on: for people, beside the result; nothing depends on it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any


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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
