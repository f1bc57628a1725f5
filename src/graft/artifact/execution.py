"""The process settings under which equal inputs give equal bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from graft.errors import ResourceMissing, shown

# OpenMP's threads spin while they wait for each other; where another process wants the core, each of the thousand
# joins of a step then costs a time slice. Sleeping instead made a step 4 to 20 times faster on two busy cores. Read
# when torch is loaded, so it stands here, before any import of torch; it changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pick_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ResourceMissing: ``cuda`` is wanted and there is none; nothing falls back to the CPU silently.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ResourceMissing(
            f"training.device: {shown(wanted)}, but torch {torch.__version__} sees no CUDA device; set `auto` or "
            f"`cpu`, or install the CUDA build (README: Set-up)"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Run a block with pinned threads and deterministic kernels, its random numbers its own; then restore.

    The thread count decides in which order sums are taken, and with it the last bits of every result.
    """
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # cuBLAS is deterministic only with a fixed workspace; it reads this when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with contextlib.suppress(RuntimeError):  # can be set once per process, before the first parallel work
        torch.set_num_interop_threads(1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
