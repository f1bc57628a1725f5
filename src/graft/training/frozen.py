"""What a frozen base puts out below the lowest trained layer, computed once: every epoch starts there.

Where adapters sit in upper layers only, or on the head, what the lowest trained layer reads is the same in each epoch,
provided that the layers below drop nothing: so dropout is off there. The rows go through these layers once, in batches
of like length; for each line of a batch (a row, a window of one, a chosen or a rejected answer) what arrives at the
lowest trained layer is kept, and from then on the model runs without its trunk (:mod:`graft.adapters.trunk`). Tasks and
loop notice nothing.

A line is found again by the digest of its inputs, so tasks call the model as they like: windows, pairs of answers, the
base with its adapter off. The kept numbers are those of the model's own type, unrounded. They depend on which rows
there are (a batch of another shape rounds differently), not on the order in which a training asks: a file that was
deleted comes back with the same bytes. A training above ``training.frozen_cache_bytes`` rounds differently from one
below; which of the two it is depends on the rows and the settings alone, so the limit is part of the identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.adapters import Trunk, UnfitError, frozen_layers, layer_lists, trunk_of
from graft.identity import digest_json
from graft.tokenization import lengths_of
from graft.training.frozen_store import DIGEST_BYTES, TooLargeError, VectorStore, Writer, opened, written
from graft.workspace import locked

if TYPE_CHECKING:
    import numpy as np
    import torch

    from graft.training.loop import Inputs

LOCK_WAIT_SECONDS = 3600.0
CHECKED_ROWS = 4
TOLERANCE = 1e-3
"""Largest difference, relative to the largest value, between a batch's states and those of its lines alone."""
BFLOAT16_TOLERANCE = 0.1
FILL_TOKENS = 2048
FILL_ROWS = 64
"""How much goes through the trunk at once in the first pass: it decides bytes, so it is no setting."""
Plain = bool | int | float | str


class _FilledError(Exception):
    """Ends a batch of the first pass: its lines are kept."""


@dataclass
class Feed:
    """A model that runs without its trunk; made by :func:`above_frozen_layers`."""

    inputs: Inputs
    trunk: Trunk
    store: VectorStore | None = None
    writer: Writer | None = None
    served: int = 0
    computed: int = 0
    pooled: bool = True
    """Whether states are one vector per line, not one per position."""
    positions: int | None = None
    """How many each line has, where that is the same for all: patches of a picture."""
    vector_bytes: int = 0

    def __post_init__(self) -> None:
        self.inner: Any = self.trunk.inner
        self._forward = self.inner.forward

    @property
    def at_head(self) -> bool:
        """Whether no layer is left to run: the head is fed."""
        layers = {id(one) for stack in layer_lists(self.inner) for one in stack}
        return id(self.trunk.place) not in layers and not self.trunk.gives

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the model's own forward, without its trunk where the batch can be taken apart into lines."""
        lines = None if arguments else lines_of(named, self.inner.config, encoder_alone=self.trunk.of_encoder)
        if lines is None:
            return self._forward(*arguments, **named)
        states = self.gathered(lines) if self.writer is None else self._filled(self.writer, lines, named)
        with self.trunk.without(states.to(self.inner.device)):
            return self._forward(**named)

    def gathered(self, lines: Lines) -> torch.Tensor:
        """Return the states of a batch of lines: [B, D], or [B, T, D] with zeros where a line is shorter."""
        import torch

        assert self.store is not None
        flat, found = self.store.vectors, []
        for row, key in enumerate(lines.keys()):
            place = self.store.places.get(key)
            if place is None:
                found.append(self.alone(lines.line(row)).flatten(0, -2))
            else:
                self.served += 1
                found.append(flat[place[0] : place[1]])
        if self.pooled:
            return torch.cat(found)
        width = lines.width or max(map(len, found))
        if all(len(one) == width for one in found):
            return torch.stack(found)
        result = flat.new_zeros(len(found), width, flat.shape[-1])
        for row, one in enumerate(found):
            result[row, : len(one)] = one
        return result

    def alone(self, line: Mapping[str, Any]) -> torch.Tensor:
        """Run the trunk on one line that is not in the store."""
        self.computed += 1
        with _evaluating(self.inner):
            return self._states({name: _on(value, self.inner.device) for name, value in line.items()}).cpu()

    def _states(self, named: Mapping[str, Any]) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self.trunk.states(lambda: self._forward(**named))

    def _filled(self, writer: Writer, lines: Lines, named: Mapping[str, Any]) -> torch.Tensor:
        """Run the trunk on a batch and keep its lines; ends the batch where the task does not ask the model again."""
        states = self._states(named)
        kept = states.cpu()
        for row, key in enumerate(lines.keys()):
            if key not in writer.ends:
                length = None if self.pooled else lines.length(row)
                writer.add(key, kept[row : row + 1] if self.pooled else kept[row, :length])
                self.computed += 1
        if self.trunk.calls == 1:
            raise _FilledError
        return states

    def learn(self) -> None:
        """Hold the states of a batch against those of its lines alone, on a few rows.

        Raises:
            UnfitError: they differ.
        """
        calls: list[dict[str, Any]] = []

        def note(*_: Any, **named: Any) -> Any:
            calls.append(named)
            return self._forward(**named)

        batch = _batch(self.inputs, self.inputs.train_rows[:CHECKED_ROWS])
        self.inner.forward = note
        try:
            self.inputs.task.outputs(self.inputs.task_config, self.inputs.model, batch)
        finally:
            self.inner.forward = self._forward
        for named in calls:
            lines, states = lines_of(named, self.inner.config, encoder_alone=self.trunk.of_encoder), self._states(named)
            if lines is None:
                raise UnfitError("its batches cannot be taken apart into lines")
            if states.ndim not in (2, 3):
                raise UnfitError(f"its lowest trained layer reads {states.ndim} dimensions")
            self.pooled = states.ndim == 2
            self.positions = None if self.pooled or lines.lengths else states.shape[1]
            self.vector_bytes = states.shape[-1] * states.dtype.itemsize
            for row in range(len(states)):
                together = states[row : row + 1] if self.pooled else states[row, : lines.length(row)]
                alone = self.alone(lines.line(row)).flatten(0, -2)
                if not _agree(together.cpu(), alone):
                    raise UnfitError("what its lowest trained layer reads depends on the other rows of a batch")
        self.computed = 0

    def expected_bytes(self) -> int:
        """Return what the states of all rows take, about: one vector per row, or one per token."""
        splits = self.inputs.train_rows, self.inputs.validation_rows
        # One vector a row needs no look at the rows: those of pictures would all be read from the disk.
        each = 1 if self.pooled else self.positions
        count = sum(map(len, splits)) * each if each else sum(sum(lengths_of(rows)) for rows in splits)
        return self.vector_bytes * count

    def facts(self) -> dict[str, Any]:
        """Return what the file cost and saved, for the training's summary."""
        assert self.store is not None
        return {
            "layers": self.trunk.layers,
            "lines": len(self.store.places),
            "bytes": self.store.size_bytes,
            "computed_lines": self.computed,
            "served_lines": self.served,
            "seconds_to_compute": round(self.store.seconds, 3),
        }


@contextlib.contextmanager
def above_frozen_layers(inputs: Inputs, folder: Path, made_of: Mapping[str, Any]) -> Iterator[Feed | None]:
    """Run a block, a training, without the layers below the lowest trained one; None where the model runs whole.

    Args:
        inputs: what the training reads.
        folder: where such files are kept, by key.
        made_of: what decides the states beside the place: base, task, rows, device, threads, versions (JSON).
    """
    try:
        feed = _feed(inputs)
    except UnfitError as reason:
        if frozen_layers(inputs.model).below:
            print(f"train: the whole base runs in each epoch, frozen layers cannot be left out: {reason}", flush=True)
        yield None
        return
    inner = feed.inner
    own = inner.__dict__.get("forward")
    with feed.trunk.installed():
        try:
            if _open_or_fill(feed, folder, made_of):
                inner.forward = feed.forward
                yield feed
            else:
                yield None
        finally:
            if own is None:
                inner.__dict__.pop("forward", None)
            else:
                inner.forward = own


def _feed(inputs: Inputs) -> Feed:
    import torch

    if not frozen_layers(inputs.model).below:
        raise UnfitError("nothing lies below what is trained")
    batch = _batch(inputs, inputs.train_rows[:CHECKED_ROWS])
    with _evaluating(inputs.model), torch.no_grad():
        trunk = trunk_of(inputs.model, lambda: inputs.task.outputs(inputs.task_config, inputs.model, batch))
        feed = Feed(inputs, trunk)
        with trunk.installed():
            feed.learn()
    for part in trunk.below:
        for one in part.modules():
            if isinstance(one, torch.nn.Dropout):
                one.p = 0.0
    return feed


def _open_or_fill(feed: Feed, folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Give ``feed`` its store, the one that is there or a new one; False where it would be too large."""
    names = {part: name for name, part in feed.inner.named_modules()}
    key = digest_json({**made_of, "place": names[feed.trunk.place], "batches": [FILL_TOKENS, FILL_ROWS]})[:32]
    place, limit = folder / key, feed.inputs.config.frozen_cache_bytes
    told = f"{feed.trunk.layers} frozen layers lie below all that is trained"
    expected = feed.expected_bytes()
    try:
        if expected > limit:
            raise TooLargeError(expected)
        with locked(place.with_name(f"{key}.lock"), purpose="base outputs", wait_seconds=LOCK_WAIT_SECONDS):
            feed.store = opened(place)
            done = "taken from"
            if feed.store is None:
                _fill(feed, place, limit)
                feed.store, done = opened(place), "computed once, kept in"
    except TooLargeError as error:
        print(
            f"train: {told}; their outputs (about {error.size_bytes / 1e6:,.1f} MB) are above "
            f"training.frozen_cache_bytes and are computed anew in each epoch",
            flush=True,
        )
        return False
    assert feed.store is not None
    print(
        f"train: {told}: outputs of {len(feed.store.places)} lines ({feed.store.size_bytes / 1e6:,.1f} MB) {done} "
        f".graft/store/{folder.name}/{key} ({feed.store.seconds:.1f} s); dropout below is off",
        flush=True,
    )
    return True


def _fill(feed: Feed, place: Path, limit: int) -> None:
    """Run the trunk on all training and validation rows, in batches of like length, the longest first."""
    import torch

    inputs, started = feed.inputs, time.perf_counter()
    splits = inputs.train_rows, inputs.validation_rows
    lengths = [(length, split, row) for split in (0, 1) for row, length in enumerate(lengths_of(splits[split]))]
    lengths.sort(key=lambda one: (-one[0], one[1], one[2]))
    own = feed.inner.__dict__.get("forward")
    with written(place, limit) as writer, _evaluating(inputs.model), torch.inference_mode():
        feed.writer, feed.inner.forward = writer, feed.forward
        try:
            for chosen in _in_batches(lengths):
                batch = _batch(inputs, [splits[split][row] for _, split, row in chosen])
                with contextlib.suppress(_FilledError):
                    inputs.task.outputs(inputs.task_config, inputs.model, batch)
        finally:
            feed.writer = None
            if own is None:
                del feed.inner.forward
            else:
                feed.inner.forward = own
        writer.seconds = time.perf_counter() - started


def _in_batches(lengths: Sequence[tuple[int, int, int]]) -> Iterator[Sequence[tuple[int, int, int]]]:
    """Yield the rows of each batch of the first pass; ``lengths`` fall."""
    start = 0
    while start < len(lengths):
        count = max(1, min(FILL_ROWS, FILL_TOKENS // max(1, lengths[start][0])))
        yield lengths[start : start + count]
        start += count


@dataclass
class Lines:
    """The lines of a model's batch, each as it would be alone and without padding."""

    tensors: Mapping[str, torch.Tensor]
    """The model's arguments whose first dimension is the line, on the CPU."""
    plain: Mapping[str, Any]
    """Its other arguments."""
    lengths: Sequence[int] | None
    """How many positions are a line's own; None where all are."""
    decoded: Sequence[int] | None
    """The same on the decoder's side of an encoder-decoder."""
    encoder_alone: bool
    types_default: bool
    """Whether token types that are all 0 say nothing: a batch has them for all rows where one needs them."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        plain = {
            name: value.view(torch.int16) if value.dtype == torch.bfloat16 else value
            for name, value in sorted(self.tensors.items())
        }
        self.arrays = {name: value.numpy() for name, value in plain.items()}
        self.padded = self.tensors["attention_mask"].shape[1] if self.lengths else 0

    @property
    def width(self) -> int | None:
        """How many positions a line of the batch has, padding included, where that is known."""
        if self.decoded is not None and not self.encoder_alone:
            return self.tensors["decoder_input_ids"].shape[1]
        return self.padded or None

    def length(self, row: int) -> int | None:
        """Return how many states are a line's own; None: all."""
        lengths = self.decoded if self.decoded is not None and not self.encoder_alone else self.lengths
        return None if lengths is None else lengths[row]

    def _end(self, name: str, row: int) -> int | None:
        """Return where a line ends in an argument."""
        value = self.tensors[name]
        if value.ndim == 1:
            return None
        if name.startswith("decoder_"):
            return None if self.decoded is None else self.decoded[row]
        return self.lengths[row] if self.lengths and value.shape[1] == self.padded else None

    def line(self, row: int) -> dict[str, Any]:
        """Return the arguments of a line alone."""
        found = {name: value[row : row + 1] for name, value in self.tensors.items()}
        ends = {name: self._end(name, row) for name in found}
        found = {name: value if ends[name] is None else value[:, : ends[name]] for name, value in found.items()}
        if self.types_default and "token_type_ids" in found and not bool(found["token_type_ids"].any()):
            del found["token_type_ids"]
        return {**self.plain, **found}

    def keys(self) -> Iterator[bytes]:
        """Yield the digest of each line's inputs."""
        plain = repr(sorted((name, value) for name, value in self.plain.items())).encode()
        for row in range(len(next(iter(self.arrays.values())))):
            found = hashlib.blake2b(plain, digest_size=DIGEST_BYTES)
            for name, array in self.arrays.items():
                if self.encoder_alone and name.startswith("decoder_"):
                    continue
                end = self._end(name, row)
                one = array[row] if end is None else array[row, :end]
                if self.types_default and name == "token_type_ids" and not one.any():
                    continue
                found.update(f"{name}:{one.dtype}:{one.shape}:".encode() + one.tobytes())
            yield found.digest()


def lines_of(named: Mapping[str, Any], config: Any, *, encoder_alone: bool = False) -> Lines | None:
    """Return the lines of a batch; None where the batch is of another kind.

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
    return Lines(tensors, plain, lengths, decoded, encoder_alone, hasattr(config, "type_vocab_size"))


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


def _agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two computations of the same states differ by rounding alone."""
    import torch

    if one.shape != other.shape:
        return False
    allowed = BFLOAT16_TOLERANCE if one.dtype == torch.bfloat16 else TOLERANCE
    difference = float((one.float() - other.float()).abs().max())
    return difference <= allowed * max(1.0, float(one.float().abs().max()))


def _batch(inputs: Inputs, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    found = inputs.task.collate(rows, inputs.pad_token_id, inputs.state)
    return {name: value.to(inputs.device) for name, value in found.items()}


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Run a block with ``model`` in evaluation mode, then put each part back into its own."""
    modes = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in modes:
            part.training = True


def _on(value: Any, device: Any) -> Any:
    import torch

    return value.to(device) if isinstance(value, torch.Tensor) else value
