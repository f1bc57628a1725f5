"""Part files to rows: the one strict reader. (Section first; the reader follows.)"""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Limit

from graft.config import Section

CleanStep = Literal["nfc", "nfkc", "strip_html", "whitespace"]


class DataConfig(Section):
    """How part files become rows."""

    columns: dict[str, str] = {}
    """Task field -> column of the files, for columns that are named otherwise (``{text: body, label: category}``)."""

    clean: tuple[CleanStep, ...] = ()
    """Cleaning of text fields, in this order, also applied at predict: ``nfc`` or ``nfkc`` (Unicode normal form), ``strip_html`` (tags and entities), ``whitespace`` (runs become one space, ends trimmed). Empty: the bytes stay as they are."""

    max_line_bytes: int = Limit(default=1 << 20, ge=64, le=1 << 30)
    """The longest line (JSONL) or field (CSV, TSV, Parquet) that is read, in bytes; a longer one is an error at its line."""

    max_depth: int = Limit(default=16, ge=1, le=100)
    """The deepest nesting of JSON brackets that is read."""
