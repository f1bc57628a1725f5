"""What only tokens show: rows without anything to learn, without an end, cut, or unknown to the tokenizer.

A part is checked by its own rows alone (``part``); what is found of it (``found``) adds up, and a split is judged by
the sum (``verdicts``), as the section says (``section``).
"""

from graft.token_checks.found import Found
from graft.token_checks.part import PartChecks, Vocabulary
from graft.token_checks.section import OF_SPLITS, TokenContract, TokenSeverities
from graft.token_checks.verdicts import Judgement, Verdict

__all__ = [
    "OF_SPLITS",
    "Found",
    "Judgement",
    "PartChecks",
    "TokenContract",
    "TokenSeverities",
    "Verdict",
    "Vocabulary",
]
