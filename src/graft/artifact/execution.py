"""The process settings under which equal inputs give equal bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from graft.errors import ResourceMissing, shown

# OpenMP's threads spin for milliseconds while they wait for each other; where another process wants the core, each of
# the thousand joins of a step then costs a time slice. Spinning for microseconds and then sleeping made a step 4 to 10
# times faster on two busy cores, and costs nothing on idle ones. Read when torch is loaded, so it stands here, before
# any import of torch; it changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# oneDNN compiles a product of matrices for its shape when it first comes (1 to 2 ms) and keeps 1024 of them; rows of
# many lengths bring more, which would push each other out in every epoch.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

PLAIN_ATTENTION_TOKENS = 256


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


def attention(device: str, max_length_tokens: int) -> dict[str, str]:
    """Return how the base computes attention, as arguments of ``from_pretrained``.

    On a CPU, plain products of short rows: torch's fused kernel takes half of a bfloat16 step there (1.55 times the
    time per step of 37 tokens a row). It needs memory for every pair of tokens, so long rows keep the model's default.
    """
    plain = device == "cpu" and max_length_tokens <= PLAIN_ATTENTION_TOKENS
    return {"attn_implementation": "eager"} if plain else {}


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Run a block with pinned threads and deterministic kernels, its random numbers its own; then restore.

    The thread count decides in which order sums are taken, and with it the last bits of every result.
    """
    import torch

    filling: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    # cuBLAS is deterministic only with a fixed workspace; it reads this when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with contextlib.suppress(RuntimeError):  # can be set once per process, before the first parallel work
        torch.set_num_interop_threads(1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor twice
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        filling.fill_uninitialized_memory = before[2]
