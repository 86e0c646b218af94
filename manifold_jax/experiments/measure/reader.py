"""Arrays in NetCDF, HDF5 and Zarr files, read for another process, which this one may crash instead of.

HDF5 loops or crashes on some damaged files, and what is compressed may be of any size. So this file is run as
a program, with limits on its time and memory: it opens a file, says what it holds, and answers lines of JSON,
a slice for every axis, with the numbers there. It imports nothing of the package, to start at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

RATE = 50e6  # bytes a second that are read at least
COPIES = 4  # of the numbers that are asked for, while they are decoded


class Choice(Exception):
    """The variable that is meant is not told."""


class Found(NamedTuple):
    """An array in an open file: its name there, names of its dimensions, and vectors that may be samples."""

    name: str
    values: Any
    names: list[str]
    vectors: Mapping[str, Any]


def choose(shapes: Mapping[str, tuple[tuple[int, ...], Any]], variable: str | None) -> str:
    """The variable that is asked for, or the only one with more than one dimension."""
    numbers = {n: s for n, (s, dtype) in shapes.items() if np.dtype(dtype).kind in "biuf" and s}
    if not numbers:
        raise Choice("holds no array of numbers")
    listed = ", ".join(f"{n} {s}" for n, s in list(numbers.items())[:20])
    if variable is not None:
        chosen = variable if variable in numbers else variable.strip("/")
        if chosen not in numbers:
            raise Choice(f"has no array of numbers {variable!r}, it holds {listed}")
        return chosen
    wide = [name for name, shape in numbers.items() if len(shape) > 1]
    if len(wide) != 1:
        raise Choice(f"holds {listed}: choose one with --variable")
    return wide[0]


def _open_netcdf(path: str, variable: str | None) -> Found:
    import xarray

    with open(path, "rb") as file:
        engine = "scipy" if file.read(3) == b"CDF" else "h5netcdf"
    # Times are numbers here, and slices are not kept.
    data = xarray.open_dataset(path, engine=engine, decode_times=False, decode_timedelta=False, cache=False)
    chosen = choose({str(n): (a.shape, a.dtype) for n, a in data.data_vars.items()}, variable)
    names = list(map(str, data[chosen].dims))
    vectors = {name: data[name] for name in names if name in data.variables and data[name].ndim == 1}
    return Found(chosen, data[chosen], names, vectors)


def _open_hdf5(path: str, variable: str | None) -> Found:
    import h5py

    arrays: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item

    h5py.File(path, "r").visititems(visit)
    chosen = choose({name: (item.shape or (), item.dtype) for name, item in arrays.items()}, variable)
    names, vectors = [], _vectors_near(chosen, arrays)
    for dimension in arrays[chosen].dims:
        scales = [scale for scale in dimension.values() if len(scale.shape or ()) == 1]
        names.append(scales[0].name.rpartition("/")[2] if scales else dimension.label)
        vectors |= dict.fromkeys(names[-1:], scales[0]) if scales else {}
    return Found(chosen, arrays[chosen], names, vectors)


def open_zarr(path: str, variable: str | None) -> Found:
    """The variable of a Zarr store, in a folder or at an address."""
    import zarr

    top = zarr.open(path, mode="r")
    if isinstance(top, zarr.Array):
        return Found("", top, _zarr_names(top), {})
    arrays = {name: item for name, item in top.members(max_depth=None) if isinstance(item, zarr.Array)}
    chosen = choose({name: (item.shape, item.dtype) for name, item in arrays.items()}, variable)
    return Found(chosen, arrays[chosen], _zarr_names(arrays[chosen]), _vectors_near(chosen, arrays))


def _zarr_names(array: Any) -> list[str]:
    """Names of dimensions as xarray writes them, in format 2 or 3."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return [str(name or "") for name in names]


def _vectors_near(chosen: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Vectors in the group of an array, by their names in it."""
    places = {name: name.rpartition("/") for name, item in arrays.items() if len(item.shape or ()) == 1}
    return {own: arrays[n] for n, (group, _, own) in places.items() if group == chosen.rpartition("/")[0]}


OPEN: dict[str, Callable[[str, str | None], Found]]
OPEN = {"NetCDF": _open_netcdf, "HDF5": _open_hdf5, "Zarr": open_zarr}


def samples_of(found: Found) -> dict[str, np.ndarray]:
    """Vectors of numbers that are no longer than the array."""
    most = max(found.values.shape)
    known = {n: v for n, v in found.vectors.items() if v.dtype.kind in "iuf" and 1 < v.shape[0] <= most}
    return {name: np.ascontiguousarray(vector[:]) for name, vector in known.items()}


def unit_of(item: Any) -> str:
    """The attribute ``units``, which other programs write as bytes or an array of one entry."""
    word = next(iter(np.ravel(item.attrs.get("units", ())).tolist()), "")
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def _limits(seconds: float, room: int) -> Callable[[int], None]:
    """A function that allows so many seconds and bytes from now on, and more for numbers that are read."""
    status = "/proc/self/statm"
    try:
        import resource
    except ImportError:
        return lambda size: None

    def allow(size: int) -> None:
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: time.process_time() + seconds + size / RATE}
        if os.path.exists(status):
            with open(status, encoding="ascii") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            limits[resource.RLIMIT_AS] = used + room + COPIES * size
        for kind, most in limits.items():
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (int(most) + 1, resource.getrlimit(kind)[1]))

    return allow


def main(kind: str, path: str, variable: str, seconds: str, room: str) -> None:
    """Say what is in a file, then answer requests until there are none."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(*numbers: np.ndarray, **about: Any) -> None:
        answers.write(json.dumps(about).encode() + b"\n")
        for array in numbers:
            answers.write(array.data)
        answers.flush()

    def refuse(error: Exception) -> None:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        say(error=words if isinstance(error, Choice) else f"cannot be read ({words[:150]})")

    allow = _limits(float(seconds), int(room))
    allow(0)
    try:
        name, values, names, vectors = opened = OPEN[kind](path, json.loads(variable))
        shape, dtype, samples = tuple(map(int, values.shape)), np.dtype(values.dtype), samples_of(opened)
        if names and len(names) != len(shape):
            raise ValueError(f"{len(names)} names of dimensions for the shape {shape}")
        units = {name: unit for name in samples if (unit := unit_of(vectors[name]))}
        kept = [(name, array.dtype.str, array.size) for name, array in samples.items()]
        about = {"name": name, "shape": shape, "dtype": dtype.str, "names": names}
        say(*samples.values(), vectors=kept, units=units, **about)
    except ImportError as error:
        return say(missing=error.name)
    except Exception as error:
        return refuse(error)
    for line in sys.stdin.buffer:
        parts = [range(*ends) for ends in json.loads(line)]
        wanted = tuple(map(len, parts))
        allow(int(np.prod(wanted, dtype=float)) * dtype.itemsize)
        try:
            read = np.asarray(values[tuple(slice(part.start, part.stop) for part in parts)])
            if read.shape != wanted:
                raise ValueError(f"{wanted} numbers were asked for, and {read.shape} came")
            say(np.ascontiguousarray(read, dtype))
        except Exception as error:
            refuse(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
