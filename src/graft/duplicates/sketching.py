"""The sketch of a part: digests of its texts, MinHash bands to find candidates, pieces to check them.

A text is brought to a normal form (NFKC, case-folded, only letters, marks, numbers and symbols), which two digests of
64 bits keep: of the text as it is, and of the normal form without white space. Its pieces are its words, the three
letters around each letter within its word, and in scripts without spaces the characters and pairs of them. Pieces
never span words, so a reordered text has the same ones. Measured on one-word edits and natural pairs of five data sets:
words alone find more false pairs at the same recall, pairs of words and longer pieces miss edits of short texts.

All texts of a batch are worked on as one array of code points; a row costs Python little more than its two digests.
Rows whose normal form an earlier row of the part has share its bands and pieces. Of a text with more than
``KEPT_PIECES`` different pieces the ones with the smallest hashes are kept (a bottom-k sketch), which bounds the file.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.errors import IntegrityError
from graft.identity import mixed_bits
from graft.tfidf import UNSPACED

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

BANDS, BAND_SLOTS = 32, 6
"""Two texts of similarity s share a band with probability 1 - (1 - s ** BAND_SLOTS) ** BANDS."""
SEED = 20
SLOTS = BANDS * BAND_SLOTS
KEPT_PIECES = 256
ROW_BYTES = 4 + 8 + 8 + 4 + 8 + 4 + SLOTS // 8 + 4 * BANDS + 4 + 4 * KEPT_PIECES
"""The most bytes that a sketch holds of a row, beside a header of about a kilobyte: 1,216; of ten words, about 370."""
BATCH_ROWS, BATCH_CHARACTERS = 2048, 1 << 19
SIGNED_TEXTS = 128
"""Texts whose MinHash slots are asked for at once."""
RECIPE = {
    "format": 1,
    "bands": [BANDS, BAND_SLOTS],
    "kept": KEPT_PIECES,
    "seed": SEED,
    "signatures": 2,
    "unicode": unicodedata.unidata_version,
}
"""What has to be equal for sketches to be compared; ``signatures`` is rensa's version of the algorithm."""
_DROPPED, _SEPARATES, _SPACED, _UNSPACED, _UNKNOWN = range(5)
_APOSTROPHES = "'\u2019\u2018`\u02bc"
_KEY = "sketch"


class Entry(NamedTuple):
    """A row as it is sketched."""

    number: int
    """What the caller knows it by within its part (a line, a row number), from 0 to 2**32 - 1."""
    text: str
    """All that decides whether rows are equal: of a pair, messages or a list of tokens, the texts joined."""
    label: str | None = None
    """The label as text; ``None``: the row has none and contradicts no other."""
    about: str = ""
    """What rows may share by design, such as the context that several questions are about, and the answer. Rows are
    alike only where it is the same (in normal form), and how similar they are is told from ``text`` alone."""


@dataclass(frozen=True)
class Sketch:
    """What is remembered of a part of N rows with D distinct normal forms. Arrays may be mapped from a file."""

    number: Array
    """uint32 [N]: the rows' numbers."""
    text: Array
    """uint64 [N]: digest of the text as it is."""
    label: Array
    """uint64 [N]: digest of the label; 0 for none."""
    distinct: Array
    """uint32 [N]: which of the D the row's normal form is."""
    normal: Array
    """uint64 [D]: digest of the normal form, in the order of their first rows."""
    size: Array
    """uint32 [D]: how many different pieces the text has."""
    bands: Array
    """uint32 [BANDS, D]: one hash for each band of MinHash slots."""
    bits: Array
    """uint64 [SLOTS / 64, D]: the lowest bit of each slot (1-bit MinHash; Li and Koenig, 2010)."""
    offsets: Array
    """uint32 [D + 1]: where the pieces of each begin."""
    pieces: Array
    """uint32: hashes of pieces, ascending within a text; the ``KEPT_PIECES`` smallest."""

    @property
    def rows(self) -> int:
        """N."""
        return len(self.number)

    def save(self, path: Path) -> None:
        """Write the sketch as one safetensors file: equal sketches give equal bytes."""
        from safetensors.numpy import save

        path.parent.mkdir(parents=True, exist_ok=True)
        about = json.dumps(RECIPE, sort_keys=True)  # one key: the order of several is not fixed
        path.write_bytes(save(dict(vars(self)), metadata={_KEY: about}))

    @classmethod
    def load(cls, path: Path) -> Sketch:
        """Return the sketch in a file, its arrays mapped, so that only what is looked at is in memory.

        Raises:
            IntegrityError: the file is cut, no sketch, or made by another recipe.
        """
        import numpy as np
        from safetensors import SafetensorError, safe_open

        again = "; remove it, and it is made again"
        try:
            with safe_open(path, framework="np") as file:  # checks sizes and offsets
                about = (file.metadata() or {}).get(_KEY)
        except (SafetensorError, OSError) as error:
            raise IntegrityError(f"{path}: cannot be read as a sketch ({error}){again}") from None
        if about is None or json.loads(about) != RECIPE:
            raise IntegrityError(f"{path}: a sketch of another recipe ({about}, expected {json.dumps(RECIPE)}){again}")
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        length = int(raw[:8].view("<u8")[0])
        header = json.loads(raw[8 : 8 + length].tobytes())
        arrays = {}
        for name in cls.__dataclass_fields__:
            start, end = (8 + length + at for at in header[name]["data_offsets"])
            dtype = {"U32": "<u4", "U64": "<u8"}[header[name]["dtype"]]
            arrays[name] = raw[start:end].view(dtype).reshape(header[name]["shape"])
        return cls(**arrays)


def sketch(entries: Iterable[Entry]) -> Sketch:
    """Return the sketch of a part's rows. Takes them in batches: a part may be larger than memory, its sketch not.

    The same entries give the same arrays on every machine.
    """
    import numpy as np

    known: dict[int, int] = {}
    found = [_sketch_batch(batch, known) for batch in _batches(entries)] or [_sketch_batch([], known)]
    lengths = np.concatenate([[0], *(batch.pop("lengths") for batch in found)])
    joined = {name: np.concatenate([batch[name] for batch in found], axis=found[0][name].ndim - 1) for name in found[0]}
    return Sketch(**joined, offsets=np.cumsum(lengths).astype(np.uint32))


def normal_forms(entries: Iterable[Entry]) -> Array:
    """Return the digest of each text's normal form, as a sketch has it: uint64 [N]. Takes a third of its time."""
    import numpy as np

    forms = [
        _within(np.asarray(_normal_digests(*_code_points([entry.text for entry in batch])), np.uint64), _scopes(batch))
        for batch in _batches(entries)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *forms])


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch, characters = list[Entry](), 0
    for entry in entries:
        batch.append(entry)
        characters += len(entry.text) + len(entry.about)
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _sketch_batch(batch: Sequence[Entry], known: dict[int, int]) -> dict[str, Array]:
    """Return the arrays of some rows; ``known`` maps digests of normal forms to their order and takes in new ones."""
    import numpy as np

    codes, classes, starts = _code_points([entry.text for entry in batch])
    scopes, text_forms = _scopes(batch), np.asarray(_normal_digests(codes, classes, starts), np.uint64)
    normal = _within(text_forms, scopes).tolist()
    before = len(known)
    distinct = [known.setdefault(one, len(known)) for one in normal]
    new = sorted({at: row for row, at in reversed(list(enumerate(distinct))) if at >= before}.values())
    rows, hashes = _pieces(codes, classes, starts, text_forms)
    hashes = _within(hashes, scopes[rows], bits=32)
    position = np.full(len(batch), -1)
    position[new] = np.arange(len(new))
    chosen = position[rows] >= 0
    keys = sorted_unique(position[rows[chosen]].astype(np.uint64) << np.uint64(32) | hashes[chosen])
    owner, piece = (keys >> np.uint64(32)).astype(np.int64), keys.astype(np.uint32)
    size = np.bincount(owner, minlength=len(new))
    begins = np.cumsum(size) - size
    kept = np.arange(len(piece)) - begins[owner] < KEPT_PIECES
    bands, bits = _signatures(piece, size)
    labels = {label: _label_digest(label) for label in {entry.label for entry in batch}}
    return {
        "number": np.asarray([entry.number for entry in batch], np.uint32),
        "text": np.asarray([_digest(_whole(entry).encode("utf-8", "surrogatepass")) for entry in batch], np.uint64),
        "label": np.asarray([labels[entry.label] for entry in batch], np.uint64),
        "distinct": np.asarray(distinct, np.uint32),
        "normal": np.asarray([normal[row] for row in new], np.uint64),
        "size": size.astype(np.uint32),
        "bands": bands,
        "bits": bits,
        "lengths": np.minimum(size, KEPT_PIECES),
        "pieces": piece[kept],
    }


def _whole(entry: Entry) -> str:
    return f"{entry.text}\0{entry.about}" if entry.about else entry.text


def _scopes(batch: Sequence[Entry]) -> Array:
    """Return a digest of what each row is about, in normal form; 0 for nothing: uint64 [B]."""
    import numpy as np

    known = list(dict.fromkeys(entry.about for entry in batch))
    digests = dict(zip(known, _normal_digests(*_code_points(known)), strict=True))
    return np.asarray([digests[entry.about] if entry.about else 0 for entry in batch], np.uint64)


def _within(values: Array, scopes: Array, bits: int = 64) -> Array:
    """Return hashes that are equal only where the scopes are too; they stay as they are where the scope is 0."""
    import numpy as np

    mixed: Array = mixed_bits(values ^ scopes, 7) >> np.uint64(64 - bits)
    return np.where(scopes == 0, values, mixed)


def sorted_unique(values: Array) -> Array:
    """Return the distinct values in ascending order (numpy.unique hashes them, which takes five times as long)."""
    import numpy as np

    ordered: Array = np.sort(values)
    distinct: Array = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
    return distinct


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _label_digest(label: str | None) -> int:
    return 0 if label is None else _digest(label.encode("utf-8", "surrogatepass"))


def _code_points(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    """Return code points of all texts in normal form without dropped ones, their classes, and where each text starts.

    uint32 [C], uint8 [C], int64 [B + 1]. Each text ends with a NUL, which separates.
    """
    import numpy as np

    text = "".join(f"{one.replace(chr(0), ' ')}\0" for one in texts)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # case-folding can undo it
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    classes = _classes_of(codes)
    codes, classes = codes[classes != _DROPPED], classes[classes != _DROPPED]
    return codes, classes, np.concatenate([[0], np.flatnonzero(codes == 0) + 1])


@functools.cache
def _known_classes() -> Array:
    """Return the class of every code point that was met, and ``_UNKNOWN`` for the others: uint8 [0x110000]."""
    import numpy as np

    return np.full(0x110000, _UNKNOWN, np.uint8)


def _classes_of(codes: Array) -> Array:
    """Return the class of each code point: uint8. Only what a data set has is looked up: there are a million."""
    known = _known_classes()
    classes: Array = known[codes]
    unknown = classes == _UNKNOWN
    if unknown.any():
        for code in set(codes[unknown].tolist()):
            known[code] = _class(chr(code))
        classes = known[codes]
    return classes


def _class(sign: str) -> int:
    category = unicodedata.category(sign)
    # Soft hyphens, joiners, zero-width spaces: nobody sees them.
    if category == "Cf" or sign in _APOSTROPHES:
        return _DROPPED
    if category[0] not in "LMNS":
        return _SEPARATES
    return _UNSPACED if UNSPACED.match(sign) else _SPACED


def _normal_digests(codes: Array, classes: Array, starts: Array) -> list[int]:
    """Return the digest of each text without its separators; of a text of separators alone, of those but the spaces."""
    import numpy as np

    said = classes >= _SPACED
    content = codes[said].tobytes()
    ends = (4 * np.concatenate([[0], np.cumsum(said)])[starts]).tolist()
    digests = [_digest(content[start:end]) for start, end in itertools.pairwise(ends)]
    for row, (start, end) in enumerate(itertools.pairwise(ends)):
        if start == end:
            signs = codes[starts[row] : starts[row + 1]].tobytes().decode("utf-32-le", "surrogatepass")
            digests[row] = _digest(b"signs " + "".join(signs[:-1].split()).encode("utf-8", "surrogatepass"))
    return digests


def _pieces(codes: Array, classes: Array, starts: Array, normal: Array) -> tuple[Array, Array]:
    """Return the row and the hash of each piece of each text, with repeats: int64 [P], uint64 [P] below 2**32.

    A text without words has one piece, its normal form.
    """
    import numpy as np

    if not len(codes):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    wide = codes.astype(np.uint64)
    spaced, unspaced = classes == _SPACED, classes == _UNSPACED
    after_spaced, after_unspaced = np.roll(spaced, 1), np.roll(unspaced, 1)
    left = np.where(after_spaced, np.roll(wide, 1), np.uint64(0))
    right = np.where(np.roll(spaced, -1), np.roll(wide, -1), np.uint64(0))
    three = (wide | left << np.uint64(21) | right << np.uint64(42))[spaced]
    # A word is the sum of its letters, each mixed with its place in the word.
    place = np.arange(len(codes))
    first = np.flatnonzero(spaced & ~after_spaced)
    begins = np.zeros(len(codes), np.int64)
    begins[first] = first
    place -= np.maximum.accumulate(begins)
    letters = np.where(spaced, mixed_bits(wide | place.astype(np.uint64) << np.uint64(21), 1), np.uint64(0))
    words = np.add.reduceat(letters, first) if len(first) else letters[:0]
    pair = unspaced & after_unspaced
    empty = np.flatnonzero(np.bincount(row[classes >= _SPACED], minlength=len(starts) - 1) == 0)
    kinds = [
        (row[spaced], three),
        (row[first], words),
        (row[unspaced], wide[unspaced]),
        (row[pair], (wide | np.roll(wide, 1) << np.uint64(21))[pair]),
        (empty, normal[empty]),
    ]
    hashes = [mixed_bits(values, kind) >> np.uint64(32) for kind, (_, values) in enumerate(kinds, 2)]
    return np.concatenate([rows for rows, _ in kinds]), np.concatenate(hashes)


def _signatures(pieces: Array, size: Array) -> tuple[Array, Array]:
    """Return a hash for each band of each text's MinHash slots, and a bit of each slot.

    uint32 [BANDS, D], uint64 [SLOTS / 64, D].
    """
    import numpy as np

    if not len(size):
        return np.zeros((BANDS, 0), np.uint32), np.zeros((SLOTS // 64, 0), np.uint64)
    flat = _slots(mixed_bits(pieces.astype(np.uint64), 0), np.concatenate([[0], np.cumsum(size)]))
    slots = flat.reshape(len(size), BANDS, BAND_SLOTS)
    mixed = np.zeros(slots.shape[:2], np.uint64)
    for slot in range(BAND_SLOTS):
        mixed = mixed_bits(mixed ^ slots[:, :, slot], slot)
    bits = np.packbits((flat & np.uint64(1)).astype(np.uint8).reshape(len(size), SLOTS), axis=1, bitorder="little")
    bands = (mixed >> np.uint64(32)).astype(np.uint32)
    return np.ascontiguousarray(bands.T), np.ascontiguousarray(bits.view("<u8").T)


def _slots(hashes: Array, offsets: Array) -> Array:
    """Return the MinHash slots of all texts, one text after the other: uint64 [D * SLOTS].

    rensa gives them as Python's numbers, which takes longer than to compute them; a few texts at a time their memory
    stays in the processor's cache, which halves that.
    """
    import numpy as np
    from rensa import RMinHash

    row = struct.Struct(f"<{SLOTS}I")
    packed = list[bytes]()
    for at in range(0, len(offsets) - 1, SIGNED_TEXTS):
        bounds = offsets[at : at + SIGNED_TEXTS + 1]
        some = hashes[int(bounds[0]) : int(bounds[-1])]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            some, (bounds - bounds[0]).astype(np.uint64), SLOTS, SEED
        )
        packed += itertools.starmap(row.pack, matrix.to_rows())
    return np.frombuffer(b"".join(packed), "<u4").astype(np.uint64)
