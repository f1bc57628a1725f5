"""E-mail addresses, phone numbers and IP addresses.

Phone numbers are judged by ``phonenumbers`` (Google's metadata). Its own matcher reads for one region at a time and
takes a plain 2125551234 for a number wherever it stands, so the candidates are found here: one is a phone number if it
is valid and written as one (``+`` and country code, the country's groups, a trunk prefix), if it is plain and can
hardly be anything else (a mobile number with trunk prefix; in Chinese text, a Chinese one), or if a word beside it says
so. Validity alone says nothing of plain digits: of random numbers of 9 to 11 digits 70 to 99 % are valid in one of five
countries.

An IP address that names no machine (loopback, unspecified, netmask, multicast) or reads like a version number is left
out. Private ranges count: the addresses of a company's network are its own affair.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graft.privacy.context import BLANK, Span, beside, words

if TYPE_CHECKING:
    import phonenumbers

_LETTER = r"A-Za-z\u00c0-\u024f\u0370-\u052f"
_AT, _DOT = r"(?:@|%40| ?[\[(] ?at ?[\])] ?)", r"(?:\.| ?[\[(] ?dot ?[\])] ?)"
_EMAIL = re.compile(
    rf"(?<![{_LETTER}0-9_%+\-])(?P<local>[{_LETTER}0-9_+\-](?:[{_LETTER}0-9_+\-'.]|%2B){{0,63}}){_AT}"
    rf"(?P<domain>(?:[{_LETTER}0-9](?:[{_LETTER}0-9\-]{{0,61}}[{_LETTER}0-9])?{_DOT}){{1,8}}"
    rf"(?:xn--[a-z0-9\-]{{2,59}}|[{_LETTER}]{{2,24}}))(?![{_LETTER}0-9_])",
    re.IGNORECASE,
)
_USERINFO = re.compile(rf"://[^\s/@{BLANK}]*$")
"""A user name of a URL comes before its ``@``, not the local part of an address."""
_FILES = ("bmp", "gif", "gz", "html", "jpeg", "jpg", "js", "json", "md", "pdf", "php", "png", "svg", "txt", "webp")


def emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses; also ``name [at] host [dot] org``, and ``name%40host.org`` as in URLs."""
    for match in _EMAIL.finditer(text):
        domain = match["domain"].lower()
        repository = match["local"] == "git" and text[match.end() :][:1] == ":"
        in_url = _USERINFO.search(text, max(0, match.start() - 80), match.start())
        named = any(map(str.isalnum, match["local"]))
        if named and domain.rpartition(".")[2] not in _FILES and not repository and not in_url:
            yield "email", *match.span()


_DATE = re.compile(
    r"(?<![0-9])(?<![0-9][./\-])(?:(?:19|20)[0-9]{2}([./\-])[01]?[0-9]\1[0-3]?[0-9]"
    r"|[0-3]?[0-9]([./\-])[0-3]?[0-9]\2(?:19|20)?[0-9]{2})(?![./\-]?[0-9])"
)
_RUN = re.compile(
    r"(?<![0-9A-Za-z_#$€£¥₹])(?<![0-9][.:,/\-])(?<![$€£¥₹#] )(?:\(?\+ ?\(?|\()?"
    r"[0-9](?:[ ./()\-]{0,3}[0-9]){6,40}(?![0-9A-Wa-wYZyz_]|[Xx](?![0-9])|[.,:/\-][0-9]|%| ?[€£¥₹])"
)
_NANP = re.compile(r"(?:1\)?[\-. ]?)?(?:\([0-9]{3}\) ?|[0-9]{3}[\-.])[0-9]{3}[\-.][0-9]{4}")
_NANP_LOCAL = re.compile(r"[0-9]{3}[\-.][0-9]{4}")
_PHONE_WORDS = words(
    *(
        "(?:tele|smart)?phones?",
        "tel",
        "telefoon",
        "mobile",
        "cell",
        "calls?",
        "called",
        "calling",
        "fax",
        "whats ?app",
    ),
    *("sms", "dial", "contact(?: number)?", "reach", "ring", "hotline", "telefono", "teléfono", "telefone", "telefon"),
    *("handy", "rufnummer", "mobil", "anrufen", "téléphone", "portable", "móvil", "celular", "cellulare", "pager"),
    other="电话|電話|手机|手機|号码|联系|聯絡|致电|拨打|热线|微信|телефон|전화|फ़ोन|هاتف",
)
_NAMED_PHONE = re.compile(
    r"(?:phone|mobile|cell|whats ?app|fax|telefon\w*|téléphone|teléfono|手机|手機|电话|電話"
    r"|\b(?:call|text|ring|reach|dial|contact|message) (?:(?:me|us|him|her|them)(?: back)? )?(?:at|on)"
    r"|\b(?:my|our|his|her|their)(?: new| home| work)? number"
    r"|\b(?:meine|unsere|seine|ihre|deine) (?:neue )?nummer|erreichbar unter|\bmon numéro|\bmi número"
    r"|我的?号码|我的?號碼)"
    r"(?:[ _]?(?:numbers?|nos?\.?|num|nr\.?))?"
    r"(?:号码?|號碼?)?[\"']?\s{0,2}(?:is|are|was|[:：=,，是为])?\s{0,2}[\"']?$",
    re.IGNORECASE,
)
"""What says so right before a number makes it one, whatever its digits: invented numbers are valid nowhere."""
_HAN = re.compile("[\u4e00-\u9fff]")
PHONE_DIGITS = range(7, 16)
UNSAID_DIGITS = 9
"""A national number with fewer digits needs a word beside it: 0300-5771 is the number of a journal, too."""
_ZIP_PLUS_4 = re.compile(r"[0-9]{5}-[0-9]{4}")
_DIGIT_SPACE, _SPACE_DIGIT = re.compile(r"[0-9] "), re.compile(r" [0-9]")
_GROUPS = 7


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Yield phone numbers with a country code, or as they are written in ``regions`` (ISO 3166 alpha-2)."""
    dateless = _DATE.sub(lambda match: BLANK * len(match[0]), text)
    for run in _RUN.finditer(dateless):
        yield from _phones_in(dateless, run, regions)


def _phones_in(text: str, run: re.Match[str], regions: Sequence[str]) -> Iterator[Span]:
    """Yield the numbers in a run of digits: the longest rows of whole groups that are one, from the left."""
    groups = [match.span() for match in re.compile(r"[0-9]+").finditer(text, *run.span())]
    first = 0
    while first < len(groups):
        start = _with_lead(text, groups[first][0], run.start())
        for last in range(min(len(groups), first + _GROUPS) - 1, first - 1, -1):
            begin, end = start, groups[last][1]
            if text[begin] == "(" and text.count("(", begin, end) != text.count(")", begin, end):
                begin += 1
            if _is_apart(text, begin, end, run) and _is_phone(text, begin, end, regions):
                yield "phone", begin, end
                first = last
                break
        first += 1


def _with_lead(text: str, start: int, earliest: int) -> int:
    """Return where a number begins whose first digit is at ``start``: at its ``+`` or bracket, if it has one."""
    while start > earliest and text[start - 1] in "(+ ":
        start -= 1
    while text[start] == " ":
        start += 1
    return start


def _is_apart(text: str, start: int, end: int, run: re.Match[str]) -> bool:
    """Say whether no hyphen, dot or slash ties the span to further digits of its run."""
    return (start == run.start() or text[start - 1] in " ()") and (end == run.end() or text[end] in " (")


def _is_phone(text: str, start: int, end: int, regions: Sequence[str]) -> bool:
    written = text[start:end]
    digits = re.sub(r"[^0-9]", "", written)
    if len(digits) not in PHONE_DIGITS or written.count("(") != written.count(")"):
        return False
    plain = written.lstrip("+ ") == digits
    if "+" in written:
        well_written = written.count("+") == 1 and written.index("+") < 2 and not (plain and "+ " in written)
        return well_written and (bool(_NANP.fullmatch(written.lstrip("(+"))) or _is_valid("+" + digits))
    if "US" in regions and _NANP.fullmatch(written):
        return True
    if _NAMED_PHONE.search(text, max(0, start - 40), start):
        return True
    said = beside(text, start, end, _PHONE_WORDS)
    if digits.startswith("00"):
        return (said or not plain) and _is_valid("+" + digits[2:])
    shared = len(digits) < UNSAID_DIGITS or _ZIP_PLUS_4.fullmatch(written) or _is_in_a_row(text, start, end)
    if shared and not said:
        return False
    if "US" in regions and _NANP_LOCAL.fullmatch(written):
        return True
    return any(
        _is_national(written, digits, region, said or (region == "CN" and _HAN.search(text) is not None))
        for region in regions
    )


def _is_in_a_row(text: str, start: int, end: int) -> bool:
    """Say whether groups that only spaces part go on before or behind the span: numbers in a row."""
    by_spaces = re.fullmatch(r"[0-9 ]+", text[start:end]) is not None
    return by_spaces and (_DIGIT_SPACE.match(text, start - 2) or _SPACE_DIGIT.match(text, end)) is not None


def _is_valid(international: str) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(international)))
    except phonenumbers.NumberParseException:
        return False


def _is_national(written: str, digits: str, region: str, said: bool) -> bool:
    """Say whether a number is valid in ``region`` and written as there; ``said``: a word beside it names it."""
    import phonenumbers

    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return False
    if not phonenumbers.is_valid_number(number):  # in any region with this country code: Canada's with the US
        return False
    usual = re.findall(r"[0-9]+", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL))
    if "".join(usual) != digits:
        return False
    groups = re.findall(r"[0-9]+", written)
    if len(groups) == 1:
        return said or (_is_mobile(number) and digits[0] == "0")
    return groups == usual or (digits[0] == "0" and len(groups[0]) > 1)


def _is_mobile(number: phonenumbers.PhoneNumber) -> bool:
    import phonenumbers

    return bool(phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE)


_V4 = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![A-Za-z][/\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_]|\.[0-9A-Za-z]|-[A-Za-z])"
)
_V6 = re.compile(r"(?<![0-9A-Za-z_:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]{4,45}(?![0-9A-Za-z_])")
_VERSION = words("v", "ver", "versions?", "releases?", "build", "firmware", "kernel", "driver", "sections?", "chapter")
_V6_NETWORKS = tuple(ipaddress.IPv6Network(network) for network in ("2000::/3", "fc00::/7", "fe80::/10"))


def ip_addresses(text: str) -> Iterator[Span]:
    """Yield the IP addresses, version 4 and 6, that name one machine."""
    for match in _V4.finditer(text):
        if _is_machine_v4(match[0]) and not beside(text, *match.span(), _VERSION, before=16):
            yield "ipv4", *match.span()
    if text.count(":") > 1:
        for match in _V6.finditer(text):
            written = match[0].rstrip(".") if match[0].endswith((".", "::")) else match[0].rstrip(".:")
            if _is_machine_v6(written):
                yield "ipv6", match.start(), match.start() + len(written)


def _is_machine_v4(written: str) -> bool:
    try:
        address = ipaddress.IPv4Address(written)
    except ValueError:
        return False
    version_like = len(written) == len("1.2.3.4")
    first = address.packed[0]
    return not (version_like or address.is_loopback or address.is_multicast or first in (0, 255))


def _is_machine_v6(written: str) -> bool:
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return False
    if address.ipv4_mapped is not None:
        return _is_machine_v4(str(address.ipv4_mapped))
    groups = [group for group in written.split(":") if group]
    return any(address in network for network in _V6_NETWORKS) and len(groups) > 2
