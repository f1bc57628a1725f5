"""Files of text as streams of bytes: what a name says about format and packing, and unpacking under limits.

gzip is read by Python's library and zstd by pyarrow, which, unlike ``zstandard``'s stream reader, tells a file that is
cut off from one that ends. A few kilobytes can unpack to terabytes, so what comes out is counted.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from graft.errors import shown
from graft.reading.rules import Limits, RowError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TEXT_FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""How files of text may be packed: the end of the name -> what it is."""
BOM = b"\xef\xbb\xbf"
FREE_BYTES = 1 << 26
"""Unpacked bytes to which the ratio does not apply yet: a small file of equal rows is no bomb."""
CHUNK_BYTES = 1 << 16
_FOREIGN = {
    b"\x1f\x8b": "a gzip file; name it {name}.gz, or unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd file; name it {name}.zst, or unpack it",
    b"BZh91AY&": "a bzip2 file; unpack it",
    b"\xfd7zXZ": "an xz file; unpack it",
    b"PK\x03\x04": "a zip archive or spreadsheet; unpack it or export it as CSV",
    b"PAR1\x15": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"\xff\xff\xff\xff": "an Arrow stream; name it .arrow",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


def format_of(path: Path) -> str:
    """Return the end of a file's name that says its format: ``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    inner = Path(path.stem).suffix
    return inner if path.suffix in PACKINGS and inner in TEXT_FORMATS else path.suffix


def stem_of(path: Path) -> str:
    """Return a file's name without format and packing: ``a`` of ``a.csv`` and of ``a.csv.gz``."""
    return path.stem if format_of(path) == path.suffix else Path(path.stem).stem


def names_of(parts: Sequence[Path]) -> dict[Path, str]:
    """Return what results of the parts of one folder are called: like the part, without its format.

    Parts that would be called the same (``a.csv`` beside ``a.jsonl``) keep their whole names.
    """
    stems = {path: stem_of(path) for path in parts}
    counts = Counter(stems.values())
    names = {path: stem if counts[stem] == 1 else path.name for path, stem in stems.items()}
    return names if len({*names.values()}) == len(names) else {path: path.name for path in parts}


def opened(path: Path, limits: Limits) -> BinaryIO:
    """Open a file of text, unpacked, at its start; packed ones are unpacked while they are read.

    Reading raises ``RowError`` where a packed file is damaged, cut off, or unpacks to more than ``limits`` allow.
    """
    if path.suffix not in PACKINGS:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path, limits), CHUNK_BYTES)


def skip_bom(file: BinaryIO) -> None:
    """Pass over the byte order mark at the start of a file, if there is one."""
    if file.peek(len(BOM))[: len(BOM)] == BOM:  # type: ignore[attr-defined]
        file.read(len(BOM))


def has_bom(path: Path) -> bool:
    """Say whether a file of text starts with the byte order mark that the reader skips."""
    if format_of(path) not in TEXT_FORMATS:
        return False
    try:
        with opened(path, Limits()) as file:
            return file.read(len(BOM)) == BOM
    except RowError:
        return False


def foreign(path: Path, limits: Limits) -> str | None:
    """Return what a file of text is instead, as its first bytes tell.

    Raises:
        RowError: a packed file is damaged.
    """
    with opened(path, limits) as file:
        head = file.read(8)
    found = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    return found.format(name=path.name) if found else None


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a file, counted."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.kind = PACKINGS[path.suffix]
        self.limits = limits
        self.packed_bytes, self.unpacked_bytes = path.stat().st_size, 0
        self.packed = path.open("rb")
        self.stream = gzip.GzipFile(fileobj=self.packed) if self.kind == "gzip" else _zstd(self.packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self._read(len(view))
        self.unpacked_bytes += len(content)
        self._refuse_bomb()
        view[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self.stream.read(size))
        except (EOFError, OSError, zlib.error) as error:
            what = str(error).partition("\n")[0]
            if isinstance(error, EOFError) or "Truncated" in what:
                raise RowError(f"a whole {self.kind} file", "one that is cut off") from None
            raise RowError(f"a {self.kind} file", f"one that cannot be unpacked ({shown(what)})") from None

    def _refuse_bomb(self) -> None:
        """Refuse what unpacks to too much.

        Raises:
            RowError: with the setting that allows more.
        """
        most = self.limits.max_unpacked_bytes
        if self.unpacked_bytes > most:
            raise RowError(f"at most {most} bytes unpacked (data.max_unpacked_bytes)", "more; split the file")
        ratio = self.limits.max_unpacked_ratio
        if self.unpacked_bytes > max(FREE_BYTES, ratio * self.packed_bytes):
            expected = f"at most {ratio} times its {self.packed_bytes} bytes unpacked (data.max_unpacked_ratio)"
            raise RowError(expected, "more: a decompression bomb?")

    def close(self) -> None:
        self.stream.close()
        self.packed.close()
        super().close()


def _zstd(file: BinaryIO) -> BinaryIO:
    import pyarrow as pa

    stream: BinaryIO = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return stream
