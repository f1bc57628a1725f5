"""Extractive question answering: the answer is a span of the context, or there is none (SQuAD 2.0).

Two scores per token say whether an answer begins and ends there (Devlin et al., 2019, section 4.3); the first token of
a window stands for "no answer here". A context that is too long is cut into overlapping windows behind the same
question; the row stays one row. Its answer is the best span of all windows, and none where the best span's score does
not exceed that of no answer: the smallest over the windows, since one without the answer says nothing of the others.

What the model puts out is kept per token, with the characters that the token stands for, so that the span is searched
in one place, exactly, and reloaded or merged adapters can be compared by numbers and not by the text that they give.
The prediction table has the answer's text, cut from the context as it stands there, and the row's exact match and F1.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft import squad
from graft.classification import confusion_curve
from graft.errors import ConfigError, shown
from graft.padding import WINDOWS_TOGETHER, mask_of, padded, pieces_of, split_windows, windows_of
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]

OUTSIDE, NULL = -1, -2
"""Instead of a character of the context: the token is not of it; it is a window's first, which stands for no answer."""
BY_ROW = ("tokens",)
"""What a batch has by row; everything else it has by window."""
SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\n]+")


class Config(TaskConfig):
    """Extractive question answering: the answer to ``question`` is a span of ``context``, or there is none."""

    name: Literal["question_answering"] = "question_answering"
    """The task: find the span of a context that answers a question."""

    stride_tokens: int = Limit(default=128, ge=0)
    """How many tokens of the context neighbouring windows of a long row share, at most half a window."""

    max_question_tokens: int = Limit(default=64, ge=1)
    """Longer questions are cut (and counted), at most half of ``tokenization.max_length_tokens``."""

    max_answer_tokens: int = Limit(default=30, ge=1)
    """The longest span that is answered, in tokens."""

    null_threshold: float = 0.0
    """A span is answered where its score exceeds that of no answer by more than this; higher: fewer answers."""

    language: str = Limit(default="en", pattern="^[a-z]{2}$")
    """The language of the answers (ISO 639-1), for exact match and F1: English articles count for nothing in ``en``."""


# -- metrics over a prediction table


def exact_rows(table: Table) -> np.ndarray:
    """Return each row's exact match, 0 or 1: float64 [N]."""
    column: np.ndarray = table["row_exact_match"]
    return column


def f1_rows(table: Table) -> np.ndarray:
    """Return each row's F1, 0 to 1: float64 [N]."""
    column: np.ndarray = table["row_f1"]
    return column


def exact_match(table: Table) -> float:
    """Return the share of rows whose answer is one of the references, or rightly none."""
    return float(exact_rows(table).mean())


def f1(table: Table) -> float:
    """Return the mean over rows of the best F1 of shared words."""
    return float(f1_rows(table).mean())


def _answerable(table: Table) -> np.ndarray:
    import numpy as np

    return np.array([len(answers) > 0 for answers in table["answers"]], dtype=bool)


# -- cheap predictors


def no_answer(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Answer nothing, always."""
    import numpy as np

    return {"prediction": np.full(len(test_rows), "", dtype=object)}


def word_overlap(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Answer the sentence of the context that shares most of the question's words."""
    import numpy as np

    return {"prediction": np.fromiter((_nearest_sentence(row, config.language) for row in test_rows), dtype=object)}


def _nearest_sentence(row: Row, language: str) -> str:
    asked = set(squad.words(row["question"], language))
    sentences = [found.group().strip() for found in SENTENCE.finditer(row["context"])]
    return max(sentences, key=lambda one: len(asked & set(squad.words(one, language))), default="")


class QuestionAnswering(Task):
    """The contract's methods for one span of a context, or none."""

    name = "question_answering"
    fields = (
        Field("question", "string", text=True),
        Field("context", "string", text=True, shared=True),
        Field("answers", "answers", target=True, within="context"),
    )
    families = ("encoder",)
    metrics = (Metric("f1", f1, per_row=f1_rows), Metric("exact_match", exact_match, per_row=exact_rows))
    headline = "f1"
    worst = "exact_match"
    teaches = ("answers", "an answer that fits into a window (tokenization.max_length_tokens, task.stride_tokens)")
    curves = (confusion_curve("Questions with and without an answer (test)"),)

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        context, answers = row["context"], row["answers"]
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            there = context[max(start, 0) : max(start, 0) + len(text)]
            if not text.strip():
                yield RowProblem("answers", "answers with text; no answer is an empty list", shown(text))
            elif start < 0 or there != text:
                expected = f"{shown(text)} at character {start} of the context (after data.clean)"
                found = f"{shown(there)}; it is at {context.find(text)}" if text in context else shown(there)
                yield RowProblem("answers", expected, found)

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        numbers = pa.list_(pa.int32())
        names = ("token_type_ids", "windows", "begins", "ends", "start_positions", "end_positions")
        texts = [("context", pa.string()), ("answers", pa.list_(pa.string()))]
        return pa.schema([*((name, numbers) for name in names), *texts])

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        """Return token rows with, per token, the characters of the context that it stands for, or ``OUTSIDE``.

        ``start_positions``, ``end_positions``: by window, the answer's first and last token, 0 where it is not there.
        """
        found = tokenizer(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        result = []
        for place, row in enumerate(rows):
            sequence = found[place].sequence_ids
            types = found["token_type_ids"][place] if "token_type_ids" in tokenizer.model_input_names else None
            whole = _Whole(found["input_ids"][place], types, sequence, found["offset_mapping"][place])
            result.append(_token_row(config, row, whole, max_length_tokens))
        return result

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        return load_with_head("AutoModelForQuestionAnswering", folder, self.families, **kwargs)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        """Return a line per window with ``window_row`` [L], ``begins`` and ``ends`` [L, T]; by row ``tokens`` [B, S].

        ``tokens``: where in the L x T tokens of the batch each of a row's S tokens stands, -1 beyond its own.
        """
        import torch

        lines = [window for row in rows for window in split_windows(row["input_ids"], row["windows"])]
        batch = {"input_ids": padded(lines, pad_token_id), "attention_mask": mask_of(lines)}
        for name, filler in (("token_type_ids", 0), ("begins", OUTSIDE), ("ends", OUTSIDE)):
            if all(row[name] is not None for row in rows):
                cut = [window for row in rows for window in split_windows(row[name], row["windows"])]
                batch[name] = padded(cut, filler)
        owners = [number for number, row in enumerate(rows) for _ in row["windows"]]
        batch["window_row"] = torch.tensor(owners, dtype=torch.int64)
        places: list[list[int]] = [[] for _ in rows]
        for line, (owner, window) in enumerate(zip(owners, lines, strict=True)):
            first = line * batch["input_ids"].shape[1]
            places[owner] += range(first, first + len(window))
        batch["tokens"] = padded(places, -1)
        if all(row.get("start_positions") is not None for row in rows):
            for name in ("start_positions", "end_positions"):
                batch[name] = torch.tensor([at for row in rows for at in row[name]], dtype=torch.int64)
        return batch

    def pieces(self, batch: Mapping[str, torch.Tensor], most: int) -> Iterator[Mapping[str, torch.Tensor]]:
        yield from pieces_of(batch, most, by_row=BY_ROW)

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Return the windows' summed mean of start and end cross-entropy, over the tokens that can answer."""
        import torch
        from torch.nn.functional import cross_entropy

        out = (batch["begins"] == OUTSIDE)[..., None]
        scores = _scores(model, batch).masked_fill(out, torch.finfo(torch.float32).min)
        losses = [
            cross_entropy(scores[..., side], batch[name], reduction="sum")
            for side, name in enumerate(("start_positions", "end_positions"))
        ]
        return (losses[0] + losses[1]) / 2, len(scores)

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return of each row's tokens start score, end score, first character, character after the last: [B, S, 4]."""
        import torch

        # float32 holds each character's number up to 2 ** 24, more than a row may have.
        places = torch.stack([batch["begins"], batch["ends"]], dim=-1).float()
        passes = pieces_of(batch, WINDOWS_TOGETHER, by_row=BY_ROW)
        scores = torch.cat([_scores(model, piece) for piece in passes])
        flat = torch.cat([scores, places], dim=-1).flatten(0, 1)
        beyond = flat.new_tensor([0.0, 0.0, OUTSIDE, OUTSIDE])
        return flat[batch["tokens"].clamp(min=0)].where((batch["tokens"] >= 0)[..., None], beyond)

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        """Return where the answer begins and ends (characters; -1, -1: none), its score against none, and a chance.

        ``margin``: the span's score less that of no answer. ``score``: the softmax of the two for what is answered.
        """
        import numpy as np

        rows = np.arange(len(outputs))
        first, last, best = _best_spans(outputs, config.max_answer_tokens)
        margin = best - _null_scores(outputs)
        answered = margin > config.null_threshold
        chance = 1 / (1 + np.exp(-np.clip(margin, -500, 500)))
        return {
            "begin": np.where(answered, outputs[rows, first, 2], -1).astype(np.int32),
            "end": np.where(answered, outputs[rows, last, 3], -1).astype(np.int32),
            "margin": margin.astype(np.float32),
            "score": np.where(answered, chance, 1 - chance).astype(np.float32),
        }

    def predicted(
        self, config: Config, outputs: np.ndarray, rows: Sequence[Mapping[str, Any]], state: State
    ) -> dict[str, np.ndarray]:
        import numpy as np

        found = self.predictions(config, outputs, state)
        spans = zip(rows, found["begin"].tolist(), found["end"].tolist(), strict=True)
        texts = (row["context"][begin:end] if begin >= 0 else "" for row, begin, end in spans)
        return {"prediction": np.fromiter(texts, dtype=object), **found}

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        answers = np.fromiter((list(row["answers"]) for row in rows), dtype=object)
        return {"reference": np.fromiter((one[0] if one else "" for one in answers), dtype=object), "answers": answers}

    def judge(self, config: Config, table: Table, state: State) -> dict[str, np.ndarray]:
        import numpy as np

        pairs = list(zip(table["prediction"], table["answers"], strict=True))
        return {
            f"row_{score.__name__}": np.array([score(*pair, config.language) for pair in pairs], dtype=np.float64)
            for score in (squad.exact_match, squad.f1)
        }

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"no_answer": no_answer, "word_overlap": word_overlap}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        """Return text, first character, character after the last and score; no answer: empty text, -1 and -1."""
        columns = (predictions[name] for name in ("prediction", "begin", "end", "score"))
        return [
            {"text": text, "start": int(begin), "end": int(end), "score": float(score)}
            for text, begin, end, score in zip(*columns, strict=True)
        ]

    def example(self, config: Config, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        ids, begins = probe["input_ids"][0], probe["begins"][0]
        head = int((begins >= 0).argmax())
        texts = {"question": ids[:head], "context": ids[begins >= 0]}
        return {name: processor.decode(one.tolist(), skip_special_tokens=True) for name, one in texts.items()}

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        answerable = _answerable(table)
        rows = [
            {
                "questions": name,
                "rows": int(chosen.sum()),
                "exact_match": float(table["row_exact_match"][chosen].mean()),
                "f1": float(table["row_f1"][chosen].mean()),
                "answered": float((table["prediction"][chosen] != "").mean()),
            }
            for name, chosen in (("with an answer", answerable), ("without an answer", ~answerable))
            if chosen.any()
        ]
        return {"Questions with and without an answer": rows}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        names = {True: "answer", False: "no answer"}
        pairs = zip(_answerable(table).tolist(), (table["prediction"] != "").tolist(), strict=True)
        return {"confusion": [{"actual": names[actual], "predicted": names[said]} for actual, said in pairs]}


# -- windows


class _Whole:
    """The tokens of a question and its whole context: what stands before the context, the context, what follows."""

    def __init__(
        self,
        ids: Sequence[int],
        types: Sequence[int] | None,
        sequence: Sequence[int | None],
        offsets: Sequence[tuple[int, int]],
    ) -> None:
        inside = [place for place, part in enumerate(sequence) if part == 1]
        self.first, self.stop = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
        self.ids, self.types = list(ids), types
        self.offsets = offsets[self.first : self.stop]
        self.question = [place for place, part in enumerate(sequence[: self.first]) if part == 0]

    def window(self, values: Sequence[int], span: range, dropped: set[int]) -> list[int]:
        """Return the ``values`` (one per token) of a window of the context, without what the question lost."""
        head = [value for place, value in enumerate(values[: self.first]) if place not in dropped]
        return [*head, *values[self.first + span.start : self.first + span.stop], *values[self.stop :]]


def _token_row(config: Config, row: Row, whole: _Whole, limit: int) -> dict[str, Any]:
    around = len(whole.ids) - len(whole.offsets) - len(whole.question)
    kept = min(config.max_question_tokens, (limit - around) // 2)
    dropped = set(whole.question[kept:])
    room = limit - around - len(whole.question) + len(dropped)
    if kept < 1 or room < 1:
        raise ConfigError(f"tokenization.max_length_tokens: no room for question and context (got {limit}); set more")
    spans = windows_of(len(whole.offsets), room, config.stride_tokens)
    begins, ends = (_characters(whole, side) for side in (0, 1))
    flat = {
        "input_ids": _flat(whole, whole.ids, spans, dropped),
        "token_type_ids": _flat(whole, whole.types, spans, dropped) if whole.types is not None else None,
        "begins": _flat(whole, begins, spans, dropped),
        "ends": _flat(whole, ends, spans, dropped),
    }
    head = whole.first - len(dropped)
    return {
        **flat,
        "windows": [head + len(span) + len(whole.ids) - whole.stop for span in spans],
        "untruncated_length": len(flat["input_ids"] or ()) + len(dropped),
        "lost_prompt": len(dropped),
        "context": row["context"],
        **_targets(row.get("answers"), whole.offsets, spans, head),
    }


def _flat(whole: _Whole, values: Sequence[int], spans: Sequence[range], dropped: set[int]) -> list[int]:
    return [value for span in spans for value in whole.window(values, span, dropped)]


def _characters(whole: _Whole, side: int) -> list[int]:
    """Return of each token its first character in the context (``side`` 0) or that after its last (1)."""
    before = [NULL, *[OUTSIDE] * (whole.first - 1)]
    return [*before, *(one[side] for one in whole.offsets), *[OUTSIDE] * (len(whole.ids) - whole.stop)]


def _targets(
    answers: Mapping[str, Any] | None, offsets: Sequence[tuple[int, int]], spans: Sequence[range], head: int
) -> dict[str, Any]:
    """Return the answers' texts and, by window, where the most usual one begins and ends; ``head`` tokens precede."""
    if answers is None:
        return dict.fromkeys(("answers", "supervised", "start_positions", "end_positions"))
    found = Counter(zip(answers["answer_start"], answers["text"], strict=True)).most_common(1)
    first, last = _covered(offsets, found[0][0][0], found[0][0][0] + len(found[0][0][1])) if found else (0, -1)
    there = [first <= last and first in span and last in span for span in spans]
    pairs = list(zip(spans, there, strict=True))
    return {
        "answers": list(answers["text"]),
        "supervised": sum(there) if found else len(spans),
        "start_positions": [head + first - span.start if inside else 0 for span, inside in pairs],
        "end_positions": [head + last - span.start if inside else 0 for span, inside in pairs],
    }


def _covered(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    """Return the first and the last token of the characters ``begin`` to ``end``; last < first: there is none."""
    first = bisect_right([one[1] for one in offsets], begin)
    last = bisect_left([one[0] for one in offsets], end) - 1
    return first, last


# -- scores and spans


def _scores(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return start and end scores of each token: float32 [L, T, 2]."""
    import torch

    names = ("input_ids", "attention_mask", "token_type_ids")
    found = model(**{name: batch[name] for name in names if name in batch})
    # From the right: prompt methods put virtual tokens in front.
    sides = (found.start_logits, found.end_logits)
    return torch.stack([side[:, -batch["input_ids"].shape[1] :].float() for side in sides], dim=-1)


def _best_spans(outputs: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first token, last token and score of each row's best span of at most ``most`` tokens (-inf: it has none).

    Every span is tried, one length after the other; none leaves its window, since the question stands between them.
    """
    import numpy as np

    rows, width = np.arange(len(outputs)), outputs.shape[1]
    context = outputs[:, :, 2] >= 0  # False also for the NaN that pads a batch of wider rows
    inside = context
    first, last = np.zeros((2, len(outputs)), dtype=np.int64)
    best = np.full(len(outputs), -np.inf)
    for length in range(min(most, width)):
        inside = inside[:, : width - length] & context[:, length:]
        scores = outputs[:, : width - length, 0].astype(np.float64) + outputs[:, length:, 1]
        scores[~inside] = -np.inf
        at = scores.argmax(axis=1)
        better = scores[rows, at] > best
        best = np.where(better, scores[rows, at], best)
        first, last = np.where(better, at, first), np.where(better, at + length, last)
    return first, last, best


def _null_scores(outputs: np.ndarray) -> np.ndarray:
    """Return each row's score of no answer, the smallest over its windows: float64 [N]."""
    import numpy as np

    scores = outputs[:, :, 0].astype(np.float64) + outputs[:, :, 1]
    smallest: np.ndarray = np.where(outputs[:, :, 2] == NULL, scores, np.inf).min(axis=1)
    return smallest


TASK = QuestionAnswering()
