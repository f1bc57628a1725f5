"""Text in, text out: what translation and summarization share, so that each is a short file.

Two kinds of base do it. An encoder-decoder reads the source (behind an optional ``prefix``) and is supervised on the
target; a decoder reads a ``prompt`` that the source stands in, and goes on with the target. Either way the loss counts
the target's tokens and its end, and nothing else. A token row is the same for both: ``input_ids`` is what is read, also
at predict, and ``labels`` the target with its end; ``prompt_tokens`` says that a decoder is to read the one after the
other.

The source gets the part of ``tokenization.max_length_tokens`` that ``task.max_target_tokens`` leaves, whatever the
target's length: at predict there is none, and a source should be cut where it was cut in training. It is cut at its
end, inside the template, so that what the template says after it stays.
"""

# ruff: noqa: ARG001, ARG002  (the task contract's signatures hold more than one task needs)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit
from pydantic import model_validator

from graft import text_metrics
from graft.config import Section
from graft.errors import ConfigError, shown
from graft.filler import says_the_same
from graft.generation import GenerationConfig, described, generate_ids
from graft.language_modeling import histogram, likelihood_columns
from graft.likelihood import IGNORED, row_likelihoods, total_likelihood
from graft.padding import mask_of, padded

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]
    Row = Mapping[str, Any]

SOURCE = "{source}"
FEATURES = 50_000
NEAREST_ROWS = 256
"""Test rows compared with all training rows at once: bounds the memory."""


class SequenceConfig(Section):
    """What the tasks from text to text have in common."""

    prefix: str = ""
    """For an encoder-decoder: text before each source (T5's ``translate English to German: ``)."""

    prompt: str | None = None
    """For a decoder: the text that it answers to, with ``{source}`` where the source stands; null for an
    encoder-decoder."""

    max_target_tokens: int = Limit(default=64, ge=2)
    """The longest target, in tokens with its end: longer ones are cut, and no longer answer is generated. The source
    has the rest of ``tokenization.max_length_tokens``."""

    generation: GenerationConfig = GenerationConfig()
    """How answers are generated."""

    @model_validator(mode="after")
    def _check_prompt(self) -> SequenceConfig:
        if self.prompt is not None and self.prompt.count(SOURCE) != 1:
            raise ValueError(f"prompt must have {SOURCE} once, where the source stands (got {shown(self.prompt)})")
        if self.prompt is not None and self.prefix:
            raise ValueError("prefix is for an encoder-decoder and prompt for a decoder; give one of them")
        return self

    @property
    def template(self) -> str:
        """What is read, with ``SOURCE`` where the source stands."""
        return f"{self.prefix}{SOURCE}" if self.prompt is None else self.prompt


def auto_class(config: SequenceConfig, folder: str, trust_remote_code: bool | None) -> str:
    """Return the name of transformers' class that loads the base in ``folder`` for this section.

    Raises:
        ConfigError: an encoder-decoder with a prompt, or another base without one.
    """
    from transformers import AutoConfig

    described = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if described.is_encoder_decoder and config.prompt is not None:
        raise ConfigError(
            f"task.prompt: base.source is an encoder-decoder ({described.model_type}), which reads the source by "
            f"itself; leave prompt out (task.prefix is text before the source)"
        )
    if not described.is_encoder_decoder and config.prompt is None:
        raise ConfigError(
            f"task.prompt: not given, but base.source is no encoder-decoder ({described.model_type}); choose one, or "
            f'give the text that a decoder goes on from, with {SOURCE} in it, such as "{SOURCE}\\nAnswer:"'
        )
    return "AutoModelForSeq2SeqLM" if described.is_encoder_decoder else "AutoModelForCausalLM"


class SequenceToSequence:
    """The contract's methods that do not depend on which of the tasks it is; a task class inherits from it first."""

    generates = True
    selection = "perplexity"
    teaches = ("target", "text that the base's tokenizer has tokens for")

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        ids, texts = pa.list_(pa.int32()), pa.list_(pa.string())
        return pa.schema([("prompt_tokens", pa.int32()), ("labels", ids), ("references", texts)])

    def encode(
        self, config: Any, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length_tokens: int
    ) -> list[dict[str, Any]]:
        end = tokenizer.eos_token_id
        if end is None:
            raise ConfigError("base.source: its tokenizer has no end token (eos_token), so no answer could end")
        read = _Reader(config, tokenizer, max_length_tokens).read([row["source"] for row in rows])
        targets = _targets(config, [row.get("target") for row in rows], tokenizer, end)
        found = []
        for row, (ids, cut), target in zip(rows, read, targets, strict=True):
            kept = None if target is None else target[: config.max_target_tokens]  # what is cut has no end to be learnt
            length, lost = len(ids) + len(kept or ()), cut + len(target or ()) - len(kept or ())
            found.append(
                {
                    "input_ids": ids,
                    "prompt_tokens": None if config.prompt is None else len(ids),
                    "labels": kept,
                    "references": texts_of(row),
                    "supervised": None if kept is None else len(kept),
                    "ended": kept[-1] == end if kept else None,
                    "lost_target": len(target or ()) - len(kept or ()),
                    "length": length,
                    "untruncated_length": length + lost,
                }
            )
        return found

    def collate(self, rows: Sequence[Row], pad_token_id: int, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        read, targets = [row["input_ids"] for row in rows], [row["labels"] or [] for row in rows]
        if rows[0]["prompt_tokens"] is not None:
            pairs = list(zip(read, targets, strict=True))
            read = [[*prompt, *target] for prompt, target in pairs]
            targets = [[*[IGNORED] * len(prompt), *target] for prompt, target in pairs]
        return {
            "input_ids": padded(read, pad_token_id),
            "attention_mask": mask_of(read),
            "labels": padded(targets, IGNORED),
        }

    def loss(self, config: Any, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return total_likelihood(model, batch)

    def outputs(self, config: Any, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return row_likelihoods(model, batch)

    def generate(
        self, config: Any, model: nn.Module, rows: Sequence[Row], processor: Any, pad_token_id: int
    ) -> list[str]:
        settings = config.generation
        longest = min(settings.max_new_tokens, config.max_target_tokens)
        answers = generate_ids(
            model,
            [row["input_ids"] for row in rows],
            settings.model_copy(update={"max_new_tokens": longest}),
            pad_token_id=pad_token_id,
            eos_token_id=processor.eos_token_id,
        )
        texts = processor.batch_decode(answers, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def predictions(self, config: Any, outputs: np.ndarray, state: Any) -> dict[str, np.ndarray]:
        return likelihood_columns(outputs)

    def references(self, rows: Sequence[Row], state: Any) -> dict[str, np.ndarray]:
        return {
            "reference": objects([row["references"][0] for row in rows]),
            "references": objects([list(row["references"]) for row in rows]),
        }

    def answers(self, predictions: Table, state: Any) -> list[dict[str, Any]]:
        return [{"text": str(text)} for text in predictions["prediction"]]

    def example(self, config: Any, probe: Table, processor: Any) -> dict[str, Any]:
        """Return a raw row: the source of the probe's first row, without what the template puts around it."""
        ids = probe["input_ids"][0][probe["attention_mask"][0] == 1]
        if config.prompt is not None:
            ids = ids[: int((probe["labels"][0] != IGNORED).argmax())]
        text = processor.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        before, after = (part.strip() for part in config.template.split(SOURCE))
        return {"source": text.strip().removeprefix(before).removesuffix(after).strip()}

    def details(self, table: Table, state: Any) -> dict[str, list[dict[str, Any]]]:
        return {"Length": lengths(table)}


# -- rows to tokens


class _Reader:
    """Sources to what the base reads."""

    def __init__(self, config: SequenceConfig, tokenizer: PreTrainedTokenizerBase, max_length_tokens: int) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.room = max_length_tokens - config.max_target_tokens
        if self.room < 1:
            raise ConfigError(
                f"task.max_target_tokens: {config.max_target_tokens} of tokenization.max_length_tokens "
                f"({max_length_tokens}) leave no room for a source; lower the one or raise the other"
            )

    def read(self, sources: Sequence[str]) -> list[tuple[list[int], int]]:
        """Return the tokens of each source in its template, and how many were cut."""
        return [
            (ids, 0) if len(ids) <= self.room else self._cut(source, len(ids))
            for source, ids in zip(sources, self._tokens(sources), strict=True)
        ]

    def _tokens(self, sources: Sequence[str]) -> list[list[int]]:
        texts = [self.config.template.replace(SOURCE, source) for source in sources]
        found = self.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        if self.config.prompt is None:
            return list(found)
        # A decoder that read an end token would take its answer for another text.
        return [ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids for ids in found]

    def _cut(self, source: str, count: int) -> tuple[list[int], int]:
        """Return the tokens of a start of ``source`` that fits, and how many of ``count`` are lost."""
        found = self.tokenizer(source, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in found["offset_mapping"]]
        keep, size = len(ends), count
        while size > self.room and keep > 0:
            keep -= size - self.room
            [ids] = self._tokens([source[: ends[keep - 1]] if keep > 0 else ""])
            size = len(ids)
        if keep <= 0:
            raise ConfigError(
                f"tokenization.max_length_tokens: what stands around a source takes all {self.room} tokens that "
                f"task.max_target_tokens leaves; raise it, or shorten task.prompt or task.prefix"
            )
        return ids, count - size


def _targets(
    config: SequenceConfig, texts: Sequence[str | None], tokenizer: PreTrainedTokenizerBase, end: int
) -> list[list[int] | None]:
    """Return the tokens of each target with its end: none where the tokenizer has none for it, None without a target.

    An encoder-decoder's tokenizer says what stands around a target; a decoder's target goes on after the prompt.
    """
    empty = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    given = [text for text in texts if text is not None]
    if not given:
        return [None] * len(texts)
    if config.prompt is None:
        found = tokenizer(text_target=given, verbose=False)["input_ids"]
    else:
        found = tokenizer(given, add_special_tokens=False, verbose=False)["input_ids"]
    ended = iter([[*ids, *([] if ids[-1] == end else [end])] if set(ids) - empty else [] for ids in found])
    return [None if text is None else next(ended) for text in texts]


def texts_of(row: Row) -> list[str] | None:
    """Return what a row's answer is compared with: its ``references``, else its ``target``; None without them."""
    target = row.get("target")
    several: list[str] | None = row.get("references") or (None if target is None else [target])
    return several


def row_problems(row: Row) -> Iterator[tuple[str, str, str]]:
    """Yield field, what is expected and what is found where a row cannot be read."""
    if row.get("references") == []:
        yield "references", "one text or more, or no such field", "an empty list"


def row_doubts(row: Row) -> Iterator[tuple[str, str, str]]:
    """Yield field, what is expected and what is found where a target repeats its source; a name or number may."""
    if says_the_same(row["source"], row["target"]):
        yield "target", "another text than the source", f"the same: {shown(row['target'])}"


# -- a cheap predictor


def nearest(
    config: Any, train_rows: Sequence[Row], test_rows: Sequence[Row], state: Any, seed: int
) -> dict[str, np.ndarray]:
    """Give the target of the training row whose source is most like it, by TF-IDF of words and word pairs."""
    return {"prediction": objects(nearest_targets(train_rows, test_rows))}


def nearest_targets(train_rows: Sequence[Row], test_rows: Sequence[Row]) -> list[str]:
    """Return the target of the training row whose source is most like each test row's."""
    places = nearest_texts([row["source"] for row in train_rows], [row["source"] for row in test_rows])
    return [train_rows[place]["target"] for place in places]


def nearest_texts(known: Sequence[str], asked: Sequence[str]) -> list[int]:
    """Return which of the ``known`` texts is most like each one that is ``asked``.

    By the cosine of TF-IDF vectors of words and word pairs; of several, the first.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer=_words_and_pairs, sublinear_tf=True, max_features=FEATURES)
    there, wanted = vectors.fit_transform(known).T.tocsr(), vectors.transform(asked)
    found: list[int] = []
    for start in range(0, len(asked), NEAREST_ROWS):
        likeness = (wanted[start : start + NEAREST_ROWS] @ there).toarray()
        found += np.argmax(likeness, axis=1).tolist()
    return found


def _words_and_pairs(text: str) -> list[str]:
    found = text_metrics.words(text)
    # A text without words still needs a feature: a vectorizer refuses an empty vocabulary.
    return [*found, *map(" ".join, pairwise(found))] or [""]


# -- tables


def objects(values: Sequence[Any]) -> np.ndarray:
    """Return an object array [N], also where the values are lists of one length."""
    import numpy as np

    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found


def chrf(table: Table) -> float:
    """Return the corpus chrF, 0 to 100."""
    return text_metrics.chrf(table["chrf_counts"])


def length_ratios(table: Table) -> np.ndarray:
    """Return how many times as long, in characters, a prediction is as its first reference: float64 [N]."""
    import numpy as np

    pairs = zip(table["prediction"], table["reference"], strict=True)
    return np.array([len(one) / max(1, len(other)) for one, other in pairs], dtype=np.float64)


def lengths(table: Table) -> list[dict[str, Any]]:
    """Return how long references and predictions are, in characters, for the report."""
    import numpy as np

    found = []
    for name in ("reference", "prediction"):
        sizes = np.array([len(text) for text in table[name]])
        quartiles = np.quantile(sizes, (0.25, 0.5, 0.75))
        found.append(
            {
                "text": name,
                "mean_characters": round(float(sizes.mean()), 1),
                **{f"{share}_%": float(value) for share, value in zip((25, 50, 75), quartiles, strict=True)},
                "empty": int((sizes == 0).sum()),
            }
        )
    return found


def plot_rows(table: Table, scores: np.ndarray, name: str, top: float) -> dict[str, list[dict[str, Any]]]:
    """Return the data of two histograms: of the rows' ``scores`` (0 to ``top``), and of their ratios of lengths."""
    return {
        "histogram": histogram(scores, name, top),
        "length_ratio": histogram(length_ratios(table), "length_ratio", 2),
    }


def histogram_curve(name: str, title: str) -> dict[str, Any]:
    """Return the entry for dvc.yaml's ``plots`` that shows the plot rows ``histogram`` of the scores ``name``."""
    path = "artifacts/evaluation/plots/histogram.csv"
    return {"histogram": {"x": {path: "rows"}, "y": {path: name}, "template": "bar_horizontal", "title": title}}


def generation_settings(config: SequenceConfig) -> dict[str, str]:
    """Return how answers were generated, by the names of the params, for the report."""
    longest = min(config.generation.max_new_tokens, config.max_target_tokens)
    return described(config.generation.model_copy(update={"max_new_tokens": longest}))
