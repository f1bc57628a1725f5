"""One tag per word (entities, slots): a token classification head, read at each word's first sub-token.

Words, not sub-tokens, are what is tagged, scored and answered. A long row is cut into overlapping windows, and a word
is read in the window that shows most of its surroundings, so no word is lost to the length limit. A word that the
base's tokenizer has no token for is tagged ``O``.

The prediction table has ``reference`` and ``prediction`` (text [N]: the tags, parted by spaces) and counts of a row's
entities, which the metrics sum: entity F1 as in seqeval's default mode, which is that of the CoNLL evaluation script
(Tjong Kim Sang and De Meulder, 2003): an entity is right where its type and both its ends are.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.classification import confusion_curve, numbers_of, share
from graft.errors import DataError, shown
from graft.filler import CELLS
from graft.likelihood import IGNORED
from graft.padding import mask_of, padded, split_windows, windows_of
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]

OUTSIDE = "O"
UNREAD, ABSENT = -1, -2
"""Instead of the position of a word: it has no sub-token; the row has no such word."""
LOWEST = -3.0e38
"""Every score of a word that is absent; finite, so that outputs can be compared by their difference."""
UNLIKELY = -1.0e4
"""The score of each tag but ``O`` of a word that has no sub-token."""
TAG = re.compile(r"O|[BIES]-\S+")
BEFORE = {
    "IOB2": {"I": "BI"},
    "IOBES": {"I": "BI", "E": "BI", "B": "OES", "S": "OES", "O": "OES"},
    "IOB1": {},
    "IO": {},
}
"""By scheme and prefix: the prefixes that may come before. ``I`` and ``E`` continue an entity of their own type."""
PREFIXES = {"IO": "OI", "IOB1": "OBI", "IOB2": "OBI", "IOBES": "OBIES"}

Scheme = Literal["IO", "IOB1", "IOB2", "IOBES"]


class Config(TaskConfig):
    """Token classification: each of the row's ``tokens`` (words) has one of its ``tags``."""

    name: Literal["token_classification"] = "token_classification"
    """The task: one tag per word."""

    scheme: Scheme | None = None
    """How tags mark entities; rows that break it are refused. ``IOB2``: each begins with B-. ``IOB1``: B- only parts
    neighbours of one type. ``IOBES``: S- for one word, E- ends a longer one. ``IO``: I- alone. Default: by the prefixes
    of the training tags (``IOBES``, ``IOB2`` or ``IO``)."""

    stride_tokens: int = Limit(default=32, ge=0)
    """How many tokens neighbouring windows of a long row share, at most half a window."""


# -- entities


def entities(tags: str) -> set[tuple[str, int, int]]:
    """Return the entities (type, first word, last word) of tags that are parted by spaces, as seqeval finds them."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(tags.split(" "))) if tags else set()


def by_type(table: Table) -> dict[str, np.ndarray]:
    """Return the number of correct, predicted and actual entities (int64 [3]) of each type that occurs."""
    import numpy as np

    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for reference, prediction in zip(table["reference"], table["prediction"], strict=True):
        actual, predicted = entities(reference), entities(prediction)
        for place, found in enumerate((actual & predicted, predicted, actual)):
            for kind, _, _ in found:
                counts[kind][place] += 1
    return dict(sorted(counts.items()))


def kind_of(tag: str) -> str:
    """Return the entity type that a tag names; ``O`` where it names none."""
    return tag.partition("-")[2] or OUTSIDE


# -- metrics over a prediction table


def precision(table: Table) -> float:
    """Return the share of the predicted entities that are right; 0 where none is predicted."""
    return share(table["correct_entities"].sum(), table["predicted_entities"].sum())


def recall(table: Table) -> float:
    """Return the share of the actual entities that are found; 0 where there are none."""
    return share(table["correct_entities"].sum(), table["actual_entities"].sum())


def f1(table: Table) -> float:
    """Return the micro-averaged F1 of entities: 2 x correct / (predicted + actual); 0 where there are none."""
    found = table["predicted_entities"].sum() + table["actual_entities"].sum()
    return share(2 * table["correct_entities"].sum(), found)


def token_accuracy(table: Table) -> float:
    """Return the share of words whose tag is right."""
    return share(table["correct_words"].sum(), table["words"].sum())


def right_rows(table: Table) -> np.ndarray:
    """Return 1 for each row whose tags are all right, else 0: float64 [N]."""
    import numpy as np

    scores: np.ndarray = (table["correct_words"] == table["words"]).astype(np.float64)
    return scores


def row_accuracy(table: Table) -> float:
    """Return the share of rows whose tags are all right."""
    return float(right_rows(table).mean())


# -- cheap predictors


def no_entity(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict ``O`` for every word."""
    return {"prediction": _texts([OUTSIDE] * len(row["tokens"]) for row in test_rows)}


def word_majority(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Predict the tag that a word had most often in the training rows, ``O`` for a new word; case is ignored."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train_rows:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[word.casefold()][tag] += 1
    usual = {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in seen.items()}
    return {"prediction": _texts([usual.get(word.casefold(), OUTSIDE) for word in row["tokens"]] for row in test_rows)}


class TokenClassification(Task):
    """The contract's methods for one tag per word."""

    name = "token_classification"
    fields = (Field("tokens", "strings", text=True, words=True), Field("tags", "strings", target=True))
    families = ("encoder",)
    metrics = (
        Metric("f1", f1),
        Metric("precision", precision),
        Metric("recall", recall),
        Metric("token_accuracy", token_accuracy),
        Metric("row_accuracy", row_accuracy, per_row=right_rows),
    )
    headline = "f1"
    worst = "row_accuracy"
    teaches = ("tokens", "words that the base's tokenizer has tokens for")
    curves = (confusion_curve("Confusion matrix of words by entity type (test)"),)

    held_to = ("tags", "scheme")

    def gathered(self, config: Config, rows: Iterator[Row]) -> dict[str, Any]:
        return {"tags": sorted({tag for row in rows for tag in row["tags"]} - {OUTSIDE})}

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tags = {tag for part in parts for tag in part["tags"]}
        if not tags:
            raise DataError("data/train: every tag is 'O'; a tagger needs rows that name something")
        return {"tags": [OUTSIDE, *sorted(tags)], "scheme": config.scheme or _scheme({tag[:1] for tag in tags})}

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if len(row["tokens"]) != len(row["tags"]):
            yield RowProblem("tags", f"{len(row['tokens'])} tags, one per token", str(len(row["tags"])))
            return
        problem = next(_wrong_tags(row["tags"], state), None)
        if problem:
            yield RowProblem("tags", *problem)

    def doubt_row(self, config: Config, row: Row) -> Iterator[RowProblem]:
        several = next((token for token in row["tokens"] if len(token.split()) > 1), None)
        if several is not None:
            yield RowProblem("tokens", "one word in each token", shown(several))
        missing = next((token for token in row["tokens"] if token in CELLS), None)
        if missing is not None:
            yield RowProblem("tokens", "words, not what a table says for a missing one", shown(missing))

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        numbers = pa.list_(pa.int32())
        return pa.schema(
            [
                ("tokens", pa.list_(pa.string())),
                ("words", numbers),
                ("windows", numbers),
                ("tags", pa.list_(pa.string())),
            ]
        )

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        """Return token rows with, beside the contract's columns, ``words``: where in ``input_ids`` each word is read.

        Words are joined by spaces and found again by their characters, which any fast tokenizer tells, so that a
        byte-level vocabulary sees the spaces that it was trained with.
        """
        found = tokenizer(
            [" ".join(row["tokens"]) for row in rows],
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,
        )
        result = []
        for place, row in enumerate(rows):
            special = found["special_tokens_mask"][place]
            firsts = _first_tokens(row["tokens"], found["offset_mapping"][place], special)
            ids, words, windows = _cut(
                found["input_ids"][place], special, firsts, max_length_tokens, config.stride_tokens
            )
            whole = {"tokens": list(row["tokens"]), "words": words, "windows": windows, "tags": row.get("tags")}
            read = sum(word != UNREAD for word in words)
            result.append({"input_ids": ids, **whole, "supervised": read, "untruncated_length": len(ids)})
        return result

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        tags = state["tags"]
        return load_with_head(
            "AutoModelForTokenClassification",
            folder,
            self.families,
            num_labels=len(tags),
            id2label=dict(enumerate(tags)),
            label2id=numbers_of(tags),
            **kwargs,
        )

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        """Return a line per window, ``window_row`` [L], and by row ``words`` and ``labels`` [B, W].

        ``words``: each word's position in the batch's L x T tokens, or ``UNREAD`` or ``ABSENT``.
        """
        import torch

        lines = [window for row in rows for window in split_windows(row["input_ids"], row["windows"])]
        ids = padded(lines, pad_token_id)
        owners = [number for number, row in enumerate(rows) for _ in row["windows"]]
        first = 0
        words: list[list[int]] = []
        for row in rows:
            lines_of = [first + line for line, length in enumerate(row["windows"]) for _ in range(length)]
            columns = [column for length in row["windows"] for column in range(length)]
            words.append([at if at < 0 else lines_of[at] * ids.shape[1] + columns[at] for at in row["words"]])
            first += len(row["windows"])
        batch = {
            "input_ids": ids,
            "attention_mask": mask_of(lines),
            "window_row": torch.tensor(owners, dtype=torch.int64),
            "words": padded(words, ABSENT),
        }
        if all(row.get("tags") is not None for row in rows):
            numbers = numbers_of(state["tags"])
            batch["labels"] = padded([_supervised(row, numbers) for row in rows], IGNORED)
        return batch

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        from torch.nn.functional import cross_entropy

        labels = batch["labels"].flatten()
        scores = self.outputs(config, model, batch).flatten(0, 1)
        return cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum"), int((labels != IGNORED).sum())

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the scores of each word's tags: float32 [B, W, C]."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        # From the right: prompt methods put virtual tokens in front.
        flat = logits[:, -batch["input_ids"].shape[1] :].flatten(0, 1)
        words = batch["words"]
        outside = flat.new_full(flat.shape[-1:], UNLIKELY)
        outside[0] = 0.0
        scores = flat[words.clamp(min=0)].where((words != UNREAD)[..., None], outside)
        masked: torch.Tensor = scores.masked_fill((words == ABSENT)[..., None], LOWEST)
        return masked

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        import numpy as np

        words = (outputs[:, :, 0] > LOWEST).sum(axis=1)  # what pads a batch of wider rows is NaN, which is not greater
        best = outputs.argmax(axis=2)
        scores = outputs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            chances = 1 / np.exp(scores - scores.max(axis=2, keepdims=True)).sum(axis=2).astype(np.float32)
        rows = range(len(outputs))
        return {
            "prediction": _texts([state["tags"][tag] for tag in best[row, : words[row]]] for row in rows),
            "confidence": np.fromiter((chances[row, : words[row]].tolist() for row in rows), dtype=object),
        }

    def predicted(
        self, config: Config, outputs: np.ndarray, rows: Sequence[Mapping[str, Any]], state: State
    ) -> dict[str, np.ndarray]:
        import numpy as np

        words = np.fromiter((list(row["tokens"]) for row in rows), dtype=object)
        return {**self.predictions(config, outputs, state), "tokens": words}

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        return {"reference": _texts(row["tags"] for row in rows)}

    def judge(self, config: Config, table: Table, state: State) -> dict[str, np.ndarray]:
        import numpy as np

        counts = []
        for reference, prediction in zip(table["reference"], table["prediction"], strict=True):
            actual, predicted = entities(reference), entities(prediction)
            pairs = list(zip(reference.split(" "), prediction.split(" "), strict=True))
            right = sum(one == other for one, other in pairs)
            counts.append((len(actual & predicted), len(predicted), len(actual), right, len(pairs)))
        names = ("correct_entities", "predicted_entities", "actual_entities", "correct_words", "words")
        return dict(zip(names, np.array(counts, dtype=np.int32).reshape(-1, len(names)).T.copy(), strict=True))

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"no_entity": no_entity, "word_majority": word_majority}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        """Return the tags, the lowest score of a word's tag, and the entities; ``end`` is the word after the last."""
        columns = (predictions[name] for name in ("prediction", "confidence", "tokens"))
        return [
            {
                "tags": tags.split(" ") if len(words) else [],
                "score": float(min(scores, default=1.0)),
                "entities": [
                    {
                        "type": kind,
                        "text": _joined(words[first : last + 1]),
                        "start": first,
                        "end": last + 1,
                        "score": float(sum(scores[first : last + 1]) / (last + 1 - first)),
                    }
                    for kind, first, last in sorted(entities(tags), key=lambda one: one[1])
                ],
            }
            for tags, scores, words in zip(*columns, strict=True)
        ]

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        rows = [
            {
                "entity": kind,
                "precision": share(correct, predicted),
                "recall": share(correct, actual),
                "f1": share(2 * correct, predicted + actual),
                "support": int(actual),
            }
            for kind, (correct, predicted, actual) in by_type(table).items()
        ]
        return {"Per entity": rows}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        pairs = (
            (kind_of(actual), kind_of(predicted))
            for reference, prediction in zip(table["reference"], table["prediction"], strict=True)
            for actual, predicted in zip(reference.split(" "), prediction.split(" "), strict=True)
        )
        return {"confusion": [{"actual": actual, "predicted": predicted} for actual, predicted in pairs]}


# -- tags


def _scheme(prefixes: set[str]) -> Scheme:
    if prefixes & {"E", "S"}:
        return "IOBES"
    return "IOB2" if "B" in prefixes else "IO"


def _wrong_tags(tags: Sequence[str], state: State) -> Iterator[tuple[str, str]]:
    """Yield what was expected and what was found instead, for each tag that breaks the scheme."""
    scheme = state["scheme"]
    for number, (tag, before) in enumerate(zip([*tags, OUTSIDE], [OUTSIDE, *tags], strict=True), start=1):
        allowed = BEFORE[scheme].get(tag[:1])
        if not TAG.fullmatch(tag) or tag[0] not in PREFIXES[scheme]:
            prefixes = ", ".join(f"{one}-" for one in PREFIXES[scheme][1:])
            yield f"O, or {prefixes} and an entity type ({scheme}; task.scheme)", f"{shown(tag)}, tag {number}"
        elif tag not in state["tags"]:
            known = ", ".join(state["tags"][:10]) + (", ..." if len(state["tags"]) > 10 else "")
            yield f"one of {known}", f"{shown(tag)}, tag {number}"
        elif allowed and (before[:1] not in allowed or (tag[0] in "IE" and kind_of(before) != kind_of(tag))):
            told = "the end of the row" if number > len(tags) else shown(tag)
            yield f"whole entities ({scheme}; task.scheme)", f"{told} after tag {number - 1}, {shown(before)}"


# -- words and sub-tokens


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int]:
    """Return which sub-token is each word's first, or ``UNREAD``; ``offsets`` are in the words joined by spaces."""
    owner: list[int | None] = []
    for number, text in enumerate(words):
        owner += [*[number] * len(text), None]
    firsts = [UNREAD] * len(words)
    for place, ((begin, end), is_special) in enumerate(zip(offsets, special, strict=True)):
        word = None if is_special or end <= begin else owner[end - 1]
        if word is not None and firsts[word] == UNREAD:
            firsts[word] = place
    return firsts


def _cut(
    ids: Sequence[int], special: Sequence[int], firsts: Sequence[int], limit: int, overlap: int
) -> tuple[list[int], list[int], list[int]]:
    """Return all windows one after the other, where in them each word is read, and the windows' lengths."""
    head = next((place for place, one in enumerate(special) if not one), len(special))
    tail = next((place for place, one in enumerate(reversed(special)) if not one), 0)
    content = ids[head : len(ids) - tail]
    spans = windows_of(len(content), max(1, limit - head - tail), overlap)
    flat: list[int] = []
    starts: list[int] = []
    for span in spans:
        starts.append(len(flat) + head - span.start)  # from a position in the content to one in ``flat``
        flat += [*ids[:head], *content[span.start : span.stop], *ids[len(ids) - tail :]]
    words = [at if at == UNREAD else _seen_best(at - head, spans, starts) for at in firsts]
    return flat, words, [head + len(span) + tail for span in spans]


def _seen_best(at: int, spans: Sequence[range], starts: Sequence[int]) -> int:
    """Return where token ``at`` of the content stands in the window that shows most on its scarcer side."""
    chosen = max((min(at - span.start, span.stop - 1 - at), -place) for place, span in enumerate(spans) if at in span)
    return starts[-chosen[1]] + at


def _supervised(row: Mapping[str, Any], numbers: Mapping[str, int]) -> list[int]:
    return [IGNORED if at < 0 else numbers[tag] for at, tag in zip(row["words"], row["tags"], strict=True)]


def _joined(words: Sequence[str]) -> str:
    """Return words as text: parted by spaces, except where both neighbours are Chinese or Japanese."""
    return re.sub(r"(?<=[\u3040-\u30ff\u3400-\u9fff]) (?=[\u3040-\u30ff\u3400-\u9fff])", "", " ".join(words))


def _texts(rows: Iterable[Sequence[str]]) -> np.ndarray:
    """Return the tags of each row as one text: object [N]."""
    import numpy as np

    return np.fromiter((" ".join(row) for row in rows), dtype=object)


TASK = TokenClassification()
