"""Attention within the rows of a packed line, as a few products of equal shape, forward and backward.

Rows of like length share a *tile*: their queries, keys and values are copied into one block, as long as the longest of
them. Then

    P = softmax(s Q K' + hidden),    O = P V,
    dV = P' dO,    dS = s P * (dO V' - rowsum(P * dO V')),    dQ = dS K,    dK = dS' Q,

are products over the whole tile. What a tile has beyond its rows is zero, hidden from every token, and copied nowhere:
nothing but attention sees it.

Why so, for 16 bits on a CPU: torch's fused kernel takes two to ten times as long as plain products up to
:data:`LONGEST_TOKENS`. Softmax over a length that fills no vector runs number by number, at ten times the cost: over
fewer than 16 in float32, over what is no multiple of 32 in bfloat16. And oneDNN compiles a kernel for each new shape of
a bfloat16 product, which rows of any length never stop to bring. So short rows are multiplied in float32, where nothing
is compiled, at 16 tokens or more; long ones in their own type, in multiples of 32.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Hidden = Callable[[int, torch.dtype], torch.Tensor | None]

SHORT_TOKENS = 48
"""Up to this length products are in float32."""
VECTOR = 16
"""Tokens that a short tile has at least."""
MULTIPLE = 32
"""Of how many tokens a long tile has some multiple."""
ALIKE = 1.25
"""How many times the shortest row of a tile its longest may be."""
LONGEST_TOKENS = 512


@dataclass(frozen=True)
class Run:
    """Rows of one length that lie side by side in the line."""

    rows: int
    query_start: int
    query_length: int
    key_start: int
    key_length: int


@dataclass(frozen=True)
class Tile:
    """Runs whose rows share a block."""

    runs: tuple[Run, ...]
    query_length: int
    key_length: int

    @functools.cached_property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(run.rows for run in self.runs)

    @functools.cached_property
    def places(self) -> tuple[tuple[slice, Run], ...]:
        """Which of its rows each run is."""
        ends = list(itertools.accumulate(run.rows for run in self.runs))
        return tuple((slice(end - run.rows, end), run) for end, run in zip(ends, self.runs, strict=True))

    @functools.cached_property
    def looks_at_itself(self) -> bool:
        """Whether its rows are their own keys, and need no others."""
        return all((run.query_start, run.query_length) == (run.key_start, run.key_length) for run in self.runs)

    @property
    def is_short(self) -> bool:
        """Whether its products are in float32."""
        return max(self.query_length, self.key_length) <= SHORT_TOKENS


def tiles_of(blocks: Sequence[tuple[int, int, int]]) -> tuple[Tile, ...]:
    """Return the tiles of a line.

    Args:
        blocks: Rows, their length in queries, and that in keys, for each run of rows, in the order of the line.
    """
    found: list[list[Run]] = []
    query = key = 0
    for rows, queries, keys in blocks:
        run = Run(rows, query, queries, key, keys)
        if not found or not _are_alike([*found[-1], run]):
            found.append([])
        found[-1].append(run)
        query, key = query + rows * queries, key + rows * keys
    return tuple(Tile(tuple(runs), *_sides(runs)) for runs in found)


def _sides(runs: Sequence[Run]) -> tuple[int, int]:
    """Return how many queries and keys a tile of these runs has."""
    queries, keys = max(run.query_length for run in runs), max(run.key_length for run in runs)
    if max(queries, keys) > SHORT_TOKENS:
        return _rounded(queries), _rounded(keys)
    return 1 if queries == 1 < keys else max(VECTOR, queries), max(VECTOR, keys)


def _are_alike(runs: Sequence[Run]) -> bool:
    """Return whether runs can share a tile: one of its own would be as large, or nearly so."""
    whole = _sides(runs)
    return all(side <= ALIKE * own for run in runs for side, own in zip(whole, _sides([run]), strict=True))


def _rounded(length: int) -> int:
    return length if length == 1 else -(-length // MULTIPLE) * MULTIPLE


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tiles: Sequence[Tile],
    scaling: float,
    hidden: Hidden,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend within each row.

    Args:
        query: [N, H, D]; what follows the tiles' rows belongs to none, and attends to nothing.
        key: [M, H, D].
        value: [M, H, D].
        tiles: where the rows lie.
        scaling: what the products of queries and keys are multiplied by.
        hidden: of a length and a type, what is added to these products: [1, length, length]; None: nothing.
        dropout: the share of attention weights that are dropped.

    Returns:
        [N, H, D], contiguous.
    """
    import torch

    with torch.autocast(query.device.type, enabled=False):  # a tile chooses its type itself
        found: torch.Tensor = _function()(query, key, value, tiles, scaling, hidden, dropout)
    return found


@functools.cache
def _function() -> Any:
    import torch

    class Tiled(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            tiles: Sequence[Tile],
            scaling: float,
            hidden: Hidden,
            dropout: float,
        ) -> torch.Tensor:
            out = query.new_empty(query.shape)
            kept = []
            for tile in tiles:
                rows = _rows(query, key, value, tile)
                queries, keys, values = (one.to(_type(tile, query)) for one in rows)
                weights = _weights(queries, keys, tile, scaling, hidden)
                factors = torch.nn.functional.dropout(torch.ones_like(weights), dropout) if dropout else None
                used = weights if factors is None else weights * factors
                _scatter((out,), torch.bmm(used, values)[None], tile, of_keys=False)
                kept += [*rows, weights.to(query.dtype), factors]
            out[_end(tiles, of_keys=False) :] = 0
            ctx.save_for_backward(*kept)
            ctx.tiles, ctx.scaling, ctx.shapes = tiles, scaling, (query.shape, key.shape)
            return out

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            of_queries, of_keys = ctx.shapes
            itself = of_queries == of_keys and all(tile.looks_at_itself for tile in ctx.tiles)
            # Side by side, as what makes the three in one product reads them.
            d_query, d_key, d_value = (
                gradient.new_empty(of_queries[0], 3, *of_queries[1:]).unbind(1)
                if itself
                else (gradient.new_empty(of_queries), *gradient.new_empty(of_keys[0], 2, *of_keys[1:]).unbind(1))
            )
            kept = iter(ctx.saved_tensors)
            for tile in ctx.tiles:
                queries, keys, values, weights = (next(kept).to(_type(tile, gradient)) for _ in range(4))
                factors = next(kept)
                (d_out,) = (one.to(weights.dtype) for one in _gathered((gradient,), tile, of_keys=False))
                d_weights = torch.bmm(d_out, values.transpose(1, 2))
                used = weights
                if factors is not None:
                    used = weights * factors
                    d_weights.mul_(factors)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
                found = values.new_empty(3 if itself else 2, *values.shape)
                torch.bmm(used.transpose(1, 2), d_out, out=found[-1])
                torch.bmm(d_scores.transpose(1, 2), queries, out=found[-2])
                if itself:
                    torch.bmm(d_scores, keys, out=found[0])
                    _scatter((d_query, d_key, d_value), found, tile, of_keys=True)
                else:
                    _scatter((d_query,), torch.bmm(d_scores, keys)[None], tile, of_keys=False)
                    _scatter((d_key, d_value), found, tile, of_keys=True)
            d_query[_end(ctx.tiles, of_keys=False) :] = 0
            for one in (d_key, d_value):
                one[_end(ctx.tiles, of_keys=True) :] = 0
            return d_query, d_key, d_value, None, None, None, None

    return Tiled.apply


def _weights(
    queries: torch.Tensor,
    keys: torch.Tensor,
    tile: Tile,
    scaling: float,
    hidden: Hidden,
) -> torch.Tensor:
    """Return a tile's attention weights in the type of its products: [rows * H, queries, keys]."""
    import torch

    more = hidden(tile.key_length, queries.dtype)
    start = queries.new_empty(1, 1, 1) if more is None else more
    scores = torch.baddbmm(start, queries, keys.transpose(1, 2), beta=int(more is not None), alpha=scaling)
    by_row = scores.view(tile.rows, -1, *scores.shape[1:])
    for rows, run in tile.places:
        if run.key_length < tile.key_length:
            by_row[rows, :, :, run.key_length :] = torch.finfo(scores.dtype).min
    return scores.softmax(-1)


def _end(tiles: Sequence[Tile], *, of_keys: bool) -> int:
    """Return how many tokens the rows of all tiles have."""
    return sum(run.rows * (run.key_length if of_keys else run.query_length) for tile in tiles for run in tile.runs)


def side_by_side(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return tensors [N, ...] that lie side by side in the rows of one matrix as what they are of: [N, parts, ...].

    None where they do not.
    """
    first = parts[0]
    if len(parts) == 1:
        return first[:, None]
    size = first[0].numel()
    start, place = first.storage_offset(), first.untyped_storage().data_ptr()
    for number, one in enumerate(parts):
        if (
            one.shape != first.shape
            or one.stride() != first.stride()
            or one.storage_offset() != start + number * size
            or one.untyped_storage().data_ptr() != place
        ):
            return None
    if not first[0].is_contiguous() or first.stride(0) < len(parts) * size:
        return None
    return first.as_strided(
        (len(first), len(parts), *first.shape[1:]), (first.stride(0), size, *first.stride()[1:]), start
    )


def _part(line: torch.Tensor, run: Run, *, of_keys: bool) -> torch.Tensor:
    """Return the tokens of a run in a line [N, P, H, D]: [P, rows, H, length, D]."""
    start, length = (run.key_start, run.key_length) if of_keys else (run.query_start, run.query_length)
    tokens = line[start : start + run.rows * length]
    return tokens.view(run.rows, length, *line.shape[1:]).permute(2, 0, 3, 1, 4)


def _type(tile: Tile, line: torch.Tensor) -> torch.dtype:
    """Return the type of a tile's products; to convert rows to it while they are copied would take twice as long."""
    import torch

    return torch.float32 if tile.is_short else line.dtype


def _rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tile: Tile) -> Sequence[torch.Tensor]:
    """Copy a tile's queries, keys and values out of their lines."""
    if tile.looks_at_itself:
        return _gathered((query, key, value), tile, of_keys=True)
    return *_gathered((query,), tile, of_keys=False), *_gathered((key, value), tile, of_keys=True)


def _gathered(lines: Sequence[torch.Tensor], tile: Tile, *, of_keys: bool) -> Sequence[torch.Tensor]:
    """Copy a tile's rows out of lines [N, H, D]: each [rows * H, length, D]."""
    joined = side_by_side(lines)
    if joined is None:
        return [found for one in lines for found in _gathered((one,), tile, of_keys=of_keys)]
    length = tile.key_length if of_keys else tile.query_length
    heads, size = joined.shape[2:]
    block = joined.new_empty(len(lines), tile.rows, heads, length, size)
    for rows, run in tile.places:
        part = _part(joined, run, of_keys=of_keys)
        block[:, rows, :, : part.shape[3]] = part
        if part.shape[3] < length:
            block[:, rows, :, part.shape[3] :] = 0
    return block.flatten(1, 2).unbind()


def _scatter(lines: Sequence[torch.Tensor], blocks: torch.Tensor, tile: Tile, *, of_keys: bool) -> None:
    """Copy a tile's rows [lines, rows * H, length, D] to their places in lines [N, H, D] that lie side by side."""
    joined = side_by_side(lines)
    assert joined is not None
    by_row = blocks.to(joined.dtype).view(len(blocks), tile.rows, -1, *blocks.shape[2:])
    for rows, run in tile.places:
        part = _part(joined, run, of_keys=of_keys)
        part.copy_(by_row[:, rows, :, : part.shape[3]])
