"""Whether conversations are written by the chat template that sources.lock pins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graft.base import LockedBase, chat_template_digest
from graft.errors import IntegrityError
from graft.quarantine import Severity
from graft.token_checks.verdicts import Verdict

SHOWN = 12


def judge_template(pinned: LockedBase, folder: Path, tokenizer: Any, severity: Severity) -> Iterator[Verdict]:
    """Yield the verdict on the template of a ``tokenizer`` loaded from ``folder``; nothing where it is ignored.

    Raises:
        IntegrityError: it is another than the pinned one, which the severity forbids.
    """
    if severity == "ignore":
        return
    loaded = chat_template_digest(folder, tokenizer.chat_template)
    if loaded != pinned.chat_template:
        message = (
            f"base.chat_template: sources.lock pins {_shown(pinned.chat_template)}, the tokenizer that was loaded has "
            f"{_shown(loaded)}; save the template as chat_template.jinja beside the tokenizer and run `graft lock`, or "
            f"set task.template"
        )
        if severity == "fail":
            raise IntegrityError(message)
        print(f"warning: {message}", flush=True)
    different = int(loaded != pinned.chat_template)
    yield Verdict("all", "chat_template", severity, different, float(different), 0.0)


def _shown(digest: str | None) -> str:
    return f"a template with digest {digest[:SHOWN]}" if digest else "none"
