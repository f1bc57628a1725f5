"""The pictures of rows: where their bytes come from, and that they are a picture which can be decoded.

A row names its picture by a path or holds it. Paths of part files stay inside ``data/files``: a data folder is complete
then, and no row can show another file of the machine that reads it. A picture is decoded when it is read, since a
header says nothing about a file that is cut off, and under a limit that is checked before: a few kilobytes can unpack
to gigabytes. Only plain formats are opened; Pillow would hand others to other programs.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import shown
from graft.identity import digest_bytes
from graft.reading import RowError, describe

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FILES = "files"
"""The folder of pictures beside the splits of a data folder."""
LARGEST_PIXELS = 1 << 26
"""The most pixels that any limit allows; Pillow has doubts of its own from 89 million on."""
FORMATS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
"""Pillow's name of a format -> the end of a file's name. MPO is a JPEG of a camera with a preview behind it."""
EXPECTED = "a picture"
OPENED = tuple(name for name in FORMATS if name != "MPO")  # the opener of JPEG finds it
BYTES_PER_PIXEL = 8
"""Of a picture that is not packed at all (16-bit RGBA); the rest of a file is header."""
HEADER_BYTES = 1 << 20
FOR, AGAINST = (3, 105, 161), (234, 88, 12)
"""The colours of what speaks for an answer and against it, as the report has them."""
_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
_FULL = "a picture of at most {} pixels (data.max_image_pixels)"


@dataclass(frozen=True, slots=True)
class Pictures:
    """How the pictures of a file's rows are found, and how large they may be."""

    folder: Path | None
    """Where paths start; ``None``: there are none, and a string is the picture itself in base64 (serving)."""
    inside: str = ""
    """The folder in ``folder`` that paths must not leave, links included; empty: any in it, links followed."""
    max_pixels: int = LARGEST_PIXELS

    def read(self, value: Any) -> bytes:
        """Return the encoded bytes of the picture that a row's ``value`` names or holds.

        ``value``: bytes, a data URI, a path (base64 where there are no paths), or ``{bytes, path}`` as the datasets
        library writes it.

        Raises:
            RowError: there is none, it cannot be decoded, or it is too large.
        """
        content = self._bytes(value)
        if len(content) > self._most_bytes:
            raise RowError(_FULL.format(self.max_pixels), f"{len(content)} bytes")
        opened(content, self.max_pixels)
        return content

    def file_of(self, value: Any) -> Path | None:
        """Return the file that a row's ``value`` names, whether it is there or not; None where it names none."""
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else None
        named = isinstance(value, str) and not value.startswith("data:")
        return self.folder / value if named and self.folder is not None else None

    @property
    def _most_bytes(self) -> int:
        return HEADER_BYTES + BYTES_PER_PIXEL * self.max_pixels

    def _bytes(self, value: Any) -> bytes:
        if isinstance(value, dict) and {"bytes", "path"} >= value.keys() > set():
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str):
            raise RowError(f"{EXPECTED} (its path, a data URI or its bytes)", describe(value))
        if value.startswith("data:"):
            return _from_base64(value[_header(value) :])
        return _from_base64(value) if self.folder is None else self._from_path(value)

    def _from_path(self, name: str) -> bytes:
        assert self.folder is not None
        path = self.folder / name
        where = f"{self.folder.name}/{self.inside}".rstrip("/") if self.inside else "the folder of its file"
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or (self.inside and parts[0] != self.inside):
            raise RowError(f"the path of a picture in {where} ({self.inside or '...'}/name.png)", shown(name))
        if self.inside and any(part.startswith(".") or part == "__pycache__" for part in parts):
            # The digest of the data leaves such files out, so they could change unseen.
            raise RowError(f"a picture in {where} that is not hidden", shown(name))
        try:
            real = path.resolve(strict=True)
            if self.inside and not real.is_relative_to((self.folder / self.inside).resolve()):
                raise RowError(f"a picture that lies in {where}", f"{shown(name)}, a link that leads out of it")
            if not real.is_file():
                raise RowError(EXPECTED, f"{shown(name)}, which is no file")
            if real.stat().st_size > self._most_bytes:
                raise RowError(_FULL.format(self.max_pixels), f"{shown(name)}, {real.stat().st_size} bytes")
            return real.read_bytes()
        except (OSError, ValueError, RuntimeError):  # a NUL in the name, a link to itself
            raise RowError(EXPECTED, f"{shown(name)}, which is not there or cannot be read") from None


def opened(content: bytes, max_pixels: int = LARGEST_PIXELS) -> Image:
    """Return the first frame of an encoded picture, decoded, turned as its EXIF data says, in its own mode.

    Raises:
        RowError: it is no picture, it is cut off, it is empty, or it has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise RowError(EXPECTED, "no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=OPENED)
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width} x {picture.height}"
                raise RowError(_FULL.format(max_pixels), size)
            if not picture.width * picture.height:
                raise RowError(EXPECTED, f"one of {picture.width} x {picture.height} pixels")
            picture.load()
            turned = ImageOps.exif_transpose(picture)
    except RowError:
        raise
    except Image.DecompressionBombError:
        raise RowError(_FULL.format(max_pixels), "far more") from None
    except Exception as error:  # a decoder raises whatever the broken bytes lead it to
        what = "bytes of no known format" if isinstance(error, UnidentifiedImageError) else "broken bytes"
        raise RowError(f"{EXPECTED} ({', '.join(dict.fromkeys(FORMATS.values()))})", what) from None
    turned.format = picture.format
    return turned


def file_name(content: bytes) -> str:
    """Return where a picture lies in a data folder: ``files/ab/<sha256>.png``, by content, so equal ones lie once."""
    from PIL import Image

    digest = digest_bytes(content)
    with Image.open(io.BytesIO(content), formats=OPENED) as picture:
        return f"{FILES}/{digest[:2]}/{digest}.{FORMATS[str(picture.format)]}"


def converted(picture: Image, mode: Literal["L", "RGB"]) -> Image:
    """Return a picture in grey or in colour; transparency is dropped, grey is the same in all three colours.

    Pillow clips 16-bit grey at 255, which leaves white; here the upper eight bits stay.
    """
    from PIL import Image

    if picture.mode.startswith("I;16"):
        import numpy as np

        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if "transparency" in picture.info and picture.mode == "P":
        picture = picture.convert("RGBA")
    return picture.convert(mode)


def thumbnail(content: bytes, side: int = 96) -> str:
    """Return a picture, at most ``side`` pixels wide and high, as a data URI (PNG); small ones are not enlarged."""
    picture = converted(opened(content), "RGB")
    picture.thumbnail((side, side))
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode('ascii')}"


def marked(pixels: np.ndarray, weights: np.ndarray, side: int = 192) -> str:
    """Return a picture in grey with what weighs for (blue) and against (orange) laid over it, as a data URI (PNG).

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        weights: float64 [h, w], of squares of the picture; the largest, either way, has the strongest colour.
        side: the longer side of the copy.
    """
    import numpy as np
    from PIL import Image, ImageOps

    strength = (weights / (np.abs(weights).max() or 1.0))[..., None]
    colours = np.where(strength > 0, np.array(FOR), np.array(AGAINST))
    layer = np.concatenate([colours, 200 * np.abs(strength)], axis=-1).astype(np.uint8)
    grey = ImageOps.grayscale(Image.fromarray(pixels)).convert("RGBA")
    grey = grey.resize([max(1, round(side * length / max(grey.size))) for length in grey.size])
    over = Image.fromarray(layer, "RGBA").resize(grey.size, Image.Resampling.NEAREST)
    picture = Image.alpha_composite(grey, over).convert("RGB")
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode('ascii')}"


def png(picture: Image) -> bytes:
    """Return a picture as PNG: equal pixels, equal bytes."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _header(uri: str) -> int:
    found = _URI.match(uri)
    if found is None:
        raise RowError("a data URI of a picture (data:image/png;base64,...)", shown(uri))
    return found.end()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RowError(f"{EXPECTED} in base64", shown(text)) from None
