"""One text, or a pair, as the tokens that a head on whole texts reads, with numeric columns beside them.

What text classification, with one label or several, and regression share: the same rows go in, only the answers differ.
Numeric columns are fields of type number. Token tables hold them as they are; a batch has them standardised with the
mean and the standard deviation of the training rows, which are part of the task's state. They reach models that take
them (output adapters).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.encoding import encode_flat, list_array
from graft.padding import mask_of, padded, split_windows

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    Row = Mapping[str, Any]

NUMERIC = "numeric"
"""The entry of a state that holds mean and standard deviation of each numeric column."""


def check_numeric(columns: tuple[str, ...], taken: Sequence[str]) -> tuple[str, ...]:
    """Return the numeric columns that a task section names.

    Raises:
        ValueError: one is named twice, or as another field of the task.
    """
    if len(set(columns)) != len(columns) or set(columns) & {*taken, "id"}:
        raise ValueError(f"numeric_columns must be distinct names, and none of {', '.join(taken)}, id")
    return columns


class Moments:
    """Count, mean, spread and ends of number fields: learnt row by row (Welford, 1962), parts put together.

    Parts are put together in their order (Chan, Golub and LeVeque, 1979), so the numbers depend on what the parts are.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.rows = 0
        self.columns = {name: [0.0, 0.0, math.inf, -math.inf] for name in self.names}
        """Column -> mean, sum of squared deviations, smallest, largest."""

    def watched(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows, having counted each."""
        for row in rows:
            self.rows += 1
            for name in self.names:
                self._add(name, float(row[name]))
            yield row

    def _add(self, name: str, value: float) -> None:
        mean, squares, least, most = self.columns[name]
        before = value - mean
        mean += before / self.rows
        self.columns[name] = [mean, squares + before * (value - mean), min(least, value), max(most, value)]

    def as_json(self) -> dict[str, Any]:
        """Return what is known of the rows so far; a part without rows has no columns."""
        return {"rows": self.rows, "columns": self.columns if self.rows else {}}

    @classmethod
    def of_parts(cls, names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> Moments:
        """Return what the parts' rows have together, from the ``as_json`` of each."""
        found = cls(names)
        for part in parts:
            found._merge(part["rows"], part["columns"])
        return found

    def _merge(self, rows: int, columns: Mapping[str, Sequence[float]]) -> None:
        before, self.rows = self.rows, self.rows + rows
        for name, (mean, squares, least, most) in columns.items():
            own_mean, own_squares, own_least, own_most = self.columns[name]
            apart = mean - own_mean
            self.columns[name] = [
                own_mean + apart * rows / self.rows,
                own_squares + squares + apart * apart * before * rows / self.rows,
                min(own_least, least),
                max(own_most, most),
            ]

    def state(self) -> dict[str, dict[str, float]]:
        """Return ``{name: {mean, std}}``; the spread of a column that never varies is 1, so that it becomes 0."""
        rows = max(self.rows, 1)
        return {
            name: {"mean": mean, "std": math.sqrt(squares / rows) or 1.0}
            for name, (mean, squares, _, _) in self.columns.items()
        }


def gathered_numbers(
    names: Sequence[str],
    rows: Iterator[Row],
    others: Callable[[Iterator[Row]], dict[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """Return what a part's rows tell of number fields, beside what ``others`` gathers from the same rows."""
    moments = Moments(names)
    watched = moments.watched(rows) if names else rows
    found = others(watched)
    if not names:
        return found
    deque(watched, maxlen=0)
    return {**found, NUMERIC: moments.as_json()}


def learnt_numbers(names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entry of a state about number fields; none where there are no such fields."""
    return {NUMERIC: Moments.of_parts(names, [part[NUMERIC] for part in parts]).state()} if names else {}


def standardised(value: float, moments: Mapping[str, float]) -> float:
    """Return how many standard deviations ``value`` is above the mean."""
    return (float(value) - moments["mean"]) / moments["std"]


def encode_texts(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length_tokens: int, numeric: Sequence[str] = ()
) -> dict[str, pa.Array]:
    """Return the token columns of ``text`` (and ``text_pair``): one sequence a row, cut at ``max_length_tokens``.

    These are ``input_ids``, ``token_type_ids`` (null for a single text), ``length``, ``untruncated_length`` and
    ``features`` (the columns ``numeric`` in the order of their names; null without any).
    """
    import numpy as np
    import pyarrow as pa

    paired = np.fromiter((bool(row.get("text_pair")) for row in rows), bool, len(rows))
    kinds = [kind for kind in (False, True) if (paired == kind).any()] or [False]
    if len(kinds) == 1:
        columns = _encode(rows, tokenizer, max_length_tokens, paired=kinds[0])
    else:
        groups = [np.flatnonzero(paired == kind).tolist() for kind in kinds]
        both = [
            _encode([rows[row] for row in group], tokenizer, max_length_tokens, paired=kind)
            for group, kind in zip(groups, kinds, strict=True)
        ]
        order = pa.array(np.argsort(np.concatenate(groups)))
        columns = {name: pa.concat_arrays([one[name] for one in both]).take(order) for name in both[0]}
    return columns | {"features": _features(rows, numeric)}


def encode_apart(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length_tokens: int, numeric: Sequence[str] = ()
) -> dict[str, pa.Array]:
    """Return the token columns of two texts encoded alone: two windows in ``input_ids``, each cut at the limit."""
    import numpy as np
    import pyarrow as pa

    texts = [row[name] for row in rows for name in ("text", "text_pair")]
    found = encode_flat(tokenizer, texts, limit=max_length_tokens)
    lengths, untruncated = (
        one.reshape(-1, 2).sum(axis=1, dtype=np.int32) for one in (found.lengths, found.untruncated)
    )
    return {
        "input_ids": list_array(found.ids, lengths),
        "token_type_ids": pa.nulls(len(rows), pa.list_(pa.int32())),
        "windows": list_array(found.lengths, np.full(len(rows), 2)),
        "length": pa.array(lengths),
        "untruncated_length": pa.array(untruncated),
        "features": _features(rows, numeric),
    }


class EncodedTexts:
    """What a task inherits whose token rows are made as columns: rows for predictions are made of them."""

    def encode(
        self,
        config: Any,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        whole: Any = self
        found: list[dict[str, Any]] = whole.encode_columns(config, rows, tokenizer, max_length_tokens).to_pylist()
        return found


def as_batch(columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Return columns of equal length in the order of a schema; those that say nothing of texts are null."""
    import pyarrow as pa

    rows = len(columns["input_ids"])
    given = (columns.get(one.name, pa.nulls(rows, one.type)) for one in schema)
    return pa.RecordBatch.from_arrays(list(given), schema=schema)


def _features(rows: Sequence[Row], numeric: Sequence[str]) -> pa.Array:
    """Return the numeric columns of each row, in the order of their names; null without any."""
    import pyarrow as pa

    values = [[float(row[name]) for name in sorted(numeric)] if numeric else None for row in rows]
    return pa.array(values, pa.list_(pa.float64()))


def collate_texts(rows: Sequence[Row], pad_token_id: int, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the padded inputs of token rows, without targets.

    ``input_ids``, ``attention_mask`` int64 [B, T]; ``token_type_ids`` int64 [B, T] where a row has them; ``features``
    float32 [B, F], standardised by ``state``, where there are numeric columns; ``window_row`` int64 [2 B] where texts
    were encoded apart (then a line is a text).
    """
    import torch

    apart = any(row.get("windows") is not None for row in rows)
    ids = [line for row in rows for line in split_windows(row["input_ids"], row["windows"])] if apart else None
    lines = ids or [row["input_ids"] for row in rows]
    batch = {"input_ids": padded(lines, pad_token_id), "attention_mask": mask_of(lines)}
    if apart:
        batch["window_row"] = torch.arange(len(rows)).repeat_interleave(2)
    if any(row.get("token_type_ids") is not None for row in rows):
        types = [row.get("token_type_ids") or [] for row in rows]
        batch["token_type_ids"] = padded(types, 0, width=batch["input_ids"].shape[1])
    if columns := sorted(state.get(NUMERIC, {}).items()):
        moments = [one for _, one in columns]
        features = [list(map(standardised, row["features"], moments)) for row in rows]
        batch["features"] = torch.tensor(features, dtype=torch.float32)
    return batch


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the head's answer to a batch: [B, C] in the type that the head computes in.

    ``features`` reach models that say that they take them (``takes_features``).
    """
    whole: Any = model
    inner = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    kept_out = {"labels", "window_row"} | (set() if getattr(inner, "takes_features", False) else {"features"})
    logits: torch.Tensor = model(**{name: value for name, value in batch.items() if name not in kept_out}).logits
    return logits


def _encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, limit: int, *, paired: bool
) -> dict[str, pa.Array]:
    """Return the token columns of rows that all are pairs, or none."""
    import pyarrow as pa

    typed = paired and "token_type_ids" in tokenizer.model_input_names
    pairs = [row["text_pair"] for row in rows] if paired else None
    found = encode_flat(tokenizer, [row["text"] for row in rows], pairs, limit=limit, types=typed)
    none = pa.nulls(len(rows), pa.list_(pa.int32()))
    return {
        "input_ids": list_array(found.ids, found.lengths),
        "token_type_ids": none if found.type_ids is None else list_array(found.type_ids, found.lengths),
        "length": pa.array(found.lengths),
        "untruncated_length": pa.array(found.untruncated),
    }
