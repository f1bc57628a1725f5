"""What the privacy detectors find and what they take by mistake: planted values of each kind, numbers that are none.

Every value is made here from its published rule (check digits, prefixes, lengths, in code of its own, not in the
detectors' libraries), deterministically, and planted in sentences, JSON, URLs, tables and Chinese text. "Found" means
the right kind with exactly the value's characters. Beside them numbers and codes that are not private (ISBN, dates,
prices, order numbers, versions, hashes, ...), and, with ``--data``, every text of JSON Lines files, where each finding
is printed masked with its place, for a person to judge. ``residue`` is what the detectors find in the redacted texts,
``changed`` how many of them a second redaction changes. Nothing that looks like a live key stands in this file: keys
are put together when it runs.

    .venv/bin/python benchmarks/privacy.py [--each 40] [--seed 0] [--data data/train [--show]]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

Make = Callable[[random.Random], str]
LETTERS, HEX = string.ascii_uppercase, "0123456789abcdef"
BASE62, BASE64URL = string.ascii_letters + string.digits, string.ascii_letters + string.digits + "-_"


def digits(rng: random.Random, count: int, first: str = "0123456789") -> str:
    return rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def signs(rng: random.Random, alphabet: str, count: int) -> str:
    """Return random characters, with a digit and a letter among them, as drawn keys of this length have."""
    while True:
        text = "".join(rng.choice(alphabet) for _ in range(count))
        if any(sign.isdigit() for sign in text) and any(sign.isalpha() for sign in text):
            return text


def shaped(number: str, shape: str) -> str:
    """Return ``number`` with the separators of ``shape``, whose ``#`` stand for its characters."""
    rest = iter(number)
    return "".join(next(rest) if sign == "#" else sign for sign in shape)


def weighted(number: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True))


def luhn_digit(number: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str(-total % 10)


def verhoeff_digit(number: str) -> str:
    """Return the check digit of Verhoeff's scheme: products in the dihedral group of order ten."""

    def product(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    permutation = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permutation) < 8:
        permutation.append([permutation[-1][permutation[1][digit]] for digit in range(10)])
    check = 0
    for place, digit in enumerate(reversed(number), start=1):
        check = product(check, permutation[place % 8][int(digit)])
    return str(next(digit for digit in range(10) if product(digit, check) == 0))


def mod_11_10_digit(number: str) -> str:
    """Return the check digit of ISO 7064 MOD 11,10."""
    product = 10
    for digit in number:
        product = (int(digit) + product) % 10 or 10
        product = product * 2 % 11
    return str((11 - product) % 10)


def birth(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(1950, 1999), rng.randint(1, 12), rng.randint(1, 28)


def yymmdd(rng: random.Random) -> str:
    year, month, day = birth(rng)
    return f"{year % 100:02}{month:02}{day:02}"


def ddmmyy(rng: random.Random) -> str:
    year, month, day = birth(rng)
    return f"{day:02}{month:02}{year % 100:02}"


def us_ssn(rng: random.Random) -> str:
    return f"{rng.choice([*range(1, 666), *range(667, 900)]):03}{rng.randint(1, 99):02}{rng.randint(1, 9999):04}"


def gb_nino(rng: random.Random) -> str:
    return rng.choice("ACEHJLMPRSWXY") + rng.choice("ABCEHJLMPRSWXY") + digits(rng, 6) + rng.choice("ABCD")


def de_idnr(rng: random.Random) -> str:
    while True:
        chosen = rng.sample("0123456789", 9)
        number = [*chosen, rng.choice(chosen)]
        rng.shuffle(number)
        if number[0] != "0":
            return "".join(number) + mod_11_10_digit("".join(number))


def fr_nir(rng: random.Random) -> str:
    year, month, _ = birth(rng)
    department, place = rng.choice([*range(1, 20), *range(21, 96)]), rng.randint(1, 580)
    number = f"{rng.randint(1, 2)}{year % 100:02}{month:02}{department:02}{place:03}{rng.randint(1, 999):03}"
    return number + f"{97 - int(number) % 97:02}"


DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def es_dni(rng: random.Random) -> str:
    number = digits(rng, 8)
    return number + DNI_LETTERS[int(number) % 23]


def es_nie(rng: random.Random) -> str:
    first, number = rng.choice("XYZ"), digits(rng, 7)
    return first + number + DNI_LETTERS[int(str("XYZ".index(first)) + number) % 23]


def it_codice_fiscale(rng: random.Random) -> str:
    odd = dict(zip(string.digits, (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True))
    values = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    odd |= dict(zip(LETTERS, values, strict=True))
    year, month, day = birth(rng)
    name = "".join(rng.choice("BCDFGLMNPRSTV") for _ in range(6))
    code = f"{name}{year % 100:02}{'ABCDEHLMPRST'[month - 1]}{day + rng.choice((0, 40)):02}H501"
    even = {sign: place for alphabet in (string.digits, LETTERS) for place, sign in enumerate(alphabet)}
    total = sum((odd if place % 2 == 0 else even)[sign] for place, sign in enumerate(code))
    return code + LETTERS[total % 26]


def cn_resident_id(rng: random.Random) -> str:
    year, month, day = birth(rng)
    place = rng.choice(("110101", "110102", "310101", "120101"))
    number = f"{place}{year}{month:02}{day:02}{rng.randint(1, 999):03}"
    rest = sum(int(digit) * 2 ** (17 - index) for index, digit in enumerate(number)) % 11
    return number + "10X98765432"[rest]


def in_aadhaar(rng: random.Random) -> str:
    number = digits(rng, 11, "23456789")
    return number + verhoeff_digit(number)


def br_cpf(rng: random.Random) -> str:
    number = digits(rng, 9)
    for length in (10, 11):
        rest = weighted(number, tuple(range(length, 1, -1))) % 11
        number += "0" if rest < 2 else str(11 - rest)
    return number


def pl_pesel(rng: random.Random) -> str:
    number = yymmdd(rng) + digits(rng, 4)
    return number + str(-weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10)


def nl_bsn(rng: random.Random) -> str:
    while True:
        number = digits(rng, 8, "12345678")
        check = weighted(number, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
        if check < 10:
            return number + str(check)


def be_nrn(rng: random.Random) -> str:
    number = yymmdd(rng) + f"{rng.randint(1, 997):03}"
    return number + f"{97 - int(number) % 97:02}"


def ch_ahv(rng: random.Random) -> str:
    number = "756" + digits(rng, 9)
    return number + str(-weighted(number, (1, 3) * 6) % 10)


def se_personnummer(rng: random.Random) -> str:
    number = yymmdd(rng) + f"{rng.randint(1, 999):03}"
    return number + luhn_digit(number)


def fi_hetu(rng: random.Random) -> str:
    number, serial = ddmmyy(rng), f"{rng.randint(2, 899):03}"
    return f"{number}-{serial}" + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number + serial) % 31]


def no_fodselsnummer(rng: random.Random) -> str:
    while True:
        number = ddmmyy(rng) + f"{rng.randint(0, 499):03}"
        first = -weighted(number, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
        second = -weighted(number + str(first % 10), (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
        if first < 10 and second < 10:
            return number + str(first) + str(second)


def cz_rodne_cislo(rng: random.Random) -> str:
    while True:
        number = yymmdd(rng) + digits(rng, 3)  # nine digits until 1953, and no check digit
        if number >= "54" and int(number) % 11 < 10:
            return number + str(int(number) % 11)


def tr_tckn(rng: random.Random) -> str:
    number = digits(rng, 9, "123456789")
    odd, even = sum(map(int, number[::2])), sum(map(int, number[1::2]))
    number += str((7 * odd - even) % 10)
    return number + str(sum(map(int, number)) % 10)


def kr_rrn(rng: random.Random) -> str:
    number = yymmdd(rng) + rng.choice("12") + digits(rng, 5)
    return number + str((11 - weighted(number, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10)


def za_id(rng: random.Random) -> str:
    number = yymmdd(rng) + digits(rng, 4) + "08"
    return number + luhn_digit(number)


def ca_sin(rng: random.Random) -> str:
    number = digits(rng, 8, "1234567")
    return number + luhn_digit(number)


def tw_id(rng: random.Random) -> str:
    letter = rng.choice(LETTERS)
    code = 10 + "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(letter)
    number = rng.choice("12") + digits(rng, 7)
    total = code // 10 + code % 10 * 9 + weighted(number, (8, 7, 6, 5, 4, 3, 2, 1))
    return letter + number + str(-total % 10)


def cl_rut(rng: random.Random) -> str:
    number = digits(rng, 8, "12")
    rest = -weighted(number, (3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return number + ("K" if rest == 10 else str(rest))


def jp_my_number(rng: random.Random) -> str:
    number = digits(rng, 11)
    rest = weighted(number, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return number + ("0" if rest < 2 else str(11 - rest))


def ro_cnp(rng: random.Random) -> str:
    number = rng.choice("12") + yymmdd(rng) + f"{rng.randint(1, 46):02}" + f"{rng.randint(1, 999):03}"
    rest = weighted(number, (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return number + str(1 if rest == 10 else rest)


def hr_oib(rng: random.Random) -> str:
    number = digits(rng, 10)
    return number + mod_11_10_digit(number)


def pt_nif(rng: random.Random) -> str:
    number = rng.choice("12") + digits(rng, 7)
    rest = -weighted(number, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return number + str(rest % 10 if rest < 10 else 0)


NATIONAL_IDS: dict[str, tuple[Make, tuple[str, ...], str]] = {
    "us.ssn": (us_ssn, ("###-##-####",), ""),
    "us.ssn plain": (us_ssn, ("#########", "### ## ####"), "SSN"),
    "gb.nino": (gb_nino, ("#########", "## ## ## ## #"), ""),
    "de.idnr": (de_idnr, ("## ### ### ###",), ""),
    "de.idnr plain": (de_idnr, ("###########",), "Steuer-ID"),
    "fr.nir": (fr_nir, ("###############", "# ## ## ## ### ### ##"), ""),
    "es.dni": (es_dni, ("#########", "########-#"), ""),
    "es.nie": (es_nie, ("#########", "#-#######-#"), ""),
    "it.codice_fiscale": (it_codice_fiscale, ("################",), ""),
    "cn.resident_id": (cn_resident_id, ("##################",), ""),
    "in.aadhaar": (in_aadhaar, ("#### #### ####", "####-####-####"), ""),
    "in.aadhaar plain": (in_aadhaar, ("############",), "Aadhaar"),
    "br.cpf": (br_cpf, ("###.###.###-##",), ""),
    "br.cpf plain": (br_cpf, ("###########",), "CPF"),
    "pl.pesel": (pl_pesel, ("###########",), "PESEL"),
    "nl.bsn": (nl_bsn, ("#########",), "BSN"),
    "be.nrn": (be_nrn, ("##.##.##-###.##",), ""),
    "ch.ahv": (ch_ahv, ("###.####.####.##",), ""),
    "se.personnummer": (se_personnummer, ("######-####",), ""),
    "fi.hetu": (fi_hetu, ("###########",), ""),
    "no.fodselsnummer": (no_fodselsnummer, ("###########", "###### #####"), ""),
    "cz.rodne_cislo": (cz_rodne_cislo, ("######/####",), ""),
    "tr.tckn": (tr_tckn, ("###########",), "TC Kimlik No"),
    "kr.rrn": (kr_rrn, ("######-#######",), ""),
    "za.id": (za_id, ("#############", "###### #### ###"), ""),
    "ca.sin": (ca_sin, ("### ### ###", "###-###-###", "#########"), "SIN"),
    "tw.id": (tw_id, ("##########",), ""),
    "cl.rut": (cl_rut, ("##.###.###-#",), ""),
    "jp.my_number": (jp_my_number, ("############", "#### #### ####"), "マイナンバー"),
    "ro.cnp": (ro_cnp, ("#############",), "CNP"),
    "hr.oib": (hr_oib, ("###########",), "OIB"),
    "pt.nif": (pt_nif, ("#########", "### ### ###"), "NIF"),
}
"""Id -> its maker, the ways in which it is written, and the word beside it where it is not found without one."""


def email(rng: random.Random) -> str:
    first, last = (
        rng.choice(("anna", "li.wei", "j", "o'neil", "Marta", "büro")),
        rng.choice(("k", "smith", "x_y", "42")),
    )
    host = rng.choice(("mail.example.org", "uni-bonn.de", "example.co.uk", "a-b.io", "firma.museum"))
    return f"{first}{rng.choice(('.', '_', '+', ''))}{last}{rng.choice(('@', '@', '@', '%40', ' [at] '))}{host}"


def phone(rng: random.Random) -> str:
    us = f"{rng.choice(('212', '415', '312', '617', '206'))}{rng.randint(200, 998):03}{digits(rng, 4)}"
    gb, fr = "79" + digits(rng, 8, "1234567"), "6" + digits(rng, 8, "123456")
    de, cn = (
        rng.choice(("30", "89", "40")) + digits(rng, 7, "23456"),
        rng.choice(("138", "139", "186")) + digits(rng, 8),
    )
    number, shapes = rng.choice(
        (
            (
                us,
                ("(###) ###-####", "###-###-####", "###.###.####", "+1 ### ### ####", "+1##########", "1-###-###-####"),
            ),
            (gb, ("0#### ######", "+44 #### ######", "+44 (0)#### ######", "0##########")),
            (fr, ("0# ## ## ## ##", "+33 # ## ## ## ##", "0#.##.##.##.##")),
            (de, ("0##/#######", "+49 ## #######", "0## #######", "(0##) #######")),
            (cn, ("+86 ### #### ####", "###-####-####", "### #### ####")),
        )
    )
    return shaped(number, rng.choice(shapes))


def card(rng: random.Random) -> str:
    prefix, length, shapes = rng.choice(
        (
            ("4", 16, ("################", "#### #### #### ####", "####-####-####-####")),
            (str(rng.randint(51, 55)), 16, ("################", "#### #### #### ####")),
            (str(rng.randint(2221, 2720)), 16, ("#### #### #### ####", "####.####.####.####")),
            (rng.choice(("34", "37")), 15, ("###############", "#### ###### #####")),
            (rng.choice(("6011", "65")), 16, ("#### #### #### ####",)),
            (str(rng.randint(3528, 3589)), 16, ("################",)),
            ("36", 14, ("#### ###### ####",)),
            ("62", 19, ("###################", "#### #### #### #### ###")),
        )
    )
    number = prefix + digits(rng, length - 1 - len(prefix))
    return shaped(number + luhn_digit(number), rng.choice(shapes))


def iban(rng: random.Random) -> str:
    country, account = rng.choice(
        (
            ("DE", digits(rng, 18)),
            ("GB", "".join(rng.choice(LETTERS) for _ in range(4)) + digits(rng, 14)),
            ("FR", digits(rng, 10) + signs(rng, LETTERS + string.digits, 11) + digits(rng, 2)),
            ("NO", digits(rng, 11)),
            ("NL", "".join(rng.choice(LETTERS) for _ in range(4)) + digits(rng, 10)),
            ("PL", digits(rng, 24)),
            ("MT", "MALT" + digits(rng, 5) + signs(rng, LETTERS + string.digits, 18)),
        )
    )
    text = "".join(str(string.digits.index(s) if s.isdigit() else LETTERS.index(s) + 10) for s in account + country)
    number = f"{country}{98 - int(text + '00') % 97:02}{account}"
    grouped = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    return rng.choice((number, grouped, grouped, number.lower()))


def ip(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return ".".join(str(rng.choice((rng.randint(11, 126), rng.randint(128, 223)))) for _ in range(4))
    groups = [f"{rng.choice((0x2001, 0x2A02, 0x2600, 0xFD12)):x}", *(f"{rng.randint(1, 0xFFFF):x}" for _ in range(7))]
    return rng.choice((":".join(groups), ":".join(groups[:3]) + "::" + groups[-1], ":".join(groups).upper()))


def secret(rng: random.Random) -> str:
    jwt = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": digits(rng, 8), "name": "x"})
    )
    pem = "\n".join(signs(rng, BASE62 + "+/", 64) for _ in range(4))
    return rng.choice(
        (
            lambda: "AK" + "IA" + "".join(rng.choice(LETTERS + "234567") for _ in range(16)),
            lambda: "gh" + rng.choice("pousr") + "_" + signs(rng, BASE62, 36),
            lambda: "github" + "_pat_" + signs(rng, BASE62, 22) + "_" + signs(rng, BASE62, 59),
            lambda: "gl" + "pat-" + signs(rng, BASE64URL, 20),
            lambda: "xo" + "xb-" + digits(rng, 12) + "-" + digits(rng, 12) + "-" + signs(rng, BASE62, 24),
            lambda: rng.choice("sr") + "k_" + "live_" + signs(rng, BASE62, 24),
            lambda: "AI" + "za" + signs(rng, BASE62, 35),
            lambda: "sk-" + "proj-" + signs(rng, BASE62 + "_", 64) + "x",
            lambda: "sk-" + "ant-" + "api03-" + signs(rng, BASE62, 93),
            lambda: "h" + "f_" + "".join(rng.choice(string.ascii_letters) for _ in range(34)),
            lambda: "np" + "m_" + signs(rng, BASE62, 36),
            lambda: "S" + "G." + signs(rng, BASE62, 22) + "." + signs(rng, BASE62, 43),
            lambda: jwt + "." + signs(rng, BASE62, 43),
            lambda: "-----BEGIN " + "RSA PRIVATE KEY-----\n" + pem + "\n-----END " + "RSA PRIVATE KEY-----",
        )
    )()


def named_secret(rng: random.Random) -> str:
    return signs(rng, rng.choice((BASE62, HEX)), rng.choice((32, 40)))


KINDS: dict[str, Make] = {"email": email, "phone": phone, "card": card, "iban": iban, "ip": ip, "secret": secret}
CARRIERS = (
    "Please note {word}{value} for later.",
    "I wrote it down twice ({word}{value}), once in 2019 and once on 12 May.",
    "{word}{value}",
    "Here it is: {word}{value}, thanks!",
    "Bitte notieren Sie: {word}{value}.",
    "客户留下的是{word}{value}，请尽快处理。",
    "ID;amount;{word}{value};3.50",
    '{{"amount": 12, "{key}": "{value}", "ok": true}}',
    "https://shop.example/order?page=3&{key}={value}&x=1",
    "| 3 | {word}{value} | 7 |",
)
"""Where values are planted: ``{word}`` is empty or a word and a colon, ``{key}`` the word or ``value``."""


def planted(rng: random.Random, make: Make, word: str) -> tuple[str, str]:
    """Return a text and the value in it."""
    value, carrier = make(rng), rng.choice(CARRIERS)
    if "https://" in carrier and (" " in value or "\n" in value or "+" in value):
        carrier = CARRIERS[0]
    return carrier.format(value=value, word=f"{word}: " if word else "", key=word or "value"), value


def cases() -> Iterator[tuple[str, str, Make, str]]:
    """Yield kind, label, maker and the word beside the value."""
    for kind, make in KINDS.items():
        yield kind, kind, make, ""
    yield "phone", "phone, plain", lambda rng: "415" + str(rng.randint(200, 998)) + digits(rng, 4), "phone"
    yield "phone", "phone, invented", lambda rng: "555" + digits(rng, 7), "phone number"
    yield "secret", "secret, named", named_secret, "api_key"
    yield "secret", "secret in URL", lambda rng: "admin:" + signs(rng, BASE62, 12), ""
    for label, (make, shapes, word) in NATIONAL_IDS.items():
        yield "national_id", label, lambda rng, make=make, shapes=shapes: shaped(make(rng), rng.choice(shapes)), word


def isbn_13(rng: random.Random) -> str:
    number = rng.choice(("978", "979")) + digits(rng, 9)
    return shaped(number + str(-weighted(number, (1, 3) * 6) % 10), rng.choice(("#############", "###-#-####-####-#")))


def issn(rng: random.Random) -> str:
    number = digits(rng, 7)
    rest = -weighted(number, (8, 7, 6, 5, 4, 3, 2)) % 11
    return f"{number[:4]}-{number[4:]}{'X' if rest == 10 else rest}"


HARMLESS: dict[str, Make] = {
    "ISBN": isbn_13,
    "ISSN": issn,
    "date": lambda rng: "{1:02}{3}{2:02}{3}{0}".format(*birth(rng), rng.choice("./-")),
    "ISO date and time": lambda rng: (
        "{}-{:02}-{:02}T".format(*birth(rng)) + f"{rng.randint(10, 23)}:{rng.randint(10, 59)}:07"
    ),
    "years": lambda rng: f"{rng.randint(1900, 2024)}{rng.choice(('-', '–', ' - ', ' '))}{rng.randint(1900, 2024)}",
    "price": lambda rng: f"${rng.randint(1, 999)},{digits(rng, 3)},{digits(rng, 3)}.{digits(rng, 2)}",
    "thousands by spaces": lambda rng: f"{rng.randint(1, 999)} {digits(rng, 3)} {digits(rng, 3)}",
    "score": lambda rng: f"{rng.randint(0, 7)}-{rng.randint(0, 7)}, {rng.randint(0, 7)}-{rng.randint(0, 7)} (7-5)",
    "order number": lambda rng: f"order {digits(rng, rng.randint(7, 12), '123456789')}",
    "plain 16 digits": lambda rng: digits(rng, 16, "123456789"),
    "product code": lambda rng: f"{rng.choice(LETTERS)}{rng.choice(LETTERS)}-{digits(rng, 5)}",
    "EAN-13": lambda rng: rng.choice("45") + digits(rng, 12),
    "Unix time": lambda rng: str(rng.randint(1_000_000_000, 1_800_000_000)) + rng.choice(("", "000")),
    "version": lambda rng: (
        f"version {rng.randint(1, 20)}.{rng.randint(0, 30)}.{rng.randint(0, 99)}.{rng.randint(1, 99)}"
    ),
    "browser": lambda rng: f"Chrome/{rng.randint(10, 99)}.0.{rng.randint(1, 255)}.{rng.randint(1, 255)}",
    "SHA-1": lambda rng: "commit " + signs(rng, HEX, 40),
    "UUID": lambda rng: "-".join(signs(rng, HEX, count) for count in (8, 4, 4, 4, 12)),
    "coordinates": lambda rng: f"{rng.uniform(-90, 90):.7f}, {rng.uniform(-180, 180):.7f}",
    "decimals": lambda rng: f"{rng.random():.16f}",
    "DOI": lambda rng: (
        f"10.{digits(rng, 4, '1')}/j.{digits(rng, 4)}-{digits(rng, 4)}.{rng.randint(1980, 2024)}.{digits(rng, 5)}.x"
    ),
    "MAC address": lambda rng: ":".join(signs(rng, HEX, 2) for _ in range(6)),
    "time": lambda rng: f"{rng.randint(10, 23)}:{rng.randint(10, 59)}:{rng.randint(10, 59)}",
    "ZIP+4": lambda rng: f"{digits(rng, 5)}-{digits(rng, 4)}",
    "row of numbers": lambda rng: " ".join(str(rng.randint(0, 9999)) for _ in range(8)),
    "sum": lambda rng: (
        f"{digits(rng, 11, '123456789')} + {digits(rng, 11, '123456789')} = {digits(rng, 12, '123456789')}"
    ),
    "handle": lambda rng: f"@user{digits(rng, 4)}",
    "C++ name": lambda rng: rng.choice(("std::add", "abc::dead::beef", "fee::bad", "a[1::2]", "x[::2]")),
    "identifier": lambda rng: f"card_payment_fee_{rng.choice(('charged', 'changed'))}_{digits(rng, 2)}",
}
"""Numbers and codes that are nobody's. Some are one in ten or fifty by chance (16 digits that pass as a card)."""


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts_of(one)


def plant(each: int, seed: int) -> None:
    """Plant values of every kind, search them, and print the shares; the exit status says if one was left in clear."""
    from graft.privacy import find, redact

    names = ("planted", "found", "in part", "in clear", "residue", "changed")
    print(f"{'planted':24} " + " ".join(f"{name:>8}" for name in names))
    totals = Counter[str]()
    for kind, label, make, word in cases():
        rng = random.Random(f"{seed} {label}")
        exact = part = left = residue = changed = 0
        for _ in range(each):
            text, value = planted(rng, make, word)
            if label == "secret in URL":
                text = f"Use https://{value}@db.example.org/x now."
            start = text.index(value)
            spans = [(one.kind, one.start, one.end) for one in find(text)]
            hit = (kind, start, start + len(value)) in spans
            exact += hit
            part += not hit and any(begin < start + len(value) and start < end for _, begin, end in spans)
            clean = redact(text)[0]
            left += value in clean
            residue += len(find(clean))
            changed += redact(clean)[0] != clean
        totals.update({f"{kind} planted": each, f"{kind} found": exact, "residue": residue, "changed": changed})
        print(f"{label:24} {each:8} {exact:8} {part:8} {left:8} {residue:8} {changed:8}")
    print(f"\n{'kind':24} {'planted':>8} {'found':>8}")
    for kind in dict.fromkeys(kind for kind, *_ in cases()):
        print(f"{kind:24} {totals[f'{kind} planted']:8} {totals[f'{kind} found']:8}")
    left, changed = totals["residue"], totals["changed"]
    print(f"left to find after redaction: {left}; texts that another redaction changes: {changed}")


def confuse(each: int, seed: int) -> None:
    """Search numbers and codes that are not private, and print what was taken for what."""
    from graft.privacy import find

    print(f"\n{'nobody’s':24} {'texts':>8} {'wrong':>8}  taken for")
    for label, make in HARMLESS.items():
        rng = random.Random(f"{seed} {label}")
        taken = Counter[str]()
        for _ in range(each):
            taken.update(f"{one.kind} ({one.rule})" for one in find(planted(rng, make, "")[0]))
        print(f"{label:24} {each:8} {sum(taken.values()):8}  {', '.join(f'{k} {n}' for k, n in taken.most_common())}")


def survey(folder: Path, show: bool) -> None:
    """Search every text of the JSON Lines files below ``folder``; print what was found, and the rate on clean texts."""
    from graft.privacy import find, masked

    find("warm up: +1 212 555 0123, a@b.org")
    files = sorted(folder.rglob("*.jsonl")) if folder.is_dir() else [folder]
    print(f"\n{'file':44} {'texts':>8} {'texts/s':>9} {'MB/s':>6}  found")
    for path in files:
        with path.open(encoding="utf-8") as file:
            texts = [text for line in file for text in texts_of(json.loads(line))]
        found = [(text, spans) for text in texts if (spans := find(text))]
        clean = [text for text in texts if not find(text)]
        started = time.process_time()
        for text in clean:
            find(text)
        seconds = max(time.process_time() - started, 1e-9)
        kinds = Counter(one.kind for _, spans in found for one in spans)
        name = str(path.relative_to(folder.parent))
        rate = len(clean) / seconds
        print(f"{name:44} {len(texts):8} {rate:9.0f} {sum(map(len, clean)) / seconds / 1e6:6.1f}  {dict(kinds) or ''}")
        for text, spans in found if show else ():
            for one in spans:
                print(f"    {one.kind} ({one.rule}): …{masked(text, spans)[max(0, one.start - 40) :][:100]!r}")


def peers(folder: Path, count: int) -> None:
    """Print the rate of the libraries' own searches of texts, where they are installed, beside ours."""
    with contextlib.ExitStack() as stack:
        _compare(folder, count, stack)


def _compare(folder: Path, count: int, stack: contextlib.ExitStack) -> None:
    import phonenumbers

    from graft.cleaning import redacted
    from graft.privacy import find
    from graft.privacy.section import PrivacyConfig
    from graft.tasks import Field

    fields, settings = (Field("text", "string", text=True),), PrivacyConfig()
    path = sorted(folder.rglob("*.jsonl"))[0] if folder.is_dir() else folder
    with path.open(encoding="utf-8") as file:
        texts = [text for _, line in zip(range(count), file, strict=False) for text in texts_of(json.loads(line))]
    searches: dict[str, Callable[[str], Any]] = {
        "all kinds, here": find,
        "data.clean: [redact]": lambda text: redacted({"text": text}, fields, settings),
        "phonenumbers' matcher, US": lambda text: list(phonenumbers.PhoneNumberMatcher(text, "US")),
    }
    try:
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import default_settings
    except ImportError:
        print("\ndetect-secrets is not installed: not compared")
    else:

        def scan(text: str) -> Any:
            return [found for line in text.splitlines() for found in scan_line(line)]

        searches["detect-secrets"] = scan
        stack.enter_context(default_settings())  # held: without it scan_line has no plugins and finds nothing
        if not scan("aws = '" + "AK" + "IA" + "Q3EGRXYZ2ABCDEFG'"):
            raise SystemExit("detect-secrets found no planted key: its rate would mean nothing")
    print(f"\n{path.name}, {len(texts)} texts of {sum(map(len, texts)) // len(texts)} characters")
    for name, search in searches.items():
        started = time.process_time()
        for text in texts:
            search(text)
        print(f"{name:28} {len(texts) / (time.process_time() - started):9.0f} texts/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=40, help="texts per row of the tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a folder of JSON Lines files, or one file")
    parser.add_argument("--show", action="store_true", help="print each finding in --data, masked, to judge it")
    options = parser.parse_args()
    plant(options.each, options.seed)
    confuse(options.each, options.seed)
    if options.data:
        survey(options.data, options.show)
        peers(options.data, 300)


if __name__ == "__main__":
    main()
