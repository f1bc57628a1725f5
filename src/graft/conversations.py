"""Conversations: rows to messages, and the order in which people, models and tools speak.

A message is ``{role, content}``. A row of prompt and completion is a conversation of one question and its answer, so
that everything behind this module knows messages only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graft.errors import DataError, shown

Messages = Sequence[Mapping[str, Any]]

ANSWERS = "assistant"
"""The role whose messages are learnt."""
TOOLS = ("tool", "function")


def messages_of(row: Mapping[str, Any], answer: str | None = None) -> list[dict[str, Any]]:
    """Return the conversation of a row: its ``messages``, else ``system`` and ``prompt``; ``answer`` is put after it.

    Raises:
        DataError: the row has neither messages nor a prompt.
    """
    messages = [dict(one) for one in row.get("messages") or ()]
    if not messages:
        if row.get("prompt") is None:
            raise DataError("a row has neither messages nor a prompt; give one of them")
        system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        messages = [*system, {"role": "user", "content": row["prompt"]}]
    return messages if answer is None else [*messages, {"role": ANSWERS, "content": answer}]


def disorder(messages: Messages) -> Iterator[tuple[str, str]]:
    """Yield what is expected and what is found where messages are not in the order of a conversation.

    Instructions come first, then questions and answers take turns; an answer may be followed by results of tools. How
    it must end is the task's business.
    """
    before = ""
    for number, one in enumerate(messages, start=1):
        role = one["role"]
        allowed = _after(before)
        if role not in allowed:
            yield f"message {number} from {' or '.join(allowed)}", shown(role)
            return
        before = role


def _after(role: str) -> tuple[str, ...]:
    """Return the roles that may follow ``role``."""
    if role == "":
        return ("system", "developer", "user")
    if role in ("system", "developer"):
        return ("user",)
    if role == ANSWERS:
        return ("user", *TOOLS)
    return (ANSWERS, *TOOLS) if role in TOOLS else (ANSWERS,)


def without_oldest(messages: Messages) -> list[Mapping[str, Any]]:
    """Return a conversation without its oldest question and all that answers it; empty where it is the last one.

    Instructions at the front stay.
    """
    users = [place for place, one in enumerate(messages) if one["role"] == "user"]
    return [*messages[: users[0]], *messages[users[1] :]] if len(users) > 1 else []


def roles_of(messages: Messages) -> str:
    """Return who speaks, in order, for an error message."""
    return ", ".join(str(one["role"]) for one in messages)
