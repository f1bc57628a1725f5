"""Texts to token ids a batch at a time, as flat arrays: the library's encodings without a Python object per token.

A tokenizer's call makes lists, and a list per row and column is what a token table then costs most. Here ids go from
the library's encodings into one array and its lengths, which Arrow takes as they are. Rows are encoded once, without
a limit, so that the true length of a long row is known, and cut afterwards as the library cuts: the longer of two
texts first, special tokens stay. ``encode_batch_fast`` leaves out offsets; its ids are those of the tokenizer's call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

PIECE_CHARACTERS = 1 << 14
"""How much is encoded at once: what the library makes of it, a hundred bytes a token, stays in a processor's cache."""
_IDS, _TYPE_IDS = attrgetter("ids"), attrgetter("type_ids")


@dataclass(frozen=True)
class FlatTokens:
    """The tokens of N texts (or pairs) one after the other."""

    ids: np.ndarray
    """int32 [T], special tokens included, cut at the limit."""
    lengths: np.ndarray
    """int32 [N]: tokens of each text; they add up to T."""
    untruncated: np.ndarray
    """int32 [N]: tokens of each text before it was cut."""
    type_ids: np.ndarray | None = None
    """int32 [T], where they were asked for: which of two texts a token is of, as the tokenizer numbers them."""


def encode_flat(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    limit: int,
    types: bool = False,
) -> FlatTokens:
    """Return the tokens of ``texts``, or of ``texts`` and ``pairs`` as pairs, each cut at ``limit``.

    They are what ``tokenizer(texts, pairs, truncation="longest_first", max_length=limit)`` has.
    """
    import numpy as np

    texts, pairs = list(texts), pairs and list(pairs)
    frame = None if pairs or types else _frame(tokenizer)
    if frame:
        return _framed(tokenizer, texts, frame, limit)
    found = [
        _encode_some(tokenizer, texts[rows], pairs and pairs[rows], limit=limit, types=types) for rows in _pieces(texts)
    ]
    return FlatTokens(
        ids=np.concatenate([one.ids for one in found]),
        lengths=np.concatenate([one.lengths for one in found]),
        untruncated=np.concatenate([one.untruncated for one in found]),
        type_ids=np.concatenate([one.type_ids for one in found if one.type_ids is not None]) if types else None,
    )


def _pieces(texts: Sequence[str]) -> Iterator[slice]:
    """Yield pieces of ``PIECE_CHARACTERS`` at least; of no texts, one of none."""
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= PIECE_CHARACTERS:
            yield slice(start, end)
            start, size = end, 0
    if start < len(texts) or not start:
        yield slice(start, len(texts))


def _encode_some(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None, *, limit: int, types: bool
) -> FlatTokens:
    import numpy as np

    encodings = _encodings(tokenizer, texts, pairs)
    untruncated = np.fromiter(map(len, encodings), np.int32, len(encodings))
    ids = _flat(map(_IDS, encodings), untruncated)
    kinds = _flat(map(_TYPE_IDS, encodings), untruncated) if types else None
    long = np.flatnonzero(untruncated > limit)
    if not len(long):
        return FlatTokens(ids, untruncated, untruncated, kinds)
    kept, lengths = np.ones(len(ids), dtype=bool), untruncated.copy()
    ends = np.cumsum(untruncated, dtype=np.int64)
    for row in long.tolist():
        stays = _stays(encodings[row], limit, tokenizer.truncation_side)
        kept[ends[row] - untruncated[row] : ends[row]] = stays
        lengths[row] = stays.sum()
    return FlatTokens(ids[kept], lengths, untruncated, None if kinds is None else kinds[kept])


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]] | None:
    """Return the special tokens before and after every single text; None where they are not all that is added."""
    if not _calls_the_library(tokenizer):
        return None
    [whole], [bare] = (_library(tokenizer, ["a"], special=special) for special in (True, False))
    own = [place for place, sequence in enumerate(whole.sequence_ids) if sequence is not None]
    if not own:
        return None
    before, after = whole.ids[: own[0]], whole.ids[own[-1] + 1 :]
    return (before, after) if [*before, *bare.ids, *after] == whole.ids else None


def _framed(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], frame: tuple[list[int], list[int]], limit: int
) -> FlatTokens:
    """Return the tokens of single texts; special tokens are put around them here, which the library does row by row."""
    import numpy as np

    before, after = frame
    pieces = [_bare(tokenizer, texts[rows]) for rows in _pieces(texts)]
    ids, count = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    added = len(before) + len(after)
    kept = np.minimum(count, max(limit - added, 0))
    if (kept < count).any():
        rank = np.arange(len(ids)) - np.repeat(np.cumsum(count) - count, count)
        first = count - kept if tokenizer.truncation_side == "left" else np.zeros_like(count)
        ids = ids[(rank >= np.repeat(first, count)) & (rank < np.repeat(first + kept, count))]
    lengths = kept + np.int32(added)
    if not added:
        return FlatTokens(ids, lengths, count)
    whole, own = np.empty(len(ids) + added * len(count), np.int32), np.ones(len(ids) + added * len(count), bool)
    ends = np.cumsum(lengths, dtype=np.int64)
    for place, token in enumerate(before):
        whole[ends - lengths + place], own[ends - lengths + place] = token, False
    for place, token in enumerate(after, -len(after)):
        whole[ends + place], own[ends + place] = token, False
    whole[own] = ids
    return FlatTokens(whole, lengths, count + np.int32(added))


def _bare(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and lengths of texts without special tokens; what the library made of them is gone afterwards."""
    import numpy as np

    encodings = _library(tokenizer, texts, special=False)
    lengths = np.fromiter(map(len, encodings), np.int32, len(encodings))
    return _flat(map(_IDS, encodings), lengths), lengths


def list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Return the lists that stand one after the other in ``values`` ([T]), of ``lengths`` (int [N]), for Arrow."""
    import numpy as np
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def flat_lists(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a list column one after the other ([T]), and where each row starts (int64 [N + 1])."""
    import numpy as np

    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]], offsets - offsets[0]


def _encodings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    """Return the library's encodings, uncut and unpadded.

    A tokenizer class with a call of its own (one that reads layouts, say) is called; its encodings are those it used.
    """
    if not _calls_the_library(tokenizer):
        return list(tokenizer(texts, pairs, verbose=False).encodings or ())
    return _library(tokenizer, texts if pairs is None else list(zip(texts, pairs, strict=True)))


def _library(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any], *, special: bool = True) -> list[Any]:
    backend: Any = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    found: list[Any] = backend.encode_batch_fast(rows, add_special_tokens=special)
    return found


def _calls_the_library(tokenizer: PreTrainedTokenizerBase) -> bool:
    from transformers import PreTrainedTokenizerFast

    plain, own = PreTrainedTokenizerFast, type(tokenizer)
    return own.__call__ is plain.__call__ and getattr(own, "_encode_plus", None) is plain._encode_plus


def _flat(rows: Iterable[list[int]], lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of all rows; a row's list is gone before the next one is made, which saves a third."""
    import numpy as np

    return np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))


def _stays(encoding: Any, limit: int, side: str) -> np.ndarray:
    """Return which tokens of an encoding stay when it is cut at ``limit``: bool [T].

    The special tokens stay; of two texts the longer one is cut until both are equally long, then both, and of an odd
    number the longer one has one more (``truncate_encodings`` of the library, strategy ``LongestFirst``).
    """
    import numpy as np

    sequence = np.array([-1 if one is None else one for one in encoding.sequence_ids])
    places = [np.flatnonzero(sequence == one) for one in (0, 1)]
    counts = [len(one) for one in places]
    room = max(limit - int((sequence < 0).sum()), 0)
    short, long = sorted(counts)
    less = min(short, room // 2)
    quotas = (less, min(long, room - less)) if counts[0] <= counts[1] else (min(long, room - less), less)
    stays = sequence < 0
    for where, quota in zip(places, quotas, strict=True):
        stays[where[:quota] if side == "right" else where[len(where) - quota :]] = True
    return stays
