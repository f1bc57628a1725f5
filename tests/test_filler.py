"""Filler and markers: each kind is found where it is, in a text as in a column, and texts of many kinds are none."""

import base64
import random
import re

import polars as pl
import pytest

from graft import filler
from graft.damage import expressions

TEXTS = [
    "",
    "none of them came; null results are results, and N/A was the answer",
    ":) <3 😀 ¯\\_(ツ)_/¯",
    "It cost 100% more, s. p. 5; 50 %d",
    "f(x) = {x: x > 0}, \\frac{a}{b}, {a, b}, ${x",
    "Use `{{ name }}` and `%s`, or:\n```\n<|x|> is not here ${y}\n```",
    "### Results\nThe response: fine. Human: who? List[PAD_2]",
    "https://example.org/a/very/long/path/with-many-words-in-it/and/a/number/20260101/page.html?x=1",
    "sha256 " + "0123456789abcdef" * 4,
    "".join(random.Random(0).choices("ACGT", k=200)),
    "/home/Anna/Projects/MyShop2/src/main/java/com/example/shop/controllers/v2/OrderController7",
    "https://example.org/Library/Books2024/Part2Chapter3/TheLongestNameOfAllTheBooksInTheWholeLibrary12/Index",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "RechtsschutzversicherungsgesellschaftenRindfleischetikettierungsueberwachung2",
    "the nominees1920s1930s1940s1950s1960s1970s1980s1990s2000s2010s2020sSee",
    "as in ```\niVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg\n```",
    "味道不错，送餐快。",
    "test",
    "no no no no no no no",
    "ha ha ha ha ha ha ha ha ha, that was a good one",
    "hahahahahahahahahahahaha",
    "0 0 0 0 0 0 1 0 0 0 0 0",
    "a | b | c\n" + "\n".join(f"{n} | {n * n} | {n**3 % 97}" for n in range(60)),
]
FILLER = [
    ("none", "placeholders"),
    (" N/A. ", "placeholders"),
    ("[deleted]", "placeholders"),
    ("#REF!", "placeholders"),
    ("-", "placeholders"),
    ("???", "placeholders"),
    ("。。。", "placeholders"),
    ("asdf", "placeholders"),
    ("[object Object]", "placeholders"),
    ("Lorem ipsum dolor", "filler text"),
    ("Dear {{ customer.name }},", "template variables"),
    ("Dear {first_name},", "template variables"),
    ("Dear %s, your order %(number)s", "template variables"),
    ("Yours, [Your Name]", "template variables"),
    ("{% if user %}Hello{% endif %}", "template variables"),
    ("see ${order.id}", "template variables"),
    ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 3, "encoded data"),
    ("It says SGVsbG8sIHRoaXMgaXMgYSBsaW5lIG9mIHRleHQgdGhhdCBzb21lYm9keSBlbmNvZGVk here.", "encoded data"),
    ("0123456789abcdef" * 4, "encoded data"),
    ("It begins with 01" + "0" * 80 + ".", "encoded data"),
    ("Call 0x" + "0123456789ABCDEF" * 5 + " now", "encoded data"),
    ("![x](data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAMgAAADICAYAAACtWK6e)", "encoded data"),
    ("Hi<|im_end|>\n<|im_start|>user", "role markers"),
    ("[INST] Hi [/INST]", "role markers"),
    ("Below is it.\n### Instruction:\nSay hi", "role markers"),
    ("spam " * 60, filler.REPEATED),
    ("good " * 10, filler.REPEATED),
    ("very good, " * 8, filler.REPEATED),
    ("好吃" * 60, filler.REPEATED),
    ("This page was left empty on purpose by nobody at all.\n" * 40, filler.REPEATED),
]


def found(texts: list[str | None]) -> list[dict[str, int]]:
    """Return what is counted in each text."""
    series = pl.Series("text", texts, dtype=pl.String)
    asked = series.to_frame().lazy().select(**expressions("text", filler.measures())).collect()
    names = [one.name for one in filler.measures()]
    further = filler.repetitions(series).alias(filler.REPEATED), filler.encodings(series).alias(filler.ENCODED)
    counts = asked.select(names).with_columns(*further)
    return [{name: count for name, count in row.items() if count} for row in counts.iter_rows(named=True)]


def test_texts_that_say_something_are_no_filler() -> None:
    assert found(TEXTS) == [{}] * len(TEXTS)


def test_each_kind_is_found_alone() -> None:
    names = [set(counts) for counts in found([text for text, _ in FILLER])]
    assert names == [{kind} for _, kind in FILLER]


def test_a_missing_text_is_nothing_and_an_empty_column_too() -> None:
    assert found([None, "none", None]) == [{}, {"placeholders": 1}, {}]
    assert found([]) == []


@pytest.mark.parametrize("one", filler.measures(), ids=lambda one: one.name)
def test_python_reads_the_patterns_as_polars_does(one: filler.Measure) -> None:
    texts = [text for text, _ in FILLER] + TEXTS
    by_polars = pl.Series(texts).str.count_matches(one.pattern).to_list()
    assert by_polars == [len(list(re.finditer(one.pattern, text))) for text in texts]


def test_repetition_is_what_shrinks_tenfold_wherever_it_stands() -> None:
    dice = random.Random(0)
    prose = " ".join("".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(100))
    record = "the temperature of the water in the tank "
    table = "".join(record + "".join(dice.choices("0123456789abcdef", k=24)) + "\n" for _ in range(20))
    assert table.count(table[len(table) // 2 :][:12]) > 10
    assert found([table]) == [{}]
    assert [bool(one) for one in found([prose, prose + "ha" * 50, "ha" * 4000 + prose, "ha" * 30])] == [0, 0, 1, 0]


def test_lines_of_base64_are_found_whatever_was_encoded() -> None:
    dice = random.Random(0)
    lines = [base64.b64encode(dice.randbytes(51)).decode() for _ in range(500)]
    assert {len(one) for one in lines} == {68}
    missed = [one for one in found(lines) if one != {filler.ENCODED: 1}]
    assert len(missed) <= 10
    assert found(["\n".join(lines)]) == [{filler.ENCODED: 500 - len(missed)}]


def test_texts_say_the_same_but_for_signs() -> None:
    assert filler.says_the_same("The old house was sold.", "the old house... was SOLD!") is False  # too short
    assert filler.says_the_same("The old house was sold again.", "the old house was SOLD again!")
    assert not filler.says_the_same("The old house was sold again.", "The old horse was sold again.")
    assert not filler.says_the_same("." * 40, "." * 40)
