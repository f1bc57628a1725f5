"""Preference: a decoder learns to prefer the chosen answer to the rejected one, by DPO.

Direct preference optimization (Rafailov et al., 2023, equation 7) compares the adapted model with the one it started
from. That reference is the base with the adapter off, so it costs a forward pass and no memory. DPO usually starts from
a model that already follows instructions: `graft merge` makes a folder of a base and its chat adapter, which serves as
base here.

A row is scored by how much more the adapted model raises the chosen answer than the rejected one (the implicit reward
margin). The base itself raises neither: its margins are 0 and its preference accuracy 0.5, ties counting half.
"""

# ruff: noqa: ARG001, ARG002  (the contract's signatures hold more than one task needs)

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Limit

from graft.conversations import ANSWERS, disorder, messages_of
from graft.filler import bare
from graft.generation import GenerationConfig
from graft.language_modeling import count_bytes, histogram
from graft.likelihood import IGNORED, supervised
from graft.padding import mask_of, padded, split_windows
from graft.prompting import ChatFormat, ChatTemplate, Line, continued, prompt_text
from graft.tasks import Field, Metric, Row, RowProblem, State, Task, TaskConfig, load_with_head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Table = Mapping[str, np.ndarray]

ANSWER_FIELDS = ("chosen", "rejected")
COLUMNS = (
    *("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"),
    *("tokens_chosen", "tokens_rejected"),
)
"""What the outputs hold for each row: summed log-likelihoods in nats, and over how many tokens."""


class Config(TaskConfig):
    """Preference: each row has a ``prompt`` (and ``system``) or ``messages``, and answers ``chosen``, ``rejected``."""

    name: Literal["preference"] = "preference"
    """The task: the better of two answers."""

    loss: Literal["dpo", "ipo"] = "dpo"
    """``dpo``: Rafailov et al. (2023), equation 7. ``ipo``: Azar et al. (2023), equation 17, on likelihoods per token,
    so that answers of unequal length count alike."""

    beta: float = Limit(default=0.1, gt=0)
    """How strongly the reference holds the adapted model: larger stays closer. (In ``ipo`` it is called tau.)"""

    label_smoothing: float = Limit(default=0.0, ge=0, lt=0.5)
    """The share of pairs that are labelled the wrong way round, for ``dpo`` on noisy labels (conservative DPO)."""

    sft_weight: float = Limit(default=0.0, ge=0)
    """Weight of the chosen answer's negative log-likelihood per token, added to the loss (Pang et al., 2024, equation
    1): keeps the chosen answer likely, which DPO alone does not."""

    template: ChatTemplate = None
    """A chat template (Jinja), as tokenizers carry them. Default: the tokenizer's own; where it has none, a line for
    each message, and the end token after each answer."""

    generation: GenerationConfig = Limit(default_factory=GenerationConfig)
    """How `graft predict` answers."""


# -- metrics over a prediction table


def preferred(table: Table) -> np.ndarray:
    """Return 1 for each row whose chosen answer is preferred, 0.5 for a tie, else 0: float64 [N]."""
    scores: np.ndarray = table["preferred"]
    return scores


def preference_accuracy(table: Table) -> float:
    """Return the share of rows whose chosen answer is preferred; a tie counts half."""
    return float(preferred(table).mean())


def margin(table: Table) -> float:
    """Return the mean implicit reward margin: beta times what the chosen answer gained over the rejected one."""
    return float(table["margin"].mean())


def likelier(table: Table) -> np.ndarray:
    """Return 1 for each row whose chosen answer is likelier per token than the rejected one, else 0: float64 [N]."""
    import numpy as np

    chosen = table["policy_chosen"] / table["tokens_chosen"]
    return (chosen > table["policy_rejected"] / table["tokens_rejected"]).astype(np.float64)


def likelihood_accuracy(table: Table) -> float:
    """Return the share of rows whose chosen answer is likelier per token; no reference plays a part."""
    return float(likelier(table).mean())


def row_loss(table: Table) -> np.ndarray:
    """Return each row's loss: float64 [N]."""
    losses: np.ndarray = table["loss"]
    return losses


def mean_loss(table: Table) -> float:
    """Return the mean loss over the rows, as it is trained."""
    return float(row_loss(table).mean())


def _halves(difference: np.ndarray) -> np.ndarray:
    """Return 1 where a difference is positive, 0.5 where it is 0, else 0: float64."""
    import numpy as np

    return 0.5 * (1 + np.sign(difference.astype(np.float64)))


# -- cheap predictors


def longer(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Prefer the longer answer, in bytes."""
    import numpy as np

    lengths = np.array([[count_bytes(row[name]) for name in ANSWER_FIELDS] for row in test_rows])
    return {"preferred": _halves(lengths[:, 0] - lengths[:, 1])}


def coin(
    config: Config, train_rows: Sequence[Row], test_rows: Sequence[Row], state: State, seed: int
) -> dict[str, np.ndarray]:
    """Prefer neither."""
    import numpy as np

    return {"preferred": np.full(len(test_rows), 0.5)}


# -- the loss; the same arithmetic for tensors and arrays


def pair_losses(config: Config, outputs: torch.Tensor) -> torch.Tensor:
    """Return the loss of each pair from outputs [B, 6] (``COLUMNS``): [B]."""
    from torch.nn.functional import logsigmoid

    gained = outputs[:, 0:2] - outputs[:, 2:4]
    if config.loss == "ipo":
        gained = gained / outputs[:, 4:6]
        losses = (gained[:, 0] - gained[:, 1] - 1 / (2 * config.beta)) ** 2
    else:
        margins = config.beta * (gained[:, 0] - gained[:, 1])
        wrong = config.label_smoothing
        losses = -(1 - wrong) * logsigmoid(margins) - wrong * logsigmoid(-margins)
    return losses - config.sft_weight * outputs[:, 0] / outputs[:, 4]


class Preference(Task):
    """The contract's methods for pairs of answers."""

    name = "preference"
    fields = (
        Field("prompt", "string", required=False, text=True),
        Field("system", "string", required=False, text=True),
        Field("messages", "messages", required=False, text=True),
        Field("chosen", "string", text=True, target=True),
        Field("rejected", "string", text=True, target=True),
    )
    families = ("decoder",)
    metrics = (
        Metric("preference_accuracy", preference_accuracy, per_row=preferred),
        Metric("margin", margin),
        Metric("likelihood_accuracy", likelihood_accuracy, per_row=likelier),
        Metric("loss", mean_loss, greater_is_better=False, per_row=row_loss),
    )
    headline = "preference_accuracy"
    selection = "loss"
    worst = "loss"
    generates = True
    teaches = ("chosen", "two answers that make a token at least")
    chats = True

    def check_row(self, config: Config, row: Row, state: State) -> Iterator[RowProblem]:
        if row["chosen"] == row["rejected"]:
            yield RowProblem("rejected", "another answer than the chosen one", "the same")
        if row.get("messages"):
            for expected, found in disorder(row["messages"]):
                yield RowProblem("messages", expected, found)
            if row["messages"][-1]["role"] == ANSWERS:
                yield RowProblem("messages", "a question at the end (chosen and rejected answer it)", "an answer")
        elif row.get("prompt") is None:
            yield RowProblem("prompt", "prompt or messages", "nothing")

    def doubt_row(self, config: Config, row: Row) -> Iterator[RowProblem]:
        if row["chosen"] != row["rejected"] and bare(row["chosen"]) == bare(row["rejected"]):
            yield RowProblem("rejected", "an answer unlike the chosen one", "one that differs in signs, spaces or case")

    def token_schema(self) -> pa.Schema:
        import pyarrow as pa

        whole = pa.list_(pa.int32())
        return pa.schema([("windows", whole), ("prompts", whole)])

    def encode(
        self,
        config: Config,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length_tokens: int,
    ) -> list[dict[str, Any]]:
        chat = ChatFormat(tokenizer, config.template)
        if any(row.get("chosen") is None for row in rows):
            asked = chat.encode([messages_of(row) for row in rows], max_length_tokens)
            return [_token_row([line], size, chat) for line, size in asked]
        pairs = [[messages_of(row, row[name]) for name in ANSWER_FIELDS] for row in rows]
        return [_token_row(lines, size, chat) for lines, size in chat.encode_together(pairs, max_length_tokens)]

    def load_model(self, folder: str, config: Config, state: State, **kwargs: Any) -> tuple[PreTrainedModel, list[str]]:
        return load_with_head("AutoModelForCausalLM", folder, self.families, **kwargs)

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: State) -> dict[str, torch.Tensor]:
        """Return lines [2B, T]: each row's chosen answer, then its rejected one."""
        lines = [line for row in rows for line in split_windows(row["input_ids"], row["windows"])]
        prompts = [prompt for row in rows for prompt in row["prompts"]]
        labels = [[IGNORED] * prompt + list(line[prompt:]) for prompt, line in zip(prompts, lines, strict=True)]
        return {
            "input_ids": padded(lines, pad_token_id),
            "attention_mask": mask_of(lines),
            "labels": padded(labels, IGNORED),
        }

    def loss(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        losses = pair_losses(config, self.outputs(config, model, batch))
        return losses.sum(), losses.numel()

    def outputs(self, config: Config, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        with _as_reference(model):
            reference, _ = supervised(model, batch)
        policy, tokens = supervised(model, batch)
        columns = (-policy, -reference.to(policy.device), tokens)
        return torch.cat([column.float().reshape(-1, 2) for column in columns], dim=1)

    def generate(
        self, config: Config, model: nn.Module, rows: Sequence[Mapping[str, Any]], processor: Any, pad_token_id: int
    ) -> list[str]:
        prompts = [row["input_ids"][: row["prompts"][0]] for row in rows]
        stops = ChatFormat(processor, config.template).stops
        return continued(prompts, model, config.generation, processor, pad_token_id, stops)

    def predictions(self, config: Config, outputs: np.ndarray, state: State) -> dict[str, np.ndarray]:
        import numpy as np
        import torch

        columns = {name: outputs[:, place].astype(np.float64) for place, name in enumerate(COLUMNS)}
        gained = [columns[f"policy_{name}"] - columns[f"reference_{name}"] for name in ANSWER_FIELDS]
        losses = pair_losses(config, torch.from_numpy(outputs.astype(np.float64))).numpy()
        margins = config.beta * (gained[0] - gained[1])
        return {**columns, "margin": margins, "preferred": _halves(margins), "loss": losses}

    def references(self, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, np.ndarray]:
        return {}

    def baselines(self) -> Mapping[str, Callable[..., dict[str, np.ndarray]]]:
        return {"longer": longer, "coin": coin}

    def answers(self, predictions: Table, state: State) -> list[dict[str, Any]]:
        import numpy as np

        if "prediction" in predictions:
            return [{"text": text} for text in predictions["prediction"]]
        margins = predictions["margin"]
        chances = 1 / (1 + np.exp(-np.abs(margins)))
        return [
            {"label": ANSWER_FIELDS[int(value < 0)] if value else "neither", "score": float(chance)}
            for value, chance in zip(margins, chances, strict=True)
        ]

    def example(self, config: Config, probe: Mapping[str, np.ndarray], processor: Any) -> dict[str, Any]:
        return {"prompt": prompt_text(probe, processor)}

    def details(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        rows = [
            {
                "answer": name,
                "reward": float((table[f"policy_{name}"] - table[f"reference_{name}"]).mean()),
                "log_likelihood_per_token": float((table[f"policy_{name}"] / table[f"tokens_{name}"]).mean()),
                "reference_per_token": float((table[f"reference_{name}"] / table[f"tokens_{name}"]).mean()),
                "tokens": int(table[f"tokens_{name}"].sum()),
            }
            for name in ANSWER_FIELDS
        ]
        return {"Answers": rows}

    def plots(self, table: Table, state: State) -> dict[str, list[dict[str, Any]]]:
        return {"histogram": histogram(table["margin"], "margin")}


@contextlib.contextmanager
def _as_reference(model: nn.Module) -> Iterator[None]:
    """Run ``model`` as what it started from: adapter off, no dropout, no gradient."""
    import torch

    training = model.training
    off = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()  # type: ignore[operator]
    model.eval()
    try:
        with torch.no_grad(), off:
            yield
    finally:
        model.train(training)


def _token_row(lines: Sequence[Line], size: int, chat: ChatFormat) -> dict[str, Any]:
    """Return the token row of a prompt with each answer, one after the other, or of a prompt alone."""
    return {
        "input_ids": [token for line in lines for token in line.ids],
        "windows": [len(line.ids) for line in lines],
        "prompts": [line.prompt for line in lines],
        "supervised": sum(line.answer for line in lines) if all(line.answer for line in lines) else 0,
        "ended": all(line.ends_in(chat.special) for line in lines),
        "lost_prompt": sum(line.lost_prompt for line in lines),
        "lost_target": sum(line.lost_target for line in lines),
        "untruncated_length": size,
    }


TASK = Preference()
