"""Chat: a decoder learns to answer, from prompts with completions or from whole conversations.

Every answer of a conversation is learnt, and nothing else of it: not what users, tools or instructions say. The last
answer is what generation is measured on. :mod:`graft.prompting` says how conversations become tokens.

The headline is bits per byte of the answers: likelihood tells adapters apart long before greedy answers equal a
reference, and a byte model without any prompt has it too. Exact match and ROUGE read generated answers.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.conversations import ANSWERS, disorder, messages_of
from graft.errors import shown
from graft.filler import says_the_same
from graft.generation import GenerationConfig, described
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
from graft.padding import mask_of, padded
from graft.prompting import ChatFormat, ChatTemplate, Line, continued, prompt_text
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head
from graft.text_metrics import exact_rows, rouge_rows, signatures
from graft.text_to_text import nearest_texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]


class Config(TaskConfig):
    """Chat: each row is a ``prompt`` (and ``system``) and its ``completion``, or ``messages`` that end in an answer."""

    name: Literal["chat"] = "chat"
    """The task: answers to prompts."""

    template: ChatTemplate = None
    """A chat template (Jinja), as tokenizers carry them. Default: the tokenizer's own; where it has none, a line for
    each message, and the end token after each answer."""

    generation: GenerationConfig = Limit(default_factory=GenerationConfig)
    """How answers are generated, for the metrics that read them and by `graft predict`."""


# -- metrics over a prediction table


def _mean(column: str) -> Callable[[Table], float]:
    return lambda table: float(table[column].mean())


def _column(column: str) -> Callable[[Table], np.ndarray]:
    return lambda table: table[column]


# -- cheap predictors


def frequent(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Answer with the most frequent completion; expect each byte as often as the training answers have it."""
    import numpy as np

    counts = Counter(answers_of(row)[-1] for row in train_rows)
    most = min(counts, key=lambda text: (-counts[text], text))
    return {**_byte_columns(1, train_rows, test_rows), "prediction": np.array([most] * len(test_rows), dtype=object)}


def nearest(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Answer as the training row with the most similar prompt (TF-IDF); expect bytes by the byte before."""
    import numpy as np

    found = nearest_texts([_prompt_text(row) for row in train_rows], [_prompt_text(row) for row in test_rows])
    texts = [answers_of(train_rows[place])[-1] for place in found]
    return {**_byte_columns(2, train_rows, test_rows), "prediction": np.array(texts, dtype=object)}


def answers_of(row: Row) -> list[str]:
    """Return all answers of a row."""
    return [one["content"] for one in _conversation(row) if one["role"] == ANSWERS]


def _conversation(row: Row) -> list[dict[str, Any]]:
    return messages_of(row, None if row.get("messages") else row.get("completion"))


def _prompt_text(row: Row) -> str:
    return "\n".join(one["content"] for one in _conversation(row)[:-1])


def _byte_columns(order: int, train_rows: Sequence[Row], test_rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return likelihoods of all answers of each row, and their bytes: nothing is too long for a byte model."""
    import numpy as np

    model = ByteModel(order, (text for row in train_rows for text in answers_of(row)))
    return {
        "nll": np.array([model.nll(answers_of(row)).sum() for row in test_rows]),
        "bytes": np.array([sum(map(count_bytes, answers_of(row))) for row in test_rows], dtype=np.int64),
    }


class Chat(Task):
    """The contract's methods for answers to prompts."""

    name = "chat"
    fields = (
        Field("prompt", "string", required=False, text=True),
        Field("system", "string", required=False, text=True),
        Field("completion", "string", required=False, text=True, target=True),
        Field("messages", "messages", required=False, text=True),
    )
    families = ("decoder",)
    metrics = (
        Metric("bits_per_byte", bits_per_byte, greater_is_better=False),
        Metric("perplexity", perplexity, greater_is_better=False),
        Metric("nll", nll_per_token, greater_is_better=False),
        Metric("exact_match", _mean("exact"), per_row=_column("exact"), generated=True),
        Metric("rouge1", _mean("rouge1"), per_row=_column("rouge1"), generated=True),
        Metric("rougeL", _mean("rougeL"), per_row=_column("rougeL"), generated=True),
    )
    headline = "bits_per_byte"
    worst = "rougeL"
    generates = True
    teaches = ("completion", "an answer that makes a token at least")
    chats = True

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if row.get("messages"):
            for expected, found in disorder(row["messages"]):
                yield RowProblem("messages", expected, found)
            if row["messages"][-1]["role"] != ANSWERS:
                yield RowProblem("messages", "an answer at the end", f"a message from {row['messages'][-1]['role']}")
            return
        for name in ("prompt", "completion"):
            if row.get(name) is None:
                yield RowProblem(name, "prompt and completion, or messages", "nothing")

    def doubt_row(self, config: Config, row: Row) -> Iterator[RowProblem]:
        messages = row.get("messages") or messages_of(row, row["completion"])
        for number, (before, one) in enumerate(pairwise(messages), start=2):
            if one["role"] == ANSWERS and says_the_same(before["content"], one["content"]):
                field = "messages" if row.get("messages") else "completion"
                found = f"message {number}: {shown(one['content'])}"
                yield RowProblem(field, "an answer that does not repeat the question", found)

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                ("labels", pa.list_(pa.int32())),
                ("prompt", pa.int32()),
                ("bytes", pa.int32()),
                ("answer", pa.string()),
            ]
        )

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        chat = ChatFormat(tokenizer, config.template)
        conversations = [_conversation(row) for row in rows]
        found = chat.encode(conversations, max_length_tokens)
        return [
            _token_row(line, chat, size, messages[-1])
            for (line, size), messages in zip(found, conversations, strict=True)
        ]

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        return load_with_head("AutoModelForCausalLM", folder, self.families, **kwargs)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        lines = [row["input_ids"] for row in rows]
        return {
            "input_ids": padded(lines, pad_token_id),
            "attention_mask": mask_of(lines),
            "labels": padded([row["labels"] for row in rows], IGNORED),
        }

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return total_likelihood(model, batch)

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return row_likelihoods(model, batch)

    def generate(
        self, config: Config, model: nn.Module, rows: Sequence[Mapping[str, Any]], processor: Any, pad_token_id: int
    ) -> list[str]:
        prompts = [row["input_ids"][: row["prompt"]] for row in rows]
        stops = ChatFormat(processor, config.template).stops
        return continued(prompts, model, config.generation, processor, pad_token_id, stops)

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        return likelihood_columns(outputs)

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        import numpy as np

        return {
            "reference": np.array([row["answer"] for row in rows], dtype=object),
            "bytes": np.array([row["bytes"] for row in rows], dtype=np.int64),
        }

    def judge(self, config: Config, table: Table, state: State) -> dict[str, np.ndarray]:
        if "prediction" not in table:
            return {}
        texts, wanted = table["prediction"].tolist(), [[text] for text in table["reference"]]
        rouge = rouge_rows(texts, wanted)
        return {"exact": exact_rows(texts, wanted), "rouge1": rouge[:, 0], "rougeL": rouge[:, 2]}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"frequent": frequent, "nearest": nearest}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        return [{"text": text} for text in predictions["prediction"]]

    def example(self, config: Config, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        return {"prompt": prompt_text(probe, processor)}

    def measured(self, config: Config, table: Table, state: State) -> dict[str, str]:
        rouge = signatures([text] for text in table["reference"])["rouge"]
        return {"rouge": rouge, **described(config.generation)}

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"Answers": [sizes(table)]}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"histogram": histogram(table["nll"] / table["tokens"], "nll_per_token")}


def _token_row(line: Line, chat: ChatFormat, size: int, last: Mapping[str, Any]) -> dict[str, Any]:
    answered = last["role"] == ANSWERS
    return {
        "input_ids": line.ids,
        "labels": line.labels if answered else None,
        "prompt": line.prompt,
        "bytes": line.answer_bytes(chat.special),
        "supervised": sum(line.supervised) if answered else None,
        "ended": answered and line.ends_in(chat.special),
        "lost_prompt": line.lost_prompt,
        "lost_target": line.lost_target if answered else 0,
        "answer": last["content"] if answered else None,
        "untruncated_length": size,
    }


TASK = Chat()
