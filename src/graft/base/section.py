"""The params section of the base: a pretrained one by name, or a small one from scratch."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field as Limit
from pydantic import model_validator

from graft.config import Section
from graft.errors import shown
from graft.identity import digest_json

Kind = Literal["package", "folder", "hub", "scratch"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class TokenizerConfig(Section):
    """The tokenizer of a base from scratch, trained on the training rows by the ``tokenizers`` library."""

    kind: Literal["bpe", "wordpiece"] = "bpe"
    """``bpe`` (Sennrich et al., 2016) or ``wordpiece``, both over bytes, so that no text has unknown tokens. The
    library's ``unigram`` trainer is left out: on the same rows it gives other scores each time, so that nobody could
    rebuild the base."""

    vocabulary: int = Limit(default=4000, ge=300, le=1_000_000)
    """At most how many tokens (fewer where the rows have fewer pieces), the special tokens and the 256 bytes among them
    (WordPiece has each byte twice: at the start of a word and within)."""

    chat_template: str | None = None
    """Jinja text that makes a conversation one text. Default: a plain one for decoders, with a token for each role;
    none for others. Empty: none."""


class ImageConfig(Section):
    """How pictures become inputs of a vision base from scratch; size and channels are those of ``base.config``."""

    image_mean: float = 0.5
    """Subtracted from each channel, whose values lie between 0 and 1."""

    image_std: float = Limit(default=0.5, gt=0)
    """Each channel is divided by it then."""


class BaseConfig(Section):
    """The model that is adapted: a pretrained one (``source``), or one that starts from nothing (``config``)."""

    source: str | None = None
    """``package:<module>/<folder>`` (a folder inside an installed Python package), a local folder (absolute, or relative to params.yaml, starting with ``.`` or ``/``), or a Hub id (``org/name``)."""  # noqa: E501

    revision: str | None = None
    """Branch, tag or commit of a Hub id; ``graft lock`` pins the commit. Only for Hub ids."""

    config: dict[str, Any] | None = None
    """From scratch, in place of ``source``: ``model_type`` (``bert``, ``llama``, ``t5``, ``vit``, ...) and that
    configuration's own keys as transformers names them. The size of the vocabulary and the ids of special tokens come
    from the tokenizer."""

    init: Literal["random"] | None = None
    """``random``: how the weights of ``config`` start. Needed beside it, so that nobody gets random weights unasked."""

    seed: int = Limit(default=0, ge=0)
    """Of the random weights."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """Only with ``config``, for models that read text."""

    image: ImageConfig = ImageConfig()
    """Only with ``config``, for models that read pictures."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the frozen weights. ``bfloat16`` is faster where the processor has it; adapter weights stay float32."""  # noqa: E501

    quantization: dict[str, Any] | None = None
    """Keep the frozen matrices in few bits: the keys of transformers' ``BitsAndBytesConfig`` (``load_in_8bit: true``;
    ``load_in_4bit: true``, ``bnb_4bit_quant_type: nf4``, ``bnb_4bit_compute_dtype: bfloat16``, ...). Needs the extra
    ``quantized``. Everything else of the base is float32, so ``dtype`` stays as it is."""

    trust_remote_code: bool = False
    """Whether Python code that comes with a Hub model may run here."""

    @property
    def kind(self) -> Kind:
        """Where the base comes from, as the form of ``source`` says; ``scratch`` without one."""
        if self.source is None:
            return "scratch"
        if self.source.startswith("package:"):
            return "package"
        return "folder" if self.source.startswith((".", "/")) else "hub"

    @property
    def name(self) -> str:
        """What the base is called in messages and records: its source, or ``scratch:llama``."""
        return self.source if self.source is not None else f"scratch:{(self.config or {}).get('model_type')}"

    @property
    def recipe(self) -> str | None:
        """A digest of all settings that a base from scratch is made of beside the data; None for other bases."""
        if self.kind != "scratch":
            return None
        return digest_json(self.model_dump(mode="json", include={"config", "init", "seed", "tokenizer", "image"}))

    @model_validator(mode="after")
    def _check_source(self) -> BaseConfig:
        if self.source is None:
            self._check_scratch()
        elif self.config is not None or self.init is not None:
            raise ValueError("give source (a pretrained base) or config and init (one from scratch), not both")
        if self.kind == "package" and not re.fullmatch(r"package:[A-Za-z_][\w.]*(/[^/].*)?", str(self.source)):
            raise ValueError("source must be package:<module>/<folder>")
        if self.kind == "hub" and not HUB_ID.fullmatch(str(self.source)):
            raise ValueError(
                "source must be package:<module>/<folder>, a Hub id (org/name), or a folder: absolute, or relative to "
                f"params.yaml and starting with ./ or ../ (~ is not expanded); got {shown(self.source)}"
            )
        if self.quantization is not None and self.dtype != "float32":
            raise ValueError(
                "with quantization, dtype stays float32; quantization.bnb_4bit_compute_dtype is the products' type"
            )
        if self.revision is not None and self.kind != "hub":
            raise ValueError("revision is only for Hub ids; leave it out")
        if self.source is not None and not {"seed", "tokenizer", "image"}.isdisjoint(self.model_fields_set):
            raise ValueError("seed, tokenizer and image are only for a base from scratch (base.config); leave them out")
        return self

    def _check_scratch(self) -> None:
        if self.config is None:
            raise ValueError("needs source (a pretrained base), or config and `init: random` (one from scratch)")
        if not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs model_type, the name of an architecture: bert, gpt2, llama, t5, vit, ...")
        if self.init is None:
            raise ValueError("config starts from random weights; say so by `init: random`, or name a source")
