"""Translation: a source text to the same text in another language, by an encoder-decoder, or by a decoder's prompt.

The headline is corpus BLEU; chrF sees parts of words, which matters for German, and ranks the errors by row. Validation
in training needs no generation: the perplexity of the targets selects the checkpoint. A prediction table has
``reference`` and ``references`` (object [N]), ``nll`` and ``tokens`` of the target, ``prediction`` (object [N]) and the
rows' statistics of :mod:`graft.text_metrics`.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from graft import text_metrics, text_to_text
from graft.language_modeling import perplexity
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head
from graft.text_metrics import BleuTokenizer, bleu_tokenizer_for
from graft.text_to_text import SequenceConfig, SequenceToSequence

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    Table = Mapping[str, np.ndarray]

LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
"""The form of a BCP 47 tag whose language is an ISO 639 code of two or three letters; also with underscores."""


class Config(SequenceConfig, TaskConfig):
    """Translation: each row's ``source`` has a ``target``, and maybe several ``references``."""

    name: Literal["translation"] = "translation"
    """The task: a text into another language."""

    source_language: str | None = None
    """The language of the sources as a code (ISO 639, BCP 47), such as ``en``; for the report."""

    target_language: str | None = None
    """The language of the targets as a code (ISO 639, BCP 47), such as ``de``, ``zh`` or ``zh-CN``: it decides what
    BLEU takes for words."""

    bleu_tokenizer: BleuTokenizer | None = None
    """sacrebleu's tokenizer, which makes BLEU's words; null: that of ``target_language`` (13a, zh for Chinese, char for
    other languages without spaces)."""

    @field_validator("source_language", "target_language")
    @classmethod
    def _is_a_code(cls, language: str | None) -> str | None:
        """Refuse a name: taken for an unknown code, it would have BLEU count each Chinese sentence as one word."""
        if language is not None and not LANGUAGE.fullmatch(language):
            raise ValueError("must be a language's code (ISO 639, BCP 47), not its name; write `de`, `zh` or `zh-CN`")
        return language

    @property
    def words(self) -> BleuTokenizer:
        """The tokenizer that BLEU uses."""
        return self.bleu_tokenizer or bleu_tokenizer_for(self.target_language)


# -- metrics over a prediction table


def bleu(table: Table) -> float:
    """Return the corpus BLEU, 0 to 100."""
    return text_metrics.bleu(table["bleu_counts"])


def row_chrf(table: Table) -> np.ndarray:
    """Return each row's own chrF, 0 to 100: float64 [N]."""
    return text_metrics.chrf_rows(table["chrf_counts"])


def mean_row_chrf(table: Table) -> float:
    """Return the mean of the rows' own chrF."""
    return float(row_chrf(table).mean())


def exact(table: Table) -> np.ndarray:
    """Return 1 where a prediction is a reference, but for case and spaces, else 0: float64 [N]."""
    return table["exact"]


def exact_match(table: Table) -> float:
    """Return the share of rows whose prediction is a reference."""
    return float(exact(table).mean())


# -- cheap predictors


def copy(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Leave the source as it is: names, numbers and punctuation are right."""
    return {"prediction": text_to_text.objects([row["source"] for row in test_rows])}


class Translation(SequenceToSequence, Task):
    """The contract's methods for translation."""

    name = "translation"
    fields = (
        Field("source", "string", text=True),
        Field("target", "string", text=True, target=True),
        Field("references", "strings", required=False, text=True, target=True),
    )
    families = ("encoder-decoder", "decoder")
    metrics = (
        Metric("bleu", bleu, generated=True),
        Metric("chrf", text_to_text.chrf, generated=True),
        Metric("mean_row_chrf", mean_row_chrf, per_row=row_chrf, generated=True),
        Metric("exact_match", exact_match, per_row=exact, generated=True),
        Metric("perplexity", perplexity, greater_is_better=False),
    )
    headline = "bleu"
    worst = "mean_row_chrf"
    curves = (text_to_text.histogram_curve("chrf", "Test rows by chrF"),)

    def learnt(self, config: Config, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        text_metrics.check_tokenizer(config.words)
        return {}

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
            "bleu_counts": text_metrics.bleu_counts(predictions, references, config.words),
            "chrf_counts": text_metrics.chrf_counts(predictions, references),
            "exact": text_metrics.exact_rows(predictions, references),
        }

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"copy": copy, "translation_memory": text_to_text.nearest}

    def measured(self, config: Config, table: Table, state: State) -> dict[str, str]:
        signatures = text_metrics.signatures(table["references"].tolist(), config.words)
        languages = {"languages": f"{config.source_language or '?'} to {config.target_language or '?'}"}
        return {
            **languages,
            "bleu": signatures["bleu"],
            "chrf": signatures["chrf"],
            **text_to_text.generation_settings(config),
        }

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return text_to_text.plot_rows(table, row_chrf(table), "chrf", 100)


TASK = Translation()
