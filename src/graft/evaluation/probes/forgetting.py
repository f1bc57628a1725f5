"""Forgetting: what the base could do with general text, and can no longer with the adapter on.

An adapter is trained on one task, and may spoil the rest. Where the base's files have a language-model head, each
general text's log-likelihood per token is measured with the adapter on and off (:mod:`language`); where they have none,
how far the states moved. The report says which of the two it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.evaluation.comparison import Comparison, compare
from graft.evaluation.intervals import Interval, Taken, interval, resample
from graft.evaluation.overview import label
from graft.evaluation.probes import About, Finding, Material, Subject, language
from graft.evaluation.probes.files import lines_of, project_file
from graft.evaluation.probes.general_text import TEXTS
from graft.evaluation.probes.rows import picked, sample, score_metric
from graft.tasks import family_of

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig
    from graft.tasks import Task, TaskConfig

    Table = Mapping[str, np.ndarray]

KEY = "evaluation.forgetting.text"
MEASURES = {
    "decoder": "the log-likelihood of each token after those before it",
    "encoder-decoder": "the log-likelihood of the second half of each text, given the first",
    "encoder": "the log-likelihood of masked tokens, every seventh at once (pseudo-likelihood)",
}
STATES = "how alike the hidden states are to the base's (centred cosine), since the base's files have no language head"
BITS, UNITS = "bits per token", {STATES: "similarity"}
"""The unit of scores, and by measure where it is another."""


class ForgettingConfig(Section):
    """What the base could do with general text, and can no longer."""

    texts: int = Limit(default=100, ge=0)
    """How many texts are asked; of a longer file, a seeded sample. 0: none."""

    text: str | None = Limit(default=None, min_length=1)
    """A UTF-8 file with a general text on each line, relative to params.yaml and inside the repository. Default: 100
    short English sentences that come with Graft; name a file where the base is for another language."""

    max_length_tokens: int = Limit(default=128, ge=8)
    """How many tokens of a text are read."""


class Forgetting:
    """The probe."""

    name = "forgetting"
    systems: tuple[str, ...] = ("adapter", "base")

    def unasked(self, config: EvaluationConfig, task: Task, settings: TaskConfig) -> str | None:  # noqa: ARG002
        if not config.forgetting.texts:
            return "off"
        return None if task.processor == "tokenizer" else "the base reads no text"

    def left_out(self, config: EvaluationConfig, subject: Subject, material: Material) -> str | None:  # noqa: ARG002
        loaded = subject.loaded
        if why := self.unasked(config, loaded.task, loaded.config):
            return why
        if language.has_own_head(loaded):
            return None
        if language.is_prompt(loaded):
            return "the adapter is a prompt before the task's input: the base's layers are as they were"
        return None

    def measure(self, config: EvaluationConfig, subject: Subject, material: Material) -> Table:
        """Return a row per general text: ``measure``, ``tokens``, ``score``.

        ``score`` is the mean log-likelihood per token in bits, or the similarity of states where there is no head.
        """
        import numpy as np

        section, loaded = config.forgetting, subject.loaded
        given = general_texts(section, material.root)
        chosen = [given[at] for at in sample(len(given), section.texts, config.seed, self.name)]
        texts = [text for _, text in chosen]
        model = language.language_model(loaded, material.root)
        most = {"limit": language.longest(loaded, section.max_length_tokens), "batch_rows": subject.batch_rows}
        with subject.model():
            if model is None:
                scores, tokens = language.similarity(loaded, texts, **most)
                measure = STATES
            else:
                bits, tokens = language.likelihoods(model, loaded, texts, **most)
                scores = np.divide(bits, tokens, out=np.full(len(bits), np.nan), where=tokens > 0)
                measure = MEASURES[family_of(loaded.model.get_base_model().config)]
        return {
            "row": np.array([place for place, _ in chosen], dtype=object),
            "measure": np.full(len(chosen), measure, dtype=object),
            "tokens": tokens,
            "score": scores,
        }

    def finding(self, config: EvaluationConfig, tables: Mapping[str, Table], plots: Path, about: About) -> Finding:  # noqa: ARG002
        import numpy as np

        first = next(iter(tables.values()))
        measure = str(first["measure"][0])
        said = np.flatnonzero(np.isfinite(first["score"]))
        tables = {system: picked(table, said) for system, table in tables.items()}
        unit = "similarity" if measure == STATES else "perplexity"
        values = {system: {unit: _summary(unit, table, config)} for system, table in tables.items()}
        change = compare(score_metric(), tables["adapter"], tables["base"], config) if _both(tables) else None
        if change is not None and unit == "perplexity":
            one = Interval(change.difference, change.low, change.high, change.test)
            values["adapter"]["change_bits_per_token"] = one
        text = _text(measure, unit, len(said), values, change)
        return Finding(
            title="Forgetting",
            text=text,
            values=values,
            tables={"General text": [_line(system, unit, one) for system, one in values.items()]},
            limits=[_cost(unit, values, change)] if _forgets(unit, change) else [],
        )


def general_texts(section: ForgettingConfig, root: Path) -> list[tuple[str, str]]:
    """Return place and text of every general text.

    Raises:
        ConfigError: the file that the section names cannot be used.
    """
    if section.text is None:
        return [(f"general text:{number}", text) for number, text in enumerate(TEXTS, start=1)]
    return lines_of(project_file(section.text, root, KEY), section.text, KEY)


def perplexity(table: Table) -> float:
    """Return two to the minus mean log-likelihood per token, over all tokens; infinite where a float cannot hold it."""
    mean = float(-(table["score"] * table["tokens"]).sum() / table["tokens"].sum())
    return 2.0**mean if mean < 1000 else math.inf


def _summary(unit: str, table: Table, config: EvaluationConfig) -> Interval:
    if unit == "similarity":
        return interval(score_metric(), table, config)
    if len(table["row"]) < 2:
        return Interval(perplexity(table), math.nan, math.nan, "none")
    found = resample(lambda index: perplexity(Taken(table, index)), len(table["row"]), config)
    return Interval(perplexity(table), found.low, found.high, found.method)


def _both(tables: Mapping[str, Table]) -> bool:
    return {"adapter", "base"} <= tables.keys() and len(tables["adapter"]["row"]) > 1


def _forgets(unit: str, change: Comparison | None) -> bool:
    return change is not None and unit == "perplexity" and change.high < 0


def _cost(unit: str, values: Mapping[str, Mapping[str, Interval]], change: Comparison | None) -> str:
    before, after = (values[system][unit].value for system in ("base", "adapter"))
    assert change is not None
    return (
        f"It forgets: perplexity on general text goes from {before:.3g} with the adapter off to {after:.3g} with it on "
        f"({change.difference:+.3f} bits per token, {change.low:+.3f} to {change.high:+.3f})."
    )


def _text(
    measure: str,
    unit: str,
    texts: int,
    values: Mapping[str, Mapping[str, Interval]],
    change: Comparison | None,
) -> str:
    asked = f"{texts} general texts with the adapter on and off. What was measured: {measure}."
    if change is None:
        return asked
    if unit == "similarity":
        one = values["adapter"][unit]
        return f"{asked} 1 is a base that did not move; with the adapter on it is {one.value:.3f}."
    if _forgets(unit, change):
        return f"{asked} {_cost(unit, values, change)}"
    return (
        f"{asked} It is not shown that the adapter forgets: {change.difference:+.3f} bits per token "
        f"({change.low:+.3f} to {change.high:+.3f})."
    )


def _line(system: str, unit: str, values: Mapping[str, Interval]) -> dict[str, Any]:
    one, change = values[unit], values.get("change_bits_per_token")
    return {
        "system": label(system),
        unit: one.value,
        "interval": f"{one.low:.3f} to {one.high:.3f}",
        "bits per token against the base": f"{change.value:+.3f}" if change else "",
    }


PROBE = Forgetting()
