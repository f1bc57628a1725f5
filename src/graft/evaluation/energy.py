"""Energy, where the machine lets itself be read: a processor's RAPL counters, a GPU's NVML counter. Never estimated.

Both counters are of the whole package or card, with whatever else runs there; a report says so. In containers and
virtual machines there is mostly nothing to read, and then nothing is said.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")
"""A package's counter (AMD's too), not those of its parts, which it includes."""


@dataclass
class Meter:
    """Counters as they were; :meth:`joules` says what was used since."""

    device: str
    rapl: Path = RAPL
    _processor: dict[Path, int] = field(default_factory=dict)
    _card: int | None = None

    def __post_init__(self) -> None:
        self._processor = _readings(self.rapl)
        self._card = _card_millijoules() if self.device == "cuda" else None

    def joules(self) -> dict[str, float]:
        """Return joules since the start by ``processor`` and ``gpu``; what cannot be read is not there."""
        found: dict[str, float] = {}
        now = _readings(self.rapl)
        if self._processor and now.keys() == self._processor.keys():
            used = sum(_since(path, before, now[path]) for path, before in self._processor.items())
            found["processor"] = round(used / 1e6, 3)
        card = _card_millijoules() if self._card is not None else None
        if card is not None and self._card is not None:
            found["gpu"] = round((card - self._card) / 1e3, 3)
        return found


def _readings(folder: Path) -> dict[Path, int]:
    """Return the microjoules of each package; nothing where one cannot be read (the kernel lets root alone)."""
    found: dict[Path, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for path in sorted(folder.iterdir()):
            if _PACKAGE.fullmatch(path.name):
                found[path] = int((path / "energy_uj").read_text(encoding="ascii"))
        return found
    return {}


def _since(path: Path, before: int, now: int) -> int:
    """Return microjoules between two readings; the counter begins again at its largest value."""
    if now >= before:
        return now - before
    return now + int((path / "max_energy_range_uj").read_text(encoding="ascii")) - before


def _card_millijoules() -> int | None:
    """Return the energy that the first GPU has used since its driver was loaded; None where NVML does not say."""
    with contextlib.suppress(Exception):  # no driver, a card without the counter: each has its own error
        nvml: Any = importlib.import_module("pynvml")  # NVIDIA's nvidia-ml-py
        nvml.nvmlInit()
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(0)))
    return None
