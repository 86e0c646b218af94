"""The genuine dSprites: L. Matthey, I. Higgins, D. Hassabis & A. Lerchner, 2017.

github.com/google-deepmind/dsprites-dataset: binary images 64x64 of three shapes on a full lattice of 6
scales, 40 orientations from 0 to 2 pi inclusive and 32 x 32 positions, in an ``.npz`` file with a member of
pickled metadata, which is never looked at. For smooth images of the same shapes see
:func:`manifold_jax.datasets.sprite`.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Num

import manifold_jax.datasets.archives as archives
from manifold_jax import _checks
from manifold_jax._files import replacing, user_path
from manifold_jax.datasets.factors import chosen_factors
from manifold_jax.geometry.grid import Axis, Grid

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
URL = "https://github.com/google-deepmind/dsprites-dataset"
SHAPES = {"square": 4, "ellipse": 2, "heart": 1}
"""Shapes in the order of the file, and how often each repeats within a turn."""

_FACTORS = ("scale", "orientation", "x", "y")
_COLUMNS = ("color", "shape", *_FACTORS)
_BLOCK = 2**22


class ImageLattice(NamedTuple):
    """Images on a grid, ready for ``measure(points, grid)``.

    Attributes:
        points: Pixels ``(*grid.shape, height, width)``, or with a last axis for colours; maybe mapped.
        grid: The lattice.
        notes: What was left out or put in order, in sentences.
    """

    points: Num[np.ndarray, "*shape height width *channels"]
    grid: Grid
    notes: tuple[str, ...]


def dsprites(
    path: archives.Place = None,
    shape: str = "heart",
    *,
    factors: Sequence[str] = ("scale", "orientation", "y", "x"),
    fixed: Mapping[str, float] | None = None,
    full_turn: bool = False,
    file: str | os.PathLike[str] | None = None,
) -> ImageLattice:
    """The images, 0 and 1, of one shape of the genuine dSprites with their lattice.

    Orientations 0 and 2 pi are the same image, of which one is kept. A square repeats after a quarter turn
    and an ellipse after half a turn: their orientations, taken modulo the symmetry, are sorted into one
    period. The archive (3 GB of images) is read as a stream; only the images that were asked for are kept.

    Args:
        path: The ``.npz`` file, or a folder that holds it; by default where MANIFOLD_JAX_DATA says. Its
            publisher gives no checksum, so that it is not downloaded.
        shape: ``"square"``, ``"ellipse"`` or ``"heart"``.
        factors: Axes of the grid in order, from ``scale``, ``orientation`` (rad), ``y`` and ``x`` (px, of the
            centre, as for :func:`sprite`).
        fixed: Values of the other factors, on the lattice; by default the largest scale, the first
            orientation and the middle positions.
        full_turn: Keep the whole turn of a square or ellipse, a multiple cover.
        file: A new ``.npy`` file to which the images are written and from which they are memory-mapped, so
            that they never lie in memory together (all of one shape are 1 GB).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or no full lattice, or an argument is not as described.

    Example:
        >>> points, grid, notes = dsprites("data", "ellipse", factors=("scale", "x"))  # doctest: +SKIP
        >>> points.shape, mj.measure(points, grid).total_volume.value  # doctest: +SKIP
    """
    shape = _checks.choice("dsprites", "shape", shape, SHAPES)
    full_turn = _checks.flag("dsprites", "full_turn", full_turn)
    names = chosen_factors("dsprites", factors, _FACTORS)
    _checks.keys("dsprites", "fixed", fixed, [name for name in _FACTORS if name not in names])
    target = None if file is None else user_path(file, "file")
    if target is not None and (target.suffix != ".npy" or target.exists()):
        raise ValueError(f"dsprites: file must be a new .npy file, got {target}.")
    remedy = f"take {FILE} from {URL}."
    wanted = [("latents_values.npy",), ("latents_classes.npy",)]
    place = archives.find(path, (FILE, "dsprites.npz"), wanted, "dSprites", URL)
    place = place or archives.download(URL, "", FILE)
    contents = archives.read_members(place, wanted, remedy)
    values, classes = (archives.parse_npy(content, label, remedy) for label, content in contents)
    with archives.whole_archive(place, remedy):
        lattice = _lattice(values, classes)
        size = _frame(place, len(classes))
    turn = 1 if full_turn else SHAPES[shape]
    factor_of = {name: _factor(name, lattice[name], turn, size[0]) for name in _FACTORS}
    notes = tuple(note.format(shape=shape) for factor in factor_of.values() for note in factor.notes)
    for name in _FACTORS:
        if name not in names:
            factor_of[name] = _held(name, factor_of[name], (fixed or {}).get(name))
    grid = Grid(tuple(factor_of[name].axis(name) for name in names))
    colour, shapes = np.zeros(1, int), np.array([list(SHAPES).index(shape)])
    indices = (colour, shapes, *(factor_of[name].indices for name in _FACTORS))
    flat = np.ravel_multi_index(np.ix_(*indices), [len(column) for column in lattice.values()])
    order = [_COLUMNS.index(name) for name in names]
    order += [axis for axis in range(len(_COLUMNS)) if axis not in order]
    rows = np.full(len(classes), -1)
    rows[flat.transpose(order).ravel()] = np.arange(grid.size)
    if target is None:
        points = np.empty((grid.size, *size), np.uint8)
        _fill(points, rows, place, remedy)
    else:
        with replacing(target) as aside:
            if shutil.disk_usage(aside.parent).free < grid.size * math.prod(size):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a mapped file would not say so
            written = np.lib.format.open_memmap(aside, "w+", np.uint8, (grid.size, *size))
            _fill(written, rows, place, remedy)
            written.flush()
        points = np.load(target, mmap_mode="r")
    return ImageLattice(points.reshape(*grid.shape, *size), grid, notes)


class _Factor(NamedTuple):
    """Samples of a factor that are kept: places in the file, coordinates, and the period if it has one."""

    indices: np.ndarray
    samples: np.ndarray
    period: float | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()

    def axis(self, name: str) -> Axis:
        """The axis through the samples."""
        first, count = float(self.samples[0]), len(self.samples)
        last = float(self.samples[-1]) if self.period is None else first + self.period
        axis = Axis(name, first, last, count, self.period is not None, self.unit)
        if not np.allclose(axis.samples(), self.samples, atol=1e-6 * (last - first)):
            raise ValueError(f"dsprites: {name} is not sampled at equal steps: leave it out of the factors.")
        return axis


def _lattice(values: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Values of every factor, if the rows are all combinations in order."""
    width = len(_COLUMNS)
    if values.ndim != 2 or values.shape[1] != width or classes.shape != values.shape or not len(classes):
        raise ValueError(f"latents of shapes {values.shape} and {classes.shape}, expected (n, {width}) twice")
    sizes = [int(n) + 1 for n in classes.max(axis=0)]
    if math.prod(sizes) != len(classes) or any(
        not np.array_equal(column, index)
        for column, index in zip(classes.T, np.unravel_index(np.arange(len(classes)), sizes), strict=True)
    ):
        raise ValueError(f"{len(classes)} rows of latents that do not form a lattice of {sizes} in order")
    columns = {}
    for name, column, index, size in zip(_COLUMNS, values.T, classes.T, sizes, strict=True):
        stride = int(np.argmax(index == 1)) if size > 1 else 1
        columns[name] = column[: stride * size : stride].astype(float)
        if not np.isfinite(column).all() or not np.array_equal(columns[name][index], column):
            raise ValueError(f"values of {name} that do not follow its classes")
    if len(columns["shape"]) != len(SHAPES) or len(columns["color"]) != 1:
        counts = f"{len(columns['shape'])} shapes and {len(columns['color'])} colours"
        raise ValueError(f"{counts}, expected 3 and 1")
    return columns


def _factor(name: str, values: np.ndarray, turns: int, side: int) -> _Factor:
    """The samples of one factor without those that repeat."""
    count = len(values)
    if name in ("x", "y"):
        return _Factor(np.arange(count), (side - 1) / 2 - side / 4 + side / 2 * values, unit="px")
    if name == "scale" or count < 2:
        return _Factor(np.arange(count), values)
    full, span = 2 * math.pi, values[-1] - values[0]
    step, notes = span / (count - 1), ()
    if math.isclose(span, full, rel_tol=1e-6):
        count -= 1
        notes = (f"Orientations 0 and 2 pi are the same image: one of {count + 1} samples is left out.",)
    elif not math.isclose(span + step, full, rel_tol=1e-6):
        return _Factor(np.arange(count), values, unit="rad")
    residues, indices = np.unique(np.arange(count) * turns % count, return_index=True)
    if turns > 1:
        held = f"{len(indices)} of {count} orientations are sorted into one period"
        notes += (f"The {{shape}} repeats after 2 pi / {turns}: {held}.",)
    period = full / turns
    return _Factor(indices, values[0] + residues * (period / count), period, "rad", notes)


def _held(name: str, factor: _Factor, value: float | None) -> _Factor:
    """The one sample of a factor that does not vary."""
    last = len(factor.samples) - 1
    at = {"scale": last, "orientation": 0}.get(name, last // 2)
    if value is not None:
        number = _checks.number("dsprites", f"fixed[{name!r}]", value)
        at = int(np.argmin(np.abs(factor.samples - number)))
        if not math.isclose(factor.samples[at], number, rel_tol=1e-4, abs_tol=1e-4):
            near = f"a sample of the lattice, the nearest is {factor.samples[at]:.6g}"
            raise ValueError(f"dsprites: fixed[{name!r}] must be {near}, got {value}.")
    return _Factor(factor.indices[[at]], factor.samples[[at]])


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The only member of images."""
    infos = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "imgs.npy"]
    if len(infos) != 1:
        raise zipfile.BadZipFile(f"it holds imgs.npy {len(infos)} times")
    return infos[0]


def _frame(place: Path, count: int) -> tuple[int, int]:
    """Height and width of the images, if their header agrees with their number and their bytes."""
    with zipfile.ZipFile(place) as archive, archives.open_member(archive, _member(archive)) as stream:
        shape, fortran, dtype, offset = archives.npy_header(stream.read(_BLOCK))
        if fortran or dtype != np.uint8 or len(shape) != 3 or shape[0] != count or 0 in shape:
            wanted = f"({count}, height, width) of uint8"
            raise ValueError(f"images of {dtype} of shape {shape}, expected {wanted}")
        if offset + math.prod(shape) != _member(archive).file_size:
            raise ValueError(f"{_member(archive).file_size} bytes of images where their header says {shape}")
        return shape[1], shape[2]


def _fill(points: np.ndarray, rows: np.ndarray, place: Path, remedy: str) -> None:
    """Stream the images; the k-th goes to ``rows[k]`` of the points unless that is negative."""
    with (
        archives.whole_archive(place, remedy),
        zipfile.ZipFile(place) as archive,
        archives.open_member(archive, _member(archive)) as stream,
    ):
        done = 0
        for images in _images(stream, points[0].size):
            target = rows[done : done + len(images)]
            kept = target >= 0
            points[target[kept]] = images[kept].reshape(-1, *points.shape[1:])
            done += len(images)


def _images(stream: IO[bytes], size: int) -> Iterator[np.ndarray]:
    """Images ``(k, size)`` of a stream that begins with the header, to its end."""
    rest = stream.read(_BLOCK)
    rest = rest[archives.npy_header(rest)[-1] :]
    while True:
        count = len(rest) // size
        yield np.frombuffer(rest, np.uint8, count * size).reshape(count, size)
        chunk = stream.read(_BLOCK)
        if not chunk:
            return
        rest = rest[count * size :] + chunk
