"""What a frozen base puts out, computed once: every epoch of an output adapter or a probe starts at the head.

Where nothing below the head is trained, what the head reads is the same in each epoch, provided that the base drops
nothing: so the base's dropout is off for these methods. For each line of a batch (a row, a window of one, a chosen or a
rejected answer) the base runs once, in evaluation mode; what arrives at the head is kept, and from then on the model's
own ``forward`` runs with the parts below the head replaced by zeros and the head fed from the file. Tasks and loop
notice nothing: pooling of windows, gathering of last tokens and splitting into starts and ends run as they are.

A line is computed *alone*, without padding and without neighbours: then its vectors depend on nothing but the line, and
a training gives the same bytes whether they come from the file or are computed anew (a batch of another shape rounds
differently). The price is the first pass, which is slower than one in batches where lines are short (on a GPU, always);
``benchmarks/frozen.py`` measures what later epochs win.

The feed looks at the model from outside (a forward pre-hook on the head, a replaced ``forward`` of the parts below), so
that a later change can let it start at a frozen lower layer in place of the head.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters import trained_modules
from graft.identity import digest_json
from graft.tokenization import lengths_of
from graft.training.frozen_store import DIGEST_BYTES, VectorStore, Writer, opened, written
from graft.workspace import locked

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

    from graft.training.loop import Inputs

    Line = dict[str, Any]

LOCK_WAIT_SECONDS = 3600.0
CHECKED_ROWS = 4
TOLERANCE = 1e-3
"""Largest difference, relative to the largest value, between a batch's vectors and those of its lines alone."""
BFLOAT16_TOLERANCE = 0.1
SHORT_TOKENS = 128
RECENT_LINES = 256
"""Lines that are kept in memory: a task may ask for the same line twice, with the adapter and without."""
Plain = bool | int | float | str


class _CaughtError(Exception):
    """Ends a forward pass at the head."""


class _UnfitError(Exception):
    """Why a model cannot be fed."""


@dataclass
class Feed:
    """A model whose head is fed; installed on it by :func:`fed`."""

    model: PeftModel
    heads: Sequence[nn.Module]
    """The trained modules; the first that a forward pass reaches is fed."""
    store: VectorStore | None = None
    writer: Writer | None = None
    served: int = 0
    computed: int = 0
    pooled: bool = True
    """Whether the head reads one vector per line, not one per position."""
    vector_bytes: int = 0
    _read_by: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    _recent: dict[bytes, torch.Tensor] = field(default_factory=dict)
    _stop: bool = False
    _fed: torch.Tensor | None = None
    _below: dict[nn.Module, Any] = field(default_factory=dict)
    """The parts below the head -> zeros in the form of what they return."""
    _off: bool = True

    def __post_init__(self) -> None:
        self.inner: Any = self.model.get_base_model()
        self._forward = self.inner.forward

    def release(self) -> None:
        """Forget what was computed lately."""
        self._recent.clear()

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the model's own forward, its head fed where the batch can be taken apart into lines."""
        lines = None if self._off or arguments else lines_of(named, self.inner.config)
        if lines is None:
            return self._forward(*arguments, **named)
        self._fed = _joined([self.vectors(line) for line in lines], named).to(self.inner.device)
        replaced = {part: part.__dict__.get("forward") for part in self._below}
        try:
            for part, zeros in self._below.items():
                part.forward = _returning(zeros)
            return self._forward(**named)
        finally:
            self._fed = None
            for part, own in replaced.items():
                _put_back(part, own)

    def vectors(self, line: Line) -> torch.Tensor:
        """Return what the head reads of a line, [1, D] or [1, n, D]: kept, or computed now."""
        key = digest(line)
        found = self.store.get(key) if self.store else None
        if found is not None:
            self.served += 1
            return found if self.pooled else found[None]
        if key not in self._recent:
            if len(self._recent) == RECENT_LINES:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = self.compute(line)
            if self.writer is not None and key not in self.writer.ends:
                self.writer.add(key, self._recent[key].flatten(0, -2))
        return self._recent[key]

    def compute(self, line: Line) -> torch.Tensor:
        """Run the base on a line alone, in evaluation mode, up to the head."""
        import torch

        modes = [part for part in self.inner.modules() if part.training]
        self.inner.eval()
        self._stop, self.computed = True, self.computed + 1
        try:
            with torch.no_grad(), _threads_for(line):
                self._forward(**{name: _on(value, self.inner.device) for name, value in line.items()})
        except _CaughtError:
            pass
        finally:
            self._stop = False
            for part in modes:
                part.training = True
        return self._read_by.pop(self.heads[0]).detach().cpu()

    def note(self, head: nn.Module, arguments: tuple[Any, ...]) -> Any:
        """Note what a trained module reads, or give the first one what it is to read (its forward pre-hook)."""
        if self._fed is not None and head is self.heads[0]:
            arguments = (self._fed.to(arguments[0].dtype), *arguments[1:])
        self._read_by[head] = arguments[0]
        if self._stop and head is self.heads[0]:
            raise _CaughtError
        return arguments

    def learn(self, inputs: Inputs) -> None:
        """Find out what lies below the head, on a few rows, and hold the fed model against the real one.

        Raises:
            _UnfitError: the model cannot be fed.
        """
        batch = _batch(inputs, inputs.train_rows[:CHECKED_ROWS])
        real = self._watched(inputs, batch)
        if not real or not self._below:
            raise _UnfitError("nothing lies below its head")
        self.heads = [*real, *(head for head in self.heads if head not in real)]
        vectors = real[self.heads[0]]
        self.pooled, self.vector_bytes = vectors.ndim == 2, vectors.shape[-1] * vectors.dtype.itemsize
        if vectors.ndim not in (2, 3):
            raise _UnfitError(f"its head reads {vectors.ndim} dimensions")
        self._off, below = False, self._below
        try:
            fed = self._watched(inputs, batch)
        except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _UnfitError(f"it does not run without the parts below ({error})") from None
        self._below = below
        if fed.keys() != real.keys() or not all(_agree(fed[head], real[head]) for head in real):
            raise _UnfitError("what its head reads depends on the other rows of a batch, or comes from two places")

    def _watched(self, inputs: Inputs, batch: Mapping[str, torch.Tensor]) -> dict[nn.Module, torch.Tensor]:
        """Return what each trained module reads in a batch, the first one first; note what the parts below return."""
        import torch

        below: dict[nn.Module, Any] = {}
        hooks = [
            part.register_forward_hook(lambda one, _, out: below.__setitem__(one, _zeros_like(out)))
            for part in self._parts_below(self.inner)
        ]
        self._read_by.clear()
        try:
            with torch.no_grad():
                inputs.task.outputs(inputs.task_config, self.model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        self._below = below
        found = dict(self._read_by)
        self._read_by.clear()
        return found

    def _parts_below(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the largest parts that have weights and hold no trained module."""
        for part in module.children():
            if part in self.heads:
                continue
            if any(inner in self.heads for inner in part.modules()):
                yield from self._parts_below(part)
            elif any(True for _ in part.parameters()):
                yield part

    def expected_bytes(self, inputs: Inputs) -> int:
        """Return what the vectors of all rows take, about: one per row, or one per token."""
        splits = inputs.train_rows, inputs.validation_rows
        # One vector a row needs no look at the rows: those of pictures would all be read from the disk.
        return self.vector_bytes * sum(len(rows) if self.pooled else sum(lengths_of(rows)) for rows in splits)

    def facts(self) -> dict[str, Any]:
        """Return what the file cost and saved, for the training's summary."""
        if self.store is None:
            return {"lines": 0, "bytes": 0, "computed_lines": self.computed, "seconds_saved": 0.0}
        each = self.store.seconds / max(1, len(self.store.places))
        return {
            "lines": len(self.store.places),
            "bytes": self.store.size_bytes,
            "computed_lines": self.computed,
            "served_lines": self.served,
            "seconds_to_compute": round(self.store.seconds, 3),
            "seconds_saved": round(each * (self.served - self.computed), 3),
        }


@contextlib.contextmanager
def starting_at_the_head(inputs: Inputs, folder: Path, made_of: Mapping[str, Any]) -> Iterator[Feed | None]:
    """Run a block, a training, with the model's head fed; None where the model cannot be.

    Args:
        inputs: what the training reads; nothing below the head may be trained.
        folder: where such files are kept, by key.
        made_of: what decides the vectors beside the head's name: base, task, rows, device, threads, versions (JSON).
    """
    heads = trained_modules(inputs.model)
    feed = Feed(inputs.model, heads)
    own = feed.inner.__dict__.get("forward")
    hooks = [head.register_forward_pre_hook(feed.note) for head in heads]
    feed.inner.forward = feed.forward
    try:
        try:
            feed.learn(inputs)
        except _UnfitError as reason:
            print(f"train: the base runs in each epoch: this model cannot be fed at its head: {reason}", flush=True)
            feed.release()
            yield None
            return
        names = {part: name for name, part in feed.inner.named_modules()}
        key = digest_json({**made_of, "head": [names[head] for head in feed.heads]})[:32]
        _open_or_fill(feed, inputs, folder / key)
        yield feed
    finally:
        for hook in hooks:
            hook.remove()
        _put_back(feed.inner, own)


def _open_or_fill(feed: Feed, inputs: Inputs, folder: Path) -> None:
    """Give ``feed`` its store: the one that is there, or a new one; none where it would be too large."""
    limit, expected = inputs.config.frozen_cache_bytes, feed.expected_bytes(inputs)
    shown = f"{expected / 1e6:,.1f} MB"
    if expected > limit:
        print(
            f"train: nothing below the head is trained; its base outputs (about {shown}) are above "
            f"training.frozen_cache_bytes and are computed anew in each epoch",
            flush=True,
        )
        return
    with locked(folder.with_name(f"{folder.name}.lock"), purpose="base outputs", wait_seconds=LOCK_WAIT_SECONDS):
        feed.store = opened(folder)
        done = "taken from"
        if feed.store is None:
            _fill(feed, inputs, folder)
            feed.store, done = opened(folder), "computed once, kept in"
    if feed.store is not None:
        feed.release()
        print(
            f"train: nothing below the head is trained: base outputs of {len(feed.store.places)} lines "
            f"({feed.store.size_bytes / 1e6:,.1f} MB) {done} .graft/store/{folder.parent.name}/{folder.name} "
            f"({feed.store.seconds:.1f} s); dropout of the base is off",
            flush=True,
        )


def _fill(feed: Feed, inputs: Inputs, folder: Path) -> None:
    """Compute the lines of all training and validation rows."""
    import torch

    started = time.perf_counter()
    size = inputs.config.batch_rows
    with written(folder) as writer, torch.inference_mode():
        feed.writer = writer
        feed.release()
        try:
            for rows in (inputs.train_rows, inputs.validation_rows):
                for start in range(0, len(rows), size):
                    batch = _batch(inputs, rows[start : start + size])
                    inputs.task.outputs(inputs.task_config, inputs.model, batch)
        finally:
            feed.writer = None
        writer.seconds = time.perf_counter() - started


def lines_of(named: Mapping[str, Any], config: Any) -> list[Line] | None:
    """Return the lines of a batch, each alone and without padding; None where the batch is of another kind.

    ``named`` are the model's arguments: tensors whose first dimension is the line, and plain values. What is padded on
    the left, or padded at all without a mask, stays together.
    """
    import torch

    tensors = {
        name: value.cpu() for name, value in named.items() if isinstance(value, torch.Tensor) and name != "labels"
    }
    plain = {name: value for name, value in named.items() if name not in tensors and name != "labels"}
    counts = {len(value) if value.ndim else 0 for value in tensors.values()}
    if len(counts) != 1 or not all(counts) or any(not isinstance(value, Plain | None) for value in plain.values()):
        return None
    mask = tensors.get("attention_mask")
    if mask is not None and (mask.ndim != 2 or bool((mask[:, 1:] > mask[:, :-1]).any())):
        return None
    lengths = None if mask is None else mask.sum(1).tolist()
    decoded = _decoded_lengths(tensors, config)
    lines = [
        {**plain, **{name: _cut(name, value, row, lengths, decoded, mask) for name, value in tensors.items()}}
        for row in range(counts.pop())
    ]
    return [_without_default_types(line, config) for line in lines]


def _without_default_types(line: Line, config: Any) -> Line:
    """Leave out token types that are all 0, the default: a batch has them for all rows where one needs them."""
    types = line.get("token_type_ids")
    if types is None or not hasattr(config, "type_vocab_size") or bool(types.any()):
        return line
    return {name: value for name, value in line.items() if name != "token_type_ids"}


def _cut(name: str, value: Any, row: int, lengths: Any, decoded: Any, mask: Any) -> Any:
    one = value[row : row + 1]
    if name.startswith("decoder_"):
        return one[:, : decoded[row]] if decoded and value.ndim > 1 else one
    return one[:, : lengths[row]] if lengths and value.ndim > 1 and value.shape[1] == mask.shape[1] else one


def _decoded_lengths(tensors: Mapping[str, torch.Tensor], config: Any) -> list[int] | None:
    """Return how long each line is on the decoder's side: what fills it up at its end changes nothing before it."""
    import torch

    ids = tensors.get("decoder_input_ids")
    if ids is None:
        return None
    mask = tensors.get("decoder_attention_mask")
    kept = mask.bool() if mask is not None else ids != config.pad_token_id
    places = kept * torch.arange(1, kept.shape[1] + 1)
    return [max(1, int(length)) for length in places.max(1).values.tolist()]


def digest(line: Line) -> bytes:
    """Return the digest of a line's inputs."""
    import torch

    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(line):
        value = line[name]
        if isinstance(value, torch.Tensor):
            found.update(f"{name}:{value.dtype}:{list(value.shape)}:".encode())
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        else:
            found.update(f"{name}={value!r};".encode())
    return found.digest()


def _joined(vectors: Sequence[torch.Tensor], named: Mapping[str, Any]) -> torch.Tensor:
    """Return the lines' vectors as a batch: [B, D], or [B, T, D] with zeros where a line is shorter than the batch."""
    import torch

    if vectors[0].ndim == 2:
        return torch.cat(list(vectors))
    sides = [named[name].shape[1] for name in ("decoder_input_ids", "attention_mask") if named.get(name) is not None]
    width = sides[0] if sides else vectors[0].shape[1]
    result = vectors[0].new_zeros(len(vectors), width, vectors[0].shape[-1])
    for row, one in enumerate(vectors):
        result[row, : one.shape[1]] = one[0]
    return result


def _agree(fed: torch.Tensor, real: torch.Tensor) -> bool:
    """Return whether what is fed is what a batch computes, up to rounding; filled-up positions are zero in ``fed``."""
    import torch

    if fed.shape != real.shape:
        return False
    kept = fed.abs().sum(-1) > 0
    allowed = BFLOAT16_TOLERANCE if real.dtype == torch.bfloat16 else TOLERANCE
    difference = (fed[kept].float() - real[kept].float()).abs()
    return not difference.numel() or float(difference.max()) <= allowed * max(
        1.0, float(real[kept].float().abs().max())
    )


def _batch(inputs: Inputs, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    found = inputs.task.collate(rows, inputs.pad_token_id, inputs.state)
    return {name: value.to(inputs.device) for name, value in found.items()}


def _zeros_like(value: Any) -> Any:
    """Return a part's output with zeros of one row and one position in place of its tensors; None for other values."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.new_zeros([1] * (value.ndim - 1) + [value.shape[-1]])
    if isinstance(value, Mapping):
        return type(value)(**{name: _zeros_like(one) for name, one in value.items()})
    return type(value)(map(_zeros_like, value)) if type(value) in (tuple, list) else None


def _returning(value: Any) -> Any:
    def forward(*_: Any, **__: Any) -> Any:
        return value

    return forward


def _put_back(module: Any, own: Any) -> None:
    """Give ``module`` back the ``forward`` of its own that it had, or that of its class."""
    if own is None:
        module.__dict__.pop("forward", None)
    else:
        module.forward = own


@contextlib.contextmanager
def _threads_for(line: Line) -> Iterator[None]:
    """Run a short line on one thread: its products are too small to share, and threads would wait for each other."""
    import torch

    before = torch.get_num_threads()
    short = all(value.numel() <= SHORT_TOKENS for value in line.values() if isinstance(value, torch.Tensor))
    torch.set_num_threads(1 if short else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(value: Any, device: Any) -> Any:
    import torch

    return value.to(device) if isinstance(value, torch.Tensor) else value
