"""The params section of tokenization."""

from __future__ import annotations

from pydantic import Field as Limit

from graft.token_checks import TokenContract


class TokenizationConfig(TokenContract):
    """How rows become tokens, and what those must be."""

    max_length_tokens: int = Limit(default=128, ge=4)
    """The longest row, in tokens, special tokens included; at most what the base's positions allow. Longer rows are
    cut."""
