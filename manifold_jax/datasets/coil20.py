"""COIL-20 and COIL-100, extended: turntable views of an object, zoomed, rotated and translated smoothly.

S. A. Nene, S. K. Nayar, H. Murase, "Columbia Object Image Library (COIL-20)", Technical Report CUCS-005-96,
and "(COIL-100)", CUCS-006-96, Columbia University, 1996: objects on a turntable, 72 views of each, 128x128,
5 degrees apart; of COIL-20 grey and cropped tight to the object. For research use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import whole
from manifold_jax.datasets.pictures import opened_image
from manifold_jax.datasets.turntable import turntable
from manifold_jax.geometry.manifold import Manifold

VIEWS, FRAME = 72, 128
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey, ITU-R BT.601


class Source(NamedTuple):
    """One of the two libraries, as Columbia serves it."""

    title: str
    archive: str
    objects: int
    step: int  # between the numbers of two views in the names of their files
    mode: str  # of the images
    url: str
    checksum: str


_CAVE = "https://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100"
_SUM = "md5:464dec76a6abfcd00e8de6cf1e7d0acc"  # of Columbia's own file, as DeepMind's NEVIS records it
COIL20 = Source("COIL-20", "coil-20-proc", 20, 1, "L", f"{_CAVE}/coil-20/coil-20-proc.zip", _SUM)
COIL100 = Source("COIL-100", "coil-100", 100, 5, "RGB", f"{_CAVE}/coil-100/coil-100.zip", "")


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


def coil100(path: archives.Place = None, object_id: int = 1, **options: Any) -> Manifold:
    """One COIL-100 object as a manifold of grey images, the luma (ITU-R BT.601) of its views.

    Args:
        path: Where COIL-100 is, see :func:`read_coil100`.
        object_id: 1 ... 100.
        options: As for :func:`turntable`, except ``name``.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`read_coil100` and :func:`turntable`.
    """
    grey = read_coil100(path, object_id) @ np.array(LUMA) / 255
    return turntable(grey, name=f"coil100 object {object_id}", **options)


def read_coil20(path: archives.Place = None, object_id: int = 1) -> UInt8[np.ndarray, "72 128 128"]:
    """All 72 views of one object, as they are in the files.

    Args:
        path: ``coil-20-proc.zip``, the folder it unpacks to (flat, nested or with a folder for every object),
            or a folder that holds either; by default as for :func:`mnist` (12 MB, from Columbia).
        object_id: 1 ... 20.

    Returns:
        Grey levels 0 ... 255, view k turned by 5 k degrees.

    Raises:
        ValueError: ``object_id`` is out of range, or a file is damaged or is not a 128x128 grey PNG.
        FileNotFoundError: The path holds no COIL-20, a view is missing, or the download failed.
        ImportError: Pillow, or pooch for a download, is not installed.
    """
    return _read(COIL20, "read_coil20", path, object_id)


def read_coil100(path: archives.Place = None, object_id: int = 1) -> UInt8[np.ndarray, "72 128 128 3"]:
    """All 72 views of one object in colour, as they are in the files.

    Args:
        path: ``coil-100.zip``, the folder it unpacks to, or a folder that holds either; by default where
            MANIFOLD_JAX_DATA says. Its publisher gives no checksum, so that it is not downloaded.
        object_id: 1 ... 100.

    Returns:
        Levels 0 ... 255 of red, green and blue, view k turned by 5 k degrees.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`read_coil20`.
    """
    return _read(COIL100, "read_coil100", path, object_id)


def _read(source: Source, caller: str, path: archives.Place, object_id: int) -> np.ndarray:
    number = whole(caller, "object_id", object_id, 1, source.objects)
    wanted = [(f"obj{number}__{k * source.step}.png",) for k in range(VIEWS)]
    names = (f"{source.archive}.zip", source.archive, source.title.lower())
    place = archives.find(path, names, wanted, source.title, source.url, deep=True)
    place = place or archives.download(source.url, source.checksum, f"{source.archive}.zip")
    members = archives.read_members(place, wanted, f"take the complete archive from {source.url}.")
    return np.stack([_decode(source, content, label) for label, content in members])


def _decode(source: Source, content: archives.Content, label: str) -> np.ndarray:
    colour = "grey" if source.mode == "L" else source.mode
    picture = f"a {FRAME}x{FRAME} {colour} PNG as in {source.archive}.zip"
    expected = f"expected {picture}; take that from {source.url}."
    try:
        with opened_image(content, ["PNG"]) as image:
            kind = (image.width, image.height, image.mode)
            pixels = np.asarray(image) if kind == (FRAME, FRAME, source.mode) else None
    except ValueError as error:
        raise ValueError(f"{label} is truncated or damaged: {expected}") from error
    if pixels is None:
        raise ValueError(f"{label} is {kind[0]}x{kind[1]} pixels of mode {kind[2]}: {expected}")
    return pixels
