"""What is explained of a row, task by task: one number, the tokens that are taken away for it, and where they stand.

- A label or a value: the log-odds of the label given (logits are no good for it: all of them may rise together and
  change nothing), or the predicted value.
- Tags: the log-odds of the tag given to one word, the surest wrong one, else the surest that names something.
- A span: the log-probability of its first and its last token.
- A text that was written: its log-probability, after the prompt or the source. The answer stays as it is on the way
  from the emptied prompt to the whole one. Plain text has no prompt: its first half is one for the second.

A base that reads a row by two embeddings (an encoder-decoder with a label) has the attributions of both added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.likelihood import IGNORED, supervised
from graft.padding import split_windows
from graft.tasks import family_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from graft.artifact import LoadedAdapter
    from graft.data import Record

NOT_INPUTS = ("input_ids", "labels", "window_row")
OUTSIDE_TAG = "O"
Places = list[tuple[int, int, int, int, int]]
"""Of each own token: its line and column in the batch, and text, start and end of what it stands for."""


@dataclass(frozen=True)
class Question:
    """One number of a row."""

    ids: torch.Tensor
    """int64 [L, T]."""
    emptied: torch.Tensor
    """The same, without the row's words."""
    others: tuple[torch.Tensor, ...]
    """What else the model is given: [L, ...] each."""
    number: Callable[..., torch.Tensor]
    """Of ids [B, T] and ``others``: what is explained, one for each row."""
    layers: Sequence[nn.Module]
    """The embeddings that read ``ids``; of two, the second is one place behind (a decoder's)."""
    texts: Sequence[str]
    places: Places
    answer: str | None = None
    expected: str | None = None

    def ends(self) -> tuple[float, float]:
        """Return the number of the row, and of the row without its words."""
        import torch

        with torch.no_grad():
            whole, empty = (float(self.number(ids, *self.others)[0]) for ids in (self.ids, self.emptied))
        return whole, empty


def log_odds(outputs: torch.Tensor, label: int) -> torch.Tensor:
    """Return the log-odds of a label against all others of logits [B, C]: [B]."""
    import torch

    others = torch.cat([outputs[:, :label], outputs[:, label + 1 :]], dim=1)
    return outputs[:, label] - torch.logsumexp(others, dim=1)


def one_column(outputs: torch.Tensor, column: int) -> torch.Tensor:
    """Return a column of outputs [B, C]: [B]. A logit of its own sigmoid is its log-odds already."""
    return outputs[:, column]


def asked(loaded: LoadedAdapter, record: Record, said: Mapping[str, Any]) -> Question | None:
    """Return the question of a row; None where nothing was answered, or its tokens cannot be found in its text."""
    return EXPLAINED[loaded.task.name][0](loaded, record, said)


def not_explained(loaded: LoadedAdapter) -> str | None:
    """Return why an adapter's answers cannot be explained here; None where they can."""
    if loaded.task.name not in EXPLAINED:
        return f"answers of {loaded.task.name} are comparisons"
    config = loaded.model.active_peft_config
    if config.is_prompt_learning and loaded.task.generates:
        return f"{config.peft_type.value.lower()} puts tokens of its own before what generates"
    return None


# -- one label, several, a value


def _labelled(loaded: LoadedAdapter, record: Record, said: Mapping[str, Any]) -> Question | None:  # noqa: ARG001
    import torch

    task, limit = loaded.task, loaded.identity["max_length_tokens"]
    [encoded] = task.encode(loaded.config, [record.row], loaded.processor, limit)
    places = _found(loaded, record, encoded, limit)
    if places is None:
        return None
    batch = _batch(loaded, encoded)
    others = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    with torch.no_grad():
        outputs = task.outputs(loaded.config, loaded.model, {"input_ids": batch["input_ids"], **others})
    explained = log_odds if task.name == "text_classification" else one_column
    column = int(outputs[0].argmax())

    def number(given: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": given, **dict(zip(others, values, strict=True))}
        return explained(task.outputs(loaded.config, loaded.model, inputs), column)

    texts = [record.row[name] for name in ("text", "text_pair") if record.row.get(name)]
    own = [(line, at) for line, at, *_ in places]
    return Question(
        batch["input_ids"],
        _emptied(loaded, batch["input_ids"], own),
        tuple(others.values()),
        number,
        _layers(loaded, decoder=True),
        texts,
        places,
    )


def _found(loaded: LoadedAdapter, record: Record, encoded: Mapping[str, Any], limit: int) -> Places | None:
    """Return where the own tokens of one or two texts stand."""
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


# -- tags


def _tag(loaded: LoadedAdapter, record: Record, said: Mapping[str, Any]) -> Question | None:
    [encoded] = loaded.task.encode(loaded.config, [record.row], loaded.processor, loaded.identity["max_length_tokens"])
    given, right = said["prediction"].split(" "), said["reference"].split(" ")
    read = [word for word, at in enumerate(encoded["words"]) if at >= 0]
    if not read:
        return None
    sure = said["confidence"]
    word = max(read, key=lambda one: (given[one] != right[one], given[one] != OUTSIDE_TAG, sure[one]))
    label, place = loaded.state["tags"].index(given[word]), encoded["words"][word]
    window, at = _window(encoded, place)

    def number(given: torch.Tensor) -> torch.Tensor:
        logits = loaded.model(input_ids=given, attention_mask=given.new_ones(given.shape)).logits.float()
        # From the right: prompt methods put virtual tokens in front.
        return log_odds(logits[:, -given.shape[1] :][:, at], label)

    name = encoded["tokens"][word]
    return _decoded(
        loaded, window, [range(len(window))], number, answer=f"{given[word]}: {name}", expected=f"{right[word]}: {name}"
    )


def _window(encoded: Mapping[str, Any], place: int) -> tuple[list[int], int]:
    """Return the window that holds a place of a row's tokens, and where in it that is."""
    for window in split_windows(encoded["input_ids"], encoded["windows"]):
        if place < len(window):
            return list(window), place
        place -= len(window)
    raise ValueError("the place is beyond the row's windows")


# -- a span


def _span(loaded: LoadedAdapter, record: Record, said: Mapping[str, Any]) -> Question | None:
    import torch

    [encoded] = loaded.task.encode(loaded.config, [record.row], loaded.processor, loaded.identity["max_length_tokens"])
    cut = {
        name: list(split_windows(encoded[name], encoded["windows"]))
        for name in ("input_ids", "begins", "ends", "token_type_ids")
        if encoded[name] is not None
    }
    line, first, last = _stands(cut["begins"], cut["ends"], int(said["begin"]), int(said["end"]))
    window, begins = list(cut["input_ids"][line]), cut["begins"][line]
    types = cut.get("token_type_ids")
    others = () if types is None else (torch.tensor([list(types[line])], device=loaded.device),)
    can_answer = torch.tensor([at != -1 for at in begins], device=loaded.device)

    def number(given: torch.Tensor, *types: torch.Tensor) -> torch.Tensor:
        more = {"token_type_ids": types[0]} if types else {}
        found = loaded.model(input_ids=given, attention_mask=given.new_ones(given.shape), **more)
        sides = (side[:, -given.shape[1] :].float() for side in (found.start_logits, found.end_logits))
        start, end = (side.masked_fill(~can_answer, -1e30).log_softmax(-1) for side in sides)
        both: torch.Tensor = start[:, first] + end[:, last]
        return both

    question, context = ([at for at, begin in enumerate(begins) if (begin >= 0) is inside] for inside in (False, True))
    return _decoded(loaded, window, [question, context], number, others=others)


def _stands(
    begins: Sequence[Sequence[int]], ends: Sequence[Sequence[int]], begin: int, end: int
) -> tuple[int, int, int]:
    """Return the window, and the first and last token in it, of a span; of no answer, the token that stands for it."""
    if begin < 0:
        null = min(range(len(begins[0])), key=lambda at: begins[0][at])
        return 0, null, null
    line = next(at for at, pair in enumerate(zip(begins, ends, strict=True)) if begin in pair[0] and end in pair[1])
    return line, list(begins[line]).index(begin), len(ends[line]) - 1 - list(ends[line])[::-1].index(end)


# -- a text that was written


def _text(loaded: LoadedAdapter, record: Record, said: Mapping[str, Any]) -> Question | None:
    row = _with_answer(record.row, str(said.get("prediction", "")))
    [encoded] = loaded.task.encode(loaded.config, [row], loaded.processor, loaded.identity["max_length_tokens"])
    batch = {name: value[:1] for name, value in _batch(loaded, encoded).items() if name != "window_row"}
    ids, labels = batch["input_ids"], batch["labels"].clone()
    decoder = family_of(loaded.model.get_base_model().config) != "encoder-decoder"
    if loaded.task.name == "text_generation":
        labels[:, : ids.shape[1] // 2] = IGNORED
    elif encoded.get("prompt"):
        labels[:, : encoded["prompt"]] = IGNORED  # earlier answers of a conversation are part of what is read
    if not (labels != IGNORED).any():
        return None
    end = int((labels[0] != IGNORED).int().argmax()) if decoder else ids.shape[1]

    def number(given: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        return -supervised(loaded.model, {"input_ids": given, "attention_mask": mask, "labels": answer})[0]

    second = loaded.processor.decode(ids[0, end:].tolist(), skip_special_tokens=True)
    return _decoded(
        loaded,
        ids[0].tolist(),
        [range(end)],
        number,
        others=(batch["attention_mask"], labels),
        answer=second if loaded.task.name == "text_generation" else None,
    )


def _with_answer(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Return a row whose answer is the one that was written."""
    if row.get("messages"):
        return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": answer}]}
    return {**row, **{name: answer for name in ("completion", "target") if name in row}}


# -- what several have in common


def _batch(loaded: LoadedAdapter, encoded: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    batch = loaded.task.collate([encoded], loaded.pad_token_id, loaded.state)
    return {name: one.to(loaded.device) for name, one in batch.items()}


def _emptied(loaded: LoadedAdapter, ids: torch.Tensor, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Return ids with the token that stands for no word at some places."""
    mask = loaded.processor.mask_token_id
    emptied = ids.clone()
    for line, at in places:
        emptied[line, at] = int(loaded.pad_token_id if mask is None else mask)
    return emptied


def _layers(loaded: LoadedAdapter, *, decoder: bool = False) -> list[nn.Module]:
    """Return the embeddings that read a row; ``decoder``: of an encoder-decoder also the one behind it."""
    base: Any = loaded.model.get_base_model()
    if family_of(base.config) != "encoder-decoder":
        return [base.get_input_embeddings()]
    inner = base if hasattr(base, "get_encoder") else base.model
    sides = [inner.get_encoder(), *([inner.get_decoder()] if decoder else [])]
    return [side.embed_tokens for side in sides]


def _decoded(
    loaded: LoadedAdapter,
    ids: Sequence[int],
    groups: Sequence[Sequence[int]],
    number: Callable[..., torch.Tensor],
    *,
    others: tuple[torch.Tensor, ...] = (),
    answer: str | None = None,
    expected: str | None = None,
) -> Question:
    """Return the question of one line, whose texts are what its own tokens say, a text for each group of columns."""
    import torch

    special, texts, places = set(loaded.processor.all_special_ids), list[str](), Places()
    for group in groups:
        own = [at for at in group if ids[at] not in special]
        text, spans = spoken(loaded.processor, [ids[at] for at in own])
        places += [(0, at, len(texts), *span) for at, span in zip(own, spans, strict=True)]
        texts.append(text)
    line = torch.tensor([list(ids)], device=loaded.device)
    emptied = _emptied(loaded, line, [(0, at) for _, at, *_ in places])
    return Question(line, emptied, others, number, _layers(loaded), texts, places, answer, expected)


def spoken(processor: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of tokens, and from where to where each stands in it; any tokenizer can say that."""
    ends, text = [0], ""
    for count in range(1, len(ids) + 1):
        text = processor.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends.append(max(ends[-1], len(text)))
    return text, list(zip(ends, [min(end, len(text)) for end in ends[1:]], strict=False))


EXPLAINED: Mapping[str, tuple[Callable[[LoadedAdapter, Record, Mapping[str, Any]], Question | None], str]] = {
    "text_classification": (_labelled, "the log-odds of the label given"),
    "multi_label_classification": (_labelled, "the log-odds of its likeliest label"),
    "regression": (_labelled, "the predicted value, in standard deviations of the targets"),
    "token_classification": (_tag, "the log-odds of the tag given to one word"),
    "question_answering": (_span, "the log-probability of where the answer begins and ends"),
    "translation": (_text, "the log-probability of the answer that it wrote"),
    "summarization": (_text, "the log-probability of the answer that it wrote"),
    "chat": (_text, "the log-probability of the answer that it wrote"),
    "text_generation": (_text, "the log-probability of the second half of a text, after the first"),
}
"""Task -> the number of a row that is explained, and what it is called; pictures are another matter."""
