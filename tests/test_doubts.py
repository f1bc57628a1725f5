"""Rows that a task doubts: copies and words in the wrong place are named, and what looks like them is not."""

from typing import Any

import pytest

from graft import tasks

HOUSE, LIKE = "The old house was sold again.", "the old house was SOLD again!"
ASKED = {"role": "user", "content": HOUSE}


def said(text: str) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", "content": text}]}


@pytest.mark.parametrize(
    ("task", "row", "fields"),
    [
        ("translation", {"source": HOUSE, "target": LIKE}, ["target"]),
        ("translation", {"source": HOUSE, "target": "Das alte Haus wurde wieder verkauft."}, []),
        ("translation", {"source": "Zoë Müller", "target": "Zoë Müller"}, []),
        ("summarization", {"source": HOUSE, "target": LIKE}, ["target"]),
        ("preference", {"chosen": HOUSE, "rejected": f"{HOUSE} "}, ["rejected"]),
        ("preference", {"chosen": HOUSE, "rejected": "The old horse was sold again."}, []),
        ("chat", said(LIKE), ["messages"]),
        ("chat", said("Which house do you mean?"), []),
        ("chat", {"prompt": HOUSE, "completion": LIKE}, ["completion"]),
        ("chat", {"messages": [{"role": "assistant", "content": HOUSE}, {"role": "user", "content": HOUSE}]}, []),
        ("token_classification", {"tokens": ["moved", "far away"]}, ["tokens"]),
        ("token_classification", {"tokens": ["moved", "nan"]}, ["tokens"]),
        ("token_classification", {"tokens": ["moved", "away", "None", "null"]}, []),
        ("text_classification", {"text": "none", "label": "none"}, []),
    ],
)
def test_a_task_doubts_copies_and_misplaced_words(task: str, row: dict[str, Any], fields: list[str]) -> None:
    assert [one.field for one in tasks.get(task).doubt_row(tasks.config_class(task)(), row)] == fields
