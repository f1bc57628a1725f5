"""The finished report: a promotion's verdict and the timings in their places, once each, and nothing else changed."""

from __future__ import annotations

import html
import re

import pytest

from graft.errors import InputError
from graft.evaluation import report
from graft.workspace import Workspace, read_json
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


NAMES = (
    "<script>alert(1)</script>",
    "a|b `c` <img src=x onerror=alert(2)>",
    "``<b>",
    "` <u>",
    "&lt;i&gt; & <pad>",
    "p < 1",
)


def test_labels_are_no_html_in_the_model_card(evaluated: Workspace) -> None:
    """Read by another library's rules: what a page of the card shows is what the label is."""
    from markdown_it import MarkdownIt

    from graft.evaluation.findings import Worth

    identity = read_json(evaluated.adapter / "identity.json")
    identity["task"]["state"]["labels"] = list(NAMES)
    card = report.model_card(
        report.Findings(
            metrics=read_json(evaluated.evaluation / "metrics.json"),
            comparisons={},
            worth=Worth("yes", "Better.", "Than others: p < 0.01."),
            details={"By label": [{"label": name, "recall": 0.5} for name in NAMES]},
            background={},
            limits=[f"Weakest label: `{name}`, of whose cases it finds half." for name in NAMES],
            identity=identity,
            adapter_digest="0" * 64,
        )
    )
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])
    assert not {"script", "img", "b", "u", "i", "pad"} & set(re.findall(r"<(\w+)", page))
    text = html.unescape(re.sub(r"<[^>]+>", "", page)).replace("`", "")
    for name in NAMES:
        assert text.count(name.replace("`", "")) == 3, name  # among the labels, in the table, as a limit
