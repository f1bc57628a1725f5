"""What a user should know of the rows that `graft predict` answers: how many, and where the first stands, no value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.cleaning import REDACT, clean_row, text_steps
from graft.damage import visible_characters
from graft.data import privacy_of

if TYPE_CHECKING:
    from graft.tasks import Field


class Asked:
    """Rows whose private data was replaced before they were answered, and rows with an empty text."""

    def __init__(self, identity: Mapping[str, Any], fields: Sequence[Field]) -> None:
        """``identity`` is the adapter's; ``fields`` are those of its rows."""
        steps = text_steps(identity["clean"])
        self.redacts, self.others = REDACT in steps, [step for step in steps if step != REDACT]
        self.fields, self.privacy = fields, privacy_of(identity)
        self.redacted, self.empty = list[str](), list[str]()
        """Their places."""

    def add(self, place: str, given: Mapping[str, Any], ready: Mapping[str, Any]) -> None:
        """Take in a row at ``place``: its typed fields, and the same as they are answered."""
        if self.redacts and clean_row(given, self.fields, self.others, self.privacy) != ready:
            self.redacted.append(place)
        if any(_is_empty(ready.get(one.name)) for one in self.fields if one.text and one.required and not one.target):
            self.empty.append(place)

    def described(self) -> Iterator[str]:
        """Yield a line for each kind of which there are rows."""
        if self.redacted:
            yield f"{_rows(self.redacted)}: the model read placeholders for private data (data.clean: redact)"
        if self.empty:
            yield f"{_rows(self.empty)}: the text is empty; the answer is about nothing"


def _rows(places: Sequence[str]) -> str:
    return places[0] if len(places) == 1 else f"{len(places)} rows (the first: {places[0]})"


def _is_empty(value: Any) -> bool:
    return not any(visible_characters(text) for text in _texts(value))


def _texts(value: Any) -> Iterable[str]:
    """Return the texts of a field: a text, a list of texts, or the contents of messages."""
    if isinstance(value, str):
        return (value,)
    return (one["content"] if isinstance(one, Mapping) else str(one) for one in value or ())
