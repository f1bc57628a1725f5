"""Private data: values made from their rules are found whole, look-alikes are not, and nothing is left in clear.

The values come from `benchmarks/privacy.py`, which makes check digits by code of its own; python-stdnum is the second
route where the detectors use `idnumbers` or their own tables.
"""

from __future__ import annotations

import importlib
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.privacy import HARMLESS, KINDS, NATIONAL_IDS, cases, email, planted
from graft.privacy import KINDS as ALL_KINDS
from graft.privacy import Found, find, in_message, masked, redact
from graft.privacy.accounts import IBAN_CHARACTERS, iban_remainder, luhn
from graft.privacy.credentials import ISSUERS, entropy_bits
from graft.privacy.section import PrivacyConfig

ROOT = Path(__file__).parent.parent
BY_CHANCE = {"plain 16 digits", "sum", "order number", "row of numbers"}
"""Numbers of which one in fifty to one in thousands passes as a card, a phone number or an id."""
STDNUM = {
    "us.ssn": "us.ssn",
    "de.idnr": "de.idnr",
    "fr.nir": "fr.nir",
    "es.dni": "es.dni",
    "es.nie": "es.nie",
    "it.codice_fiscale": "it.codicefiscale",
    "cn.resident_id": "cn.ric",
    "in.aadhaar": "in_.aadhaar",
    "br.cpf": "br.cpf",
    "pl.pesel": "pl.pesel",
    "nl.bsn": "nl.bsn",
    "be.nrn": "be.nn",
    "ch.ahv": "ch.ssn",
    "se.personnummer": "se.personnummer",
    "fi.hetu": "fi.hetu",
    "no.fodselsnummer": "no.fodselsnummer",
    "cz.rodne_cislo": "cz.rc",
    "tr.tckn": "tr.tckimlik",
    "za.id": "za.idnr",
    "ca.sin": "ca.sin",
    "cl.rut": "cl.rut",
    "ro.cnp": "ro.cnp",
    "hr.oib": "hr.oib",
    "pt.nif": "pt.nif",
}
"""Our name of an id -> python-stdnum's module."""


def kinds_in(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in find(text)]


@pytest.mark.parametrize(("kind", "label", "make", "word"), list(cases()), ids=[case[1] for case in cases()])
def test_a_planted_value_is_found_whole_and_redacted(kind, label, make, word) -> None:
    rng = random.Random(f"test {label}")
    for _ in range(25):
        text, value = planted(rng, make, word)
        if label == "secret in URL":
            text = f"Use https://{value}@db.example.org/x now."
        assert (kind, value) in kinds_in(text), text
        assert value not in redact(text)[0]


@pytest.mark.parametrize("label", sorted(set(HARMLESS) - BY_CHANCE))
def test_numbers_and_codes_of_nobody_are_left_alone(label: str) -> None:
    rng = random.Random(f"test {label}")
    for _ in range(50):
        text, _ = planted(rng, HARMLESS[label], "")
        assert kinds_in(text) == []


@pytest.mark.parametrize("label", sorted(STDNUM))
def test_an_id_is_found_where_stdnum_takes_it_and_only_there(label: str) -> None:
    stdnum = importlib.import_module(f"stdnum.{STDNUM[label]}")
    make, shapes, _ = NATIONAL_IDS[label]
    word = dict.fromkeys((NATIONAL_IDS[label][2], NATIONAL_IDS.get(f"{label} plain", (0, 0, ""))[2]))
    rng = random.Random(f"stdnum {label}")
    lead = " ".join(one for one in word if one)
    agreed = 0
    for number in range(60):
        value = make(rng)
        if number % 2:
            places = [place for place, sign in enumerate(value) if sign.isdigit()]
            place = rng.choice(places[-4:])
            value = value[:place] + rng.choice("0123456789") + value[place + 1 :]
        shape = shapes[0]
        rest = iter(value)
        written = "".join(next(rest) if sign == "#" else sign for sign in shape)
        text = f"{lead} {written}"
        found = (label, written) in [(one.rule, text[one.start : one.end]) for one in find(text)]
        assert found == stdnum.is_valid(value), written
        agreed += found
    assert 30 <= agreed < 60 or label == "us.ssn"  # which has no check digit


def test_lengths_of_ibans_are_those_of_the_registry() -> None:
    from stdnum import numdb

    text = (Path(numdb.__file__).parent / "iban.dat").read_text(encoding="utf-8")
    registry = {}
    for country, form in re.findall(r'^([A-Z]{2}) .*?bban="([^"]+)"', text, re.MULTILINE):
        registry[country] = 4 + sum(int(count) for count in re.findall(r"([0-9]+)!?[nac]", form))
    assert len(registry) > 70
    assert {country: IBAN_CHARACTERS.get(country) for country in registry} == registry


@given(st.integers(0, 10**18 - 1), st.integers(0, 99))
def test_the_remainder_of_an_iban_is_that_of_stdnum(account: int, check: int) -> None:
    from stdnum.iso7064 import mod_97_10

    iban = f"DE{check:02}{account:018}"
    assert (iban_remainder(iban) == 1) == mod_97_10.is_valid(iban[4:] + iban[:4])


@given(st.text("0123456789", min_size=2, max_size=19))
def test_luhn_is_that_of_stdnum(digits: str) -> None:
    from stdnum import luhn as reference

    assert luhn(digits) == reference.is_valid(digits)


PIECES = st.one_of(
    st.text("0123456789", min_size=1, max_size=19),
    st.sampled_from(["-", " ", ".", "/", "(", ")", "+", ":", "@", "://", ", ", "\n", "\u2013", "\uff11\uff12", "，"]),
    st.sampled_from(["phone ", "SSN ", "cpf: ", "api_key=", "电话", "<EMAIL_1>", "<PHONE>", "card ", "a@b.org", "x"]),
    st.integers(0, 10**6).flatmap(
        lambda seed: st.sampled_from(
            [*KINDS.values(), *(make for make, _, _ in NATIONAL_IDS.values())],
        ).map(lambda make: make(random.Random(seed)))
    ),
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_redacted_text_has_nothing_found_and_spans_do_not_overlap(text: str) -> None:
    found = find(text)
    ends = [0] + [one.end for one in found]
    assert all(end <= one.start < one.end <= len(text) for end, one in zip(ends, found, strict=False))
    clean, counts = redact(text)
    assert find(clean) == []
    assert redact(clean) == (clean, {})
    assert sum(counts.values()) <= len(found)
    assert find(masked(text, found)) == []


def test_the_same_value_has_the_same_placeholder_all_over_a_row() -> None:
    row = {
        "prompt": "Write to Ann@Example.org or to bob@example.org, card 4111 1111 1111 1111.",
        "messages": [
            {"role": "user", "content": "It is ann@example.org and 4111-1111-1111-1111"},
            {"role": "assistant", "content": "Noted."},
        ],
        "tags": ["bob@example.org", "none"],
        "count": 3,
    }
    clean, counts = redact(row)
    assert clean == {
        "prompt": "Write to <EMAIL_1> or to <EMAIL_2>, card <CARD_1>.",
        "messages": [
            {"role": "user", "content": "It is <EMAIL_1> and <CARD_1>"},
            {"role": "assistant", "content": "Noted."},
        ],
        "tags": ["<EMAIL_2>", "none"],
        "count": 3,
    }
    assert counts == {"email": 2, "card": 1}
    assert redact("nothing here, 2019") == ("nothing here, 2019", {})


def test_numbers_and_keys_of_a_row_are_redacted_as_texts_are() -> None:
    card = 4111111111111111
    row = {"text": f"pay with {card}", "account": card, "more": [{"x": float(card), f"{card}": True}], "count": 3}
    clean, counts = redact(row | {"share": 0.5, "huge": 10**5000})
    assert clean == {
        "text": "pay with <CARD_1>",
        "account": "<CARD_1>",
        "more": [{"x": "<CARD_1>", "<CARD_1>": True}],
        "count": 3,
        "share": 0.5,
        "huge": 10**5000,
    }
    assert counts == {"card": 1}


def test_placeholders_that_a_row_has_keep_their_number() -> None:
    assert redact(["to <EMAIL_1> and c@d.org", "<EMAIL_3>, e@f.org"])[0] == [
        "to <EMAIL_1> and <EMAIL_2>",
        "<EMAIL_3>, <EMAIL_4>",
    ]


def test_secrets_that_differ_in_case_are_two() -> None:
    key = "gh" + "p_" + "aB3dE5gH79jK" * 3
    clean, counts = redact(f"{key} {key} {key[:-1]}k")
    assert clean == "<SECRET_1> <SECRET_1> <SECRET_2>"
    assert counts == {"secret": 2}


def test_what_may_be_shown_has_no_value_and_no_finding_tells_one() -> None:
    text = "mail ann@example.org, phone (212) 555-0123"
    found = find(text)
    assert masked(text, found) == "mail <EMAIL>, phone <PHONE>"
    assert found == [Found("email", "email", 5, 20), Found("phone", "phone", 28, 42)]
    assert "ann" not in repr(found)


def test_a_word_is_beside_a_number_only_if_no_value_stands_between() -> None:
    between = "ann.of.the.long.name@mail.example.org"
    assert kinds_in(f"phone or {between} 2125550123") == [("email", between)]
    assert find("phone or <EMAIL_1> 2125550123") == find("<PHONE_1> 2125550123") == []


def test_the_search_goes_on_in_the_rest_of_the_text() -> None:
    iban = "DE89 3704 0044 0532 0130 00"  # the registry's example
    assert kinds_in(f"{iban} 212 555 0123") == [("iban", iban), ("phone", "212 555 0123")]


def test_only_the_kinds_asked_for_are_found() -> None:
    text = "ann@example.org, 4111 1111 1111 1111, 203.0.113.7"
    assert [one.kind for one in find(text)] == ["email", "card", "ip"]
    for kind in ALL_KINDS:
        assert {one.kind for one in find(text, kinds=(kind,))} <= {kind}
    assert [one.kind for one in find(text, kinds=("ip",))] == ["ip"]


def test_the_more_specific_kind_wins() -> None:
    assert kinds_in("电话13812345678@qq.com") == [("email", "13812345678@qq.com")]
    assert kinds_in("电话13812345678") == [("phone", "13812345678")]
    assert kinds_in("postgres://app:tr4nsfer@10.1.2.3/db") == [("secret", "app:tr4nsfer"), ("ip", "10.1.2.3")]


def test_regions_say_which_national_numbers_are_known() -> None:
    text = "Rappelez au 06 12 34 56 78."
    assert kinds_in(text) == [("phone", "06 12 34 56 78")]
    assert find(text, regions=("US", "CN")) == []
    assert len(find("+33 6 12 34 56 78", regions=())) == 1
    assert find("612 34 56 78", regions=("FR",)) == []
    assert len(find("612 34 56 78", regions=("ES",))) == 1


def test_a_country_that_nobody_knows_is_refused() -> None:
    assert PrivacyConfig(regions=("ES", "US")).find("llama al 612 34 56 78")[0].kind == "phone"
    for code in ("UK", "us", "Spain"):
        with pytest.raises(ValidationError, match=f"no country has the code '{code}'; codes are those of ISO 3166"):
            PrivacyConfig(regions=("US", code))


def test_a_message_shows_neither_a_value_nor_half_of_one() -> None:
    mail, phone = "ann" + "@example.org", "+1 212 555 0123"
    assert in_message(f"found 'to {mail} or {phone}'") == "found 'to <EMAIL> or <PHONE>'"
    assert in_message(f"found 'to {mail[:9]}…") == "found 'to…"
    assert in_message(f"found 'call {phone[:10]}…") == "found 'call…"
    assert in_message(f"['ab{mail[:8]}...{mail[-6:]}', 'x']", ("email",)) == "… 'x']"
    assert in_message(f"found '{mail}…", kinds=()) == f"found '{mail}…"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my number is 5551234567", "5551234567"),
        ("Meine Nummer: 0171234567", "0171234567"),
        ("call me back on 5551234567.", "5551234567"),
        ("我的号码是5551234567", "5551234567"),
        ("your number is 2125550123", None),
        ("my order number is 2125550123", None),
        ("my phone number is 2125550123", "2125550123"),
        ("phone: 5550123, ask for Ann", "5550123"),
        ("call 555-0123", "555-0123"),
        ("lost 555-0123", None),
        ("(+44) 20 7946 0958", "(+44) 20 7946 0958"),
        ("0044 20 7946 0958", "0044 20 7946 0958"),
        ("open 06.12.2019 to 08.12.2019", None),
        ("他的手机13812345678，谢谢", "13812345678"),
        ("看到13812345678了", "13812345678"),
        ("bytes written: 13812345678", None),
        ("= 84834150134 + 62426244000", None),
        ("电话１３８－１２３４－５６７８", "１３８－１２３４－５６７８"),
        ("212-555-0123 x42", "212-555-0123"),
    ],
)
def test_a_number_is_a_phone_number_by_its_form_or_by_the_word_beside_it(text: str, value: str | None) -> None:
    assert kinds_in(text) == ([("phone", value)] if value else [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("PESEL 44051401359", "44051401359"),
        ("44051401359 (PESEL)", "44051401359"),
        ("44051401359", None),
        ('{"user_cpf":"12345678909"}', "12345678909"),
        ("user 12345678909", None),
        ("2001 2002 2003", None),
        ("9 4400 5140 1359 8 1234 1234 1234", None),
    ],
)
def test_plain_digits_are_an_id_beside_its_word_only(text: str, value: str | None) -> None:
    assert kinds_in(text) == ([("national_id", value)] if value else [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("at 203.0.113.7:8080", "203.0.113.7"),
        ("from 192.168.1.20/24", "192.168.1.20"),
        ("http://10.20.30.40/x", "10.20.30.40"),
        ("127.0.0.1 or 0.0.0.0, mask 255.255.255.0", None),
        ("section 12.10.3.14", None),
        ("see 1.2.3.4", None),
        ("Chrome/91.0.10.12", None),
        ("1.10.20.30.40", None),
        ("300.10.20.30", None),
        ("2001:db8:0:1::8a2e, then", "2001:db8:0:1::8a2e"),
        ("[fe80::1:2:3%eth0]", "fe80::1:2:3"),
        ("::1 and :: and a::b, 12:30:45, x[1::2]", None),
    ],
)
def test_an_address_names_one_machine(text: str, value: str | None) -> None:
    assert kinds_in(text) == ([("ip", value)] if value else [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ann@example.org.", "ann@example.org"),
        ("邮箱是ann@example.org，谢谢", "ann@example.org"),
        ("jürgen@büro.de", "jürgen@büro.de"),
        ("ann (at) example (dot) org", "ann (at) example (dot) org"),
        ("?to=ann%40example.org&x", "ann%40example.org"),
        ("icon@2x.png, @ann, 3@4, ann@host", None),
        ("git clone git@example.org:a/b", None),
    ],
)
def test_email_addresses(text: str, value: str | None) -> None:
    assert kinds_in(text) == ([("email", value)] if value else [])


def test_years_in_a_row_are_no_id() -> None:
    rows = [f"{year} {year + step} {year + 2 * step}" for year in range(2000, 2060) for step in (1, 2, 4, 5)]
    from stdnum.in_ import aadhaar

    assert sum(aadhaar.is_valid(row) for row in rows) > 9
    assert [row for row in rows if find(row)] == []


def test_a_card_of_a_rare_length_needs_a_word() -> None:
    assert kinds_in("no 4222222222222") == []
    assert kinds_in("visa 4222222222222") == [("card", "4222222222222")]
    assert kinds_in("4111 1111 1111 1112") == []
    assert kinds_in("12 4111 1111 1111 1111 1234") == []
    assert kinds_in("card 4111 1111 1111 1111 123") == [("card", "4111 1111 1111 1111")]
    assert kinds_in("4111 1111 1111 1111 05/27") == [("card", "4111 1111 1111 1111")]


@pytest.mark.parametrize("card", ["4111111111111111", "4111 1111 1111 1111", "3782 822463 10005"])
@pytest.mark.parametrize("before", ["2 ", "order 12 ", "2 x 3 ", "1234 5678 ", "7 tickets, 12 34 "])
def test_a_card_after_another_number_is_found(before: str, card: str) -> None:
    assert kinds_in(f"{before}{card} please") == [("card", card)]
    assert kinds_in(f"2.{card}") == kinds_in(f"1-{card}") == []  # one number with signs in it


def test_a_secret_by_its_name_must_look_drawn() -> None:
    random_key = "9f86d081884c7d659a2feaa0c55ad015"
    assert kinds_in(f"token = '{random_key}'") == [("secret", random_key)]
    assert kinds_in(f"md5 {random_key}") == []
    assert kinds_in("token = aaaaaaaa11111111aaaaaaaa") == []
    assert kinds_in("api_key: your_api_key_goes_here_1") == []
    assert kinds_in("password = settings.PASSWORD_FOR_2024_LOGIN") == []
    assert kinds_in("gh" + "p_" + "x" * 36) == []
    assert kinds_in("https://user:password@example.org/") == []
    assert entropy_bits("abcdabcd") == 2.0


def test_a_private_key_is_one_secret_also_when_cut_off() -> None:
    begin, body = "-----BEGIN EC " + "PRIVATE KEY-----", "\n".join(["MHcCAQEEIBzQ0a" + "9" * 50] * 3)
    whole = f"{begin}\n{body}\n-----END EC " + "PRIVATE KEY-----"
    assert kinds_in(f"see {whole} there") == [("secret", whole)]
    assert kinds_in(f"see {begin}\n{body}")[0][0] == "secret"
    assert kinds_in(f"A file that starts with {begin} is a key.") == []


def test_offsets_hold_in_texts_of_other_scripts() -> None:
    text = "😀 ４１１１　１１１１　１１１１　１１１１。"
    assert kinds_in(text) == [("card", "４１１１　１１１１　１１１１　１１１１")]
    assert redact([text, "4111111111111111"])[0] == ["😀 <CARD_1>。", "<CARD_1>"]


def test_every_form_of_a_token_is_a_group_of_its_own() -> None:
    assert all(re.compile(form).groups == 0 for form in ISSUERS.values())


@pytest.mark.parametrize("path", ["benchmarks/privacy.py", "src/graft/privacy/credentials.py", "tests/test_privacy.py"])
def test_no_source_holds_what_a_scanner_would_take_for_a_live_key(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    issued = [one for one in find(text, kinds=("secret",)) if one.rule in ISSUERS or one.rule == "private_key"]
    assert [text[: one.start].count("\n") + 1 for one in issued] == []


def test_makers_are_deterministic() -> None:
    assert email(random.Random(3)) == email(random.Random(3))
