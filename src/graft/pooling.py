"""Which hidden states a head on whole texts reads, whatever the base and whatever an adapter puts in front.

transformers gives BERT-like bases a head on the first token's state. Sentence encoders are trained so that the *mean*
of the states carries the meaning; from the first token an adapter has to find it anew. On the sample (MiniLM, LoRA
r=16, two epochs) that is the difference between 0.52 and 0.61 validation accuracy. The mean is scaled to the length of
a standard normal vector: x = sqrt(D) h / |h|, h the mean over a row's tokens, D its width (Reimers and Gurevych, 2019,
section 3, for the mean; the scale keeps the head's learning rate that of other heads).

In a decoder only the last token has seen the whole text. transformers looks for it by the padding token's number, which
many decoders do not have, and takes the last *position* where a prompt method passes embeddings instead of tokens: with
padding on the right that is a padded one. Here it is the last token that the attention mask marks as the row's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from graft.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

Pooling = Literal["model", "mean", "last"]
HEADS = ("score", "classification_head")
"""Names of the heads that transformers gives decoders and encoder-decoders; an encoder's is ``NEW_HEAD`` here."""
NEW_HEAD = "classifier"


def mean_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the scaled mean of ``hidden`` [B, T, D] over the tokens where ``mask`` [B, T] is 1: float32 [B, D]."""
    from torch.nn.functional import normalize

    chosen = mask[..., None].float()
    mean = (hidden.float() * chosen).sum(1) / chosen.sum(1)
    pooled: torch.Tensor = normalize(mean, dim=-1) * float(hidden.shape[-1]) ** 0.5
    return pooled


def last_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``hidden`` [B, T, D] at the last token where ``mask`` [B, T] is 1: [B, D], in the type of ``hidden``."""
    import torch

    rows = torch.arange(len(hidden), device=hidden.device)
    pooled: torch.Tensor = hidden[rows, hidden.shape[1] - 1 - mask.flip(1).argmax(1)]
    return pooled


def pool(model: PreTrainedModel, pooling: Pooling, family: str, outputs: int, new_modules: list[str]) -> list[str]:
    """Let the head of a sequence classifier read what ``pooling`` says; return the names of its new modules.

    ``model``: the head that transformers gives the base; in an encoder as it is (the first token of a BERT), in others
    on the last own token. ``mean`` and ``last`` give an encoder a linear head, named ``classifier``, in place of its
    own, and take away the base's pooler, which nothing reads any more.

    Args:
        model: what transformers' AutoModelForSequenceClassification loads.
        pooling: ``model``, ``mean`` or ``last``.
        family: ``encoder``, ``decoder`` or ``encoder-decoder``.
        outputs: how many numbers the head gives for a row.
        new_modules: the modules that are new so far.

    Raises:
        ConfigError: the base cannot be read like that.
    """
    if pooling == "model" and family == "encoder":
        return new_modules
    base = base_below(model)
    if family == "encoder-decoder" and pooling == "mean":
        raise ConfigError("task.pooling: mean needs an encoder or a decoder; use `model` or `last` for this base")
    name = NEW_HEAD if family == "encoder" else next((one for one in HEADS if hasattr(model, one)), NEW_HEAD)
    if family == "encoder" or not hasattr(model, name):
        drop(model, new_modules)
        setattr(model, name, linear(model, model.config.hidden_size, outputs))
        new_modules = [name]
    pooled = mean_of if pooling == "mean" else last_of

    def read(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        head: Any = getattr(model, name)
        logits: torch.Tensor = head(pooled(hidden, mask).to(_dtype(head, hidden)))
        return logits

    _read_by(model, base, read)
    return new_modules


def pool_pairs(
    model: PreTrainedModel, pooling: Pooling, family: str, new_modules: list[str], *, weight: float, bias: float
) -> list[str]:
    """Let ``model`` give ``weight * cos(a, b) + bias`` for the two texts of a row; return the names of new modules.

    A bi-encoder (Reimers and Gurevych, 2019, section 3): lines 2 i and 2 i + 1 of a batch are the texts of row i, each
    encoded alone; a and b are their pooled states. Weight and bias are a module, ``classifier``: they are trained.

    Raises:
        ConfigError: the base cannot be read like that.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    if family == "encoder-decoder":
        raise ConfigError("task.pair: bi needs an encoder or a decoder; use `cross` for this base")
    base = base_below(model)
    drop(model, new_modules)
    head = linear(model, 1, 1)
    if not head.weight.is_meta:
        torch.nn.init.constant_(head.weight, weight)
        torch.nn.init.constant_(head.bias, bias)
    setattr(model, NEW_HEAD, head)
    last = pooling == "last" or (pooling == "model" and family == "decoder")
    pooled = last_of if last else mean_of

    def read(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        texts = pooled(hidden, mask).float()
        similarity = cosine_similarity(texts[0::2], texts[1::2], dim=-1)[:, None]
        part: Any = getattr(model, NEW_HEAD)
        logits: torch.Tensor = part(similarity.to(_dtype(part, similarity)))
        return logits

    _read_by(model, base, read)
    return [NEW_HEAD]


def base_below(model: PreTrainedModel) -> nn.Module:
    """Return the base below a model's head.

    Raises:
        ConfigError: it has none.
    """
    base: nn.Module | None = getattr(model, model.base_model_prefix, None)
    if base is None:
        raise ConfigError(
            f"task.pooling: {type(model).__name__} has no base below its head that could be read; use `model`"
        )
    return base


def drop(model: nn.Module, new_modules: list[str]) -> None:
    """Take new modules away that nothing will read: the head that transformers made, and the base's pooler."""
    base = getattr(model, str(model.base_model_prefix), None)
    for name in new_modules:
        if "." not in name and hasattr(model, name):
            delattr(model, name)
    if getattr(base, "pooler", None) is not None:
        base.pooler = None  # type: ignore[union-attr]


def linear(model: PreTrainedModel, inputs: int, outputs: int) -> nn.Linear:
    """Return a new linear layer beside the base, drawn as its own layers were."""
    import torch

    weight: Any = model.get_input_embeddings().weight
    head = torch.nn.Linear(inputs, outputs, device=weight.device, dtype=weight.dtype)
    torch.nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    torch.nn.init.zeros_(head.bias)
    return head


def _dtype(head: nn.Module, hidden: torch.Tensor) -> torch.dtype:
    """Return the type that a head computes in: its weights'; a wrapped head's are those that it trains."""
    found = next((one.dtype for one in head.parameters()), hidden.dtype)
    return found


def _read_by(model: PreTrainedModel, base: Any, read: Any) -> None:
    """Replace ``forward``: run the base alone and ``read`` its last hidden states [B, T, D] with their mask [B, T]."""
    from transformers.modeling_outputs import SequenceClassifierOutput

    def forward(
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        labels: torch.Tensor | None = None,  # noqa: ARG001  (PEFT passes it; the task takes the loss itself)
        **named: Any,
    ) -> SequenceClassifierOutput:
        named |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
        given = {name: value for name, value in named.items() if value is not None}
        if model.config.is_encoder_decoder and input_ids is not None and "decoder_input_ids" not in given:
            given["decoder_input_ids"] = _shifted(input_ids, model.config.decoder_start_token_id)
        hidden = base(attention_mask=attention_mask, **given).last_hidden_state
        mask = hidden.new_ones(hidden.shape[:2]) if attention_mask is None else attention_mask
        # A prefix has places in the mask and none among the states; a soft prompt has both.
        return SequenceClassifierOutput(logits=read(hidden, mask[:, -hidden.shape[1] :]))

    model.forward = forward


def _shifted(input_ids: torch.Tensor, start: int) -> torch.Tensor:
    """Return what the decoder reads: the start token, then all tokens but the last one: int64 [B, T]."""
    import torch

    return torch.cat([torch.full_like(input_ids[:, :1], start), input_ids[:, :-1]], dim=1)
