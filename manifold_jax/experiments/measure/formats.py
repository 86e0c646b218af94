"""What files hold: arrays read where they lie, names and samples of their dimensions, clouds of points."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import fits_in_memory, require
from manifold_jax._files import LEAN, printable, reading_room, size_on_disk
from manifold_jax._programs import first_line
from manifold_jax.datasets import archives
from manifold_jax.datasets.folders import delimiter_of
from manifold_jax.experiments.measure import reader
from manifold_jax.geometry.sources import ranges

SECONDS, RATE = 5, 10e6  # seconds that reading any file may take, and bytes of it a second on top of them
PATIENCE = 4  # times that, by the clock: other programs run too

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


def kind_of(path: Path | str) -> str:
    """Whether a path holds an array, variables, images or a cloud of points; an address is one of Zarr.

    Raises:
        ValueError: It is of no kind that is read.
    """
    if isinstance(path, str):
        return "variables"
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
def opened(path: Path | str, variable: str | None = None) -> Iterator[Content]:
    """What a file holds, which stays open in this block.

    Raises:
        ValueError: It is damaged, or several variables are meant.
    """
    if isinstance(path, str):
        yield _read_address(path, variable)
        return
    suffix = ".zarr" if path.is_dir() else path.suffix.lower()
    with contextlib.ExitStack() as files:
        yield _READERS[suffix](path, variable, files)


@contextlib.contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Name the file in whatever NumPy and zipfile raise for a damaged one."""
    try:
        yield
    except reader.Choice as choice:
        raise ValueError(f"{path} {choice}.") from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)[:150]}).") from error


def _read_address(address: str, variable: str | None) -> Content:
    """An array in a Zarr store somewhere else, which this process reads: it takes as long as the way."""
    require("zarr", "zarr", "An address")
    require("fsspec", "zarr", "An address")
    with _naming(address):
        opened = reader.open_zarr(address, variable)
        samples = reader.samples_of(opened)
        units = {name: unit for name in samples if (unit := reader.unit_of(opened.vectors[name]))}
    return _content(PurePosixPath(address), opened.name, opened.values, opened.names, samples, units)


def _read_npy(path: Path, _: str | None, __: contextlib.ExitStack) -> Content:
    with _naming(path):
        return Content(path.name, np.lib.format.open_memmap(path, mode="r"), ())


def _read_npz(path: Path, variable: str | None, files: contextlib.ExitStack) -> Content:
    with _naming(path):
        archive = files.enter_context(zipfile.ZipFile(path))
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        shapes = {}
        for name, info in members.items():
            with contextlib.suppress(ValueError), archives.open_member(archive, info) as member:
                shape, _, dtype, _ = archives.npy_header(member.read(2**16))
                shapes[name] = (shape, dtype)
        chosen = reader.choose(shapes, variable)
        vectors = [name for name, (shape, _) in shapes.items() if len(shape) == 1 and name != chosen]

        def read(name: str) -> np.ndarray:
            fits_in_memory("measure", f"{name} in {path}", members[name].file_size)
            with archives.open_member(archive, members[name]) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

        return _content(path, chosen, read(chosen), (), {name: read(name) for name in vectors})


class StoredArray:
    """An array in a file that another process reads: a damaged file may end that one, never this.

    That process has 5 s for an answer (and 1 s for every 10 MB of the file and 50 MB that are read), and as
    much memory as :func:`read_dataset` allows; what takes more is a ValueError that names the file.
    """

    chunks = None  # it is read slice by slice

    def __init__(self, path: Path, kind: str, variable: str | None, files: contextlib.ExitStack) -> None:
        size = size_on_disk(path)
        self.path, self.seconds, self.room = path, SECONDS + size / RATE, reading_room(size)
        arguments = [kind, str(path.absolute()), json.dumps(variable), str(self.seconds), str(self.room)]
        self.process = files.enter_context(start_reader(arguments))
        files.callback(self.process.kill)
        with self._in_time():
            about = self._answer(kind)
            self.vectors = {
                name: self._numbers((count,), np.dtype(dtype)) for name, dtype, count in about["vectors"]
            }
        self.shape, self.dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        self.name, self.names, self.units = about["name"], about["names"], about["units"]
        self.encoding = {"source": str(path)}

    def __getitem__(self, index: Any) -> np.ndarray:
        parts = ranges(index, self.shape)
        shape = tuple(map(len, parts))
        size = math.prod(shape) * self.dtype.itemsize
        fits_in_memory("measure", f"numbers of {self.path}", size)
        with self._in_time(size):
            request = json.dumps([(part.start, part.stop) for part in parts])
            with contextlib.suppress(BrokenPipeError):  # it ended, and has no answer
                os.write(self.process.stdin.fileno(), f"{request}\n".encode())
            self._answer()
            return self._numbers(shape, self.dtype)

    @contextlib.contextmanager
    def _in_time(self, size: int = 0) -> Iterator[None]:
        """End the process if it takes too long, or if its answer is not read to the end."""
        timer = threading.Timer(PATIENCE * (self.seconds + size / reader.RATE), self.process.kill)
        timer.start()
        try:
            yield
        except BaseException:
            self.process.kill()
            raise
        finally:
            timer.cancel()

    def _answer(self, kind: str = "") -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer = json.loads(line)
        if "missing" in answer:
            require(answer["missing"], "zarr" if kind == "Zarr" else "report", f"A {kind} file")
        if "error" in answer:
            raise ValueError(printable(f"{self.path} {answer['error']}."))
        return answer

    def _numbers(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        numbers = np.empty(shape, dtype)
        rest: Any = numbers.reshape(-1).view(np.uint8).data
        while rest:
            count = self.process.stdout.readinto(rest)
            if not count:
                raise self._ended()
            rest = rest[count:]
        return numbers

    def _ended(self) -> ValueError:
        limits = f"takes more than {self.seconds:.0f} s or {self.room >> 20} MiB"
        return ValueError(f"{self.path} cannot be read: it is damaged, or {limits}.")


def start_reader(arguments: Sequence[str]) -> Any:
    """A process that answers requests for an array in a file; signals of the terminal do not reach it."""
    command, pipe = [sys.executable, "-P", reader.__file__, *arguments], subprocess.PIPE
    options: dict[str, Any] = {"pipesize": 2**20, "start_new_session": True, "env": os.environ | LEAN}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, **options)


def _read_apart(kind: str) -> Callable[..., Content]:
    def read(path: Path, variable: str | None, files: contextlib.ExitStack) -> Content:
        array = StoredArray(path, kind, variable, files)
        return _content(path, array.name, array, array.names, array.vectors, array.units)

    return read


_READERS: dict[str, Callable[..., Content]] = {
    ".npz": _read_npz,
    ".zarr": _read_apart("Zarr"),
    **dict.fromkeys((".nc", ".nc4", ".cdf", ".netcdf"), _read_apart("NetCDF")),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5"), _read_apart("HDF5")),
}
_KINDS = dict.fromkeys(_READERS, "variables") | dict.fromkeys((".csv", ".tsv", ".txt"), "cloud")
_KINDS[".npy"], _READERS[".npy"] = "array", _read_npy
"""What is in a file, by its suffix."""


def _content(
    path: PurePath,
    chosen: str,
    values: Any,
    names: Sequence[str],
    vectors: Vectors,
    units: Mapping[str, str] = NOTHING,
) -> Content:
    """An array; where it has no names, leading dimensions take those of the only vector that fits each."""
    steps = {n: np.diff(v.astype(float)) for n, v in vectors.items() if v.dtype.kind in "iuf"}
    ordered = [n for n, step in steps.items() if len(step) and ((step > 0).all() or (step < 0).all())]
    named = [*names] if any(names) else []
    for size in () if named else values.shape:
        fitting = [name for name in ordered if len(vectors[name]) == size and name not in named]
        if len(fitting) != 1 or values.shape.count(size) > 1:
            break
        named += fitting
    if named:
        named += [""] * (len(values.shape) - len(named))
    label = printable(f"{path.name}: {chosen}" if chosen else path.name)
    return Content(label, values, tuple(named), vectors, units)


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
