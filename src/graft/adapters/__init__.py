"""Adapter methods by PEFT's own names and keys. (Section first; the rest follows.)"""

from __future__ import annotations

from pydantic import ConfigDict

from graft.config import Section


class AdapterConfig(Section):
    """The adapter: a PEFT method and that method's own keys, checked by PEFT's own configuration class.

    ``{method: lora, r: 8, lora_alpha: 16, target_modules: [query, value]}``. ``graft check`` names an unknown key and
    the nearest known one.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "lora"
    """PEFT's name of the method, in lower case (``lora``, ``ia3``, ...)."""
