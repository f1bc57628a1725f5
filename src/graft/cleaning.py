"""The cleaning steps of text: what ``data.clean`` may name.

Nothing is cleaned unless a step is named, since a silent normal form changes what a tokenizer sees. A step is a
pure function of the text, so it can be counted, recorded in the adapter's identity and applied again at predict.
``strip_html`` is one pass, as a browser would show the text: an escaped tag becomes a visible one and stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Literal

CleanStep = Literal["nfc", "nfkc", "strip_html", "whitespace"]


def clean(text: str, steps: Sequence[str]) -> str:
    """Return ``text`` after the cleaning ``steps``, in their order."""
    for step in steps:
        text = STEPS[step](text)
    return text


_BLOCKS = """
    address article blockquote br dd div dl dt figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre
    section table tbody td tfoot th thead tr ul
"""


class _Text(HTMLParser):
    """Collects what a browser would show: no tags, comments, scripts or styles; block elements part words."""

    BLOCKS = frozenset(_BLOCKS.split())
    HIDDEN = frozenset({"script", "style"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN and self.hidden > 0
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def _strip_html(text: str) -> str:
    if "<" not in text and "&" not in text:
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.pieces)


STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "strip_html": _strip_html,
    "whitespace": lambda text: " ".join(text.split()),
}
