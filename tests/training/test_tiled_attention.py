"""Attention by tiles against torch's own, row by row: what comes out, and all gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from graft.training.packing import _hidden
from graft.training.tiled_attention import ALIKE, SHORT_TOKENS, attend, side_by_side, tiles_of

HEADS, SIZE = 3, 8
CASES: dict[str, list[tuple[int, int, int]]] = {
    "shorter than a vector": [(1, 1, 1), (2, 3, 3), (4, 15, 15)],
    "exact": [(3, 16, 16)],
    "alike, and not": [(2, 17, 17), (1, 20, 20), (2, 21, 21), (3, 30, 30), (1, 48, 48)],
    "long": [(1, 49, 49), (2, 64, 64), (1, 70, 70), (1, 129, 129)],
    "one query a row": [(2, 1, 1), (3, 1, 7), (1, 1, 40), (1, 1, 100)],
    "looking at others": [(2, 3, 9), (1, 3, 40), (2, 20, 5), (1, 60, 70)],
}
OTHERS = ("one query a row", "looking at others")
WAYS = [(name, how) for name in CASES for how in ("", "causal", "windows") if not how or name not in OTHERS]


def lines(blocks: list[tuple[int, int, int]], dtype: torch.dtype, filler: int, *, joined: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (sum(block[0] * block[side] for block in blocks) + filler for side in (1, 2))
    if joined and queries == keys:
        whole = torch.randn(queries, 3, HEADS, SIZE, generator=generator).to(dtype)
        return list(whole.unbind(1))
    counts = (queries, keys, keys)
    return [torch.randn(count, HEADS, SIZE, generator=generator).to(dtype) for count in counts]


def rows_of(line: torch.Tensor, blocks: list[tuple[int, int, int]], side: int) -> list[torch.Tensor]:
    sizes = [block[side] for block in blocks for _ in range(block[0])]
    return list(line[: sum(sizes)].split(sizes))


def expected(
    given: list[torch.Tensor], blocks: list[tuple[int, int, int]], *, causal: bool, window: int | None
) -> torch.Tensor:
    """Attend row by row, in float32."""
    found = []
    parts = zip(rows_of(given[0], blocks, 1), rows_of(given[1], blocks, 2), rows_of(given[2], blocks, 2), strict=True)
    for query, key, value in parts:
        q, k, v = (one.transpose(0, 1).float() for one in (query, key, value))
        places = torch.arange(len(query))
        mask = None
        if causal:
            mask = places[:, None] >= places
            if window is not None:
                mask &= places[:, None] - places < window
        found.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("name", "how"), WAYS)
def test_a_tile_gives_what_each_row_gives_alone(name: str, how: str, dtype: torch.dtype, joined: bool) -> None:
    blocks, filler = CASES[name], 5
    window = 6 if how == "windows" else None

    def hidden(length: int, wanted: torch.dtype) -> torch.Tensor | None:
        within = window if window is not None and window < length else None
        return _hidden(length, bool(how), within, wanted, torch.device("cpu"))

    given = lines(blocks, dtype, filler, joined=joined)
    ours = [one.detach().requires_grad_() for one in given]
    theirs = [one.detach().clone().requires_grad_() for one in given]
    found = attend(*ours, tiles_of(blocks), 0.3, hidden)
    wanted = expected(theirs, blocks, causal=bool(how), window=window)
    within = 1e-5 if dtype == torch.float32 else 0.02
    assert found.dtype == dtype
    assert float((found[:-filler].detach().float() - wanted.detach()).norm()) <= within * float(wanted.detach().norm())
    assert not found[-filler:].any()
    change = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found[:-filler].backward(change)
    wanted.backward(change.float())
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).float().norm()) <= within * float(other.grad.float().norm())
        assert not one.grad[-filler:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [16, 64])
def test_dropout_drops_weights_forward_and_backward(length: int, dtype: torch.dtype) -> None:
    """Which weights are dropped is drawn anew from the same seed, and autograd does the rest."""
    rows, share = 40, 0.25
    blocks = [(rows, length, length)]
    given = lines(blocks, dtype, 0, joined=True)
    ours = [one.detach().requires_grad_() for one in given]
    theirs = [one.detach().float().requires_grad_() for one in given]
    torch.manual_seed(7)
    found = attend(*ours, tiles_of(blocks), 0.3, lambda *_: None, share)
    short = torch.float32 if length <= SHORT_TOKENS else dtype
    torch.manual_seed(7)
    factors = functional.dropout(torch.ones(rows * HEADS, length, length, dtype=short), share).float()
    query, key, value = (one.view(rows, length, HEADS, SIZE).transpose(1, 2).flatten(0, 1) for one in theirs)
    weights = (query @ key.transpose(1, 2) * 0.3).softmax(-1) * factors
    wanted = (weights @ value).view(rows, HEADS, length, SIZE).transpose(1, 2).flatten(0, 1)
    assert 0.2 < float((factors == 0).float().mean()) < 0.3
    within = 1e-5 if dtype == torch.float32 else 0.02
    assert float((found.detach().float() - wanted.detach()).norm()) <= within * float(wanted.detach().norm())
    change = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found.backward(change)
    wanted.backward(change.float())
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad.float() - other.grad).norm()) <= within * float(other.grad.norm())


def check_sum(given: list[torch.Tensor], blocks: list[tuple[int, int, int]]) -> None:
    """Hold the sum of what comes out, and its gradients, against those of each row alone."""
    ours = [one.detach().requires_grad_() for one in given]
    theirs = [one.detach().clone().requires_grad_() for one in given]
    found = attend(*ours, tiles_of(blocks), 0.3, lambda *_: None).float()
    wanted = expected(theirs, blocks, causal=False, window=None)
    within = 1e-5 if given[0].dtype == torch.float32 else 0.02
    assert float((found.detach() - wanted.detach()).norm()) <= within * float(wanted.detach().norm())
    found.sum().backward()
    wanted.sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).float().norm()) <= within * float(given[0].float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lines_may_lie_head_by_head(dtype: torch.dtype) -> None:
    """So do queries and keys of which positions turn a part alone."""
    blocks = [(2, 3, 3), (1, 60, 60)]
    check_sum(
        [one.transpose(0, 1).contiguous().transpose(0, 1) for one in lines(blocks, dtype, 0, joined=False)], blocks
    )


def test_rows_of_one_token_are_their_own_keys_in_a_line_with_filler() -> None:
    blocks = [(3, 1, 1)]
    query, key, value = lines(blocks, torch.bfloat16, 5, joined=False)
    check_sum([query[:3], key, value], blocks)


def test_rows_share_a_tile_while_they_are_alike() -> None:
    lengths = range(1, 200)
    tiles = tiles_of([(1, length, length) for length in lengths])
    assert [run.query_length for tile in tiles for run in tile.runs] == list(lengths)
    assert len(tiles) < 15
    for tile in tiles:
        assert tile.key_length == tile.query_length >= max(run.key_length for run in tile.runs)
        shortest = min(run.key_length for run in tile.runs)
        if 16 <= shortest <= SHORT_TOKENS:
            assert tile.key_length <= ALIKE * shortest
        if tile.key_length > SHORT_TOKENS:
            assert tile.key_length % 32 == 0


def test_what_lies_side_by_side_is_one_matrix_without_a_copy() -> None:
    whole: Any = torch.arange(60.0).view(4, 15)
    parts = [one.view(4, 1, 5) for one in whole.split(5, 1)]
    joined = side_by_side(parts)
    assert joined is not None
    assert joined.data_ptr() == whole.data_ptr()
    assert torch.equal(joined.flatten(1), whole)
    assert side_by_side(parts[::-1]) is None
    assert side_by_side([parts[0], parts[1].clone(), parts[2]]) is None
    assert side_by_side([parts[0], parts[2]]) is None
