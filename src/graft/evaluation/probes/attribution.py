"""Which words of a row drove a model's answer: integrated gradients over its word embeddings, by captum.

The path goes from a baseline, the same row with every own token replaced by the mask token (a model without one: the
padding token), to the row; a token's attribution is its share in how the output changes on the way, and all of them
add up to that change (completeness; Sundararajan, Taly and Yan, ICML 2017, section 3 and equation 1). Gradients run
through base, adapter and head as they are, whatever put them there: captum hooks the embedding layer alone.

What is explained is one number of a row (:data:`EXPLAINED`): the log-odds of the label that is given, or a predicted
value. Logits are no good for it: all of them may rise together and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.privacy.section import PrivacyConfig
from graft.tasks import family_of

if TYPE_CHECKING:
    import torch

    from graft.artifact import LoadedAdapter
    from graft.data import Record

TOKENS_TOGETHER = 1 << 13
"""How many tokens of the path go through the model at once: bounds the memory of the gradients."""
NOT_INPUTS = ("input_ids", "labels", "window_row")
WIDE = "\u3040-\u30ff\u3400-\u9fff"
WORDS = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
"""Words as they are shown: between spaces; single characters of Chinese and Japanese, which have none."""
Pieces = list[tuple[str, float]]


def log_odds(outputs: torch.Tensor, label: int) -> torch.Tensor:
    """Return the log-odds of a label against all others of logits [B, C]: [B]."""
    import torch

    others = torch.cat([outputs[:, :label], outputs[:, label + 1 :]], dim=1)
    return outputs[:, label] - torch.logsumexp(others, dim=1)


def one_column(outputs: torch.Tensor, column: int) -> torch.Tensor:
    """Return a column of outputs [B, C]: [B]. A logit of its own sigmoid is its log-odds already."""
    return outputs[:, column]


EXPLAINED: Mapping[str, tuple[Callable[[torch.Tensor, int], torch.Tensor], str]] = {
    "text_classification": (log_odds, "the log-odds of the label given"),
    "multi_label_classification": (one_column, "the log-odds of its likeliest label"),
    "regression": (one_column, "the predicted value, in standard deviations of the targets"),
}
"""Task -> the number of a row that is explained, and what it is called."""


@dataclass(frozen=True)
class Attribution:
    """Why a row got its answer."""

    pieces: Pieces
    """The row's texts in pieces, in order, each with its attribution; what is between words has 0."""
    output: float
    """What is explained, of the row."""
    baseline: float
    """The same of the row without its words."""
    gap: float
    """By how much the attributions miss the change from ``baseline`` to ``output``."""


def not_explained(loaded: LoadedAdapter) -> str | None:
    """Return why an adapter's answers cannot be explained here; None where they can."""
    if loaded.task.name not in EXPLAINED:
        return f"answers of {loaded.task.name} are more than one number"
    if family_of(loaded.model.get_base_model().config) == "encoder-decoder":
        return "an encoder-decoder reads the row twice, by two embeddings"
    return None


def attribution(loaded: LoadedAdapter, record: Record, privacy: PrivacyConfig, steps: int) -> Attribution | None:
    """Return what each word of a row adds to the number that is explained, with the model as it stands.

    None where the row's tokens cannot be found again in its text (a tokenizer that does not say where they stand).

    Args:
        loaded: the adapter on its base.
        record: the row.
        privacy: what is private in texts: it is one piece, with a placeholder.
        steps: points on the path (Gauss-Legendre).
    """
    import torch
    from captum.attr import LayerIntegratedGradients

    task, limit = loaded.task, loaded.identity["max_length_tokens"]
    [encoded] = task.encode(loaded.config, [record.row], loaded.processor, limit)
    places = _places(loaded, record, encoded, limit)
    if places is None:
        return None
    batch = {
        name: value.to(loaded.device)
        for name, value in task.collate([encoded], loaded.pad_token_id, loaded.state).items()
    }
    others = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    ids, emptied = batch["input_ids"], batch["input_ids"].clone()
    for line, at, *_ in places:
        emptied[line, at] = _nothing(loaded)
    with torch.no_grad():
        outputs = task.outputs(loaded.config, loaded.model, {"input_ids": ids, **others})
    explained, column = EXPLAINED[task.name][0], int(outputs[0].argmax())

    def forward(given: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": given, **dict(zip(others, values, strict=True))}
        return explained(task.outputs(loaded.config, loaded.model, inputs), column)

    method = LayerIntegratedGradients(forward, loaded.model.get_base_model().get_input_embeddings())
    found = method.attribute(
        ids,
        baselines=emptied,
        additional_forward_args=tuple(others.values()) or None,
        n_steps=steps,
        internal_batch_size=len(ids) * max(1, min(steps, TOKENS_TOGETHER // ids.numel())),
    )
    by_token = found.detach().sum(-1).double().cpu()
    with torch.no_grad():
        ends = [float(forward(given, *others.values())[0]) for given in (ids, emptied)]
    weights = [(field, start, end, float(by_token[line, at])) for line, at, field, start, end in places]
    texts = [record.row[name] for name in ("text", "text_pair") if record.row.get(name)]
    return Attribution(
        pieces=pieces_of(texts, weights, privacy),
        output=ends[0],
        baseline=ends[1],
        gap=ends[0] - ends[1] - float(by_token.sum()),
    )


def _nothing(loaded: LoadedAdapter) -> int:
    """Return the token that stands for no word."""
    mask = loaded.processor.mask_token_id
    return int(loaded.pad_token_id if mask is None else mask)


def _places(
    loaded: LoadedAdapter, record: Record, encoded: Mapping[str, Any], limit: int
) -> list[tuple[int, int, int, int, int]] | None:
    """Return each own token: its line and column in the batch, and text, start and end of what it stands for."""
    if not loaded.processor.is_fast:
        return None
    texts = [record.row[name] for name in ("text", "text_pair") if record.row.get(name)]
    apart = encoded.get("windows") is not None
    given = [(text,) for text in texts] if apart else [tuple(texts)]
    ids: list[int] = []
    found = []
    for line, some in enumerate(given):
        tokens = loaded.processor(*some, truncation=True, max_length=limit, return_offsets_mapping=True, verbose=False)
        ids += tokens["input_ids"]
        owners = zip(tokens.sequence_ids(), tokens["offset_mapping"], strict=True)
        found += [
            (line, at, line if apart else owner, start, end)
            for at, (owner, (start, end)) in enumerate(owners)
            if owner is not None
        ]
    return found if ids == list(encoded["input_ids"]) else None


def pieces_of(texts: Sequence[str], weights: Sequence[tuple[int, int, int, float]], privacy: PrivacyConfig) -> Pieces:
    """Return texts in pieces with the sum of the attributions of each piece's tokens.

    Pieces are words (:data:`WORDS`) and what is between them; what is private is one piece, a placeholder; what was cut
    off behind the last token is ``…``. Two texts are on lines of their own.

    Args:
        texts: one text, or two.
        weights: by token: which text, the first and the last character but one, its attribution.
        privacy: what is private.
    """
    found: Pieces = []
    for number, text in enumerate(texts):
        own = [(start, end, weight) for owner, start, end, weight in weights if owner == number]
        if number:
            found.append(("\n", 0.0))
        found += _pieces(text, own, privacy)
    return found


def _pieces(text: str, weights: Sequence[tuple[int, int, float]], privacy: PrivacyConfig) -> Pieces:
    last = max((end for _, end, _ in weights), default=0)
    private = {(one.start, one.end): f"<{one.kind.upper()}>" for one in privacy.find(text)}
    spans = _spans(text, list(private))
    found: Pieces = []
    at = 0
    for start, end in spans:
        if start >= last:
            break
        found += [(text[at:start], 0.0)] if start > at else []
        # A token belongs to the piece that its last character is in: byte-level ones begin with the space before.
        inside = sum(weight for _, stop, weight in weights if start < stop <= end)
        found.append((private.get((start, end), text[start:end]), inside))
        at = end
    return [*found, ("…", 0.0)] if text[at:].strip() else found


def _spans(text: str, private: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return start and end of private values, and of the words around them."""
    found = list(private)
    for word in WORDS.finditer(text):
        start = word.start()
        for begin, end in [one for one in private if one[0] < word.end() and one[1] > word.start()]:
            found += [(start, begin)] if start < begin else []
            start = max(start, end)
        found += [(start, word.end())] if start < word.end() else []
    return sorted(found)
