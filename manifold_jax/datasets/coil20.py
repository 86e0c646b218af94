"""COIL-20, extended: turntable views of an object, zoomed, rotated and translated smoothly.

S. A. Nene, S. K. Nayar, H. Murase, "Columbia Object Image Library (COIL-20)", Technical Report
CUCS-005-96, Columbia University, 1996: 20 objects on a turntable, 72 grey 128x128 views of each, 5 degrees
apart, cropped tight to the object. For research use.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import require, whole
from manifold_jax.datasets.turntable import turntable
from manifold_jax.geometry.manifold import Manifold

URL = "https://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100/coil-20/coil-20-proc.zip"
CHECKSUM = "md5:464dec76a6abfcd00e8de6cf1e7d0acc"  # of Columbia's own file, as DeepMind's NEVIS records it
ARCHIVE = "coil-20-proc"
OBJECTS, VIEWS, FRAME = 20, 72, 128


def coil20(path: archives.Place = None, object_id: int = 1, **options: Any) -> Manifold:
    """One COIL-20 object as a manifold of images.

    On the 72 samples of the default view axis a stencil sees only photographs, while automatic
    differentiation sees the interpolant between them. They agree as far as 5 degrees resolve the object: at
    64 pixels and blur 1 the volume elements of view x zoom x rotation differ by 8 to 20 % (order 4, medians
    of four objects). ``layout="dense"`` resolves the interpolant, which tells no more about the object.

    Args:
        path: Where COIL-20 is, see :func:`read_coil20`.
        object_id: 1 ... 20.
        options: As for :func:`turntable`, except ``name``.

    Returns:
        The manifold, with 128x128 frames resampled to ``(size, size)``.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`read_coil20` and :func:`turntable`.

    Example:
        >>> manifold = coil20("coil-20-proc.zip", object_id=1)  # doctest: +SKIP
        >>> manifold.grid.shape, manifold.feature_shape  # doctest: +SKIP
        ((72, 9, 64), (64, 64))
    """
    return turntable(read_coil20(path, object_id), name=f"coil20 object {object_id}", **options)


def read_coil20(path: archives.Place = None, object_id: int = 1) -> UInt8[np.ndarray, "72 128 128"]:
    """All 72 views of one object, as they are in the files.

    Args:
        path: ``coil-20-proc.zip``, the folder it unpacks to, or a folder that holds either; by default as for
            :func:`mnist` (12 MB, from Columbia).
        object_id: 1 ... 20.

    Returns:
        Grey levels 0 ... 255, view k turned by 5 k degrees.

    Raises:
        ValueError: ``object_id`` is out of range, or a file is damaged or is not a 128x128 grey PNG.
        FileNotFoundError: The path holds no COIL-20, a view is missing, or the download failed.
        ImportError: Pillow, or pooch for a download, is not installed.
    """
    number = whole("read_coil20", "object_id", object_id, 1, OBJECTS)
    place = archives.find(path, (f"{ARCHIVE}.zip", ARCHIVE), "obj*__*.png", "COIL-20", URL)
    place = place or archives.download(URL, CHECKSUM, f"{ARCHIVE}.zip")
    names = [f"obj{number}__{k}.png" for k in range(VIEWS)]
    contents = archives.read_members(place, names, f"take the complete archive from {URL}.")
    views = [_decode(content, f"{place}: {name}") for name, content in zip(names, contents, strict=True)]
    return np.stack(views)


def _decode(content: bytes, label: str) -> UInt8[np.ndarray, "128 128"]:
    Image = require("PIL.Image", "data", "Reading COIL-20")
    expected = f"expected a {FRAME}x{FRAME} grey PNG as in {ARCHIVE}.zip; take that from {URL}."
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            kind = (image.width, image.height, image.mode)
            pixels = np.asarray(image) if kind == (FRAME, FRAME, "L") else None
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise ValueError(f"{label} is truncated or damaged: {expected}") from error
    if pixels is None:
        raise ValueError(f"{label} is {kind[0]}x{kind[1]} pixels of mode {kind[2]}: {expected}")
    return pixels
