"""Outliers: what is odd beside the other rows is found with its place, whatever the parts, and usual data has none."""

import json
import random
from typing import Any

import numpy as np
import pytest

from graft.data import Record
from graft.tasks import Field
from graft.validation import outliers
from graft.validation.frame import Frame

FIELDS = (Field("text", "string", text=True), Field("target", "number"), Field("label", "label"))
USUAL = """
    the a to of in is for on with his her from was were old new house garden city river street window
"""


def sentence(dice: random.Random) -> str:
    return " ".join(dice.choices(USUAL.split(), k=14))


def rows(count: int, seed: int = 0, **values: list[Any]) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    made = [
        {"text": sentence(dice), "target": dice.gauss(3, 1), "label": "xy"[n % 2], "id": f"{seed}-{n}"}
        for n in range(count)
    ]
    for name, given in values.items():
        for row, value in zip(made, given, strict=False):
            row[name] = value
    return made


def told(part: list[dict[str, Any]], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a part tells, by way of JSON."""
    frame = Frame(FIELDS)
    for number, row in enumerate(part, start=1):
        frame.add(Record({name: row[name] for name in ("text", "target", "label")}, f"p:{number}", row["id"]))
    ids = [row["id"] for row in part]
    found = outliers.told(frame, "label", ids, without, lambda place: place.removeprefix("p"))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def odd(*parts: list[dict[str, Any]]) -> list[tuple[int, int, list[str], str, str]]:
    return [
        (one.part, one.rows, list(one.places), one.field, one.found) for one in outliers.odd(list(map(told, parts)))
    ]


def test_usual_rows_have_no_outliers() -> None:
    assert odd(rows(60), rows(40, 1)) == []
    assert odd([]) == []


@pytest.mark.parametrize("value", [4000.0, -999.0, 9999.0])
def test_a_number_far_away_is_named_in_its_part(value: float) -> None:
    assert odd(rows(60), rows(40, 1, target=[3.0, 3.0, value, value])) == [(1, 2, [":3", ":4"], "target", f"{value:g}")]
    assert odd(rows(5, target=[value])) == []  # too few to say what is usual


def test_a_long_tail_has_no_outliers_and_a_number_beyond_it_is_one() -> None:
    tail = np.random.default_rng(0).lognormal(0, 2, 3000).tolist()
    assert max(tail) > 300
    assert odd(rows(3000, target=tail)) == []
    assert [found for *_, found in odd(rows(3000, target=[*tail[1:], -5e9]))] == ["-5e+09"]


def test_the_one_negative_number_of_many_stands_for_a_missing_one() -> None:
    stars = [float(n % 6) for n in range(60)]
    assert odd(rows(60, target=[-1.0, *stars])) == [(0, 1, [":1"], "target", "-1")]
    assert odd(rows(60, target=[float(n % 3 - 1) for n in range(60)])) == []  # -1, 0, 1 is a scale


GERMAN = "Gestern war das Wetter im ganzen Land wieder einmal sehr schlecht."


def test_a_text_in_another_language_is_named_and_two_languages_are_none() -> None:
    assert odd(rows(60), rows(40, 1, text=["a", GERMAN])) == [(1, 1, [":2"], "text", "de")]
    assert odd(rows(60), rows(40, 1, text=[GERMAN] * 30)) == []
    english = ["Nobody remembers whether yesterday's thunderstorm damaged their neighbour's greenhouse."]
    assert odd(rows(60), rows(1, 1, text=english)) == []  # alone in its part, but not in its language


@pytest.mark.parametrize(
    ("label", "other", "is_misspelt"),
    [
        ("cookin", "cooking", True),
        ("cookng", "cooking", True),
        ("coOking ", "cooking", True),
        ("level 2", "level 1", False),
        ("cat", "car", False),
        ("travel", "cooking", False),
    ],
)
def test_a_rare_label_that_is_nearly_another_one_is_named(label: str, other: str, is_misspelt: bool) -> None:
    found = odd(rows(60, label=[other] * 60), rows(40, 1, label=[other] * 3 + [label] + [other] * 36))
    assert [one[:3] for one in found] == ([(1, 1, [":4"])] if is_misspelt else [])


def test_labels_that_are_both_common_are_two() -> None:
    assert odd(rows(60, label=["cooking", "cookin"] * 30)) == []


def test_a_row_without_an_id_is_odd_where_others_have_one() -> None:
    assert odd(rows(60, id=["a", "", " ", None])) == [(0, 3, [":2", ":3", ":4"], "id", "none")]
    assert odd(rows(60, id=[None] * 60)) == []


def test_rows_that_are_kept_aside_say_nothing() -> None:
    part = rows(60, target=[1e9])
    assert [one.found for one in outliers.odd([told(part, without=("p:1",))])] == []


def test_what_a_part_tells_does_not_grow_with_its_rows() -> None:
    small, large = (len(json.dumps(told(rows(count)))) for count in (300, 6000))
    assert large < 2.5 * small
