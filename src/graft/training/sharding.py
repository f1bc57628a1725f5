"""The layers of a frozen base split over the ranks (FSDP2, ``fully_shard``; Zhao et al., 2023).

Each rank keeps its part of every layer, and all of them put a layer together when it runs, forward and backward. What
is trained stays whole on each rank, as do embeddings and head: the adapter is small, its gradients are added as without
sharding, and optimizer, checkpoints and the saved adapter know nothing of this. Moving parts of weights rounds nothing:
the bits are those of the same products without sharding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from graft.adapters import Procedure, layer_lists, procedure_of
from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    from peft import PeftModel

    from graft.training.ranks import Ranks

Piece = TypeVar("Piece")


def shard(model: PeftModel, device: str, size: int) -> None:
    """Split the layers of the base under ``model`` over all ranks, in place, and move the model to ``device``.

    Raises:
        ConfigError: the base has no list of layers, or its method changes weights of the base at the end.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = [layer for stack in layer_lists(model.get_base_model()) for layer in stack]
    if not layers or type(procedure_of(model)) is not Procedure:
        method = model.peft_config[model.active_adapter].peft_type.lower()
        what = f"adapter.method {shown(method)} needs the whole base" if layers else "this base has no list of layers"
        raise ConfigError(f"training.sharding: fsdp: {what}; set none")
    mesh = init_device_mesh(device, (size,))
    trained = {one for one in model.parameters() if one.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    model.to(device)


def evened(pieces: Iterable[Piece], spare: Iterable[Piece], ranks: Ranks) -> Iterator[tuple[Piece, bool]]:
    """Yield ``pieces``, which count, and then as many of ``spare`` that do not as make all ranks run equally often.

    Layers that are split over ranks need each of them each time.
    """
    if not ranks.sharded:
        yield from ((one, True) for one in pieces)
        return
    own = list(pieces)
    most = int(max(count for (count,) in ranks.exchange(len(own))))
    yield from ((one, True) for one in own)
    yield from ((one, False) for one in itertools.islice(itertools.cycle(own or spare), most - len(own)))
