"""The contract itself: a task's fields and the project's own expectations as one Great Expectations suite.

It runs once per part, on flat frames (``frame``), by one columnar query where that can answer (``scan``). Results name
rows by number, and the frame knows where each row stands. Failing values are shortened and escaped before they reach a
page of the Data Docs, since Great Expectations does not escape them.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any, Literal

from graft.config import nearest
from graft.data import DataConfig, Problem
from graft.errors import ConfigError, shown
from graft.privacy import masked
from graft.privacy.section import PrivacyConfig
from graft.quarantine import in_words
from graft.reading import file_of
from graft.tasks import Field
from graft.validation.frame import FILLED_LISTS, FOREIGN, LISTS, PRIVATE, REFUSED, Frame, columns_of
from graft.validation.scan import Expectation, Result, Scan
from graft.validation.section import Severity, ValidationConfig

REPORTED_PROBLEMS = 10_000
"""How many problems report.json lists at most; it counts them all."""
LISTED_WARNINGS = 1_000
"""How many rows of a split warned.jsonl lists of each expectation that is only reported."""
DOCUMENTED_VALUES = 20
KINDS_IN_WORDS = {
    "encoding": "text without traces of a wrong encoding",
    "markup": "text without traces of a web page",
    "filler": "a text of its own, not filler, a template or a placeholder",
    "markers": "text without markers of a chat format",
}
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
LEARNT = {"$PARAMETER": "labels"}
"""In Great Expectations' words, a value that is given when a suite is run: the training rows' labels, before any row is
read."""
CRITICAL = {"fail": "critical", "quarantine": "warning", "warn": "info"}
"""What Great Expectations calls a severity."""


@dataclass(frozen=True)
class Broken:
    """What one row, or one part, has wrong, and what follows from it."""

    severity: Severity
    problem: Problem


@dataclass(frozen=True)
class Check:
    """One expectation, the field it is about and what a row should have had."""

    type: str
    column: str
    field: str
    expected: str
    settings: Mapping[str, Any] = dataclass_field(default_factory=dict)
    severity: Severity = "fail"
    place: str = ""
    """The path in params.yaml of an expectation of the project's own."""

    @property
    def expectation(self) -> Expectation:
        """The expectation as Great Expectations is told it."""
        column = {"column": self.column} if self.column else {}
        return Expectation(self.type, {**column, **self.settings}, CRITICAL[self.severity])

    @property
    def is_of_labels(self) -> bool:
        """Whether it holds labels to those of the training rows."""
        return self.type == IN_SET and not self.place

    def is_about(self, absent: Collection[str]) -> bool:
        """Say whether it is about what the data has: one of the project's own always is."""
        return bool(self.place) or self.field not in absent

    def build(self) -> Any:
        """Return Great Expectations' object.

        Raises:
            ConfigError: it has no expectation of that name, or not with these arguments.
        """
        from great_expectations.expectations.registry import (
            get_expectation_impl,
            list_registered_expectation_implementations,
        )

        known = list_registered_expectation_implementations()
        if self.type not in known:
            near = nearest(self.type, known, cutoff=0.6)
            advice = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{self.place}.type: great_expectations has no {shown(self.type)}{advice}")
        made = get_expectation_impl(self.type)
        try:
            return made(**self.expectation.kwargs, severity=CRITICAL[self.severity])
        except (TypeError, ValueError) as error:  # pydantic's own is a ValueError
            raise ConfigError(f"{self.place}.kwargs: {_in_short(error, made.__fields__)}") from None


_NOT_ASKED = {"id", "meta", "notes", "severity", "rendered_content", "windows", "batch_id"}
"""Arguments of every expectation that the contract does not take."""


def _in_short(error: Exception, known: Collection[str]) -> str:
    """Return one thing that pydantic (of either version) says is wrong, in one line; ``known`` are the arguments.

    An argument that is unknown comes first: what another one lacks may follow from it.
    """
    found = getattr(error, "errors", None)
    if not callable(found):
        return " ".join(str(error).split())
    first = min(found(), key=lambda one: "extra" not in str(one["type"]))
    name = ".".join(map(str, first["loc"])) or "all together"
    near = nearest(name, sorted({*known} - _NOT_ASKED), cutoff=0.6) if "extra" in str(first["type"]) else None
    return f"{name}: {' '.join(str(first['msg']).split())}{f'; did you mean {near}?' if near else ''}"


def fields_beside(
    fields: Sequence[Field], columns: Mapping[str, Literal["string", "number"]], data: DataConfig | None = None
) -> list[Field]:
    """Return the ``columns`` that the contract adds to the task's ``fields`` (``validation.columns``).

    Raises:
        ConfigError: one has no name, is a field of the task, is called as what is measured of one, or is read by the
            task under another name (``data.columns``).
    """
    known = {column for field in fields for column in (field.name, *columns_of(field))}
    derived = {REFUSED, *(f"{one.name} ({kind})" for one in fields for kind in (*KINDS_IN_WORDS, FOREIGN, PRIVATE))}
    called = {column: name for name, column in (data.columns if data else {}).items()}
    for name in columns:
        if name in known:
            raise ConfigError(f"validation.columns.{name}: the task's own column; expectations name it without that")
        if not name or name in derived:
            raise ConfigError(
                f"validation.columns.{name}: {shown(name)} is no name that a column can have here; rename it in the "
                f"files"
            )
        if data and data.columns.get(name, name) != name:
            advice = "name that column" if name == "id" else "columns that the task does not read keep their names"
            raise ConfigError(
                f"validation.columns.{name}: data.columns reads {shown(name)} from "
                f"{shown(data.columns[name])}; {advice}"
            )
        if name in called and called[name] != "id":
            raise ConfigError(
                f"validation.columns.{name}: is the task's {called[name]} by data.columns; expectations call it "
                f"{called[name]}"
            )
    return [Field(name, type_, required=False, beside=True) for name, type_ in columns.items()]


def checks_of(fields: Sequence[Field], state: Mapping[str, Any], config: ValidationConfig) -> Iterator[Check]:
    """Yield the expectations that follow from the fields, the state and the section."""
    between, of_type = "expect_column_values_to_be_between", "expect_column_values_to_be_of_type"
    severity = config.severity
    fields = (*fields, *fields_beside(fields, config.columns))
    yield Check(between, REFUSED, "", "a row that can be read", {"min_value": 0, "max_value": 0}, severity.readable)
    for field in fields:
        name = field.name
        main = next(columns_of(field))
        yield Check("expect_column_to_exist", main, name, "a column of that name")
        kind = "int64" if field.type in LISTS else {"number": "float64"}.get(field.type, "str")
        yield Check(of_type, main, name, f"a {field.type}", {"type_": kind})
        if field.required:
            yield Check(NOT_NULL, main, name, "a value", {}, severity.missing)
        if field.required and field.type in FILLED_LISTS:
            yield Check(between, main, name, "at least one item", {"min_value": 1}, severity.empty_list)
        if field.text:
            fewest, most = config.min_characters, config.max_characters
            visible = f"at least {in_words(fewest, 'visible character')} (validation.min_characters)"
            column = f"{name} (visible characters)"
            yield Check(between, column, name, visible, {"min_value": fewest}, severity.min_characters)
            longest = f"at most {most} characters (validation.max_characters)"
            yield Check(between, f"{name} (characters)", name, longest, {"max_value": most}, severity.max_characters)
        for kind, words in KINDS_IN_WORDS.items():
            follows = getattr(severity, kind)
            if field.text and follows != "ignore":
                text = f"{words} (validation.severity.{kind})"
                yield Check(between, f"{name} ({kind})", name, text, {"max_value": 0}, follows)
        if field.text and config.languages and severity.language != "ignore":
            text = f"text in {' or '.join(config.languages)} (validation.languages)"
            yield Check(between, f"{name} ({FOREIGN})", name, text, {"max_value": 0}, severity.language)
        if field.text and severity.private_data != "ignore":
            text = "a text without private data (data.privacy; data.clean: [redact] replaces it)"
            yield Check(between, f"{name} ({PRIVATE})", name, text, {"max_value": 0}, severity.private_data)
        if field.text and field.type == "string" and config.placeholders:
            names = {"value_set": list(config.placeholders)}
            text = "a text, not a placeholder for a missing one (validation.placeholders)"
            yield Check("expect_column_values_to_not_be_in_set", name, name, text, names, severity.placeholders)
        if field.type == "label" and state.get("labels"):
            given = state["labels"]
            labels = {"value_set": given if given is LEARNT else list(given)}
            text = f"one of the {'' if given is LEARNT else f'{len(given)} '}labels of the training rows"
            yield Check(IN_SET, name, name, text, labels, severity.labels)
    yield from _own_checks(fields, config)


def _own_checks(fields: Sequence[Field], config: ValidationConfig) -> Iterator[Check]:
    """Yield the project's own expectations."""
    known = {column: field.name for field in fields for column in columns_of(field)}
    for number, one in enumerate(config.expectations):
        place, settings = f"validation.expectations.{number}", dict(one.kwargs)
        named = {name: value for name, value in settings.items() if name == "column" or name.startswith("column_")}
        for name, column in named.items():
            for asked in column if isinstance(column, list) else [column]:
                if isinstance(asked, str) and name != "column_set" and asked not in known:
                    raise ConfigError(
                        f"{place}.kwargs.{name}: no column {shown(asked)}; there are {', '.join(known)}; of other "
                        f"columns of the files validation.columns says the type ({{{asked}: string}})"
                    )
        column = settings.pop("column", "")
        said = _in_words(one.type, settings)
        yield Check(one.type, column, known.get(column, ""), said, settings, one.severity, place)


def _refuse_columns_of_files(config: ValidationConfig, data: DataConfig) -> None:
    """Refuse an expectation that names a column as the files call it, not as the task does.

    Raises:
        ConfigError: there is one.
    """
    called = {column: name for name, column in data.columns.items() if column != name and column not in data.columns}
    for number, one in enumerate(config.expectations):
        column = one.kwargs.get("column")
        if isinstance(column, str) and column in called:
            raise ConfigError(
                f"validation.expectations.{number}.kwargs.column: {shown(column)} is called {shown(called[column])} "
                f"here, by data.columns; write `column: {called[column]}`"
            )


def _in_words(type_: str, settings: Mapping[str, Any]) -> str:
    """Return what an expectation asks for, from its own name: ``values to match regex: regex '^a'``."""
    words = re.sub("^expect_(column_|table_)?", "", type_).replace("_", " ")
    return f"{words}: {', '.join(f'{name} {shown(value)}' for name, value in settings.items())}" if settings else words


def asked_checks(fields: Sequence[Field], state: Mapping[str, Any], config: ValidationConfig) -> list[Check]:
    """Return the expectations that something follows from."""
    return [check for check in checks_of(fields, state, config) if check.severity != "ignore"]


def refuse_wrong(checks: Sequence[Check]) -> None:
    """Refuse expectations of the project's own that Great Expectations does not have, or not with these arguments.

    Raises:
        ConfigError: one is wrong, or cannot keep rows aside.
    """
    for check in checks:
        if check.place and not answers_by_row(check.build()) and check.severity == "quarantine":
            raise ConfigError(
                f"{check.place}.severity: {check.type} says nothing of single rows, which alone can go into "
                f"quarantine; set fail or warn"
            )


def answers_by_row(expectation: Any) -> bool:
    """Say whether an expectation names the rows that fail it."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )

    return isinstance(expectation, ColumnMapExpectation | ColumnPairMapExpectation | MulticolumnMapExpectation) and (
        expectation.expectation_type not in _OF_COLUMNS
    )


_OF_COLUMNS = ("expect_column_to_exist", "expect_column_values_to_be_of_type")


class Contract:
    """The suite that each part is held to."""

    def __init__(
        self, fields: Sequence[Field], state: Mapping[str, Any], data: DataConfig, config: ValidationConfig
    ) -> None:
        """Compile the contract.

        Raises:
            ConfigError: an expectation of the project's own is none of Great Expectations', or does not fit the fields.
        """
        self.fields = (*fields, *fields_beside(fields, config.columns, data))
        """Those of the task, and the columns that ``validation.columns`` names."""
        self.data, self.config = data, config
        _refuse_columns_of_files(config, data)
        self.checks = asked_checks(fields, state, config)
        refuse_wrong(self.checks)
        self.scan = Scan([check.expectation for check in self.checks], self.asked)

    def frame(self) -> Frame:
        """Return an empty frame with the columns that the suite is about."""
        privacy = self.data.privacy
        ignored = self.config.severity.private_data == "ignore"
        asked, placeholders = None if ignored else privacy, self.config.placeholders
        return Frame(self.fields, asked, self.config.languages, placeholders, hides=privacy)

    @cached_property
    def _source(self) -> Any:
        """Great Expectations' source of data frames."""
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context: Any = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        return context.data_sources.add_pandas("data")

    def asked(self, frame: Any, expectations: Sequence[Expectation], most: int) -> list[Result]:
        """Return Great Expectations' own results, in the order of ``expectations``."""
        import great_expectations as gx
        from great_expectations.exceptions import GreatExpectationsError
        from great_expectations.expectations.registry import get_expectation_impl

        built = [get_expectation_impl(one.type)(**one.kwargs, severity=one.severity) for one in expectations]
        name = f"frame {len(self._source.assets)}"
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        try:
            found = batch.get_batch(batch_parameters={"dataframe": frame}).validate(
                gx.ExpectationSuite(name="rest", expectations=built),
                result_format={"result_format": "SUMMARY", "partial_unexpected_count": most},
            )
        except GreatExpectationsError as error:
            places = [check.place for check in self.checks if check.place and check.expectation in expectations]
            raise ConfigError(f"{', '.join(places)}: great_expectations cannot evaluate this: {error}") from None
        by_key = {_key(one.expectation_config): one for one in found.results}
        results = [_plain(by_key[_key(one.configuration)].to_json_dict()) for one in built]
        for one in results:
            one["result"] = _observed(one["result"])
            one["expectation_config"].pop("id", None)
            one["expectation_config"]["kwargs"]["batch_id"] = "rows"
        return results

    def check(self, frame: Frame) -> tuple[list[Broken], list[int], dict[str, Any]]:
        """Run the whole suite on a part.

        Returns:
            What each row that fails has wrong; how many rows fail each check; the result in Great Expectations' form,
            where the labels of the training rows are the parameter :data:`LEARNT`.
        """
        # Each row that goes aside has to be named; of the others nobody reads so many.
        goes_aside = any(check.severity == "quarantine" for check in self.checks)
        most = max(REPORTED_PROBLEMS, len(frame.places) if goes_aside else 0)
        results = self.scan.results(frame.table(), most)
        self._count_missing(results, frame)
        broken = [each for number, one in enumerate(results) for each in self._problems(number, one, frame)]
        failed = [0 if one["success"] else one["result"].get("unexpected_count") or 1 for one in results]
        for check, one in zip(self.checks, results, strict=True):
            _redact(one, self.data.privacy)
            if check.is_of_labels:
                one["expectation_config"]["kwargs"]["value_set"] = LEARNT
        results = [one for check, one in zip(self.checks, results, strict=True) if check.is_about(frame.absent())]
        passed = sum(one["success"] for one in results)
        statistics = {
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100 * passed / len(results),
        }
        found = {"success": passed == len(results), "statistics": statistics, "results": results}
        return broken, failed, found

    def _count_missing(self, results: Sequence[Result], frame: Frame) -> None:
        """Let the results about missing values count rows that lack a value, not all that could not be read.

        A refused row has no values here, whatever it was refused for.
        """
        if not frame.refused:
            return
        for check, one in zip(self.checks, results, strict=True):
            if check.type != NOT_NULL:
                continue
            others = frame.refused - frame.missing[self.data.columns.get(check.field, check.field)]
            values = zip(frame.places, frame.columns[check.column], strict=True)
            rows = [row for row, (place, value) in enumerate(values) if value is None and place not in others]
            counted = len(frame.places) - len(others)
            one["success"] = not counted or (counted - len(rows)) / counted >= check.settings.get("mostly", 1)
            one["result"] |= {
                "unexpected_count": len(rows),
                "unexpected_percent": 100 * len(rows) / len(frame.places),
                "partial_unexpected_list": [None] * len(rows),
                "partial_unexpected_counts": [{"value": None, "count": len(rows)}] if rows else [],
                "partial_unexpected_index_list": rows,
            }

    def _problems(self, number: int, one: Result, frame: Frame) -> Iterator[Broken]:
        check, result = self.checks[number], one["result"]
        if reason := _exception(one):
            reason = self.data.privacy.in_message(reason)
            if check.place:
                raise ConfigError(f"{check.place}: great_expectations cannot evaluate {check.type}: {reason}")
            raise RuntimeError(f"great_expectations cannot evaluate {check}: {reason}")
        if one["success"]:
            return
        rows = result.get("partial_unexpected_index_list") or []
        column = self.data.columns.get(check.field, check.field)
        for row, given in zip(rows, result.get("partial_unexpected_list") or [None] * len(rows), strict=True):
            value = given if isinstance(given, str) else _without_private(given, self.data.privacy)
            found = frame.said.get((check.column, row)) or _as_found(check, value)
            yield Broken(check.severity, Problem(frame.places[row], column, check.expected, found))
        if not rows:
            place = file_of(frame.places[0])
            observed = shown(_without_private(result.get("observed_value"), self.data.privacy))
            yield Broken(check.severity, Problem(place, column, check.expected, observed, of_part=True))


def _key(config: Any) -> str:
    """Return what tells expectations apart, whatever batch they were run on."""
    kwargs = {name: value for name, value in config.kwargs.items() if name != "batch_id"}
    return json.dumps([config.type, kwargs], sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """Return a result without numpy's scalars, which JSON does not know and people do not read."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _observed(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result; one on a whole column that lists distinct values, which are no rows', as what was observed.

    Great Expectations' pages cannot show it as it is: its values are unexpected, and of no share of the rows.
    """
    lists = {"unexpected": "partial_unexpected_list", "missing": "partial_missing_list"}
    if "observed_value" not in result or result["observed_value"] is not None:
        return dict(result)
    values = {word: result[name] for word, name in lists.items() if result.get(name)}
    return {"observed_value": values} if values and "partial_unexpected_index_list" not in result else dict(result)


def _exception(one: Result) -> str | None:
    """Return why an expectation could not be evaluated; Great Expectations says so in one of two forms."""
    info = one.get("exception_info") or {}
    found = [info] if "raised_exception" in info else [each for each in info.values() if isinstance(each, dict)]
    return next((str(each["exception_message"]) for each in found if each.get("raised_exception")), None)


def _as_found(check: Check, value: Any) -> str:
    if value is None:
        return "nothing"
    if check.column == check.field:
        return shown(value)
    thing = _COUNTED.search(check.column)
    return in_words(value, thing[1]) if thing else f"{value} of them"


_COUNTED = re.compile(r"\((visible character|character|item)s\)$")
"""What a derived column counts."""


def _redact(one: Result, privacy: PrivacyConfig) -> None:
    """Shorten what a result shows of failing rows, and leave out what is private in it."""
    result = one["result"]
    values = (result.get("partial_unexpected_list") or [])[:DOCUMENTED_VALUES]
    values = [_short(_without_private(value, privacy)) for value in values]
    if values:
        counts = Counter(values)
        result["partial_unexpected_counts"] = [{"value": value, "count": counts[value]} for value in counts]
        result["partial_unexpected_list"] = values
        result["partial_unexpected_index_list"] = result["partial_unexpected_index_list"][:DOCUMENTED_VALUES]
    one["result"] = _without_private(result, privacy)


def _without_private(value: Any, privacy: PrivacyConfig) -> Any:
    """Return a value, or lists and mappings of values, with the kind of what is private in place of it."""
    if isinstance(value, str):
        return masked(value, privacy.find(value))
    if isinstance(value, Mapping):
        return {_without_private(key, privacy): _without_private(one, privacy) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_private(one, privacy) for one in value]
    return _number_masked(value, privacy)


def _number_masked(value: Any, privacy: PrivacyConfig) -> Any:
    """Return a value, or the kind of a whole number that is private, such as a card's in a column of numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) < SMALLEST_PRIVATE:
        return value
    text = str(int(value)) if math.isfinite(value) and value == int(value) else ""
    found = privacy.find(text) if text else []
    return masked(text, found) if found else value


SMALLEST_PRIVATE = 10_000_000
"""No smaller number is private: counts of rows need not be looked at."""


def _short(value: Any) -> Any:
    """Return what a page may show of a failing value; those of several columns as one text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{html.escape(str(name))}: {_short(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_short(one)) for one in value)
    if not isinstance(value, str):
        return value
    return html.escape(value if len(value) <= 8 else f"{value[:4]}… ({len(value)} characters)")
