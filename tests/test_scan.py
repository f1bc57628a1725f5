"""One columnar pass against Great Expectations itself: the same verdicts, counts and rows for every type it answers."""

import math
from collections import Counter
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.data import DataConfig
from graft.validation import ValidationConfig
from graft.validation.contract import Check, Contract, answers_by_row
from graft.validation.scan import COMPILED, Expectation, Scan, as_pandas, planned

MOST = 50


@pytest.fixture(scope="module")
def asked() -> Any:
    """Return what runs expectations in Great Expectations."""
    return Contract((), {}, DataConfig(), ValidationConfig()).asked


def plain(value: Any) -> Any:
    """Return a result with one form for what Great Expectations writes in several: NaN and null, 1 and "1"."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if pd.isna(value):
        return None
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def nearly(value: Any) -> Any:
    """Return a result whose numbers may differ by rounding."""
    if isinstance(value, dict):
        return {name: nearly(one) for name, one in value.items()}
    return pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value


def compare(table: pl.DataFrame, expectations: list[Any], asked: Any) -> None:
    found = Scan(expectations, asked).results(table, MOST)
    expected = asked(as_pandas(table), expectations, MOST)
    for one, other in zip(found, expected, strict=True):
        assert one["expectation_config"] == other["expectation_config"]
        assert one["success"] == other["success"], (one, other)
        mine, theirs = dict(one["result"]), dict(other["result"])
        # Counts of equal values come in no stated order, and one by one for missing ones.
        for result in (mine, theirs):
            counts: Counter[str] = Counter()
            for each in result.pop("partial_unexpected_counts", []):
                counts[str(plain(each["value"]))] += each["count"]
            result["counts"] = dict(counts)
        assert nearly(plain(mine)) == plain(theirs), one["expectation_config"]


NUMBERS = {
    "n": st.lists(st.none() | st.integers(-5, 5), min_size=1, max_size=12),
    "f": st.lists(st.none() | st.floats(-5, 5, allow_nan=False) | st.just(math.inf), min_size=1, max_size=12),
}
TEXTS = st.lists(st.none() | st.text("ab1.\u00e9\u4e2d \n", max_size=4), min_size=1, max_size=12)
BOUNDS = [
    {"min_value": 0},
    {"max_value": 2},
    {"min_value": -1, "max_value": 3, "strict_min": True, "strict_max": True},
    {"min_value": 1, "max_value": 2, "mostly": 0.5},
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *[("expect_column_values_to_be_between", {"column": name, **bounds}) for name in "nf" for bounds in BOUNDS],
    *[("expect_column_values_to_not_be_null", {"column": name}) for name in "nft"],
    ("expect_column_values_to_not_be_null", {"column": "t", "mostly": 0.7}),
    *[("expect_column_values_to_be_null", {"column": name}) for name in "nft"],
    *[("expect_column_values_to_be_unique", {"column": name}) for name in "nt"],
    ("expect_column_values_to_be_in_set", {"column": "n", "value_set": [0, 1, 2]}),
    ("expect_column_values_to_be_in_set", {"column": "t", "value_set": ["a", "ab", ""]}),
    ("expect_column_values_to_not_be_in_set", {"column": "t", "value_set": ["a", "b"], "mostly": 0.5}),
    *[("expect_column_value_lengths_to_be_between", {"column": "t", **bounds}) for bounds in BOUNDS],
    ("expect_column_value_lengths_to_equal", {"column": "t", "value": 2}),
    *[
        ("expect_column_values_to_match_regex", {"column": "t", "regex": one})
        for one in ("^a", "b$", "\\s", "\u4e2d|1")
    ],
    ("expect_column_values_to_not_match_regex", {"column": "t", "regex": "[a-b]{2}"}),
    *[
        (f"expect_column_{name}_to_be_between", {"column": column, "min_value": 0, "max_value": 3})
        for name in ("min", "max", "mean", "median", "stdev", "sum")
        for column in "n"
    ],
    ("expect_column_unique_value_count_to_be_between", {"column": "t", "max_value": 3}),
    ("expect_table_row_count_to_be_between", {"min_value": 2, "max_value": 9}),
    ("expect_table_row_count_to_equal", {"value": 5}),
]


def test_every_type_that_the_query_answers_is_compared() -> None:
    assert {kind for kind, _ in CASES} == COMPILED


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(numbers=NUMBERS["n"], floats=NUMBERS["f"], texts=TEXTS)
def test_verdicts_counts_and_rows_are_those_of_great_expectations(
    numbers: list[int | None], floats: list[float | None], texts: list[str | None], asked: Any
) -> None:
    size = min(len(numbers), len(floats), len(texts))
    table = pl.DataFrame(
        {
            "n": pl.Series(numbers[:size], dtype=pl.Int64),
            "f": pl.Series(floats[:size], dtype=pl.Float64),
            "t": pl.Series(texts[:size], dtype=pl.String),
        }
    )
    if sum(one is not None for one in numbers[:size]) < 2:
        return  # Great Expectations has no deviation, and an error for the mean, of nothing
    expectations = [Expectation(kind, kwargs) for kind, kwargs in CASES]
    assert all(planned(one, table.schema) for one in expectations)
    compare(table, expectations, asked)


HANDED_ON: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_to_exist", {"column": "t"}),
    ("expect_column_values_to_be_of_type", {"column": "t", "type_": "str"}),
    ("expect_column_values_to_be_of_type", {"column": "n", "type_": "str"}),
    ("expect_column_values_to_be_in_set", {"column": "f", "value_set": [1.0, 2]}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "n", "column_B": "f"}),
    ("expect_column_most_common_value_to_be_in_set", {"column": "t", "value_set": ["a"]}),
    (
        "expect_column_values_to_be_between",
        {"column": "n", "min_value": 0, "row_condition": 't=="a"', "condition_parser": "pandas"},
    ),
]


def test_other_expectations_are_handed_on(asked: Any) -> None:
    table = pl.DataFrame({"n": [1, -2, None], "f": [0.5, 9.0, 1.0], "t": ["a", "a", "b"]})
    expectations = [Expectation(kind, kwargs) for kind, kwargs in HANDED_ON]
    assert not any(planned(one, table.schema) for one in expectations)
    compare(table, expectations, asked)


def test_names_and_types_that_are_as_expected_need_no_other_engine(asked: Any) -> None:
    def rest(frame: Any, expectations: Any, most: int) -> list[Any]:
        raise AssertionError("asked")

    table = pl.DataFrame({"n": [1, None], "f": [0.5, 9.0], "t": ["a", "b"]})
    kinds = {"n": "int64", "f": "float64", "t": "str"}
    expectations = [
        Expectation(kind, {"column": name, **more})
        for name, type_ in kinds.items()
        for kind, more in (
            ("expect_column_to_exist", {}),
            ("expect_column_values_to_be_of_type", {"type_": type_}),
        )
    ]
    assert len(Scan(expectations, rest).results(table, MOST)) == 6
    compare(table, expectations, asked)


def test_no_more_rows_are_named_than_asked_for(asked: Any) -> None:
    table = pl.DataFrame({"a": list(range(1000))})
    [one] = Scan([Expectation("expect_column_values_to_be_between", {"column": "a", "max_value": 9})], asked).results(
        table, 7
    )
    assert one["result"]["unexpected_count"] == 990
    assert one["result"]["partial_unexpected_index_list"] == list(range(10, 17))


def test_only_expectations_on_values_name_rows() -> None:
    def says(kind: str, kwargs: dict[str, Any]) -> bool:
        return answers_by_row(Check(kind, "", "", "", kwargs).build())

    assert [says(*case) for case in CASES] == ["_values_" in kind or "_value_lengths_" in kind for kind, _ in CASES]
    assert not says("expect_column_values_to_be_of_type", {"column": "t", "type_": "str"})
