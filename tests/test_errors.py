"""Errors: exit codes as the docstring's tree says, bounded messages, no passwords."""

from __future__ import annotations

import re

import pytest

from graft import errors


def tree_of_docstring() -> dict[str, tuple[str, int]]:
    """Read name -> (parent, exit code) from the tree drawn in the module's docstring."""
    found: dict[str, tuple[str, int]] = {}
    parents = {0: "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+) +(\d+)", line)
        if match:
            depth = len(match[1]) // 4
            found[match[2]] = (parents[depth], int(match[3]))
            parents[depth + 1] = match[2]
    return found


def test_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    classes = {
        name: (value.__base__.__name__, value.exit_code)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.GraftError)
    }
    assert tree_of_docstring() == classes


def test_from_problems_keeps_all_and_prints_the_first() -> None:
    error = errors.DataError.from_problems("data: bad", [f"row {index}" for index in range(25)])
    assert isinstance(error, errors.DataError)
    assert len(error.problems) == 25
    lines = str(error).splitlines()
    assert lines[0] == "data: bad"
    assert lines[1:21] == [f"  - row {index}" for index in range(20)]
    assert lines[21:] == ["  ... and 5 more"]
    first = errors.DataError.from_problems("data: 90 bad", [f"row {index}" for index in range(25)], total=90)
    assert str(first).splitlines()[21:] == ["  ... and 70 more"]


def test_from_problems_prints_twenty_without_a_remainder() -> None:
    assert "more" not in str(errors.DataError.from_problems("t", [str(index) for index in range(20)]))


@pytest.mark.parametrize(("value", "expected"), [("a", "'a'"), (3, "3"), (None, "None"), ([1, 2], "[1, 2]")])
def test_shown_quotes_short_values(value: object, expected: str) -> None:
    assert errors.shown(value) == expected


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(1000)), {"k" * 500: "v" * 500}, b"x" * 1000])
def test_shown_shortens_long_values(value: object) -> None:
    assert len(errors.shown(value)) <= errors.SHOWN_VALUE_CHARACTERS


def test_shown_hides_the_password_of_a_url() -> None:
    text = errors.shown("postgresql://graft:hunter2@db:5432/mlflow")
    assert "hunter2" not in text
    assert text == "'postgresql://graft:***@db:5432/mlflow'"


def test_shown_of_exponentially_nested_value_is_cheap() -> None:
    value: list[object] = ["x"]
    for _ in range(40):
        value = [value] * 10
    assert len(errors.shown(value)) <= errors.SHOWN_VALUE_CHARACTERS  # else it would not end at all
