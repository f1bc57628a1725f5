"""The data contract. (Section first; the stage follows.)"""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class ValidationConfig(Section):
    """What the rows must be beside the task's own schema."""

    min_characters: int = Limit(default=1, ge=0)
    """The fewest characters of a text field, white space not counted."""

    max_characters: int = Limit(default=100_000, ge=1)
    """The most characters of a text field."""

    min_rows: int = Limit(default=1, ge=1)
    """The fewest rows of a split."""

    unique_ids: bool = True
    """Whether an ``id`` column, where there is one, must be unique over all splits."""
