"""The params section of the adapter; which keys a method takes is decided by PEFT's own configuration class."""

from __future__ import annotations

from typing import Any

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

    @property
    def keys(self) -> dict[str, Any]:
        """The method's own keys, as given."""
        return dict(self.model_extra or {})
