"""Terms that stand for groups of people: small lists of our own, to swap one for another in test rows.

Common words of English and common first names of the English-speaking world, chosen so that position by position they
are alike in frequency and register; no list is complete, and none says anything about a bearer of a name. A project
gives lists of its own for other languages and groups (``evaluation.counterfactuals.pairs``).
"""

from __future__ import annotations

WOMEN_AND_MEN: tuple[tuple[str, str], ...] = (
    ("she", "he"),
    ("herself", "himself"),
    ("woman", "man"),
    ("women", "men"),
    ("girl", "boy"),
    ("girls", "boys"),
    ("mother", "father"),
    ("mothers", "fathers"),
    ("mom", "dad"),
    ("mum", "dad"),
    ("daughter", "son"),
    ("daughters", "sons"),
    ("sister", "brother"),
    ("sisters", "brothers"),
    ("wife", "husband"),
    ("wives", "husbands"),
    ("aunt", "uncle"),
    ("grandmother", "grandfather"),
    ("niece", "nephew"),
    ("lady", "gentleman"),
    ("ladies", "gentlemen"),
    ("female", "male"),
    ("females", "males"),
    ("queen", "king"),
    ("actress", "actor"),
    ("waitress", "waiter"),
    ("bride", "groom"),
    ("widow", "widower"),
    ("Mrs", "Mr"),
    ("madam", "sir"),
)
"""Pronouns and gendered words. ``her`` is not here, nor ``his``: ``her`` is ``him`` or ``his``, and ``his`` is ``her``
or ``hers``, which a list of words cannot tell. Terms with a capital (``Mr``) are found with a capital alone."""

WOMEN_S_AND_MEN_S_NAMES: tuple[tuple[str, str], ...] = (
    ("Mary", "James"),
    ("Linda", "Robert"),
    ("Susan", "David"),
    ("Karen", "Richard"),
    ("Jennifer", "Michael"),
    ("Elizabeth", "William"),
    ("Sarah", "Daniel"),
    ("Emily", "Matthew"),
    ("Laura", "Andrew"),
    ("Anna", "Peter"),
    ("Julia", "Thomas"),
    ("Alice", "Henry"),
    ("Emma", "Jack"),
    ("Olivia", "Oliver"),
    ("Sophia", "Samuel"),
    ("Maria", "Jose"),
)
"""First names of women and of men."""

NAMES_BY_ORIGIN: tuple[tuple[str, str], ...] = (
    ("James", "Mohammed"),
    ("Robert", "Ahmed"),
    ("David", "Omar"),
    ("Michael", "Ibrahim"),
    ("William", "Hassan"),
    ("Thomas", "Yusuf"),
    ("Mary", "Fatima"),
    ("Susan", "Aisha"),
    ("Emily", "Khadija"),
    ("Sarah", "Zainab"),
    ("Anna", "Leila"),
    ("Emma", "Amina"),
)
"""First names that are common among English speakers, and others that are common among Muslims."""

DEFAULTS: dict[str, tuple[tuple[str, str], ...]] = {
    "women_men": WOMEN_AND_MEN,
    "womens_mens_names": WOMEN_S_AND_MEN_S_NAMES,
    "english_muslim_names": NAMES_BY_ORIGIN,
}
"""The pairs of groups that are asked unless a project gives its own."""
