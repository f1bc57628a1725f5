"""Payment cards and IBANs: by length, prefix and check digits.

A card number passes the Luhn test (ISO/IEC 7812-1), begins with an issuer's prefix and has a length of that issuer's,
together about one random number of 16 digits in fifty; where its digits are not grouped as on a card and its length is
rare, a word beside it is asked for. An IBAN (ISO 13616) has its country's length and 1 as remainder by 97, one random
string in a hundred of those that begin with a country. The libraries that read IBANs, python-stdnum and (through
pycountry) schwifty, are under the LGPL; python-stdnum is the tests' second route to the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from graft.privacy.context import Span, beside, words

_CARD = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.\-])(?:[0-9]{4}([ .\-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3}(?![0-9/]))?"
    r"|[0-9]{4}([ .\-])[0-9]{6}\2[0-9]{4,5}|[0-9]{6} [0-9]{10,13}|[0-9]{13,19})"
    r"(?![0-9A-Za-z_]|[.\-][0-9]| [0-9]{1,4}(?![0-9/]))"
)
_FOUR_FOURS = 4 * 4 + 3
_CARD_WORDS = words(
    *("cards?", "visa", "master ?card", "amex", "american express", "credit", "debit", "maestro", "kreditkarte"),
    *("carte", "tarjeta", "karte", "cartão", "carta"),
    other="卡|カード",
)
_ISSUERS = (
    ("visa", range(4, 5), (13, 16, 19)),
    ("mastercard", range(51, 56), (16,)),
    ("mastercard", range(2221, 2721), (16,)),
    ("amex", range(34, 35), (15,)),
    ("amex", range(37, 38), (15,)),
    ("discover", range(6011, 6012), (16, 19)),
    ("discover", range(644, 660), (16, 19)),
    ("diners", range(300, 306), (14, 16)),
    ("diners", range(36, 37), (14, 16)),
    ("diners", range(38, 40), (14, 16)),
    ("jcb", range(3528, 3590), (16,)),
    ("unionpay", range(62, 63), (16, 17, 18, 19)),
    ("unionpay", range(81, 82), (16,)),
    ("rupay", range(60, 61), (16,)),
    ("rupay", range(508, 509), (16,)),
    ("maestro", range(5018, 5019), range(12, 20)),
    ("maestro", range(5020, 5021), range(12, 20)),
    ("maestro", range(5038, 5039), range(12, 20)),
    ("maestro", range(5893, 5894), range(12, 20)),
    ("maestro", range(6304, 6305), range(12, 20)),
    ("maestro", range(6759, 6764), range(12, 20)),
    ("mir", range(2200, 2205), range(16, 20)),
    ("troy", range(9792, 9793), (16,)),
    ("elo", range(5066, 5068), (16,)),
    ("verve", range(5060, 5062), (16, 18, 19)),
)
"""Name, first digits, lengths in digits, as in the issuers' ranges of ISO/IEC 7812."""

_IBAN = re.compile(r"(?<![0-9A-Za-z_])(?=(?:[A-Z]{2}|[a-z]{2})[0-9]{2}(?:[ \-]?[0-9A-Za-z]){11})")
IBAN_CHARACTERS = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FK FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}
"""Country -> length of its IBANs, as in the registry that SWIFT keeps for ISO 13616."""


def cards(text: str) -> Iterator[Span]:
    """Yield payment card numbers, plain or in groups; of digits in groups, each group may be where one begins."""
    at = 0
    while match := _CARD.search(text, at):
        start, end = match.span()
        at = start + 1  # the pattern does not begin within a group
        said = beside(text, start, end, _CARD_WORDS)
        issuer = _issuer_of(match[0], said)
        if issuer is None and said and match[1] and len(match[0]) > _FOUR_FOURS:
            end = start + _FOUR_FOURS  # what follows is no part of the number: the security code, often
            issuer = _issuer_of(text[start:end], said)
        if issuer:
            at = end
            yield issuer, start, end


def _issuer_of(written: str, said: bool) -> str | None:
    """Return whose card a number is, if it is one; ``said``: a word beside it speaks of a card."""
    digits = re.sub(r"[^0-9]", "", written)
    issuer = _issuer(digits)
    rare = len(written) == len(digits) and len(digits) not in (15, 16) and issuer != "unionpay"
    return issuer if luhn(digits) and (said or not rare) else None


def _issuer(digits: str) -> str | None:
    for issuer, prefixes, lengths in _ISSUERS:
        if len(digits) in lengths and int(digits[: len(str(prefixes.start))]) in prefixes:
            return issuer
    return None


def luhn(digits: str) -> bool:
    """Say whether the last digit is the one that the Luhn algorithm (ISO/IEC 7812-1, annex B) gives."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(twice - 9 * (twice > 9) for twice in doubled)) % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    """Yield IBANs, plain or in groups, in capitals or not."""
    for match in _IBAN.finditer(text):
        start = match.start()
        end = _end_of_iban(text, start)
        if end is not None:
            yield text[start : start + 2].upper(), start, end


def _end_of_iban(text: str, start: int) -> int | None:
    """Return where the IBAN that begins at ``start`` ends, or ``None`` if none does."""
    length = IBAN_CHARACTERS.get(text[start : start + 2].upper(), 0)
    taken = re.compile(rf"[0-9A-Za-z](?:[ \-]?[0-9A-Za-z]){{{length - 1}}}(?![0-9A-Za-z_])").match(text, start)
    if not length or taken is None:
        return None
    compact = re.sub(r"[ \-]", "", taken[0]).upper()
    return taken.end() if iban_remainder(compact) == 1 else None


def iban_remainder(compact: str) -> int:
    """Return the remainder of an IBAN by 97 after ISO 13616: the first four characters last, letters as 10 to 35."""
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97
