"""Languages: what is clear is named, what is short or no language is unknown, and nothing is asked of a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graft.languages import LEAST_LETTER_BYTES, MOST_CHARACTERS, UNKNOWN, known, languages, meant

TEXTS = {
    "en": "The delivery was late again, and nobody answered the phone.",
    "de": "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    "zh": "超级快就送到了，这么冷的天气骑士们辛苦了。",
    "fr": "Bonjour, je voudrais réserver une table pour deux personnes.",
    "ru": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "ja": "味はとても良かったですが、届くのが遅かったです。",
    "ar": "لم أتلق أي رد من خدمة العملاء حتى الآن",
}


def found(text: str) -> str:
    return languages([text])[0][0]


def test_clear_texts_are_named_in_order_with_a_score() -> None:
    answers = languages(TEXTS.values())
    assert [language for language, _ in answers] == list(TEXTS)
    assert all(0.5 < score <= 1 for _, score in answers)
    assert set(TEXTS) <= set(known())


@pytest.mark.parametrize(
    "text",
    ["", "  ", "ok", "thank you", "12:30 p.m.", "😀😀😀", "https://example.org/the-quick-brown-fox @thequickbrownfox"],
)
def test_nobody_can_tell(text: str) -> None:
    assert languages([text]) == [(UNKNOWN, 0.0)]


@pytest.mark.parametrize("text", ["Oberon Kavalas Timurin Belasko", "const foo = bar.map(x => x.id).filter(Boolean)"])
def test_names_and_code_are_unknown_with_the_score_of_the_best_guess(text: str) -> None:
    ((language, score),) = languages([text])
    assert language == UNKNOWN
    assert 0 < score < 0.5


def test_bytes_of_letters_decide_what_is_short() -> None:
    text = "Das ist ja wirklich schön hier"
    letters = [sum(len(sign.encode()) for sign in text[:end] if sign.isalpha()) for end in range(len(text) + 1)]
    judged = [languages([text[:end]])[0] != (UNKNOWN, 0.0) for end in range(len(text) + 1)]
    assert judged == [count >= LEAST_LETTER_BYTES for count in letters]


def test_nul_surrogates_addresses_and_length_do_not_change_the_answer() -> None:
    english = TEXTS["en"]
    assert found("\0\ud83d @benutzername https://beispiel.de/strasse " + english) == "en"
    assert languages([english * 100]) == languages([(english * 100)[:MOST_CHARACTERS]])


@pytest.mark.parametrize(
    ("name", "code"),
    [("english", "en"), ("German", "de"), ("chinesse", "zh"), ("en-US", "en"), ("deu", "de"), ("xx", None)],
)
def test_a_name_or_a_longer_code_means_a_language(name: str, code: str | None) -> None:
    assert meant(name) == code


def test_another_process_gives_the_same_answers() -> None:
    code = f"import json; from graft.languages import languages; print(json.dumps(languages({list(TEXTS.values())!r})))"
    source = Path(__file__).parent.parent / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert [tuple(one) for one in json.loads(done.stdout)] == languages(TEXTS.values())
