"""Text in Markdown pages (MLflow's descriptions, Prefect's artifacts) that says what was written and does nothing else.

Labels, reasons and names of people come from data and from forms: a ``*``, a ``|`` or a tag in them is shown as it is.
"""

from __future__ import annotations

import re
from typing import Any

_SPECIAL = re.compile(r"([\\`*_\[\]>|#~])")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def plain(text: Any) -> str:
    """Return text that Markdown takes for nothing else, in one line."""
    return _escaped(_one_line(str(text)))


def sentence(text: str) -> str:
    """Return a sentence in one line: what stands between single backticks is code, the rest is :func:`plain`."""
    pieces = _one_line(text).split("`")
    if len(pieces) % 2 == 0 or not all(pieces[1::2]):  # an end of code is not where it seems
        return plain(text)
    return "".join(f"`{one}`" if place % 2 else _escaped(one) for place, one in enumerate(pieces))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """MLflow's Markdown knows no backslash before ``<``."""
    return _SPECIAL.sub(r"\\\1", _ENTITY.sub("&amp;", text)).replace("<", "&lt;")
