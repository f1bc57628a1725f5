"""The report and the Data Docs as Chromium draws them: on a screen, on a phone, on paper, without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.evaluation import report
from graft.workspace import Workspace
from tests.test_data_docs import index_of, write

DESK, PHONE, PAPER = 1280, 390, 681
"""Widths in CSS pixels; paper is A4 between margins of 15 mm."""
VERDICT = {"decision": "undecided", "reason": "Too few rows: " + "a reason that goes on " * 20, "gates": []}
WIDER = """() => [...document.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect()
    return box.width && box.right > document.documentElement.clientWidth + 1 && !one.closest(".scroll")
}).map(one => one.outerHTML.slice(0, 120))"""
CUT = """() => [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth + 1)
.map(one => one.innerText)"""


@pytest.fixture(params=["report", "data docs"])
def page_file(request: pytest.FixtureRequest, evaluated: Workspace, tmp_path: Path) -> Path:
    if request.param == "data docs":
        odd = [{"text": "a" * 400, "label": "x"}, {"text": "<b>ann.smith@mail-host.org</b>", "label": "l" * 90}]
        workspace = write(tmp_path, train=[*odd, {"text": "", "label": "x"}], test=odd)
        index_of(workspace, severity={"min_characters": "quarantine"})
        return workspace.data_docs / "index.html"
    path = tmp_path / "report.html"
    path.write_text(report.with_verdict(evaluated.evaluation, VERDICT), encoding="utf-8")
    return path


def opened(browser: Any, path: Path, width: int, **options: Any) -> tuple[Any, list[str]]:
    """Return the page and what it asked for or complained about, as it goes on."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    faults: list[str] = []
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith("data:") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(path.as_uri())
    return page, faults


@pytest.mark.parametrize(("width", "medium"), [(DESK, "screen"), (PHONE, "screen"), (PAPER, "print")])
def test_nothing_is_wider_than_the_page(browser: Any, page_file: Path, width: int, medium: str) -> None:
    page, faults = opened(browser, page_file, width)
    page.emulate_media(media=medium)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDER) == []
    assert faults == [page_file.as_uri()]  # it asks for nothing but itself
    if medium == "print":  # what scrolls on a screen is cut off on paper
        assert page.evaluate(CUT) == []


def test_all_is_said_without_scripts(browser: Any, page_file: Path) -> None:
    """MLflow shows it in a frame of its own."""
    plain, _ = opened(browser, page_file, DESK, java_script_enabled=False)
    full, _ = opened(browser, page_file, DESK)
    words = full.locator("body").inner_text().split()
    assert len(words) > 150
    assert plain.locator("body").inner_text().split() == words


def test_every_picture_is_drawn(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, DESK)
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    drawn = page.evaluate("[...document.querySelectorAll('svg, img')].map(one => one.getBoundingClientRect().width)")
    assert drawn or page_file.name == "index.html"  # which draws what has moved, and nothing has
    assert min(drawn, default=1) > 0


def test_it_prints(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, DESK)
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert 1 <= printed.count(b"/Type /Page\n") <= 40
