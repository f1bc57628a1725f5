"""Great Expectations' pages of single parts, from results that were kept as JSON.

A page costs Great Expectations' imports and some 40 ms, so pages are kept too, and made for ``DOCUMENTED_PARTS`` parts
at most. They are the same bytes in every run.
"""

from __future__ import annotations

import datetime
import html
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graft.identity import digest_json
from graft.part_results import PartResults
from graft.validation.contract import LEARNT, Check
from graft.validation.inspecting import Inspected
from graft.validation.pages import settle

DOCUMENTED_PARTS = 50
"""How many parts get a page; refused ones come first."""
SUITE_NAME = "rows"
NAME_CHARACTERS = 60
"""How much of a part's name is in that of its page: file systems limit names."""
# Data Docs want a time; one that means nothing is the same in every run.
RUN_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Documents:
    """The pages of a run."""

    checks: Sequence[Check]
    """The expectations of every part's suite."""
    results: PartResults

    def write(self, folder: Path, parts: Sequence[Inspected]) -> dict[str, str]:
        """Write a page per part, failed ones first, and one of the suite.

        Returns:
            Part -> its page relative to ``folder``.
        """
        suites = [(one.key, self._given(found)) for one in parts if (found := one.suite())]
        chosen = sorted(suites, key=lambda pair: pair[1]["success"] is True)[:DOCUMENTED_PARTS]
        key = digest_json([chosen, [vars(one.expectation) for one in self.checks]])[:32]
        made = self.results.kept(key, partial(self._make, chosen=chosen))
        shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("digests.json"))
        return {part: page.relative_to(folder).as_posix() for part, page in _pages(folder, chosen).items()}

    def _given(self, suite: dict[str, Any]) -> dict[str, Any]:
        """Return the suite's result of a part with the labels that it was held to."""
        labels = [check.expectation.kwargs["value_set"] for check in self.checks if check.is_of_labels]
        for one in suite["results"]:
            kwargs = one["expectation_config"]["kwargs"]
            if labels and kwargs.get("value_set") == LEARNT:
                kwargs["value_set"] = labels[0]
        return suite

    def _make(self, folder: Path, chosen: Sequence[tuple[str, dict[str, Any]]]) -> None:
        import great_expectations as gx
        from great_expectations.core.expectation_validation_result import (
            ExpectationSuiteValidationResult,
            expectationSuiteValidationResultSchema,
        )
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.base import ProgressBarsConfig
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        context: Any = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        run = RunIdentifier(run_name="data", run_time=RUN_TIME)
        for number, (part, found) in enumerate(chosen):
            meta = {
                "run_id": run.to_json_dict(),
                "great_expectations_version": gx.__version__,
                "active_batch_definition": {"data_asset_name": html.escape(part)},
            }
            loaded = expectationSuiteValidationResultSchema.load({**found, "suite_name": SUITE_NAME, "meta": meta})
            told = ("success", "results", "suite_name", "statistics", "meta")
            result = ExpectationSuiteValidationResult(**{name: loaded[name] for name in told})
            result.meta["run_id"] = run
            context.validation_results_store.set(
                ValidationResultIdentifier(
                    expectation_suite_identifier=ExpectationSuiteIdentifier(SUITE_NAME),
                    run_id=run,
                    batch_identifier=f"{number:04}-{re.sub(r'[^A-Za-z0-9._-]', '_', part)[:NAME_CHARACTERS]}",
                ),
                result,
            )
        context.suites.add(gx.ExpectationSuite(name=SUITE_NAME, expectations=[check.build() for check in self.checks]))
        context.add_data_docs_site("site", _site(folder))
        context.build_data_docs(site_names=["site"])
        (folder / "index.html").unlink(missing_ok=True)
        pages = _pages(folder, chosen)
        settle(folder, {part: page.relative_to(folder).as_posix() for part, page in pages.items()})


def _pages(folder: Path, chosen: Sequence[tuple[str, Any]]) -> dict[str, Path]:
    return {part: next(folder.glob(f"validations/**/{n:04}-*.html")) for n, (part, _) in enumerate(chosen)}


def _view(name: str) -> dict[str, str]:
    return {"module_name": "graft.validation.page_views", "class_name": name}


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_section_builders": {
            "expectations": {"view": _view("PageView")},
            "validations": {"view": _view("PageView")},
            "profiling": "none",
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "view": _view("IndexPageView")},
    }
