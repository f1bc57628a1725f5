"""National ids of people, as one table: how each is written, which words go with it, what validates it.

The check digits, birth dates and regions are judged by ``idnumbers`` (MIT; python-stdnum, under the LGPL, is the tests'
second route). How an id is *written* decides how much more is asked: where its form is its own (``123.456.789-09``,
18 characters with a date) it is found anywhere; plain digits, or a form that other numbers share, need a word of that
id beside them, since a check digit lets one number of ten through.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graft.privacy.context import Span, beside, words


@dataclass(frozen=True, slots=True)
class Rule:
    """One id: its name, its class in idnumbers as ``COUNTRY.Class`` (none: the form is all that is known of it)."""

    name: str
    validator: str = ""
    own: str = ""
    """Pattern of the forms that are this id's alone."""
    shared: str = ""
    """Pattern of forms that other numbers have too; counts beside one of ``words`` only."""
    words: str = ""


_NINE, _ELEVEN, _TWELVE = r"[0-9]{9}", r"[0-9]{11}", r"[0-9]{12}"
_THREES = r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}"
RULES = (
    Rule(
        *("us.ssn", "USA.SocialSecurityNumber", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", r"[0-9]{3} ?[0-9]{2} ?[0-9]{4}"),
        r"ssn|social security(?: (?:number|no))?|soc sec",
    ),
    Rule(
        *("gb.nino", "GBR.NationalInsuranceNumber"),
        *(
            r"[A-Z]{2}(?P<a> ?)[0-9]{2}(?P=a)[0-9]{2}(?P=a)[0-9]{2}(?P=a)[A-D]",
            r"(?i:[A-Z]{2}(?: ?[0-9]{2}){3} ?[A-D])",
        ),
        r"national insurance(?: (?:number|no))?|nino|ni (?:number|no)",
    ),
    Rule(
        *("de.idnr", "DEU.TaxID", r"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", _ELEVEN),
        r"steuer\w*(?:-?id\w*)?(?:nummer)?|idnr|tax id|tin|tax identification number",
    ),
    Rule(
        *("fr.nir", "FRA.INSEE"),
        r"[12] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[ABab]) ?[0-9]{3} ?[0-9]{3}[ /|-]{0,3}[0-9]{2}",
    ),
    Rule("es.dni", "ESP.DNI", r"[0-9]{8}[ -]?[A-HJ-NP-TV-Z]|[0-9]{2}\.[0-9]{3}\.[0-9]{3}-?[A-HJ-NP-TV-Z]"),
    Rule("es.nie", "ESP.DNI", r"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]"),
    Rule(
        "it.codice_fiscale", "ITA.FiscalCode", r"(?i:[A-Z]{6}[0-9L-V]{2}[A-EHLMPRST][0-9L-V]{2}[A-Z][0-9L-V]{3}[A-Z])"
    ),
    Rule("cn.resident_id", "CHN.ResidentID", r"[1-9][0-9]{16}[0-9Xx]|[1-9][0-9]{5} [0-9]{8} [0-9]{3}[0-9Xx]"),
    Rule(
        *("in.aadhaar", "IND.NationalID", r"[2-9][0-9]{3}(?P<b>[ -])[0-9]{4}(?P=b)[0-9]{4}", r"[2-9][0-9]{11}"),
        r"aadhaa?r|aadhar|uid(?:ai)?",
    ),
    Rule("in.pan", "", r"[A-Z]{3}P[A-Z][0-9]{4}[A-Z]"),
    Rule("br.cpf", "BRA.CPFNumber", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _ELEVEN, r"cpf"),
    Rule("pl.pesel", "POL.PESEL", "", _ELEVEN, r"pesel\w{0,3}"),
    Rule("nl.bsn", "NLD.BSN", r"[0-9]{4}\.[0-9]{2}\.[0-9]{3}", _NINE, r"bsn|burgerservicenummer|sofi-?nummer"),
    Rule(
        *("be.nrn", "BEL.NationalRegistrationNumber", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", _ELEVEN),
        r"rijksregister\w*|registre national|num[ée]ro national|niss|insz|nrn",
    ),
    Rule("ch.ahv", "CHE.SocialSecurityNumber", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", r"756[0-9]{10}", r"ahv|avs|oasi"),
    Rule("se.personnummer", "SWE.PersonalIdentityNumber", r"(?:19|20)?[0-9]{6}[-+][0-9]{4}"),
    Rule("fi.hetu", "FIN.PersonalIdentityCode", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]"),
    Rule("no.fodselsnummer", "NOR.NationalID", r"[0-9]{6} ?[0-9]{5}"),
    Rule("dk.cpr", "DNK.PersonalIdentityNumber", "", r"[0-9]{6}-?[0-9]{4}", r"cpr|personnummer"),
    Rule("is.kennitala", "ISL.IcelandicID", "", r"[0-9]{6}-?[0-9]{4}", r"kennitala|kt"),
    Rule("ie.pps", "IRL.PersonalPublicServiceNumber", "", r"[0-9]{7}[A-W][ABHW]?", r"ppsn?|public service number"),
    Rule("pt.cc", "PRT.CitizenCard", r"[0-9]{8} ?[0-9] ?[A-Z][A-Z0-9][0-9]"),
    Rule("pt.nif", "PRT.TaxIDNumber", "", _THREES, r"nif|contribuinte"),
    Rule("cz.rodne_cislo", "CZE.BirthNumber", r"[0-9]{6}/[0-9]{4}"),
    Rule("ro.cnp", "ROU.PersonalNumericalCode", "", r"[1-9][0-9]{12}", r"cnp|cod numeric personal"),
    Rule("bg.egn", "BGR.UniformCivilNumber", "", r"[0-9]{10}", r"егн|egn"),
    Rule("hr.oib", "HRV.PersonalID", "", _ELEVEN, r"oib"),
    Rule("ee.isikukood", "EST.PersonalID", "", _ELEVEN, r"isikukood"),
    Rule("lt.asmens_kodas", "LTU.PersonalCode", "", _ELEVEN, r"asmens kod\w+"),
    Rule("lv.personas_kods", "LVA.PersonalCode", "", r"[0-9]{6}-?[0-9]{5}", r"personas kod\w+"),
    Rule("hu.szemelyi_szam", "HUN.PersonalID", "", r"[1-8][ -]?[0-9]{6}[ -]?[0-9]{4}", r"szem[ée]lyi \w+"),
    Rule("jmbg", "SRB.JMBG", "", r"[0-9]{13}", r"jmbg|јмбг|em[šs]o|embg"),
    Rule("tr.tckn", "TUR.NationalID", "", r"[1-9][0-9]{10}", r"tckn|t\.?c\.? ?kimlik(?: \w+)?|kimlik(?: \w+)?"),
    Rule("ru.passport", "RUS.NationalID", "", r"[0-9]{2} ?[0-9]{2} [0-9]{6}", r"паспорт\w*"),
    Rule("ua.rnokpp", "UKR.TaxpayerIDNumber", "", r"[0-9]{10}", r"рнокпп|іпн|инн"),
    Rule("kz.iin", "KAZ.IndividualIDNumber", "", _TWELVE, r"иин|жсн|iin"),
    Rule("il.id", "ISR.NationalID", "", _NINE, r"תעודת זהות|ת\.ז\.?|teudat zehut|israeli id"),
    Rule("ae.emirates_id", "ARE.EmiratesIDNumber", r"784-[0-9]{4}-[0-9]{7}-[0-9]"),
    Rule("za.id", "ZAF.NationalID", r"[0-9]{6} ?[0-9]{4} ?[01][89][0-9]"),
    Rule("pk.cnic", "PAK.CNIC", r"[1-7][0-9]{4}-[0-9]{7}-[0-9]"),
    Rule("kr.rrn", "KOR.ResidentRegistration", r"[0-9]{6}-[0-9]{7}"),
    Rule(
        "jp.my_number", "JPN.MyNumber", "", r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}", r"マイナンバー|個人番号|my ?number"
    ),
    Rule("tw.id", "TWN.NationalID", r"[A-Z][12][0-9]{8}"),
    Rule(
        "hk.hkid", "HKG.NationalID", r"[A-Z]{1,2}[0-9]{6}\([0-9A]\)", r"[A-Z]{1,2}[0-9]{6}[0-9A]", r"hkid|身份證|身份证"
    ),
    Rule("sg.nric", "SGP.NationalID", r"[STFGM][0-9]{7}[A-Z]"),
    Rule("my.nric", "MYS.NRIC", r"[0-9]{6}-[0-9]{2}-[0-9]{4}"),
    Rule(
        "th.id", "THA.NationalID", r"[0-8]-[0-9]{4}-[0-9]{5}-[0-9]{2}-[0-9]", r"[0-8][0-9]{12}", r"บัตรประชาชน|thai id"
    ),
    Rule("id.nik", "IDN.NIK", "", r"[0-9]{16}", r"nik|ktp"),
    Rule("vn.cccd", "VNM.NationalID", "", _TWELVE, r"cccd|căn cước"),
    Rule("ca.sin", "CAN.SocialInsuranceNumber", "", _THREES, r"social insurance|sin(?: (?:number|no))?|nas"),
    Rule("au.tfn", "AUS.TFN", "", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", r"tfn|tax file(?: number)?"),
    Rule("au.medicare", "AUS.MedicareNumber", "", r"[2-6][0-9]{3} ?[0-9]{5} ?[0-9]", r"medicare"),
    Rule("nz.ird", "NZL.InlandRevenueDepartmentNumber", "", r"[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", r"ird|inland revenue"),
    Rule("mx.curp", "MEX.CURP", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[A-Z0-9][0-9]"),
    Rule("cl.rut", "CHL.NationalID", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9Kk]"),
    Rule("ar.dni", "ARG.NationalID", "", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}", r"dni|documento"),
    Rule("do.cedula", "DOM.NationalID", r"[0-9]{3}-[0-9]{7}-[0-9]"),
    Rule("ve.rif", "VEN.RIF", r"[VEJPG]-[0-9]{8}-[0-9]"),
)
_START = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][./-])(?:(?<![0-9] )(?=[0-9](?:[ ./|-]{0,3}[0-9]){5})|(?=[A-Za-z]{1,6}[ -]?[0-9]))"
)
_AFTER = r"(?![0-9A-Za-z_]|[./-][0-9]|(?<=[0-9]) [0-9])"
_YEARS = re.compile(r"(?:19|20)[0-9]{2}(?:[ -](?:19|20)[0-9]{2})+")


@functools.cache
def _compiled() -> tuple[tuple[Rule, re.Pattern[str], re.Pattern[str], re.Pattern[str]], ...]:
    """Return each rule with the patterns of its own forms, of its shared ones, and of its words."""
    return tuple(
        (
            rule,
            re.compile(f"(?:{rule.own or '(?!)'}){_AFTER}"),
            re.compile(f"(?:{rule.shared or '(?!)'}){_AFTER}"),
            words(rule.words or "(?!)"),
        )
        for rule in RULES
    )


def national_ids(text: str) -> Iterator[Span]:
    """Yield the national ids in a text."""
    for start in (match.start() for match in _START.finditer(text)):
        for rule, own, shared, named in _compiled():
            match = own.match(text, start)
            if match is None or _YEARS.fullmatch(match[0]) or not _is_valid(rule, match[0]):
                match = shared.match(text, start)
                if match is None or not beside(text, *match.span(), named, after=25) or not _is_valid(rule, match[0]):
                    continue
            yield rule.name, *match.span()


def _is_valid(rule: Rule, written: str) -> bool:
    """Say whether idnumbers takes an id, as written, without separators, or in the form that it wants."""
    if not rule.validator:
        return True
    from idnumbers.format import format_id

    compact = re.sub(r"[ ./()|-]", "", written).upper()
    if rule.name == "es.nie":
        compact = str("XYZ".index(compact[0])) + compact[1:]
    usual = format_id(rule.validator[:3], compact)
    validator = _validator(rule.validator)
    return any(validator.validate(form) for form in dict.fromkeys((written, compact, usual)) if form)


@functools.cache
def _validator(name: str) -> Any:
    country, _, kind = name.partition(".")
    return getattr(importlib.import_module(f"idnumbers.nationalid.{country}"), kind)
