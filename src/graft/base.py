"""Find, pin, fingerprint and load a base model. (Section first; the rest follows.)"""

from __future__ import annotations

from typing import Literal

from graft.config import Section


class BaseConfig(Section):
    """The pretrained model that is adapted. It is never changed."""

    source: str
    """``package:<module>/<folder>`` (a folder inside an installed Python package), a local folder (absolute, or relative to params.yaml, starting with ``.`` or ``/``), or a Hub id (``org/name``)."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id; ``graft lock`` pins the commit. Only for Hub ids."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the frozen weights. ``bfloat16`` is faster where the processor has it; adapter weights stay float32."""

    trust_remote_code: bool = False
    """Whether Python code that comes with a Hub model may run here."""
