"""Text from a language model: batched, deterministic, with settings that travel with the adapter.

Beam search or greedy decoding, never sampling: equal inputs give equal text, so a metric over it can be reproduced and
a paired test compares systems and not dice. A base's own generation_config.json would act on every text without a word
(lengths, penalties, beams, a bias), and some of its settings give several answers or none: only what the base needs to
write its language at all (:data:`KEPT`) is taken from it, and the report names that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.errors import ConfigError
from graft.padding import mask_of, padded

if TYPE_CHECKING:
    from torch import nn


KEPT = (
    *("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
)
"""What is taken from a base's generation_config.json: with which tokens a text begins and ends (mBART and M2M100 name
the language so), and which it never holds (Marian's padding, which starts the decoder, and places of pictures)."""


class GenerationConfig(Section):
    """How text is generated, for metrics and for answers."""

    max_new_tokens: int = Limit(default=64, ge=1)
    """The longest answer, in tokens."""

    num_beams: int = Limit(default=1, ge=1)
    """Beams of the search; 1 is greedy decoding."""

    length_penalty: float = 1.0
    """Above 0 favours longer beams; only with more than one beam."""

    no_repeat_ngram_size: int = Limit(default=0, ge=0)
    """N-grams of this size occur once; 0: no such rule."""

    repetition_penalty: float = Limit(default=1.0, gt=0)
    """Divides the scores of tokens that occurred before; 1: no penalty."""

    batch_rows: int = Limit(default=16, ge=1)
    """Rows that are generated together."""


def described(settings: GenerationConfig) -> dict[str, str]:
    """Return how text was generated, by the names of the params, for the report; batches change no answer."""
    return {name: f"{value:g}" for name, value in settings.model_dump(exclude={"batch_rows"}).items()}


def kept(model: nn.Module) -> dict[str, Any]:
    """Return the settings of the base's own generation_config.json that act on the text, by name."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    own = {name: getattr(inner.generation_config, name, None) for name in KEPT}
    return {name: value for name, value in own.items() if value is not None}


def described_base(model: nn.Module) -> dict[str, str]:
    """Return :func:`kept` for the report; a name says that the base has brought the setting."""
    return {f"{name} (of the base)": json.dumps(value) for name, value in kept(model).items()}


def room_of_prompt(settings: GenerationConfig, positions: int, taken: int = 0) -> int:
    """Return how many tokens a prompt may have where it shares ``positions`` with its answer.

    An adapter's own prompt has ``taken`` some of them.

    Raises:
        ConfigError: the answer alone has no room.
    """
    room = positions - taken - settings.max_new_tokens
    if room < 2:
        raise ConfigError(
            f"task.generation.max_new_tokens: {settings.max_new_tokens} leave a prompt no room, the base has "
            f"{positions} positions"
            + (f", {taken} of them for the adapter's own prompt" if taken else "")
            + "; set fewer"
        )
    return room


def generate_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    *,
    pad_token_id: int,
    eos_token_id: int | Sequence[int] | None,
) -> list[list[int]]:
    """Return the tokens that ``model`` adds to each prompt, without prompt, padding and everything after the end.

    Prompts of like length share a batch; the order of the result is that of ``prompts``. The model keeps its mode. An
    adapter that is switched off has no part in it. Of the base's own settings, those of :func:`kept` act.
    """
    import torch

    inner: Any = getattr(model, "get_base_model", lambda: model)()
    # A method that trains a prompt puts it in front in its own ``generate``, whether it is switched off or not.
    speaker: Any = inner if getattr(model, "switched_off", False) else model
    decoder = not inner.config.is_encoder_decoder
    ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    found: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode(), _with_kept_alone(inner):
        for chosen in _batches(prompts, settings.batch_rows, equal=decoder and _stands_before_padding(speaker)):
            ids = padded([prompts[index] for index in chosen], pad_token_id, left=decoder).to(inner.device)
            mask = mask_of([prompts[index] for index in chosen], left=decoder).to(inner.device)
            answers = speaker.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                pad_token_id=pad_token_id,
                eos_token_id=sorted(ends) or None,
                max_new_tokens=settings.max_new_tokens,
                num_beams=settings.num_beams,
                repetition_penalty=settings.repetition_penalty,
                no_repeat_ngram_size=settings.no_repeat_ngram_size,
                **({"length_penalty": settings.length_penalty} if settings.num_beams > 1 else {}),
            )
            answers = answers[:, ids.shape[1] :] if decoder else answers[:, 1:]
            for index, answer in zip(chosen, answers.tolist(), strict=True):
                found[index] = _until_end(answer, ends)
    return found


def _stands_before_padding(model: Any) -> bool:
    """Say whether an adapter's own prompt stands among the embeddings, before the padding on the left.

    PEFT numbers the positions of such a row through its padding, so that a padded row would get another answer.
    """
    config = getattr(model, "active_peft_config", None)
    return bool(config is not None and config.is_prompt_learning and "PREFIX" not in str(config.peft_type))


def _batches(prompts: Sequence[Sequence[int]], size: int, *, equal: bool) -> Iterator[list[int]]:
    """Yield the numbers of prompts of like length, ``size`` at most; of one length where they must be ``equal``."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    groups = groupby(order, key=lambda index: len(prompts[index])) if equal else [(0, iter(order))]
    for _, group in groups:
        chosen = list(group)
        yield from (chosen[start : start + size] for start in range(0, len(chosen), size))


@contextlib.contextmanager
def _with_kept_alone(inner: Any) -> Iterator[None]:
    """Run a block in which ``inner`` has nothing of its generation_config.json but :func:`kept`.

    ``generate`` fills what its arguments leave open from the model's own settings, whatever it is given.
    """
    from transformers import GenerationConfig as Whole

    given = inner.generation_config
    inner.generation_config = Whole(**kept(inner))
    try:
        yield
    finally:
        inner.generation_config = given


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[:place]
    return tokens
