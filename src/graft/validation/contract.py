"""The contract itself: a task's fields as one Great Expectations suite, run on flat frames, shown as Data Docs.

A suite runs once per part, since Great Expectations hashes the whole frame for every run. Its results name rows by
number, and the frame knows where each row stands. The frame has *derived* columns (lengths, earlier rows with an id)
where an expectation on the value itself would be wrong or would put text into its result. Failing values are shortened
and escaped before they reach a page (Great Expectations does not escape them), and pages are the same bytes in every
run.
"""

from __future__ import annotations

import datetime
import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.damage import visible_characters
from graft.data import DataConfig, Problem, Record
from graft.errors import shown
from graft.tasks import Field
from graft.validation.pages import settle

if TYPE_CHECKING:
    import pandas as pd

    from graft.validation import ValidationConfig

REPORTED_PROBLEMS = 10_000
"""How many problems report.json lists at most; it counts them all."""
DOCUMENTED_PARTS = 50
"""How many parts get a page in the Data Docs; refused ones come first."""
DOCUMENTED_VALUES = 20


class Frame:
    """The flat columns of one part, and where each of its rows stands."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self.places: list[str] = []
        self.refused: set[str] = set()
        self.columns: dict[str, list[Any]] = defaultdict(list)
        self.first: dict[int, str] = {}
        """Row number -> place of the first row with the same id."""

    def add(self, record: Record, earlier: str | None) -> None:
        """Add a readable row."""
        if earlier:
            self.first[len(self.places)] = f"{shown(record.id)}, which {earlier} has too"
        self.places.append(record.place)
        self.columns[REFUSED].append(0)
        self.columns[EARLIER].append(int(earlier is not None))
        for field in self.fields:
            self._add_value(field, record.row[field.name])

    def _add_value(self, field: Field, value: Any) -> None:
        items = [one["content"] if isinstance(one, dict) else one for one in _items(value)]
        if field.type in LISTS:
            self.columns[f"{field.name} (items)"].append(None if value is None else len(items))
        elif field.type == "image":
            self.columns[field.name].append(None if value is None else f"{len(value)} bytes")
        else:
            self.columns[field.name].append(value)
        if field.text:
            visible = [None if value is None else min(map(visible_characters, items), default=0)]
            self.columns[f"{field.name} (visible characters)"] += visible
            self.columns[f"{field.name} (characters)"].append(None if value is None else sum(map(len, items)))

    def refuse(self, place: str) -> None:
        """Add a row that the reader refused: it has a place and no values."""
        if place in self.refused:
            return
        self.refused.add(place)
        self.places.append(place)
        self.columns[REFUSED].append(1)
        self.columns[EARLIER].append(0)
        for field in self.fields:
            for name in _columns_of(field):
                self.columns[name].append(None)

    def table(self) -> pd.DataFrame:
        """Return the columns with the types that the fields have."""
        import pandas as pd

        types = dict.fromkeys(self.columns, "Int64")
        types |= {field.name: "float64" if field.type == "number" else "str" for field in self.fields}
        return pd.DataFrame({name: pd.Series(values, dtype=types[name]) for name, values in self.columns.items()})


def _items(value: Any) -> list[Any]:
    """Return the items of a value that is a list, or holds one; any other value is its own only item."""
    if isinstance(value, dict):
        return list(value["text"])
    return value if isinstance(value, list) else [value]


LISTS = ("strings", "labels", "messages", "answers")
FILLED_LISTS = ("strings", "messages")
"""Lists that say nothing where they are empty; a row may have no label, and a question no answer."""
REFUSED = "rows that cannot be read"
EARLIER = "id (earlier rows with it)"


def _columns_of(field: Field) -> Iterator[str]:
    yield f"{field.name} (items)" if field.type in LISTS else field.name
    if field.text:
        yield from (f"{field.name} (visible characters)", f"{field.name} (characters)")


@dataclass(frozen=True)
class Check:
    """One expectation, the field it is about and what a row should have had."""

    type: str
    column: str
    field: str
    expected: str
    settings: Mapping[str, Any] = dataclass_field(default_factory=dict)

    def build(self) -> Any:
        """Return Great Expectations' object."""
        from great_expectations.expectations.registry import get_expectation_impl

        return get_expectation_impl(self.type)(column=self.column, **self.settings)


def checks_of(fields: Sequence[Field], state: Mapping[str, Any], config: ValidationConfig) -> Iterator[Check]:
    """Yield the expectations that follow from the fields, the state and the section."""
    between, of_type = "expect_column_values_to_be_between", "expect_column_values_to_be_of_type"
    yield Check(between, REFUSED, "", "a row that can be read", {"min_value": 0, "max_value": 0})
    for field in fields:
        name = field.name
        main = next(_columns_of(field))
        yield Check("expect_column_to_exist", main, name, "a column of that name")
        kind = "int64" if field.type in LISTS else {"number": "float64"}.get(field.type, "str")
        yield Check(of_type, main, name, f"a {field.type}", {"type_": kind})
        if field.required:
            yield Check("expect_column_values_to_not_be_null", main, name, "a value")
        if field.required and field.type in FILLED_LISTS:
            yield Check(between, main, name, "at least one item", {"min_value": 1})
        if field.text:
            fewest, most = config.min_characters, config.max_characters
            visible = f"at least {fewest} visible characters (validation.min_characters)"
            yield Check(between, f"{name} (visible characters)", name, visible, {"min_value": fewest})
            longest = f"at most {most} characters (validation.max_characters)"
            yield Check(between, f"{name} (characters)", name, longest, {"max_value": most})
        if field.text and field.type == "string" and config.placeholders:
            names = {"value_set": list(config.placeholders)}
            text = "a text, not a placeholder for a missing one (validation.placeholders)"
            yield Check("expect_column_values_to_not_be_in_set", name, name, text, names)
        if field.type == "label" and state.get("labels"):
            labels = {"value_set": list(state["labels"])}
            text = f"one of the {len(state['labels'])} labels of the training rows"
            yield Check("expect_column_values_to_be_in_set", name, name, text, labels)
    if config.unique_ids:
        yield Check(between, EARLIER, "id", "an id that no other row has", {"min_value": 0, "max_value": 0})


class Contract:
    """The suite, its results part by part, and the Data Docs of them."""

    def __init__(
        self, fields: Sequence[Field], state: Mapping[str, Any], data: DataConfig, config: ValidationConfig
    ) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self.data = data
        self.checks = {(check.type, check.column): check for check in checks_of(fields, state, config)}
        self.failed = Counter(dict.fromkeys(self.checks, 0))
        self.results: list[tuple[str, Any]] = []
        self.context: Any = gx.get_context(mode="ephemeral")
        self.context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self.source = self.context.data_sources.add_pandas("data")
        expectations = [check.build() for check in self.checks.values()]
        self.suite = gx.ExpectationSuite(name="rows", expectations=expectations)

    def check(self, part: str, frame: Frame) -> Iterator[Problem]:
        """Run the whole suite once on a part and yield a problem for each row that fails."""
        batch = self.source.add_dataframe_asset(part).add_batch_definition_whole_dataframe("all")
        result = batch.get_batch(batch_parameters={"dataframe": frame.table()}).validate(
            self.suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": REPORTED_PROBLEMS}
        )
        for one in result.results:
            yield from self._problems(one, frame)
            _redact(one)
        self.results.append((part, result))

    def _problems(self, one: Any, frame: Frame) -> Iterator[Problem]:
        config = one.expectation_config
        check = self.checks[config.type, config.kwargs["column"]]
        if one.exception_info.get("raised_exception"):
            raise RuntimeError(f"great_expectations cannot evaluate {check}: {one.exception_info['exception_message']}")
        if one.success:
            return
        rows = one.result.get("partial_unexpected_index_list") or []
        self.failed[check.type, check.column] += one.result.get("unexpected_count") or 1
        for row, value in zip(rows, one.result.get("partial_unexpected_list") or [None] * len(rows), strict=True):
            found = frame.first.get(row, "") if check.column == EARLIER else _as_found(check, value)
            yield Problem(frame.places[row], self.data.columns.get(check.field, check.field), check.expected, found)
        if not rows:
            place = frame.places[0].rpartition(":")[0]
            yield Problem(place, check.field, check.expected, shown(one.result.get("observed_value")))

    def summary(self) -> list[dict[str, Any]]:
        """Return each expectation with the number of rows that failed it."""
        return [
            {"expectation": check.type, "column": check.column, "failed": self.failed[key]}
            for key, check in self.checks.items()
        ]

    def failures(self) -> list[dict[str, Any]]:
        """Return each expectation in words, with the number of rows that failed it."""
        return [
            {"type": check.type, "column": check.column, "expected": check.expected, "failed": self.failed[key]}
            for key, check in self.checks.items()
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
