"""The params section that says what is private: one for the check, the cleaning step and what reports leave out."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from graft.config import Section
from graft.errors import shown
from graft.privacy import KINDS, REGIONS, Found, Kind, Redaction, find, in_message, redact


class PrivacyConfig(Section):
    """Which private data there may be in texts."""

    kinds: tuple[Kind, ...] = KINDS
    """E-mail addresses, phone numbers, payment cards, IBANs, national ids (with their check digits), IP addresses, and
    keys and tokens. Empty: nothing is looked for, and nothing is left out of reports."""

    regions: tuple[str, ...] = REGIONS
    """Countries (ISO 3166 alpha-2: ``GB``, not ``UK``) whose phone numbers are known without a country code."""

    @field_validator("regions")
    @classmethod
    def _check_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if unusual := set(regions) - set(REGIONS):
            from phonenumbers import SUPPORTED_REGIONS

            if unknown := sorted(unusual - SUPPORTED_REGIONS):
                raise ValueError(f"no country has the code {shown(unknown[0])}; codes are those of ISO 3166, as GB is")
        return regions

    def find(self, text: str) -> list[Found]:
        """Return what is private in a text, as :func:`graft.privacy.find`."""
        return find(text, self.kinds, self.regions)

    def redaction(self, value: Any) -> Redaction:
        """Return the placeholders for what is private in the texts of one row: lists and mappings of them."""
        return Redaction.of(value, self.kinds, self.regions)

    def redacted(self, value: Any) -> Any:
        """Return what may be shown of a row, as :func:`graft.privacy.redact`."""
        return redact(value, self.kinds, self.regions)[0]

    def in_message(self, text: str) -> str:
        """Return what a message about a row may say, as :func:`graft.privacy.in_message`."""
        return in_message(text, self.kinds, self.regions)
