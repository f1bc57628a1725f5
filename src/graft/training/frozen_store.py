"""Vectors that were computed once, on disk: a flat file that is mapped, and an index by content.

A line (one row of a model's batch) is found by the digest of its inputs, so whoever asks needs no row numbers. The
folder is whole or not there: it is written beside its place and renamed, and its ``state.json`` holds size and sha256
of both files. What does not check out (a cut or changed file) is reported and computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import ConfigError
from graft.identity import digest_file
from graft.workspace import read_json, replaced, write_json

if TYPE_CHECKING:
    import torch

FORMAT = 2
STATE = "state.json"
VECTORS = "vectors.bin"
INDEX = "index.safetensors"
DIGEST_BYTES = 16


class TooLargeError(Exception):
    """The vectors take more of the disk than they may."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


@dataclass
class VectorStore:
    """The vectors of lines, in a mapped file."""

    folder: Path
    vectors: torch.Tensor
    """All of them, [N, D]; read from the disk where they are looked at."""
    seconds: float
    """How long they took to compute."""
    places: dict[bytes, tuple[int, int]]
    """Digest of a line -> its first vector and the one after its last."""

    @property
    def size_bytes(self) -> int:
        """Size of the vectors' file."""
        return self.vectors.nbytes


def opened(folder: Path) -> VectorStore | None:
    """Return the store in ``folder``; None where there is none, or it is damaged (which is printed)."""
    if not folder.is_dir():
        return None
    try:
        return _read(folder)
    except (ConfigError, OSError, KeyError, TypeError, ValueError) as error:
        print(f"train: warning: kept base outputs {folder.name[:12]} are damaged ({error}): computed again", flush=True)
        return None


def _read(folder: Path) -> VectorStore:
    import torch
    from safetensors.numpy import load_file

    state = read_json(folder / STATE)
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}")
    for name, known in state["files"].items():
        if (folder / name).stat().st_size != known["bytes"] or digest_file(folder / name) != known["sha256"]:
            raise ValueError(f"{name} differs from {STATE}")
    index = load_file(folder / INDEX)
    digests, ends = index["digests"], index["ends"].tolist()
    starts = [0, *ends[:-1]]
    places = {digests[row].tobytes(): (starts[row], ends[row]) for row in range(len(ends))}
    shape = ends[-1], state["width"]
    mapped = torch.from_file(
        str(folder / VECTORS), shared=False, size=shape[0] * shape[1], dtype=getattr(torch, state["dtype"])
    )
    return VectorStore(folder, mapped.view(shape), state["seconds"], places)


@dataclass
class Writer:
    """Appends vectors to a new store; see :func:`written`."""

    folder: Path
    limit_bytes: int
    seconds: float = 0.0
    size_bytes: int = 0
    dtype: str = ""
    width: int = 0
    ends: dict[bytes, int] = field(default_factory=dict)
    """Digest of a line -> the vector after its last, in order."""
    count: int = 0

    def add(self, digest: bytes, vectors: torch.Tensor) -> None:
        """Append the vectors [n, D] of a line.

        Raises:
            TooLargeError: they would be more than ``limit_bytes``.
        """
        import torch

        self.dtype, self.width = str(vectors.dtype).removeprefix("torch."), vectors.shape[1]
        content = vectors.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        self.size_bytes += len(content)
        if self.size_bytes > self.limit_bytes:
            raise TooLargeError(self.size_bytes)
        self.file.write(content)
        self.count += len(vectors)
        self.ends[digest] = self.count

    def finish(self) -> None:
        """Write index and state."""
        import numpy as np
        from safetensors.numpy import save_file

        self.file.close()
        digests = np.frombuffer(b"".join(self.ends), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        save_file({"digests": digests, "ends": np.array(list(self.ends.values()), np.int64)}, self.folder / INDEX)
        files = {
            name: {"bytes": (self.folder / name).stat().st_size, "sha256": digest_file(self.folder / name)}
            for name in (VECTORS, INDEX)
        }
        facts = {"dtype": self.dtype, "width": self.width, "seconds": self.seconds}
        write_json(self.folder / STATE, {"format": FORMAT, **facts, "files": files})

    def __post_init__(self) -> None:
        self.file = (self.folder / VECTORS).open("wb")


@contextlib.contextmanager
def written(folder: Path, limit_bytes: int) -> Iterator[Writer]:
    """Yield a writer whose store takes its place at ``folder`` when the block ends well."""
    with replaced(folder) as new:
        writer = Writer(new, limit_bytes)
        try:
            yield writer
            writer.finish()
        finally:
            writer.file.close()
