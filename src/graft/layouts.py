"""The common layouts of chat data, recognised by columns and the shape of values, and turned into a task's fields.

Data sets of conversations come as OpenAI's ``messages``, as ShareGPT's ``conversations``, as Alpaca's instructions
(with LLaMA-Factory's ``system`` and ``history``), as pairs, and, for preferences, as TRL's ``chosen`` and
``rejected``. A file has one layout: where several fit all its rows, or none does, it is refused with their names, since
a wrong guess trains on the wrong text. What a conversion does beside renaming columns is noted, for the report.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.conversations import ANSWERS
from graft.errors import DataError, shown
from graft.reading import RowError, describe, excerpt

if TYPE_CHECKING:
    from graft.tasks import Field

Row = dict[str, Any]
Changes = dict[str, None]
"""What conversions did, in the order in which it was first seen."""

CONVERSATIONS = ("messages", "conversations", "conversation")
LISTS = (*CONVERSATIONS, "history")
"""Columns that hold lists, which the cells of a CSV or TSV file have as JSON."""
ROLES = ("user", ANSWERS, "system", "developer", "tool", "function")
"""The roles of messages; ShareGPT and its kin have other names."""
SPEAKERS = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot"), ANSWERS),
    **dict.fromkeys(("observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), ANSWERS),
}
CALLS = ("function_call", "tool_call")
CALL = "<tool_call>{}</tool_call>"
"""How the call of a tool stands in an answer; a message has text alone."""
TOOLS = "Tools: {}"
"""How the tools of a row stand in its instructions."""
BETWEEN = "\n\n"
"""What stands between Alpaca's instruction and its input, and between parts of the instructions."""


@dataclass(frozen=True)
class Layout:
    """How conversations lie in columns."""

    name: str
    columns: str
    """What it needs, for messages."""
    fits: Callable[[Mapping[str, Any]], bool]
    convert: Callable[[Row, Changes], tuple[Row, Iterable[str]]]
    """Row to fields of the task, and the columns that they were made of; raises ``RowError``."""


@dataclass
class Conversion:
    """A layout at work on the rows of one file."""

    layout: Layout
    changes: Changes = field(default_factory=dict)

    def __call__(self, values: Mapping[str, Any]) -> Row:
        """Return a row with the task's fields; its other columns stay.

        Raises:
            RowError: the layout does not fit, or a message is ill-formed.
        """
        if not self.layout.fits(values):
            raise RowError(f"the layout {self.layout.name} ({self.layout.columns})", _columns(values))
        row = dict(values)
        return _row(row, *self.layout.convert(row, self.changes), self.changes)

    def __str__(self) -> str:
        """Return the layout's name and what was changed."""
        return "; ".join([self.layout.name, *self.changes])


def layouts_of(fields: Sequence[Field]) -> dict[str, Layout]:
    """Return the layouts of a task with these fields by name; none where it has no conversations."""
    if not any(one.type == "messages" for one in fields):
        return {}
    chosen = PREFERENCE if any(one.name == "chosen" for one in fields) else CHAT
    return {one.name: one for one in chosen}


def named(name: str, layouts: Mapping[str, Layout]) -> Layout:
    """Return the layout that a user names.

    Raises:
        DataError: there is none of that name, or the task holds no conversations.
    """
    if not layouts:
        raise DataError("--layout: only for tasks that hold conversations (chat, preference); leave it out")
    if name not in layouts:
        raise DataError(f"--layout {shown(name)}: must be one of {', '.join(layouts)}")
    return layouts[name]


@dataclass
class Recognition:
    """Which layouts fit the rows of one file."""

    layouts: Mapping[str, Layout]
    votes: dict[tuple[str, ...], list[Any]] = field(default_factory=dict)
    """The layouts that fit together -> number of rows, place and columns of the first."""

    def add(self, place: str, values: Mapping[str, Any]) -> None:
        """Note a row."""
        names = tuple(name for name, layout in self.layouts.items() if layout.fits(values))
        self.votes.setdefault(names, [0, place, _columns(values)])[0] += 1

    def decide(self, file: str) -> Layout | None:
        """Return the one layout of all rows that have any; None of a file without rows.

        Raises:
            DataError: none or more than one fits them all.
        """
        fitting = [set(names) for names in self.votes if names]
        common = set.intersection(*fitting) if fitting else set[str]()
        if len(common) == 1:
            return self.layouts[common.pop()]
        if common:
            both = " and ".join(name for name in self.layouts if name in common)
            raise DataError(f"{file}: the layouts {both} fit its rows; say which by --layout NAME")
        if fitting:
            raise DataError(f"{file}: rows of several layouts: {self._counted()}; split it, a file for each layout")
        if self.votes:
            needed = "; ".join(f"{one.name} ({one.columns})" for one in self.layouts.values())
            raise DataError(
                f"{file}: no layout fits its rows, which have {self.votes[()][2]}; known are: {needed}. Name the "
                "columns by --column FIELD=COLUMN, or the layout by --layout NAME to see what is wrong"
            )
        return None

    def _counted(self) -> str:
        return ", ".join(
            f"{' or '.join(names) or 'none'} in {count} (first {place})"
            for names, (count, place, _) in self.votes.items()
        )


def _columns(values: Mapping[str, Any]) -> str:
    filled = [name for name, value in values.items() if value not in (None, "")]
    empty = [name for name in filled if values[name] == []]
    but = f"; {excerpt(empty[0])} is an empty list: a conversation needs a message" if empty else ""
    return f"the columns {excerpt(', '.join(filled))}{but}"


# -- what fits


def _conversation(values: Mapping[str, Any], speaker: str) -> list[str]:
    """Return the columns that hold a list of messages whose speaker stands under ``speaker``."""
    return [name for name in CONVERSATIONS if _are_messages(values.get(name), speaker)]


def _are_messages(value: Any, speaker: str | None = None) -> bool:
    """Say whether a value is a list of messages; ``speaker``: those with that key alone."""
    if not isinstance(value, list) or not value:
        return False
    keys = [speaker] if speaker else ["role", "from"]
    return any(all(_is_message(one, key) for one in value) for key in keys)


def _is_message(value: Any, speaker: str) -> bool:
    if not isinstance(value, dict) or speaker not in value:
        return False
    return "value" in value if speaker == "from" else "content" in value or "tool_calls" in value


def _is_text(values: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(values.get(name), str) for name in names)


def _is_side(values: Mapping[str, Any], *names: str) -> bool:
    """Say whether each column is a text or a list of messages."""
    return all(isinstance(values.get(name), str) or _are_messages(values.get(name)) for name in names)


def _has_answers(values: Mapping[str, Any]) -> bool:
    """Say whether ``chosen`` and ``rejected`` are one answer each: a text or a message."""
    return all(isinstance(values.get(name), str) or len(_as_messages(values.get(name))) == 1 for name in PAIR)


def _as_messages(value: Any) -> list[Any]:
    value = [value] if isinstance(value, dict) else value
    return value if _are_messages(value) else []


def _has_whole_pair(values: Mapping[str, Any]) -> bool:
    """Say whether ``chosen`` and ``rejected`` are whole conversations, question and answer at least."""
    return all(len(_as_messages(values.get(name))) > 1 for name in PAIR)


# -- messages


def _message(one: Mapping[str, Any], changes: Changes, at: str) -> Row:
    """Return a message as ``{role, content}``; one that is so already stays as it is."""
    speaker, text = ("role", "content") if "role" in one else ("from", "value")
    name, content = one[speaker], one.get(text)
    role = name if name in ROLES else SPEAKERS.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"a role: {', '.join((*ROLES, *SPEAKERS))}", describe(name), field=at)
    if speaker == "from" and role == "function":  # ShareGPT's results of tools; messages may keep OpenAI's old name
        role = "tool"
    calls = one.get("tool_calls") or []
    if speaker == "role" and role == name and isinstance(content, str) and not calls:
        return dict(one)
    if role != name:
        changes[f"role {name} -> {role}"] = None
    content = _text(content, changes, at) if content is not None or not calls else ""
    if name in CALLS:
        content = CALL.format(content)
    for call in calls:
        content += CALL.format(_call(call, at))
    if calls or name in CALLS:
        changes["calls of tools as <tool_call> in the answer"] = None
    rest = {key: value for key, value in one.items() if key not in (speaker, text, "tool_calls") and value is not None}
    return {"role": role, "content": content, **rest}


def _text(content: Any, changes: Changes, at: str) -> str:
    """Return the text of a message: a string, or OpenAI's list of parts where all are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [one.get("text") if isinstance(one, dict) and one.get("type", "text") == "text" else None for one in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RowError("a message of text", describe(content), field=at)
    changes["parts of text joined"] = None
    return "".join(str(text) for text in texts)


def _call(call: Any, at: str) -> str:
    """Return the call of a tool as JSON: OpenAI has its arguments as JSON in a string."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("the call of a tool, with its function's name", describe(call), field=at)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def _messages(value: Any, changes: Changes, at: str) -> list[Row]:
    return [_message(one, changes, f"{at}[{number}]") for number, one in enumerate(value)]


def _side(value: Any, role: str, changes: Changes, at: str) -> list[Row]:
    """Return a text as a message from ``role``, and messages as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value, changes, at)


# -- rows


def _row(values: Row, fields: Row, taken: Iterable[str], changes: Changes) -> Row:
    """Return a row with the fields where it had them or the columns ``taken`` for them; the others stay.

    Its instructions go where the task has them: ``system`` and ``tools`` into the first message of a conversation, and
    with a prompt, ``tools`` into ``system``.
    """
    system, tools = values.get("system"), _tools(values.get("tools"))
    dropped = {*taken, *(["tools"] if tools is not None else [])}
    if "messages" in fields:
        if system not in (None, "") or tools:
            fields["messages"] = _instructed(fields["messages"], system, tools)
        if system not in (None, ""):
            changes["system into the first message"] = None
        dropped.add("system")
    elif tools:
        fields["system"] = BETWEEN.join([*([system] if system else []), TOOLS.format(tools)])
    elif system == "":
        fields["system"] = None
    if tools:
        changes["tools into the instructions"] = None
    new = {name: value for name, value in fields.items() if name not in values}
    found: Row = {}
    for name, value in values.items():
        if name in fields:
            found[name] = fields[name]
        elif name in taken:
            found |= new
        elif name not in dropped:
            found[name] = value
    return found | fields


def _instructed(messages: list[Row], system: Any, tools: str | None) -> list[Row]:
    first = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    if first is not None and system not in (None, ""):
        raise RowError("instructions once", "a system message and the column system", field="system")
    if not isinstance(system, str | None):
        raise RowError("instructions (a string)", describe(system), field="system")
    texts = [text for text in (first, system, TOOLS.format(tools) if tools else None) if text]
    return [{"role": "system", "content": BETWEEN.join(texts)}, *messages[first is not None :]]


def _tools(value: Any) -> str | None:
    """Return the tools of a row as JSON; empty where it names none, None where it has no such column of JSON."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    if not isinstance(value, str):
        return None
    text = value.strip()
    return "" if text in ("", "[]") else text if text.startswith("[") else None


Converted = tuple[Row, Iterable[str]]
"""Fields of the task, and the columns that they were made of."""
Convert = Callable[[Row, Changes], Converted]


def _from_conversation(speaker: str) -> Convert:
    def convert(values: Row, changes: Changes) -> Converted:
        column, *more = _conversation(values, speaker)
        if more:
            found = ", ".join([column, *more])
            raise RowError("one column of messages", f"{found}; name it by --column messages=...")
        return {"messages": _messages(values[column], changes, column)}, [column]

    return convert


ALPACA = ("instruction", "input", "output", "history")


def _from_alpaca(values: Row, changes: Changes) -> Converted:
    prompt, history = _alpaca_prompt(values, changes), values.get("history")
    if not history:
        answer = {"completion": values["output"]} if "output" in values else {}
        return {"prompt": prompt} | answer, ALPACA
    changes["history as earlier messages"] = None
    messages = [*_history(history), {"role": "user", "content": prompt}]
    if "output" in values:
        messages.append({"role": ANSWERS, "content": values["output"]})
    return {"messages": messages}, ALPACA


def _alpaca_prompt(values: Row, changes: Changes) -> str:
    instruction, given = values["instruction"], values.get("input")
    if given is None or (isinstance(given, str) and not given.strip()):
        return str(instruction)
    if not isinstance(given, str):
        raise RowError("a string", describe(given), field="input")
    changes["input behind the instruction, after an empty line"] = None
    return BETWEEN.join([instruction, given]) if instruction.strip() else given


def _history(value: Any) -> list[Row]:
    expected = "a list of pairs of question and answer"
    if not isinstance(value, list):
        raise RowError(expected, describe(value), field="history")
    found: list[Row] = []
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowError(expected, describe(pair), field="history")
        found += [{"role": "user", "content": pair[0]}, {"role": ANSWERS, "content": pair[1]}]
    return found


def _from_pair(answer: str) -> Convert:
    def convert(values: Row, changes: Changes) -> Converted:
        names = ("prompt", answer)
        if _is_text(values, *names):
            return {"prompt": values["prompt"], "completion": values[answer]}, names
        question = _side(values["prompt"], "user", changes, "prompt")
        return {"messages": [*question, *_side(values[answer], ANSWERS, changes, answer)]}, names

    return convert


def _from_prompt(values: Row, changes: Changes) -> Converted:
    if isinstance(values["prompt"], str):
        return {"prompt": values["prompt"]}, ["prompt"]
    return {"messages": _messages(values["prompt"], changes, "prompt")}, ["prompt"]


PAIR = ("chosen", "rejected")


def _with_answers(convert: Convert) -> Convert:
    """Return the conversion of a question that is followed by those of its two answers."""

    def both(values: Row, changes: Changes) -> Converted:
        fields, taken = convert(values, changes)
        return fields | {name: _answer(values[name], changes, name) for name in PAIR}, taken

    return both


def _answer(value: Any, changes: Changes, at: str) -> str:
    if isinstance(value, str):
        return value
    (one,) = _messages(_as_messages(value), changes, at)
    if one["role"] != ANSWERS:
        raise RowError("an answer", f"a message from {one['role']}", field=at)
    return str(one["content"])


def _from_whole_pair(values: Row, changes: Changes) -> Converted:
    """Return the messages that two conversations share, and the answer in which each ends."""
    chosen, rejected = (_messages(values[name], changes, name) for name in PAIR)
    if chosen[:-1] != rejected[:-1]:
        raise RowError("conversations that differ in their last message alone", "others", field="rejected")
    for name, messages in zip(PAIR, (chosen, rejected), strict=True):
        if messages[-1]["role"] != ANSWERS:
            raise RowError("an answer at the end", f"a message from {messages[-1]['role']}", field=name)
    answers = {"chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
    return {"messages": chosen[:-1]} | answers, PAIR


MESSAGES = "a list of {role, content} in messages, conversations or conversation"
SHAREGPT = "a list of {from, value} in conversations, conversation or messages"
CHAT = (
    Layout("messages", MESSAGES, lambda row: bool(_conversation(row, "role")), _from_conversation("role")),
    Layout("sharegpt", SHAREGPT, lambda row: bool(_conversation(row, "from")), _from_conversation("from")),
    Layout(
        "alpaca",
        "instruction and output; input, system, history",
        lambda row: _is_text(row, "instruction", "output"),
        _from_alpaca,
    ),
    Layout(
        "prompt_completion",
        "prompt and completion; system",
        lambda row: _is_side(row, "prompt", "completion"),
        _from_pair("completion"),
    ),
    Layout(
        "prompt_response",
        "prompt and response; system",
        lambda row: _is_side(row, "prompt", "response"),
        _from_pair("response"),
    ),
)
PREFERENCE = (
    Layout(
        "messages",
        f"{MESSAGES}, with chosen and rejected",
        lambda row: bool(_conversation(row, "role")) and _has_answers(row),
        _with_answers(_from_conversation("role")),
    ),
    Layout(
        "sharegpt",
        f"{SHAREGPT}, with chosen and rejected",
        lambda row: bool(_conversation(row, "from")) and _has_answers(row),
        _with_answers(_from_conversation("from")),
    ),
    Layout(
        "alpaca",
        "instruction, chosen and rejected; input, system, history",
        lambda row: _is_text(row, "instruction") and _has_answers(row),
        _with_answers(_from_alpaca),
    ),
    Layout(
        "prompt",
        "prompt, chosen and rejected; system",
        lambda row: _is_side(row, "prompt") and _has_answers(row),
        _with_answers(_from_prompt),
    ),
    Layout("conversation_pair", "two whole conversations in chosen and rejected", _has_whole_pair, _from_whole_pair),
)
