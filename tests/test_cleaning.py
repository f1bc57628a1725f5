"""Cleaning: each step does what it says, and nothing happens without a step."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.cleaning import STEPS, clean


@given(st.text())
def test_no_step_changes_no_text(text: str) -> None:
    assert clean(text, ()) == text


@pytest.mark.parametrize("step", ["nfc", "nfkc", "whitespace"])
@given(text=st.text())
def test_a_step_applied_twice_changes_nothing_more(step: str, text: str) -> None:
    once = clean(text, [step])
    assert clean(once, [step]) == once


@given(st.text(alphabet="ab <>&;/!-x"))
def test_html_free_text_is_left_alone_and_no_text_crashes(text: str) -> None:
    found = clean(text, ["strip_html"])
    assert isinstance(found, str)
    if "<" not in text and "&" not in text:
        assert found == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>one</p><p>two</p>", "one two"),
        ("a <b>bold</b> word", "a bold word"),
        ("fish &amp; chips &lt;3 &#39;", "fish & chips <3 '"),
        ("5 < 6 and 7 > 2", "5 < 6 and 7 > 2"),
        ("before<script>var x = '<b>';</script>after", "beforeafter"),
        ("a<!-- hidden -->b<br/>c", "ab c"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("</script>kept", "kept"),
    ],
)
def test_strip_html_shows_what_a_browser_would(text: str, expected: str) -> None:
    assert clean(text, ["strip_html", "whitespace"]) == expected


def test_steps_run_in_the_given_order() -> None:
    text = "&nbsp;\ufb01ne\u3000 day"
    assert clean(text, ["strip_html", "nfkc", "whitespace"]) == "fine day"
    assert clean(text, ["whitespace", "strip_html"]) == "\u00a0\ufb01ne day"
    assert clean("e\u0301", ["nfc"]) == unicodedata.lookup("LATIN SMALL LETTER E WITH ACUTE")


def test_every_step_that_params_may_name_exists() -> None:
    from typing import get_args

    from graft.cleaning import CleanStep

    assert set(get_args(CleanStep)) == set(STEPS)
