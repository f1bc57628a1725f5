"""The finished report: a promotion's verdict and the timings in their places, once each, and nothing else changed."""

from __future__ import annotations

import re

import pytest

from graft.errors import InputError
from graft.evaluation import report
from graft.workspace import Workspace
from tests.evaluation.test_evaluate import Page

FACTS = {
    "decision": "undecided",
    "reason": "The difference is +0.012, which 605 rows cannot tell from <nothing>.",
    "gates": [{"name": "length=4/4", "state": "held", "difference": 0.01}],
    "facts": {"version": "models:/topic/4", "error_budget_left": 0.031},
}


def test_the_verdict_comes_first_and_is_replaced_by_a_later_one(evaluated: Workspace) -> None:
    before = (evaluated.evaluation / "report.html").read_text(encoding="utf-8")
    text = report.with_verdict(evaluated.evaluation, FACTS)
    assert (evaluated.evaluation / "report.html").read_text(encoding="utf-8") == before
    page = Page(text)
    assert page.open == []
    assert text.index("Verdict: undecided.") < text.index('<nav class="contents"') < text.index('id="systems"')
    assert "cannot tell from &lt;nothing&gt;." in text
    for said in ("length=4/4", "held", "models:/topic/4", "error budget left", "0.031"):
        assert said in page.text
    later = report.with_verdict(text, {"decision": "promote", "reason": "It is better."})
    assert "Verdict: promote." in later
    assert "undecided" not in later
    without = re.sub(r"<!-- verdict -->.*?<!-- end of verdict -->", "", later, flags=re.DOTALL)
    assert without == re.sub(r"<!-- verdict -->.*?<!-- end of verdict -->", "", before, flags=re.DOTALL)


def test_timings_take_the_place_of_their_absence(evaluated: Workspace) -> None:
    text = report.with_cost(evaluated.evaluation, [("in batches of 64 rows", "12.0 rows per second")])
    assert "12.0 rows per second" in Page(text).text
    assert "What a clock says differs" not in text
    assert "12.0 rows per second" in report.with_verdict(text, FACTS)


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(InputError, match="the report: has no place for a verdict; run `graft stage evaluate`"):
        report.with_verdict("<html></html>", FACTS)


def test_backticks_of_limits_are_code_and_the_rest_is_escaped() -> None:
    assert str(report._marked("Weakest label: `a<b`, & more")) == "Weakest label: <code>a&lt;b</code>, &amp; more"
    assert str(report._marked("one ` alone")) == "one ` alone"
