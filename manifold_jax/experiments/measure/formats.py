"""What files hold: arrays read where they lie, names and samples of their dimensions, clouds of points."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import fits_in_memory, require
from manifold_jax._programs import first_line
from manifold_jax.datasets import archives
from manifold_jax.datasets.folders import delimiter_of

_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, NotImplementedError)
_DAMAGE += (zipfile.BadZipFile, zlib.error)
"""What libraries raise for files that are damaged or of another kind."""

_MARKS = ("zarr.json", ".zgroup", ".zarray")  # one of these lies in every Zarr folder

Vectors = Mapping[str, np.ndarray]
NOTHING: Mapping[str, Any] = {}


class Content(NamedTuple):
    """An array in a file, read where it lies.

    Attributes:
        label: What reports call it.
        values: What slices read, with a shape and a type.
        names: Names of all dimensions, empty where the file has none.
        vectors: One-dimensional arrays of numbers by name, which may be samples of an axis.
        units: Units of dimensions, as far as the file gives them.
    """

    label: str
    values: Any
    names: tuple[str, ...]
    vectors: Vectors = NOTHING
    units: Mapping[str, str] = NOTHING


def kind_of(path: Path) -> str:
    """Whether a path holds an array, variables, images or a cloud of points.

    Raises:
        ValueError: It is of no kind that is read.
    """
    if path.is_dir():
        return "variables" if any((path / mark).exists() for mark in _MARKS) else "folder"
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        remedy = "a single image is one point: give the folder of all of them"
        raise ValueError(
            f"{path} is not of a kind that is read: .npy, .npz, .nc, .h5, .zarr, .csv (a cloud) or a folder "
            f"of images; {remedy}."
        )
    return kind


@contextlib.contextmanager
def opened(path: Path, variable: str | None = None) -> Iterator[Content]:
    """What a file holds, which stays open in this block.

    Raises:
        ValueError: It is damaged, or several variables are meant.
    """
    suffix = ".zarr" if path.is_dir() else path.suffix.lower()
    with contextlib.ExitStack() as files:
        try:
            content = _READERS[suffix](path, variable, files)
        except _Choice as choice:
            raise ValueError(f"{path} {choice}.") from None
        except _DAMAGE as error:
            raise ValueError(f"{path} cannot be read ({first_line(error)[:150]}).") from error
        yield content


class _Choice(Exception):
    """The variable that is meant is not told."""


def _choose(shapes: Mapping[str, tuple[tuple[int, ...], Any]], variable: str | None) -> str:
    """The variable that is asked for, or the only one with more than one dimension."""
    numbers = {n: s for n, (s, dtype) in shapes.items() if np.dtype(dtype).kind in "biuf" and s}
    if not numbers:
        raise _Choice("holds no array of numbers")
    listed = ", ".join(f"{n} {s}" for n, s in list(numbers.items())[:20])
    if variable is not None:
        chosen = variable if variable in numbers else variable.strip("/")
        if chosen not in numbers:
            raise _Choice(f"has no array of numbers {variable!r}, it holds {listed}")
        return chosen
    wide = [name for name, shape in numbers.items() if len(shape) > 1]
    if len(wide) != 1:
        raise _Choice(f"holds {listed}: choose one with --variable")
    return wide[0]


def _read_npy(path: Path, _: str | None, __: contextlib.ExitStack) -> Content:
    return Content(path.name, np.lib.format.open_memmap(path, mode="r"), ())


def _read_npz(path: Path, variable: str | None, files: contextlib.ExitStack) -> Content:
    archive = files.enter_context(zipfile.ZipFile(path))
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    shapes = {}
    for name, info in members.items():
        with contextlib.suppress(ValueError), archives.open_member(archive, info) as member:
            shape, _, dtype, _ = archives.npy_header(member.read(2**16))
            shapes[name] = (shape, dtype)
    chosen = _choose(shapes, variable)
    vectors = [name for name, (shape, _) in shapes.items() if len(shape) == 1 and name != chosen]

    def read(name: str) -> np.ndarray:
        fits_in_memory("measure", f"{name} in {path}", members[name].file_size)
        with archives.open_member(archive, members[name]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return _content(path, chosen, read(chosen), (), {name: read(name) for name in vectors})


def _read_netcdf(path: Path, variable: str | None, files: contextlib.ExitStack) -> Content:
    xarray = require("xarray", "report", "A NetCDF file")
    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    require("scipy" if classic else "h5netcdf", "report", "A NetCDF file")
    engine = "scipy" if classic else "h5netcdf"
    # Times are numbers here, and slices are not kept.
    data = xarray.open_dataset(path, engine=engine, decode_times=False, decode_timedelta=False, cache=False)
    files.callback(data.close)
    chosen = _choose({str(n): (a.shape, a.dtype) for n, a in data.data_vars.items()}, variable)
    array = data[chosen]
    names = tuple(map(str, array.dims))
    numeric = {n: c for n in names if n in data.variables and (c := data[n]).ndim == 1}
    vectors = {n: np.asarray(c) for n, c in numeric.items() if c.dtype.kind in "iuf"}
    units = _units(numeric)
    return Content(f"{path.name}: {chosen}", array, names, vectors, units)


def _read_hdf5(path: Path, variable: str | None, files: contextlib.ExitStack) -> Content:
    h5py = require("h5py", "report", "An HDF5 file")
    file = files.enter_context(h5py.File(path, "r"))
    arrays: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item

    file.visititems(visit)
    chosen = _choose({name: (item.shape or (), item.dtype) for name, item in arrays.items()}, variable)
    array, names = arrays[chosen], []
    vectors = _vectors_near(chosen, arrays)
    for dimension in array.dims:
        scales = [scale for scale in dimension.values() if _is_vector(scale)]
        name = scales[0].name.rpartition("/")[2] if scales else dimension.label
        vectors |= dict.fromkeys([name], scales[0]) if scales else {}
        names.append(name)
    return _content(path, chosen, array, names, vectors)


def _units(items: Mapping[str, Any]) -> dict[str, str]:
    """Attributes ``units``, which other programs write as bytes or arrays of one entry."""
    attributes = {name: getattr(item, "attrs", {}) for name, item in items.items()}
    given = {name: np.ravel(about.get("units", ())).tolist() for name, about in attributes.items()}
    words = {name: units[0] for name, units in given.items() if units}
    return {n: w.decode(errors="replace") if isinstance(w, bytes) else str(w) for n, w in words.items()}


def _is_vector(item: Any) -> bool:
    return len(item.shape or ()) == 1 and item.dtype.kind in "iuf" and item.size > 1


def _vectors_near(chosen: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Vectors in the group of an array, by their names in it."""
    places = {name: name.rpartition("/") for name, item in arrays.items() if _is_vector(item)}
    return {own: arrays[n] for n, (group, _, own) in places.items() if group == chosen.rpartition("/")[0]}


def _read_zarr(path: Path, variable: str | None, _: contextlib.ExitStack) -> Content:
    zarr = require("zarr", "zarr", "A Zarr folder")
    top = zarr.open(path, mode="r")
    if isinstance(top, zarr.Array):
        return Content(path.name, top, _zarr_names(top))
    arrays = {name: item for name, item in top.members(max_depth=None) if isinstance(item, zarr.Array)}
    chosen = _choose({name: (item.shape, item.dtype) for name, item in arrays.items()}, variable)
    return _content(path, chosen, arrays[chosen], _zarr_names(arrays[chosen]), _vectors_near(chosen, arrays))


def _zarr_names(array: Any) -> tuple[str, ...]:
    """Names of dimensions as xarray writes them, in format 2 or 3."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return tuple(str(name or "") for name in names)


_READERS: dict[str, Callable[..., Content]] = {
    ".npz": _read_npz,
    ".zarr": _read_zarr,
    **dict.fromkeys((".nc", ".nc4", ".cdf", ".netcdf"), _read_netcdf),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5"), _read_hdf5),
}
_KINDS = dict.fromkeys(_READERS, "variables") | dict.fromkeys((".csv", ".tsv", ".txt"), "cloud")
_KINDS[".npy"], _READERS[".npy"] = "array", _read_npy
"""What is in a file, by its suffix."""


def _content(
    path: Path, chosen: str, values: Any, names: Sequence[str], vectors: Mapping[str, Any]
) -> Content:
    """An array; where it has no names, leading dimensions take those of the only vector that fits each."""
    read = {name: np.asarray(item[:]) for name, item in vectors.items()}
    steps = {n: np.diff(v.astype(float)) for n, v in read.items() if v.dtype.kind in "iuf"}
    ordered = [n for n, step in steps.items() if len(step) and ((step > 0).all() or (step < 0).all())]
    named = [*names] if any(names) else []
    for size in () if named else values.shape:
        fitting = [name for name in ordered if len(read[name]) == size and name not in named]
        if len(fitting) != 1 or values.shape.count(size) > 1:
            break
        named += fitting
    if named:
        named += [""] * (len(values.shape) - len(named))
    return Content(f"{path.name}: {chosen}", values, tuple(named), read, _units(vectors))


def read_cloud(path: Path) -> np.ndarray:
    """Points ``(n, features)`` of a table of numbers: CSV with commas, semicolons, tabs or blanks.

    Raises:
        ValueError: It holds something else.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows = ((k, line) for k, line in enumerate(file) if line.strip() and line.lstrip()[0] != "#")
            skipped, first = next(rows, (0, ""))
        delimiter = delimiter_of(first) if any(c in first for c in ",;\t") else None
        header = not all(_is_number(cell.replace(",", ".")) for cell in first.split(delimiter))
        fits_in_memory("measure", str(path), 2 * path.stat().st_size)
        form = {"delimiter": delimiter, "skiprows": skipped + header, "ndmin": 2, "encoding": "utf-8-sig"}
        if delimiter == ";":  # as spreadsheets write it where numbers have decimal commas
            form["converters"] = lambda cell: float(cell.replace(",", "."))
        points = np.loadtxt(path, **form)
    except (ValueError, OSError, UnicodeError) as error:
        remedy = "a cloud of points has a point in every row, and numbers only"
        raise ValueError(f"{path} cannot be read as a cloud ({first_line(error)[:150]}): {remedy}.") from None
    if points.size == 0:
        raise ValueError(f"{path} holds no points.")
    return points


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
