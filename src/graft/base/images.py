"""The base's image processor: what turns a picture into the pixels that the base was trained on.

transformers' processors are used by their pillow and numpy side (``backend="pil"``), also where torchvision is there:
the two resize with other rounding, and equal inputs are to give equal bytes on every machine. What only moves pixels
(colour, size, crop) is done once and kept as bytes; scale and normal form are one product per pixel, done when a batch
is made, so that stored pictures take a quarter of the space.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import ConfigError
from graft.pictures import converted, opened
from graft.workspace import read_json

if TYPE_CHECKING:
    import numpy as np

SETTINGS = "preprocessor_config.json"
ODD_SIZES = (40, 60), (60, 40)
"""Height and width of the pictures that show which sizes a processor gives."""
MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
"""Colour channels of a base -> how Pillow calls them."""


@dataclass(frozen=True)
class ImageProcessor:
    """A base's image processor: ``pixel_values = (pixels * rescale_factor - image_mean) / image_std``."""

    inner: Any
    """transformers' processor."""
    channels: int
    """Colour channels that the base reads: 1 or 3."""
    patches: int
    """What a picture costs, in patches of the base and the class token; 1 where the base has no patches."""
    rescale_factor: float
    image_mean: tuple[float, ...]
    """Per channel; 0 where the base does not shift."""
    image_std: tuple[float, ...]
    """Per channel; 1 where the base does not scale."""

    def pixels(self, content: bytes) -> np.ndarray:
        """Return an encoded picture in the base's colours and size: uint8 [C, H, W].

        Raises:
            RowError: it cannot be decoded.
        """
        import numpy as np

        picture = np.asarray(converted(opened(content), MODES[self.channels]))
        return self.resized(picture[:, :, None] if picture.ndim == 2 else picture)

    def resized(self, picture: np.ndarray) -> np.ndarray:
        """Return ``picture`` (uint8 [H, W, C]) in the base's size: uint8 [C, H, W]."""
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.inner(
                picture,
                do_rescale=False,
                do_normalize=False,
                do_convert_rgb=False,
                input_data_format="channels_last",
                return_tensors="np",
            )
        pixels: np.ndarray = np.ascontiguousarray(found["pixel_values"][0].round().clip(0, 255).astype(np.uint8))
        return pixels

    def picture(self, pixel_values: np.ndarray) -> np.ndarray:
        """Return the pixels that ``pixel_values`` (float32 [C, H, W]) were made from: uint8 [H, W] or [H, W, 3]."""
        import numpy as np

        mean, std = (np.array(one).reshape(-1, 1, 1) for one in (self.image_mean, self.image_std))
        raw = ((pixel_values * std + mean) / self.rescale_factor).round().clip(0, 255).astype(np.uint8)
        return raw[0] if self.channels == 1 else np.moveaxis(raw, 0, -1)


def load_image_processor(folder: Path) -> ImageProcessor:
    """Load the image processor in ``folder``: the one that ``AutoImageProcessor`` names.

    Raises:
        ConfigError: the folder holds none that transformers can read, or it reads neither grey nor colour pictures.
    """
    from transformers import AutoImageProcessor

    if not (folder / SETTINGS).is_file():
        raise ConfigError(f"base.source: no {SETTINGS} in {folder.name}; save the image processor beside the model")
    try:
        inner = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"base.source: the image processor in {folder.name} cannot be loaded: {error}") from error
    described = read_json(folder / "config.json")
    described = described.get("vision_config") or described
    channels = int(described.get("num_channels", 3))
    if channels not in MODES:
        raise ConfigError(f"base.source: {folder.name} reads pictures of {channels} channels; 1 (grey) or 3 are known")
    normal = bool(getattr(inner, "do_normalize", False))
    loaded = ImageProcessor(
        inner=inner,
        channels=channels,
        patches=_patches(described),
        rescale_factor=float(inner.rescale_factor) if getattr(inner, "do_rescale", False) else 1.0,
        image_mean=_per_channel(inner.image_mean if normal else 0.0, channels, "image_mean"),
        image_std=_per_channel(inner.image_std if normal else 1.0, channels, "image_std"),
    )
    _check_size(loaded, described)
    return loaded


def _check_size(processor: ImageProcessor, described: dict[str, Any]) -> None:
    """Refuse a processor that gives the base pictures of unequal sizes, or of another than it has positions for."""
    import numpy as np

    wide, high = (processor.resized(np.zeros((*size, processor.channels), np.uint8)).shape[1:] for size in ODD_SIZES)
    expected = _pair(described.get("image_size")) if processor.patches > 1 else wide
    if not wide == high == expected:
        found = f"{wide[0]} x {wide[1]}" if wide == high else "sizes that depend on the picture's"
        raise ConfigError(
            f"base.source: {SETTINGS} gives pictures of {found}, the base reads {expected[0]} x {expected[1]}; correct "
            f"its size and crop_size"
        )


def _per_channel(value: float | Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """Return one number per channel; transformers' defaults have three, which are all one value where they are usual.

    Raises:
        ConfigError: there are others.
    """
    found = [float(value)] * channels if isinstance(value, int | float) else [float(one) for one in value]
    if len(found) != channels and len(set(found)) == 1:
        found = found[:1] * channels
    if len(found) != channels:
        raise ConfigError(f"base.source: {SETTINGS}: {name} has {len(found)} numbers for {channels} channels")
    return tuple(found)


def _patches(described: dict[str, Any]) -> int:
    size, patch = described.get("image_size"), described.get("patch_size")
    (high, wide), (tall, broad) = (_pair(one) for one in (size, patch))
    return (high // tall) * (wide // broad) + 1 if high and tall and wide and broad else 1


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if isinstance(value, list) and len(value) == 2 else (0, 0)
