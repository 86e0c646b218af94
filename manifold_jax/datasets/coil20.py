"""COIL-20, extended: turntable views of an object, zoomed, rotated and translated smoothly.

S. A. Nene, S. K. Nayar, H. Murase, "Columbia Object Image Library (COIL-20)", Technical Report
CUCS-005-96, Columbia University, 1996: 20 objects on a turntable, 72 grey 128x128 views of each, 5 degrees
apart, cropped tight to the object. For research use.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from manifold_jax import _files as files
from manifold_jax._checks import require
from manifold_jax.datasets.turntable import turntable
from manifold_jax.geometry.manifold import Manifold

URL = "https://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100/coil-20/coil-20-proc.zip"
CHECKSUM = "md5:464dec76a6abfcd00e8de6cf1e7d0acc"  # of Columbia's own file, as DeepMind's NEVIS records it
ARCHIVE = "coil-20-proc"
OBJECTS, VIEWS, FRAME = 20, 72, 128

Place = str | os.PathLike[str] | None


def coil20(
    path: Place = None,
    object_id: int = 1,
    *,
    factors: Sequence[str] = ("view", "zoom", "rotation"),
    size: int = 64,
    blur: float = 1.0,
    view: str = "bandlimited",
    layout: str = "views",
    sizes: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> Manifold:
    """One COIL-20 object as a manifold of images; the arguments after ``object_id`` are :func:`turntable`'s.

    On the 72 samples of the default view axis a stencil sees only genuine views. Autodiff sees the
    interpolant between them. The two agree only as far as 5 degrees resolve the object: at 64 pixels and
    blur 1 the volume elements of view x zoom x rotation differ by 8 to 20 % (order 4, medians of objects
    1, 4, 10 and 19). ``layout="dense"`` resolves the interpolant, which is not more knowledge of the object.

    Args:
        path: Where COIL-20 is, see :func:`read_coil20`.
        object_id: 1 ... 20.
        factors: See :func:`turntable`, as for all that follow.
        size: Side of the images in pixels.
        blur: Gaussian blur in pixels of the images.
        view: Interpolation between views.
        layout: Named set of axis sizes.
        sizes: Samples by factor, instead of the layout's.
        ranges: (start, stop) by factor.
        fixed: Values of factors that do not vary.

    Returns:
        The manifold, with 128x128 frames resampled to ``(size, size)``.

    Raises:
        ValueError: As :func:`read_coil20` and :func:`turntable`.
        FileNotFoundError: As :func:`read_coil20`.

    Example:
        >>> manifold = coil20("coil-20-proc.zip", object_id=1)  # doctest: +SKIP
        >>> manifold.grid.shape, manifold.feature_shape  # doctest: +SKIP
        ((72, 9, 64), (64, 64))
    """
    return turntable(
        read_coil20(path, object_id),
        name=f"coil20 object {object_id}",
        factors=factors,
        size=size,
        blur=blur,
        view=view,
        layout=layout,
        sizes=sizes,
        ranges=ranges,
        fixed=fixed,
    )


def read_coil20(path: Place = None, object_id: int = 1) -> UInt8[np.ndarray, "72 128 128"]:
    """All 72 views of one object, as they are in the files.

    Args:
        path: ``coil-20-proc.zip``, the folder it unpacks to, or a folder that holds either; by default the
            place that MANIFOLD_JAX_DATA names, and where it holds no COIL-20 a download from Columbia into
            the user's cache (12 MB, checksummed, once).
        object_id: 1 ... 20.

    Returns:
        Grey levels 0 ... 255, view k turned by 5 k degrees.

    Raises:
        ValueError: ``object_id`` is out of range, or a file is damaged or is not a 128x128 grey PNG.
        FileNotFoundError: The path holds no COIL-20, a view is missing, or the download failed.
        ModuleNotFoundError: Pillow, or pooch for a download, is not installed.

    Example:
        >>> read_coil20("coil-20-proc.zip", object_id=3).shape  # doctest: +SKIP
        (72, 128, 128)
    """
    whole = isinstance(object_id, int | np.integer) and not isinstance(object_id, bool)
    if not whole or object_id not in range(1, OBJECTS + 1):
        raise ValueError(f"object_id must be a whole number from 1 to {OBJECTS}, got {object_id!r}.")
    place = _locate(path)
    names = [f"obj{object_id}__{k}.png" for k in range(VIEWS)]
    contents = (_zip_contents if place.is_file() else _folder_contents)(place, names)
    return np.stack([_decode(content, f"{place}: {name}") for name, content in contents.items()])


def _locate(path: Place) -> Path:
    """The zip file or the folder of PNG files."""
    wanted = (
        f"COIL-20: expected {ARCHIVE}.zip, a folder {ARCHIVE}, or obj1__0.png ... obj20__71.png in it; the "
        f"archive is at {URL}."
    )
    found = files.find(path, (f"{ARCHIVE}.zip", ARCHIVE), "obj*__*.png", wanted)
    return found or files.download(URL, CHECKSUM, f"{ARCHIVE}.zip")


def _require_all(names: Sequence[str], present: set[str], place: Path) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{place} lacks {len(missing)} of the {VIEWS} views {names[0]} ... {names[-1]} "
            f"(first {missing[0]}): take the complete archive from {URL}."
        )


def _folder_contents(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    _require_all(names, {file.name for file in place.glob("obj*__*.png")}, place)
    return {name: (place / name).read_bytes() for name in names}


def _zip_contents(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(place) as archive:
            members = {re.split(r"[/\\]", member)[-1]: member for member in archive.namelist()}
            _require_all(names, set(members), place)
            return {name: archive.read(members[name]) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{place} is not a whole zip file ({error}): download it again from {URL}."
        ) from error


def _decode(content: bytes, label: str) -> UInt8[np.ndarray, "128 128"]:
    Image = require("PIL.Image", "data", "Reading COIL-20")
    expected = f"expected a {FRAME}x{FRAME} grey PNG as in {ARCHIVE}.zip; take that from {URL}."
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            found = (image.width, image.height, image.mode)
            pixels = np.asarray(image) if found == (FRAME, FRAME, "L") else None
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise ValueError(f"{label} is truncated or damaged: {expected}") from error
    if pixels is None:
        raise ValueError(f"{label} is {found[0]}x{found[1]} pixels of mode {found[2]}: {expected}")
    return pixels
