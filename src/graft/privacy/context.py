"""Words beside a number: what makes eleven digits a tax id and not an order number.

A check digit alone lets one number of ten through, so a detector of plain digits asks for a word of its kind nearby. A
window ends at a value that was found before: redaction shortens that, and must not bring a word nearer.
"""

from __future__ import annotations

import re

Span = tuple[str, int, int]
"""Rule, start and end in characters."""
BLANK = "\ue000"
"""Stands for each character of a value that was found; no pattern takes it."""


def words(*latin: str, other: str = "") -> re.Pattern[str]:
    """Return a pattern for whole words (alternatives of a regular expression), and ``other`` ones within a script."""
    return re.compile(
        rf"(?<![A-Za-z])(?:{'|'.join(latin)})(?![A-Za-z])" + (f"|{other}" if other else ""), re.IGNORECASE
    )


def beside(text: str, start: int, end: int, wanted: re.Pattern[str], before: int = 40, after: int = 0) -> bool:
    """Say whether ``wanted`` stands in the ``before`` characters before a span, or in the ``after`` ones behind it."""
    left = text[max(0, start - before) : start].rpartition(BLANK)[2]
    right = text[end : end + after].partition(BLANK)[0]
    return bool(wanted.search(left) or (right and wanted.search(right)))
