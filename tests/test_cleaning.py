"""Cleaning: each step does what it says, and nothing happens without a step."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.cleaning import EXAMPLES, STEPS, Cleaning, Example, clean, clean_row, text_steps
from graft.privacy import find
from graft.privacy.section import PrivacyConfig
from graft.tasks import Field

PRIVACY = PrivacyConfig()
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

    assert set(get_args(CleanStep)) == {*STEPS, "redact", "duplicates"}


def test_no_text_is_a_duplicate_alone() -> None:
    assert clean(" a ", ["duplicates", "whitespace"]) == clean("a", ["duplicates"]) == "a"


def test_examples_are_few_short_and_begin_where_the_texts_part() -> None:
    cleaning = Cleaning(["whitespace"], PRIVACY)
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
    cleaning = Cleaning(["strip_html"], PRIVACY)
    cleaning.keeps({"text": "a", "tags": ["b", "<i>c</i>", "<i>d</i>"], "label": "x"}, FIELDS, "part:1")
    assert cleaning.examples["strip_html"] == [Example("part:1", "tags", "<i>c</i>", "c")]


def test_equal_rows_are_dropped_and_disagreeing_labels_kept_and_counted() -> None:
    cleaning = Cleaning(["duplicates"], PRIVACY)
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


MAIL, OTHER, PHONE = "ann" + "@example.org", "bob" + "@example.org", "+1 212 555 0123"


def redaction(fields: tuple[Field, ...], row: dict, *steps: str) -> tuple[dict, Cleaning]:  # type: ignore[type-arg]
    cleaning = Cleaning([*steps, "redact"], PRIVACY)
    row = dict(row)
    assert cleaning.keeps(row, fields, "part:1")
    return row, cleaning


def test_a_value_has_one_placeholder_in_all_texts_of_a_row_and_others_stay() -> None:
    fields = (*FIELDS, Field("messages", "messages", text=True), Field("count", "number"))
    talk = [{"role": "user", "content": f"I am {MAIL.upper()}"}, {"role": "assistant", "content": "Hello"}]
    row, cleaning = redaction(
        fields, {"text": f"{OTHER} or {MAIL}", "tags": [MAIL, "x"], "label": MAIL, "messages": talk, "count": 2}
    )
    assert row == {
        "text": "<EMAIL_1> or <EMAIL_2>",
        "tags": ["<EMAIL_2>", "x"],
        "label": MAIL,  # no text: a label is a name of a class
        "messages": [{"role": "user", "content": "I am <EMAIL_2>"}, talk[1]],
        "count": 2,
    }
    assert cleaning.counts == {"redact": 1}


def test_redaction_comes_after_the_other_text_steps_and_before_duplicates() -> None:
    row, _ = redaction(FIELDS, {"text": f"<p>ann&#64;example.org  {MAIL}", "tags": [], "label": "x"}, "strip_html")
    assert row["text"] == "\n<EMAIL_1>  <EMAIL_1>"
    assert text_steps(["duplicates", "redact", "nfc"]) == ("nfc", "redact")
    cleaning = Cleaning(["duplicates", "redact"], PRIVACY)
    rows = [{"text": f"I am {mail}", "tags": [], "label": "x"} for mail in (MAIL, OTHER)]
    assert [cleaning.keeps(row, FIELDS, f"part:{n}") for n, row in enumerate(rows)] == [True, False]


def test_no_example_of_any_step_shows_what_is_private() -> None:
    cleaning = Cleaning(["whitespace", "redact", "duplicates"], PRIVACY)
    for number in range(2):
        cleaning.keeps({"text": f"I  am  {MAIL}", "tags": [], "label": "x"}, FIELDS, f"part:{number}")
    assert cleaning.examples == {
        "whitespace": [Example(f"part:{n}", "text", "I  am  <EMAIL>", "I am <EMAIL>") for n in range(2)],
        "redact": [Example(f"part:{n}", "text", "I am <EMAIL>", "I am <EMAIL_1>") for n in range(2)],
        "duplicates": [Example("part:1", "text", "I am <EMAIL_1>", None)],
    }


def test_the_settings_say_what_is_replaced() -> None:
    row = {"text": f"{MAIL} {PHONE}", "tags": []}
    only = PrivacyConfig(kinds=("phone",))
    assert clean_row(row, FIELDS, ["redact"], only) == {"text": f"{MAIL} <PHONE_1>", "tags": []}
    assert clean_row(row, FIELDS, ["redact"], PrivacyConfig(kinds=())) == row
    assert clean_row(row, FIELDS, ["nfc"], PRIVACY) == row
    assert clean_row({"tags": None}, FIELDS, ["redact"], PRIVACY) == {"tags": None}


ANSWERS = (Field("context", "string", text=True), Field("answers", "answers", target=True, within="context"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Paris", "Paris"),
        (MAIL, "<EMAIL_1>"),
        (f"to {MAIL} or", "to <EMAIL_1> or"),
        ("example.org or +1 2", "<EMAIL_1> or <PHONE_1>"),  # parts of values: the whole placeholders
        ("example", "<EMAIL_1>"),
        ("Bye", "Bye"),
    ],
)
def test_answers_move_with_their_text(answer: str, expected: str) -> None:
    context = f"In Paris: write to {MAIL} or {PHONE}. Bye, {MAIL}"
    start = context.index(answer)
    row, _ = redaction(ANSWERS, {"context": context, "answers": {"text": [answer], "answer_start": [start]}})
    assert row["context"] == "In Paris: write to <EMAIL_1> or <PHONE_1>. Bye, <EMAIL_1>"
    assert row["answers"]["text"] == [expected]
    [moved] = row["answers"]["answer_start"]
    assert row["context"][moved : moved + len(expected)] == expected


def test_an_answer_that_is_elsewhere_stays_for_the_check_of_rows() -> None:
    answers = {"text": ["Paris", "Rome"], "answer_start": [3, -1]}
    row, _ = redaction(ANSWERS, {"context": f"{MAIL} in Paris", "answers": answers})
    assert row == {"context": "<EMAIL_1> in Paris", "answers": answers}


def test_each_word_of_a_value_becomes_its_placeholder() -> None:
    words = ["call", "(+1", "212", "555", "0123)", "or", f"<{MAIL}>,", "phone", "2125550199"]
    fields = (Field("tokens", "strings", text=True, words=True), Field("tags", "strings"))
    row, cleaning = redaction(fields, {"tokens": words, "tags": ["O"] * 9})
    number = "<PHONE_1>"
    assert row["tokens"] == [
        "call",
        f"({number}",
        number,
        number,
        f"{number})",
        "or",
        "<<EMAIL_1>>,",
        "phone",
        "<PHONE_2>",
    ]
    assert cleaning.examples["redact"][0].before == "call (<PHONE>) or <<EMAIL>>, phone <PHONE>"
    assert redaction(fields, row)[0] == row


PIECES = st.sampled_from(["call", "+1", "212", "555", "0123", "(212)", MAIL, "4111", "1111", "x", "phone", "<EMAIL_1>"])


@given(st.lists(PIECES, min_size=1, max_size=12))
def test_redacted_words_have_nothing_found_and_stay_as_they_are(words: list[str]) -> None:
    fields = (Field("tokens", "strings", text=True, words=True),)
    once = clean_row({"tokens": words}, fields, ["redact"], PRIVACY)
    assert len(once["tokens"]) == len(words)
    assert find(" ".join(once["tokens"])) == []
    assert clean_row(once, fields, ["redact"], PRIVACY) == once


def test_questions_are_valid_after_redaction_and_what_is_asked_later_is_redacted_alike() -> None:
    from graft import tasks
    from graft.data import cleaned_as

    task = tasks.get("question_answering")
    context = f"Ann is at {MAIL} in Paris; her number is {PHONE}."
    answers = [MAIL, "Paris", PHONE, "555"]
    starts = [context.index(one) for one in answers]
    row = {"question": f"Where is {MAIL}?", "context": context, "answers": {"text": answers, "answer_start": starts}}
    new = clean_row(row, task.fields, ["redact"], PRIVACY)
    assert new["question"] == "Where is <EMAIL_1>?"
    assert new["answers"]["text"] == ["<EMAIL_1>", "Paris", "<PHONE_1>", "<PHONE_1>"]
    assert list(task.check_row(None, new, {})) == []
    asked = {name: row[name] for name in ("question", "context")}
    identity = {"clean": ["redact"], "privacy": PRIVACY.model_dump(mode="json")}
    assert cleaned_as(identity, asked, task.fields) == {name: new[name] for name in asked}
    assert cleaned_as({"clean": []}, asked, task.fields) == asked
