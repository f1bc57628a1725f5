"""Damage: each kind is counted where it is, in a text as in a column, and clean text of many kinds counts as clean."""

import random

import polars as pl
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graft.cleaning import clean
from graft.damage import VISIBLE, damage, damage_of, measures, visible_characters

CLEAN = [
    "",
    "I <3 this, and 5 < 6 > 2; a<b but b>a",
    "#Person1#: where? #Person2#: see #123; and C#;",
    "<unk> <s>[INST] <pad> <|im_start|>user <tool_call> <input>x</input> <image> <code>",
    "List<int> f(Map<String, List<T>> x) { return x; } template<typename T> std::vector<u> a<b>c",
    "Anna <anna@example.org> wrote: AT&T, R&B; Q&A, &c., x&y;",
    "https://example.org/?a=1&lang=en&copy=2&amp=3#quot",
    '{"color": "red", "width": 3} interface A { name: string; }',
    r"C:\users\xavier, \underline{x}, snake_x_000, 1=CA=2, `\u00e9`",
    "Use `<br>` or:\n```html\n<p class='x'>&nbsp;</p>\n```\nto break a line",
    "Füße, Ärger, Öl – „so“ sagte sie, ‚na‘ … für 5 € (10 %) bei 20 °C",
    "¿Qué tal? ¡Olé! El niño comió piñón. L’œuvre naïve de Gaël, à bientôt, ça va ?",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Ţară şi ștrand. Đorđe",
    "Съешь же ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "味道不错，送餐快。周日，飓风级的风力；飓风艾萨克登陆后向内陆移动。谢谢",
    "把pdf转word，吃KFC没？4G网速还行，去KTV",
    "日本語の文章です。ひらがな、カタカナ。한국어 문장입니다.",
    "שלום עולם مرحبا بالعالم \u2067\u202bאב\u202c\u2069 नमस्ते",
    "😀👩‍👩‍👧‍👦 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ♥ ★ ¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻",
    "tab\tline\r\nend é vs e\u0301, soft\u00adhyphen, no\u00a0break, zero\u200bwidth\u200djoiner",
]
DAMAGED = [
    ("caf\ufffd \ufffd", {"replacement characters": 2}),
    ("a\0b", {"NULs": 1}),
    ("a\x07b\x1b[0m\x7f", {"control characters": 3}),
    ("a\ud83db\udc9f", {"lone surrogates": 2}),
    ("a\ue000\U000f0001", {"private use characters": 2}),
    ("a\uffff\U0001fffe\ufdd0", {"noncharacters": 3}),
    ("a\u202eb", {"direction overrides": 1}),
    ("a\ufeffb", {"byte order marks": 1}),
    ("Mädchen Größe".encode("cp1252").decode("cp1251"), {"words of two scripts": 2}),
    ("p\u0430ypal пa\u0440оль", {"words of two scripts": 2}),
    (r"Caf\u00e9 Caf\xc3\xa9 Caf=C3=A9 end_x000D_", {"escape sequences": 5}),
    ("Tom &amp; Jerry &#39;s&nbsp;<br/>", {"HTML": 4}),
    ("<div class='a'>x</div><a href=\"http://x.org\">y</a><!-- z --> <B>no</B>", {"HTML": 5}),
    ("&lt;b&gt;...&lt;/b&gt;", {"HTML": 4}),
    ("fish &amp chips", {"HTML": 1}),
    ("Sony #39;s CLIE, quot;good quot;", {"broken references": 3}),
    (".header { padding: 50px; }", {"style and script": 1}),
    ("x = document.getElementById('a')", {"style and script": 1}),
]


def found(text: str) -> dict[str, int]:
    return {name: count for name, count in damage(text).items() if count}


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_counts_as_clean(text: str) -> None:
    assert found(text) == {}


@pytest.mark.parametrize(("text", "expected"), DAMAGED)
def test_each_kind_of_damage_is_counted_alone(text: str, expected: dict[str, int]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "written", "read"),
    [
        ("Die Männer größer", "utf-8", "cp1252"),
        ("Die Männer größer", "utf-8", "latin-1"),
        ("Die Männer größer", "utf-8", "mac_roman"),
        ("Die Männer größer", "utf-8", "gbk"),
        ("it’s fine", "utf-8", "cp1252"),
        ("味道不错，送餐很快", "utf-8", "cp1252"),
        ("味道不错，送餐很快", "utf-8", "gbk"),
        ("味道不错，送餐很快", "gbk", "latin-1"),
        ("Съешь же ещё этих", "utf-8", "cp1251"),
    ],
)
def test_text_read_with_another_encoding_is_mojibake(text: str, written: str, read: str) -> None:
    broken = text.encode(written).decode(read, "replace")
    twice = broken.encode("utf-8").decode("cp1252", "replace")
    assert damage(text)["mojibake"] == 0
    assert damage(broken)["mojibake"] > 0
    assert damage(twice)["mojibake"] > 0


def test_quotation_mark_and_replacement_character_read_as_gbk_are_mojibake() -> None:
    for text in ("I don’t know", "lost \ufffd\ufffd bytes"):
        assert damage(text.encode().decode("gbk", "replace"))["mojibake"] > 0


def test_mojibake_of_other_encodings_is_what_ftfy_counts() -> None:
    from ftfy.badness import badness

    source = random.Random(0)
    texts = ["Füße, „so“ sagte – sie für 5 €", "¿Qué? ¡Olé!", "Zażółć gęślą", "Съешь же ещё", "naïve œuvre"]
    for text in texts:
        for read in ("cp1252", "latin-1", "cp1251", "mac_roman", "cp1250"):
            broken = list(text.encode().decode(read, "replace"))
            source.shuffle(broken)
            assert damage("".join(broken))["mojibake"] == badness("".join(broken))


def test_what_html_counts_the_cleaning_step_repairs() -> None:
    pieces = [
        "<p>",
        "</p>",
        "<br/>",
        "<a href=x>",
        "&amp;",
        "&nbsp",
        "&#8217;",
        "<!-- a -->",
        "<unk>",
        "a",
        " ",
        "<",
        "&",
    ]
    source = random.Random(1)
    for _ in range(2000):
        text = "".join(source.choices(pieces, k=6))
        if damage(text)["HTML"]:
            assert clean(text, ["strip_html"]) != text
    assert damage(clean("<p>Tom &amp; Jerry</p><br>", ["strip_html"]))["HTML"] == 0


ANYTHING = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("<>&#;/`{}:!- \n\t\r\0\x85\x1c\ufeff\ufffd\u202e\ufffe眉鈥锟斤拷烫Ã©Â€ГВњıſKpbramlt39"),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ANYTHING, max_size=8))
@example(["a `<br>` <br>", "```\n<br>\n``` <br> `", "&amp\n", "\x1c \x1f", "a\ufeff", "", "<P\u2003x>", "Ã \x1c"])
def test_a_column_counts_what_its_texts_count(texts: list[str]) -> None:
    table = damage_of(pl.Series("x", texts, dtype=pl.String))
    assert table.columns == [*(one.name for one in measures()), VISIBLE]
    assert table.rows(named=True) == [{**damage(text), VISIBLE: visible_characters(text)} for text in texts]


def test_null_counts_as_null() -> None:
    table = damage_of(pl.Series(["a", None, "\ufffd"], dtype=pl.String))
    assert table["replacement characters"].to_list() == [0, None, 1]
    assert table["lone surrogates"].to_list() == [0, None, 0]
    assert table[VISIBLE].to_list() == [1, None, 1]


def test_invisible_characters_are_those_of_unicode() -> None:
    invisible = regex.compile(r"[\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cc}\u2800]")
    for start in range(0, 0x110000, 0x100):
        block = "".join(chr(code) for code in range(start, start + 0x100) if not 0xD800 <= code < 0xE000)
        assert visible_characters(block) == len(invisible.sub("", block)), hex(start)


def test_characters_are_counted_by_their_category() -> None:
    import unicodedata

    names = {
        "lone surrogates": lambda code: unicodedata.category(chr(code)) == "Cs",
        "private use characters": lambda code: unicodedata.category(chr(code)) == "Co",
        "noncharacters": lambda code: code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF,
        "control characters": lambda code: unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\0\t\n\r",
    }
    for start in range(0, 0x110000, 0x400):
        codes = range(start, start + 0x400)
        counts = damage("".join(map(chr, codes)))
        for name, belongs in names.items():
            assert counts[name] == sum(map(belongs, codes)), (name, hex(start))
