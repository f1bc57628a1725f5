"""What a task is: one file here per task, found by its file name. Adding a task is adding a file.

A task file defines ``Config`` (its params section, a :class:`TaskConfig` with a literal ``name``) and ``TASK`` (an
instance of :class:`Task`). Nothing heavy is imported at module level: torch, transformers and numpy are imported
inside the methods that need them, so that reading params.yaml stays cheap.

Shapes below: B rows of a batch, T tokens, C classes, N rows of a table.
"""

# ruff: noqa: ARG002  (a default answers without what a task's own method reads)

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graft.config import Section
from graft.errors import ConfigError, shown

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LANGUAGE_MODELS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Classes whose head a base brings: it is trained only where an adapter names it."""

PIECES = ("prompt", "context", "target")
"""What a row is made of where it is too long: what is asked, what it is about (a text, a source, earlier turns with
their answers), what is to be answered."""

Row = Mapping[str, Any]
State = Mapping[str, Any]
"""What a task learns from the training rows and every later stage needs (a label map, say): JSON, in identity.json."""


class TaskConfig(Section):
    """Settings that every task shares; a task file extends it."""

    name: str
    """The task: the name of a file in ``src/graft/tasks``."""


FieldType = Literal["string", "number", "strings", "label", "labels", "messages", "answers", "image"]
"""``label``: string, integer or boolean, read as a string. ``labels``: a list of them, possibly empty. ``messages``: a
list of ``{role, content}``. ``answers``: ``{text: [...], answer_start: [...]}``. ``image``: the bytes of a picture."""

Family = Literal["encoder", "decoder", "encoder-decoder", "vision"]
"""What a base is made of: it decides which tasks it can do."""


@dataclass(frozen=True)
class Field:
    """A field of the task's row: what it is called in the task; ``data.columns`` maps it to a column of the files."""

    name: str
    type: FieldType
    required: bool = True
    text: bool = False
    """Whether cleaning, length and encoding checks apply."""
    target: bool = False
    """Whether it is what the model is to answer: validation and training need it, predict does not ask for it."""
    words: bool = False
    """Whether the items of a list are the words of one text."""
    within: str = ""
    """The text field that answers stand in: it may move them."""
    shared: bool = False
    """Whether many rows have the same text in it by design, so that it makes no two of them alike."""
    beside: bool = False
    """Whether it is a column that the task does not read, of which the contract says something: a part has to have the
    column, and a row needs no value in it."""


def label_of(fields: Sequence[Field]) -> str | None:
    """Return the field that holds the one label of a row, if there is one."""
    return next((one.name for one in fields if one.type == "label"), None)


@dataclass(frozen=True)
class RowProblem:
    """One thing wrong with one row."""

    field: str
    expected: str
    found: str


@dataclass(frozen=True)
class Metric:
    """A number over a prediction table. ``function`` takes the columns (numpy arrays) and returns a float."""

    name: str
    function: Callable[[Mapping[str, np.ndarray]], float]
    greater_is_better: bool = True
    per_row: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None
    """The row scores whose mean is the metric, where it has that form (accuracy): float64 [N]. Allows exact tests."""
    generated: bool = False
    """Whether it reads generated text, which is made for the test rows alone: validation in training leaves it out."""


class Task(abc.ABC):
    """The contract between one task and the stages."""

    name: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    """The fields of every row; :meth:`fields_of` adds those that the section asks for."""
    families: ClassVar[tuple[Family, ...]]
    """The bases that can do the task."""
    metrics: ClassVar[tuple[Metric, ...]]
    headline: ClassVar[str]
    """The name of the metric that decides promotions."""
    selection: ClassVar[str] = ""
    """The name of the metric that selects checkpoints, where the headline needs generated text; empty: the headline."""
    worst: ClassVar[str] = ""
    """The name of the metric whose row scores rank the errors in the report; empty: the headline."""
    processor: ClassVar[Literal["tokenizer", "image"]] = "tokenizer"
    """What turns rows into model inputs, as the base brings it."""
    generates: ClassVar[bool] = False
    """Whether the answer to a row is generated text (:meth:`generate`)."""
    teaches: ClassVar[tuple[str, str]] = ("", "")
    """The field that training learns from, and what is expected of it where a row has nothing to learn."""
    chats: ClassVar[bool] = False
    """Whether rows are conversations, which the base's chat template writes unless the section has a ``template``."""
    held_to: ClassVar[tuple[str, ...]] = ("labels",)
    """The entries of the state that rows are checked against.

    One that :meth:`gathered` tells too is a list of names. What is wrong with a row whose names are all in it is the
    same whatever else it has.
    """
    content: ClassVar[str] = "input_ids"
    """The column of a token table that is what a row says to the model; rows that two splits share are found by it."""
    curves: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Entries for ``plots`` of dvc.yaml, over the files that :meth:`plots` gives."""

    def fields_of(self, config: Any) -> tuple[Field, ...]:
        """Return the fields of a row under this section; ``fields`` unless a task says otherwise."""
        return self.fields

    # -- validate
    def gathered(self, config: Any, rows: Iterator[Row]) -> dict[str, Any]:
        """Return what the rows of one part tell (JSON); a task that learns nothing looks at none of them.

        Parts of the other splits are asked too where rows have labels, for the names in it (:attr:`held_to`).
        """
        return {}

    def learnt(self, config: Any, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state that the training rows define (``{"labels": [...]}``), from what each part told.

        ``config`` may pin parts of it.

        Raises:
            DataError: the task cannot be learnt from these rows.
        """
        return {}

    def learn(self, config: Any, rows: Iterator[Row]) -> dict[str, Any]:
        """Return the state that rows in one part define."""
        return self.learnt(config, [self.gathered(config, rows)])

    @abc.abstractmethod
    def check_row(self, config: Any, row: Row, state: State) -> Iterator[RowProblem]:
        """Yield what is wrong with a row whose fields already have their types."""

    def doubt_row(self, config: Any, row: Row) -> Iterator[RowProblem]:
        """Yield what can be right but seldom is, of a row with which nothing is wrong (a target that is its source)."""
        return iter(())

    # -- tokenize
    @abc.abstractmethod
    def token_schema(self) -> pa.Schema:
        """Return the columns that the task adds to those of every token table."""

    def encoded_schema(self) -> pa.Schema:
        """Return the columns of :meth:`encode_columns`: those of every encoded row, and the task's own."""
        import pyarrow as pa

        number = pa.int32()
        shared = (
            *(("input_ids", pa.list_(number)), ("length", number), ("untruncated_length", number)),
            *(("supervised", number), ("ended", pa.bool_()), ("lost_prompt", number), ("lost_target", number)),
        )
        return pa.schema([*(pa.field(name, type_) for name, type_ in shared), *self.token_schema()])

    @abc.abstractmethod
    def encode(
        self, config: Any, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length_tokens: int
    ) -> list[dict[str, Any]]:
        """Return one token row per row: ``input_ids``, the task's columns, and ``untruncated_length`` (int).

        ``length`` (int, what the row costs in tokens) may be given too; else it is that of ``input_ids``. Target fields
        are absent at predict: their columns are None then. A row that is cut into windows stays one token row, with
        the windows one after the other in ``input_ids`` and their lengths in a column of the task.

        Where they say something, a row also has ``supervised`` (int, how many tokens, words or windows are learnt; 0:
        the row is of no use), ``ended`` (bool, whether the last of them is an end token), ``lost_prompt`` and
        ``lost_target`` (int, how many tokens of them are cut; what else is cut is of the context).

        A row says what it says of itself: labels by name, numbers as they are. What the training rows taught
        (:data:`State`) comes in where rows are read, so that a token table depends on its own part alone.
        """

    def encode_columns(
        self, config: Any, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length_tokens: int
    ) -> pa.RecordBatch:
        """Return the token rows of :meth:`encode` as columns (:meth:`encoded_schema`): what tables are made of.

        A task whose tokens come as arrays makes the columns first, and ``encode`` of them.
        """
        import pyarrow as pa

        encoded = self.encode(config, rows, tokenizer, max_length_tokens)
        for row in encoded:
            row["length"] = length_of(row)
        return pa.RecordBatch.from_pylist(encoded, schema=self.encoded_schema())

    # -- train, evaluate, predict
    @abc.abstractmethod
    def load_model(self, folder: str, config: Any, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        """Load the base with the task's head; return it and the names of modules that are new (not in the base).

        ``kwargs`` go to ``from_pretrained`` (dtype, trust_remote_code, attn_implementation).
        """

    @abc.abstractmethod
    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        """Return padded tensors: ``input_ids``, ``attention_mask`` int64 [B, T] and the targets.

        What ``state`` is about is put in its terms here: labels become their numbers, numbers are standardised.
        """

    def pieces(self, batch: Mapping[str, torch.Tensor], most: int) -> Iterator[Mapping[str, torch.Tensor]]:
        """Yield the batch in pieces whose losses add up to its own, each of ``most`` lines at most.

        A batch of rows that are one line each is one piece already; a task that cuts rows into windows overrides this,
        so that a long row takes no more memory than ``most`` short ones.
        """
        yield batch

    @abc.abstractmethod
    def loss(self, config: Any, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Return the *sum* of the losses and how many items it sums over (the loop divides by the step's total)."""

    @abc.abstractmethod
    def outputs(self, config: Any, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 outputs per row, without generating: what the reload proof compares.

        [B, C] logits, or [B, W, ...] where W differs from batch to batch (scores of words): batches are put together
        with NaN beyond a row's own W.
        """

    def generate(
        self, config: Any, model: nn.Module, rows: Sequence[Mapping[str, Any]], processor: Any, pad_token_id: int
    ) -> list[str]:
        """Return the text that ``model`` gives for each token row; only where the task ``generates``."""
        raise TypeError(f"{self.name} generates no text")

    @abc.abstractmethod
    def predictions(self, config: Any, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        """Return the prediction columns ([N, ...]) of ``outputs`` ([N, ...]), without the reference column."""

    def predicted(
        self, config: Any, outputs: np.ndarray, rows: Sequence[Mapping[str, Any]], state: State
    ) -> dict[str, np.ndarray]:
        """Return :meth:`predictions` and the columns that only the token rows can tell (a text cut from a context).

        This is what is called; a task overrides it where its answers repeat something of the row.
        """
        return self.predictions(config, outputs, state)

    @abc.abstractmethod
    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        """Return the reference columns ([N]) of token rows."""

    def judge(self, config: Any, table: Mapping[str, np.ndarray], state: State) -> dict[str, np.ndarray]:
        """Return columns that need both references and predictions (row scores, counts that a corpus metric sums).

        ``table`` has the columns of :meth:`references` and :meth:`predictions`, and ``prediction`` (object [N], text)
        where the answers were generated. Called once per table, so that metrics stay cheap for the bootstrap.
        """
        return {}

    @abc.abstractmethod
    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        """Return cheap predictors by name: ``f(config, train_rows, test_rows, state, seed) -> prediction columns``."""

    @abc.abstractmethod
    def answers(self, predictions: Mapping[str, np.ndarray], state: State) -> list[dict[str, Any]]:
        """Return one JSON object per row for people and for serving (``{"label": ..., "score": ...}``).

        Where the task ``generates``, ``predictions`` may hold the column ``prediction`` alone.
        """

    def example(self, config: Any, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        """Return a raw row by task field, as JSON, made from the first row of the batch ``probe`` (:meth:`collate`)."""
        text = processor.decode(probe["input_ids"][0].tolist(), skip_special_tokens=True)
        asked = [one for one in self.fields_of(config) if one.required and not one.target]
        values = {"strings": text.split(), "number": 0.0}
        return {one.name: values.get(one.type, text) for one in asked}

    # -- report
    def measured(self, config: Any, table: Mapping[str, np.ndarray], state: State) -> dict[str, str]:
        """Return how the metrics of ``table`` came about, by name: a metric's signature, how text was generated.

        It goes into metrics.json and the report.
        """
        return {}

    @abc.abstractmethod
    def details(self, table: Mapping[str, np.ndarray], state: State) -> dict[str, list[dict[str, Any]]]:
        """Return tables for the report by title (per-class scores, say): lists of equal-keyed rows."""

    @abc.abstractmethod
    def plots(self, table: Mapping[str, np.ndarray], state: State) -> dict[str, list[dict[str, Any]]]:
        """Return plot data by file stem (``confusion`` -> rows of ``actual``, ``predicted``) for ``dvc plots``."""

    @property
    def selecting(self) -> Metric:
        """The metric that selects checkpoints."""
        return self.metric(self.selection or self.headline)

    def metric(self, name: str) -> Metric:
        """Return the metric called ``name``.

        Raises:
            ConfigError: the task has no such metric.
        """
        for one in self.metrics:
            if one.name == name:
                return one
        raise ConfigError(f"metric {shown(name)}: {self.name} has {', '.join(one.name for one in self.metrics)}")


def length_of(row: Mapping[str, Any]) -> int:
    """Return what a token row costs, in tokens."""
    length = row.get("length")
    return len(row["input_ids"]) if length is None else int(length)


def family_of(config: Any) -> Family:
    """Return what a base with transformers' ``config`` is made of."""
    from transformers.models.auto import modeling_auto

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if config.model_type in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "vision"
    masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "decoder" if causal and (not masked or getattr(config, "is_decoder", False)) else "encoder"


def load_with_head(
    auto_class: str, folder: str, families: Sequence[Family], **kwargs: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Load a base with a task head by transformers' ``auto_class``; return it and the names of its new modules.

    ``families`` are those that can do the task. A language model's own head is part of the base and not new.

    New is what must travel with the adapter: the head (also where the base brings one, of whatever size: it is trained)
    and a pooler that the base lacks. A name is that of the topmost module of which all weights are new.

    Raises:
        ConfigError: the base cannot do the task, or weights of the base itself are missing or have another shape than
            config.json says.
    """
    import transformers

    described = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=kwargs.get("trust_remote_code"))
    if family_of(described) not in families:
        raise ConfigError(
            f"base.source: {described.model_type} is {_a(family_of(described))}, and this task needs "
            f"{' or '.join(map(_a, families))}; choose another base or task"
        )
    if kwargs.get("quantization_config") is not None:
        kwargs["quantization_config"].llm_int8_skip_modules = _unquantized(auto_class, described)
    with quiet():
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    own = auto_class in LANGUAGE_MODELS
    head = {name for name, _ in model.named_parameters() if not own and not (prefix and name.startswith(prefix))}
    lost = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])} - head
    broken = sorted(name for name in lost if ".pooler." not in f".{name}")
    if broken:
        raise ConfigError(
            f"base.source: {len(broken)} weights of the base are missing or have another shape than config.json says "
            f"({shown(broken[0])}, ...): they would be random; fetch the base again"
        )
    return model, _topmost(head | lost, [name for name, _ in model.named_parameters()])


def _unquantized(auto_class: str, described: Any) -> list[str]:
    """Return the modules of a quantised base that stay as they are: heads, pooler, output embeddings."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(described)
    inside = hasattr(model, model.base_model_prefix)
    outside = [name for name, _ in model.named_children() if inside and name != model.base_model_prefix]
    return [*outside, *(name for name in ("pooler", "lm_head") if name not in outside)]


def _a(family: Family) -> str:
    return f"a {family}" if family[0] not in "aeiou" else f"an {family}"


def _topmost(new: set[str], every: Sequence[str]) -> list[str]:
    """Return the topmost modules whose parameters are all in ``new``; both are parameter names."""
    found = set()
    for name in sorted(new & set(every)):
        parts = name.split(".")
        for depth in range(1, len(parts)):
            module = ".".join(parts[:depth])
            if all(other in new for other in every if other.startswith(f"{module}.")):
                found.add(module)
                break
    return sorted(found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bar and its report of new weights: the caller names them."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def names() -> list[str]:
    """Return the names of all tasks: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def config_class(name: str) -> type[TaskConfig]:
    """Return the params section of a task."""
    config: type[TaskConfig] = _module(name).Config
    return config


def get(name: str) -> Task:
    """Return a task by name.

    Raises:
        ConfigError: no such task.
    """
    task: Task = _module(name).TASK
    return task


@functools.cache
def _module(name: str) -> Any:
    """Return a task's module; a name that was found once is not looked for in the folder again."""
    if name not in names():
        raise ConfigError(f"task.name: no task {shown(name)}; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
