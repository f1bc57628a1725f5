"""How well a training uses its device, step by step: MFU, padding, supervised tokens, how busy the device is.

MFU, model FLOPs utilisation (Chowdhery et al., 2022, appendix B), is what a step's products need per second
(:mod:`graft.training.flops`) over what products of large matrices reach on this device (:func:`hardware.matmul_peak`).
Real tokens count alone: what is computed for padding (``padding_share``) lowers it.

Nothing here waits for a GPU: masks are counted before they go there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graft.hardware import gpu_utilisation, matmul_peak
from graft.likelihood import IGNORED
from graft.padding import WHOLE_TOKENS
from graft.training.flops import Rates, Sizes, Watch
from graft.training.packing import bodies_of, is_packed

if TYPE_CHECKING:
    import torch

    from graft.training.loop import Inputs

SAMPLE_SECONDS = 1.0
"""How often a GPU is asked how busy it is."""
BY_TIME, BY_TOKENS = ("mfu", "device_utilisation"), ("padding_share", "supervised_share")
"""What of the steps' lines has a mean in the summary, over seconds and over tokens."""


class Meter:
    """Measures the steps of a training."""

    def __init__(self, inputs: Inputs) -> None:
        self._model: Any = inputs.model.get_base_model()
        self._bodies = bodies_of(self._model)
        self._packed = [is_packed(one) for one in self._bodies]
        self._device, self._threads = inputs.device, inputs.config.threads
        self._dtype: torch.dtype = self._model.dtype
        self._peak = matmul_peak(inputs.device, self._dtype, inputs.config.threads)
        self._watch: Watch | None = Watch(self._model, self._bodies)
        self._rates = Rates()
        self._sampled = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin a step, or begin it anew."""
        self._pieces: list[Sizes] = []
        self._cpu = time.process_time()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Run a block, the loss of a piece; the training's first one shows which products a step is made of."""
        with contextlib.nullcontext() if self._watch is None else self._watch.installed():
            yield

    def add(self, piece: Mapping[str, torch.Tensor], items: int) -> None:
        """Count a piece, as it is on the CPU, whose loss sums over ``items``."""
        sizes = self._sizes(piece, items)
        if self._watch is not None:
            self._rates, self._watch = self._watch.rates(sizes), None
        self._pieces.append(sizes)

    @property
    def flops(self) -> float:
        """What the products of the step take, forward and backward."""
        return sum(map(self._rates.of, self._pieces))

    def facts(self, seconds: float) -> dict[str, float]:
        """Return what is recorded of the step, which took so long."""
        found = {"mfu": self.flops / (seconds * self._peak)}
        tokens = sum(sum(one.tokens) for one in self._pieces)
        if tokens and any(self._rates.tokens):  # otherwise nothing runs on tokens, and nothing on padding
            found["padding_share"] = 1 - tokens / sum(sum(one.positions) for one in self._pieces)
        if supervised := sum(one.supervised for one in self._pieces):
            found["supervised_share"] = supervised / tokens
        busy = self._busy(seconds)
        if busy is not None:
            found["device_utilisation"] = busy
        return {name: round(value, 4) for name, value in found.items()}

    def peak_facts(self) -> dict[str, Any]:
        """Return what the MFU is a share of, for people."""
        return {
            "matmul_peak_flops_per_second": round(self._peak),
            "matmul_type": str(self._dtype).removeprefix("torch."),
        }

    def _busy(self, seconds: float) -> float | None:
        """Return the share of the device's time that was used; of a GPU now and then, where it can be read."""
        if self._device != "cuda":
            return (time.process_time() - self._cpu) / (seconds * self._threads)
        if time.monotonic() - self._sampled < SAMPLE_SECONDS:
            return None
        self._sampled = time.monotonic()
        return gpu_utilisation()

    def _sizes(self, piece: Mapping[str, torch.Tensor], items: int) -> Sizes:
        labels, mask = piece.get("labels"), piece.get("attention_mask")
        if mask is None:
            return Sizes((), (), (), 0, items)
        masks, supervised = [mask], 0
        if labels is not None and labels.ndim == 2 and not labels.is_floating_point():
            marked = labels != IGNORED
            if self._model.config.is_encoder_decoder:
                masks.append(marked)
            elif self._model.get_output_embeddings() is not None:
                marked = marked[:, 1:]  # position t predicts label t + 1
            supervised = int(marked.sum())
        if self._model.config.is_encoder_decoder and len(masks) == 1:
            masks.append(mask)  # a head on whole texts: the decoder reads them once more
        lengths = [one.sum(1).tolist() for one in masks]
        tokens = tuple(sum(one) for one in lengths)
        parts = zip(tokens, masks, self._packed, strict=False)
        positions = tuple(count + -count % WHOLE_TOKENS if packed else one.numel() for count, one, packed in parts)
        pairs = [sum(length * length for length in one) for one in lengths]
        if len(lengths) > 1:
            pairs.append(sum(own * other for own, other in zip(*lengths, strict=True)))
        return Sizes(tokens, positions, tuple(pairs), supervised, items)


def summary(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of a whole training from the lines of its record."""
    sums: dict[str, list[float]] = {}
    before = 0
    for line in lines:
        if "loss" not in line:
            continue
        tokens, before = line["tokens"] - before, line["tokens"]
        for names, weight in ((BY_TIME, tokens / max(line["tokens_per_second"], 1e-9)), (BY_TOKENS, tokens)):
            for name in names:
                if name in line:
                    one = sums.setdefault(name, [0.0, 0.0])
                    one[0] += line[name] * weight
                    one[1] += weight
    return {name: round(total / weight, 4) for name, (total, weight) in sums.items() if weight}
