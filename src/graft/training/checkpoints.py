"""Checkpoints that are either whole or not there.

transformers' Trainer ignores a missing optimizer file, does not see a flipped bit, and crashes on a truncated file.
Here a checkpoint is written beside its place, flushed to the disk, and renamed; its ``state.json`` holds the sha256 of
each file, the key of the training it belongs to, and a digest of itself. What does not check out is skipped with a
warning, and the one before it is taken. So is one that is ahead of the record of metrics: what is resumed has every
line of its curves.

Cost: one hash of the adapter and its moments per save, about 10 ms per 10 MB, in a thread beside the training
(``checkpoint_writer.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.identity import digest_file, digest_json
from graft.training.record import last_step

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]

KEPT = 2
FORMAT = 2
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A training after ``step``."""

    step: int
    tensors: Mapping[str, Tensors]
    """``weights``, the optimizer's moments, the best weights: each one file."""
    facts: Mapping[str, Any]
    """The loop's counters (JSON)."""


class _UnusableError(Exception):
    """Why a checkpoint folder is skipped."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in ``folder``; ``key`` says which training. One process at a time."""

    folder: Path
    key: str
    record: Path | None = None
    """The training's ``metrics.jsonl``."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all, and remove those before the last ``KEPT``.

        Raises:
            OSError: it cannot be written; those that were there are there still.
        """
        from safetensors import SafetensorError

        place = self.folder / f"step-{checkpoint.step:08d}"
        new = self.folder / f".{place.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            self._write(checkpoint, new)
            shutil.rmtree(place, ignore_errors=True)
            new.rename(place)
            _flush(self.folder)
        except SafetensorError as error:  # that is how safetensors says that the disk is full
            raise OSError(str(error)) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
        for old in self._places()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def _write(self, checkpoint: Checkpoint, new: Path) -> None:
        from safetensors.torch import save_file

        new.mkdir(parents=True)
        for name, tensors in checkpoint.tensors.items():
            save_file(dict(tensors), new / f"{name}.safetensors")
        files = {path.name: digest_file(path) for path in sorted(new.iterdir())}
        state = {"format": FORMAT, "key": self.key, "step": checkpoint.step, "facts": checkpoint.facts, "files": files}
        state["digest"] = digest_json(state)
        (new / STATE).write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
        for path in (*new.iterdir(), new):
            _flush(path)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that checks out; print a warning for each that does not."""
        for place in self._places():
            try:
                return self._read(place)
            except _UnusableError as reason:
                print(f"train: warning: checkpoint {place.name} skipped: {reason}", flush=True)
        return None

    def remove(self) -> None:
        """Remove all checkpoints of this training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _places(self) -> list[Path]:
        """Return the folders of finished checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True) if self.folder.is_dir() else []

    def _read(self, place: Path) -> Checkpoint:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        state = _state(place / STATE)
        if state.get("format") != FORMAT or state.get("key") != self.key:
            raise _UnusableError("it belongs to another training")
        if self.record is not None and last_step(self.record) < state["step"]:
            raise _UnusableError(f"{self.record.name} ends before its step")
        for name, digest in state["files"].items():
            with contextlib.suppress(OSError):
                if digest_file(place / name) == digest:
                    continue
            raise _UnusableError(f"{name} is damaged or missing")
        try:
            tensors = {Path(name).stem: load_file(place / name) for name in state["files"]}
        except SafetensorError as error:
            raise _UnusableError(str(error)) from None
        return Checkpoint(state["step"], tensors, state["facts"])


def _state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _UnusableError(f"{STATE} cannot be read ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.pop("digest", None) != digest_json(state):
        raise _UnusableError(f"{STATE} is damaged")
    return state


def _flush(path: Path) -> None:
    """Make the file's, or the folder's, content survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_leftovers(folder: Path) -> Iterator[Path]:
    """Remove and yield the unfinished folders that a killed process left in ``folder``."""
    for path in sorted(folder.glob(".step-*")) if folder.is_dir() else []:
        shutil.rmtree(path, ignore_errors=True)
        yield path
