"""What token rows must be, and what follows where they are not: a part of the section ``tokenization``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field as Limit
from pydantic import model_validator

from graft.config import Section
from graft.quarantine import Severity


class TokenSeverities(Section):
    """What follows from a row that breaks a check of its tokens: as in ``validation.severity``.

    ``fail`` stops the chain, ``quarantine`` keeps the row aside (``artifacts/tokens/quarantine``) and goes on without
    it, ``warn`` reports it. A row that cannot be learnt from fails or goes aside.
    """

    empty: Literal["fail", "quarantine"] = "fail"
    """A token at least that stands for text."""

    unsupervised: Literal["fail", "quarantine"] = "fail"
    """A token at least that is learnt: an answer, a target, a word with a tag, an answer that a window shows."""

    end: Severity = "fail"
    """Where text is generated: an end token that is learnt, unless the target was cut before it."""

    doubled_bos: Severity = "fail"
    """One token that begins the text, not two: a template wrote it, and the tokenizer again."""

    min_tokens: Severity = "fail"
    """``tokenization.min_tokens``."""

    max_tokens: Severity = "fail"
    """``tokenization.max_tokens``."""

    truncated_input: Severity = "warn"
    """A prompt and a context that fit: ``tokenization.max_length_tokens``."""

    truncated_target: Severity = "warn"
    """A target that fits, its end included."""

    unknown: Severity = "warn"
    """``tokenization.max_unknown_share``."""

    padding: Literal["fail", "warn", "ignore"] = "ignore"
    """``tokenization.max_padding_share``, of each split."""

    chat_template: Literal["fail", "warn", "ignore"] = "fail"
    """The chat template that sources.lock pins is the one that the loaded tokenizer has, where a task reads it."""


OF_SPLITS: dict[str, Any] = {
    **dict.fromkeys(("max_truncated_share", "max_padding_share", "max_quarantined_share"), True),
    "severity": {"padding", "chat_template"},
}
"""What splits are judged by, so that it changes nothing of a part: for ``exclude`` of pydantic."""


class TokenContract(Section):
    """The part of the section ``tokenization`` that says what token rows must be."""

    min_tokens: int = Limit(default=1, ge=1)
    """The fewest tokens of a row before anything is cut, special tokens included."""

    max_tokens: int | None = Limit(default=None, ge=1)
    """The most tokens of a row before anything is cut, special tokens included (of a long text that is read in windows:
    of all windows); null: any number, since longer rows are cut."""

    max_truncated_share: float = Limit(default=0.0, ge=0, le=1)
    """The largest share of a split's rows that may be cut before ``severity.truncated_input`` or ``truncated_target``
    stops the chain or warns: up to it neither says anything. Rows for quarantine are held to ``max_quarantined_share``
    instead."""

    max_unknown_share: float = Limit(default=0.1, ge=0, le=1)
    """The largest share of a row's tokens (without special ones) that the base's vocabulary may not have."""

    max_padding_share: float = Limit(default=0.5, ge=0, le=1)
    """The largest share of padding in batches of 32 rows that are drawn at random. Training puts rows of like length
    together and pads less."""

    severity: TokenSeverities = TokenSeverities()
    """What follows from a row that breaks one of these."""

    max_quarantined_share: float = Limit(default=0.01, ge=0, le=1)
    """The largest share of a split's rows that may go into quarantine here, beside those of validate, rounded up to
    whole rows: one row may, unless it is 0. With more of them the chain stops."""

    @model_validator(mode="after")
    def _check_limits(self) -> TokenContract:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) is below min_tokens ({self.min_tokens}); no row has so many"
            )
        return self
