"""How likely a language model finds the tokens that it is supervised on.

Cross-entropy at the positions that ``labels`` mark, summed per row: the loss of every language-model task, and what
perplexity and preference margins are made of. Written for decoders (a position predicts the next token) and
encoder-decoders (position t of the decoder predicts label t) alike, with or without virtual tokens in front, which
prompt methods add.

A vocabulary is wide: in a small model its logits are most of the work, and in any model most of the memory. So the
head runs at supervised positions alone, and where it is a plain linear layer that is not trained, the cross-entropy
takes it along in chunks: a chunk's logits become its losses and its gradient at once, and no more of them is ever
there. (torch's own ``linear_cross_entropy`` sums losses of 16 bits in 16 bits: of 1,500 tokens, it loses a tenth.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from graft.padding import WHOLE_TOKENS

if TYPE_CHECKING:
    import torch
    from torch import nn

IGNORED = -100
"""The label of a position that is not supervised: torch's and transformers' own."""
NOT_FOR_THE_MODEL = ("labels", "window_row")
CHUNK, CHUNK_ON_CUDA = 1 << 22, 1 << 27
"""Logits that are there at once: 16 MB, or 512 MB, of float32."""
_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Heads, and whether their model's logits are what they put out, as it is (not capped or scaled): seen at first use."""


def supervised(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's summed negative log-likelihood (nats, float32 [R]) and its supervised tokens (int64 [R]).

    Args:
        model: a language model, adapted or not.
        batch: ``input_ids``, ``attention_mask`` int64 [B, T] and ``labels``, ``IGNORED`` where nothing is supervised:
            [B, T] of a decoder, aligned with ``input_ids``; [B, U] of an encoder-decoder, the target tokens. With
            ``window_row`` int64 [B], lines are windows and are summed by row: R is its largest value + 1, else B.
    """
    import torch

    losses, kept = _losses(model, batch)
    labels = batch["labels"]
    rows = batch.get("window_row", torch.arange(len(labels), device=labels.device))
    owner = rows[:, None].expand_as(kept)[kept]
    count = int(rows.max()) + 1 if len(rows) else 0
    zeros = torch.zeros(count, device=losses.device, dtype=losses.dtype)
    sums = zeros.index_add(0, owner, losses)
    tokens = torch.zeros(count, device=owner.device, dtype=torch.int64).index_add(0, owner, torch.ones_like(owner))
    return sums, tokens


def total_likelihood(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the sum of :func:`supervised` over the rows, and over how many tokens: a task's loss."""
    losses, kept = _losses(model, batch)
    return losses.sum(), int(kept.sum())


def row_likelihoods(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return both columns of :func:`supervised` as a task's outputs: float32 [R, 2]."""
    import torch

    sums, tokens = supervised(model, batch)
    return torch.stack([sums.float(), tokens.float()], dim=1)


def _losses(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy at supervised positions (nats, float32 [n]) and which these are: bool [B, U]."""
    import torch
    from torch.nn.functional import cross_entropy, pad

    inner, labels = _inner(model), batch["labels"]
    given = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    if inner.config.is_encoder_decoder:
        given["decoder_input_ids"] = _shifted(inner, labels)
        given["decoder_attention_mask"] = (labels != IGNORED).long()  # nobody looks at the end's filler, causally
    else:  # position t predicts label t + 1
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)
    kept, head = labels != IGNORED, inner.get_output_embeddings()
    targets = labels[kept]
    if not _is_plain(head, model, given):
        logits = model(**given).logits[:, -labels.shape[1] :]
        return cross_entropy(logits[kept].float(), targets, reduction="none"), kept
    hidden = _read_by(head, model, given, kept)
    filler = -len(targets) % WHOLE_TOKENS
    losses = _head_loss()(pad(hidden, (0, 0, 0, filler)), head.weight, head.bias, pad(targets, (0, filler)))
    return losses[: len(targets)], kept


def _shifted(inner: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return what a decoder reads to predict ``labels`` [B, U]: a start token, and the labels before each one."""
    import torch

    if hasattr(inner, "prepare_decoder_input_ids_from_labels"):
        found: torch.Tensor = inner.prepare_decoder_input_ids_from_labels(labels=labels)
        return found
    config = inner.config  # M2M100 (NLLB) and Blenderbot shift them only where they also compute the loss
    start = torch.full_like(labels[:, :1], config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, config.pad_token_id)


def _is_plain(head: nn.Module, model: nn.Module, given: Mapping[str, Any]) -> bool:
    """Return whether a model's logits are what ``head``, a linear layer that is not trained, puts out as it is.

    It is tried once, on the first row, without touching random numbers: a training that resumes must not differ by it.
    """
    import torch

    if type(head) is not torch.nn.Linear or head.weight.requires_grad:
        return False
    if head not in _PLAIN:
        first = {name: one[:1] if isinstance(one, torch.Tensor) else one for name, one in given.items()}
        seen: list[torch.Tensor] = []
        hook = head.register_forward_hook(lambda _, __, found: seen.append(found))
        devices = [head.weight.device] if head.weight.is_cuda else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices):
                logits = model(**first).logits
        finally:
            hook.remove()
        _PLAIN[head] = len(seen) == 1 and torch.equal(logits, seen[0][:, -logits.shape[1] :])
    return _PLAIN[head]


def _read_by(head: nn.Module, model: nn.Module, given: Mapping[str, Any], kept: torch.Tensor) -> torch.Tensor:
    """Return what ``head`` reads at the positions that ``kept`` [B, U] marks: [n, D]; it runs at one of them alone.

    The head reads [B, V + U, D], V virtual tokens in front.
    """
    read: list[torch.Tensor] = []

    def choose(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        read[:] = [arguments[0][:, -kept.shape[1] :][kept]]
        # Contiguous: a slice would be multiplied line by line, each with a copy of the whole vocabulary's weights.
        return (arguments[0][:1, -1:].contiguous(), *arguments[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        model(**given)
    finally:
        hook.remove()
    return read[0]


@functools.cache
def _head_loss() -> Any:
    import torch

    class HeadLoss(torch.autograd.Function):
        """Cross-entropy of a linear layer's outputs: hidden [n, D], W [V, D], b [V] or None, targets int64 [n]."""

        @staticmethod
        def forward(
            ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
        ) -> torch.Tensor:
            learns = ctx.needs_input_grad[0]
            losses, gradients = [], []
            size = (CHUNK_ON_CUDA if hidden.is_cuda else CHUNK) // len(weight) // WHOLE_TOKENS * WHOLE_TOKENS
            size = max(size, WHOLE_TOKENS)
            for some, aims in zip(torch.split(hidden, size), torch.split(targets[:, None], size), strict=True):
                logits = torch.nn.functional.linear(some, weight, bias).float()
                total = logits.logsumexp(1, keepdim=True)
                losses.append((total - logits.gather(1, aims))[:, 0])
                if learns:  # softmax, less 1 at the target
                    logits.sub_(total).exp_().scatter_add_(1, aims, torch.full_like(total, -1.0))
                    gradients.append(logits.to(weight.dtype) @ weight)
            if learns:
                ctx.save_for_backward(torch.cat(gradients))
            return torch.cat(losses)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            (found,) = ctx.saved_tensors
            return found * gradients[0][:, None].to(found.dtype), None, None, None

    return HeadLoss.apply


def _inner(model: nn.Module) -> Any:
    """Return transformers' model, which PEFT may have wrapped."""
    outer: Any = model
    return outer.get_base_model() if hasattr(outer, "get_base_model") else outer
