"""Rows packed end to end: what runs through a model's layers is tokens, and no padding.

A task makes batches that are filled up to their longest row, and reads hidden states in that form. In between, the
bodies of the model (all but its head; an encoder and a decoder are two) see one line of N tokens: the rows one after
another, sorted by length. Everything there works on single tokens, but for attention, which sees a token's own row
alone, and positions, which begin anew in each row. Rows of one length lie side by side and are one block of equal
shape: their attention is a product of matrices, without padding and without mask.

A body is changed from outside: its ``forward`` is replaced while a training runs, and its attention is one that is
registered at transformers (``AttentionInterface``). Any model whose attention goes through that interface can be
packed, if its positions can be given or lie in the attention (T5). Whether it can is tried: what the bodies put out for
a few rows, packed and padded, must agree. A model that fails runs padded, and the reason is printed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.padding import WHOLE_TOKENS
from graft.training import tiled_attention
from graft.training.first_token import last_layer
from graft.training.tiled_attention import Tile, tiles_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

    Blocks = tuple[tuple[int, ...], ...]

NAME = "packed"
"""The name of the attention at transformers."""
NO_PART = ("position_ids", "use_cache", "cache_position", "num_items_in_batch")
"""What reaches attention on the way through the layers and says nothing to it."""
UNFIT = (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError)
"""What a model raises that does not take what it is given."""
KINDS = {"full_attention", "sliding_attention"}
MIXING = ("lily",)
"""PEFT's methods in which tokens of other rows, and padding, have a part in what a token gets."""
TOLERANCE = 1e-3
NARROW_TOLERANCE = 0.03
"""Largest root mean square of the difference to the padded run, relative to that of the states, in float32 and in types
of 16 bits; states of wrong positions or mixed rows lie apart by tenths."""


@dataclass(frozen=True)
class Pack:
    """Where the rows of a batch lie in a packed line."""

    index: torch.Tensor
    """int64 [N]: of each packed token, its place in the flattened batch [B * T]."""
    positions: torch.Tensor
    """int64 [N]: of each packed token, its place in its row."""
    filler: int
    """How many positions, which belong to no row, follow the N tokens in the line."""
    blocks: Blocks
    """Rows and their length, for each block of rows of one length, in the order of the line."""
    bounds: torch.Tensor
    """int32 [B + 1]: where each row begins, and where the last one ends."""
    keys: Pack | None = None
    """Where the rows lie that a decoder's rows, or first tokens, look at, in the same order."""
    cross_blocks: Blocks = ()
    """Rows, their length, and that of the rows that they look at."""
    aside: Sequence[torch.Tensor] = ()
    """Keys and values [1, M + filler, G * D], where attention is not given them."""

    @functools.cached_property
    def longest(self) -> int:
        """The longest row, in tokens."""
        return max(length for _, length in self.blocks)

    @functools.cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """How rows that look at themselves are attended to."""
        return tiles_of([(rows, length, length) for rows, length in self.blocks])

    @functools.cached_property
    def cross_tiles(self) -> tuple[Tile, ...]:
        """How rows are attended to that look at others."""
        return tiles_of([(rows, own, other) for rows, own, other in self.cross_blocks])

    @functools.cached_property
    def first_tokens(self) -> Pack:
        """The first token of each row, which looks at its row."""
        import torch

        rows = len(self.bounds) - 1
        index = self.index[self.bounds[:-1].long()]
        bounds = torch.arange(rows + 1, dtype=torch.int32, device=self.index.device)
        cross = tuple((count, 1, length) for count, length in self.blocks)
        return Pack(index, torch.zeros_like(index), 0, ((rows, 1),), bounds, self, cross)

    @functools.cached_property
    def line_positions(self) -> torch.Tensor:
        """int64 [N + filler]: of each token of the line its place in its row; 0 for the filler."""
        import torch

        return torch.cat([self.positions, self.positions.new_zeros(self.filler)])

    def line(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the tokens of ``batch`` [B, T, ...] and the filler as one line: [1, N + filler, ...]."""
        import torch

        index = torch.cat([self.index, self.index.new_zeros(self.filler)])
        return batch.flatten(0, 1)[index][None]

    def batch(self, line: torch.Tensor, shape: tuple[int, int], elsewhere: float = 0.0) -> torch.Tensor:
        """Return a line [1, N + filler, D] as a batch, with ``elsewhere`` where no token lies: [B, T, D]."""
        tokens = line[0, : len(self.index)]
        empty = tokens.new_full((shape[0] * shape[1], tokens.shape[-1]), elsewhere)
        return empty.index_copy(0, self.index, tokens).reshape(*shape, -1)


def pack_of(mask: torch.Tensor, keys: torch.Tensor | None = None) -> Pack:
    """Return how the rows of ``mask`` are packed.

    Args:
        mask: int64 [B, T], 1 where a row has a token. A row's tokens stand side by side, on the left or on the right.
        keys: int64 [B, S], the same of the rows that a decoder's rows look at.
    """
    import torch

    lengths = mask.sum(1)
    if keys is None:
        order = torch.argsort(lengths, stable=True)
        return _ordered(mask, order)
    others = keys.sum(1)
    order = torch.argsort(lengths * (keys.shape[1] + 1) + others, stable=True)
    pairs = zip(lengths[order].tolist(), others[order].tolist(), strict=True)
    own, other = _ordered(mask, order), _ordered(keys, order)
    return Pack(own.index, own.positions, own.filler, own.blocks, own.bounds, other, _runs(list(pairs)))


def _ordered(mask: torch.Tensor, order: torch.Tensor) -> Pack:
    import torch

    counts = mask.sum(1)[order]
    bounds = torch.zeros(len(counts) + 1, dtype=torch.int32, device=mask.device)
    bounds[1:] = counts.cumsum(0)
    sizes = counts.tolist()
    total = sum(sizes)
    positions = torch.arange(total, device=mask.device) - bounds[:-1].long().repeat_interleave(counts)
    starts = order * mask.shape[1] + mask[order].argmax(1)
    index = starts.repeat_interleave(counts) + positions
    return Pack(index, positions, -total % WHOLE_TOKENS, _runs([(size,) for size in sizes]), bounds)


def _runs(sizes: Sequence[tuple[int, ...]]) -> Blocks:
    """Return how often in a row each of ``sizes`` stands, and itself."""
    found: list[tuple[int, ...]] = []
    for one in sizes:
        if found and found[-1][1:] == one:
            found[-1] = (found[-1][0] + 1, *one)
        else:
            found.append((1, *one))
    return tuple(found)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,  # noqa: ARG001  (the interface's signature; the pack says it all)
    *,
    pack: Pack,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row of a packed line.

    Args:
        module: transformers' attention module; ``is_causal`` says whether a token sees those after it.
        query: [1, H, N + filler, D].
        key: [1, G, M + filler, D], where G divides H; M is N but where a decoder looks at an encoder's states.
        value: as ``key``.
        attention_mask: not read.
        pack: where the rows lie.
        scaling: what products are multiplied by; 1 / sqrt(D) by default.
        dropout: the share of attention weights that are dropped.
        position_bias: [1, H, L, L], what is added to the products of two positions, L the longest row; T5's.
        sliding_window: how many positions a token sees on a side, itself among them; None: all.
        softcap: the height at which products level off, c tanh(x / c); Gemma 2's.
        is_causal: what holds in place of the module's.
        others: what has no part in it; anything else is refused.

    Returns:
        [1, N + filler, H, D], and no weights.

    Raises:
        TypeError: the model's attention does more than this (sinks, say).
    """
    import torch

    more = [name for name, one in others.items() if one is not None and one is not False and name not in NO_PART]
    if more:
        raise TypeError(f"its attention takes {', '.join(more)}")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if pack.aside:
        groups = key.shape[1]
        key, value = (one.view(*one.shape[:2], groups, -1).transpose(1, 2) for one in pack.aside)
    keys = pack
    blocks: Blocks = tuple((rows, length, length) for rows, length in pack.blocks)
    if pack.keys is not None and not causal:
        # A decoder looks at an encoder: without any bias of positions, for which transformers gives zeros.
        keys, blocks, position_bias = pack.keys, pack.cross_blocks, None
    rule = _Rule(scaling or query.shape[-1] ** -0.5, dropout, causal, sliding_window, softcap, position_bias)
    if rule.is_plain and not query.is_cuda and query.itemsize == 2:
        longest = max(pack.longest, keys.longest)
        if longest <= tiled_attention.LONGEST_TOKENS:
            return _tiled(query, key, value, pack, keys, rule)[None], None
    q = query[0].transpose(0, 1)[: len(pack.index)]
    k, v = (one[0].transpose(0, 1)[: len(keys.index)] for one in (key, value))
    if rule.is_plain and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        found = [_varlen(q, k, v, pack, keys, rule)]
    else:
        own = torch.split(q, [rows * length for rows, length, _ in blocks])
        others_of = [rows * length for rows, _, length in blocks]
        parts = zip(own, torch.split(k, others_of), torch.split(v, others_of), blocks, strict=True)
        found = [
            _block(_rows(one, block), _rows(other, block), _rows(values, block), rule).transpose(1, 2).flatten(0, 1)
            for one, other, values, block in parts
        ]
    if pack.filler:
        found.append(q.new_zeros(pack.filler, *q.shape[1:]))
    return (found[0] if len(found) == 1 else torch.cat(found))[None], None


@dataclass(frozen=True)
class _Rule:
    """What attention does to the products of query and key."""

    scaling: float
    dropout: float
    causal: bool
    window: int | None
    softcap: float | None
    bias: torch.Tensor | None

    @property
    def is_plain(self) -> bool:
        """Whether a fused kernel does it, but for windows."""
        return self.softcap is None and self.bias is None

    def is_windowed(self, length: int) -> bool:
        """Whether a row of ``length`` tokens is longer than its windows."""
        return self.window is not None and self.window < length

    def hidden(self, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """Return what hides the tokens of such a row from each other; None: nothing."""
        return _hidden(length, self.causal, self.window if self.is_windowed(length) else None, dtype, device)


def _rows(tokens: torch.Tensor, block: tuple[int, ...]) -> torch.Tensor:
    """Return the tokens [n, H, D] of a block's rows: [rows, H, length, D]."""
    return tokens.reshape(block[0], -1, *tokens.shape[1:]).transpose(1, 2)


def _tiled(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, keys: Pack, rule: _Rule
) -> torch.Tensor:
    """Attend by tiles of rows of like length: [N + filler, H, D]."""
    heads, groups = query.shape[1], key.shape[1]
    q, k, v = (one.squeeze(0).transpose(0, 1) for one in (query, key, value))
    if heads != groups:
        k, v = (one.repeat_interleave(heads // groups, dim=1) for one in (k, v))
    tiles = pack.tiles if keys is pack else pack.cross_tiles
    hidden = functools.partial(rule.hidden, device=q.device)
    return tiled_attention.attend(q, k, v, tiles, rule.scaling, hidden, rule.dropout)


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, keys: Pack, rule: _Rule
) -> torch.Tensor:
    """Attend by flash attention over rows of any length: [N, H, D]."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if rule.window is None else rule.window - 1
    found = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        pack.bounds,
        keys.bounds,
        pack.longest,
        keys.longest,
        scale=rule.scaling,
        window_size=(side, 0 if rule.causal else side),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, torch.Tensor)
    return found


def _block(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule) -> torch.Tensor:
    """Attend in rows of one length: [rows, H, length, D]."""
    import torch
    from torch.nn import functional

    heads, groups, length = query.shape[1], key.shape[1], query.shape[2]
    if rule.is_plain and not rule.is_windowed(length):
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=rule.dropout,
            is_causal=rule.causal,
            scale=rule.scaling,
            enable_gqa=heads != groups,
        )
    if heads != groups:
        key, value = (one.repeat_interleave(heads // groups, dim=1) for one in (key, value))
    hidden = rule.hidden(length, query.dtype, query.device)
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(torch.matmul(query * rule.scaling, key.transpose(-1, -2)) / rule.softcap)
        scores = scores if hidden is None else scores + hidden
    else:
        # What is added to the products is where they start from: no pass of its own over all pairs of tokens.
        start = hidden
        if rule.bias is not None:
            bias = rule.bias[0, :, :length, :length].repeat(len(query), 1, 1)
            start = bias if hidden is None else bias + hidden
        assert start is not None  # a window hides something
        flat = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
        scores = torch.baddbmm(start, *flat, alpha=rule.scaling).view(*query.shape[:3], -1)
    return torch.matmul(functional.dropout(scores.softmax(-1), rule.dropout), value)


@functools.lru_cache(maxsize=256)
def _hidden(
    length: int, causal: bool, window: int | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Return what hides tokens from each other: the type's least number, or 0: [1, length, length]; None: nothing."""
    import torch

    if window is None and (not causal or length == 1):
        return None
    square = torch.ones(length, length, dtype=torch.bool, device=device)
    hidden = square.triu(1) if causal else torch.zeros_like(square)
    if window is not None:
        hidden |= square.tril(-window) | square.triu(window)
    return torch.zeros(1, length, length, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)


class _Body:
    """The body of a model, run on packed rows where its arguments allow."""

    def __init__(self, body: Any) -> None:
        self.body, self.forward = body, body.forward
        # PEFT asks a body for its signature, and inspect takes it from here.
        self.signature = self.__signature__ = inspect.signature(body.forward)
        self.takes = self.signature.parameters
        self.biased = [part for part in body.modules() if hasattr(part, "compute_bias")]
        # BART, Marian and their like number the positions of a line themselves, and are not told them.
        self.numbering = [] if "position_ids" in self.takes else [part for part in body.modules() if _numbers(part)]
        self.first_position = 0
        self.first_token: Callable[[], None] | None = None
        """What undoes that the last layer runs for first tokens alone."""
        self.spoilt = False
        """Whether all states but those of first tokens are made to be no numbers."""
        self.off = False
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = None if self.off else self._packed(self._by_name(arguments, named))
        if given is None:
            return self.forward(*arguments, **named)
        self.calls += 1
        pack, packed, shape = given
        with self._changed(pack) as pooler:
            found = self.forward(**packed, pack=pack)
        states = found.last_hidden_state
        if self.first_token is not None:
            pack = pack.first_tokens
        found.last_hidden_state = pack.batch(states, shape)
        if self.spoilt:
            first = pack.first_tokens
            found.last_hidden_state = first.batch(states[:, pack.bounds[:-1].long()], shape, float("nan"))
        if pooler is not None:
            found.pooler_output = self._pooled(pooler, found.last_hidden_state)
        return found

    def _by_name(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        bound = self.signature.bind(*arguments, **named).arguments
        return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}

    def _pooled(self, pooler: Any, states: torch.Tensor) -> torch.Tensor:
        activation = getattr(self.body, "pooler_activation", None)  # ALBERT's pooler is a plain layer
        found: torch.Tensor = activation(pooler(states[:, 0])) if activation is not None else pooler(states)
        return found

    @contextlib.contextmanager
    def _changed(self, pack: Pack) -> Iterator[Any]:
        """Let attention be packed; yield the pooler, which reads the first token of each row, and take it away."""
        config, pooler = self.body.config, self.body._modules.get("pooler")
        before = config._attn_implementation
        config._attn_implementation = NAME
        if pooler is not None:
            self.body._modules["pooler"] = None
        for part in self.biased:
            part.compute_bias = functools.partial(_bias_of_longest, part, pack.longest)
        for part in self.numbering:
            part.forward = functools.partial(_of_positions, part, pack.line_positions)
        try:
            yield pooler
        finally:
            config._attn_implementation = before
            if pooler is not None:
                self.body._modules["pooler"] = pooler
            for part in self.biased:
                del part.compute_bias
            for part in self.numbering:
                del part.forward

    def _packed(self, named: Mapping[str, Any]) -> tuple[Pack, dict[str, Any], tuple[int, int]] | None:
        """Return pack, packed arguments and the batch's shape; None where the call is of another kind."""
        import torch

        given = {name: value for name, value in named.items() if value is not None}
        mask, keys = given.pop("attention_mask", None), given.pop("encoder_attention_mask", None)
        states = given.pop("encoder_hidden_states", None)
        if mask is None or mask.ndim != 2 or (keys is None) != (states is None):
            return None
        shape = (mask.shape[0], mask.shape[1])
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        others = {name: value for name, value in given.items() if name not in tensors}
        plain = all(isinstance(value, bool) for value in others.values()) and others.pop("return_dict", True)
        if not plain or any(others.get(f"output_{kind}") for kind in ("hidden_states", "attentions")):
            return None
        if any(value.shape[:2] != shape for value in tensors.values()):
            return None
        pack = pack_of(mask.long(), None if keys is None else keys.long())  # PEFT's prompts make them real numbers
        packed: dict[str, Any] = {name: pack.line(value) for name, value in tensors.items()}
        if pack.keys is not None:
            packed["encoder_hidden_states"] = pack.keys.line(states)
        if "position_ids" in self.takes and "position_ids" not in packed:
            packed["position_ids"] = pack.line_positions[None] + self.first_position
        if "use_cache" in self.takes:
            others["use_cache"] = False
        return pack, others | packed, shape


def _numbers(part: Any) -> bool:
    """Return whether a part is an embedding of positions that can be told them."""
    from torch import nn

    return isinstance(part, nn.Embedding) and "position_ids" in inspect.signature(type(part).forward).parameters


def _of_positions(part: Any, positions: torch.Tensor, given: Any, *_: Any, **__: Any) -> Any:
    """Return the embeddings of ``positions`` [N + filler], in place of those that follow from the shape ``given``."""
    return type(part).forward(part, given, position_ids=positions)


def _bias_of_longest(part: Any, longest: int, *_: Any, device: Any = None, **__: Any) -> Any:
    """Return the bias of each pair of positions of the longest row, in place of all pairs of a line."""
    return type(part).compute_bias(part, longest, longest, device=device)


@contextlib.contextmanager
def packed(
    model: PeftModel, run: Callable[[], object], learnt_from: Callable[[], torch.Tensor] | None = None
) -> Iterator[bool]:
    """Run a block with the batches of ``model`` packed; yield whether they can be.

    Args:
        model: what is trained.
        run: runs the model on rows of unlike length, to see whether packing changes what comes out.
        learnt_from: returns all that is learnt from, for such rows; then the last layer may run for the first token of
            each row alone.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    bodies = [_Body(body) for body in bodies_of(model.get_base_model())]
    own = [one.body.__dict__.get("forward") for one in bodies]
    for one in bodies:
        one.body.forward = one
    try:
        yield _agree(model, bodies, run, learnt_from)
    finally:
        for one, before in zip(bodies, own, strict=True):
            if one.first_token is not None:
                one.first_token()
            if before is None:
                del one.body.forward
            else:
                one.body.forward = before


def bodies_of(inner: Any) -> list[Any]:
    """Return the parts of a model that run on tokens: its base, or encoder and decoder of that."""
    base = getattr(inner, inner.base_model_prefix, inner)
    found = [base.get_encoder(), base.get_decoder()] if inner.config.is_encoder_decoder else [base]
    return [one for one in found if "attention_mask" in inspect.signature(type(one).forward).parameters]


def is_packed(body: Any) -> bool:
    """Return whether a body runs on packed rows now."""
    forward = body.__dict__.get("forward")
    return isinstance(forward, _Body) and not forward.off


def _agree(
    model: PeftModel,
    bodies: Sequence[_Body],
    run: Callable[[], object],
    learnt_from: Callable[[], torch.Tensor] | None = None,
) -> bool:
    """Return whether packed rows give what padded ones give; else turn packing off, and say why."""
    import torch

    modes = [part for part in model.modules() if part.training]
    model.eval()
    reason = ""
    method = str(model.active_peft_config.peft_type.value).lower()
    kinds = {kind for one in bodies for kind in getattr(one.body.config, "layer_types", None) or ()} - KINDS
    if not bodies:
        return False  # pictures: there is nothing to pack
    try:
        if kinds:
            raise ValueError(f"it has layers of {', '.join(sorted(kinds))}")
        if method in MIXING:  # not to be seen as long as the adapter is silent
            raise ValueError(f"in {method}, what one token gets depends on all tokens of the batch")
        with torch.no_grad():
            run()  # what a model does once, at its first call, is no difference
            padded = _watched(bodies, run, off=True)
            for first in _first_positions(bodies):
                for one in bodies:
                    one.first_position = first
                packed_states = _watched(bodies, run, off=False)
                if not any(one.calls for one in bodies):
                    raise ValueError("it is not called with a mask alone")
                found = _difference(padded, packed_states)
                if not found:
                    if learnt_from is not None and len(bodies) == 1:
                        _try_first_token(bodies[0], run, learnt_from)
                    return True
                reason = reason or found
    except UNFIT as error:
        reason = str(error)
    finally:
        for part in modes:
            part.training = True
    for one in bodies:
        one.off = True
    print(f"train: batches are padded, {type(bodies[0].body).__name__} does not take packed rows: {reason}", flush=True)
    return False


def _try_first_token(body: _Body, run: Callable[[], object], learnt_from: Callable[[], torch.Tensor]) -> None:
    """Let the last layer run for first tokens alone, if no others are read and these stay what they are."""
    import torch

    if any(getattr(part, "is_causal", False) for part in body.body.modules()):
        return
    with contextlib.suppress(*UNFIT):
        whole = learnt_from()
        body.spoilt = True
        reads_first = torch.equal(learnt_from(), whole)
        body.spoilt = False
        layer = last_layer(body.body, run) if reads_first else None
        if layer is None:
            return
        # States, not what is learnt from: of a new head, that says little of them.
        states = _watched([body], learnt_from, off=False)
        body.first_token = layer.install()
        found = _watched([body], learnt_from, off=False)
        if not _difference([(one, _numbered(mask)) for one, mask in states], found):
            return
    body.spoilt = False
    if body.first_token is not None:
        body.first_token()
        body.first_token = None


def _numbered(mask: torch.Tensor) -> torch.Tensor:
    """Return the number of each token in its row, from 1; 0 where there is none."""
    return mask.cumsum(1) * mask


def _first_positions(bodies: Sequence[_Body]) -> list[int]:
    """Return the numbers that a row's first position may have: 0, or RoBERTa's, one after the padding token's."""
    padding = getattr(bodies[0].body.config, "pad_token_id", None)
    return [0] if padding is None else [0, padding + 1]


def _watched(bodies: Sequence[_Body], run: Callable[[], object], *, off: bool) -> list[tuple[torch.Tensor, Any]]:
    """Return what each body puts out for rows with a mask, and the mask."""
    seen: list[tuple[torch.Tensor, Any]] = []

    def noting(one: _Body) -> Callable[..., None]:
        def note(_module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any], found: Any) -> None:
            mask = one._by_name(arguments, named).get("attention_mask")
            if mask is not None:
                seen.append((found.last_hidden_state, mask))
                pooled = getattr(found, "pooler_output", None)
                if pooled is not None:
                    seen.append((pooled[:, None], mask.new_ones(len(mask), 1)))

        return note

    hooks = [one.body.register_forward_hook(noting(one), with_kwargs=True) for one in bodies]
    for one in bodies:
        one.off = off
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _difference(padded: Sequence[tuple[torch.Tensor, Any]], found: Sequence[tuple[torch.Tensor, Any]]) -> str:
    """Return how far states at real tokens lie apart; empty where they agree."""
    for (real, mask), (other, _) in zip(padded, found, strict=True):
        chosen = mask[:, -real.shape[1] :] == 1
        apart = float((real - other)[chosen].float().norm() / real[chosen].float().norm())
        if not apart <= (TOLERANCE if real.itemsize > 2 else NARROW_TOLERANCE):
            return f"their states differ by {apart:.2g}"
    return ""
