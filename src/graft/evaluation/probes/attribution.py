"""Which words of a row drove a model's answer: integrated gradients over its word embeddings, by captum.

The path goes from a baseline, the same row with every own token replaced by the mask token (a model without one: the
padding token), to the row; a token's attribution is its share in how the output changes on the way, and all of them
add up to that change (completeness; Sundararajan, Taly and Yan, ICML 2017, section 3 and equation 1). Gradients run
through base, adapter and head as they are, whatever put them there: captum hooks the embedding layers alone.

What is explained is one number of a row; which one, and of which tokens, is the matter of :mod:`questions`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.evaluation.probes.questions import asked, log_odds
from graft.privacy.section import PrivacyConfig

if TYPE_CHECKING:
    import torch

    from graft.artifact import LoadedAdapter
    from graft.data import Record

TOKENS_TOGETHER = 1 << 11
"""How many tokens of the path go through the model at once: bounds the memory of the gradients."""
PICTURES_TOGETHER = 8
WIDE = "\u3040-\u30ff\u3400-\u9fff"
WORDS = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
"""Words as they are shown: between spaces; single characters of Chinese and Japanese, which have none."""
Pieces = list[tuple[str, float]]


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
    answer: str | None = None
    """What of the answer is explained, where that is not all of it; may hold what is private."""
    expected: str | None = None
    """What it should be."""
    picture: str = ""
    """Where the row is a picture: a copy of it with marks, as a data URI."""


def attribution(
    loaded: LoadedAdapter, record: Record, privacy: PrivacyConfig, steps: int, said: Mapping[str, Any] | None = None
) -> Attribution | None:
    """Return what each word of a row adds to the number that is explained, with the model as it stands.

    None where nothing was answered, or the row's tokens cannot be found again in its text (a tokenizer that does not
    say where they stand).

    Args:
        loaded: the adapter on its base.
        record: the row.
        privacy: what is private in texts: it is one piece, with a placeholder.
        steps: points on the path (Gauss-Legendre).
        said: the row's line of the adapter's prediction table, where its answer is text, tags or a span.
    """
    from captum.attr import LayerIntegratedGradients

    question = asked(loaded, record, said or {})
    if question is None:
        return None
    layers: Any = question.layers if len(question.layers) > 1 else question.layers[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Multiple layers provided")  # neither embedding reads the other
        found = LayerIntegratedGradients(question.number, layers).attribute(
            question.ids,
            baselines=question.emptied,
            additional_forward_args=question.others or None,
            n_steps=steps,
            internal_batch_size=len(question.ids) * max(1, min(steps, TOKENS_TOGETHER // question.ids.numel())),
        )
    by_token, *later = [one.detach().sum(-1).double().cpu() for one in (found if isinstance(found, list) else [found])]
    whole = sum(float(one.sum()) for one in (by_token, *later))
    for one in later:  # a decoder reads a token one place behind
        by_token[:, :-1] += one[:, 1:]
    output, baseline = question.ends()
    return Attribution(
        pieces=pieces_of(
            question.texts,
            [(text, start, end, float(by_token[line, at])) for line, at, text, start, end in question.places],
            privacy,
        ),
        output=output,
        baseline=baseline,
        gap=output - baseline - whole,
        answer=question.answer,
        expected=question.expected,
    )


def picture_attribution(loaded: LoadedAdapter, record: Record, steps: int) -> Attribution:
    """Return which parts of a picture speak for the label given, against a picture of the mean colour.

    The attributions of a patch's pixels, or of a square of 16 where the base has no patches, are one mark.
    """
    import torch
    from captum.attr import IntegratedGradients

    from graft.pictures import marked

    task, limit = loaded.task, loaded.identity["max_length_tokens"]
    [encoded] = task.encode(loaded.config, [record.row], loaded.processor, limit)
    pixels = task.collate([encoded], loaded.pad_token_id, loaded.state)["pixel_values"].to(loaded.device)
    with torch.no_grad():
        label = int(task.outputs(loaded.config, loaded.model, {"pixel_values": pixels})[0].argmax())

    def number(given: torch.Tensor) -> torch.Tensor:
        return log_odds(task.outputs(loaded.config, loaded.model, {"pixel_values": given}), label)

    found = IntegratedGradients(number).attribute(pixels, n_steps=steps, internal_batch_size=PICTURES_TOGETHER)
    with torch.no_grad():
        output, baseline = float(number(pixels)[0]), float(number(torch.zeros_like(pixels))[0])
    by_pixel = found.detach()[0].sum(0).double().cpu()
    side = getattr(loaded.model.get_base_model().config, "patch_size", None)
    squares = torch.nn.functional.avg_pool2d(by_pixel[None], side if isinstance(side, int) else 16, ceil_mode=True)[0]
    return Attribution(
        pieces=[],
        output=output,
        baseline=baseline,
        gap=output - baseline - float(by_pixel.sum()),
        picture=marked(loaded.processor.picture(pixels[0].cpu().numpy()), squares.numpy()),
    )


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
