"""Whatever holds numbers, as an array of NumPy or JAX, or as a file that is read a window at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import is_traced, require
from manifold_jax._sharding import flatten_from, mesh_of

POINTS = "points must be an array of numbers, or a function of one chart point"


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file, with its features flattened to ``(*grid.shape, f)``.

    Attributes:
        values: What a tuple of slices reads: a dataset of h5py, Zarr, netCDF or dask, a DataArray of xarray.
        shape: Shape with flattened features.
        dtype: Native type of NumPy of what is read.
    """

    values: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    def take(self, index: Sequence[np.ndarray], start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples ``(n_1, ..., n_d, f)`` at indices along every axis; only what lies together is read.

        Of the features those from ``start`` to ``stop`` are read, with the rows of the first feature axis
        that they lie in.
        """
        sizes, features = [len(i) for i in index], self.values.shape[len(index) :]
        stop = self.shape[-1] if stop is None else min(stop, self.shape[-1])
        row = math.prod(features[1:])
        rows = (slice(start // row, -(-stop // row)),) if features else ()
        first = start - start // row * row
        taken = np.empty((*sizes, stop - start), self.dtype)
        runs = list(product(*map(_runs, index)))
        for columns in runs:
            places, parts = zip(*columns, strict=True)
            block = np.asarray(self.values[(*parts, *rows)]).reshape(*(p.stop - p.start for p in parts), -1)
            block = block[..., first : first + stop - start]
            if len(runs) == 1:
                return block.astype(self.dtype, copy=False)
            taken[places] = block
        return taken

    def slabs(self) -> Any:
        """One sample of the first axis after the other, ``(1, ..., f)``."""
        rest = [np.arange(n) for n in self.shape[1:-1]]
        return (self.take([np.array([k]), *rest]) for k in range(self.shape[0]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it."""
        return self.take([np.arange(n) for n in self.shape[:-1]]).astype(dtype or self.dtype, copy=False)


def _runs(index: np.ndarray) -> list[tuple[slice, slice]]:
    """Runs of neighbours: their places in the result, and what is read for them."""
    runs = np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1)
    return [(slice(r[0], r[-1] + 1), slice(int(index[r[0]]), int(index[r[-1]]) + 1)) for r in runs]


class Cut(Stored):
    """The window of one block, with the features that are asked for."""

    def take(self, index: Any, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features from ``start`` to ``stop``, whatever the ``index``, which is that of the window."""
        del index
        return self.values[..., start:stop]

    def slabs(self) -> Any:
        """The window."""
        return (self.values,)


@dataclass(frozen=True)
class FileArray:
    """An array in a file by its place, which is opened where it is read: in another process, say.

    Attributes:
        path: The file: HDF5, or numbers that are mapped.
        changed: Its size and the time of its last change.
        shape: Shape of the array.
        dtype: Its type.
        name: Name of the variable of HDF5, or where in a mapped file it starts, and its strides.
    """

    path: str
    changed: tuple[int, int]
    shape: tuple[int, ...]
    dtype: np.dtype
    name: str | tuple[int, tuple[int, ...]]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(_opened(self)[index])


def _version(path: Any) -> tuple[int, int] | None:
    """Size and time of the last change of a file; None where there is none of that name."""
    if not isinstance(path, str) or not os.path.isfile(path):
        return None
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _opened(place: FileArray) -> Any:
    if _version(place.path) != place.changed:
        raise ValueError(f"{place.path} is not here, or was changed: every worker must see the same file.")
    if isinstance(place.name, str):
        return require("h5py", "report", "A file of HDF5").File(place.path, "r")[place.name]
    offset, strides = place.name
    return np.ndarray(place.shape, place.dtype, np.memmap(place.path, np.uint8, "r"), offset, strides)


def portable(values: Any) -> Any:
    """An array in a file so that another process can open it; any other, or changes of it, as it is."""
    if isinstance(values, Stored):
        return replace(values, values=portable(values.values))
    if isinstance(values, Rearranged):
        return Rearranged(portable(values.values), values.order, values.flipped)
    if isinstance(values, np.memmap) and values.mode != "c":
        if values.mode != "r":
            values.flush()
        root: Any = values
        while isinstance(root.base, np.ndarray):
            root = root.base
        start, first = (x.__array_interface__["data"][0] for x in (root, values))
        path, place = values.filename, (first - start + root.offset, values.strides)
    else:  # of h5py, where it has the name of a file
        path, place = getattr(getattr(values, "file", None), "filename", None), getattr(values, "name", "")
    path = str(path or "")
    changed = _version(path)
    if changed is None:
        return values
    return FileArray(os.path.realpath(path), changed, values.shape, values.dtype, place)


class Rearranged:
    """An array in a file with its axes in another order, and some of them turned around."""

    chunks = None  # it is read slice by slice

    def __init__(self, values: Any, order: Sequence[int], flipped: Sequence[int] = ()) -> None:
        self.values, self.order, self.flipped, self.dtype = values, order, flipped, values.dtype
        self.shape = tuple(values.shape[k] for k in order)
        self.name, self.file = getattr(values, "name", ""), getattr(values, "file", None)
        self.encoding = getattr(values, "encoding", {})

    def __getitem__(self, index: Any) -> np.ndarray:
        places: list[Any] = [slice(None)] * len(self.shape)
        for k, part in enumerate(ranges(index, self.shape)):
            n, turned = self.shape[k], k in self.flipped
            start, stop = (n - part.stop, n - part.start) if turned else (part.start, part.stop)
            places[self.order[k]] = slice(start, stop)
        read = np.transpose(np.asarray(self.values[tuple(places)]), self.order)
        return np.flip(read, tuple(self.flipped))


def ranges(index: Any, shape: Sequence[int]) -> list[range]:
    """What slices take of every axis; those that are not named are taken whole."""
    given = index if isinstance(index, tuple) else (index,)
    parts = [range(n)[part] for n, part in zip(shape, given, strict=False)]
    return parts + [range(n) for n in shape[len(parts) :]]


def file_of(values: Any) -> tuple[Any, ...] | None:
    """Name, size and time of the last change of the one file that holds an array, and where it lies in it."""
    place = getattr(getattr(values, "file", None), "filename", None)  # of h5py
    place = place or getattr(values, "encoding", {}).get("source")
    changed = _version(place)
    return None if changed is None else (os.path.realpath(str(place)), *changed, str(values.name))


def is_labelled(values: Any) -> bool:
    """Whether something is a DataArray of xarray."""
    return all(hasattr(values, name) for name in ("dims", "coords", "transpose"))


def as_real_array(
    caller: str, values: Any, dimension: int, flipped: Sequence[int], *, masked: bool = False
) -> tuple[Any, tuple]:
    """Points ``(*shape, f)`` of native numbers, and the shape of one point; files become :class:`Stored`.

    Taken are arrays of NumPy (of any byte order), JAX, xarray, h5py, Zarr and dask, tensors of PyTorch,
    everything with ``__array__`` or DLPack, and nested lists. ``flipped`` axes are turned around. Masked
    numbers are refused, or become NaN (``masked``).
    """
    if isinstance(values, np.ma.MaskedArray):
        missing = int(np.ma.count_masked(values))
        if missing and not masked:
            remedy = "give them values, or take missing='mask' where that is an option"
            raise ValueError(f"{caller}: points must all be there, got {missing} masked numbers: {remedy}.")
        mask, values = np.ma.getmaskarray(values), values.data
        if missing:
            values = np.where(mask, np.nan, values.astype(np.promote_types(values.dtype, np.float16)))
    file = _is_file(values)
    if not file:
        values = in_memory(caller, values)
    dtype = np.dtype(values.dtype).newbyteorder("=") if not is_traced(values) else values.dtype
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        remedy = "convert with .astype(float)"
        raise ValueError(f"{caller}: points must be real numbers, got {values.dtype}: {remedy}.")
    feature_shape = tuple(values.shape[dimension:])
    flat = (*values.shape[:dimension], int(np.prod(feature_shape, dtype=np.int64)))
    if file or (isinstance(values, np.memmap) and dtype != values.dtype):
        values = Rearranged(values, range(len(values.shape)), flipped) if flipped else values
        return Stored(values, flat, dtype), feature_shape
    if isinstance(values, np.ndarray):
        # A longdouble has no counterpart in JAX.
        values = values.astype(np.float64 if dtype.itemsize > 8 else dtype, copy=False)
        return np.flip(values.reshape(flat), tuple(flipped)), feature_shape
    values = values.reshape(flat) if mesh_of(values) is None else flatten_from(values, dimension)
    return jnp.flip(values, tuple(flipped)) if flipped else values, feature_shape


def _is_file(values: Any) -> bool:
    """Whether an array is read slice by slice."""
    if isinstance(values, np.ndarray | jax.Array) or not hasattr(values, "shape"):
        return False
    if is_labelled(values):  # opened from a file, or in chunks of dask
        return bool(values.encoding.get("source") or values.chunks)
    return hasattr(values, "chunks") or hasattr(values, "chunking")


def in_memory(caller: str, values: Any, wanted: str = POINTS) -> Any:
    """An array of NumPy or JAX."""
    if isinstance(values, np.ndarray | jax.Array) or is_traced(values):
        return values
    try:
        if hasattr(values, "detach"):  # a tensor of PyTorch, perhaps with gradients, on an accelerator
            values = values.detach().cpu()
            short = str(values.dtype) == "torch.bfloat16"  # which NumPy does not know
            return (values.float() if short else values).numpy()
        if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
            return np.from_dlpack(values)
        return np.asarray(values)
    except (TypeError, ValueError, BufferError) as error:
        raise ValueError(f"{caller}: {wanted}, got {type(values).__name__}: {error}.") from error
