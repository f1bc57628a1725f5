"""Rows that say the same: equal and nearly equal texts within a split, across splits, and with labels that disagree.

A test row that is a training row with another comma makes a score look better than it is, and it is found neither by
comparing texts nor by comparing ids. Comparing every pair is quadratic, and comparing rows again whenever a part is
added costs the whole data set each time. So a part is read once, into a :class:`Sketch` (a file of at most
``ROW_BYTES`` a row), and everything else is said from sketches: :func:`compare` takes any number of them.

Near means: equal but for case, width, punctuation, white space or order of words, or a share of pieces in common
(Jaccard similarity) of at least ``threshold``. Candidates come from MinHash signatures in bands (Broder, 1997;
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4), by rensa; each candidate is then checked on
the pieces themselves. The trade-off is recall at the threshold: :func:`recall` gives it, 0.98 at 0.7.

Sketches are as private as the rows: who has the hashes of all short pieces of a text can spell most of it.
"""

from graft.duplicates.candidates import recall
from graft.duplicates.comparing import Comparison, DuplicatesConfig, compare
from graft.duplicates.corpus import Part
from graft.duplicates.sketching import RECIPE, ROW_BYTES, Entry, Sketch, normal_forms, sketch

__all__ = [
    "RECIPE",
    "ROW_BYTES",
    "Comparison",
    "DuplicatesConfig",
    "Entry",
    "Part",
    "Sketch",
    "compare",
    "normal_forms",
    "recall",
    "sketch",
]
