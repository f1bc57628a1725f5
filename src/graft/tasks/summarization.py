"""Summarization: a text (a dialogue, an article) to a short one, by an encoder-decoder, or by a decoder's prompt.

The headline is ROUGE-L, the F score of the longest common subsequence of words (of characters where a script has no
spaces); ROUGE-1 and ROUGE-2 are what tables of results give beside it. Validation in training needs no generation: the
perplexity of the targets selects the checkpoint. A prediction table has ``reference`` and ``references`` (object [N]),
``nll`` and ``tokens`` of the target, ``prediction`` (object [N]) and the rows' statistics of
:mod:`graft.text_metrics`.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal

from graft import text_metrics, text_to_text
from graft.language_modeling import perplexity
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head
from graft.text_to_text import SequenceConfig, SequenceToSequence

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    Table = Mapping[str, np.ndarray]

_SENTENCE = re.compile(r"[^\n.!?。！？]*(?:[.!?。！？]+|\n|$)\s*")
"""A sentence or a line, such as a turn of a dialogue."""


class Config(SequenceConfig, TaskConfig):
    """Summarization: each row's ``source`` has a short ``target``, and maybe several ``references``."""

    name: Literal["summarization"] = "summarization"
    """The task: a text to its summary."""


# -- metrics over a prediction table


def _rouge(column: int) -> tuple[Callable[[Table], float], Callable[[Table], np.ndarray]]:
    """Return the mean of a column of the rows' ROUGE scores, and that column."""

    def rows(table: Table) -> np.ndarray:
        scores: np.ndarray = table["rouge"][:, column]
        return scores

    return lambda table: float(rows(table).mean()), rows


rouge1, row_rouge1 = _rouge(0)
rouge2, row_rouge2 = _rouge(1)
rouge_l, row_rouge_l = _rouge(2)


# -- cheap predictors


def lead(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Give the first sentences (turns of a dialogue), as many words of them as a training target has on average."""
    sizes = [len(text_metrics.words(row["target"])) for row in train_rows]
    wanted = max(1, round(sum(sizes) / len(sizes)))
    return {"prediction": text_to_text.objects([first_sentences(row["source"], wanted) for row in test_rows])}


def first_sentences(text: str, wanted: int) -> str:
    """Return the first sentences of a text: one, and then those that keep it at most ``wanted`` words long."""
    chosen, size = "", 0
    for found in _SENTENCE.finditer(text):
        words = len(text_metrics.words(found.group()))
        if size and size + words > wanted:
            break
        chosen, size = chosen + found.group(), size + words
    return " ".join(chosen.split())


class Summarization(SequenceToSequence, Task):
    """The contract's methods for summarization."""

    name = "summarization"
    fields = (
        Field("source", "string", text=True),
        Field("target", "string", text=True, target=True),
        Field("references", "strings", required=False, text=True, target=True),
    )
    families = ("encoder-decoder", "decoder")
    metrics = (
        Metric("rougeL", rouge_l, per_row=row_rouge_l, generated=True),
        Metric("rouge1", rouge1, per_row=row_rouge1, generated=True),
        Metric("rouge2", rouge2, per_row=row_rouge2, generated=True),
        Metric("chrf", text_to_text.chrf, generated=True),
        Metric("perplexity", perplexity, greater_is_better=False),
    )
    headline = "rougeL"
    curves = (text_to_text.histogram_curve("rougeL", "Test rows by ROUGE-L"),)

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        return starmap(RowProblem, text_to_text.row_problems(row))

    def doubt_row(self, config: Config, row: Row) -> Iterator[RowProblem]:
        return starmap(RowProblem, text_to_text.row_doubts(row))

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        auto_class = text_to_text.auto_class(config, folder, kwargs.get("trust_remote_code"))
        return load_with_head(auto_class, folder, self.families, **kwargs)

    def judge(self, config: Config, table: Table, state: State) -> dict[str, np.ndarray]:
        if "prediction" not in table:
            return {}
        predictions, references = table["prediction"].tolist(), table["references"].tolist()
        return {
            "rouge": text_metrics.rouge_rows(predictions, references),
            "chrf_counts": text_metrics.chrf_counts(predictions, references),
        }

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"lead": lead, "nearest": text_to_text.nearest}

    def measured(self, config: Config, table: Table, state: State) -> dict[str, str]:
        signatures = text_metrics.signatures(table["references"].tolist())
        return {"rouge": signatures["rouge"], "chrf": signatures["chrf"], **text_to_text.generation_settings(config)}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return text_to_text.plot_rows(table, row_rouge_l(table), "rougeL", 1)


TASK = Summarization()
