"""Keys, tokens and private keys, by the forms that their issuers gave them so that scanners find them.

detect-secrets reads such forms too, but at 1,000 to 3,000 texts/s, without positions, and its last release (May 2024)
knows neither Hugging Face nor Google nor today's OpenAI and GitHub tokens; gitleaks is a Go program. So the forms stand
here as one table. A string without an issuer's mark counts where something names it a key or token, and it looks drawn
at random (Shannon entropy): a hash or an id without such a name is left alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from graft.privacy.context import BLANK, Span

MIN_ENTROPY_BITS = 3.3
"""Per character, of a string that only its name makes a secret. Twenty random hexadecimal digits reach 3.4."""
ISSUERS = {
    "aws": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    "github": r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{36,255}",
    "gitlab": r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|oas|soat|agent)-[\w-]{20,255}",
    "slack": r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,250}",
    "slack_webhook": r"https://hooks\.slack\.com/(?:services|workflows)/[\w/+-]{20,100}",
    "discord_webhook": r"https://discord(?:app)?\.com/api/webhooks/[0-9]{15,21}/[\w-]{30,100}",
    "stripe": r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,250}|whsec_[A-Za-z0-9+/=]{24,100}",
    "google": r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,500}",
    "anthropic": r"sk-ant-[\w-]{20,200}",
    "openai": r"sk-(?:proj|svcacct|admin|None)-[\w-]{20,250}|sk-[A-Za-z0-9]{32,64}",
    "openrouter": r"sk-or-v1-[0-9a-f]{64}",
    "huggingface": r"hf_[A-Za-z0-9]{30,60}|api_org_[A-Za-z0-9]{30,60}",
    "groq": r"gsk_[A-Za-z0-9]{40,60}",
    "xai": r"xai-[A-Za-z0-9]{70,90}",
    "perplexity": r"pplx-[A-Za-z0-9]{40,60}",
    "replicate": r"r8_[A-Za-z0-9]{37}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "pypi": r"pypi-AgE[\w-]{50,1000}",
    "docker": r"dckr_(?:pat|oat)_[\w-]{27,40}",
    "sendgrid": r"SG\.[\w-]{16,32}\.[\w-]{32,64}",
    "twilio": r"(?:SK|AC)[0-9a-f]{32}",
    "mailchimp": r"[0-9a-f]{32}-us[0-9]{1,2}",
    "mailgun": r"key-[0-9a-f]{32}",
    "telegram": r"[0-9]{8,10}:AA[\w-]{33}",
    "discord": r"[MNO][A-Za-z0-9_-]{23,25}\.[\w-]{6}\.[\w-]{27,38}",
    "azure_storage": r"AccountKey=[A-Za-z0-9+/]{86}==",
    "digitalocean": r"do[opr]_v1_[0-9a-f]{64}",
    "databricks": r"dapi[0-9a-f]{32}(?:-[0-9])?",
    "shopify": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "square": r"sq0(?:atp|csp|idp)-[\w-]{22,60}",
    "vault": r"hv[sbr]\.[\w-]{24,300}",
    "notion": r"ntn_[A-Za-z0-9]{40,60}",
    "linear": r"lin_api_[A-Za-z0-9]{40}",
    "postman": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "grafana": r"gl(?:sa|c)_[A-Za-z0-9_+/=]{32,400}",
    "sentry": r"sntry[su]_[\w+/=-]{40,400}",
    "supabase": r"sbp_[0-9a-f]{40}",
    "airtable": r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}",
    "age": r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    "jwt": r"eyJ[\w-]{8,4000}\.eyJ[\w-]{8,16000}\.[\w-]{0,2000}",
}
"""Issuer or sort of token -> its form, matched in ASCII."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s\\:,.-]{0,8192}?"
    r"-----END (?:[A-Z0-9]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----|[\s\\nr]{0,8}[A-Za-z0-9+/=\s\\]{32,8192})"
)
_LONG_WORD = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z0-9_.:/+=-]{16,}")
_ISSUED = re.compile(
    r"(?<![A-Za-z0-9_])(?:" + "|".join(f"(?P<{name}>{form})" for name, form in ISSUERS.items()) + r")(?![A-Za-z0-9])",
    re.ASCII,
)
_NAMED = re.compile(
    r"""(?ix)(?<![a-z])(?:
    (?:api|access|auth|secret|private|client|account|encryption|signing|subscription|service|app|refresh|session|bot|id)
    [_ -]?(?:access[_ -]?)?(?:key|token|secret) | secret | token | apikey | password | passwd | pwd
    )(?:[_-]?(?:id|v?\d))?\\?["'`]?\s{0,3}(?:=>|:=|[:=]|is)\s{0,3}\\?["'`]?([a-z0-9_+/=-]{16,512})(?![a-z0-9_(\[]|\.[a-z0-9_])
    | \bbearer\s{1,3}([a-z0-9_+/=.~-]{16,4096})(?![a-z0-9])""",
    re.ASCII,
)
_USERINFO = re.compile(
    rf"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{{1,20}}://([^\s/:@<>\"'`{BLANK}]{{0,64}}:([^\s/@<>\"'`{BLANK}]{{3,256}}))@"
)
_STAND_IN = re.compile(r"your|example|placeholder|here|change|dummy|sample|xxxx|1234567890", re.IGNORECASE)
_STAND_INS = {"password", "passwd", "pass", "pwd", "secret", "token", "xxx", "***", "pw", "your_password", "port"}


def issued(text: str) -> Iterator[Span]:
    """Yield the keys and tokens that carry their issuer's mark, JSON web tokens and private keys."""
    for word in _LONG_WORD.finditer(text):
        for match in _ISSUED.finditer(text, *word.span()):
            if set(match[0][4:].lower()) - set("x*._-"):
                yield str(match.lastgroup), *match.span()
    for match in _PRIVATE_KEY.finditer(text):
        yield "private_key", *match.span()


def named(text: str) -> Iterator[Span]:
    """Yield the random strings that something before them names a key, token or password."""
    if not any(character.isdigit() for word in _LONG_WORD.findall(text) for character in word):
        return
    for match in _NAMED.finditer(text):
        group = 1 if match[1] else 2
        if _looks_random(match[group]) and not _STAND_IN.search(match[group]):
            yield "named", *match.span(group)


def in_urls(text: str) -> Iterator[Span]:
    """Yield ``user:password`` of URLs, without a password that only shows where one would stand."""
    for match in _USERINFO.finditer(text):
        if match[2].lower() not in _STAND_INS and match[2][0] not in "${[%*":
            yield "url", *match.span(1)


def _looks_random(value: str) -> bool:
    has_both = any(sign.isdigit() for sign in value) and any(sign.isalpha() for sign in value)
    return has_both and entropy_bits(value) >= MIN_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Return the Shannon entropy of the characters of ``value``, in bits per character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
