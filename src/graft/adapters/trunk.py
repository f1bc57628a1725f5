"""The trunk of an adapted model: the frozen parts below its lowest trained layer, found from outside and left out.

What the lowest trained layer (or the head, where nothing below it is trained) reads does not change while an adapter is
trained. So whoever has it needs not run what lies below: the parts there return stand-ins, and the layer is given its
input. The model's own ``forward`` runs on: masks, position ids, pooling, gathering of last tokens are its own code, for
encoders, decoders and encoder-decoders, and no model is known here by name. The price is that a model could do
something with its lower parts that is not seen from outside; so before a trunk is used, the model without it is held
against the whole model on a batch: outputs and all that trained modules read must be equal to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.adapters.heads import trained_modules

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

    States = torch.Tensor
    Run = Callable[[], torch.Tensor]


class UnfitError(Exception):
    """Why a model has no trunk that can be left out."""


class _ReachedError(Exception):
    """Ends a forward pass where the trunk ends."""


@dataclass(frozen=True)
class Layers:
    """How many layers of a model lie below all that is trained, as far as names tell."""

    below: int
    total: int
    """All layers; the head alone is trained where as many lie below."""
    list_name: str
    """What the model calls its first list of layers (``layer``, ``layers``, ``h``)."""
    width: int
    """How many numbers a layer gives for a token."""

    @property
    def head_alone(self) -> bool:
        return self.below == self.total > 0


@dataclass
class Trunk:
    """What can be left out of a model; :func:`trunk_of` finds it.

    States are what the trunk gives: float [B, T, D], or [B, D] where the head reads one vector per line.
    """

    inner: Any
    """The base with its head and the adapter's modules."""
    place: nn.Module
    """What reads the states: the lowest trained layer, or the first trained module of the head; or the encoder that
    gives them, where an encoder-decoder is trained in its decoder alone."""
    below: dict[nn.Module, Any]
    """The parts that are left out -> stand-ins in the form of what they return."""
    layers: int
    """How many layers are among them."""
    of_encoder: bool
    """Whether the states are of the encoder's side of an encoder-decoder."""
    calls: int = 1
    """How often the task runs the model on a batch."""
    gives: bool = False
    """Whether ``place`` gives the states, rather than reads them."""
    lent: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)
    """Attentions whose position bias only the first layer has (T5) -> that bias."""
    _fed: States | None = None
    _seen: States | None = None
    _stop: bool = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Run a block in which :meth:`states` and :meth:`without` can be used."""
        hook = (
            self.place.register_forward_hook(self._given)
            if self.gives
            else self.place.register_forward_pre_hook(self._read, with_kwargs=True)
        )
        try:
            yield
        finally:
            hook.remove()

    def states(self, run: Callable[[], Any]) -> States:
        """Return what the trunk gives where ``run`` runs the model; the rest is not run."""
        self._stop = True
        try:
            run()
        except _ReachedError:
            pass
        finally:
            self._stop = False
        return self.seen()

    def seen(self) -> States:
        """Return, once, what the trunk gave when the model ran last."""
        found, self._seen = self._seen, None
        if found is None:
            raise UnfitError("the model ran without reaching its trained part")
        return found.detach()

    @contextlib.contextmanager
    def without(self, states: States) -> Iterator[None]:
        """Run a block in which the model runs without its trunk, on ``states`` in place of what it would give."""
        before = {part: part.__dict__.get("forward") for part in self.below}
        self._fed = states
        try:
            for part, value in self.below.items():
                part.__dict__["forward"] = _returning(self._stand_in(value, states))
            for attention, bias in self.lent:
                attention.__dict__.update(has_relative_attention_bias=True, relative_attention_bias=bias)
            yield
        finally:
            self._fed = None
            for part, own in before.items():
                if own is None:
                    del part.__dict__["forward"]
                else:
                    part.__dict__["forward"] = own
            for attention, _ in self.lent:
                attention.__dict__["has_relative_attention_bias"] = False
                del attention.__dict__["relative_attention_bias"]

    def _stand_in(self, value: Any, states: States) -> Any:
        """Return ``states`` wherever a part returned states: masks and position ids are made from their shape."""
        import torch

        if isinstance(value, torch.Tensor):
            if value.ndim == states.ndim and value.shape[-1] == states.shape[-1]:
                return states
            return None if self.lent else value
        if isinstance(value, Mapping):
            return type(value)(**{name: self._stand_in(one, states) for name, one in value.items()})
        return type(value)(self._stand_in(one, states) for one in value) if type(value) in (tuple, list) else None

    def _read(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = None if given else next(iter(named))
        value = given[0] if name is None else named[name]
        if self._fed is not None:
            value = self._fed.to(value.dtype)
            if "pack" in named:  # the rows of the batch run end to end
                value = named["pack"].line(value)
            if name is None:
                return (value, *given[1:]), named
            return given, {**named, name: value}
        self._reach(value)
        return None

    def _given(self, _: nn.Module, __: Any, found: Any) -> None:
        if self._fed is None:
            self._reach(found[0])

    def _reach(self, value: States) -> None:
        self._seen = value
        if self._stop:
            raise _ReachedError


def layer_lists(module: nn.Module) -> list[list[nn.Module]]:
    """Return the layers of each stack of layers in ``module``, in the order in which the model names them."""
    from torch import nn

    found: list[list[nn.Module]] = []
    inside = ""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and not (inside and name.startswith(inside)):
            found.append(list(part))
            inside = f"{name}."
    return found


def is_trained(module: nn.Module) -> bool:
    """Return whether anything in ``module`` is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def frozen_layers(model: PeftModel) -> Layers:
    """Return how many layers lie below all that is trained; works on the meta device too."""
    from torch import nn

    inner: Any = model.get_base_model()
    lists = [[is_trained(layer) for layer in layers] for layers in layer_lists(inner)]
    name = next((name.rpartition(".")[2] for name, one in inner.named_modules() if isinstance(one, nn.ModuleList)), "")
    below = 0 if _trained_outside(model) else _below(lists)
    return Layers(below, sum(map(len, lists)), name, getattr(inner.config, "hidden_size", 0))


def _below(lists: list[list[bool]]) -> int:
    """Return how many layers can be left out, of lists that say which layers are trained."""
    below = 0
    for number, trained in enumerate(lists):
        if True in trained:  # of a decoder no layer is left out: it reads the encoder in each of them
            return below + (trained.index(True) if number == 0 else 0)
        below += len(trained)
    return below


def _trained_outside(model: PeftModel) -> bool:
    """Return whether something is trained before a model's first layer, or beside the model (a prompt)."""
    inner = model.get_base_model()
    own = {id(one) for one in inner.parameters()}
    if any(one.requires_grad and id(one) not in own for one in model.parameters()):
        return True
    lists = layer_lists(inner)
    first = {id(one) for layers in lists[:1] for layer in layers for one in layer.parameters()}
    for one in inner.parameters():
        if id(one) in first:
            return False
        if one.requires_grad:
            return True
    return False


def trunk_of(model: PeftModel, run: Run) -> Trunk:
    """Return the trunk of ``model``, in evaluation mode; ``run`` gives the task's outputs on a batch.

    Raises:
        UnfitError: there is nothing to leave out, or the model gives something else without it.
    """
    import torch

    with torch.no_grad():
        found = _Watch(model, run).found
        reads, outputs = _noted(found, run)
        blocks = {id(layer) for layers in layer_lists(found.inner) for layer in layers}
        layers_alone = {part: value for part, value in found.below.items() if id(part) in blocks}
        reason: str = "nothing lies below what is trained"
        for below in (found.below, layers_alone):
            found.below = below
            if not below:
                continue
            reason = _difference(found, run, reads, outputs)
            if not reason:
                return found
    raise UnfitError(reason)


class _Watch:
    """Runs a model once and notes what runs before its lowest trained layer."""

    def __init__(self, model: PeftModel, run: Run) -> None:
        self.inner: Any = model.get_base_model()
        self.units = _units(model)
        self.entered: nn.Module | None = None
        self.place: nn.Module | None = None
        self.before: dict[nn.Module, Any] = {}
        self.after: set[nn.Module] = set()
        self.calls = 0
        own, forward = self.inner.__dict__.get("forward"), self.inner.forward

        def counted(*given: Any, **named: Any) -> Any:
            self.calls, self.entered = self.calls + 1, None
            return forward(*given, **named)

        hooks = [unit.register_forward_pre_hook(self._enter) for unit in self.units]
        hooks += [part.register_forward_hook(self._leave) for part in self._frozen_parts(self.inner)]
        self.inner.forward = counted
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
            if own is None:
                del self.inner.forward
            else:
                self.inner.forward = own
        self.found = self._trunk()

    def _frozen_parts(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the largest parts that have weights and hold nothing that is trained."""
        for part in module.children():
            if part in self.units:
                continue
            if any(one in self.units for one in part.modules()):
                yield from self._frozen_parts(part)
            elif any(True for _ in part.parameters()):
                yield part

    def _enter(self, unit: nn.Module, _: Any) -> None:
        self.entered = self.entered or unit
        self.place = self.place or unit

    def _leave(self, part: nn.Module, _: Any, found: Any) -> None:
        if self.entered is None:
            self.before[part] = _zeros_like(found)
        else:
            self.after.add(part)

    def _trunk(self) -> Trunk:
        if self.place is None:
            raise UnfitError("nothing that is trained was reached")
        lists = layer_lists(self.inner)
        below = {part: value for part, value in self.before.items() if part not in self.after}
        stack = next((layers for layers in lists if self.place in layers), [])
        encoder = self.inner.get_encoder() if getattr(self.inner.config, "is_encoder_decoder", False) else None
        if encoder is not None and stack and encoder in below:
            only = {encoder: below[encoder]}
            return Trunk(self.inner, encoder, only, _count(only, lists), True, self.calls, gives=True)
        of_encoder = encoder is not None and self.place in set(encoder.modules())
        lent = list(_lent(stack, self.place)) if stack else []
        return Trunk(self.inner, self.place, below, _count(below, lists), of_encoder, self.calls, lent=lent)


def _units(model: PeftModel) -> list[nn.Module]:
    """Return what the trunk can end at: the layers that hold something trained, and trained modules outside layers."""
    inner = model.get_base_model()
    layers = [layer for layers in layer_lists(inner) for layer in layers]
    units = [layer for layer in layers if is_trained(layer)]
    inside = {id(part) for layer in layers for part in layer.modules()}
    wrapped = [part for part in trained_modules(model) if id(part) not in inside]
    inside |= {id(part) for one in wrapped for part in one.modules()}
    units += wrapped
    units += [
        part
        for part in inner.modules()
        if id(part) not in inside and any(one.requires_grad for one in part.parameters(recurse=False))
    ]
    known = {id(one) for unit in units for one in unit.parameters()}
    if not units or any(one.requires_grad and id(one) not in known for one in model.parameters()):
        raise UnfitError("something is trained that is no part of a layer or a head")
    return units


def _count(below: Mapping[nn.Module, Any], lists: list[list[nn.Module]]) -> int:
    inside = {id(part) for one in below for part in one.modules()}
    return sum(id(layer) in inside for layers in lists for layer in layers)


def _lent(stack: list[nn.Module], place: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield the attentions of ``place`` that add the position bias of the stack's first layer, and that bias."""
    for name, part in place.named_modules():
        if getattr(part, "has_relative_attention_bias", None) is False:
            first: Any = stack[0].get_submodule(name)
            if first.has_relative_attention_bias:
                yield part, first.relative_attention_bias


def _noted(trunk: Trunk, run: Run) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what trained modules read where ``run`` runs, in order, and what it returns; ``trunk`` sees its states."""
    import torch

    reads: list[torch.Tensor] = []

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        reads.extend(one.clone() for one in given[:1] if isinstance(one, torch.Tensor))

    parts = [part for part in trunk.inner.modules() if any(one.requires_grad for one in part.parameters(recurse=False))]
    with contextlib.ExitStack() as stack:
        stack.enter_context(trunk.installed())
        for part in parts:
            stack.callback(part.register_forward_pre_hook(note).remove)
        return reads, run()


def _difference(trunk: Trunk, run: Run, reads: list[torch.Tensor], outputs: torch.Tensor) -> str:
    """Return what is other where ``run`` runs the model without its trunk; empty where nothing is."""
    inner = trunk.inner
    own, forward = inner.__dict__.get("forward"), inner.forward

    def short(*given: Any, **named: Any) -> Any:
        states = trunk.states(lambda: forward(*given, **named))
        with trunk.without(states):
            return forward(*given, **named)

    inner.forward = short
    try:
        found = _noted(trunk, run)
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"it does not run without the parts below ({error})"
    finally:
        if own is None:
            del inner.forward
        else:
            inner.forward = own
    same = len(found[0]) == len(reads) and all(one.equal(other) for one, other in zip(found[0], reads, strict=True))
    if not same or not outputs.equal(found[1]):
        return "what is trained reads more than the states at one place"
    return ""


def _zeros_like(value: Any) -> Any:
    """Return a part's output with zeros of one row and one position in place of its tensors; None for other values."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.new_zeros([1] * (value.ndim - 1) + [value.shape[-1]])
    if isinstance(value, Mapping):
        return type(value)(**{name: _zeros_like(one) for name, one in value.items()})
    return type(value)(map(_zeros_like, value)) if type(value) in (tuple, list) else None


def _returning(value: Any) -> Any:
    def forward(*_: Any, **__: Any) -> Any:
        return value

    return forward
