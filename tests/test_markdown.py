"""Text in Markdown pages, read by another library's rules: what is shown is what was written."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from graft.markdown import plain, sentence

ODD = st.text(st.sampled_from("ab *_`<>&|#~[]()\\!-+1.;\n"), max_size=40)


def shown(markdown: str) -> tuple[str, set[str]]:
    """Return the text of a page and the elements it is made of."""
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    return html.unescape(re.sub(r"</?[a-z]+[^>]*>", "", page)).strip(), set(re.findall(r"<([a-z]+)", page))


@given(ODD)
@example("<script>alert(1)</script> &lt;b&gt; *x* [a](b) ~~c~~ | d")
def test_plain_text_is_read_as_nothing_else(text: str) -> None:
    # Within a line, as all pages have it: at its beginning a dash or a number is a list.
    found, elements = shown(f"said: {plain(text)}.")
    assert (found, elements) == (f"said: {' '.join(text.split())}.".replace(": .", ": ."), {"p"})


@given(ODD)
def test_a_cell_is_one_cell(text: str) -> None:
    page = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| x{plain(text)}x | 1 |")
    assert page.count("<td>") == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`graft promote` of <b> does", "<p><code>graft promote</code> of &lt;b&gt; does</p>"),
        ("one ` alone", "<p>one ` alone</p>"),
        ("`` nothing", "<p>`` nothing</p>"),
        ("`a|b`\nand *c*", "<p><code>a|b</code> and *c*</p>"),
    ],
)
def test_backticks_in_pairs_are_code(text: str, expected: str) -> None:
    assert MarkdownIt("commonmark").render(sentence(text)).strip() == expected
