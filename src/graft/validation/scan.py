"""A Great Expectations suite over columns in one pass: what a columnar engine can answer, the rest handed on.

Great Expectations' pandas engine hashes the whole frame for each batch and asks one question after the other. Here the
expectations that have a columnar form become expressions of one polars query, which is read once; only failing rows are
looked at again. Results are Great Expectations' own as JSON, so that its pages show them, with its own numbers:
``tests/test_scan.py`` holds both against each other. What has no form here (another type, an option such as
``row_condition``, a set of mixed types) runs in Great Expectations, which is imported only then.
"""

# ruff: noqa: ARG001  (all makers of plans have one signature)

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

Settings = Mapping[str, Any]
Result = dict[str, Any]
"""``ExpectationValidationResult.to_json_dict()`` of Great Expectations."""
PLAIN = frozenset({"column", "mostly"})
"""Settings that every expectation on the values of a column may have."""


@dataclass(frozen=True)
class Expectation:
    """An expectation by Great Expectations' name and its arguments."""

    type: str
    kwargs: Mapping[str, Any]
    severity: str = "critical"
    """Great Expectations' word for what follows."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that say something, without those that are the default anyway."""
        return {
            name: value
            for name, value in self.kwargs.items()
            if value is not None
            and not (name == "mostly" and value == 1)
            and not (name.startswith("strict_") and not value)
        }

    def result(self, success: bool, found: Mapping[str, Any]) -> Result:
        """Return a result in Great Expectations' form."""
        config = {
            "type": self.type,
            "kwargs": {"batch_id": "rows", **self.kwargs},
            "meta": {},
            "severity": self.severity,
        }
        nothing = {"raised_exception": False, "exception_traceback": None, "exception_message": None}
        return {
            "success": bool(success),
            "expectation_config": config,
            "result": dict(found),
            "meta": {},
            "exception_info": nothing,
        }


class Scan:
    """Expectations, sorted into those of the query, those of the schema and those of Great Expectations."""

    def __init__(
        self,
        expectations: Sequence[Expectation],
        rest: Callable[[Any, Sequence[Expectation], int], Sequence[Result]],
    ) -> None:
        """``rest`` runs expectations on a pandas frame in Great Expectations and returns its results, in their order.

        Its last argument is how many failing rows a result names at most.
        """
        self.expectations = list(expectations)
        self._rest = rest
        self._plans: dict[tuple[tuple[str, str], ...], dict[int, Plan]] = {}

    def results(self, table: pl.DataFrame, most: int) -> list[Result]:
        """Return a result for each expectation, in their order, each with ``most`` failing rows at most."""
        import polars as pl

        # Great Expectations takes the NaN of a float column for a missing value.
        table = table.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
        known = _of_schema(self.expectations, table.schema)
        known |= _asked(table, self.expectations, self._planned(table), most)
        left = [number for number in range(len(self.expectations)) if number not in known]
        if left:
            found = self._rest(as_pandas(table), [self.expectations[number] for number in left], most)
            known |= dict(zip(left, found, strict=True))
        return [known[number] for number in range(len(self.expectations))]

    def _planned(self, table: pl.DataFrame) -> dict[int, Plan]:
        """Return the plans by number; parts of one data set have the same."""
        key = tuple((name, str(kind)) for name, kind in table.schema.items())
        if key not in self._plans:
            numbered = enumerate(self.expectations)
            self._plans[key] = {
                number: plan for number, one in numbered if (plan := planned(one, table.schema)) is not None
            }
        return self._plans[key]


def _of_schema(expectations: Sequence[Expectation], schema: Mapping[str, Any]) -> dict[int, Result]:
    """Return what the names and types of columns answer where they are as expected; else it is not for us to say."""
    found = {}
    for number, one in enumerate(expectations):
        kind = _PANDAS_TYPES.get(str(schema.get(one.settings.get("column", ""))))
        if kind is None:
            continue
        if one.type == "expect_column_to_exist" and one.settings.keys() == {"column"}:
            found[number] = one.result(True, {})
        if one.type == "expect_column_values_to_be_of_type" and one.settings.get("type_") == kind:
            found[number] = one.result(True, {"observed_value": kind})
    return found


_PANDAS_TYPES = {"String": "str", "Int64": "int64", "Float64": "float64"}
"""Type of a column here -> its name in Great Expectations."""


def as_pandas(table: pl.DataFrame) -> Any:
    """Return the table as pandas holds it: text as ``str``, whole numbers that may be missing as ``Int64``."""
    import pandas as pd
    import polars as pl

    types: dict[Any, str] = {pl.String: "str", pl.Int64: "Int64", pl.Float64: "float64", pl.Boolean: "boolean"}
    return pd.DataFrame(
        {name: pd.Series(table[name].to_arrow(), dtype=types.get(table[name].dtype)) for name in table.columns}
    )


# -- plans: an expectation as an expression


@dataclass(frozen=True)
class Plan:
    """How an expectation is asked: an expression of the query, and what its answer means."""

    expression: pl.Expr
    by_row: bool
    """Whether the expression says of each row that it fails; else it gives the one value that is observed."""
    counts_missing: bool = False
    """Whether missing values are what it is about; else they are left out, and counted apart."""

    def failing(self, column: str) -> pl.Expr:
        """Return the expression by row, False where nothing is asked."""
        import polars as pl

        if self.counts_missing:
            return self.expression
        return (self.expression & pl.col(column).is_not_null()).fill_null(False)


def planned(expectation: Expectation, schema: Mapping[str, Any]) -> Plan | None:
    """Return the plan of an expectation on a table of that schema; None where Great Expectations is to be asked."""
    settings = expectation.settings
    maker = _BY_ROW.get(expectation.type) or _BY_TABLE.get(expectation.type)
    if maker is None or not settings.keys() <= maker.known or any(isinstance(one, dict) for one in settings.values()):
        return None
    column = settings.get("column")
    if column is not None and column not in schema:
        return None
    return maker.make(settings, None if column is None else schema[column])


@dataclass(frozen=True)
class _Maker:
    known: frozenset[str]
    make: Callable[[Settings, Any], Plan | None]


def _numeric(kind: Any) -> bool:
    return bool(kind is not None and kind.is_numeric())


def _missing(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    return Plan(pl.col(settings["column"]).is_null(), by_row=True, counts_missing=True)


def _null(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    return Plan(pl.col(settings["column"]).is_not_null(), by_row=True, counts_missing=True)


def _between(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    if not _numeric(kind):
        return None
    return _bounded(pl.col(settings["column"]), settings)


def _bounded(value: pl.Expr, settings: Settings) -> Plan | None:
    import polars as pl

    low, high = settings.get("min_value"), settings.get("max_value")
    if not all(one is None or _is_number(one) for one in (low, high)):
        return None
    bad = pl.lit(False)
    if low is not None:
        bad = bad | (value <= low if settings.get("strict_min") else value < low)
    if high is not None:
        bad = bad | (value >= high if settings.get("strict_max") else value > high)
    return Plan(bad, by_row=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _in_set(wanted: bool) -> Callable[[Settings, Any], Plan | None]:
    def make(settings: Settings, kind: Any) -> Plan | None:
        import polars as pl

        values = list(settings["value_set"])
        if not values or not _same_type(values, kind):
            return None
        found = pl.col(settings["column"]).is_in(values)
        return Plan(~found if wanted else found, by_row=True)

    return make


def _same_type(values: Sequence[Any], kind: Any) -> bool:
    import polars as pl

    types = {pl.String: str, pl.Int64: int}
    wanted = types.get(kind)
    return wanted is not None and all(type(value) is wanted for value in values)


def _lengths(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    if kind != pl.String:
        return None
    length = pl.col(settings["column"]).str.len_chars()
    if "value" in settings:
        return Plan(length != settings["value"], by_row=True) if _is_number(settings["value"]) else None
    return _bounded(length.cast(pl.Int64), settings)


def _regex(wanted: bool) -> Callable[[Settings, Any], Plan | None]:
    def make(settings: Settings, kind: Any) -> Plan | None:
        import polars as pl

        pattern = settings["regex"]
        if kind != pl.String or not isinstance(pattern, str) or not _can_search(pattern):
            return None

        def bad(values: pl.Series) -> pl.Series:
            found = _search(values.to_arrow(), pattern)
            return pl.Series(~found if wanted else found)

        return Plan(pl.col(settings["column"]).map_batches(bad, return_dtype=pl.Boolean), by_row=True)

    return make


def _search(values: Any, pattern: str) -> Any:
    """Return which texts have the pattern: bool [N].

    By pandas' own search, which Great Expectations uses: engines differ in what a pattern means.
    """
    import pandas as pd

    return pd.Series(values, dtype="str").str.contains(pattern).fillna(False).to_numpy(dtype=bool)


def _can_search(pattern: str) -> bool:
    """Say whether a pattern is one; what is wrong with it is Great Expectations' to say."""
    import pyarrow as pa

    try:
        _search([""], pattern)
    except (ValueError, re.error, pa.ArrowInvalid):
        return False
    return True


def _unique(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    return Plan(pl.col(settings["column"]).is_duplicated(), by_row=True)


def _observed(expression: Callable[[pl.Expr], pl.Expr]) -> Callable[[Settings, Any], Plan | None]:
    def make(settings: Settings, kind: Any) -> Plan | None:
        import polars as pl

        if not _numeric(kind):
            return None
        return Plan(expression(pl.col(settings["column"])), by_row=False)

    return make


def _distinct(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    return Plan(pl.col(settings["column"]).drop_nulls().n_unique().cast(pl.Int64), by_row=False)


def _rows(settings: Settings, kind: Any) -> Plan | None:
    import polars as pl

    return Plan(pl.len().cast(pl.Int64), by_row=False)


BOUNDS = frozenset({"min_value", "max_value", "strict_min", "strict_max"})
_BY_ROW = {
    "expect_column_values_to_not_be_null": _Maker(PLAIN, _missing),
    "expect_column_values_to_be_null": _Maker(PLAIN, _null),
    "expect_column_values_to_be_between": _Maker(PLAIN | BOUNDS, _between),
    "expect_column_values_to_be_in_set": _Maker(PLAIN | {"value_set"}, _in_set(True)),
    "expect_column_values_to_not_be_in_set": _Maker(PLAIN | {"value_set"}, _in_set(False)),
    "expect_column_value_lengths_to_be_between": _Maker(PLAIN | BOUNDS, _lengths),
    "expect_column_value_lengths_to_equal": _Maker(PLAIN | {"value"}, _lengths),
    "expect_column_values_to_match_regex": _Maker(PLAIN | {"regex"}, _regex(True)),
    "expect_column_values_to_not_match_regex": _Maker(PLAIN | {"regex"}, _regex(False)),
    "expect_column_values_to_be_unique": _Maker(PLAIN, _unique),
}
_BY_TABLE = {
    "expect_column_min_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.min())),
    "expect_column_max_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.max())),
    "expect_column_mean_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.mean())),
    "expect_column_median_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.median())),
    "expect_column_stdev_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.std())),
    "expect_column_sum_to_be_between": _Maker(PLAIN | BOUNDS, _observed(lambda one: one.sum())),
    "expect_column_unique_value_count_to_be_between": _Maker(PLAIN | BOUNDS, _distinct),
    "expect_table_row_count_to_be_between": _Maker(BOUNDS, _rows),
    "expect_table_row_count_to_equal": _Maker(frozenset({"value"}), _rows),
}
COMPILED = frozenset({*_BY_ROW, *_BY_TABLE})
"""The expectation types that the query answers, on columns of text and numbers."""


# -- the query and its answers


def _asked(
    table: pl.DataFrame, expectations: Sequence[Expectation], plans: Mapping[int, Plan], most: int
) -> dict[int, Result]:
    import polars as pl

    if not plans:
        return {}
    asked, columns = [], set()
    for number, plan in plans.items():
        value = plan.expression
        if plan.by_row:
            column = expectations[number].settings["column"]
            columns.add(column)
            value = plan.failing(column).sum()
        asked.append(value.alias(str(number)))
    nulls = [pl.col(name).null_count().alias(f"nulls {name}") for name in sorted(columns)]
    [answers] = table.lazy().select(asked + nulls).collect().to_dicts()
    found = {}
    for number, plan in plans.items():
        expectation, answer = expectations[number], answers[str(number)]
        if plan.by_row:
            missing = answers[f"nulls {expectation.settings['column']}"]
            found[number] = _row_result(table, expectation, plan, answer or 0, missing, most)
        else:
            found[number] = _table_result(expectation, answer)
    return found


def _row_result(
    table: pl.DataFrame, expectation: Expectation, plan: Plan, failed: int, missing: int, most: int
) -> Result:
    """Return the result of an expectation on each value, as Great Expectations puts it."""
    column, rows = expectation.settings["column"], len(table)
    checked = rows if plan.counts_missing else rows - missing
    places: list[int] = []
    values: list[Any] = []
    if failed:
        chosen = table.select(plan.failing(column).arg_true().head(most)).to_series()
        places, values = chosen.to_list(), table[column].gather(chosen).to_list()
    passed = checked == 0 or (checked - failed) / checked >= expectation.settings.get("mostly", 1)
    counts = Counter(values)
    result: dict[str, Any] = {
        "element_count": rows,
        "unexpected_count": failed,
        "unexpected_percent": _percent(failed, checked),
        "partial_unexpected_list": values,
    }
    if not plan.counts_missing:
        result |= {
            "missing_count": missing,
            "missing_percent": _percent(missing, rows),
            "unexpected_percent_total": _percent(failed, rows),
            "unexpected_percent_nonmissing": _percent(failed, checked),
        }
    result["partial_unexpected_counts"] = [{"value": one, "count": count} for one, count in counts.most_common()]
    result["partial_unexpected_index_list"] = places
    return expectation.result(passed, result)


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _table_result(expectation: Expectation, observed: Any) -> Result:
    settings = expectation.settings
    if "value" in settings:
        return expectation.result(observed == settings["value"], {"observed_value": observed})
    low, high = settings.get("min_value"), settings.get("max_value")
    over = low is None or (observed is not None and (observed > low if settings.get("strict_min") else observed >= low))
    under = high is None or (
        observed is not None and (observed < high if settings.get("strict_max") else observed <= high)
    )
    return expectation.result(over and under, {"observed_value": observed})
