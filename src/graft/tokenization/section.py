"""The params section of tokenization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Limit

from graft.config import Section


class TokenizationConfig(Section):
    """How rows become tokens."""

    max_length_tokens: int = Limit(default=128, ge=4)
    """The longest row, in tokens, special tokens included; at most what the base's positions allow."""

    too_long: Literal["truncate", "refuse"] = "truncate"
    """What happens to a longer row: cut at the end (counted and reported), or an error at its file and line."""
