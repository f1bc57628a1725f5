"""Chat layouts: each is recognised by its columns, converted to the task's fields, and never guessed."""

import re
from typing import Any

import pytest

from graft import tasks
from graft.errors import DataError
from graft.layouts import Conversion, Recognition, layouts_of, named
from graft.reading import RowError

CHAT = layouts_of(tasks.get("chat").fields)
PREFERENCE = layouts_of(tasks.get("preference").fields)
USER, BOT = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
HUMAN, GPT = {"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}
TOOL = {"name": "add", "parameters": {"type": "object"}}
TOOLS = 'Tools: [{"name": "add", "parameters": {"type": "object"}}]'


def recognised(row: dict[str, Any], layouts: Any = CHAT) -> str:
    votes = Recognition(layouts)
    votes.add("a.json:1", row)
    found = votes.decide("a.json")
    assert found
    return found.name


def converted(row: dict[str, Any], layouts: Any = CHAT) -> dict[str, Any]:
    return Conversion(layouts[recognised(row, layouts)])(row)


@pytest.mark.parametrize(
    ("row", "layout", "wanted"),
    [
        ({"messages": [USER, BOT], "id": 1}, "messages", {"messages": [USER, BOT], "id": 1}),
        ({"id": 1, "conversations": [USER, BOT]}, "messages", {"id": 1, "messages": [USER, BOT]}),
        ({"conversations": [HUMAN, GPT], "source": "x"}, "sharegpt", {"messages": [USER, BOT], "source": "x"}),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "system": ""},
            "alpaca",
            {"prompt": "Add.\n\n1 2", "completion": "3", "system": None},
        ),
        ({"instruction": "Add.", "input": " ", "output": "3"}, "alpaca", {"prompt": "Add.", "completion": "3"}),
        (
            {"instruction": "And?", "output": "b", "system": "Be brief.", "history": [["Hi?", "Hello."]]},
            "alpaca",
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    USER,
                    BOT,
                    {"role": "user", "content": "And?"},
                    {"role": "assistant", "content": "b"},
                ]
            },
        ),
        ({"completion": "b", "prompt": "a"}, "prompt_completion", {"completion": "b", "prompt": "a"}),
        ({"prompt": [USER], "completion": [BOT], "n": 1}, "prompt_completion", {"messages": [USER, BOT], "n": 1}),
        ({"prompt": "a", "response": "b"}, "prompt_response", {"prompt": "a", "completion": "b"}),
        (
            {"prompt": "a", "response": "b", "tools": [TOOL]},
            "prompt_response",
            {"prompt": "a", "completion": "b", "system": TOOLS},
        ),
    ],
)
def test_chat_layouts_become_the_task_s_fields(row: dict[str, Any], layout: str, wanted: dict[str, Any]) -> None:
    assert recognised(row) == layout
    found = converted(row)
    assert found == wanted
    assert list(found) == list(wanted)  # the order of columns is part of the bytes


@pytest.mark.parametrize(
    ("row", "layout", "wanted"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "prompt", None),
        ({"messages": [USER], "chosen": "b", "rejected": "c"}, "messages", None),
        (
            {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No."}},
            "sharegpt",
            {"messages": [USER], "chosen": "Hello.", "rejected": "No."},
        ),
        (
            {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"},
            "alpaca",
            {"prompt": "Add.\n\n1 2", "chosen": "3", "rejected": "4"},
        ),
        (
            {"prompt": [USER], "chosen": [BOT], "rejected": [{"role": "assistant", "content": "No."}]},
            "prompt",
            {"messages": [USER], "chosen": "Hello.", "rejected": "No."},
        ),
        (
            {"chosen": [USER, BOT], "rejected": [USER, {"role": "assistant", "content": "No."}], "score": 1},
            "conversation_pair",
            {"messages": [USER], "chosen": "Hello.", "rejected": "No.", "score": 1},
        ),
    ],
)
def test_preference_layouts_become_the_task_s_fields(
    row: dict[str, Any], layout: str, wanted: dict[str, Any] | None
) -> None:
    assert recognised(row, PREFERENCE) == layout
    assert converted(row, PREFERENCE) == (wanted or row)


def test_roles_tools_and_calls_are_written_out_and_noted() -> None:
    conversation = [
        HUMAN,
        {"from": "function_call", "value": '{"name": "add"}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "3."},
    ]
    conversion = Conversion(CHAT["sharegpt"])
    found = conversion({"conversations": conversation, "tools": f"[{TOOLS.removeprefix('Tools: [')}", "system": "Add."})
    assert found == {
        "messages": [
            {"role": "system", "content": f"Add.\n\n{TOOLS}"},
            USER,
            {"role": "assistant", "content": '<tool_call>{"name": "add"}</tool_call>'},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "3."},
        ]
    }
    assert str(conversion) == (
        "sharegpt; role human -> user; role function_call -> assistant; calls of tools as <tool_call> in the answer; "
        "role observation -> tool; role gpt -> assistant; system into the first message; tools into the instructions"
    )


def test_openai_s_calls_and_parts_become_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Add "}, {"type": "text", "text": "1."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    assert converted({"messages": messages})["messages"] == [
        {"role": "user", "content": "Add 1."},
        {"role": "assistant", "content": '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'},
        messages[2],
    ]


@pytest.mark.parametrize(
    ("row", "field", "expected"),
    [
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "conversations[0]", "a role: user, assistant"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": 7}]}, "conversations[1]", "a message of text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]", "a message of text"),
        ({"messages": [{"role": "system", "content": "a"}, USER], "system": "b"}, "system", "instructions once"),
        ({"messages": [USER], "conversations": [USER]}, "", "one column of messages"),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, "history", "a list of pairs"),
        ({"instruction": "a", "output": "b", "input": 7}, "input", "a string"),
    ],
)
def test_an_ill_formed_conversation_is_refused(row: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(RowError, match=re.escape(expected)) as error:
        converted(row)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("rejected", "expected"),
    [
        ([{"role": "user", "content": "Other?"}, BOT], "conversations that differ in their last message alone"),
        ([USER, USER], "an answer at the end"),
    ],
)
def test_a_pair_must_share_all_but_its_last_answer(rejected: list[Any], expected: str) -> None:
    with pytest.raises(RowError, match=expected):
        converted({"chosen": [USER, BOT], "rejected": rejected}, PREFERENCE)


def test_what_fits_several_layouts_or_none_is_refused_with_their_names() -> None:
    votes = Recognition(CHAT)
    votes.add("a.json:1", {"messages": [USER, BOT], "prompt": "a", "completion": "b"})
    with pytest.raises(DataError, match=r"a\.json: the layouts messages and prompt_completion fit its rows; say which"):
        votes.decide("a.json")
    votes = Recognition(CHAT)
    for line in range(1, 4):
        votes.add(f"a.json:{line}", {"prompt": "a", "response": "b"} if line < 3 else {"conversations": [HUMAN, GPT]})
    message = r"prompt_response in 2 \(first a\.json:1\), sharegpt in 1 \(first a\.json:3\); split it"
    with pytest.raises(DataError, match=message):
        votes.decide("a.json")
    votes = Recognition(CHAT)
    votes.add("a.json:1", {"q": "a", "a": "b"})
    with pytest.raises(
        DataError, match=r"no layout fits its rows, which have the columns 'q, a'; known are: messages \("
    ):
        votes.decide("a.json")
    assert Recognition(CHAT).decide("a.json") is None
    votes = Recognition(CHAT)
    votes.add("a.csv:1", {"ann" + "@example.org": "a", "4111111111111111": "b"})  # the first row instead of a header
    with pytest.raises(DataError, match=r"which have the columns '<EMAIL_1>, <CARD_1>'"):
        votes.decide("a.csv")


def test_an_empty_conversation_is_said_to_be_empty() -> None:
    with pytest.raises(DataError, match="'messages' is an empty list: a conversation needs a message"):
        recognised({"messages": []})


def test_a_row_that_decides_where_others_leave_it_open_decides() -> None:
    votes = Recognition(CHAT)
    votes.add("a.json:1", {"messages": [USER, BOT], "prompt": "a", "completion": "b"})
    votes.add("a.json:2", {"messages": [USER, BOT], "prompt": "a", "completion": None})
    found = votes.decide("a.json")
    assert found
    assert found.name == "messages"


def test_a_layout_is_named_for_tasks_that_hold_conversations_alone() -> None:
    assert named("alpaca", CHAT) is CHAT["alpaca"]
    with pytest.raises(DataError, match="--layout 'alpacca': must be one of messages, sharegpt, alpaca"):
        named("alpacca", CHAT)
    assert layouts_of(tasks.get("text_generation").fields) == {}
    with pytest.raises(DataError, match="only for tasks that hold conversations"):
        named("alpaca", {})
