"""Great Expectations' page views, which compile each template once: theirs do so again for each kind of page.

That library asks for a view by the name of its module and class, so that ``PageView`` (of a suite, or its result) and
``IndexPageView`` (of the list of pages) are made when they are asked for: its imports take seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


def __getattr__(name: str) -> type:
    if name not in ("PageView", "IndexPageView"):
        raise AttributeError(name)
    return _views()[name]


@functools.cache
def _views() -> Mapping[str, type]:
    from great_expectations.render.view import DefaultJinjaIndexPageView, DefaultJinjaPageView

    def compiling_once(view: Any) -> type:
        class Once(view):  # type: ignore[misc]
            def __init__(self, *given: Any, **named: Any) -> None:
                super().__init__(*given, **named)
                self.env.bytecode_cache = _compiled()

        return Once

    return {
        "PageView": compiling_once(DefaultJinjaPageView),
        "IndexPageView": compiling_once(DefaultJinjaIndexPageView),
    }


@functools.cache
def _compiled() -> Any:
    """Return what was compiled in this process, by template and source."""
    from jinja2 import BytecodeCache

    code: dict[tuple[str, str], Any] = {}

    class Compiled(BytecodeCache):
        def load_bytecode(self, bucket: Any) -> None:
            bucket.code = code.get((bucket.key, bucket.checksum))

        def dump_bytecode(self, bucket: Any) -> None:
            code[bucket.key, bucket.checksum] = bucket.code

    return Compiled()
