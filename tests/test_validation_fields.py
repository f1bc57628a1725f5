"""The data contract of list fields: what its flat columns hold, and which rows it names."""

from typing import Any

import pytest

from graft.data import DataConfig, Problem, Record
from graft.tasks import Field
from graft.validation import ValidationConfig
from graft.validation.contract import Contract
from graft.validation.frame import Frame

USER, ANSWER = {"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}


def filled(frame: Frame, field: Field, values: list[Any]) -> Frame:
    for line, value in enumerate(values, start=1):
        frame.add(Record({field.name: value}, f"data/train/part.jsonl:{line}"))
    return frame


@pytest.fixture
def check() -> Any:
    def problems(field: Field, values: list[Any], state: Any = None, **settings: Any) -> list[Problem]:
        contract = Contract((field,), state or {}, DataConfig(), ValidationConfig(**settings))
        return [one.problem for one in contract.check(filled(contract.frame(), field, values))[0]]

    return problems


@pytest.mark.parametrize(
    ("field", "values", "columns"),
    [
        (Field("labels", "labels"), [["a", "b"], []], {"labels (items)": [2, 0]}),
        (
            Field("messages", "messages", text=True),
            [[USER, ANSWER], [USER]],
            {
                "messages (items)": [2, 1],
                "messages (characters)": [13, 8],
                "messages (visible characters)": [5, 7],  # of the shortest message
            },
        ),
        (
            Field("answers", "answers", text=True),
            [{"text": ["in Bonn", "Bonn"], "answer_start": [0, 3]}, {"text": [], "answer_start": []}],
            {"answers (items)": [2, 0], "answers (characters)": [11, 0], "answers (visible characters)": [4, 0]},
        ),
        (Field("picture", "image"), [b"\x89PNG"], {"picture": ["4 bytes"]}),
    ],
)
def test_flat_columns_hold_counts_and_lengths(field: Field, values: list[Any], columns: dict[str, list[Any]]) -> None:
    table = filled(Frame((field,)), field, values).table()
    for name, expected in columns.items():
        assert table[name].to_list() == expected, name


def test_messages_without_one_are_refused_and_a_row_may_have_no_label(check: Any) -> None:
    (problem,) = check(Field("messages", "messages"), [[USER], []])
    assert str(problem).startswith("data/train/part.jsonl:2: messages: expected at least one item")
    assert check(Field("labels", "labels"), [["a"], []], {"labels": ["a"]}) == []
    assert check(Field("answers", "answers"), [{"text": [], "answer_start": []}]) == []


def test_a_message_without_visible_text_is_refused_at_its_line(check: Any) -> None:
    blank = {"role": "user", "content": " \u200b"}
    found = check(Field("messages", "messages", text=True), [[USER, ANSWER], [blank, ANSWER]], min_characters=1)
    assert [str(one).partition(" expected")[0] for one in found] == ["data/train/part.jsonl:2: messages:"]
    assert "at least 1 visible character" in found[0].expected


def test_an_optional_list_may_be_absent(check: Any) -> None:
    assert check(Field("labels", "labels", required=False), [None, ["a"]]) == []
    (problem,) = check(Field("labels", "labels"), [None, ["a"]])
    assert (problem.place, problem.expected) == ("data/train/part.jsonl:1", "a value")


def test_a_private_value_may_span_the_words_of_a_text_and_not_the_texts_of_a_list(check: Any) -> None:
    number = ["call", "+1", "212", "555", "0123"]
    words, texts = (Field("tokens", "strings", text=True, words=words) for words in (True, False))
    (problem,) = check(words, [["x"], number])
    assert (problem.place, problem.found) == ("data/train/part.jsonl:2", "1 phone")
    assert check(texts, [["x"], number]) == []
