"""Cleaning: each step does what it says, and nothing happens without a step."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.cleaning import EXAMPLES, STEPS, Cleaning, Example, clean
from graft.tasks import Field

FIELDS = (Field("text", "string", text=True), Field("tags", "strings", text=True), Field("label", "label"))


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

    assert set(get_args(CleanStep)) == {*STEPS, "duplicates"}


def test_no_text_is_a_duplicate_alone() -> None:
    assert clean(" a ", ["duplicates", "whitespace"]) == clean("a", ["duplicates"]) == "a"


def test_examples_are_few_short_and_begin_where_the_texts_part() -> None:
    cleaning = Cleaning(["whitespace"])
    for number in range(EXAMPLES + 2):
        row = {"text": "x" * 50 + "  " + "y" * 100, "tags": ["a", " b"], "label": " l"}
        assert cleaning.keeps(row, FIELDS, f"part:{number}")
        assert row == {"text": "x" * 50 + " " + "y" * 100, "tags": ["a", "b"], "label": " l"}
    assert cleaning.counts == {"whitespace": EXAMPLES + 2}  # a row is counted once, though two of its fields changed
    # Up to and with the first of the two spaces, 51 characters are shared: 20 of them lead.
    lead = "…" + "x" * 19 + " "
    expected = [Example(f"part:{n}", "text", f"{lead} {'y' * 59}…", f"{lead}{'y' * 60}…") for n in range(EXAMPLES)]
    assert cleaning.examples == {"whitespace": expected}


def test_a_list_of_texts_shows_the_first_item_that_changed() -> None:
    cleaning = Cleaning(["strip_html"])
    cleaning.keeps({"text": "a", "tags": ["b", "<i>c</i>", "<i>d</i>"], "label": "x"}, FIELDS, "part:1")
    assert cleaning.examples["strip_html"] == [Example("part:1", "tags", "<i>c</i>", "c")]


def test_equal_rows_are_dropped_and_disagreeing_labels_kept_and_counted() -> None:
    cleaning = Cleaning(["duplicates"])
    rows = [
        ("a", ["b"], "x"),
        ("a", ["b"], "y"),
        ("a", ["b"], "y"),
        ("a", [], "x"),
        ("a b", [], "x"),
        ("a", ["b"], "x"),
    ]
    kept = [
        cleaning.keeps({"text": text, "tags": tags, "label": label}, FIELDS, f"part:{number}")
        for number, (text, tags, label) in enumerate(rows)
    ]
    assert kept == [True, True, False, True, True, False]
    assert (cleaning.counts["duplicates"], cleaning.disagreements, cleaning.disagreeing) == (2, 1, ["part:1"])
    assert cleaning.examples["duplicates"] == [Example(f"part:{n}", "text", "a", None) for n in (2, 5)]
