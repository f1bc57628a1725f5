"""Text generation: a decoder learns plain text, so that it speaks the language of a domain.

Nothing of a text is lost: one that is longer than ``max_length_tokens`` is cut into windows, of which each begins with
the last token of the one before, so that every token is predicted once, the end token included. A text begins as the
tokenizer begins it; where that adds nothing, with the end token, which stands between texts in the training of such
bases: the first token is predicted too, as bits per byte ask for.

The headline is bits per byte: it exists for byte models as for any base, whatever its tokenizer, so champion, candidate
and baselines can be compared. Perplexity depends on the tokenizer.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.generation import GenerationConfig
from graft.language_modeling import (
    ByteModel,
    bits_per_byte,
    count_bytes,
    histogram,
    likelihood_columns,
    nll_per_token,
    perplexity,
    sizes,
)
from graft.likelihood import IGNORED, row_likelihoods, total_likelihood
from graft.padding import WINDOWS_TOGETHER, mask_of, padded, pieces_of, split_windows
from graft.prompting import beginning_of, continued, end_of_text
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]


class Config(TaskConfig):
    """Text generation: each row is a ``text``; the model learns to go on with such texts, and to end them."""

    name: Literal["text_generation"] = "text_generation"
    """The task: plain text, token by token."""

    generation: GenerationConfig = Limit(default_factory=GenerationConfig)
    """How a text is continued by `graft predict` and in serving."""


def unigram(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Expect each byte as often as the training rows have it."""
    return _byte_columns(1, train_rows, test_rows)


def bigram(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Expect each byte as often as the training rows have it after the byte before."""
    return _byte_columns(2, train_rows, test_rows)


def _byte_columns(order: int, train_rows: Sequence[Row], test_rows: Sequence[Row]) -> dict[str, np.ndarray]:
    model = ByteModel(order, (row["text"] for row in train_rows))
    return {"nll": model.nll([row["text"] for row in test_rows])}


def windows_of(tokens: int, limit: int) -> list[tuple[int, int]]:
    """Return where the windows of a text of so many tokens start and end; each shares one token with the next."""
    found = [(0, min(tokens, limit))]
    while found[-1][1] < tokens:
        start = found[-1][1] - 1
        found.append((start, min(tokens, start + limit)))
    return found


class TextGeneration(Task):
    """The contract's methods for plain text."""

    name = "text_generation"
    fields = (Field("text", "string", text=True),)
    families = ("decoder",)
    metrics = (
        Metric("bits_per_byte", bits_per_byte, greater_is_better=False),
        Metric("perplexity", perplexity, greater_is_better=False),
        Metric("nll", nll_per_token, greater_is_better=False),
    )
    headline = "bits_per_byte"
    generates = True
    teaches = ("text", "text that makes a token at least")

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        return iter(())

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([("windows", pa.list_(pa.int32())), ("bytes", pa.int32())])

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        end = end_of_text(tokenizer)
        start = beginning_of(tokenizer) or [end]
        texts = [row["text"] for row in rows]
        found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
        return [
            _token_row(_framed(ids, start, end), count_bytes(text), max_length_tokens, end)
            for ids, text in zip(found, texts, strict=True)
        ]

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        return load_with_head("AutoModelForCausalLM", folder, self.families, **kwargs)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        import torch

        windows = [list(split_windows(row["input_ids"], row["windows"])) for row in rows]
        lines = [line for one in windows for line in one]
        owners = [number for number, one in enumerate(windows) for _ in one]
        return {
            "input_ids": padded(lines, pad_token_id),
            "attention_mask": mask_of(lines),
            "labels": padded(lines, IGNORED),
            "window_row": torch.tensor(owners, dtype=torch.int64),
        }

    def pieces(self, batch: Mapping[str, torch.Tensor], most: int) -> Iterator[Mapping[str, torch.Tensor]]:
        yield from pieces_of(batch, most)

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return total_likelihood(model, batch)

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        owners = batch["window_row"]
        found = owners.new_zeros((int(owners.max()) + 1, 2), dtype=torch.float32)
        for piece in pieces_of(batch, WINDOWS_TOGETHER):
            part = row_likelihoods(model, piece)
            found[: len(part)] += part
        return found

    def generate(
        self, config: Config, model: nn.Module, rows: Sequence[Mapping[str, Any]], processor: Any, pad_token_id: int
    ) -> list[str]:
        prompts = [_joined(row)[:-1] for row in rows]
        return continued(prompts, model, config.generation, processor, pad_token_id, end_of_text(processor))

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        return likelihood_columns(outputs)

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        return {"bytes": np.array([row["bytes"] for row in rows], dtype=np.int64)}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"unigram": unigram, "bigram": bigram}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        if "prediction" in predictions:
            return [{"text": text} for text in predictions["prediction"]]
        pairs = zip(predictions["nll"], predictions["tokens"], strict=True)
        return [{"nll": float(nll), "tokens": int(tokens)} for nll, tokens in pairs]

    def example(self, config: Config, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        first = probe["input_ids"][0][probe["attention_mask"][0] == 1]
        return {"text": processor.decode(first.tolist(), skip_special_tokens=True)}

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"Text": [sizes(table)]}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"histogram": histogram(table["nll"] / table["tokens"], "nll_per_token")}


def _framed(ids: list[int], start: list[int], end: int) -> list[int]:
    """Return the tokens of a text between start and end, which a text may bring already."""
    return [*([] if ids[: len(start)] == start else start), *ids, *([] if ids[-1:] == [end] else [end])]


def _token_row(ids: Sequence[int], size: int, limit: int, end: int) -> dict[str, Any]:
    windows = windows_of(len(ids), limit)
    flat = [token for start, stop in windows for token in ids[start:stop]]
    lengths = [stop - start for start, stop in windows]
    return {
        "input_ids": flat,
        "windows": lengths,
        "bytes": size,
        "supervised": len(ids) - 1 if len(ids) > 2 else 0,
        "ended": ids[-1] == end,
        "untruncated_length": len(flat),
    }


def _joined(row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of the text that the windows of a token row were cut from."""
    first, *others = split_windows(row["input_ids"], row["windows"])
    return [*first, *(token for window in others for token in window[1:])]


TASK = TextGeneration()
