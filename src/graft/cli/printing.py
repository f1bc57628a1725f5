"""What commands print: colour and aligned tables in a terminal, plain lines elsewhere, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from graft.workspace import suggested

MARKS = {"ok": "green", "warn": "yellow", "fail": "red", "note": "cyan"}


def in_terminal() -> bool:
    """Return whether a person reads standard output."""
    return sys.stdout.isatty()


def styled(text: str, style: str) -> str:
    """Return ``text`` in a Rich style where a person reads it, else as it is."""
    if not in_terminal():
        return text
    from rich.console import Console
    from rich.text import Text

    console = Console()
    with console.capture() as captured:
        console.print(Text(text, style=style), end="", soft_wrap=True)
    return captured.get()


def mark(state: str) -> str:
    """Return ``ok``, ``warn``, ``fail`` or ``note`` in its colour, four wide."""
    return styled(f"{state:4}", MARKS.get(state, ""))


def finding(state: str, name: str, text: str) -> None:
    """Print what a check found; ``name`` is padded as the caller's table asks."""
    print(f"{mark(state)}  {name} {suggested(text)}", flush=True)


def heading(text: str) -> None:
    """Print the title of what follows."""
    print(styled(text, "bold"))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under column names, each column as wide as its widest cell (the last one not padded)."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    head = "  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip()
    print(styled(head, "bold"))
    for line in lines:
        print(line)


def as_json(value: Any) -> None:
    """Print ``value`` as JSON with sorted keys."""
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str))


def size(count: float) -> str:
    """Return a number of bytes for people: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds(count: float) -> str:
    """Return a duration for people: ``4.2 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d``."""
    if count < 60:
        return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
    minutes, rest = divmod(int(count), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d"
