"""Base and adapter on the same rows: what lies below the lowest trained layer is run once for both.

The adapter's pass remembers, batch by batch, what its lowest trained layer read; the base's pass over the same batches
starts there. Both are whole passes of the model's own code on the same numbers, so every answer has the bytes that it
would have without; a batch that was not remembered (another one, or above the memory limit) runs whole.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.adapters import Trunk, UnfitError, frozen_layers, trunk_of, unfrozen

if TYPE_CHECKING:
    import torch

    from graft.artifact.loading import LoadedAdapter

KEPT_BYTES = 1 << 30


class SharedTrunk:
    """Remembers what the frozen layers below an adapter put out; does nothing where there are none."""

    looked_at = 4
    """How many rows it looks at before it is used."""

    def __init__(self, loaded: LoadedAdapter, rows: Sequence[Mapping[str, Any]], kept_bytes: int = KEPT_BYTES) -> None:
        """Look at the model on the first of the token ``rows``."""
        self.inner: Any = loaded.model.get_base_model()
        self.left_bytes = kept_bytes
        self.states: dict[bytes, torch.Tensor] = {}
        self.trunk: Trunk | None = None
        batch = loaded.task.collate(rows[: self.looked_at], loaded.pad_token_id, loaded.state)
        here = {name: value.to(loaded.device) for name, value in batch.items()}
        with _marked(loaded.model), contextlib.suppress(UnfitError):
            if frozen_layers(loaded.model).below:
                self.trunk = trunk_of(loaded.model, lambda: loaded.task.outputs(loaded.config, loaded.model, here))

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """Run a block in which the model runs whole, and what its trunk gives is kept."""
        with self._wrapped(self._remember):
            yield

    @contextlib.contextmanager
    def starting_there(self) -> Iterator[None]:
        """Run a block in which batches that were seen start at the lowest trained layer."""
        with self._wrapped(self._start):
            yield

    @contextlib.contextmanager
    def _wrapped(self, run: Any) -> Iterator[None]:
        if self.trunk is None:
            yield
            return
        own, forward = self.inner.__dict__.get("forward"), self.inner.forward

        def wrapped(*given: Any, **named: Any) -> Any:
            key = None if given else _key(named)
            return forward(*given, **named) if key is None else run(forward, key, named)

        self.inner.forward = wrapped
        try:
            with self.trunk.installed():
                yield
        finally:
            if own is None:
                del self.inner.forward
            else:
                self.inner.forward = own

    def _remember(self, forward: Any, key: bytes, named: dict[str, Any]) -> Any:
        assert self.trunk is not None
        found, states = forward(**named), self.trunk.seen()
        if key not in self.states and states.nbytes <= self.left_bytes:
            self.left_bytes -= states.nbytes
            self.states[key] = states.clone()
        return found

    def _start(self, forward: Any, key: bytes, named: dict[str, Any]) -> Any:
        assert self.trunk is not None
        states = self.states.get(key)
        if states is None:
            return forward(**named)
        with self.trunk.without(states):
            return forward(**named)


@contextlib.contextmanager
def _marked(model: Any) -> Iterator[None]:
    """Run a block in which what was trained says so: an adapter that was loaded is frozen like its base."""
    base = {id(one) for one in model.names_in_base.values()} - {id(one) for one in unfrozen(model).values()}
    own = [one for one in model.parameters() if not one.requires_grad and id(one) not in base]
    try:
        for one in own:
            one.requires_grad = True
        yield
    finally:
        for one in own:
            one.requires_grad = False


def _key(named: Mapping[str, Any]) -> bytes | None:
    """Return the digest of a batch; None where the model is given more than tensors and plain values."""
    import torch

    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(named.items()):
        if isinstance(value, torch.Tensor):
            found.update(f"{name}:{value.dtype}:{list(value.shape)}:".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, bool | int | float | str | None):
            found.update(f"{name}={value!r};".encode())
        else:
            return None
    return found.digest()
