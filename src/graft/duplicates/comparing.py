"""Compare parts by their sketches: who repeats whom, in which clusters, and whose label says otherwise.

Texts with one normal form are one *group*, found by sorting digests. Groups that share a band are candidates, found by
sorting one band after the other, which needs memory for a few numbers a row whatever the number of pairs; candidates
are checked on their pieces, which stay in mapped files. Of all pairs only what is reported is kept: for each group and
split the nearest earlier row, and which cluster (connected component) it is in. So memory is linear in rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft.config import Section
from graft.duplicates.candidates import CHECKED_PIECES, Census, candidates, similarities, slices
from graft.duplicates.corpus import Corpus, Part, numbered

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]
    Lines = tuple[Array, Array, Array, Array]

EXACT, NEAR, CONTRADICTION = "exact", "near", "contradiction"


class DuplicatesConfig(Section):
    """What counts as a near-duplicate, and what is spent on finding them."""

    threshold: float = Limit(default=0.7, ge=0.6, le=1.0)
    """The least Jaccard similarity of two texts' pieces (words and their letters in threes) that are near-duplicates.
    One word of ten changed leaves 0.7 to 0.9. Below 0.6 candidates would be missed: see ``recall``."""

    near_megabytes: int = Limit(default=64, ge=0)
    """How large the part files may be together for nearly equal texts to be looked for: half a million rows of twenty
    words, in which it takes some ten seconds. In more data only texts are found that are equal, or equal but for case,
    punctuation and white space; a warning says so."""

    bucket_texts: int = Limit(default=32, ge=2, le=10_000)
    """Of so many texts that share a MinHash band all pairs are compared; where more share it (boilerplate), each is
    compared with a few of them."""


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    table: pa.Table
    """One line for each row and split that hold the same: ``kind`` (``exact``: the same text; ``near``: similar, or the
    same normal form; ``contradiction``: the same normal form with another label), ``part``, ``row`` (its number),
    ``split`` and, of the row that it repeats, ``of_part``, ``of_row``, ``of_split``; ``similarity`` (float32, 1 for one
    normal form); ``cluster`` (int64, numbered in the order of their first rows).

    The row that is repeated comes first in the order of splits, parts and rows, and is the most similar one of its
    split: who drops all rows of lines with ``split == of_split`` keeps one of each. Of a row that is exact or of one
    normal form with a row of a split, no near one of that split is named."""
    rows: int
    """Rows compared."""
    texts: int
    """Distinct normal forms among them."""
    checked: int
    """Candidate pairs that were checked on their pieces."""
    full_buckets: int
    """How often more than ``bucket_texts`` texts shared a band."""
    pairs_left_out: int
    """Pairs in those that were not compared there; another band may have brought them together."""
    clusters: int
    """Clusters of two or more rows."""


def compare(parts: Sequence[Part], config: DuplicatesConfig | None = None) -> Comparison:
    """Compare all rows of all parts by their sketches, within and across splits.

    Splits are ordered by their first part, and parts within a split as given: the earlier row is the one that is
    repeated. The same parts in the same order give the same table.

    Raises:
        DataError: there are more rows than the 2**31 that can be numbered.
    """
    config = config or DuplicatesConfig()
    corpus = Corpus.of(parts)
    nearest = _Nearest.of(corpus)
    census = Census()
    for first, second in candidates(corpus, config.threshold, config.bucket_texts, census):
        census.checked += len(first)
        for part in slices(corpus.kept(first) + corpus.kept(second), CHECKED_PIECES):
            similarity = similarities(corpus, first[part], second[part])
            near = similarity >= config.threshold
            nearest.add(first[part][near], second[part][near], similarity[near])
    return _report(corpus, nearest, census)


@dataclass
class _Nearest:
    """For each group and split the most similar earlier row outside the group, and the clusters of groups."""

    corpus: Corpus
    similarity: Array
    """float32 [G, S]; 0 where there is none."""
    row: Array
    """int32 [G, S]; N where there is none."""
    cluster: Array
    """int32 [G]"""
    last: Array = field(init=False)
    """int8 [G]: the last split in which the group has rows."""

    def __post_init__(self) -> None:
        import numpy as np

        has = self.corpus.first < len(self.corpus.group)
        self.last = (has * np.arange(has.shape[1])).max(axis=1, initial=0)

    @classmethod
    def of(cls, corpus: Corpus) -> _Nearest:
        import numpy as np

        shape = (corpus.groups, len(corpus.splits))
        rows = len(corpus.group)
        return cls(corpus, np.zeros(shape, np.float32), np.full(shape, rows, np.int32), np.arange(corpus.groups))

    def add(self, first: Array, second: Array, similarity: Array) -> None:
        """Take in pairs of groups that are near each other."""
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(first):
            return
        ends = self.cluster[first], self.cluster[second]
        shape = (self.corpus.groups, self.corpus.groups)
        _, component = connected_components(coo_array((np.ones(len(first), np.int8), ends), shape), directed=False)
        self.cluster = component[self.cluster]
        near = similarity.astype(np.float32)
        for split in range(len(self.corpus.splits)):
            for group, other in ((first, second), (second, first)):
                self._add_from(split, group, other, near)

    def _add_from(self, split: int, group: Array, other: Array, similarity: Array) -> None:
        """Offer each group the first row of the other one in a split."""
        import numpy as np

        own, row = self.corpus.first[group, split], self.corpus.first[other, split]
        none = len(self.corpus.group)
        # Its own first row there needs an earlier one; without rows there, its rows in later splits may point to it.
        useful = (row < own) & ((own < none) | (self.last[group] > split))
        group, row, similarity = group[useful], row[useful], similarity[useful]
        order = np.lexsort((row, -similarity, group))
        group, row, similarity = group[order], row[order], similarity[order]
        best = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
        group, row, similarity = group[best], row[best], similarity[best]
        had = self.similarity[group, split], self.row[group, split]
        better = (similarity > had[0]) | ((similarity == had[0]) & (row < had[1]))
        self.similarity[group[better], split] = similarity[better]
        self.row[group[better], split] = row[better]


def _report(corpus: Corpus, nearest: _Nearest, census: Census) -> Comparison:
    import numpy as np
    import pyarrow as pa

    cluster, clusters = _clusters(corpus, nearest)
    found = [_no_lines(), *_repeats(corpus, nearest), *_contradictions(corpus)]
    rows, others, similarity, kind = (np.concatenate([lines[at] for lines in found]) for at in range(4))
    order = np.lexsort((kind, others, rows))
    rows, others, similarity, kind = rows[order], others[order], similarity[order], kind[order]
    names, splits = pa.array([part.name for part in corpus.parts], pa.string()), pa.array(corpus.splits, pa.string())

    def named(codes: Array, words: pa.Array) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), words)

    table = pa.table(
        {
            "kind": named(kind, pa.array([EXACT, NEAR, CONTRADICTION])),
            "part": named(corpus.part[rows], names),
            "row": pa.array(corpus.number[rows], pa.uint32()),
            "split": named(corpus.split[rows], splits),
            "of_part": named(corpus.part[others], names),
            "of_row": pa.array(corpus.number[others], pa.uint32()),
            "of_split": named(corpus.split[others], splits),
            "similarity": pa.array(similarity, pa.float32()),
            "cluster": pa.array(cluster[corpus.group[rows]], pa.int64()),
        }
    )
    return Comparison(
        table=table,
        rows=len(corpus.group),
        texts=corpus.groups,
        checked=census.checked,
        full_buckets=census.full_buckets,
        pairs_left_out=census.pairs_left_out,
        clusters=clusters,
    )


def _clusters(corpus: Corpus, nearest: _Nearest) -> tuple[Array, int]:
    """Return each group's cluster, numbered by first rows, -1 for a row alone: int64 [G]; and how many."""
    import numpy as np

    rows = np.bincount(nearest.cluster[corpus.group], minlength=corpus.groups)
    several = rows[nearest.cluster] > 1
    number = np.full(corpus.groups, -1, np.int64)
    found, first = numbered(nearest.cluster[several])
    number[several] = found
    return number, len(first)


def _no_lines() -> Lines:
    import numpy as np

    whole, share = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return whole, whole, share, whole


def _repeats(corpus: Corpus, nearest: _Nearest) -> Iterator[Lines]:
    """Yield row, row that it repeats, similarity and kind, split by split of the second."""
    import numpy as np

    rows = np.arange(len(corpus.group))
    for split in range(len(corpus.splits)):
        same = corpus.first_text[corpus.text, split]
        equal = corpus.first[corpus.group, split]
        exact = same < rows
        normal = (equal < rows) & ~exact
        other = nearest.row[corpus.group, split]
        # In its own split only the group's first row needs a near one: the others have the first.
        near = (other < rows) & ~exact & ~normal & (corpus.split >= split)
        near &= (corpus.split > split) | (equal == rows)
        for chosen, found, score, kind in (
            (exact, same, np.ones(len(rows), np.float32), 0),
            (normal, equal, np.ones(len(rows), np.float32), 1),
            (near, other, nearest.similarity[corpus.group, split], 1),
        ):
            yield rows[chosen], found[chosen], score[chosen], np.full(int(chosen.sum()), kind)


def _contradictions(corpus: Corpus) -> Iterator[Lines]:
    """Yield each row whose label differs from that of the first labelled row of its group, and that row."""
    import numpy as np

    labelled = np.flatnonzero(corpus.label)
    if not len(labelled):
        return
    first = np.zeros(corpus.groups, np.int64)
    first[corpus.group[labelled[::-1]]] = labelled[::-1]
    other = first[corpus.group[labelled]]
    differs = corpus.label[labelled] != corpus.label[other]
    rows, other = labelled[differs], other[differs]
    yield rows, other, np.ones(len(rows), np.float32), np.full(len(rows), 2)
