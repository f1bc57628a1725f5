"""How likely a language model finds the tokens that it is supervised on.

Cross-entropy at the positions that ``labels`` mark, summed per row: the loss of every language-model task, and what
perplexity and preference margins are made of. Written for decoders (a position predicts the next token) and
encoder-decoders (position t of the decoder predicts label t) alike, with or without virtual tokens in front, which
prompt methods add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

IGNORED = -100
"""The label of a position that is not supervised: torch's and transformers' own."""
NOT_FOR_THE_MODEL = ("labels", "window_row")


def supervised(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's summed negative log-likelihood (nats, float32 [R]) and its supervised tokens (int64 [R]).

    Args:
        model: a language model, adapted or not.
        batch: ``input_ids``, ``attention_mask`` int64 [B, T] and ``labels``, ``IGNORED`` where nothing is supervised:
            [B, T] of a decoder, aligned with ``input_ids``; [B, U] of an encoder-decoder, the target tokens. With
            ``window_row`` int64 [B], lines are windows and are summed by row: R is its largest value + 1, else B.
    """
    import torch

    labels = batch["labels"]
    logits = _logits(model, batch)
    if not _inner(model).config.is_encoder_decoder:  # position t predicts label t + 1
        logits, labels = logits[:, -batch["input_ids"].shape[1] : -1], labels[:, 1:]
    kept = labels != IGNORED
    losses = torch.nn.functional.cross_entropy(logits[kept].float(), labels[kept], reduction="none")
    rows = batch.get("window_row", torch.arange(len(labels), device=labels.device))
    owner = rows[:, None].expand_as(labels)[kept]
    count = int(rows.max()) + 1 if len(rows) else 0
    zeros = torch.zeros(count, device=losses.device, dtype=losses.dtype)
    sums = zeros.index_add(0, owner, losses)
    tokens = torch.zeros(count, device=owner.device, dtype=torch.int64).index_add(0, owner, torch.ones_like(owner))
    return sums, tokens


def total_likelihood(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the sum of :func:`supervised` over the rows, and over how many tokens: a task's loss."""
    sums, tokens = supervised(model, batch)
    return sums.sum(), int(tokens.sum())


def row_likelihoods(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return both columns of :func:`supervised` as a task's outputs: float32 [R, 2]."""
    import torch

    sums, tokens = supervised(model, batch)
    return torch.stack([sums.float(), tokens.float()], dim=1)


def _logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    given = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    inner = _inner(model)
    if inner.config.is_encoder_decoder:
        given["decoder_input_ids"] = inner.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    logits: torch.Tensor = model(**given).logits
    return logits


def _inner(model: nn.Module) -> Any:
    """Return transformers' model, which PEFT may have wrapped."""
    outer: Any = model
    return outer.get_base_model() if hasattr(outer, "get_base_model") else outer
