"""Images in files: PNG, JPEG and TIFF, as numbers."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import require

LEVELS = {"1": 1, "L": 255, "RGB": 255, "P": 255, "I;16": 65535, "I;16B": 65535, "I;16L": 65535, "F": 1}
"""White of the images that are read, by their mode in Pillow: grey, RGB, palette, 16 bits, floats."""


def read_image(path: Path) -> tuple[str, Float[np.ndarray, "height width *channels"]]:
    """Kind (mode of Pillow) and pixels of an image, white being 1.

    Raises:
        ValueError: It is damaged, not a PNG, JPEG or TIFF image, or of a kind that would lose something.
        ImportError: Pillow is not installed.
    """
    try:
        with opened_image(archives.read_file(path), ["PNG", "JPEG", "TIFF"]) as image:
            mode, pixels, reason = _pixels(image)
    except (ValueError, OSError, archives.zipfile.BadZipFile) as error:
        what = "is damaged or not a PNG, JPEG or TIFF image that Pillow reads"
        raise ValueError(f"{path} {what} ({error}).") from error
    if pixels is None:
        raise ValueError(f"{path} {reason}.")
    return mode, pixels


@contextlib.contextmanager
def opened_image(content: archives.Content, formats: Sequence[str]) -> Iterator[Any]:
    """An image of Pillow; whatever it says of a damaged file in this block is a ValueError."""
    Image = require("PIL.Image", "data", "Reading images")
    damage = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, IndexError, OverflowError)
    damage += (zlib.error, struct.error, Image.DecompressionBombError, Warning)
    try:
        with warnings.catch_warnings(action="error"):
            with Image.open(io.BytesIO(content), "r", formats) as image:
                image.verify()  # the checksums of a PNG file, up to its end
            with Image.open(io.BytesIO(content), "r", formats) as image:
                yield image
    except damage as error:
        raise ValueError(str(error)[:100] or type(error).__name__) from error


def _pixels(image: Any) -> tuple[str, np.ndarray | None, str]:
    """Kind and pixels, or None and why it is refused."""
    from PIL import ImageOps

    mode = image.mode
    if getattr(image, "n_frames", 1) > 1:
        return mode, None, f"holds {image.n_frames} pictures: save each as a file of its own"
    if mode == "RGB" and any(";16" in str(tile) for tile in image.tile):
        remedy = "store the images as an array (.npy)"
        return mode, None, f"has 16 bits a colour, of which only 8 would be read: {remedy}"
    turned = ImageOps.exif_transpose(image)
    if "A" in mode or "transparency" in image.info:
        whole = turned.convert("RGBA")
        if np.asarray(whole)[:, :, 3].min() < 255:
            return mode, None, "has transparent pixels: save it on a background"
        turned, mode = (turned.convert("L"), "L") if mode == "LA" else (whole.convert("RGB"), "RGB")
    if mode not in LEVELS:
        remedy = "save it as grey or RGB"
        return mode, None, f"is of the kind {mode}, expected one of {', '.join(LEVELS)}: {remedy}"
    pixels = np.asarray(turned.convert("RGB") if mode == "P" else turned, np.float32)
    return mode, pixels / np.float32(LEVELS[mode]), ""
