"""What language models are measured by, over tables that hold each row's likelihood, and the floor beneath them.

A table has ``nll`` (the row's summed negative log-likelihood, in nats, its end included), ``tokens`` (how many were
predicted) and ``bytes`` (their UTF-8 text, without special tokens). Perplexity is per token, so it compares systems
with one tokenizer only. Bits per byte (Gao et al., 2020, section 3.1) hold across tokenizers, and for a model that has
none: an n-gram model of bytes is what a base must beat before its tokens are worth anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Table = Mapping[str, np.ndarray]

END = 256
"""The symbol after the last byte of a text, and the one before the first."""
SYMBOLS = 257
HISTOGRAM_BINS = 20
DECIMALS = 3


def nll_per_token(table: Table) -> float:
    """Return the mean negative log-likelihood of the predicted tokens, in nats."""
    return float(table["nll"].sum() / table["tokens"].sum())


def perplexity(table: Table) -> float:
    """Return ``exp`` of the mean negative log-likelihood per token; infinite where a float cannot hold it."""
    mean = nll_per_token(table)
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_byte(table: Table) -> float:
    """Return the bits that the model needs for each byte of text, ends included."""
    return float(table["nll"].sum() / (table["bytes"].sum() * math.log(2)))


def likelihood_columns(outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns ``nll`` (float64) and ``tokens`` (int64) of outputs [N, 2]."""
    import numpy as np

    return {"nll": outputs[:, 0].astype(np.float64), "tokens": outputs[:, 1].astype(np.int64)}


def sizes(table: Table) -> dict[str, float]:
    """Return how much text a table is about, for the report."""
    tokens, size = int(table["tokens"].sum()), int(table["bytes"].sum())
    return {"rows": len(table["nll"]), "tokens": tokens, "bytes": size, "bytes_per_token": round(size / tokens, 3)}


def histogram(values: np.ndarray, name: str, top: float | None = None) -> list[dict[str, float]]:
    """Return how many of ``values`` lie in each of equally wide bins: the bin's middle as ``name``, and its rows.

    The bins go from the smallest value to the largest, or from 0 to ``top``: then the last one is open, and the middles
    are rounded.
    """
    import numpy as np

    if top is None:
        rows, edges = np.histogram(values[np.isfinite(values)], bins=HISTOGRAM_BINS)
    else:
        rows, edges = np.histogram(np.clip(values, 0, top), bins=HISTOGRAM_BINS, range=(0, top))
    middles = (edges[:-1] + edges[1:]) / 2
    middles = middles if top is None else middles.round(DECIMALS)
    return [{name: float(value), "rows": int(count)} for value, count in zip(middles, rows, strict=True)]


class ByteModel:
    """Probabilities of the next byte, or the end, from counts of n-grams with add-one smoothing (Laplace).

    ``order`` 1 knows how often each byte occurs; 2 knows it after each other byte.
    """

    def __init__(self, order: int, texts: Iterable[str]) -> None:
        import numpy as np

        if order not in (1, 2):
            raise ValueError(f"order is 1 or 2, not {order}")
        self.order = order
        counts = np.zeros(SYMBOLS**order, dtype=np.int64)
        for text in texts:
            counts += np.bincount(self._cells(text), minlength=len(counts))
        smoothed = counts.reshape(-1, SYMBOLS).astype(np.float64) + 1
        self.log_probabilities = np.log(smoothed / smoothed.sum(axis=1, keepdims=True)).ravel()

    def nll(self, texts: Sequence[str]) -> np.ndarray:
        """Return the negative log-likelihood of each text and its end, in nats: float64 [N]."""
        import numpy as np

        return np.array([-self.log_probabilities[self._cells(text)].sum() for text in texts], dtype=np.float64)

    def _cells(self, text: str) -> np.ndarray:
        """Return the number of each n-gram of a text: int64 [bytes + 1]."""
        import numpy as np

        symbols = np.array([*text.encode(), END], dtype=np.int64)
        if self.order == 1:
            return symbols
        cells: np.ndarray = np.concatenate([[END], symbols[:-1]]) * SYMBOLS + symbols
        return cells


def count_bytes(text: str) -> int:
    """Return the length of ``text`` in UTF-8."""
    return len(text.encode())
