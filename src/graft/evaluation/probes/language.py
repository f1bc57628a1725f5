"""A base as the language model that it was, with an adapter on or off: what it makes of any text.

An adapter for a classifier sits in the layers of the base, and the task's head has taken the place of the language
model's. So the base's own head is loaded from the base's files, and the base with the adapter in it is put below: the
adapter on and off then differ in nothing but the adapter. Three families, three likelihoods (nats are made bits):

- a decoder predicts each token after those before it;
- an encoder-decoder reads the first half of a text and predicts the second;
- an encoder with a masked-language head predicts masked tokens. Masking one at a time (pseudo-likelihood; Salazar et
  al., ACL 2020, equation 2) costs a pass for each token; here every seventh is masked at once, about the share that
  encoders are pretrained with, so a text costs seven passes and each token is predicted once.

Sentence encoders are published without a head. Then all that can be said is how far their states moved
(:func:`similarity`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.base.contents import positions_of
from graft.likelihood import IGNORED, supervised
from graft.padding import mask_of, padded
from graft.prompting import beginning_of
from graft.tasks import Family, family_of, quiet

if TYPE_CHECKING:
    import numpy as np
    import torch

    from graft.artifact import LoadedAdapter

MASKED_EVERY = 7
"""Of how many tokens one is masked at once: 14 %, where BERT's pretraining has 15 %."""
LOGITS = 1 << 26
"""How many logits are held at once: 256 MiB of float32."""
MODELS: dict[Family, str] = {
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForMaskedLM",
}


@dataclass(frozen=True)
class Line:
    """One sequence for the model."""

    text: int
    """Which text it is of."""
    ids: list[int]
    labels: list[int]
    """What is to be predicted where, ``IGNORED`` elsewhere: as long as ``ids``, or the target of an encoder-decoder."""


def is_prompt(loaded: LoadedAdapter) -> bool:
    """Say whether the adapter is virtual tokens before the input, so that no layer of the base holds it."""
    return bool(loaded.model.active_peft_config.is_prompt_learning)


def has_own_head(loaded: LoadedAdapter) -> bool:
    """Say whether the task's model is a language model itself."""
    return loaded.model.get_base_model().get_output_embeddings() is not None


def longest(loaded: LoadedAdapter, tokens: int) -> int:
    """Return ``tokens``, or how many the base can read where those are fewer."""
    limit = positions_of(loaded.model.get_base_model().config.to_dict())
    return tokens if limit is None else min(tokens, limit)


def language_model(loaded: LoadedAdapter, root: Path) -> Any | None:
    """Return a language model with the adapter in its layers; None where the base's files have no head for one.

    What it says changes when the adapter is switched off (``loaded.model.disable_adapter``).
    """
    import torch
    import transformers

    if has_own_head(loaded):
        return loaded.model
    inner = loaded.model.get_base_model()
    family = family_of(inner.config)
    masks = family != "encoder" or loaded.processor.mask_token_id is not None
    if family not in MODELS or not masks or loaded.identity["base"].get("quantization"):
        return None
    try:
        with quiet(), torch.random.fork_rng():
            whole, info = getattr(transformers, MODELS[family]).from_pretrained(
                str(loaded.base.folder(root)),
                output_loading_info=True,
                dtype=getattr(torch, loaded.identity["base"]["dtype"]),
            )
    except ValueError:  # transformers knows no language model of this kind
        return None
    if any(".pooler." not in f".{name}" for name in info["missing_keys"]):
        return None
    return _below_head(whole, inner).eval().to(loaded.device)


def _below_head(whole: Any, inner: Any) -> Any:
    """Put the base of ``inner`` in the place of the one of ``whole``, a language model of the same kind."""
    base = getattr(inner, inner.base_model_prefix)
    if hasattr(whole, whole.base_model_prefix):
        setattr(whole, whole.base_model_prefix, base)
    else:  # a T5 has encoder and decoder beside its head
        for name, module in base.named_children():
            setattr(whole, name, module)
    return whole


def likelihoods(
    model: Any, loaded: LoadedAdapter, texts: Sequence[str], *, limit: int, batch_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed log-likelihood of each text in bits (float64 [N]) and its predicted tokens (int64 [N]).

    Args:
        model: what :func:`language_model` returns, with the adapter on or off.
        loaded: the adapter, for tokenizer and device.
        texts: N texts.
        limit: how many tokens of a text are read.
        batch_rows: lines per forward pass, at most; fewer where the vocabulary is large.
    """
    import math

    import numpy as np
    import torch

    family = family_of(loaded.model.get_base_model().config)
    lines = sorted(_lines(loaded.processor, texts, limit, family), key=lambda line: (len(line.ids), line.text))
    bits, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    vocabulary = int(loaded.model.get_base_model().get_input_embeddings().weight.shape[0])
    with torch.inference_mode():
        for some in _batches(lines, vocabulary, batch_rows):
            batch = {name: value.to(loaded.device) for name, value in _batch(some, loaded.pad_token_id).items()}
            sums, counts = (_masked if family == "encoder" else supervised)(model, batch)
            owners = [line.text for line in some]
            np.add.at(bits, owners, -sums.double().cpu().numpy() / math.log(2))
            np.add.at(tokens, owners, counts.cpu().numpy())
    return bits, tokens


def _lines(tokenizer: Any, texts: Sequence[str], limit: int, family: Family) -> Iterator[Line]:
    cut = {"decoder": _after_start, "encoder-decoder": _in_halves, "encoder": _with_masks}[family]
    for number, text in enumerate(texts):
        for ids, labels in cut(tokenizer, text, limit):
            yield Line(number, ids, labels)


def _after_start(tokenizer: Any, text: str, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens behind what begins a text; without a BOS the end token stands there, as between texts."""
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    start = beginning_of(tokenizer) or ends
    ids = [*start, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids][:limit]
    yield ids, [*[IGNORED] * len(start), *ids[len(start) :]]


def _in_halves(tokenizer: Any, text: str, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the first half of the tokens, framed as the tokenizer does it, with the second as the target."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:limit]
    half = len(ids) // 2
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    before = beginning_of(tokenizer)
    yield [*before, *ids[:half], *whole[len(before) + len(bare) :]], ids[half:]


def _with_masks(tokenizer: Any, text: str, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the text with every seventh token masked, seven times, so that each is masked once."""
    found = tokenizer(text, truncation=True, max_length=limit, return_special_tokens_mask=True, verbose=False)
    ids, own = found.input_ids, [at for at, special in enumerate(found.special_tokens_mask) if not special]
    for first in range(min(MASKED_EVERY, len(own))):
        masked = set(own[first::MASKED_EVERY])
        read = [tokenizer.mask_token_id if at in masked else one for at, one in enumerate(ids)]
        yield read, [one if at in masked else IGNORED for at, one in enumerate(ids)]


def _batches(lines: Sequence[Line], vocabulary: int, batch_rows: int) -> Iterator[list[Line]]:
    """Yield lines, shortest first, as many at once as the logits have room for."""
    batch: list[Line] = []
    for line in lines:
        if batch and (len(batch) == batch_rows or (len(batch) + 1) * len(line.ids) * vocabulary > LOGITS):
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def _batch(lines: Sequence[Line], pad_token_id: int) -> dict[str, torch.Tensor]:
    ids = [line.ids for line in lines]
    labels = padded([line.labels for line in lines], IGNORED)
    return {"input_ids": padded(ids, pad_token_id), "attention_mask": mask_of(ids), "labels": labels}


def _masked(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each line's summed negative log-likelihood (nats, float32 [B]) of its masked tokens, and their number."""
    import torch

    labels = batch["labels"]
    kept = labels != IGNORED
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = torch.zeros(labels.shape, device=labels.device)
    losses[kept] = torch.nn.functional.cross_entropy(logits[kept].float(), labels[kept], reduction="none")
    return losses.sum(1), kept.sum(1)


def similarity(
    loaded: LoadedAdapter, texts: Sequence[str], *, limit: int, batch_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return how alike the states of each text are to those with the adapter off (float64 [N]), and its tokens.

    The cosine of a token's last hidden state to the base's, both less the mean of the base's over all tokens, as the
    mean over the tokens of a text. Without the mean, any two states of an encoder are alike (Ethayarajh, EMNLP 2019,
    section 4.1). 1: nothing moved. The model is asked as it stands, and with the adapter off.
    """
    import numpy as np

    own = [
        [at for at, special in enumerate(found) if not special]
        for found in loaded.processor(
            list(texts), truncation=True, max_length=limit, return_special_tokens_mask=True, verbose=False
        ).special_tokens_mask
    ]
    with loaded.model.disable_adapter():
        before = _states(loaded, texts, limit, batch_rows)
    now = before if getattr(loaded.model, "switched_off", False) else _states(loaded, texts, limit, batch_rows)
    middle = np.concatenate([states[places] for states, places in zip(before, own, strict=True)]).mean(0)
    alike = [
        _cosines(one[places] - middle, other[places] - middle)
        for one, other, places in zip(now, before, own, strict=True)
    ]
    scores = np.array([one.mean() if len(one) else np.nan for one in alike])
    return scores, np.array([len(places) for places in own], dtype=np.int64)


def _states(loaded: LoadedAdapter, texts: Sequence[str], limit: int, batch_rows: int) -> list[np.ndarray]:
    """Return the last hidden states of each text: float64 [T, D], of its own tokens."""
    import numpy as np
    import torch

    inner = loaded.model.get_base_model()
    base = getattr(inner, inner.base_model_prefix)
    rows = loaded.processor(list(texts), truncation=True, max_length=limit, verbose=False).input_ids
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch_rows):
            chosen = order[start : start + batch_rows]
            ids = [rows[row] for row in chosen]
            batch = {"input_ids": padded(ids, loaded.pad_token_id), "attention_mask": mask_of(ids)}
            states = base(**{name: value.to(loaded.device) for name, value in batch.items()}).last_hidden_state
            for row, line in zip(chosen, states.double().cpu().numpy(), strict=True):
                found[row] = line[: len(rows[row])]
    return found


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of two arrays [T, D]: float64 [T]."""
    import numpy as np

    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: np.ndarray = (one * other).sum(1) / np.maximum(lengths, np.finfo(float).tiny)
    return found
