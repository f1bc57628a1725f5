"""The contract itself: a task's fields and the project's own expectations as one Great Expectations suite.

It runs once per part, on flat frames (``frame``), by one columnar query where that can answer (``scan``). Results name
rows by number, and the frame knows where each row stands. Failing values are shortened and escaped before they reach a
page of the Data Docs (Great Expectations does not escape them), and pages are the same bytes in every run.
"""

from __future__ import annotations

import datetime
import functools
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from graft.config import nearest
from graft.data import DataConfig, Problem
from graft.errors import ConfigError, shown
from graft.privacy import find
from graft.reading import file_of
from graft.tasks import Field
from graft.validation.frame import EARLIER, FILLED_LISTS, FOREIGN, LISTS, PRIVATE, REFUSED, Frame, columns_of
from graft.validation.pages import settle
from graft.validation.scan import Scan, answers_by_row
from graft.validation.section import Severity, ValidationConfig

REPORTED_PROBLEMS = 10_000
"""How many problems report.json lists at most; it counts them all."""
DOCUMENTED_PARTS = 50
"""How many parts get a page in the Data Docs; refused ones come first."""
DOCUMENTED_VALUES = 20
KINDS_IN_WORDS = {
    "encoding": "text without traces of a wrong encoding",
    "markup": "text without traces of a web page",
    "filler": "a text of its own, not filler, a template or a placeholder",
    "markers": "text without markers of a chat format",
}
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
        try:
            return get_expectation_impl(self.type)(**self._arguments, severity=CRITICAL[self.severity])
        except (TypeError, ValueError) as error:  # pydantic's own is a ValueError
            raise ConfigError(f"{self.place}.kwargs: {_in_short(error)}") from None

    @property
    def _arguments(self) -> dict[str, Any]:
        return {**({"column": self.column} if self.column else {}), **self.settings}


def _in_short(error: Exception) -> str:
    """Return the first thing that pydantic (of either version) says is wrong, in one line."""
    found = getattr(error, "errors", None)
    if not callable(found):
        return " ".join(str(error).split())
    first = found()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'all together'}: {' '.join(str(first['msg']).split())}"


def checks_of(fields: Sequence[Field], state: Mapping[str, Any], config: ValidationConfig) -> Iterator[Check]:
    """Yield the expectations that follow from the fields, the state and the section."""
    between, of_type = "expect_column_values_to_be_between", "expect_column_values_to_be_of_type"
    severity = config.severity
    nothing = {"min_value": 0, "max_value": 0}
    yield Check(between, REFUSED, "", "a row that can be read", nothing, severity.readable)
    for field in fields:
        name = field.name
        main = next(columns_of(field))
        yield Check("expect_column_to_exist", main, name, "a column of that name")
        kind = "int64" if field.type in LISTS else {"number": "float64"}.get(field.type, "str")
        yield Check(of_type, main, name, f"a {field.type}", {"type_": kind})
        if field.required:
            yield Check("expect_column_values_to_not_be_null", main, name, "a value", {}, severity.missing)
        if field.required and field.type in FILLED_LISTS:
            yield Check(between, main, name, "at least one item", {"min_value": 1}, severity.empty_list)
        if field.text:
            fewest, most = config.min_characters, config.max_characters
            visible = f"at least {fewest} visible characters (validation.min_characters)"
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
            column, text = f"{name} ({PRIVATE})", "a text without private data (validation.privacy)"
            yield Check(between, column, name, text, {"max_value": 0}, severity.private_data)
        if field.text and field.type == "string" and config.placeholders:
            names = {"value_set": list(config.placeholders)}
            text = "a text, not a placeholder for a missing one (validation.placeholders)"
            yield Check("expect_column_values_to_not_be_in_set", name, name, text, names, severity.placeholders)
        if field.type == "label" and state.get("labels"):
            labels = {"value_set": list(state["labels"])}
            text = f"one of the {len(state['labels'])} labels of the training rows"
            yield Check("expect_column_values_to_be_in_set", name, name, text, labels, severity.labels)
    if config.unique_ids:
        yield Check(between, EARLIER, "id", "an id that no other row has", nothing, severity.unique_ids)
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
                    columns = ", ".join(known)
                    raise ConfigError(f"{place}.kwargs.{name}: no column {shown(asked)}; there are {columns}")
        column = settings.pop("column", "")
        check = Check(
            one.type, column, known.get(column, ""), _in_words(one.type, settings), settings, one.severity, place
        )
        if one.severity == "quarantine" and not answers_by_row(check.build()):
            raise ConfigError(
                f"{place}.severity: {one.type} says nothing of single rows, which alone can go into quarantine; "
                f"set fail or warn"
            )
        yield check


def _in_words(type_: str, settings: Mapping[str, Any]) -> str:
    """Return what an expectation asks for, from its own name: ``values to match regex: regex '^a'``."""
    words = re.sub("^expect_(column_|table_)?", "", type_).replace("_", " ")
    return f"{words}: {', '.join(f'{name} {shown(value)}' for name, value in settings.items())}" if settings else words


class Contract:
    """The suite, its results part by part, and the Data Docs of them."""

    def __init__(
        self, fields: Sequence[Field], state: Mapping[str, Any], data: DataConfig, config: ValidationConfig
    ) -> None:
        """Compile the contract.

        Raises:
            ConfigError: an expectation of the project's own is none of Great Expectations', or does not fit the fields.
        """
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self.fields, self.data, self.config = fields, data, config
        self.checks = [check for check in checks_of(fields, state, config) if check.severity != "ignore"]
        self.failed = [0] * len(self.checks)
        self.results: list[tuple[str, Any]] = []
        self.context: Any = gx.get_context(mode="ephemeral")
        self.context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self.source = self.context.data_sources.add_pandas("data")
        self.scan = Scan([check.build() for check in self.checks], self.asked)
        self.suite = gx.ExpectationSuite(name="rows", expectations=[check.build() for check in self.checks])

    def frame(self) -> Frame:
        """Return an empty frame with the columns that the suite is about."""
        privacy = self.config.privacy
        search = functools.partial(find, kinds=privacy.kinds, regions=privacy.regions)
        ignored = self.config.severity.private_data == "ignore"
        return Frame(self.fields, None if ignored else search, self.config.languages, self.config.placeholders)

    def asked(self, frame: Any, expectations: Sequence[Any], most: int) -> list[Any]:
        """Return Great Expectations' own results, in the order of ``expectations``."""
        import great_expectations as gx

        name = f"frame {len(self.source.assets)}"
        batch = self.source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        found = batch.get_batch(batch_parameters={"dataframe": frame}).validate(
            gx.ExpectationSuite(name="rest", expectations=list(expectations)),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": most},
        )
        by_key = {_key(one.expectation_config): one for one in found.results}
        return [by_key[_key(one.configuration)] for one in expectations]

    def check(self, part: str, frame: Frame) -> Iterator[Broken]:
        """Run the whole suite once on a part and yield what each row that fails has wrong."""
        from great_expectations import __version__ as version
        from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

        # More rows than may be in quarantine need no names.
        most = max(REPORTED_PROBLEMS, math.ceil(self.config.max_quarantined_share * len(frame.places)) + 1)
        results = self.scan.results(frame.table(), most)
        for number, one in enumerate(results):
            yield from self._problems(number, one, frame)
            _redact(one)
        passed = sum(bool(one.success) for one in results)
        statistics = {
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100 * passed / len(results),
        }
        found = ExpectationSuiteValidationResult(
            success=passed == len(results),
            results=results,
            suite_name=self.suite.name,
            statistics=statistics,
            meta={"great_expectations_version": version},
        )
        self.results.append((part, found))

    def _problems(self, number: int, one: Any, frame: Frame) -> Iterator[Broken]:
        check = self.checks[number]
        if reason := _exception(one):
            if check.place:
                raise ConfigError(f"{check.place}: great_expectations cannot evaluate {check.type}: {reason}")
            raise RuntimeError(f"great_expectations cannot evaluate {check}: {reason}")
        if one.success:
            return
        rows = one.result.get("partial_unexpected_index_list") or []
        self.failed[number] += one.result.get("unexpected_count") or 1
        column = self.data.columns.get(check.field, check.field)
        for row, value in zip(rows, one.result.get("partial_unexpected_list") or [None] * len(rows), strict=True):
            found = frame.said.get((check.column, row)) or _as_found(check, value)
            yield Broken(check.severity, Problem(frame.places[row], column, check.expected, found))
        if not rows:
            place = file_of(frame.places[0])
            observed = shown(one.result.get("observed_value"))
            yield Broken(check.severity, Problem(place, column, check.expected, observed, of_part=True))

    def summary(self) -> list[dict[str, Any]]:
        """Return each expectation with what follows from it and the number of rows that failed it."""
        return [
            {"expectation": check.type, "column": check.column, "severity": check.severity, "failed": failed}
            for check, failed in zip(self.checks, self.failed, strict=True)
        ]

    def failures(self) -> list[dict[str, Any]]:
        """Return each expectation in words, with the number of rows that failed it."""
        return [
            {
                "type": check.type,
                "column": check.column,
                "expected": check.expected,
                "severity": check.severity,
                "failed": failed,
            }
            for check, failed in zip(self.checks, self.failed, strict=True)
        ]

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return how many expectations each part passed and failed; a part that held no rows is absent."""
        return {
            part: {
                "passed": result.statistics["successful_expectations"],
                "failed": result.statistics["unsuccessful_expectations"],
            }
            for part, result in self.results
        }

    def write_docs(self, folder: Path) -> dict[str, str]:
        """Write a page per part, failed ones first, and return where: part -> page relative to ``folder``."""
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        run = RunIdentifier(run_name="data", run_time=RUN_TIME)
        chosen = sorted(self.results, key=lambda pair: pair[1].success is True)[:DOCUMENTED_PARTS]
        for number, (part, result) in enumerate(chosen):
            result.meta = {"run_id": run, "great_expectations_version": result.meta["great_expectations_version"]}
            result.meta["active_batch_definition"] = {"data_asset_name": html.escape(part)}
            self.context.validation_results_store.set(
                ValidationResultIdentifier(
                    expectation_suite_identifier=ExpectationSuiteIdentifier(self.suite.name),
                    run_id=run,
                    batch_identifier=f"{number:04}-{re.sub(r'[^A-Za-z0-9._-]', '_', part)}",
                ),
                result,
            )
        self.context.suites.add(self.suite)
        self.context.add_data_docs_site("site", _site(folder))
        self.context.build_data_docs(site_names=["site"])
        (folder / "index.html").unlink(missing_ok=True)
        pages = {part: next(folder.glob(f"validations/**/{n:04}-*.html")) for n, (part, _) in enumerate(chosen)}
        places = {part: page.relative_to(folder).as_posix() for part, page in pages.items()}
        settle(folder, places)
        return places


def _key(config: Any) -> str:
    """Return what tells expectations apart, whatever batch they were run on."""
    kwargs = {name: value for name, value in config.kwargs.items() if name != "batch_id"}
    return json.dumps([config.type, kwargs], sort_keys=True, default=str)


def _exception(one: Any) -> str | None:
    """Return why an expectation could not be evaluated; Great Expectations says so in one of two forms."""
    info = one.exception_info or {}
    found = [info] if "raised_exception" in info else [each for each in info.values() if isinstance(each, dict)]
    return next((str(each["exception_message"]) for each in found if each.get("raised_exception")), None)


# Data Docs want a time; one that means nothing is the same in every run.
RUN_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _as_found(check: Check, value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value} of them" if check.column != check.field else shown(value)


def _redact(one: Any) -> None:
    """Shorten what a result shows of failing rows."""
    values = [_short(value) for value in (one.result.get("partial_unexpected_list") or [])[:DOCUMENTED_VALUES]]
    if values:
        counts = Counter(values)
        one.result["partial_unexpected_counts"] = [{"value": value, "count": counts[value]} for value in counts]
        one.result["partial_unexpected_list"] = values
        one.result["partial_unexpected_index_list"] = one.result["partial_unexpected_index_list"][:DOCUMENTED_VALUES]
    one.expectation_config.id = None


def _short(value: Any) -> Any:
    """Return what a page may show of a failing value."""
    if not isinstance(value, str):
        return value
    return html.escape(value if len(value) <= 8 else f"{value[:4]}… ({len(value)} characters)")
